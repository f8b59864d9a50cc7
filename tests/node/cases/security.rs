//! Security contexts, cgroups, and the end of those who use more memory than they may.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, has_line, same};
use crate::look::text;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(users_and_groups),
        case(read_only_root),
        case(capabilities_and_privileges),
        case(seccomp_and_sysctls),
        case(root_is_refused_by_run_as_non_root),
        case(privileged),
        case(guaranteed_pod),
        case(burstable_pod),
        case(best_effort_pod),
        case(all_pods_have_the_nodes_limits),
        case(out_of_memory),
        case(device_files_and_tty),
    ]
}

async fn run(bed: &Bed, spec: &str) -> Result<String> {
    bed.pod("p", &format!("restartPolicy: Never\n{spec}")).await?;
    bed.until("p", &["phase=Succeeded"]).await?;
    bed.logs("p", "main").await
}

async fn users_and_groups(bed: Bed) -> Result<()> {
    let spec = "
securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000]}
volumes: [{name: data, emptyDir: {}}]
containers:
- name: main
  image: busybox
  command: [sh, -c, 'id -u; id -g; id -G; touch /data/mine; stat -c \"%g %a\" /data; stat -c %g /data/mine']
  volumeMounts: [{name: data, mountPath: /data}]
- {name: other, image: busybox, command: [id, -u], securityContext: {runAsUser: 1234}}
";
    let seen = run(&bed, spec).await?;
    let lines: Vec<&str> = seen.lines().collect();
    same("user, group", lines.get(..2), Some(&["1000", "2000"][..]))?;
    let mut groups: Vec<&str> = lines.get(2).context("no groups")?.split(' ').collect();
    groups.sort_unstable();
    same("the groups", groups, vec!["2000", "3000", "4000"])?;
    same("the volume", lines.get(3..), Some(&["3000 2777", "3000"][..]))?;
    same("the user of the other", bed.logs("p", "other").await?.as_str(), "1234\n")
}

async fn read_only_root(bed: Bed) -> Result<()> {
    let spec = "
containers:
- name: main
  image: busybox
  command: [sh, -c, 'touch /mine 2>&1 || echo refused']
  securityContext: {readOnlyRootFilesystem: true}
";
    has_line("the log", &run(&bed, spec).await?, "refused")
}

async fn capabilities_and_privileges(bed: Bed) -> Result<()> {
    let spec = "
containers:
- name: main
  image: busybox
  command: [grep, -E, '^(CapEff|CapBnd|NoNewPrivs):', /proc/self/status]
  securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
";
    let seen = run(&bed, spec).await?;
    has_line("the status", &seen, "CapEff:*0000000000000400")?;
    has_line("the status", &seen, "CapBnd:*0000000000000400")?;
    has_line("the status", &seen, "NoNewPrivs:*1")
}

async fn seccomp_and_sysctls(bed: Bed) -> Result<()> {
    let spec = "
securityContext: {seccompProfile: {type: RuntimeDefault}, sysctls: [{name: net.ipv4.ip_local_port_range, value: '40000 41000'}]}
containers:
- name: main
  image: busybox
  command: [sh, -c, 'grep ^Seccomp: /proc/self/status; cat /proc/sys/net/ipv4/ip_local_port_range']
";
    let seen = run(&bed, spec).await?;
    has_line("the log", &seen, "Seccomp:*2")?;
    has_line("the log", &seen, "40000*41000")
}

async fn root_is_refused_by_run_as_non_root(bed: Bed) -> Result<()> {
    let made = bed
        .pod("p", "{securityContext: {runAsNonRoot: true}, containers: [{name: main, image: busybox, command: [id]}]}")
        .await?;
    let message = format!(
        "container has runAsNonRoot and image will run as root (pod: \"p_{}({})\", container: main)",
        bed.name,
        text(&made, "metadata.uid")
    );
    bed.until(
        "p",
        &[
            "c[main].state.waiting.reason=CreateContainerConfigError",
            &format!("c[main].state.waiting.message={message}"),
        ],
    )
    .await?;
    bed.event("p", "Failed", &format!("Error: {message}")).await?;
    Ok(())
}

async fn privileged(bed: Bed) -> Result<()> {
    let spec = "
hostPID: true
hostIPC: true
containers:
- name: main
  image: busybox
  command: [sh, -c, 'test -e /dev/kmsg || test -e /dev/mem && echo devices; ps -o args | grep -c containerd']
  securityContext: {privileged: true}
";
    let seen = run(&bed, spec).await?;
    has_line("the log", &seen, "devices")
}

/// A file of a pod's cgroup on the node, for either version of cgroups.
pub(super) fn cgroup(bed: &Bed, below: &str, v1: (&str, &str), v2: &str) -> Result<String> {
    let folder = bed.cluster.pods_cgroup(below);
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let path = if unified {
        format!("/sys/fs/cgroup{folder}/{v2}")
    } else {
        format!("/sys/fs/cgroup/{}{folder}/{}", v1.0, v1.1)
    };
    Ok(std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?.trim().to_owned())
}

const MEMORY: (&str, &str) = ("memory", "memory.limit_in_bytes");
const QUOTA: (&str, &str) = ("cpu", "cpu.cfs_quota_us");

/// A running pod with these resources, and its folder in the cgroups of pods.
async fn running(bed: &Bed, class: &str, resources: &str) -> Result<(Value, String)> {
    let spec = format!(
        "{{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: busybox, command: [sleep, '1000'], resources: {resources}}}]}}"
    );
    bed.pod("p", &spec).await?;
    let pod = bed.until("p", &["cond[Ready]=True", &format!("status.qosClass={class}")]).await?;
    let uid = text(&pod, "metadata.uid");
    let folder = match class {
        "Guaranteed" => format!("pod{uid}"),
        _ => format!("{}/pod{uid}", class.to_lowercase()),
    };
    Ok((pod, folder))
}

/// The score of the container, which a machine without the right to lower it keeps at its own.
async fn check_oom_score(bed: &Bed, wanted: i64) -> Result<()> {
    let seen: i64 =
        bed.exec("p", "main", &["cat", "/proc/1/oom_score_adj"]).await?.trim().parse()?;
    let own: i64 = std::fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
    ensure!(
        seen == wanted || seen == own.max(wanted),
        "oom_score_adj is {seen}, wanted {wanted} (own: {own})"
    );
    Ok(())
}

async fn guaranteed_pod(bed: Bed) -> Result<()> {
    let (pod, folder) = running(&bed, "Guaranteed", "{limits: {cpu: 100m, memory: 64Mi}}").await?;
    let id = text(&pod, "c[main].containerID").replace("containerd://", "");
    for folder in [folder.clone(), format!("{folder}/{id}")] {
        same(
            "the memory limit",
            cgroup(&bed, &folder, MEMORY, "memory.max")?.as_str(),
            "67108864",
        )?;
        let quota = cgroup(&bed, &folder, QUOTA, "cpu.max")?;
        ensure!(
            quota == "10000" || quota == "10000 100000",
            "the CPU quota of {folder} is {quota}"
        );
    }
    check_oom_score(&bed, -997).await?;
    same("resources", text(&pod, "c[main].resources.limits.cpu"), "100m".to_owned())?;
    same("allocated", text(&pod, "c[main].allocatedResources.memory"), "64Mi".to_owned())
}

async fn burstable_pod(bed: Bed) -> Result<()> {
    let (_, folder) = running(
        &bed,
        "Burstable",
        "{requests: {cpu: 200m, memory: 256Mi}, limits: {memory: 512Mi}}",
    )
    .await?;
    same("the memory limit", cgroup(&bed, &folder, MEMORY, "memory.max")?.as_str(), "536870912")?;
    let share = cgroup(&bed, &folder, ("cpu", "cpu.shares"), "cpu.weight")?;
    ensure!(["204", "8", "34"].contains(&share.as_str()), "the CPU share is {share}");
    let node = bed.get("Node", "n1").await?;
    let capacity: i64 = text(&node, "status.capacity.memory").trim_end_matches("Ki").parse()?;
    check_oom_score(&bed, 1000 - 1000 * 256 * 1024 / capacity).await
}

async fn best_effort_pod(bed: Bed) -> Result<()> {
    let (_, folder) = running(&bed, "BestEffort", "{}").await?;
    let share = cgroup(&bed, &folder, ("cpu", "cpu.shares"), "cpu.weight")?;
    ensure!(["2", "1"].contains(&share.as_str()), "the CPU share is {share}");
    check_oom_score(&bed, 1000).await
}

async fn all_pods_have_the_nodes_limits(bed: Bed) -> Result<()> {
    let node = bed.get("Node", "n1").await?;
    let cores: i64 = text(&node, "status.capacity.cpu").parse()?;
    let shares = cgroup(&bed, "", ("cpu", "cpu.shares"), "cpu.weight")?;
    let weight = (1 + (cores * 1024 - 2) * 9999 / 262_142).to_string();
    ensure!([(cores * 1024).to_string(), weight].contains(&shares), "the CPU share is {shares}");
    // `pid_max` belongs to the node's PID namespace.
    let mut limits = Vec::new();
    for file in ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"] {
        limits.push(bed.cluster.node_exec(&["cat", file]).await?.trim().parse::<u64>()?);
    }
    let processes = limits.into_iter().min().unwrap_or_default().to_string();
    same("processes", cgroup(&bed, "", ("pids", "pids.max"), "pids.max")?, processes)?;
    let online = bed.cluster.node_exec(&["cat", "/sys/devices/system/cpu/online"]).await?;
    let cpus = online.trim().to_owned();
    same("CPUs", cgroup(&bed, "", ("cpuset", "cpuset.cpus"), "cpuset.cpus")?, cpus)
}

async fn out_of_memory(bed: Bed) -> Result<()> {
    let spec = "{restartPolicy: Never, containers: [{name: main, image: busybox, command: [tail, /dev/zero], resources: {limits: {memory: 24Mi}}}]}";
    bed.pod("p", spec).await?;
    bed.until(
        "p",
        &[
            "phase=Failed",
            "c[main].state.terminated.reason=OOMKilled",
            "c[main].state.terminated.exitCode=137",
        ],
    )
    .await?;
    Ok(())
}

async fn device_files_and_tty(bed: Bed) -> Result<()> {
    let spec = "containers: [{name: main, image: busybox, tty: true, command: [sh, -c, 'tty; test -c /dev/null && echo null']}]";
    let seen = run(&bed, spec).await?.replace('\r', "");
    has_line("the log", &seen, "/dev/pts/*")?;
    has_line("the log", &seen, "null")
}
