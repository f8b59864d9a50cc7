//! The families of `/metrics`, by name, label names and buckets, compared with those that
//! upstream's kubelet serves for the same pods.
//!
//! `metrics.upstream.txt` has upstream's, recorded from Kubernetes 1.36.3 on this machine. With
//! `KUBELET=upstream` the same case checks the recording.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bed::Bed;
use crate::{Case, case, run};

pub(crate) fn cases() -> Vec<Case> {
    vec![case(families_are_those_of_upstream)]
}

/// The families that ours does not serve, by the begin of their names, and why.
const MISSING: [(&str, &str); 20] = [
    ("cardinality_enforcement_", "upstream's registry counts its own limits"),
    ("disabled_metrics_total", "upstream's registry counts itself"),
    ("hidden_metrics_total", "upstream's registry counts itself"),
    ("registered_metrics_total", "upstream's registry counts itself"),
    ("workqueue_", "the queues of client-go, which ours does not have"),
    ("rest_client_exec_plugin_", "client-go's; ours keeps no such history"),
    ("rest_client_transport_", "client-go's cache of transports, which ours does not have"),
    ("force_cleaned_failed_volume_", "ours has no second way to clean up what it cannot read"),
    ("volume_operation_total_seconds", "to do: the time from the wish to the mount"),
    ("kubelet_cpu_manager_", "to do with the managers of resources"),
    ("kubelet_memory_manager_", "to do with the managers of resources"),
    ("kubelet_topology_manager_", "to do with the managers of resources"),
    ("kubelet_evented_pleg_connection_latency_seconds", "to do"),
    ("kubelet_graceful_shutdown_", "to do with graceful shutdown"),
    ("kubelet_image_volume_", "to do"),
    ("kubelet_imagemanager_", "to do"),
    ("kubelet_lifecycle_handler_http_fallbacks_total", "to do"),
    ("kubelet_sleep_action_terminated_early_total", "to do"),
    ("kubelet_pod_in_progress_resizes", "to do"),
    ("kubelet_pod_watch_events_dropped_total", "ours drops none: the newest object counts"),
];

/// Each family of a page with the names of its labels and the bounds of its buckets:
/// `family{label,label} 0.1 1 +Inf`.
fn families(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let histograms: BTreeSet<&str> =
        types.filter_map(|line| line.strip_suffix(" histogram")).collect();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some(end) = line.find(['{', ' ']) else { continue };
        let (name, rest) = line.split_at(end);
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix).filter(|base| histograms.contains(base)));
        let braces = rest.strip_prefix('{').and_then(|rest| rest.rsplit_once('}'));
        let labels = braces.map(|(labels, _)| labels).unwrap_or_default();
        let mut names = label_names(labels);
        names.remove("le");
        let names: Vec<&str> = names.into_iter().collect();
        let family = format!("{}{{{}}}", base.unwrap_or(name), names.join(","));
        let bounds = found.entry(family).or_default();
        let bound = labels.split_once("le=\"").and_then(|(_, rest)| rest.split('"').next());
        if let Some(bound) =
            bound.filter(|bound| base.is_some() && !bounds.iter().any(|known| known == bound))
        {
            bounds.push(bound.to_owned());
        }
    }
    found.into_iter().map(|(family, bounds)| [vec![family], bounds].concat().join(" ")).collect()
}

/// The names in `a="1",b="2"`. No value here has a quote in it.
fn label_names(labels: &str) -> BTreeSet<&str> {
    labels
        .split('"')
        .step_by(2)
        .filter_map(|part| part.trim_start_matches(',').strip_suffix('='))
        .collect()
}

async fn families_are_those_of_upstream(bed: Bed) -> Result<()> {
    let spec = "
terminationGracePeriodSeconds: 0
restartPolicy: Never
containers:
- name: main
  image: busybox
  command: [sh, -c, 'echo line; sleep 1000']
  volumeMounts: [{name: data, mountPath: /data}]
- name: ends
  image: busybox
  command: [sh, -c, 'exit 3']
volumes: [{name: data, emptyDir: {}}]
";
    bed.pod("p", spec).await?;
    bed.until("p", &["c[ends].state.terminated.exitCode=3", "c[main].state.running.startedAt=?*"])
        .await?;
    // A start is measured of a pod whose containers all run.
    let spec = "
terminationGracePeriodSeconds: 0
containers: [{name: main, image: busybox, command: [sleep, '1000']}]
";
    bed.pod("runs", spec).await?;
    bed.until("runs", &["cond[Ready]=True"]).await?;

    let excused = |family: &str| {
        let is_known = MISSING.iter().any(|(name, _)| family.starts_with(name));
        run::kubelet() != "upstream" && is_known
    };
    let began = Instant::now();
    loop {
        let page = bed.kubectl(&["get", "--raw", "/api/v1/nodes/n1/proxy/metrics"]).await?;
        let served = families(&page);
        let recorded = include_str!("metrics.upstream.txt").lines();
        let missing: Vec<&str> =
            recorded.filter(|family| !served.contains(*family) && !excused(family)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(90) {
            bail!("families that upstream has are missing: {missing:?}");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
