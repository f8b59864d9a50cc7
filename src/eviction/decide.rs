//! Decides: what the node is short of, what is reclaimed before a pod has to go, and which pod.
//! Pure.
//!
//! ```text
//!  reading ─► look ─┬─► pressure                      (conditions of the node, admission)
//!                   └─► due thresholds ─► aim ─► what the node itself can give back
//!                                          └─(not enough)─► victim
//!  usage of pods ─► over_limit ─► victims              (limits of their own, whatever is left)
//! ```
//!
//! [`super::task`] reads, asks, and carries out. Laws:
//! - A soft threshold evicts nobody before its grace period is over.
//! - A condition ends only when its thresholds have not been met for the transition period.
//! - While a victim stops no other is chosen, unless a hard threshold is met meanwhile and the
//!   victim was given time.
//! - A critical pod is never a victim.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::limits;
use super::message::{self, Words};
use super::rank::{self, Candidate};
use super::signals::{Condition, Observations, Resource, Signal};
use super::thresholds::{self, Layout, Threshold};
use crate::model::reason::event::EVICTED;
use crate::model::{Mono, Pod, PodUid, Pressure, TerminationCause, pod, time};

/// The time between two looks while nothing changes fast; upstream's.
pub const EVERY: Duration = Duration::from_secs(10);

/// The shortest time between two looks.
const SOONEST: Duration = Duration::from_millis(250);

/// The grace period of a pod that has to go at once; upstream's.
const IMMEDIATE: Duration = Duration::from_secs(1);

/// How long a pod that has stopped may take to be cleaned up before another is chosen; upstream's.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// The least time that the runtime gets to stop a pod before that is reported; upstream's.
const STOP: Duration = Duration::from_secs(10);

/// When pods are evicted.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The thresholds of the configuration.
    pub thresholds: Vec<Threshold>,
    /// `evictionPressureTransitionPeriod`
    pub transition: Duration,
    /// `evictionMaxPodGracePeriod`
    pub max_pod_grace: Duration,
    /// `localStorageCapacityIsolation`: pods' own limits are enforced.
    pub limits_local_storage: bool,
}

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// What the node is short of.
    pub pressure: Pressure,
    /// The thresholds that ask for something to be done now, the most urgent first.
    pub due: Vec<Threshold>,
}

/// What the node can give back without evicting a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Containers that have ended, also those of pods that are over and not deleted.
    DeadContainers,
    /// Images that no pod needs.
    UnusedImages,
}

/// The threshold that is acted on.
#[derive(Clone, Debug, PartialEq)]
pub struct Aim {
    /// The threshold.
    pub threshold: Threshold,
    /// What is reclaimed first, in order.
    pub reclaim: &'static [Reclaim],
}

impl Aim {
    /// Returns the resource that is reclaimed.
    pub fn resource(&self) -> Resource {
        self.threshold.signal.resource()
    }
}

/// A pod that has to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The signal, for the metric.
    pub signal: &'static str,
    /// Its grace period.
    pub grace: Duration,
    /// The cause, as its status tells it.
    pub cause: TerminationCause,
    /// The message and annotations of the event.
    pub words: Words,
}

/// A pod that was told to go and is not gone.
#[derive(Clone, Debug)]
struct Stopping {
    pod: Arc<Pod>,
    /// True if it has to go at once.
    is_hard: bool,
    /// When the runtime should have stopped it; `None` once that was reported.
    stopped_by: Option<Mono>,
    /// When another one is chosen all the same.
    until: Mono,
}

/// Everything that is remembered between looks.
#[derive(Clone, Debug)]
pub struct Decider {
    policy: Policy,
    layout: Layout,
    /// The thresholds that are met, and since when.
    since: Vec<(Threshold, Mono)>,
    /// The thresholds that were met for their grace period, until the minimum is reclaimed.
    unresolved: Vec<Threshold>,
    /// When each condition was last seen.
    conditions: BTreeMap<Condition, Mono>,
    /// The observations of the last look, and its time.
    last: Option<(Observations, Mono)>,
    stopping: BTreeMap<PodUid, Stopping>,
}

impl Decider {
    /// Returns a decider that knows nothing yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            layout: Layout::default(),
            since: Vec::new(),
            unresolved: Vec::new(),
            conditions: BTreeMap::new(),
            last: None,
            stopping: BTreeMap::new(),
        }
    }

    /// Returns true if there is nothing to watch.
    pub fn is_idle(&self) -> bool {
        self.policy.thresholds.is_empty() && !self.policy.limits_local_storage
    }

    /// Returns true if memory is watched.
    pub fn watches_memory(&self) -> bool {
        let is_memory = |threshold: &Threshold| threshold.signal.resource() == Resource::Memory;
        self.policy.thresholds.iter().any(is_memory)
    }

    /// Returns the thresholds of the configuration.
    pub fn thresholds(&self) -> &[Threshold] {
        &self.policy.thresholds
    }

    /// Returns true if pods' own limits are enforced.
    pub fn limits_local_storage(&self) -> bool {
        self.policy.limits_local_storage
    }

    /// Takes in where images and writable layers lie.
    pub fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
    }

    /// Takes in a reading: what the node is short of, and which thresholds are due.
    pub fn look(&mut self, observations: &Observations, now: Mono) -> Look {
        let all = thresholds::with_layout(&self.policy.thresholds, self.layout);
        let met = thresholds::met(&all, observations, false);
        let unresolved = thresholds::met(&self.unresolved, observations, true);
        let met = thresholds::merge(met, unresolved);

        let before = std::mem::take(&mut self.since);
        let since = |threshold: &Threshold| {
            before.iter().find(|(known, _)| known == threshold).map_or(now, |(_, since)| *since)
        };
        self.since = met.iter().map(|threshold| (*threshold, since(threshold))).collect();

        for threshold in &met {
            self.conditions.insert(threshold.signal.condition(), now);
        }
        let transition = self.policy.transition;
        self.conditions.retain(|_, seen| now.since(*seen) < transition);

        let is_due = |(threshold, since): &&(Threshold, Mono)| now.since(*since) >= threshold.grace;
        self.unresolved =
            self.since.iter().filter(is_due).map(|(threshold, _)| *threshold).collect();

        // A reading that is no newer than the last one says nothing about what was done since.
        let is_news = |threshold: &&Threshold| {
            let read_at = |observations: &Observations| {
                observations.get(&threshold.signal).map(|observed| observed.at)
            };
            let before = self.last.as_ref().and_then(|(last, _)| read_at(last));
            read_at(observations).is_some_and(|at| before.is_none_or(|before| at > before))
        };
        let mut due: Vec<Threshold> = self.unresolved.iter().filter(is_news).copied().collect();
        thresholds::by_urgency(&mut due);

        Look { pressure: self.pressure(&met), due }
    }

    /// Remembers a reading, and returns when to look again: sooner than usual if something runs
    /// out quickly, or a grace period or a condition ends.
    pub fn next_look(&mut self, observations: Observations, now: Mono) -> Mono {
        let all = thresholds::with_layout(&self.policy.thresholds, self.layout);
        let mut wait = EVERY;
        if let Some((last, at)) = &self.last {
            let passed = now.since(*at);
            let runs_out = all
                .iter()
                .filter_map(|threshold| time_left(threshold, last, &observations, passed));
            // Half of what is left: the rate may grow.
            wait = runs_out.map(|left| left / 2).fold(wait, Duration::min);
        }
        let ends = self.since.iter().map(|(threshold, since)| since.after(threshold.grace));
        let clears = self.conditions.values().map(|seen| seen.after(self.policy.transition));
        let overdue = self
            .stopping
            .values()
            .flat_map(|stopping| [stopping.stopped_by, Some(stopping.until)].into_iter().flatten());
        let moments = ends.chain(clears).chain(overdue).filter(|moment| *moment > now);
        wait = moments.map(|moment| moment.since(now)).fold(wait, Duration::min);

        self.last = Some((observations, now));
        now.after(wait.max(SOONEST))
    }

    /// Chooses the threshold to act on among those that are due. `None` while a victim stops.
    pub fn aim(&self, due: &[Threshold], now: Mono) -> Option<Aim> {
        let threshold = *due.first()?;
        let waits = self.stopping.values().any(|stopping| {
            let yields = threshold.is_hard() && !stopping.is_hard;
            stopping.until > now && !yields
        });
        let reclaim = reclaim(threshold.signal, self.layout);
        (!waits).then_some(Aim { threshold, reclaim })
    }

    /// Returns true if no threshold is met any more, minimum reclaims included.
    pub fn is_relieved(&self, observations: &Observations) -> bool {
        let all = thresholds::with_layout(&self.policy.thresholds, self.layout);
        thresholds::met(&all, observations, true).is_empty()
    }

    /// Chooses the pod that has to go for the aim.
    pub fn victim(
        &self,
        aim: &Aim,
        due: &[Threshold],
        observations: &Observations,
        candidates: &[Candidate<'_>],
    ) -> Option<Eviction> {
        let mut ranked: Vec<Candidate<'_>> =
            candidates.iter().filter(|candidate| self.may_go(candidate)).copied().collect();
        rank::rank(&mut ranked, aim.threshold.signal, self.layout);
        let candidate = ranked.first()?;

        let words = message::describe(aim.resource(), candidate, due, observations);
        let grace =
            if aim.threshold.is_hard() { IMMEDIATE } else { self.soft_grace(candidate.pod) };
        let reason = EVICTED.to_owned();
        let message = words.message.clone();
        Some(Eviction {
            pod: candidate.pod.clone(),
            signal: aim.threshold.signal.as_str(),
            grace,
            cause: TerminationCause::Evicted { reason, message },
            words,
        })
    }

    /// Returns the pods that use more local storage than they may.
    pub fn over_limit(&self, candidates: &[Candidate<'_>]) -> Vec<Eviction> {
        let evict = |candidate: &Candidate<'_>| {
            let (limit, message) = limits::exceeded(candidate, self.layout)?;
            Some(Eviction {
                pod: candidate.pod.clone(),
                signal: limit.signal(),
                grace: IMMEDIATE,
                cause: TerminationCause::OverLimit { message: message.clone() },
                words: Words { message, annotations: BTreeMap::new() },
            })
        };
        candidates.iter().filter(|candidate| self.may_go(candidate)).filter_map(evict).collect()
    }

    /// Remembers that a pod was told to go.
    pub fn evicted(&mut self, eviction: &Eviction, now: Mono) {
        let stop = STOP.max(eviction.grace + eviction.grace / 2);
        let stopping = Stopping {
            pod: eviction.pod.clone(),
            is_hard: eviction.grace <= IMMEDIATE,
            stopped_by: Some(now.after(stop)),
            until: now.after(stop + CLEAN_UP),
        };
        self.stopping.insert(pod::uid(&eviction.pod), stopping);
    }

    /// Remembers that a pod has stopped, or is gone.
    pub fn stopped(&mut self, uid: &PodUid) {
        self.stopping.remove(uid);
    }

    /// Returns the pods that were told to go and are not gone.
    pub fn stopping(&self) -> impl Iterator<Item = &PodUid> {
        self.stopping.keys()
    }

    /// Returns the pods that the runtime has not stopped in time; each once.
    pub fn overdue(&mut self, now: Mono) -> Vec<Arc<Pod>> {
        let mut overdue = Vec::new();
        for stopping in self.stopping.values_mut() {
            if stopping.stopped_by.is_some_and(|by| by <= now) {
                stopping.stopped_by = None;
                overdue.push(stopping.pod.clone());
            }
        }
        overdue
    }

    fn may_go(&self, candidate: &Candidate<'_>) -> bool {
        !pod::is_critical(candidate.pod) && !self.stopping.contains_key(&pod::uid(candidate.pod))
    }

    /// Returns the grace of a pod that goes for a soft threshold.
    fn soft_grace(&self, pod: &Pod) -> Duration {
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let most = self.policy.max_pod_grace;
        own.map_or(most, |seconds| most.min(time::seconds(seconds)))
    }

    /// Returns what the node is short of: now, or within the transition period.
    fn pressure(&self, met: &[Threshold]) -> Pressure {
        // Without a transition period upstream shows no condition at all. Ours shows what is met.
        let is_short = |condition: Condition| {
            self.conditions.contains_key(&condition)
                || met.iter().any(|threshold| threshold.signal.condition() == condition)
        };
        Pressure {
            memory: is_short(Condition::Memory),
            disk: is_short(Condition::Disk),
            pid: is_short(Condition::Pid),
        }
    }
}

/// Returns how long it takes until a threshold is met if its signal goes on falling as it did since
/// the last look. `None` if it does not fall, or is met already.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn time_left(
    threshold: &Threshold,
    last: &Observations,
    now: &Observations,
    passed: Duration,
) -> Option<Duration> {
    let before = last.get(&threshold.signal)?;
    let observed = now.get(&threshold.signal)?;
    let wanted = threshold.value.of(observed.capacity).amount();
    let left = observed.available.amount() - wanted;
    let fallen = before.available.amount() - observed.available.amount();
    if left.nano() <= 0 || fallen.nano() <= 0 {
        return None;
    }
    let share = left.nano() as f64 / fallen.nano() as f64;
    Duration::try_from_secs_f64(passed.as_secs_f64() * share).ok()
}

/// Returns what the node can give back for a signal, in order.
fn reclaim(signal: Signal, layout: Layout) -> &'static [Reclaim] {
    use Reclaim::{DeadContainers, UnusedImages};
    match (signal, layout) {
        (
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable | Signal::PidAvailable,
            Layout::Shared | Layout::ImageFs | Layout::SplitImageFs,
        )
        | (Signal::NodeFsAvailable | Signal::NodeFsInodesFree, Layout::ImageFs) => &[],
        (
            Signal::NodeFsAvailable
            | Signal::NodeFsInodesFree
            | Signal::ImageFsAvailable
            | Signal::ImageFsInodesFree
            | Signal::ContainerFsAvailable
            | Signal::ContainerFsInodesFree,
            Layout::Shared,
        )
        | (
            Signal::ImageFsAvailable
            | Signal::ImageFsInodesFree
            | Signal::ContainerFsAvailable
            | Signal::ContainerFsInodesFree,
            Layout::ImageFs,
        ) => &[DeadContainers, UnusedImages],
        (Signal::ImageFsAvailable | Signal::ImageFsInodesFree, Layout::SplitImageFs) => {
            &[UnusedImages]
        }
        (
            Signal::NodeFsAvailable
            | Signal::NodeFsInodesFree
            | Signal::ContainerFsAvailable
            | Signal::ContainerFsInodesFree,
            Layout::SplitImageFs,
        ) => &[DeadContainers],
    }
}
