//! The metrics of images, under upstream's names.

use std::sync::Arc;

use super::plugins::PluginObserver;
use super::{Measure, Observer};
use crate::telemetry::metrics::Registry;

/// Upstream's buckets of pulls, in seconds.
const PULL_BUCKETS: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];

/// Prometheus' own buckets, in seconds.
const DEFAULT_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Registers the metrics and returns the observer that feeds them.
pub fn observer(registry: &Registry) -> Observer {
    let pulls = registry.histograms(
        "kubelet_image_pull_duration_seconds",
        "[ALPHA] Duration in seconds to pull an image.",
        &["image_size_in_bytes"],
        PULL_BUCKETS,
    );
    let ensured = registry.counters(
        "kubelet_image_manager_ensure_image_requests_total",
        "[ALPHA] Number of ensure-image requests processed by the kubelet.",
        &["present_locally", "pull_policy", "pull_required"],
    );
    let collected = registry.counters(
        "kubelet_image_garbage_collected_total",
        "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
        &["reason"],
    );

    Arc::new(move |measure| match measure {
        Measure::Ensured { policy, present, pull_required } => {
            ensured.with(&[text(present), policy.label(), text(pull_required)]).inc();
        }
        Measure::Pulled { size, took } => {
            pulls.with(&[size_bucket(size)]).observe_duration(took);
        }
        Measure::Collected { reason } => collected.with(&[reason]).inc(),
    })
}

/// Registers the metrics of credential provider plug-ins, and shows the hash of their
/// configuration. Returns the observer of their runs.
pub fn plugin_observer(registry: &Registry, hash: &str) -> PluginObserver {
    let errors = registry.counters(
        "kubelet_credential_provider_plugin_errors_total",
        "[ALPHA] Number of errors from credential provider plugin",
        &["plugin_name"],
    );
    let durations = registry.histograms(
        "kubelet_credential_provider_plugin_duration",
        "[ALPHA] Duration of execution in seconds for credential provider plugin",
        &["plugin_name"],
        DEFAULT_BUCKETS,
    );
    let info = registry.gauges(
        "kubelet_credential_provider_config_info",
        "[ALPHA] Information about the last applied credential provider configuration with hash as label",
        &["hash"],
    );
    info.with(&[hash]).set(1.0);

    Arc::new(move |name, took, failed| {
        if failed {
            errors.with(&[name]).inc();
        }
        durations.with(&[name]).observe_duration(took);
    })
}

/// Writes a label that may be unknown, as upstream does.
fn text(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "true",
        Some(false) => "false",
        None => "unknown",
    }
}

/// Returns upstream's class of an image's size.
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
