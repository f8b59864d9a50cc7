//! Running pods that change without being replaced: other resources, and all containers started
//! again.

use anyhow::Result;

use crate::bed::{Bed, same};
use crate::look::text;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(resized_without_a_restart),
        case(resized_by_a_restart),
        case(resized_as_a_whole),
        case(resize_that_does_not_fit),
        case(all_containers_start_again),
    ]
}

async fn resized_without_a_restart(bed: Bed) -> Result<()> {
    let resources = "{requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 128Mi}}";
    bed.pod(
        "p",
        &format!("containers: [{{name: main, image: busybox, command: [sleep, '1000'], resources: {resources}}}]"),
    )
    .await?;
    let before = bed.until("p", &["cond[Ready]=True", "c[main].resources.limits.cpu=200m"]).await?;
    let same_container = format!("c[main].containerID={}", text(&before, "c[main].containerID"));
    bed.resize(
        "p",
        "main",
        r#"{"requests":{"cpu":"150m","memory":"96Mi"},"limits":{"cpu":"300m","memory":"192Mi"}}"#,
    )
    .await?;
    bed.until(
        "p",
        &[
            "c[main].resources.limits.cpu=300m",
            "c[main].resources.limits.memory=192Mi",
            "c[main].allocatedResources.cpu=150m",
            "c[main].allocatedResources.memory=96Mi",
            "c[main].restartCount=0",
            &same_container,
            "cond[PodResizeInProgress]=",
            "cond[PodResizePending]=",
            "cond[Ready]=True",
        ],
    )
    .await?;
    bed.event(
        "p",
        "ResizeStarted",
        r#"Pod resize started: {"containers":[{"name":"main",*"generation":2}"#,
    )
    .await?;
    bed.event(
        "p",
        "ResizeCompleted",
        r#"Pod resize completed: {"containers":[{"name":"main",*"generation":2}"#,
    )
    .await?;
    let shell = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null \
                 || (cat /sys/fs/cgroup/memory.max; cut -d' ' -f1 /sys/fs/cgroup/cpu.max)";
    let seen = bed.exec("p", "main", &["sh", "-c", shell]).await?;
    same("what the kernel enforces", seen.as_str(), "201326592\n30000\n")?;
    // Down again; more than is in use.
    bed.resize(
        "p",
        "main",
        r#"{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"200m","memory":"128Mi"}}"#,
    )
    .await?;
    bed.until(
        "p",
        &[
            "c[main].resources.limits.memory=128Mi",
            "c[main].resources.limits.cpu=200m",
            &same_container,
        ],
    )
    .await?;
    Ok(())
}

async fn resized_by_a_restart(bed: Bed) -> Result<()> {
    let policy = "[{resourceName: memory, restartPolicy: RestartContainer}]";
    bed.pod(
        "p",
        &format!(
            "{{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: busybox, command: [sleep, '1000'], \
             resizePolicy: {policy}, resources: {{limits: {{memory: 64Mi}}}}}}]}}"
        ),
    )
    .await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    bed.resize("p", "main", r#"{"requests":{"memory":"128Mi"},"limits":{"memory":"128Mi"}}"#)
        .await?;
    bed.until(
        "p",
        &["c[main].restartCount=1", "c[main].resources.limits.memory=128Mi", "cond[Ready]=True"],
    )
    .await?;
    bed.event("p", "Killing", "Container main resize requires restart").await?;
    Ok(())
}

async fn resized_as_a_whole(bed: Bed) -> Result<()> {
    let resources = "{requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 128Mi}}";
    bed.pod(
        "p",
        &format!(
            "{{resources: {resources}, containers: [{{name: main, image: busybox, command: [sleep, '1000']}}]}}"
        ),
    )
    .await?;
    let before = bed.until("p", &["cond[Ready]=True", "status.resources.limits.cpu=200m"]).await?;
    let same_container = format!("c[main].containerID={}", text(&before, "c[main].containerID"));
    bed.resize_pod(
        "p",
        r#"{"requests":{"cpu":"150m","memory":"96Mi"},"limits":{"cpu":"300m","memory":"192Mi"}}"#,
    )
    .await?;
    bed.until(
        "p",
        &[
            "status.resources.limits.cpu=300m",
            "status.resources.limits.memory=192Mi",
            "status.allocatedResources.cpu=150m",
            "status.allocatedResources.memory=96Mi",
            "c[main].restartCount=0",
            &same_container,
            "cond[PodResizeInProgress]=",
            "cond[PodResizePending]=",
        ],
    )
    .await?;
    bed.event(
        "p",
        "ResizeCompleted",
        r#"Pod resize completed: {"containers":[{"name":"main","resources":{}}],"generation":2}"#,
    )
    .await?;
    // A container without a limit of its own has the pod's.
    let shell = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null \
                 || (cat /sys/fs/cgroup/memory.max; cut -d' ' -f1 /sys/fs/cgroup/cpu.max)";
    let seen = bed.exec("p", "main", &["sh", "-c", shell]).await?;
    same("what the kernel enforces", seen.as_str(), "201326592\n30000\n")?;

    // Far below what is in use: refused, and shown as it was.
    bed.resize_pod(
        "p",
        r#"{"requests":{"cpu":"150m","memory":"4Ki"},"limits":{"cpu":"300m","memory":"4Ki"}}"#,
    )
    .await?;
    bed.until(
        "p",
        &[
            "cond[PodResizeInProgress]=True",
            "status.resources.limits.memory=192Mi",
            "status.allocatedResources.memory=4Ki",
        ],
    )
    .await?;
    Ok(())
}

async fn resize_that_does_not_fit(bed: Bed) -> Result<()> {
    let resources = "{requests: {cpu: 100m}}";
    bed.pod(
        "p",
        &format!("containers: [{{name: main, image: busybox, command: [sleep, '1000'], resources: {resources}}}]"),
    )
    .await?;
    // The API server refuses by itself what no node of that size could ever give: beside another
    // pod it does not fit.
    bed.pod(
        "other",
        "containers: [{name: main, image: busybox, command: [sleep, '1000'], resources: {requests: {cpu: 300m}}}]",
    )
    .await?;
    bed.until("other", &["cond[Ready]=True"]).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let node =
        bed.kubectl(&["get", "node", "n1", "-o", "jsonpath={.status.allocatable.cpu}"]).await?;
    let all: u64 = if let Some(thousandths) = node.strip_suffix('m') {
        thousandths.parse()?
    } else {
        node.parse::<u64>()? * 1000
    };
    bed.resize("p", "main", &format!(r#"{{"requests":{{"cpu":"{}m"}}}}"#, all - 200)).await?;
    bed.until(
        "p",
        &[
            "cond[PodResizePending]=True",
            "cond[PodResizePending].reason=Deferred",
            "cond[PodResizePending].message=Node didn't have enough resource: cpu, requested: *, used: *, capacity: *",
            "c[main].allocatedResources.cpu=100m",
            "c[main].resources.requests.cpu=100m",
        ],
    )
    .await?;
    bed.event(
        "p",
        "ResizeDeferred",
        "Pod resize Deferred: *\"error\":\"Node didn't have enough resource: cpu, *",
    )
    .await?;
    // Taken back: nothing waits any more.
    bed.resize("p", "main", r#"{"requests":{"cpu":"100m"}}"#).await?;
    bed.until("p", &["cond[PodResizePending]=", "c[main].restartCount=0"]).await?;
    Ok(())
}

async fn all_containers_start_again(bed: Bed) -> Result<()> {
    let rule = "[{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]";
    let once = "if [ -e /data/seen ]; then sleep 1000; fi; touch /data/seen; sleep 3; exit 42";
    bed.pod(
        "p",
        &format!(
            "{{restartPolicy: Never, volumes: [{{name: data, emptyDir: {{}}}}], \
             initContainers: [{{name: setup, image: busybox, command: [sh, -c, 'echo x >> /data/setups'], \
             volumeMounts: [{{name: data, mountPath: /data}}]}}], \
             containers: [{{name: worker, image: busybox, command: [sleep, '1000'], \
             volumeMounts: [{{name: data, mountPath: /data}}]}}, \
             {{name: watcher, image: busybox, command: [sh, -c, '{once}'], restartPolicy: Never, \
             restartPolicyRules: {rule}, volumeMounts: [{{name: data, mountPath: /data}}]}}]}}"
        ),
    )
    .await?;
    let first = bed.until("p", &["cond[Ready]=True", "c[worker].restartCount=0"]).await?;
    bed.until(
        "p",
        &[
            "cond[Ready]=True",
            "c[worker].restartCount=1",
            "c[watcher].restartCount=1",
            "c[setup].restartCount=1",
            "cond[AllContainersRestarting]=False",
            &format!("status.podIP={}", text(&first, "status.podIP")),
        ],
    )
    .await?;
    same(
        "the runs of the init container",
        bed.exec("p", "worker", &["cat", "/data/setups"]).await?,
        "x\nx\n".to_owned(),
    )
}
