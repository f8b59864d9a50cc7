//! Measures how long work on cgroups takes, under upstream's name.
//!
//! A [`Timed`] backend does what the one inside does, and observes each creation, update and
//! removal. It changes nothing about them.

use std::collections::BTreeSet;
use std::fmt;

use super::apply::Backend;
use super::pod_config::{CgroupSettings, Figures, Reading};
use crate::clock::Clock;
use crate::linux::cgroup::CgroupError;
use crate::telemetry::metrics::{DEFAULT_BUCKETS, Family, Histogram, Registry};

/// A backend whose work is measured.
pub(super) struct Timed<B> {
    inner: B,
    durations: Durations,
}

impl<B> Timed<B> {
    /// Measures the work of `inner`.
    pub(super) fn new(inner: B, durations: Durations) -> Self {
        Self { inner, durations }
    }
}

impl<B: fmt::Debug> fmt::Debug for Timed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timed").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The durations of work on cgroups, by what was done.
#[derive(Clone)]
pub struct Durations {
    family: Family<Histogram>,
    clock: Clock,
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durations").finish_non_exhaustive()
    }
}

impl Durations {
    /// Registers the metric.
    pub fn register(registry: &Registry, clock: Clock) -> Self {
        let name = "kubelet_cgroup_manager_duration_seconds";
        let help =
            "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.";
        let family = registry.histograms(name, help, &["operation_type"], DEFAULT_BUCKETS);
        Self { family, clock }
    }

    fn observe<T>(&self, operation: &str, work: impl FnOnce() -> T) -> T {
        let began = self.clock.now().mono;
        let outcome = work();
        let took = self.clock.now().mono.since(began);
        self.family.with(&[operation]).observe_duration(took);
        outcome
    }
}

impl<B: Backend> Backend for Timed<B> {
    fn validate(&self, path: &str) -> Result<(), CgroupError> {
        self.inner.validate(path)
    }

    fn create(&self, top: &str, path: &str) -> Result<(), CgroupError> {
        self.durations.observe("create", || self.inner.create(top, path))
    }

    fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
        self.durations.observe("update", || self.inner.update(path, settings))
    }

    fn read(&self, path: &str) -> Result<Reading, CgroupError> {
        self.inner.read(path)
    }

    fn kept(&self, figures: Figures) -> Figures {
        self.inner.kept(figures)
    }

    fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        self.inner.children(path)
    }

    fn kill(&self, path: &str) -> Result<usize, CgroupError> {
        self.inner.kill(path)
    }

    fn remove(&self, path: &str) -> Result<(), CgroupError> {
        self.durations.observe("destroy", || self.inner.remove(path))
    }
}

#[cfg(test)]
mod tests {
    use super::{Backend as _, Durations, Timed};
    use crate::clock::Clock;
    use crate::linux::cgroup::{CgroupFs, Layout};
    use crate::model::Wall;
    use crate::resources::pod_config::CgroupSettings;
    use crate::telemetry::metrics::Registry;

    #[tokio::test]
    async fn each_kind_of_work_is_counted_whether_or_not_it_succeeds() {
        let registry = Registry::new();
        let durations = Durations::register(&registry, Clock::starting_at(Wall::UNIX_EPOCH));
        let fs = CgroupFs::new(Layout::V2("/nowhere".into()), Vec::new());
        let timed = Timed::new(fs, durations);
        timed.update("/a", &CgroupSettings::default()).ok();
        timed.update("/b", &CgroupSettings::default()).ok();
        timed.create("/", "/a").expect_err("there is no such place");
        let page = registry.encode();
        for (operation, count) in [("create", 1), ("update", 2)] {
            let line = format!(
                "kubelet_cgroup_manager_duration_seconds_count{{operation_type=\"{operation}\"}} {count}"
            );
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
