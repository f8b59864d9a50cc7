//! The slices that a kubelet makes for pods and tiers: systemd's properties and the kernel's
//! values.

use std::time::Duration;

use anyhow::{Result, ensure};
use rkubelet_bed::bed::{grace, same};
use rkubelet_bed::look;
use rkubelet_bed::run::until;

use crate::node::Node;

/// The QoS classes that are compared, each with the resources of its pod.
const CLASSES: [(&str, &str); 2] = [
    ("guaranteed", "{limits: {cpu: 105m, memory: 64Mi}}"),
    ("burstable", "{requests: {cpu: 200m}, limits: {cpu: 300m, memory: 128Mi}}"),
];

const TIERS: [&str; 3] = ["kubepods", "kubepods-burstable", "kubepods-besteffort"];

#[rustfmt::skip]
const PROPERTIES: [&str; 20] = [
    "Description", "Slice", "Wants", "Transient", "ActiveState", "DefaultDependencies", "MemoryAccounting",
    "CPUAccounting", "BlockIOAccounting", "IOAccounting", "TasksAccounting", "MemoryLimit", "MemoryMax", "CPUShares",
    "CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "TasksMax", "AllowedCPUs", "Delegate",
];

/// The values of a pod's cgroup, of both versions of cgroups.
const VALUES: [&str; 9] = [
    "memory.limit_in_bytes",
    "memory.max",
    "cpu.shares",
    "cpu.weight",
    "cpu.cfs_quota_us",
    "cpu.max",
    "pids.max",
    "hugetlb.2MB.limit_in_bytes",
    "cpuset.cpus",
];

/// One kubelet's slices, as text, with `UID` for the pods' uids.
pub(crate) struct Slices {
    pods: String,
    tiers: String,
}

/// Makes a pod of each class, reads its slice, deletes it, and waits until the slice is gone.
pub(crate) async fn make(node: &Node) -> Result<Slices> {
    let mut slices = Slices { pods: String::new(), tiers: String::new() };
    for (class, resources) in CLASSES {
        let name = format!("sliced-{class}");
        node.make_pod(&name, resources).await?;
        let uid = uid(node, &name).await?;
        let unit = unit(class, &uid);
        let said = properties(node, &unit).await? + "\n" + &values(node, &unit, &VALUES).await?;
        slices.pods += &said.replace(&uid, "UID");
        slices.pods.push('\n');

        // While the burstable pod runs: upstream's tier keeps the shares of a pod that is gone for
        // up to a minute.
        slices.tiers.clear();
        for tier in TIERS {
            slices.tiers += &properties(node, &format!("{tier}.slice")).await?;
            slices.tiers.push('\n');
        }

        node.bed.api("Pod").delete(&name, &grace(1)).await?;
        node.bed.until_gone("Pod", &name).await?;
        until(Duration::from_secs(60), async || is_gone(node, &unit).await).await?;
    }
    Ok(slices)
}

/// Compares the slices of two kubelets.
pub(crate) fn are_the_same(theirs: &Slices, ours: &Slices) -> Result<()> {
    same_lines("of pods", &theirs.pods, &ours.pods)?;
    same_lines("of tiers", &theirs.tiers, &ours.tiers)?;
    // Two texts that say nothing are the same as well.
    let has = |ends: &[&str]| {
        let said = ours.pods.lines().any(|line| ends.iter().any(|end| line.ends_with(end)));
        ensure!(said, "none of {ends:?} in:\n{}", ours.pods);
        Ok(())
    };
    has(&["MemoryLimit=67108864", "MemoryMax=67108864"])?;
    has(&["/memory.limit_in_bytes:134217728", "/memory.max:134217728"])?;
    has(&["CPUQuotaPerSecUSec=110ms"])
}

/// A reload of systemd sets all limits again: those of a pod stay as they are.
pub(crate) async fn limits_outlive_a_reload(node: &Node) -> Result<()> {
    let (class, resources) = CLASSES[1];
    node.make_pod("limited", resources).await?;
    let unit = unit(class, &uid(node, "limited").await?);
    let limits = async || values(node, &unit, &VALUES[..4]).await;

    let before = limits().await?;
    ensure!(before.contains("134217728"), "no limit of memory in:\n{before}");
    node.run(&["systemctl", "daemon-reload"]).await?;
    same("the values", limits().await?, before)
}

fn same_lines(what: &str, theirs: &str, ours: &str) -> Result<()> {
    let differ: Vec<String> = theirs
        .lines()
        .zip(ours.lines())
        .filter(|(theirs, ours)| theirs != ours)
        .map(|(theirs, ours)| format!("{theirs}  |  {ours}"))
        .collect();
    ensure!(differ.is_empty(), "slices {what}, upstream's | ours:\n{}", differ.join("\n"));
    same("how many lines", ours.lines().count(), theirs.lines().count())
}

/// A pod's uid as systemd's units have it.
async fn uid(node: &Node, pod: &str) -> Result<String> {
    let pod = node.bed.get("Pod", pod).await?;
    Ok(look::text(&pod, "metadata.uid").replace('-', "_"))
}

/// The slice of a pod: those of guaranteed pods have no tier of their own.
fn unit(class: &str, uid: &str) -> String {
    let tier = if class == "guaranteed" { String::new() } else { format!("-{class}") };
    format!("kubepods{tier}-pod{uid}.slice")
}

async fn properties(node: &Node, unit: &str) -> Result<String> {
    let properties = format!("--property={}", PROPERTIES.join(","));
    node.run(&["systemctl", "show", unit, &properties]).await
}

/// The values of the unit's cgroup in each hierarchy: `PATH:VALUE`, sorted.
async fn values(node: &Node, unit: &str, files: &[&str]) -> Result<String> {
    let paths: Vec<String> = files.iter().map(|file| format!("*{unit}/{file}")).collect();
    let mut argv = vec!["find", "/sys/fs/cgroup", "("];
    for (index, path) in paths.iter().enumerate() {
        if index > 0 {
            argv.push("-o");
        }
        argv.extend(["-path", path]);
    }
    argv.extend([")", "-exec", "grep", "-H", ".", "{}", "+"]);
    let said = node.run(&argv).await?;
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// Neither systemd nor the kernel has the slice.
async fn is_gone(node: &Node, unit: &str) -> Result<()> {
    same("its state", node.property(unit, "ActiveState").await?.as_str(), "inactive")?;
    let left = node.run(&["find", "/sys/fs/cgroup", "-name", unit]).await?;
    ensure!(left.is_empty(), "cgroups stay: {left}");
    Ok(())
}
