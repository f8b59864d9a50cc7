//! What is counted: upstream's names, fed by small observers that the subsystems call.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{ContainerKind, Pod, pod};
use crate::pods::execute::Count;
use crate::probes::{Counted, ProbeKind, ProbeObserver};
use crate::telemetry::metrics::{Counter, DEFAULT_BUCKETS, Family, Gauge, Histogram, Registry};
use crate::{cri, images, pleg};

/// Makes the observers of every subsystem.
#[derive(Clone, Debug)]
pub(super) struct Observers {
    operations: Family<Counter>,
    operation_errors: Family<Counter>,
    operation_durations: Family<Histogram>,
    relist: Histogram,
    relist_interval: Histogram,
    pod_read: Histogram,
    discarded: Counter,
    stream_up: Counter,
    stream_lost: Counter,
    dns_cut: Gauge,
    started_pods: [Counter; 2],
    started_pod_errors: [Counter; 2],
    started_containers: Family<Counter>,
    started_container_errors: Family<Counter>,
    image_pulls: Family<Histogram>,
    ensured_images: Family<Counter>,
    collected_images: Family<Counter>,
    probes: Arc<ProbeMetrics>,
    probe_registry: Registry,
}

impl Observers {
    /// Registers everything.
    pub(super) fn new(registry: &Registry) -> Self {
        let probe_registry = Registry::new();
        crate::telemetry::metrics::register_process(&probe_registry);
        Self {
            operations: registry.counters(
                "kubelet_runtime_operations_total",
                "[ALPHA] Cumulative number of runtime operations by operation type.",
                &["operation_type"],
            ),
            operation_errors: registry.counters(
                "kubelet_runtime_operations_errors_total",
                "[ALPHA] Cumulative number of runtime operation errors by operation type.",
                &["operation_type"],
            ),
            operation_durations: registry.histograms(
                "kubelet_runtime_operations_duration_seconds",
                "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
                &["operation_type"],
                OPERATION_BUCKETS,
            ),
            relist: registry.histogram(
                "kubelet_pleg_relist_duration_seconds",
                "[ALPHA] Duration in seconds for relisting pods in PLEG.",
                DEFAULT_BUCKETS,
            ),
            relist_interval: registry.histogram(
                "kubelet_pleg_relist_interval_seconds",
                "[ALPHA] Interval in seconds between relisting in PLEG.",
                DEFAULT_BUCKETS,
            ),
            pod_read: registry.histogram(
                "kubelet_pleg_pod_relist_duration_seconds",
                "[ALPHA] Duration in seconds for relisting a single pod in PLEG.",
                DEFAULT_BUCKETS,
            ),
            discarded: registry.counter("kubelet_pleg_discard_events", "[ALPHA] The number of discard events in PLEG."),
            stream_up: registry.counter(
                "kubelet_evented_pleg_connection_success_count",
                "[ALPHA] The number of times a streaming client was obtained to receive CRI Events.",
            ),
            stream_lost: registry.counter(
                "kubelet_evented_pleg_connection_error_count",
                "[ALPHA] The number of errors encountered during the establishment of streaming connection with the CRI runtime.",
            ),
            dns_cut: registry
                .gauge("rkubelet_dns_limited_pods", "Pods whose resolver configuration was cut to what the C library takes."),
            started_pods: started_pods(registry),
            started_pod_errors: started_pod_errors(registry),
            started_container_errors: registry.counters(
                "kubelet_started_containers_errors_total",
                "[ALPHA] Cumulative number of errors when starting containers",
                &["container_type", "code"],
            ),
            started_containers: registry.counters(
                "kubelet_started_containers_total",
                "[ALPHA] Cumulative number of containers started",
                &["container_type"],
            ),
            image_pulls: registry.histograms(
                "kubelet_image_pull_duration_seconds",
                "[ALPHA] Duration in seconds to pull an image.",
                &["image_size_in_bytes"],
                PULL_BUCKETS,
            ),
            ensured_images: registry.counters(
                "kubelet_image_manager_ensure_image_requests_total",
                "[ALPHA] Number of ensure-image requests processed by the kubelet.",
                &["present_locally", "pull_policy", "pull_required"],
            ),
            collected_images: registry.counters(
                "kubelet_image_garbage_collected_total",
                "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
                &["reason"],
            ),
            probes: Arc::new(ProbeMetrics::new(&probe_registry)),
            probe_registry,
        }
    }

    /// For the runtime's client.
    pub(super) fn cri(&self) -> cri::client::Observer {
        let this = self.clone();
        Arc::new(move |operation, took, error| {
            let labels = [operation.metric];
            this.operations.with(&labels).inc();
            this.operation_durations.with(&labels).observe_duration(took);
            if error.is_some() {
                this.operation_errors.with(&labels).inc();
            }
        })
    }

    /// For the pleg.
    pub(super) fn pleg(&self) -> pleg::Observer {
        let this = self.clone();
        Arc::new(move |measure| match measure {
            pleg::Measure::Relist { took, interval } => {
                this.relist.observe_duration(took);
                this.relist_interval.observe_duration(interval);
            }
            pleg::Measure::PodRead(took) => this.pod_read.observe_duration(took),
            pleg::Measure::ReadDiscarded => this.discarded.inc(),
            pleg::Measure::StreamUp => this.stream_up.inc(),
            pleg::Measure::StreamLost => this.stream_lost.inc(),
        })
    }

    /// For images; `pulled` is told when one has arrived.
    pub(super) fn images(&self, pulled: impl Fn() + Send + Sync + 'static) -> images::Observer {
        let this = self.clone();
        Arc::new(move |measure| match measure {
            images::Measure::Ensured { policy, present, pull_required } => {
                let text = |value: Option<bool>| match value {
                    Some(true) => "true",
                    Some(false) => "false",
                    None => "unknown",
                };
                this.ensured_images
                    .with(&[text(present), policy.label(), text(pull_required)])
                    .inc();
            }
            images::Measure::Pulled { size, took } => {
                this.image_pulls.with(&[size_bucket(size)]).observe_duration(took);
                pulled();
            }
            images::Measure::Collected { reason } => this.collected_images.with(&[reason]).inc(),
        })
    }

    /// For starts of pods and containers.
    pub(super) fn starts(&self) -> Arc<dyn Fn(Count<'_>) + Send + Sync> {
        let this = self.clone();
        let label = |kind| match kind {
            ContainerKind::Init | ContainerKind::Sidecar => "init_container",
            ContainerKind::Main => "container",
            ContainerKind::Ephemeral => "ephemeral_container",
        };
        // All pods first, then those with users of their own.
        let add = |[all, own]: &[Counter; 2], own_users| {
            all.inc();
            if own_users {
                own.inc();
            }
        };
        Arc::new(move |count| match count {
            Count::Pod { own_users } => add(&this.started_pods, own_users),
            Count::PodFailed { own_users } => add(&this.started_pod_errors, own_users),
            Count::Container(kind) => this.started_containers.with(&[label(kind)]).inc(),
            Count::DnsCut(true) => this.dns_cut.inc(),
            Count::DnsCut(false) => this.dns_cut.dec(),
            Count::ContainerFailed { kind, reason } => {
                this.started_container_errors.with(&[label(kind), reason]).inc();
            }
        })
    }

    /// For probes.
    pub(super) fn probes(&self) -> Arc<dyn ProbeObserver> {
        self.probes.clone()
    }

    /// The registry of `/metrics/probes`.
    pub(super) fn probe_registry(&self) -> Registry {
        self.probe_registry.clone()
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

/// Upstream's buckets of runtime operations, in seconds.
const OPERATION_BUCKETS: &[f64] = &[
    0.005,
    0.0125,
    0.031_25,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_8,
    7.629_394_5,
    19.073_486,
    47.683_716,
    119.209_29,
    298.023_2,
    745.058,
];

/// Upstream's buckets of pulls, in seconds.
const PULL_BUCKETS: &[f64] =
    &[1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];

/// Upstream's classes of image sizes.
fn size_bucket(bytes: u64) -> &'static str {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    match bytes {
        0 => "N/A",
        bytes if bytes < 10 * MIB => "0-10MB",
        bytes if bytes < 100 * MIB => "10MB-100MB",
        bytes if bytes < 500 * MIB => "100MB-500MB",
        bytes if bytes < GIB => "500MB-1GB",
        bytes if bytes < 5 * GIB => "1GB-5GB",
        bytes if bytes < 10 * GIB => "5GB-10GB",
        bytes if bytes < 20 * GIB => "10GB-20GB",
        bytes if bytes < 30 * GIB => "20GB-30GB",
        bytes if bytes < 40 * GIB => "30GB-40GB",
        bytes if bytes < 60 * GIB => "40GB-60GB",
        bytes if bytes < 100 * GIB => "60GB-100GB",
        _ => "GT100GB",
    }
}

#[derive(Debug)]
struct ProbeMetrics {
    total: Family<Counter>,
    duration: Family<Histogram>,
}

impl ProbeMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            total: registry.counters(
                "prober_probe_total",
                "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            ),
            duration: registry.histograms(
                "prober_probe_duration_seconds",
                "[ALPHA] Duration in seconds for a probe response.",
                &["probe_type", "container", "pod", "namespace"],
                DEFAULT_BUCKETS,
            ),
        }
    }
}

impl ProbeObserver for ProbeMetrics {
    fn attempted(
        &self,
        pod: &Pod,
        container: &str,
        kind: ProbeKind,
        result: Counted,
        took: Duration,
    ) {
        let (key, uid) = (pod::key(pod), pod::uid(pod));
        let kind = kind.as_str();
        self.total
            .with(&[kind, result.as_str(), container, &key.name, &key.namespace, uid.as_str()])
            .inc();
        self.duration.with(&[kind, container, &key.name, &key.namespace]).observe_duration(took);
    }

    fn ended(&self, pod: &Pod) {
        let (key, uid) = (pod::key(pod), pod::uid(pod));
        self.total.retain(|labels| labels.get(5) != Some(&uid.as_str()));
        self.duration.retain(|labels| {
            labels.get(2) != Some(&&*key.name) || labels.get(3) != Some(&&*key.namespace)
        });
    }
}
