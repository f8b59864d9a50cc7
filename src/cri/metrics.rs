//! The metrics of calls to the runtime, under upstream's names.

use std::sync::Arc;

use super::client::Observer;
use crate::telemetry::metrics::Registry;

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

/// Registers the metrics and returns the observer that feeds them.
pub fn observer(registry: &Registry) -> Observer {
    let operations = registry.counters(
        "kubelet_runtime_operations_total",
        "[ALPHA] Cumulative number of runtime operations by operation type.",
        &["operation_type"],
    );
    let errors = registry.counters(
        "kubelet_runtime_operations_errors_total",
        "[ALPHA] Cumulative number of runtime operation errors by operation type.",
        &["operation_type"],
    );
    let durations = registry.histograms(
        "kubelet_runtime_operations_duration_seconds",
        "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.",
        &["operation_type"],
        OPERATION_BUCKETS,
    );

    Arc::new(move |operation, took, error| {
        let labels = [operation.metric];
        operations.with(&labels).inc();
        durations.with(&labels).observe_duration(took);
        if error.is_some() {
            errors.with(&labels).inc();
        }
    })
}
