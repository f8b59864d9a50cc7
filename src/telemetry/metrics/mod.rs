//! The registry of metrics and its text format 0.0.4: what Prometheus scrapes from `/metrics`.
//!
//! Our own because no library writes the names that dashboards know: they append `_total`, or write
//! OpenMetrics only. A [`Registry`] and every metric are cheap to clone; writing to a metric is one
//! atomic operation. Series are bounded per family: what exceeds the bound is counted but not
//! shown, so that a bug in a label cannot eat the memory. Values that are only known when somebody
//! asks are written by a callback ([`Registry::on_collect`]).

mod families;
mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

pub use families::{Counter, Family, Gauge, Histogram, Timer};
pub use process::{
    BuildInfo, register_build_info, register_features, register_process, register_start_time,
};
pub use text::{Collected, FamilyWriter, Kind};

use families::{AnyFamily, Core};

/// Series that one family may have unless it says otherwise.
const SERIES_PER_FAMILY: usize = 2000;

/// Upper bounds in seconds that Prometheus' libraries use when nothing else is said.
pub const DEFAULT_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Callback = Box<dyn Fn(&mut Collected) + Send + Sync>;

/// Every metric of the process, or of one endpoint.
#[derive(Clone, Default)]
pub struct Registry(Arc<Inner>);

#[derive(Default)]
struct Inner {
    families: RwLock<BTreeMap<&'static str, AnyFamily>>,
    callbacks: RwLock<Vec<Callback>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("families", &self.0.families.read().len())
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that only grows.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counters(name, help, &[]).with(&[])
    }

    /// Numbers that only grow, by labels.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Counter> {
        let core = self.family(name, || AnyFamily::Counter(Core::new(name, help, labels)));
        match core {
            AnyFamily::Counter(core) => Family::new(core, &[]),
            AnyFamily::Gauge(_) | AnyFamily::Histogram(..) => {
                Family::new(mismatch(name, help, labels), &[])
            }
        }
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.gauges(name, help, &[]).with(&[])
    }

    /// Numbers that go up and down, by labels.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Gauge> {
        let core = self.family(name, || AnyFamily::Gauge(Core::new(name, help, labels)));
        match core {
            AnyFamily::Gauge(core) => Family::new(core, &[]),
            AnyFamily::Counter(_) | AnyFamily::Histogram(..) => {
                Family::new(mismatch(name, help, labels), &[])
            }
        }
    }

    /// How often values fell below each of `buckets` (ascending upper bounds, without infinity).
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        buckets: &'static [f64],
    ) -> Histogram {
        self.histograms(name, help, &[], buckets).with(&[])
    }

    /// Histograms by labels.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        buckets: &'static [f64],
    ) -> Family<Histogram> {
        debug_assert!(buckets.is_sorted_by(|a, b| a < b), "{name}: buckets must ascend");
        let core =
            self.family(name, || AnyFamily::Histogram(Core::new(name, help, labels), buckets));
        match core {
            AnyFamily::Histogram(core, buckets) => Family::new(core, buckets),
            AnyFamily::Counter(_) | AnyFamily::Gauge(_) => {
                Family::new(mismatch(name, help, labels), buckets)
            }
        }
    }

    /// Runs `callback` at every scrape; what it writes is shown in its place by name. It must not
    /// block.
    pub fn on_collect(&self, callback: impl Fn(&mut Collected) + Send + Sync + 'static) {
        self.0.callbacks.write().push(Box::new(callback));
    }

    /// Everything in text format 0.0.4, sorted by name.
    pub fn encode(&self) -> String {
        self.encode_with(|_| {})
    }

    /// The same, with what `more` adds.
    pub fn encode_with(&self, more: impl FnOnce(&mut Collected)) -> String {
        let mut collected = Collected::default();
        for family in self.0.families.read().values() {
            family.write(&mut collected);
        }
        for callback in self.0.callbacks.read().iter() {
            callback(&mut collected);
        }
        more(&mut collected);
        collected.into_text()
    }

    /// The family of this name, made by `make` if there is none. Registering twice gives the same
    /// one.
    fn family(&self, name: &'static str, make: impl FnOnce() -> AnyFamily) -> AnyFamily {
        debug_assert!(is_name(name), "{name} is no name of a metric");
        self.0.families.write().entry(name).or_insert_with(make).clone()
    }
}

/// A family that is not shown, for a name that is already something else: a bug, which must not end
/// the process.
fn mismatch<M>(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Core<M> {
    debug_assert!(false, "{name} is registered as two kinds of metric");
    tracing::error!(metric = name, "A metric is registered as two kinds; the second is not shown");
    Core::new(name, help, labels)
}

fn is_name(name: &str) -> bool {
    name.bytes().enumerate().all(|(index, byte)| {
        byte.is_ascii_alphabetic()
            || byte == b'_'
            || byte == b':'
            || (index > 0 && byte.is_ascii_digit())
    }) && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_each_kind_sorted_by_name() {
        let registry = Registry::new();
        let operations =
            registry.counters("b_total", "Operations.\nBy \\ type.", &["type", "verb"]);
        operations.with(&["pull", "a\"b"]).inc();
        operations.with(&["exec", "x"]).add(2.5);
        registry.gauge("c", "Level.").set(-1.0);
        let seconds = registry.histogram("a_seconds", "Duration.", &[0.1, 1.0]);
        seconds.observe(0.1);
        seconds.observe(0.5);
        seconds.observe(7.0);
        registry
            .on_collect(|out| out.family("b", "Asked.", Kind::Gauge, &["id"], &[(&["1"], 1e6)]));
        assert_eq!(
            registry.encode(),
            "# HELP a_seconds Duration.\n\
             # TYPE a_seconds histogram\n\
             a_seconds_bucket{le=\"0.1\"} 1\n\
             a_seconds_bucket{le=\"1\"} 2\n\
             a_seconds_bucket{le=\"+Inf\"} 3\n\
             a_seconds_sum 7.6\n\
             a_seconds_count 3\n\
             # HELP b Asked.\n\
             # TYPE b gauge\n\
             b{id=\"1\"} 1e+06\n\
             # HELP b_total Operations.\\nBy \\\\ type.\n\
             # TYPE b_total counter\n\
             b_total{type=\"exec\",verb=\"x\"} 2.5\n\
             b_total{type=\"pull\",verb=\"a\\\"b\"} 1\n\
             # HELP c Level.\n\
             # TYPE c gauge\n\
             c -1\n"
        );
    }

    #[test]
    fn a_sample_may_have_a_time_of_its_own() {
        let mut page = Collected::default();
        let mut family = page.begin("x", "X.", Kind::Gauge);
        family.read_at(&["a"], &["1"], 2.0, Some(1_700_000_000_123));
        family.read_at(&["a"], &["2"], 2.0, None);
        drop(family);
        let text = page.into_text();
        let samples = "x{a=\"1\"} 2 1700000000123\nx{a=\"2\"} 2\n";
        assert_eq!(text, format!("# HELP x X.\n# TYPE x gauge\n{samples}"));
    }

    #[test]
    fn a_family_without_series_is_not_shown() {
        let registry = Registry::new();
        let family = registry.gauges("x", "X.", &["a"]);
        assert_eq!(registry.encode(), "");
        family.with(&["1"]).set(1.0);
        family.with(&["2"]).set(2.0);
        family.remove(&["1"]);
        assert_eq!(registry.encode(), "# HELP x X.\n# TYPE x gauge\nx{a=\"2\"} 2\n");
        family.retain(|labels| labels != ["2"]);
        assert_eq!(registry.encode(), "");
    }

    #[test]
    fn series_are_bounded() {
        let registry = Registry::new();
        let family = registry.counters("x_total", "X.", &["a"]).bounded(2);
        for label in ["1", "2", "3", "1"] {
            family.with(&[label]).inc();
        }
        assert_eq!(family.len(), 2);
        let text = registry.encode();
        assert!(text.contains("x_total{a=\"1\"} 2\n") && !text.contains("a=\"3\""), "{text}");
    }

    #[test]
    fn registering_twice_gives_the_same_metric() {
        let registry = Registry::new();
        registry.counter("x_total", "X.").inc();
        registry.clone().counter("x_total", "X.").inc();
        assert!(registry.encode().ends_with("x_total 2\n"));
    }

    #[test]
    fn the_process_and_the_build_are_there() {
        let registry = Registry::new();
        register_process(&registry);
        register_build_info(
            &registry,
            &BuildInfo { git_version: "v1.36.3", major: "1", minor: "36", platform: "linux/amd64" },
        );
        register_features(&registry, vec![("NodeSwap", "", true), ("MemoryQoS", "ALPHA", false)]);
        let text = registry.encode();
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ] {
            let value = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok())
                .unwrap_or_else(|| panic!("{name} in {text}"));
            assert!(value >= 0.0 && (name.contains("cpu") || value > 0.0), "{name} {value}");
        }
        assert!(
            text.contains("kubernetes_feature_enabled{name=\"MemoryQoS\",stage=\"ALPHA\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("git_version=\"v1.36.3\""), "{text}");
    }
}
