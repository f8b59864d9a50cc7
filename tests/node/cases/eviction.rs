//! Pods that have to go: the node runs out of something, or they use more than they may.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, shows};
use crate::look::{glob, text};
use crate::registry::Registry;
use crate::{Case, beyond, case, slow};

/// Cases in which only the pod itself is concerned.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        slow(empty_dir_over_its_limit),
        slow(container_over_its_storage_limit),
        slow(pod_over_its_storage_limit),
        beyond(a_killed_process_of_a_container_is_reported),
    ]
}

/// Cases in which the node is short of something: one after the other.
pub(crate) fn alone() -> Vec<Case> {
    vec![
        case(memory_hog_is_evicted_and_best_effort_pods_are_kept_away),
        case(process_ids_run_out),
        case(images_and_dead_containers_go_before_pods),
    ]
}

/// Waits until the pod has been evicted with this message (a pattern), and the event says so.
async fn evicted(bed: &Bed, name: &str, message: &str) -> Result<()> {
    bed.until(
        name,
        &["phase=Failed", "status.reason=Evicted", &format!("status.message={message}")],
    )
    .await?;
    shows(&bed.event(name, "Evicted", message).await?, &["type=Warning"])
}

async fn empty_dir_over_its_limit(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'dd if=/dev/zero of=/data/file bs=1M count=3; sleep 1000']
  volumeMounts: [{name: data, mountPath: /data}]
volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]
";
    bed.pod("p", spec).await?;
    let message = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ";
    evicted(&bed, "p", message).await?;
    // It is no disruption by the node.
    bed.until("p", &["cond[DisruptionTarget]="]).await?;
    Ok(())
}

async fn container_over_its_storage_limit(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'dd if=/dev/zero of=/file bs=1M count=3; sleep 1000']
  resources: {limits: {ephemeral-storage: 1Mi}}
- name: other
  image: busybox
  command: [sleep, '1000']
  resources: {limits: {ephemeral-storage: 1Gi}}
";
    bed.pod("p", spec).await?;
    let message = "Container main exceeded its local ephemeral storage limit \"1Mi\". ";
    evicted(&bed, "p", message).await
}

async fn pod_over_its_storage_limit(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'dd if=/dev/zero of=/data/file bs=1M count=5; sleep 1000']
  volumeMounts: [{name: data, mountPath: /data}]
  resources: {limits: {ephemeral-storage: 2Mi}}
volumes: [{name: data, emptyDir: {}}]
";
    bed.pod("p", spec).await?;
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
    evicted(&bed, "p", message).await
}

/// Upstream says nothing of it: the status of a container is about its first process.
async fn a_killed_process_of_a_container_is_reported(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'while true; do dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 5; done']
  resources: {limits: {memory: 30Mi}}
";
    bed.pod("p", spec).await?;
    let message = "The kernel killed process dd (pid *) of container main for want of memory; \
                   the container keeps running";
    let event = bed.event("p", "OOMKilling", message).await?;
    shows(&event, &["type=Warning", "involvedObject.fieldPath=spec.containers{main}"])?;
    bed.until("p", &["c[main].restartCount=0", "c[main].state.running.startedAt=?*"]).await?;
    Ok(())
}

/// Restarts the kubelet with `config` over its own, as a drop-in, while `work` runs.
async fn with_config(
    bed: &Bed,
    config: &str,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    const FOLDER: &str = "/etc/kubernetes/kubelet.conf.d";

    let folder = bed.cluster.on_node(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let header = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    std::fs::write(folder.join("10-eviction.conf"), format!("{header}{config}"))?;
    let run = Path::new(bed.cluster.env("KUBECONFIG")).parent().context("no folder")?;
    let flags = run.join("n1/kubelet-flags");
    let before = std::fs::read_to_string(&flags)?;
    std::fs::write(&flags, format!("{} --config-dir={FOLDER}\n", before.trim_end()))?;

    let restart = ["kubelet", "restart", "n1"];
    let outcome = match bed.cluster.run(&restart).await {
        Ok(_) => work.await,
        Err(error) => Err(error),
    };
    std::fs::write(&flags, before)?;
    bed.cluster.run(&restart).await?;
    outcome?;
    // The next case begins without pressure.
    for condition in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        bed.until_kind("Node", "n1", &[&format!("cond[{condition}]=False")]).await?;
    }
    Ok(())
}

/// Waits for an event about the node.
async fn node_event(bed: &Bed, reason: &str, message: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let format = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
        let about = "involvedObject.kind=Node,involvedObject.name=n1";
        let args = ["get", "events", "-n", "default", "--field-selector", about, "-o", format];
        let seen = bed.kubectl(&args).await?;
        let wanted = format!("{reason}: {message}");
        if seen.lines().any(|line| glob(&wanted, line)) {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "no event {wanted:?} in:\n{seen}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// All pods together may have 700 MiB; one of them takes 400, and less than 350 is too little.
async fn memory_hog_is_evicted_and_best_effort_pods_are_kept_away(bed: Bed) -> Result<()> {
    let node = bed.get("Node", "n1").await?;
    let capacity = text(&node, "status.capacity.memory");
    let capacity: u64 = capacity.trim_end_matches("Ki").parse().context("the node's memory")?;
    let kept = capacity - 700 * 1024;
    let config = format!(
        "kubeReserved: {{memory: {kept}Ki}}\nevictionHard: {{memory.available: 350Mi}}\n\
         evictionPressureTransitionPeriod: 15s\n"
    );
    with_config(&bed, &config, async {
        bed.pod("modest", "{nodeName: n1, terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000'], resources: {requests: {memory: 20Mi}}}]}").await?;
        bed.until("modest", &["cond[Ready]=True"]).await?;
        let hog = "
nodeName: n1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'dd if=/dev/zero of=/mem/file bs=1M count=400; sleep 1000']
  volumeMounts: [{name: mem, mountPath: /mem}]
volumes: [{name: mem, emptyDir: {medium: Memory}}]
";
        bed.pod("hog", hog).await?;
        let message = "The node was low on resource: memory. Threshold quantity: 350Mi, available: *. \
             Container main was using *, request is 0, has larger consumption of memory. ";
        evicted(&bed, "hog", message).await?;
        let pod = bed
            .until(
                "hog",
                &["cond[DisruptionTarget]=True", "c[main].state.terminated.exitCode=137"],
            )
            .await?;
        let conditions = text(&pod, "status.conditions");
        ensure!(conditions.contains("TerminationByKubelet"), "{conditions}");
        let event = bed.event("hog", "Evicted", message).await?;
        shows(
            &event,
            &[
                "metadata.annotations.starved_resource=memory",
                "metadata.annotations.offending_containers=main",
                "metadata.annotations.offending_containers_usage=?*",
            ],
        )?;
        node_event(&bed, "EvictionThresholdMet", "Attempting to reclaim memory").await?;

        bed.until_kind("Node", "n1", &["cond[MemoryPressure]=True"]).await?;
        node_event(&bed, "NodeHasInsufficientMemory", "Node n1 status is now: NodeHasInsufficientMemory").await?;
        bed.pod("late", "{nodeName: n1, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}").await?;
        bed.until(
            "late",
            &[
                "phase=Failed",
                "status.reason=Evicted",
                "status.message=Pod was rejected: The node had condition: [MemoryPressure]. ",
            ],
        )
        .await?;
        bed.until_kind("Node", "n1", &["cond[MemoryPressure]=False"]).await?;
        node_event(&bed, "NodeHasSufficientMemory", "Node n1 status is now: NodeHasSufficientMemory").await?;
        bed.until("modest", &["cond[Ready]=True", "c[main].restartCount=0"]).await?;
        Ok(())
    })
    .await
}

async fn process_ids_run_out(bed: Bed) -> Result<()> {
    // As the kubelet sees it: a namespace of processes can have a limit of its own.
    let path = "/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=false";
    let summary: Value = serde_json::from_str(&bed.kubectl(&["get", "--raw", path]).await?)?;
    let limits = &summary["node"]["rlimit"];
    let most = limits["maxpid"].as_u64().context("no limit of processes")?;
    let running = limits["curproc"].as_u64().context("no processes")?;
    let config = format!(
        "evictionHard: {{pid.available: '{}'}}\nevictionPressureTransitionPeriod: 5s\n",
        most.saturating_sub(running + 500)
    );
    with_config(&bed, &config, async {
        let forks = "
nodeName: n1
containers:
- name: main
  image: busybox
  command: [sh, -c, 'for i in $(seq 1200); do sleep 1000 & done; wait']
";
        bed.pod("forks", forks).await?;
        let message = "The node was low on resource: pids. Threshold quantity: *, available: *. ";
        evicted(&bed, "forks", message).await?;
        node_event(&bed, "EvictionThresholdMet", "Attempting to reclaim pids").await?;
        bed.until_kind("Node", "n1", &["cond[PIDPressure]=False"]).await?;
        Ok(())
    })
    .await
}

/// The node never has what it wants: first the image goes that nobody needs and the container that
/// has ended, then a pod.
async fn images_and_dead_containers_go_before_pods(bed: Bed) -> Result<()> {
    let images = bed.cluster.ctr(&["images", "list", "-q"]).await?;
    let used: Vec<&str> = images.lines().map(str::trim).filter(|image| !image.is_empty()).collect();
    // The others stay, whatever is short: no registry has them.
    for image in &used {
        bed.cluster.ctr(&["images", "label", image, "io.cri-containerd.pinned=pinned"]).await?;
    }
    let outcome = low_on_disk(&bed).await;
    for image in &used {
        bed.cluster.ctr(&["images", "label", image, "io.cri-containerd.pinned="]).await?;
    }
    outcome
}

async fn low_on_disk(bed: &Bed) -> Result<()> {
    let registry = Registry::start(bed).await?;
    let unused = format!("{}/open/tiny:1", registry.address);
    let puller = format!(
        "{{nodeName: n1, terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{unused}'}}]}}"
    );
    bed.pod("puller", &puller).await?;
    bed.until("puller", &["cond[Ready]=True"]).await?;
    bed.delete("puller", None).await?;
    bed.until_gone("Pod", "puller").await?;
    bed.pod("over", "{nodeName: n1, restartPolicy: Never, containers: [{name: main, image: busybox, command: ['true']}]}").await?;
    bed.until("over", &["phase=Succeeded"]).await?;
    bed.pod("p", "{nodeName: n1, terminationGracePeriodSeconds: 1, containers: [{name: main, image: busybox, command: [sleep, '1000']}]}").await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let config = "evictionHard: {nodefs.available: 99%, imagefs.available: 1%}\n\
                  evictionPressureTransitionPeriod: 5s\nimageMinimumGCAge: 1s\n";
    with_config(bed, config, async {
        node_event(bed, "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage").await?;
        let message = "The node was low on resource: ephemeral-storage. Threshold quantity: *, available: *. *";
        evicted(bed, "p", message).await?;
        bed.until_kind("Node", "n1", &["cond[DiskPressure]=True"]).await?;
        // Its container is gone, and what it was stays.
        let over = bed.until("over", &["phase=Succeeded", "c[main].state.terminated.reason=Completed"]).await?;
        let id = text(&over, "c[main].containerID");
        let id = id.trim_start_matches("containerd://").to_owned();
        let left = bed.cluster.ctr(&["containers", "list", "-q"]).await?;
        ensure!(!left.lines().any(|line| line.trim() == id), "container {id} is still there");
        let left = bed.cluster.ctr(&["images", "list", "-q"]).await?;
        ensure!(!left.contains(&unused), "image {unused} is still there");
        Ok(())
    })
    .await
}
