//! The metric of calls to CSI drivers, under upstream's name.

use std::sync::Arc;

use super::client::Observer;
use super::error::CsiError;
use crate::cri::error::code_name;
use crate::telemetry::metrics::Registry;

/// Upstream's buckets, in seconds.
const BUCKETS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

/// Registers the metric and returns the observer that feeds it.
pub fn observer(registry: &Registry) -> Observer {
    let durations = registry.histograms(
        "csi_operations_seconds",
        "[ALPHA] Container Storage Interface operation duration with gRPC error code status total",
        &["driver_name", "method_name", "grpc_status_code", "migrated"],
        BUCKETS,
    );

    Arc::new(move |driver, method, took, error| {
        let code = match error {
            None => "OK",
            Some(CsiError::Call(error)) => code_name(error.code),
            Some(CsiError::NotRegistered(_) | CsiError::Answer(_)) => "unknown-non-grpc",
        };
        durations.with(&[driver, method, code, "false"]).observe_duration(took);
    })
}
