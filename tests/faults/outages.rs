//! Peers that go away and come back, and a kubelet that stands still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use rkubelet::internals::cri::Runtime;
use rkubelet_bed::bed::{Bed, same};
use rkubelet_bed::look::text;
use serde_json::{Value, json};

use crate::control::Proxy;
use crate::residue::some;
use crate::watched::Watched;
use crate::{Case, case, kubelet, long, parameter, quick};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(runtime_killed_and_started),
        case(kubelet_stands_still),
        case(stuck_kubelet_and_a_second_client),
        long(api_server_away),
    ]
}

const SLEEPER: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '10000']}]}";
const PROBED: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sleep, '10000']
  livenessProbe: {exec: {command: ['true']}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 1}
";

/// Pods that run, and which container and address each has.
async fn running(
    bed: &Bed,
    what: &str,
    count: usize,
    spec: &str,
) -> Result<BTreeMap<String, [String; 3]>> {
    let names: Vec<String> = (0..count).map(|number| format!("{what}-{number}")).collect();
    try_join_all(names.iter().map(|name| bed.pod(name, spec))).await?;
    let mut found = BTreeMap::new();
    for name in names {
        let pod = bed.until(&name, &["cond[Ready]=True"]).await?;
        found.insert(name, facts(&pod));
    }
    Ok(found)
}

fn facts(pod: &Value) -> [String; 3] {
    ["c[main].containerID", "c[main].state.running.startedAt", "status.podIP"]
        .map(|path| text(pod, path))
}

/// The pods are ready, and the same containers run as before.
async fn unchanged(bed: &Bed, before: &BTreeMap<String, [String; 3]>) -> Result<()> {
    for (name, wanted) in before {
        let pod = bed.until(name, &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
        same(name, facts(&pod), wanted.clone())?;
    }
    Ok(())
}

/// A new pod runs; how long that took.
async fn works(bed: &Bed, name: &str) -> Result<Duration> {
    let began = Instant::now();
    bed.pod(name, SLEEPER).await?;
    bed.until(name, &["cond[Ready]=True"]).await?;
    Ok(began.elapsed())
}

async fn runtime_killed_and_started(bed: Bed) -> Result<String> {
    let watched = Watched::pods(&bed).await?;
    let before = running(&bed, "run", 10, SLEEPER).await?;
    let starting: Vec<String> = (0..6).map(|number| format!("starting-{number}")).collect();
    let ending: Vec<String> = (0..4).map(|number| format!("ending-{number}")).collect();
    let made = running(&bed, "ending", 4, SLEEPER).await?;
    same("pods that are to end", made.len(), ending.len())?;
    try_join_all(starting.iter().map(|name| bed.pod(name, SLEEPER))).await?;
    try_join_all(ending.iter().map(|name| bed.delete(name, None))).await?;
    tokio::time::sleep(Duration::from_millis(400)).await;
    bed.cluster.run(&["containerd", "kill", "n1"]).await?;
    bed.cluster.run(&["containerd", "start", "n1"]).await?;
    let back = Instant::now();
    for name in &starting {
        let pod = bed.until(name, &["cond[Ready]=True"]).await?;
        // A container that the runtime had begun to start when it died has ended, for all that it
        // says afterwards.
        let restarts = text(&pod, "c[main].restartCount");
        ensure!(matches!(restarts.as_str(), "0" | "1"), "{name} was restarted {restarts} times");
    }
    for name in &ending {
        bed.until_gone("Pod", name).await?;
    }
    let took = back.elapsed();
    unchanged(&bed, &before).await?;
    watched.faultless()?;
    Ok(format!(
        "10 running, 6 starting, 4 ending: all as they should {:.1} s after its return",
        took.as_secs_f64()
    ))
}

async fn kubelet_stands_still(bed: Bed) -> Result<String> {
    let still = Duration::from_secs(if quick() { 20 } else { 60 });
    let plain = running(&bed, "plain", 5, SLEEPER).await?;
    let probed = running(&bed, "probed", 10, PROBED).await?;
    let dies = running(&bed, "dies", 1, SLEEPER).await?;
    let id = dies
        .get("dies-0")
        .map(|facts| facts[0].replace("containerd://", ""))
        .context("the pod that dies")?;
    // Stopped with calls under way: probes of ten pods each second.
    kubelet(&bed, "pause").await?;
    bed.pod("new", SLEEPER).await?;
    bed.delete("plain-4", None).await?;
    bed.cluster.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]).await?;
    tokio::time::sleep(still).await;
    kubelet(&bed, "cont").await?;
    let back = Instant::now();
    bed.until("new", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    bed.until(
        "dies-0",
        &[
            "cond[Ready]=True",
            "c[main].restartCount=1",
            "c[main].lastState.terminated.exitCode=137",
        ],
    )
    .await?;
    bed.until_gone("Pod", "plain-4").await?;
    let took = back.elapsed();
    // A probe that was late because nobody looked has not failed.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let plain = plain.into_iter().filter(|(name, _)| name != "plain-4").collect();
    unchanged(&bed, &plain).await?;
    unchanged(&bed, &probed).await?;
    bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    Ok(format!("{} s; {:.1} s later all was as it should", still.as_secs(), took.as_secs_f64()))
}

/// The kubelet's own calls all hang, its stream of events stays open: another client of the runtime
/// must not notice.
async fn stuck_kubelet_and_a_second_client(bed: Bed) -> Result<String> {
    let count = parameter("CLIENT_CALLS", if quick() { 150 } else { 700 });
    let cri = Proxy::cri(&bed.cluster);
    running(&bed, "run", 3, SLEEPER).await?;
    let settings = rkubelet::internals::cri::Config {
        runtime_endpoint: format!("unix://{}", bed.cluster.env("NODE_N1_CRI_SOCKET")),
        image_endpoint: None,
        request_timeout: Duration::from_secs(20),
    };
    let client = Runtime::new(
        &settings,
        rkubelet::internals::clock::Clock::system(),
        std::sync::Arc::new(|_, _, _| {}),
    )?;
    // A kubelet that works would remove a sandbox that is nobody's.
    kubelet(&bed, "stop").await?;
    let quiet = second_client(&client, "quiet", count).await?;
    kubelet(&bed, "start").await?;
    works(&bed, "before").await?;
    cri.rules(&[json!({"name": "all", "method": "[^G].*", "do": "hold"})]).await?;
    let until = Instant::now() + Duration::from_secs(3);
    let stuck = second_client(&client, "stuck", count)
        .await
        .context("while all calls of the kubelet hang")?;
    tokio::time::sleep_until(until.into()).await;
    let held = cri.held().await?.len();
    ensure!(held > 0, "no call of the kubelet was held");
    cri.rules(&[]).await?;
    let after = works(&bed, "after").await?;
    let said = format!(
        "{} events in {:.1} s quiet, {:.1} s with {held} calls of the kubelet held; a pod after {:.1} s",
        count * 2,
        quiet.as_secs_f64(),
        stuck.as_secs_f64(),
        after.as_secs_f64()
    );
    ensure!(stuck < quiet * 2 + Duration::from_secs(1), "the other client was slowed: {said}");
    Ok(said)
}

/// Another client makes and removes containers that never start: two events each.
async fn second_client(client: &Runtime, name: &str, count: usize) -> Result<Duration> {
    use rkubelet::internals::cri::v1;
    let metadata = v1::PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("second-{name}"),
        namespace: "second-client".to_owned(),
        attempt: 0,
    };
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(metadata),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..v1::PodSandboxConfig::default()
    };
    let message =
        v1::RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
    let (made, ()) = client.run_pod_sandbox(message, ()).await;
    let id = made.context("RunPodSandbox")?;
    let began = Instant::now();
    for number in 0..count {
        let image = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1".to_owned();
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: format!("c{number}"), attempt: 0 }),
            image: Some(v1::ImageSpec { image, ..v1::ImageSpec::default() }),
            command: vec!["true".to_owned()],
            linux: Some(v1::LinuxContainerConfig::default()),
            ..v1::ContainerConfig::default()
        };
        let message = v1::CreateContainerRequest {
            pod_sandbox_id: id.to_string(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let (made, ()) = client.create_container(message, ()).await;
        let container = made.with_context(|| format!("CreateContainer {number}"))?;
        client
            .remove_container(v1::RemoveContainerRequest { container_id: container.to_string() })
            .await
            .with_context(|| format!("RemoveContainer {number}"))?;
    }
    let took = began.elapsed();
    client.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.to_string() }).await?;
    client
        .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_string() })
        .await?;
    Ok(took)
}

async fn api_server_away(bed: Bed) -> Result<String> {
    let away = Duration::from_secs(u64::try_from(parameter("AWAY_SECONDS", 300))?);
    let before = running(&bed, "run", 20, PROBED).await?;
    let dies = running(&bed, "dies", 1, SLEEPER).await?;
    let id = dies
        .get("dies-0")
        .map(|facts| facts[0].replace("containerd://", ""))
        .context("the pod that dies")?;
    bed.cluster.run(&["apiserver", "kill"]).await?;
    let since = Instant::now();
    bed.cluster.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]).await?;
    let filter = format!("labels.\"io.kubernetes.pod.namespace\"=={}", bed.name);
    tokio::time::sleep(away.saturating_sub(since.elapsed())).await;
    let there = bed.cluster.ctr(&["containers", "list", "-q", &filter]).await?;
    bed.cluster.run(&["apiserver", "start"]).await?;
    let back = Instant::now();
    bed.until(
        "dies-0",
        &[
            "cond[Ready]=True",
            "c[main].restartCount=1",
            "c[main].lastState.terminated.exitCode=137",
        ],
    )
    .await?;
    unchanged(&bed, &before).await?;
    let mut lost = Vec::new();
    for [id, _, _] in before.values() {
        let id = id.replace("containerd://", "");
        if !there.contains(&id) {
            lost.push(id);
        }
    }
    ensure!(lost.is_empty(), "gone while the API server was away: {}", some(&lost));
    bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    let took = back.elapsed();
    works(&bed, "after").await?;
    Ok(format!(
        "{} s; {:.1} s after its return all was as it should",
        away.as_secs(),
        took.as_secs_f64()
    ))
}
