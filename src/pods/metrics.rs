//! The metrics of starts of pods and containers, under upstream's names.

use std::sync::Arc;

use super::execute::Count;
use crate::model::ContainerKind;
use crate::telemetry::metrics::{Counter, DEFAULT_BUCKETS, Registry};

/// The bounds of the durations of resizes in milliseconds; upstream's.
const RESIZE_BUCKETS: &[f64] = &[
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 60_000.0,
    120_000.0, 300_000.0, 600_000.0,
];

/// Feeds the metrics.
pub type Observer = Arc<dyn Fn(Count<'_>) + Send + Sync>;

/// Registers the metrics and returns the observer that feeds them.
pub fn observer(registry: &Registry) -> Observer {
    let pods = started_pods(registry);
    let pod_errors = started_pod_errors(registry);
    let containers = registry.counters(
        "kubelet_started_containers_total",
        "[ALPHA] Cumulative number of containers started",
        &["container_type"],
    );
    let container_errors = registry.counters(
        "kubelet_started_containers_errors_total",
        "[ALPHA] Cumulative number of errors when starting containers",
        &["container_type", "code"],
    );
    let sandboxes = registry.histograms(
        "kubelet_run_podsandbox_duration_seconds",
        "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
        &["runtime_handler"],
        DEFAULT_BUCKETS,
    );
    let sandbox_errors = registry.counters(
        "kubelet_run_podsandbox_errors_total",
        "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
        &["runtime_handler"],
    );
    let dns_cut = registry.gauge(
        "rkubelet_dns_limited_pods",
        "Pods whose resolver configuration was cut to what the C library takes.",
    );
    let resizes = registry.histograms(
        "kubelet_pod_resize_duration_milliseconds",
        "[ALPHA] Duration in milliseconds to actuate a pod resize",
        &["success"],
        RESIZE_BUCKETS,
    );

    Arc::new(move |count| match count {
        Count::Pod { own_users } => add(&pods, own_users),
        Count::PodFailed { own_users } => add(&pod_errors, own_users),
        Count::Sandbox { handler, took, failed } => {
            sandboxes.with(&[handler]).observe_duration(took);
            if failed {
                sandbox_errors.with(&[handler]).inc();
            }
        }
        Count::OwnUsersFailed => pod_errors[1].inc(),
        Count::Container(kind) => containers.with(&[label(kind)]).inc(),
        Count::ContainerFailed { kind, reason } => {
            container_errors.with(&[label(kind), reason]).inc();
        }
        Count::Resized { took, success } => {
            let success = if success { "true" } else { "false" };
            resizes.with(&[success]).observe(took.as_secs_f64() * 1000.0);
        }
        Count::DnsCut(true) => dns_cut.inc(),
        Count::DnsCut(false) => dns_cut.dec(),
    })
}

/// Upstream's name of a kind of container.
fn label(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Init | ContainerKind::Sidecar => "init_container",
        ContainerKind::Main => "container",
        ContainerKind::Ephemeral => "ephemeral_container",
    }
}

/// Counts a pod, and once more if it has users of its own.
fn add([all, own]: &[Counter; 2], own_users: bool) {
    all.inc();
    if own_users {
        own.inc();
    }
}

/// Sandboxes that were begun: all, and those of pods with users of their own.
fn started_pods(registry: &Registry) -> [Counter; 2] {
    [
        registry.counter("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started"),
        registry.counter(
            "kubelet_started_user_namespaced_pods_total",
            "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
        ),
    ]
}

/// Those of them that failed.
fn started_pod_errors(registry: &Registry) -> [Counter; 2] {
    [
        registry.counter("kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods"),
        registry.counter(
            "kubelet_started_user_namespaced_pods_errors_total",
            "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.",
        ),
    ]
}
