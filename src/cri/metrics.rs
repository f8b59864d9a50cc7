//! The metrics of calls to the runtime, under upstream's names.

use std::sync::Arc;

use super::client::Observer;
use crate::telemetry::metrics::Registry;

/// Upstream's buckets of runtime operations, in seconds, to the last digit: a query that adds up
/// the buckets of several nodes matches them by text.
const OPERATION_BUCKETS: &[f64] = &[
    0.005,
    0.0125,
    0.031_25,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_812_5,
    7.629_394_531_25,
    19.073_486_328_125,
    47.683_715_820_312_5,
    119.209_289_550_781_25,
    298.023_223_876_953_1,
    745.058_059_692_382_8,
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
