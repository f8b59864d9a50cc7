//! The metrics of reading the runtime, under upstream's names.

use std::sync::Arc;

use super::{Measure, Observer};
use crate::telemetry::metrics::{DEFAULT_BUCKETS, Registry};

/// Registers the metrics and returns the observer that feeds them.
///
/// The runtime's events are heard whatever the feature gate `EventedPLEG` says: they are this
/// kubelet's own way to read what has changed, beside its lists. `is_evented` is the gate: without
/// it the metrics of the stream stay at zero, as upstream's do.
pub fn observer(registry: &Registry, is_evented: bool) -> Observer {
    let relist = registry.histogram(
        "kubelet_pleg_relist_duration_seconds",
        "[ALPHA] Duration in seconds for relisting pods in PLEG.",
        DEFAULT_BUCKETS,
    );
    let relist_interval = registry.histogram(
        "kubelet_pleg_relist_interval_seconds",
        "[ALPHA] Interval in seconds between relisting in PLEG.",
        DEFAULT_BUCKETS,
    );
    let pod_read = registry.histogram(
        "kubelet_pleg_pod_relist_duration_seconds",
        "[ALPHA] Duration in seconds for relisting a single pod in PLEG.",
        DEFAULT_BUCKETS,
    );
    let discarded = registry
        .counter("kubelet_pleg_discard_events", "[ALPHA] The number of discard events in PLEG.");
    let stream_up = registry.counter(
        "kubelet_evented_pleg_connection_success_count",
        "[ALPHA] The number of times a streaming client was obtained to receive CRI Events.",
    );
    let stream_lost = registry.counter(
        "kubelet_evented_pleg_connection_error_count",
        "[ALPHA] The number of errors encountered during the establishment of streaming connection with the CRI runtime.",
    );
    let latency = registry.histogram(
        "kubelet_evented_pleg_connection_latency_seconds",
        "[ALPHA] The latency of streaming connection with the CRI runtime, measured in seconds.",
        DEFAULT_BUCKETS,
    );

    Arc::new(move |measure| match measure {
        Measure::Relist { took, interval } => {
            relist.observe_duration(took);
            relist_interval.observe_duration(interval);
        }
        Measure::PodRead(took) => pod_read.observe_duration(took),
        Measure::ReadDiscarded => discarded.inc(),
        Measure::StreamUp if is_evented => stream_up.inc(),
        Measure::StreamLost if is_evented => stream_lost.inc(),
        Measure::EventAge(age) if is_evented => latency.observe_duration(age),
        Measure::StreamUp | Measure::StreamLost | Measure::EventAge(_) => {}
    })
}
