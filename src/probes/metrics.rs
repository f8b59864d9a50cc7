//! The metrics of probes, under upstream's names; served at `/metrics/probes`.

use std::sync::Arc;
use std::time::Duration;

use super::{Counted, ProbeKind, ProbeObserver};
use crate::model::{Pod, pod};
use crate::telemetry::metrics::{Counter, DEFAULT_BUCKETS, Family, Histogram, Registry};

/// Registers the metrics and returns the observer that feeds them.
pub fn observer(registry: &Registry) -> Arc<dyn ProbeObserver> {
    Arc::new(ProbeMetrics::new(registry))
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
        let key = pod::key(pod);
        let uid = pod::uid(pod);
        let kind = kind.as_str();
        self.total
            .with(&[kind, result.as_str(), container, &key.name, &key.namespace, uid.as_str()])
            .inc();
        self.duration.with(&[kind, container, &key.name, &key.namespace]).observe_duration(took);
    }

    fn ended(&self, pod: &Pod) {
        let key = pod::key(pod);
        let uid = pod::uid(pod);
        self.total.retain(|labels| labels.get(5) != Some(&uid.as_str()));
        self.duration.retain(|labels| {
            labels.get(2) != Some(&&*key.name) || labels.get(3) != Some(&&*key.namespace)
        });
    }
}
