//! Counters, gauges and histograms, alone or by labels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::SERIES_PER_FAMILY;
use super::text::{Collected, Kind};

/// A floating-point number that many threads write. The text format has no other numbers.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    fn add(&self, value: f64) {
        let sum = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It never gives up: the function always has an answer.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
    }
}

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Number>);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.add(1.0);
    }

    /// Adds `value`; a negative one is ignored.
    pub fn add(&self, value: f64) {
        if value > 0.0 {
            self.0.add(value);
        }
    }

    /// The present value.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Number>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds `value`, which may be negative.
    pub fn add(&self, value: f64) {
        self.0.add(value);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.0.add(1.0);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.0.add(-1.0);
    }

    /// The present value.
    pub fn get(&self) -> f64 {
        self.0.get()
    }
}

/// How often values fell below each bound.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramInner>);

#[derive(Debug)]
struct HistogramInner {
    bounds: &'static [f64],
    /// One per bound, and one for what exceeds them all.
    counts: Box<[AtomicU64]>,
    sum: Number,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(HistogramInner { bounds, counts, sum: Number::default() }))
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        let index = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[index].fetch_add(1, Ordering::Relaxed);
        self.0.sum.add(value);
    }

    /// Counts a duration in seconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// A stopwatch that begins at `now` (seconds of any clock); see [`Timer::observe`].
    pub fn start(&self, now: Duration) -> Timer {
        Timer { histogram: self.clone(), began: now }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// A stopwatch of a [`Histogram`].
#[derive(Debug)]
pub struct Timer {
    histogram: Histogram,
    began: Duration,
}

impl Timer {
    /// Counts the time from the start to `now`, a reading of the same clock.
    pub fn observe(self, now: Duration) {
        self.histogram.observe_duration(now.saturating_sub(self.began));
    }
}

/// A kind of metric that a family can have.
pub trait Metric: Clone {
    /// A new one at zero.
    #[doc(hidden)]
    fn make(buckets: &'static [f64]) -> Self;
}

impl Metric for Counter {
    fn make(_: &'static [f64]) -> Self {
        Self::default()
    }
}

impl Metric for Gauge {
    fn make(_: &'static [f64]) -> Self {
        Self::default()
    }
}

impl Metric for Histogram {
    fn make(buckets: &'static [f64]) -> Self {
        Self::new(buckets)
    }
}

type Labels = Box<[Box<str>]>;

/// What the clones of a family share.
#[derive(Debug)]
pub(super) struct Core<M>(Arc<CoreInner<M>>);

impl<M> Clone for Core<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct CoreInner<M> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    series: RwLock<BTreeMap<Labels, M>>,
    limit: AtomicUsize,
}

impl<M> Core<M> {
    pub(super) fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        let limit = AtomicUsize::new(SERIES_PER_FAMILY);
        Self(Arc::new(CoreInner { name, help, labels, series: RwLock::default(), limit }))
    }
}

/// Metrics of one name that differ in their labels.
#[derive(Clone, Debug)]
pub struct Family<M> {
    core: Core<M>,
    buckets: &'static [f64],
}

impl<M: Metric> Family<M> {
    pub(super) fn new(core: Core<M>, buckets: &'static [f64]) -> Self {
        Self { core, buckets }
    }

    /// Limits the number of series.
    #[must_use]
    pub fn bounded(self, series: usize) -> Self {
        self.core.0.limit.store(series, Ordering::Relaxed);
        self
    }

    /// The metric with these values of the labels, made at zero if there is none. Beyond the bound
    /// it is not shown.
    pub fn with(&self, values: &[&str]) -> M {
        let core = &self.core.0;
        debug_assert_eq!(
            values.len(),
            core.labels.len(),
            "{} has the labels {:?}",
            core.name,
            core.labels
        );
        let key: Labels = values.iter().map(|value| Box::from(*value)).collect();
        if let Some(metric) = core.series.read().get(&key) {
            return metric.clone();
        }
        let mut series = core.series.write();
        if series.len() >= core.limit.load(Ordering::Relaxed) && !series.contains_key(&key) {
            return M::make(self.buckets);
        }
        series.entry(key).or_insert_with(|| M::make(self.buckets)).clone()
    }

    /// Forgets the series with these values; its next use begins at zero.
    pub fn remove(&self, values: &[&str]) {
        self.retain(|labels| labels != values);
    }

    /// Forgets the series for whose values `keep` is false.
    pub fn retain(&self, keep: impl Fn(&[&str]) -> bool) {
        self.core.0.series.write().retain(|labels, _| keep(&texts(labels)));
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.core.0.series.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn texts(labels: &Labels) -> Vec<&str> {
    labels.iter().map(|label| &**label).collect()
}

/// A family of any kind, as the registry keeps it.
#[derive(Clone, Debug)]
pub(super) enum AnyFamily {
    Counter(Core<Counter>),
    Gauge(Core<Gauge>),
    Histogram(Core<Histogram>, &'static [f64]),
}

impl AnyFamily {
    pub(super) fn write(&self, out: &mut Collected) {
        match self {
            Self::Counter(core) => simple(&core.0, Kind::Counter, Counter::get, out),
            Self::Gauge(core) => simple(&core.0, Kind::Gauge, Gauge::get, out),
            Self::Histogram(core, _) => histograms(&core.0, out),
        }
    }
}

fn simple<M>(core: &CoreInner<M>, kind: Kind, value: impl Fn(&M) -> f64, out: &mut Collected) {
    let series = core.series.read();
    let mut family = out.begin(core.name, core.help, kind);
    for (labels, metric) in series.iter() {
        family.sample("", core.labels, &texts(labels), None, value(metric));
    }
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn histograms(core: &CoreInner<Histogram>, out: &mut Collected) {
    let series = core.series.read();
    let mut family = out.begin(core.name, core.help, Kind::Histogram);
    for (labels, histogram) in series.iter() {
        let values = texts(labels);
        let inner = &histogram.0;
        let mut total = 0;
        for (bound, count) in inner.bounds.iter().copied().chain([f64::INFINITY]).zip(&inner.counts)
        {
            total += count.load(Ordering::Relaxed);
            family.sample("_bucket", core.labels, &values, Some(bound), total as f64);
        }
        family.sample("_sum", core.labels, &values, None, inner.sum.get());
        family.sample("_count", core.labels, &values, None, total as f64);
    }
}
