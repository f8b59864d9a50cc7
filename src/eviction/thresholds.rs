//! Thresholds: how little of something the node may have, and since when it has had less. Pure.
//!
//! Made from the configuration once; compared with every reading. [`super::decide`] keeps what has
//! to be remembered between readings.

use std::collections::BTreeMap;
use std::time::Duration;

use super::quantity::Quantity;
use super::signals::{Observation, Observations, Signal};
use crate::config::GoDuration;
use crate::model::quantity::QuantityError;

/// An amount, or a part of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// An amount, e.g. of `100Mi`.
    Amount(Quantity),
    /// A part of the capacity: `0.1` for `10%`. Single precision, as upstream computes.
    Fraction(f32),
}

impl Value {
    /// Returns the amount on a node with this capacity.
    pub fn of(self, capacity: Quantity) -> Quantity {
        match self {
            Self::Amount(quantity) => quantity,
            Self::Fraction(fraction) => capacity.part(fraction),
        }
    }
}

/// One threshold: met while less than `value` is available.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// The signal that it is about.
    pub signal: Signal,
    /// The least that has to be available.
    pub value: Value,
    /// How long it has to be met before pods are evicted; zero for a hard threshold.
    pub grace: Duration,
    /// What has to be available beyond `value` before it is no longer met.
    pub min_reclaim: Option<Value>,
}

impl Threshold {
    /// Returns true if pods are evicted at once.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }

    /// Returns true if both are the same threshold, whatever they reclaim.
    fn is_same(&self, other: &Self) -> bool {
        self.signal == other.signal && self.value == other.value && self.grace == other.grace
    }

    fn is_met(&self, observed: &Observation, with_reclaim: bool) -> bool {
        let mut least = self.value.of(observed.capacity).amount();
        if let Some(more) = self.min_reclaim.filter(|_| with_reclaim) {
            least = least + more.of(observed.capacity).amount();
        }
        least > observed.available.amount()
    }
}

/// The texts of the configuration, by signal.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// `evictionHard`
    pub hard: &'a BTreeMap<String, String>,
    /// `evictionSoft`
    pub soft: &'a BTreeMap<String, String>,
    /// `evictionSoftGracePeriod`
    pub soft_grace: &'a BTreeMap<String, String>,
    /// `evictionMinimumReclaim`
    pub min_reclaim: &'a BTreeMap<String, String>,
}

/// The reason why a threshold cannot be used. The configuration's own check finds all of them
/// first, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum ThresholdError {
    /// No such signal.
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    /// The value is neither a quantity nor a percentage.
    #[error("eviction threshold {signal}: {source}")]
    Value {
        /// The signal.
        signal: String,
        /// The fault.
        #[source]
        source: QuantityError,
    },
    /// A soft threshold without its grace period.
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(String),
}

/// Parses the thresholds of the configuration: hard ones, then soft ones. If the limit of all pods
/// is enforced, the hard threshold on memory also holds for the memory that is theirs.
pub fn parse(texts: Texts<'_>, pods_are_limited: bool) -> Result<Vec<Threshold>, ThresholdError> {
    let mut thresholds = Vec::new();
    for (name, text) in texts.hard {
        thresholds.extend(statement(name, text, Duration::ZERO, texts.min_reclaim)?);
    }
    for (name, text) in texts.soft {
        let grace = texts.soft_grace.get(name).and_then(|text| GoDuration::parse(text).ok());
        let grace = grace.ok_or_else(|| ThresholdError::NoGrace(name.clone()))?.to_std();
        thresholds.extend(statement(name, text, grace, texts.min_reclaim)?);
    }

    if pods_are_limited {
        let is_copied = |threshold: &&Threshold| {
            threshold.signal == Signal::MemoryAvailable && threshold.is_hard()
        };
        let copies: Vec<Threshold> = thresholds
            .iter()
            .filter(is_copied)
            .map(|threshold| Threshold { signal: Signal::AllocatableMemoryAvailable, ..*threshold })
            .collect();
        thresholds.extend(copies);
    }
    Ok(thresholds)
}

/// Reads one threshold. `0%` and `100%` switch a signal off.
fn statement(
    name: &str,
    text: &str,
    grace: Duration,
    min_reclaim: &BTreeMap<String, String>,
) -> Result<Option<Threshold>, ThresholdError> {
    let signal = Signal::parse(name).ok_or_else(|| ThresholdError::Signal(name.to_owned()))?;
    if matches!(text, "0%" | "100%") {
        return Ok(None);
    }

    let value = value(name, text)?;
    let min_reclaim = min_reclaim.get(name).map(|text| self::value(name, text)).transpose()?;
    Ok(Some(Threshold { signal, value, grace, min_reclaim }))
}

fn value(name: &str, text: &str) -> Result<Value, ThresholdError> {
    let percent = text.ends_with('%').then(|| text.trim_end_matches('%').parse::<f32>().ok());
    match percent.flatten() {
        Some(percent) => Ok(Value::Fraction(percent / 100.0)),
        None => Quantity::parse(text)
            .map(Value::Amount)
            .map_err(|source| ThresholdError::Value { signal: name.to_owned(), source }),
    }
}

/// Where images and writable layers lie beside the kubelet's root directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// All on one file system.
    #[default]
    Shared,
    /// Images and writable layers together on a file system of their own.
    ImageFs,
    /// Images and writable layers on two file systems, of which either may be the kubelet's.
    SplitImageFs,
}

impl Layout {
    /// Returns the layout of the devices that the kubelet's root directory, images and writable
    /// layers lie on. Two mount points may be of one device.
    pub fn of_devices(root: u64, images: u64, layers: u64) -> Self {
        match (root != images, layers != images) {
            (false, false) => Self::Shared,
            (true, false) => Self::ImageFs,
            (_, true) => Self::SplitImageFs,
        }
    }
}

/// Returns the thresholds as they hold with this layout: those on `containerfs` follow the file
/// system that it is on, whatever the configuration says.
pub fn with_layout(thresholds: &[Threshold], layout: Layout) -> Vec<Threshold> {
    let (bytes, inodes) = match layout {
        Layout::Shared | Layout::SplitImageFs => {
            (Signal::NodeFsAvailable, Signal::NodeFsInodesFree)
        }
        Layout::ImageFs => (Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
    };
    let is_container_fs = |signal: Signal| {
        matches!(signal, Signal::ContainerFsAvailable | Signal::ContainerFsInodesFree)
    };

    let mut all: Vec<Threshold> =
        thresholds.iter().filter(|threshold| !is_container_fs(threshold.signal)).copied().collect();
    let copies: Vec<Threshold> = all
        .iter()
        .filter_map(|threshold| {
            let signal = if threshold.signal == bytes {
                Signal::ContainerFsAvailable
            } else if threshold.signal == inodes {
                Signal::ContainerFsInodesFree
            } else {
                return None;
            };
            Some(Threshold { signal, ..*threshold })
        })
        .collect();
    all.extend(copies);
    all
}

/// Returns the thresholds that are met, whatever their grace; `with_reclaim`: as long as the
/// minimum reclaim is not available either. A signal that could not be read meets nothing.
pub fn met(
    thresholds: &[Threshold],
    observations: &Observations,
    with_reclaim: bool,
) -> Vec<Threshold> {
    let is_met = |threshold: &&Threshold| {
        let observed = observations.get(&threshold.signal);
        observed.is_some_and(|observed| threshold.is_met(observed, with_reclaim))
    };
    thresholds.iter().filter(is_met).copied().collect()
}

/// Adds the thresholds of `more` that are not among `thresholds`.
pub fn merge(mut thresholds: Vec<Threshold>, more: Vec<Threshold>) -> Vec<Threshold> {
    for threshold in more {
        if !thresholds.iter().any(|known| known.is_same(&threshold)) {
            thresholds.push(threshold);
        }
    }
    thresholds
}

/// Orders thresholds by what is reclaimed first: memory, then hard ones, then in the order of the
/// signals. (Upstream's order behind memory is that of a Go map.)
pub fn by_urgency(thresholds: &mut [Threshold]) {
    thresholds.sort_by_key(|threshold| {
        let is_memory = matches!(
            threshold.signal,
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable
        );
        (!is_memory, threshold.grace, threshold.signal)
    });
}
