//! The metrics of a graceful shutdown, under upstream's names.

use crate::telemetry::metrics::{Gauge, Registry};

/// The metrics.
#[derive(Clone)]
pub struct Metrics {
    /// The time at which the last shutdown began, in seconds since the epoch.
    pub(super) start: Gauge,
    /// The time at which it ended; 0 while it is under way.
    pub(super) end: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Self {
        Self {
            start: registry.gauge(
                "kubelet_graceful_shutdown_start_time_seconds",
                "[ALPHA] Last graceful shutdown start time since unix epoch in seconds",
            ),
            end: registry.gauge(
                "kubelet_graceful_shutdown_end_time_seconds",
                "[ALPHA] Last graceful shutdown end time since unix epoch in seconds",
            ),
        }
    }
}
