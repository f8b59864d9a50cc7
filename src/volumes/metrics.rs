//! Measures the work on volumes for `/metrics`. The names are upstream's.
//!
//! Fed by the task of this room. It decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::plan::Doing;
use crate::telemetry::metrics::{Collected, Counter, Family, Histogram, Kind, Registry};

/// Upstream's buckets of operations on volumes, in seconds.
const BUCKETS: &[f64] =
    &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

/// The volumes of one plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Those that are wanted.
    pub(super) desired: u32,
    /// Those that are in place, at least in part.
    pub(super) actual: u32,
}

/// The metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    operations: Family<Histogram>,
    reconstructed: Counter,
    not_reconstructed: Counter,
    totals: Arc<Mutex<BTreeMap<String, Totals>>>,
}

impl Metrics {
    /// Registers the metrics.
    #[rustfmt::skip]
    pub(super) fn register(registry: &Registry) -> Self {
        let totals: Arc<Mutex<BTreeMap<String, Totals>>> = Arc::default();
        let shown = Arc::clone(&totals);
        registry.on_collect(move |out| show(out, &shown.lock()));
        Self {
            operations: registry.histograms("storage_operation_duration_seconds", "[ALPHA] Storage operation duration", &["migrated", "operation_name", "status", "volume_plugin"], BUCKETS),
            reconstructed: registry.counter("reconstruct_volume_operations_total", "[ALPHA] The number of volumes that were attempted to be reconstructed from the operating system during kubelet startup. This includes both successful and failed reconstruction."),
            not_reconstructed: registry.counter("reconstruct_volume_operations_errors_total", "[ALPHA] The number of volumes that failed reconstruction from the operating system during kubelet startup."),
            totals,
        }
    }

    /// Takes in that work on a volume has ended.
    pub(super) fn ended(&self, plugin: &str, doing: Doing, is_done: bool, took: Duration) {
        let operation = match doing {
            Doing::SetUp => "volume_mount",
            Doing::TearDown => "volume_unmount",
        };
        let status = if is_done { "success" } else { "fail-unknown" };
        self.operations.with(&["false", operation, status, plugin]).observe_duration(took);
    }

    /// Takes in the volumes that an earlier process left; `None`: they could not be read.
    pub(super) fn reconstructed(&self, found: Option<usize>) {
        let found = found.map(|found| u32::try_from(found).unwrap_or(u32::MAX));
        self.reconstructed.add(f64::from(found.unwrap_or(1)));
        if found.is_none() {
            self.not_reconstructed.inc();
        }
    }

    /// Takes in the volumes as they are now, by plugin.
    pub(super) fn counted(&self, totals: BTreeMap<String, Totals>) {
        *self.totals.lock() = totals;
    }
}

/// Shows the volumes of each plugin; none is no sample.
fn show(out: &mut Collected, totals: &BTreeMap<String, Totals>) {
    let help = "[ALPHA] Number of volumes in Volume Manager";
    let mut writer = out.begin("volume_manager_total_volumes", help, Kind::Gauge);
    for (plugin, Totals { desired, actual }) in totals {
        for (state, count) in
            [("actual_state_of_world", actual), ("desired_state_of_world", desired)]
        {
            if *count > 0 {
                let labels = ["plugin_name", "state"];
                writer.read_at(&labels, &[plugin.as_str(), state], f64::from(*count), None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Metrics, Totals};
    use crate::telemetry::metrics::Registry;
    use crate::volumes::plan::Doing;

    #[test]
    fn operations_and_totals_have_the_labels_of_upstream() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        metrics.ended("kubernetes.io/secret", Doing::SetUp, true, Duration::from_secs(1));
        metrics.ended("kubernetes.io/secret", Doing::TearDown, false, Duration::from_secs(1));
        let totals = Totals { desired: 2, actual: 0 };
        metrics.counted([("kubernetes.io/secret".to_owned(), totals)].into());
        let page = registry.encode();
        for line in [
            "storage_operation_duration_seconds_count{migrated=\"false\",operation_name=\"volume_mount\",status=\"success\",volume_plugin=\"kubernetes.io/secret\"} 1",
            "storage_operation_duration_seconds_count{migrated=\"false\",operation_name=\"volume_unmount\",status=\"fail-unknown\",volume_plugin=\"kubernetes.io/secret\"} 1",
            "volume_manager_total_volumes{plugin_name=\"kubernetes.io/secret\",state=\"desired_state_of_world\"} 2",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line} in {page}");
        }
        assert!(!page.contains("actual_state_of_world"), "none is shown as upstream shows none");
    }
}
