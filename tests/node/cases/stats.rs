//! What the node reports of its use: the summary, and the metrics that monitoring scrapes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(summary_has_what_a_pod_uses),
        case(summary_in_short_has_processors_and_memory),
        case(resource_metrics_are_those_of_metrics_server),
        case(cadvisor_metrics_name_pods_and_containers),
        case(health_checks_are_counted),
    ]
}

const MB: u64 = 1_000_000;

/// What is asked of the kubelet, by the API server's proxy.
async fn ask(bed: &Bed, path: &str) -> Result<String> {
    bed.kubectl(&["get", "--raw", &format!("/api/v1/nodes/n1/proxy{path}")]).await
}

/// The part of a summary about a pod of the case.
fn of_pod<'a>(summary: &'a Value, bed: &Bed, name: &str) -> Option<&'a Value> {
    let pods = summary["pods"].as_array()?;
    pods.iter().find(|pod| {
        pod["podRef"]["name"] == name && pod["podRef"]["namespace"] == bed.name.as_str()
    })
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// Each path to a value below an object: `containers.cpu.time`.
fn paths(value: &Value, above: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
                paths(value, &path, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| paths(value, above, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            found.insert(above.to_owned());
        }
    }
}

/// Fields of upstream's kubelet for a pod of [`BUSY`]'s kind, on this machine (cgroup v1).
const POD_FIELDS: &str = "
containers.cpu.psi.full.avg10 containers.cpu.time containers.cpu.usageCoreNanoSeconds
containers.cpu.usageNanoCores containers.io.psi.some.total containers.io.time
containers.logs.availableBytes containers.logs.capacityBytes containers.logs.inodes
containers.logs.inodesFree containers.logs.inodesUsed containers.logs.time containers.logs.usedBytes
containers.memory.availableBytes containers.memory.majorPageFaults containers.memory.pageFaults
containers.memory.rssBytes containers.memory.time containers.memory.usageBytes
containers.memory.workingSetBytes containers.name containers.rootfs.availableBytes
containers.rootfs.capacityBytes containers.rootfs.inodes containers.rootfs.inodesFree
containers.rootfs.inodesUsed containers.rootfs.time containers.rootfs.usedBytes containers.startTime
containers.swap.swapUsageBytes containers.swap.time cpu.time cpu.usageCoreNanoSeconds
cpu.usageNanoCores ephemeral-storage.availableBytes ephemeral-storage.capacityBytes
ephemeral-storage.inodes ephemeral-storage.inodesFree ephemeral-storage.inodesUsed
ephemeral-storage.time ephemeral-storage.usedBytes io.time memory.majorPageFaults memory.pageFaults
memory.rssBytes memory.time memory.usageBytes memory.workingSetBytes network.interfaces.name
network.interfaces.rxBytes network.interfaces.rxErrors network.interfaces.txBytes
network.interfaces.txErrors network.name network.rxBytes network.rxErrors network.time
network.txBytes network.txErrors podRef.name podRef.namespace podRef.uid process_stats.process_count
startTime swap.swapUsageBytes swap.time volume.availableBytes volume.capacityBytes volume.inodes
volume.inodesFree volume.inodesUsed volume.name volume.time volume.usedBytes
";

/// A container that computes, one that writes to its layer and to a volume, and one that logs.
const BUSY: &str = "
terminationGracePeriodSeconds: 0
containers:
- name: busy
  image: busybox
  command: [sh, -c, 'while true; do :; done']
  resources: {limits: {cpu: 200m, memory: 60Mi}}
- name: writer
  image: busybox
  command: [sh, -c, 'dd if=/dev/zero of=/file bs=1M count=50; dd if=/dev/zero of=/scratch/file bs=1M count=20; sleep 1000']
  volumeMounts: [{name: scratch, mountPath: /scratch}]
- name: talker
  image: busybox
  command: [sh, -c, 'yes words | head -c 1000000; sleep 1000']
volumes:
- {name: scratch, emptyDir: {}}
";

/// Asks for a page until `wrong` finds nothing wrong with it any more.
async fn until(bed: &Bed, path: &str, wrong: impl Fn(&str) -> Option<String>) -> Result<String> {
    let end = std::time::Instant::now() + bed.patience;
    loop {
        let page = ask(bed, path).await?;
        let Some(problem) = wrong(&page) else { return Ok(page) };
        if std::time::Instant::now() > end {
            bail!("{problem}");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Asks for the summary until `wrong` finds nothing wrong with it any more.
async fn summary(
    bed: &Bed,
    query: &str,
    wrong: impl Fn(&Value) -> Option<String>,
) -> Result<Value> {
    let read = |page: &str| serde_json::from_str::<Value>(page);
    let problem = |page: &str| match read(page) {
        Ok(summary) => wrong(&summary),
        Err(error) => Some(format!("the summary is no JSON: {error}")),
    };
    let page = until(bed, &format!("/stats/summary{query}"), problem).await?;
    Ok(read(&page)?)
}

fn between(what: &str, value: &Value, least: u64, most: u64) -> Option<String> {
    let seen = value.as_u64();
    (!seen.is_some_and(|seen| (least..=most).contains(&seen)))
        .then(|| format!("{what} is {value}, wanted {least} to {most}"))
}

async fn summary_has_what_a_pod_uses(bed: Bed) -> Result<()> {
    bed.pod("p", BUSY).await?;
    bed.until("p", &["phase=Running", "cond[Ready]=True"]).await?;

    let wrong = |summary: &Value| {
        let Some(pod) = of_pod(summary, &bed, "p") else {
            return Some("the pod is not in the summary".to_owned());
        };
        let of = |name: &str| named(&pod["containers"], name);
        let scratch = named(&pod["volume"], "scratch");
        between("usageNanoCores", &of("busy")["cpu"]["usageNanoCores"], 20 * MB, 400 * MB)
            .or_else(|| {
                let memory = &of("busy")["memory"];
                between("availableBytes", &memory["availableBytes"], 1, 63 * MB)
            })
            .or_else(|| {
                let used = &of("writer")["rootfs"]["usedBytes"];
                between("the layer", used, 50 * MB, 80 * MB)
            })
            .or_else(|| between("the volume", &scratch["usedBytes"], 20 * MB, 40 * MB))
            .or_else(|| {
                let used = &of("talker")["logs"]["usedBytes"];
                between("the log", used, MB, 20 * MB)
            })
            .or_else(|| {
                let used = &pod["ephemeral-storage"]["usedBytes"];
                between("ephemeral storage", used, 71 * MB, 150 * MB)
            })
            .or_else(|| between("processes", &pod["process_stats"]["process_count"], 3, 20))
            .or_else(|| between("traffic", &pod["network"]["rxBytes"], 1, u64::MAX))
    };
    let summary = summary(&bed, "", wrong).await?;

    let pod = of_pod(&summary, &bed, "p").context("the pod")?;
    let mut found = BTreeSet::new();
    paths(pod, "", &mut found);
    let missing: Vec<&str> =
        POD_FIELDS.split_whitespace().filter(|field| !found.contains(*field)).collect();
    ensure!(missing.is_empty(), "fields that upstream has are missing: {missing:?}");

    let node = &summary["node"];
    let wrong = [
        between("the node's memory", &node["memory"]["workingSetBytes"], 10 * MB, u64::MAX),
        between("available memory", &node["memory"]["availableBytes"], MB, u64::MAX),
        between("the node's disk", &node["fs"]["availableBytes"], MB, u64::MAX),
        between("inodes", &node["fs"]["inodesFree"], 1000, u64::MAX),
        between("images", &node["runtime"]["imageFs"]["usedBytes"], MB, u64::MAX),
        between("processes", &node["rlimit"]["curproc"], 10, 1_000_000),
    ];
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    let pods = named(&node["systemContainers"], "pods");
    ensure!(pods["cpu"]["usageNanoCores"].as_u64() > Some(0), "all pods together: {pods}");
    Ok(())
}

async fn summary_in_short_has_processors_and_memory(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: busybox, command: [sleep, '1000']}]").await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    // A container that has only just begun has no memory yet.
    let missing = |summary: &Value| {
        let pod = of_pod(summary, &bed, "p");
        let memory = pod.and_then(|pod| pod["containers"][0]["memory"]["workingSetBytes"].as_u64());
        (memory.unwrap_or(0) == 0)
            .then(|| "the container's memory is not in the summary".to_owned())
    };
    let summary = summary(&bed, "?only_cpu_and_memory=true", missing).await?;
    let pod = of_pod(&summary, &bed, "p").context("the pod")?;
    ensure!(pod["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0), "{pod}");
    for absent in ["network", "ephemeral-storage", "volume", "process_stats", "io"] {
        ensure!(pod[absent].is_null(), "{absent} is there: {pod}");
    }
    ensure!(summary["node"]["fs"].is_null() && summary["node"]["rlimit"].is_null());
    Ok(())
}

/// The samples of a page whose labels have all of these texts.
fn samples<'a>(page: &'a str, family: &str, labels: &[&str]) -> Vec<&'a str> {
    let begins =
        |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let lines = page.lines().filter(begins);
    lines.filter(|line| labels.iter().all(|label| line.contains(label))).collect()
}

async fn resource_metrics_are_those_of_metrics_server(bed: Bed) -> Result<()> {
    bed.pod("p", "containers: [{name: main, image: busybox, command: [sleep, '1000']}]").await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let pod = format!("namespace=\"{}\",pod=\"p\"", bed.name);
    let missing = |page: &str| {
        let found = samples(page, "container_memory_working_set_bytes", &[&pod]);
        found.is_empty().then(|| "the container has no memory".to_owned())
    };
    let page = until(&bed, "/metrics/resource", missing).await?;
    for (family, labels) in [
        ("node_cpu_usage_seconds_total", vec![]),
        ("node_memory_working_set_bytes", vec![]),
        ("container_cpu_usage_seconds_total", vec!["container=\"main\"", &pod]),
        ("container_start_time_seconds", vec!["container=\"main\"", &pod]),
        ("pod_cpu_usage_seconds_total", vec![pod.as_str()]),
        ("pod_memory_working_set_bytes", vec![pod.as_str()]),
        ("resource_scrape_error", vec![]),
    ] {
        let found = samples(&page, family, &labels);
        ensure!(found.len() == 1, "{family}{labels:?}: {found:?}");
    }
    ensure!(page.contains("resource_scrape_error 0\n"), "{page}");
    Ok(())
}

/// Families of cAdvisor that have a sample for each container.
const OF_CONTAINERS: [&str; 24] = [
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_file_descriptors",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_failcnt",
    "container_memory_mapped_file",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_oom_events_total",
    "container_processes",
    "container_sockets",
    "container_spec_cpu_period",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_start_time_seconds",
    "container_threads",
    "container_threads_max",
    "container_ulimits_soft",
];

async fn cadvisor_metrics_name_pods_and_containers(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 0
containers:
- name: main
  image: busybox
  command: [sleep, '1000']
  resources: {limits: {cpu: 100m, memory: 64Mi}}
";
    bed.pod("p", spec).await?;
    bed.until("p", &["cond[Ready]=True"]).await?;
    let pod = format!("namespace=\"{}\",pod=\"p\"", bed.name);
    let main = ["container=\"main\"", "image=\"registry.k8s.io/e2e-test-images/busybox:", &pod];
    let missing = |page: &str| {
        let found = samples(page, "container_memory_usage_bytes", &main);
        (found.len() != 1).then(|| format!("the container's memory: {found:?}"))
    };
    let page = until(&bed, "/metrics/cadvisor", missing).await?;
    for family in OF_CONTAINERS {
        let found = samples(&page, family, &main);
        ensure!(found.len() == 1, "{family} of the container: {found:?}");
    }
    let quota = samples(&page, "container_spec_cpu_quota", &main);
    ensure!(quota.len() == 1 && quota[0].ends_with("} 10000"), "{quota:?}");
    let limit = samples(&page, "container_spec_memory_limit_bytes", &main);
    ensure!(limit[0].ends_with("} 6.7108864e+07"), "{limit:?}");

    // The sandbox has the network, and no name of a container; the pod's cgroup has no image.
    let sandbox = ["container=\"\"", "image=\"registry.k8s.io/pause:", &pod];
    let traffic = samples(&page, "container_network_receive_bytes_total", &[&pod]);
    ensure!(traffic.len() == 1, "{traffic:?}");
    let of_sandbox = samples(&page, "container_network_receive_bytes_total", &sandbox);
    ensure!(of_sandbox.len() == 1 && of_sandbox[0].contains("interface=\"eth0\""), "{traffic:?}");
    let whole = ["container=\"\"", "image=\"\"", "name=\"\"", &pod];
    ensure!(samples(&page, "container_memory_rss", &whole).len() == 1, "the pod's cgroup");
    ensure!(samples(&page, "container_memory_rss", &["id=\"/\""]).len() == 1, "the top");
    ensure!(!samples(&page, "container_fs_usage_bytes", &["id=\"/\""]).is_empty(), "disks");
    for machine in ["machine_cpu_cores", "machine_memory_bytes", "cadvisor_version_info"] {
        ensure!(samples(&page, machine, &[]).len() == 1, "{machine}");
    }
    ensure!(page.contains("container_scrape_error 0\n"));
    Ok(())
}

async fn health_checks_are_counted(bed: Bed) -> Result<()> {
    ask(&bed, "/healthz").await?;
    let page = ask(&bed, "/metrics/slis").await?;
    let healthy = samples(&page, "kubernetes_healthcheck", &["name=\"syncloop\""]);
    ensure!(healthy == ["kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 1"], "{page}");
    Ok(())
}
