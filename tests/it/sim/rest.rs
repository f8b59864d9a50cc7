//! What a world at rest looks like: every pod as it should be, told so, and nothing else.

use std::collections::BTreeSet;

use rkubelet::internals::cri::fake::FakeContainer;
use rkubelet::internals::cri::v1::ContainerState;
use serde_json::Value;

use super::laws::{brief, pod_uid};
use super::play::{PODS, World};
use super::pods::{ContainerPlan, Kind, PodPlan};

/// Whether every pod that is wanted is as it should be.
pub(super) fn is_settled(world: &World) -> Result<(), String> {
    let containers = world.runtime.containers();
    let mut wanted = BTreeSet::new();
    for (name, plan) in &world.wanted {
        let api_name = if plan.is_static { format!("{name}-n1") } else { name.clone() };
        let object = world
            .api
            .get(PODS, "d", &api_name)
            .ok_or_else(|| format!("{api_name} is not in the API"))?;
        let uid = if plan.is_static {
            object["metadata"]["annotations"]["kubernetes.io/config.mirror"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        } else {
            plan.uid.clone()
        };
        wanted.insert(uid.clone());
        let own: Vec<&FakeContainer> =
            containers.iter().filter(|container| pod_uid(container) == uid).collect();
        check_pod(world, plan, &uid, &object, &own).map_err(|why| {
            let runs: Vec<String> = own
                .iter()
                .map(|container| format!("{} {:?}", container.name(), container.state))
                .collect();
            format!(
                "{api_name}: {why}; it is told to be {}; there are {runs:?}",
                brief(&object["status"])
            )
        })?;
    }
    for container in &containers {
        if container.state != ContainerState::ContainerRunning {
            continue;
        }
        if !wanted.contains(pod_uid(container)) {
            return Err(format!("{} runs in a pod that nobody wants", container.name()));
        }
        if world.judge.is_being_stopped(container) {
            return Err(format!("{} has been asked to end", container.name()));
        }
    }
    let objects = world.api.list(PODS).len();
    if objects != world.wanted.len() {
        return Err(format!("{objects} pods in the API, {} are wanted", world.wanted.len()));
    }
    Ok(())
}

fn check_pod(
    world: &World,
    plan: &PodPlan,
    uid: &str,
    object: &Value,
    own: &[&FakeContainer],
) -> Result<(), String> {
    let running = |name: &str| {
        own.iter()
            .filter(|found| found.name() == name && found.state == ContainerState::ContainerRunning)
            .count()
    };
    let phase = object["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        if let Some(container) =
            own.iter().find(|found| found.state == ContainerState::ContainerRunning)
        {
            return Err(format!("{} runs", container.name()));
        }
        let may_fail = plan.policy == "Never";
        return if plan.policy == "Always" || (phase == "Failed" && !may_fail) {
            Err(format!("a pod with policy {} is {phase}", plan.policy))
        } else {
            Ok(())
        };
    }
    if phase != "Running" {
        return Err(format!("the phase is {phase}"));
    }
    if plan.is_finite() {
        return Err("it has not ended".to_owned());
    }
    let sandboxes = world.runtime.sandboxes();
    let ready = sandboxes.iter().filter(|sandbox| {
        sandbox.ready
            && sandbox.config.metadata.as_ref().is_some_and(|metadata| metadata.uid == uid)
    });
    if ready.count() != 1 {
        return Err("it has not one sandbox".to_owned());
    }
    for container in plan.containers.iter().filter(|container| container.kind != Kind::Init) {
        check_container(plan, container, running(&container.name), object, own)?;
    }
    let all_run = plan.mains().all(|container| running(&container.name) == 1);
    let ready = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "Ready");
    if all_run && ready.is_none_or(|ready| ready["status"] != "True") {
        return Err("it is not Ready".to_owned());
    }
    for (volume, name) in &plan.config_maps {
        let dir = PodPlan::volume_dir(&world.home.join("root"), uid)
            .join("kubernetes.io~configmap")
            .join(volume);
        let wanted =
            world.api.get("api/v1/configmaps", "d", name).map(|map| map["data"]["k"].clone());
        let found = std::fs::read_to_string(dir.join("k")).ok();
        if wanted.as_ref().and_then(Value::as_str) != found.as_deref() {
            return Err(format!("the file of {name} says {found:?}, not {wanted:?}"));
        }
    }
    Ok(())
}

/// Holds what one container does against its status and its spec; `count` of it run.
fn check_container(
    plan: &PodPlan,
    container: &ContainerPlan,
    count: usize,
    object: &Value,
    own: &[&FakeContainer],
) -> Result<(), String> {
    let is_main = World::is_main(plan, &container.name);
    let list = if is_main { "containerStatuses" } else { "initContainerStatuses" };
    let status = object["status"][list]
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| s["name"] == *container.name);
    let may_have_ended = match plan.policy {
        "Never" => container.kind == Kind::Main,
        // The world may have ended even one that would run for ever.
        "OnFailure" => {
            is_main && status.is_some_and(|status| status["state"]["terminated"]["exitCode"] == 0)
        }
        _ => false,
    };
    if count > 1 || (count == 0 && !may_have_ended) {
        return Err(format!("{} runs {count} times", container.name));
    }
    let told = status.is_some_and(|status| !status["state"]["running"].is_null());
    if told != (count == 1) {
        return Err(format!("{} runs {count} times and is told otherwise", container.name));
    }
    let id = own.iter().find(|found| {
        found.name() == container.name && found.state == ContainerState::ContainerRunning
    });
    let list = if is_main { "containers" } else { "initContainers" };
    let spec = object["spec"][list]
        .as_array()
        .into_iter()
        .flatten()
        .find(|spec| spec["name"] == *container.name);
    let runs =
        id.and_then(|id| id.config.image.as_ref()).map(|image| image.user_specified_image.as_str());
    if let (Some(runs), Some(wanted)) = (runs, spec.and_then(|spec| spec["image"].as_str()))
        && !plan.is_static
        && runs != wanted
    {
        return Err(format!("{} runs {runs}, not {wanted}", container.name));
    }
    let told_id = status.and_then(|status| status["containerID"].as_str()).unwrap_or_default();
    if id.is_some_and(|id| told_id != format!("containerd://{}", id.id)) {
        return Err(format!("{} is told to be {told_id}", container.name));
    }
    Ok(())
}

/// Whether nothing is left.
pub(super) fn is_empty(world: &World) -> Result<(), String> {
    let mut left: Vec<String> = Vec::new();
    left.extend(
        world.runtime.containers().iter().map(|found| format!("container {}", found.name())),
    );
    left.extend(world.runtime.sandboxes().iter().map(|found| format!("sandbox {}", found.id)));
    left.extend(
        world.api.list(PODS).iter().map(|object| format!("pod {}", object["metadata"]["name"])),
    );
    left.extend(world.mounter.mounts().keys().map(|path| format!("mount {}", path.display())));
    for folder in ["root/pods", "logs", "links"] {
        let entries = std::fs::read_dir(world.home.join(folder)).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    if left.is_empty() { Ok(()) } else { Err(format!("left: {}", left.join(", "))) }
}
