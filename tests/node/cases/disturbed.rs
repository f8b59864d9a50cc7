//! What must not happen to pods when the kubelet, containerd or the API server goes away. One case
//! at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::bed::{Bed, as_value, grace, same};
use crate::look::text;
use crate::registry::Registry;
use crate::{Case, beyond, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        beyond(kubelet_killed_with_20_pods_running_and_5_starting),
        case(kubelet_ends_promptly_and_containers_survive),
        case(kubelet_is_healthy_as_soon_as_it_answers),
        case(static_pod_stays_ready_when_the_kubelet_starts),
        case(pod_ends_while_the_kubelet_is_down),
        case(deleted_while_the_kubelet_is_down),
        case(deleted_by_force_while_the_kubelet_is_down),
        case(kubelet_killed_during_a_deletion),
        case(containerd_killed_and_started),
        case(image_pulled_with_a_plugin),
        case(api_server_away_for_60_s_while_a_pod_dies),
        case(nothing_is_left_on_the_node),
    ]
}

/// The API that plug-ins speak.
const PLUGIN_API: &str = "credentialprovider.kubelet.k8s.io/v1";
const SLEEPER: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}";
const PROBED: &str = "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000'], readinessProbe: {exec: {command: ['true']}, periodSeconds: 1}}]}";

/// Watches the namespace's pods and notes each that was ready and then is not, though nobody
/// deleted it.
struct Flips {
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Flips {
    fn watch(bed: &Bed) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        let pods = bed.api("Pod");
        let task = tokio::task::spawn(async move {
            let mut ready = BTreeSet::new();
            let mut versions = watcher(pods, watcher::Config::default())
                .default_backoff()
                .applied_objects()
                .boxed();
            while let Some(version) = versions.next().await {
                let Ok(pod) = version.map(|pod| as_value(&pod)) else { continue };
                let uid = text(&pod, "metadata.uid");
                let is_ready = text(&pod, "cond[Ready]") == "True";
                if is_ready {
                    ready.insert(uid);
                } else if ready.remove(&uid) && text(&pod, "metadata.deletionTimestamp").is_empty()
                {
                    notes.lock().push(format!(
                        "{}: {}",
                        text(&pod, "metadata.name"),
                        text(&pod, "status.conditions")
                    ));
                }
            }
        });
        Self { seen, task }
    }

    fn end(self) -> Result<()> {
        self.task.abort();
        let seen = self.seen.lock().clone();
        ensure!(seen.is_empty(), "ready pods became unready: {}", seen.join("\n"));
        Ok(())
    }
}

/// Containers and sandboxes of the namespace that run, by containerd's own account.
async fn running(bed: &Bed) -> Result<BTreeSet<String>> {
    let filter = format!("labels.\"io.kubernetes.pod.namespace\"=={}", bed.name);
    let ours = bed.cluster.ctr(&["containers", "list", "-q", &filter]).await?;
    let tasks = bed.cluster.ctr(&["tasks", "list"]).await?;
    let running: BTreeSet<&str> = tasks
        .lines()
        .filter(|line| line.contains("RUNNING"))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    Ok(ours.lines().map(str::trim).filter(|id| running.contains(id)).map(str::to_owned).collect())
}

/// Waits until nothing of the namespace runs on the node.
async fn until_nothing_runs(bed: &Bed) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = running(bed).await?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "after 60 s there still run {left:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn kubelet(bed: &Bed, verb: &str) -> Result<()> {
    bed.cluster.run(&["kubelet", verb, "n1"]).await.map(drop)
}

/// Waits until the kubelet that was started works: a new pod runs.
async fn until_it_works(bed: &Bed, name: &str) -> Result<()> {
    bed.pod(name, SLEEPER).await?;
    bed.until(name, &["cond[Ready]=True"]).await?;
    Ok(())
}

async fn kubelet_killed_with_20_pods_running_and_5_starting(bed: Bed) -> Result<()> {
    for number in 0..20 {
        bed.pod(&format!("run-{number}"), if number % 2 == 0 { SLEEPER } else { PROBED }).await?;
    }
    let mut before = BTreeMap::new();
    for number in 0..20 {
        let name = format!("run-{number}");
        let pod = bed.until(&name, &["cond[Ready]=True"]).await?;
        let facts = ["c[main].containerID", "c[main].state.running.startedAt", "status.podIP"]
            .map(|path| text(&pod, path));
        before.insert(name, facts);
    }
    let flips = Flips::watch(&bed);
    for number in 0..5 {
        bed.pod(&format!("start-{number}"), SLEEPER).await?;
    }
    kubelet(&bed, "kill").await?;
    kubelet(&bed, "start").await?;
    for number in 0..5 {
        bed.until(&format!("start-{number}"), &["cond[Ready]=True"]).await?;
    }
    until_it_works(&bed, "after").await?;
    for (name, facts) in before {
        let pod = bed.until(&name, &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
        let now = ["c[main].containerID", "c[main].state.running.startedAt", "status.podIP"]
            .map(|path| text(&pod, path));
        same(&name, now, facts)?;
    }
    same("what runs: 26 pods of a sandbox and a container each", running(&bed).await?.len(), 52)?;
    flips.end()
}

async fn kubelet_ends_promptly_and_containers_survive(bed: Bed) -> Result<()> {
    bed.pod("p", PROBED).await?;
    let before = bed.until("p", &["cond[Ready]=True"]).await?;
    let flips = Flips::watch(&bed);
    let began = Instant::now();
    kubelet(&bed, "stop").await?;
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "SIGTERM was answered only after {:?}",
        began.elapsed()
    );
    same("what runs without a kubelet", running(&bed).await?.len(), 2)?;
    kubelet(&bed, "start").await?;
    until_it_works(&bed, "after").await?;
    let id = format!("c[main].containerID={}", text(&before, "c[main].containerID"));
    bed.until("p", &["cond[Ready]=True", "c[main].restartCount=0", &id]).await?;
    flips.end()
}

/// A plug-in of the node has the credentials: pods need no pull secret.
async fn image_pulled_with_a_plugin(bed: Bed) -> Result<()> {
    const FOLDER: &str = "/var/lib/credential-providers";

    let registry = Registry::start(&bed).await?;
    let image = format!("{}/private/tiny:1", registry.address);
    let folder = bed.cluster.on_node(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let auth = format!(r#"{{"{}":{{"username":"me","password":"secret"}}}}"#, registry.address);
    let answer = format!(
        r#"{{"kind":"CredentialProviderResponse","apiVersion":"{PLUGIN_API}","cacheKeyType":"Registry","auth":{auth}}}"#
    );
    let program = folder.join("plug");
    let script = format!(
        "#!/bin/sh\ncat >{FOLDER}/asked\n[ \"$1$GREETING\" = onehello ] && echo '{answer}'\n"
    );
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n\
         - {{name: plug, apiVersion: {PLUGIN_API}, matchImages: ['{}'], defaultCacheDuration: 1m,\n   \
         args: [one], env: [{{name: GREETING, value: hello}}]}}\n",
        registry.address
    );
    std::fs::write(folder.join("config.yaml"), config)?;

    let run = Path::new(bed.cluster.env("KUBECONFIG")).parent().context("no folder")?;
    let flags = run.join("n1/kubelet-flags");
    let before = std::fs::read_to_string(&flags)?;
    let more = format!(
        "{} --image-credential-provider-config={FOLDER}/config.yaml \
         --image-credential-provider-bin-dir={FOLDER}\n",
        before.trim_end()
    );
    std::fs::write(&flags, more)?;
    let pulled = async {
        kubelet(&bed, "restart").await?;
        bed.pod("p", &format!("containers: [{{name: main, image: '{image}'}}]")).await?;
        bed.until("p", &["cond[Ready]=True"]).await
    };
    let pulled = pulled.await;
    std::fs::write(&flags, before)?;
    kubelet(&bed, "restart").await?;
    pulled?;

    let asked = std::fs::read_to_string(folder.join("asked"))?;
    let asked: serde_json::Value = serde_json::from_str(&asked)?;
    let name = format!("{}/private/tiny", registry.address);
    same("the image that the plug-in was asked for", text(&asked, "image"), name)?;
    let kind = "CredentialProviderRequest".to_owned();
    same("the kind of the request", text(&asked, "kind"), kind)
}

/// From its first answer on, even while the runtime has not been read yet: as upstream's, whose
/// watchdogs rely on it.
async fn kubelet_is_healthy_as_soon_as_it_answers(bed: Bed) -> Result<()> {
    let ask =
        "exec 3<>/dev/tcp/127.0.0.1/10248 && printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 && cat <&3";
    for _ in 0..5 {
        kubelet(&bed, "restart").await?;
        let (began, mut answers) = (Instant::now(), 0);
        while answers < 20 {
            ensure!(began.elapsed() < Duration::from_secs(20), "nobody answers on port 10248");
            if let Ok(answer) = bed.cluster.node_exec(&["bash", "-c", ask]).await {
                ensure!(answer.starts_with("HTTP/1.0 200"), "answer {answers} is {answer:?}");
                answers += 1;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// What its probes had found is in its mirror only, which the kubelet may see after the file.
async fn static_pod_stays_ready_when_the_kubelet_starts(bed: Bed) -> Result<()> {
    let file = bed.cluster.on_node(&format!("/etc/kubernetes/manifests/{}.yaml", bed.name));
    let probe = "{exec: {command: ['true']}, periodSeconds: 1, initialDelaySeconds: 1}";
    let main = format!(
        "{{name: main, image: registry.k8s.io/e2e-test-images/busybox:1.37.0-1, command: [sleep, '1000'], \
         startupProbe: {probe}, readinessProbe: {probe}}}"
    );
    let namespace = &bed.name;
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: probed, namespace: {namespace}}}\n\
         spec: {{terminationGracePeriodSeconds: 1, containers: [{main}]}}\n"
    );
    std::fs::write(&file, pod)?;
    let outcome = async {
        bed.until("probed-n1", &["cond[Ready]=True", "c[main].started=true"]).await?;
        // A container that has only just started counts as starting even for upstream's kubelet.
        tokio::time::sleep(Duration::from_secs(11)).await;
        for _ in 0..3 {
            let wants = [
                "cond[Ready]=True",
                "c[main].ready=true",
                "c[main].started=true",
                "c[main].restartCount=0",
            ];
            let stays = bed.stays("probed-n1", 5, &wants);
            let restarts = kubelet(&bed, "restart");
            let (stayed, restarted) = tokio::join!(stays, restarts);
            restarted.and(stayed)?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    std::fs::remove_file(&file)?;
    bed.until_gone("Pod", "probed-n1").await?;
    outcome
}

async fn pod_ends_while_the_kubelet_is_down(bed: Bed) -> Result<()> {
    bed.pod(
        "done",
        "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [sh, -c, 'sleep 4; exit 6']}]}",
    )
    .await?;
    bed.pod("again", "{terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sh, -c, 'sleep 5; exit 6']}]}")
        .await?;
    bed.until("done", &["c[main].state.running.startedAt=?*"]).await?;
    let again = bed.until("again", &["c[main].state.running.startedAt=?*"]).await?;
    kubelet(&bed, "kill").await?;
    let id = text(&again, "c[main].containerID").replace("containerd://", "");
    let deadline = Instant::now() + Duration::from_secs(30);
    while running(&bed).await?.contains(&id) {
        ensure!(Instant::now() < deadline, "the container did not end by itself");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    kubelet(&bed, "start").await?;
    bed.until(
        "done",
        &["phase=Failed", "c[main].state.terminated.exitCode=6", "c[main].restartCount=0"],
    )
    .await?;
    bed.until("again", &["c[main].restartCount>0", "c[main].lastState.terminated.exitCode=6"])
        .await?;
    Ok(())
}

async fn deleted_while_the_kubelet_is_down(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    kubelet(&bed, "kill").await?;
    bed.delete("p", None).await?;
    kubelet(&bed, "start").await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_runs(&bed).await
}

async fn deleted_by_force_while_the_kubelet_is_down(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    let pod = bed.until("p", &["cond[Ready]=True"]).await?;
    kubelet(&bed, "kill").await?;
    bed.api("Pod").delete("p", &grace(0)).await?;
    bed.until_gone("Pod", "p").await?;
    kubelet(&bed, "start").await?;
    until_nothing_runs(&bed).await?;
    let folder =
        bed.cluster.on_node(&format!("/var/lib/kubelet/pods/{}", text(&pod, "metadata.uid")));
    let deadline = Instant::now() + Duration::from_secs(60);
    while folder.exists() {
        ensure!(Instant::now() < deadline, "{} is still there after 60 s", folder.display());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

async fn kubelet_killed_during_a_deletion(bed: Bed) -> Result<()> {
    let spec = "{terminationGracePeriodSeconds: 8, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.delete("p", None).await?;
    bed.event("p", "Killing", "Stopping container main").await?;
    kubelet(&bed, "kill").await?;
    kubelet(&bed, "start").await?;
    bed.until_gone("Pod", "p").await?;
    until_nothing_runs(&bed).await
}

async fn containerd_killed_and_started(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    let before = bed.until("p", &["cond[Ready]=True"]).await?;
    bed.cluster.run(&["containerd", "kill", "n1"]).await?;
    bed.cluster.run(&["containerd", "start", "n1"]).await?;
    until_it_works(&bed, "after").await?;
    let id = format!("c[main].containerID={}", text(&before, "c[main].containerID"));
    bed.until("p", &["cond[Ready]=True", "c[main].restartCount=0", &id]).await?;
    bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    // What ends afterwards is seen.
    let id = text(&before, "c[main].containerID").replace("containerd://", "");
    bed.cluster.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]).await?;
    bed.until(
        "p",
        &[
            "c[main].restartCount=1",
            "cond[Ready]=True",
            "c[main].lastState.terminated.exitCode=137",
        ],
    )
    .await?;
    bed.delete("p", None).await?;
    bed.until_gone("Pod", "p").await
}

async fn api_server_away_for_60_s_while_a_pod_dies(bed: Bed) -> Result<()> {
    bed.pod("p", SLEEPER).await?;
    bed.pod("other", PROBED).await?;
    let before = bed.until("p", &["cond[Ready]=True"]).await?;
    bed.until("other", &["cond[Ready]=True"]).await?;
    let flips = Flips::watch(&bed);
    let id = text(&before, "c[main].containerID").replace("containerd://", "");
    let kept = running(&bed).await?;
    bed.cluster.run(&["apiserver", "kill"]).await?;
    let away = Instant::now();
    bed.cluster.ctr(&["tasks", "kill", "--signal", "SIGKILL", &id]).await?;
    let deadline = Instant::now() + Duration::from_secs(50);
    let restarted = loop {
        let now = running(&bed).await?;
        let new: Vec<&String> = now.difference(&kept).collect();
        if let Some(new) = new.first() {
            break (*new).clone();
        }
        ensure!(
            Instant::now() < deadline,
            "without an API server the container was not started again in 50 s"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(away.elapsed())).await;
    bed.cluster.run(&["apiserver", "start"]).await?;
    let id = format!("c[main].containerID=containerd://{restarted}");
    bed.until(
        "p",
        &[
            "cond[Ready]=True",
            "c[main].restartCount=1",
            "c[main].lastState.terminated.exitCode=137",
            &id,
        ],
    )
    .await?;
    bed.until("other", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
    until_it_works(&bed, "after").await?;
    bed.until_kind("Node", "n1", &["cond[Ready]=True"]).await?;
    // Only the pod whose container died may have been unready for a moment.
    flips.seen.lock().retain(|note| !note.starts_with("p:"));
    flips.end()
}

/// What is below the folder `path` of the node.
fn entries(bed: &Bed, path: &str) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(bed.cluster.on_node(path)) else { return Vec::new() };
    folder
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The last of all: every pod of every case is gone, and so is all that was made for them.
async fn nothing_is_left_on_the_node(bed: Bed) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let everywhere = kube::Api::<k8s_openapi::api::core::v1::Pod>::all(bed.client.clone());
        let pods =
            everywhere.list_metadata(&ListParams::default()).await.context("listing pods")?.items;
        let mut left: Vec<String> = pods
            .iter()
            .map(|pod| format!("pod {}", pod.metadata.name.as_deref().unwrap_or_default()))
            .collect();
        left.extend(
            entries(&bed, "/var/lib/kubelet/pods")
                .iter()
                .map(|name| format!("/var/lib/kubelet/pods/{name}")),
        );
        left.extend(
            entries(&bed, "/var/log/pods").iter().map(|name| format!("/var/log/pods/{name}")),
        );
        left.extend(
            entries(&bed, "/var/log/containers")
                .iter()
                .map(|name| format!("/var/log/containers/{name}")),
        );
        let containers = bed.cluster.ctr(&["containers", "list", "-q"]).await?;
        left.extend(containers.lines().map(|id| format!("container {id}")));
        left.extend(pod_cgroups(&bed));
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after 180 s there are still {} things: {}",
            left.len(),
            left.join(", ")
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The cgroups of pods on the node.
fn pod_cgroups(bed: &Bed) -> Vec<String> {
    let mut found = Vec::new();
    for hierarchy in ["", "/memory", "/cpu", "/pids", "/systemd"] {
        for class in ["", "burstable", "besteffort"] {
            let path = format!("/sys/fs/cgroup{hierarchy}{}", bed.cluster.pods_cgroup(class));
            let Ok(folder) = std::fs::read_dir(&path) else { continue };
            let pods = folder
                .filter_map(Result::ok)
                .map(|entry| entry.file_name().to_string_lossy().into_owned());
            let is_pod = |name: &String| name.starts_with("pod") || name.contains("-pod");
            found.extend(pods.filter(is_pod).map(|name| format!("cgroup {path}/{name}")));
        }
    }
    found
}
