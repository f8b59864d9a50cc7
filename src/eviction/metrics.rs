//! The metrics of eviction, under upstream's names.

use crate::telemetry::metrics::{Counter, DEFAULT_BUCKETS, Family, Histogram, Registry};

/// The metrics.
#[derive(Clone)]
pub struct Metrics {
    /// Pods that were evicted, by signal.
    pub(super) evictions: Family<Counter>,
    /// How old the readings were that evictions followed from, by signal.
    pub(super) age: Family<Histogram>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Self {
        let labels = &["eviction_signal"];
        Self {
            evictions: registry.counters(
                "kubelet_evictions",
                "[ALPHA] Cumulative number of pod evictions by eviction signal",
                labels,
            ),
            age: registry.histograms(
                "kubelet_eviction_stats_age_seconds",
                "[ALPHA] Time between when stats are collected, and when pod is evicted based on those stats by eviction signal",
                labels,
                DEFAULT_BUCKETS,
            ),
        }
    }
}
