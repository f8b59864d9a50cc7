//! The resize of a running pod: its cgroup first where that grows, then its containers, those that
//! shrink first, then its cgroup where that shrinks. Doing it again changes nothing, so a failure
//! half-way is simply repeated.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tracing::{debug, info};

use super::scope::Scope;
use super::users::user_ids;
use super::{ActionError, Context, Effect, Outcome};
use crate::cri::v1;
use crate::model::{ContainerId, ObservedContainer, Pod, SandboxId, error_chain, pod};
use crate::pods::request;
use crate::resources::allocation::{Requirements, needs_restart, requirements};
use crate::resources::list::{CPU, MEMORY, Quantities};

/// The resize of one container.
#[derive(Debug)]
struct Change {
    id: ContainerId,
    spec: api::Container,
    has: Requirements,
    wants: Requirements,
}

impl Change {
    fn shrinks(&self) -> bool {
        self.wants.memory_limit < self.has.memory_limit
            || self.wants.cpu_request < self.has.cpu_request
    }

    /// The lower memory limit that the change sets, if it lowers the limit.
    fn lower_memory_limit(&self) -> Option<i64> {
        let limit = self.wants.memory_limit;
        let is_lower = limit != 0 && (self.has.memory_limit == 0 || limit < self.has.memory_limit);
        is_lower.then_some(limit)
    }
}

/// Resizes the pod's cgroup and its running containers from `given` to what the spec says. Without
/// a sandbox nothing runs, and the cgroup is all there is.
pub(super) async fn resize(
    scope: Scope<'_>,
    sandbox: Option<SandboxId>,
    given: BTreeMap<ContainerId, Requirements>,
) -> Effect {
    let pod = &scope.context.pod;
    let mut mutation = scope.begin_mutation();
    let changes = changes(&given, scope.context);
    // The containers' states stay the same: unless named here they would not be read again.
    if let Some(sandbox) = &sandbox {
        for change in &changes {
            mutation.touched_container(&change.id, sandbox);
        }
    }

    let widest = widest(pod, &given, scope.context);
    let done = resize_in_order(scope, sandbox.as_ref(), changes, &widest).await;
    mutation.end();
    let outcome = done.map(|containers| Outcome::Resized { containers, pod: requirements(pod) });
    Effect::mutated(outcome)
}

async fn resize_in_order(
    scope: Scope<'_>,
    sandbox: Option<&SandboxId>,
    mut changes: Vec<Change>,
    widest: &Pod,
) -> Result<Vec<(ContainerId, Requirements)>, ActionError> {
    check_memory(scope, &changes).await?;
    if let Some(sandbox) = sandbox {
        resize_sandbox(scope, sandbox).await?;
    }
    resize_cgroup(scope, widest).await?;
    changes.sort_by_key(|change| !change.shrinks());
    for change in &changes {
        resize_container(scope, change).await?;
    }
    resize_cgroup(scope, &scope.context.pod).await?;
    Ok(changes.into_iter().map(|change| (change.id, change.wants)).collect())
}

async fn resize_container(scope: Scope<'_>, change: &Change) -> Result<(), ActionError> {
    let oom = scope.oom_score_adj(&change.spec);
    let settings = &scope.deps.settings.spec;
    let linux = request::linux_resources(&scope.context.pod, &change.spec, oom, settings)
        .map_err(|error| failed(error.message))?;
    let request = v1::UpdateContainerResourcesRequest {
        container_id: change.id.as_str().to_owned(),
        linux: Some(linux),
        ..v1::UpdateContainerResourcesRequest::default()
    };
    let updated = scope.deps.runtime.cri.update_container_resources(request).await;
    updated.map_err(|error| failed(error.to_string()))?;
    info!(container = change.spec.name, wants = ?change.wants, "resized");
    Ok(())
}

/// Refuses a memory limit below what is in use: the container would be killed, or the resize fail
/// half-way.
async fn check_memory(scope: Scope<'_>, changes: &[Change]) -> Result<(), ActionError> {
    let mut refused = Vec::new();
    for change in changes {
        let Some(limit) = change.lower_memory_limit() else { continue };
        let name = &change.spec.name;
        let request = v1::ContainerStatsRequest { container_id: change.id.as_str().to_owned() };
        let stats = scope.deps.runtime.cri.container_stats(request).await;
        let usage = stats.ok().and_then(|answer| answer.stats?.memory?.usage_bytes);
        match usage.map(|usage| usage.value) {
            None => refused.push(format!("missing container {name:?} memory usage")),
            Some(usage) if usage >= u64::try_from(limit).unwrap_or(u64::MAX) => {
                refused.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({usage})"
                ));
            }
            Some(_) => {}
        }
    }

    match refused.as_slice() {
        [] => Ok(()),
        [one] => Err(failed(format!("cannot decrease memory limits: {one}"))),
        several => Err(failed(format!("cannot decrease memory limits: [{}]", several.join(", ")))),
    }
}

/// Passes the pod's new resources to runtimes whose sandbox is a virtual machine. Others do not
/// know the call.
async fn resize_sandbox(scope: Scope<'_>, sandbox: &SandboxId) -> Result<(), ActionError> {
    let user_ids = user_ids(scope).await?;
    let linux = scope.sandbox_request(0, user_ids)?.config.linux.unwrap_or_default();
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.as_str().to_owned(),
        overhead: linux.overhead,
        resources: linux.resources,
    };
    match scope.deps.runtime.cri.update_pod_sandbox_resources(request).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_unimplemented() => {
            debug!("the runtime does not resize sandboxes");
            Ok(())
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn resize_cgroup(scope: Scope<'_>, pod: &Pod) -> Result<(), ActionError> {
    match &scope.deps.resources.cgroups {
        Some(cgroups) => cgroups.resize(pod).await.map_err(|error| failed(error_chain(&error))),
        None => Ok(()),
    }
}

fn failed(message: String) -> ActionError {
    ActionError::new("Error", message)
}

/// The running containers whose resources differ from `given`.
fn changes(given: &BTreeMap<ContainerId, Requirements>, context: &Context) -> Vec<Change> {
    let change = |container: &ObservedContainer| {
        let has = *given.get(&container.id)?;
        let (_, spec) = pod::find_container(&context.pod, &container.name)?;
        let wants = Requirements::of(&context.pod, &spec);
        // A container that has to be started anew gets its resources with that start.
        let policies = spec.resize_policy.as_deref().unwrap_or_default();
        let is_update = has != wants && !needs_restart(policies, has, wants);
        (container.state.is_running() && is_update).then(|| Change {
            id: container.id.clone(),
            spec: spec.into_owned(),
            has,
            wants,
        })
    };
    context.observed.containers.iter().filter_map(change).collect()
}

/// The pod with the larger of the old and the new resources of each container: its cgroup must hold
/// both during the resize.
fn widest(pod: &Pod, given: &BTreeMap<ContainerId, Requirements>, context: &Context) -> Pod {
    let mut widest = pod.clone();
    let Some(spec) = &mut widest.spec else { return widest };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let running =
            context.observed.latest(&container.name).filter(|latest| latest.state.is_running());
        let Some(has) = running.and_then(|latest| given.get(&latest.id)) else {
            continue;
        };
        let both = has.widest(Requirements::of(pod, container));
        let own = container.resources.get_or_insert_default();
        let set = |list: &mut Option<Quantities>, name: &str, amount: i64, unit: &str| {
            let list = list.get_or_insert_default();
            if amount > 0 {
                list.insert(name.to_owned(), Quantity(format!("{amount}{unit}")));
            } else {
                list.remove(name);
            }
        };
        set(&mut own.requests, CPU, both.cpu_request, "m");
        set(&mut own.limits, CPU, both.cpu_limit, "m");
        set(&mut own.requests, MEMORY, both.memory_request, "");
        set(&mut own.limits, MEMORY, both.memory_limit, "");
    }
    widest
}
