//! The memory of one pod's task, as a pure state machine: events in, steps out.
//!
//! ```text
//!   Event ─► Memory::take ─► facts (what others say) · known (what this process did) · in flight
//!                                                │
//!   Step  ◄─ Memory::step ◄─ plan ◄──────────────┘      actions · notices · cancellations · wake-up
//! ```
//!
//! Fed by `pods::worker`, which carries each [`Step`] out; the scenarios and laws of `testkit`
//! drive the same machine. It decides nothing about containers (that is `pods::plan`), reads no
//! clock and does nothing itself. Pure.
//!
//! Laws:
//! - The lifecycle goes one way, and the grace of a stop only shrinks.
//! - An action that may have changed the runtime stays in flight until a fresh observation.
//! - An event is emitted again only if its `dedup` text has changed.

mod blocked;
mod complete;
pub mod container;
pub mod facts;
pub mod known;
mod observe;
mod order;
pub mod outcome;
mod resize;
pub mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::blocked::BlockedReport;
use self::facts::{Config, Facts, NetworkProblem, Recorded};
use self::known::{Known, Preparation};
pub use self::order::Order;
use self::outcome::Completion;
use self::resize::ResizeProgress;
use super::plan::types::{Action, InFlight, Key, Notice, Plan, Transition};
use super::plan::{PlanInput, plan};
use crate::model::observed::Remembered;
use crate::model::{
    Lifecycle, Mono, Now, ObservedPod, Pod, ProbeVerdicts, Terminating, VolumesState, Wall,
};
use crate::status::{Acked, ResizeState};

/// How often one step may change the lifecycle before it returns. A plan has at most three
/// transitions ahead of it; more is a loop in the planner.
const TRANSITIONS_PER_STEP: usize = 6;

/// What a memory begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Where its life begins: `Syncing`, or already stopping (rejected, orphaned).
    pub lifecycle: Lifecycle,
    /// The node's configuration.
    pub config: Config,
    /// The API's last status.
    pub recorded: Recorded,
    /// Restart counts and exits by container name, from the API's last status.
    pub remembered: BTreeMap<String, Remembered>,
    /// What an earlier process has left of its cgroup and directories.
    pub preparation: Preparation,
}

/// An input of the memory.
#[derive(Debug)]
pub enum Event {
    /// The runtime was read, after every mutation that has ended.
    Observed(Arc<ObservedPod>),
    /// Dispatch's newest order.
    Ordered(Order),
    /// The state of the pod's volumes.
    Volumes(VolumesState),
    /// The verdicts of the pod's probes.
    Probed(Arc<ProbeVerdicts>),
    /// Why no sandbox may be made on this node.
    Network(Option<NetworkProblem>),
    /// The pods that are preempted for this one and have yet to stop.
    PreemptionVictims(Vec<String>),
    /// Whether other pods wait for their start or their stop.
    Backlog(bool),
    /// An action has ended.
    Completed(Completion),
    /// An action was cancelled. It has changed nothing in the runtime.
    Cancelled(Key),
    /// An action panicked.
    Panicked(Key),
    /// The API server has accepted a status.
    Accepted(Acked),
    /// A status was computed and handed to the writer.
    Published {
        /// The version that [`Acked`] reaches once it is accepted; `None`: there is no object.
        version: Option<u64>,
        /// Its start time.
        start_time: Option<Wall>,
    },
}

/// What follows from the events so far.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Whether a newer object has to be passed on.
    pub object: ObjectChange,
    /// The changes of lifecycle that the plans made, in order.
    pub transitions: Vec<Transition>,
    /// Actions in flight that are cancelled.
    pub cancel: Vec<Key>,
    /// Events that are new.
    pub notices: Vec<Notice>,
    /// The event of a wait that has lasted.
    pub blocked: Option<Notice>,
    /// The actions to begin.
    pub begin: Vec<Action>,
    /// True if the end of the pod has to be announced.
    pub announce: bool,
    /// The plan, without its actions and transition: what the status is computed from.
    pub plan: Plan,
    /// When to step again even if nothing happens.
    pub wake_at: Option<Mono>,
}

/// A change of the pod's object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObjectChange {
    /// The object is the same.
    #[default]
    None,
    /// A newer object was taken in.
    Updated {
        /// Whether the pod was stopping by then.
        is_stopping: bool,
    },
}

/// How far the end of a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Something of it is left.
    Ahead,
    /// Everything is cleaned up.
    Finished,
    /// That was announced.
    Announced,
}

/// What one pod's task knows.
#[derive(Clone, Debug)]
pub struct Memory {
    pod: Arc<Pod>,
    lifecycle: Lifecycle,
    observed: Arc<ObservedPod>,
    facts: Facts,
    known: Known,
    in_flight: InFlight,
    /// Keys of mutations that have ended and have not been read yet.
    settling: BTreeSet<Key>,
    resize: ResizeProgress,
    blocked: BlockedReport,
    ending: Ending,
    delivery: Delivery,
    /// The grace of the last order to stop that was carried out.
    last_stop_grace: Option<Duration>,
    /// The `dedup` texts of the events that were emitted, by reason and container.
    emitted: BTreeMap<String, String>,
    /// What the next step returns besides its plan.
    next: Step,
}

/// How far the newest status is.
#[derive(Clone, Copy, Debug, Default)]
struct Delivery {
    /// The version of the status that was sent last.
    sent: Option<u64>,
    /// What the API server has accepted.
    accepted: Acked,
}

impl Memory {
    /// The memory of a pod whose runtime state has been read for the first time.
    pub fn new(start: Start, observed: Arc<ObservedPod>) -> Self {
        let resize = ResizeProgress::recorded(&start.pod);
        let mut memory = Self {
            pod: start.pod,
            lifecycle: start.lifecycle,
            observed,
            facts: Facts { config: start.config, recorded: start.recorded, ..Facts::default() },
            known: Known { preparation: start.preparation, ..Known::default() },
            in_flight: InFlight::new(),
            settling: BTreeSet::new(),
            resize,
            blocked: BlockedReport::default(),
            ending: Ending::Ahead,
            delivery: Delivery::default(),
            last_stop_grace: None,
            emitted: BTreeMap::new(),
            next: Step::default(),
        };
        for (name, remembered) in start.remembered {
            memory.known.slot_mut(&name).remembered = Some(remembered);
        }
        memory.expect_hashes();
        memory.adopt();
        memory
    }

    /// Stores what an event says.
    pub fn take(&mut self, event: Event, now: Now) {
        match event {
            Event::Observed(observed) => self.observe(observed, now),
            Event::Ordered(order) => self.follow(order, now),
            Event::Volumes(state) => self.facts.volumes = state,
            Event::Probed(verdicts) => self.facts.probes = verdicts,
            Event::Network(problem) => self.facts.network = problem,
            Event::PreemptionVictims(victims) => self.facts.preemption_victims = victims,
            Event::Backlog(has_backlog) => self.facts.has_backlog = has_backlog,
            Event::Completed(completion) => self.complete(completion, now),
            Event::Cancelled(key) => {
                self.in_flight.remove(&key);
            }
            Event::Panicked(key) => self.panicked(key, now),
            Event::Accepted(accepted) => self.delivery.accepted = accepted,
            Event::Published { version, start_time } => {
                self.delivery.sent = version;
                let recorded = &mut self.facts.recorded;
                recorded.start_time = recorded.start_time.or(start_time);
            }
        }
    }

    /// Plans, and takes the plan for begun: lifecycle, actions in flight and back-offs follow it.
    pub fn step(&mut self, now: Now) -> Step {
        self.refresh(now);
        for _ in 0..TRANSITIONS_PER_STEP {
            if !self.turn(now) {
                break;
            }
        }

        let mut step = std::mem::take(&mut self.next);
        for (name, backoff) in std::mem::take(&mut step.plan.backoff) {
            self.known.slot_mut(&name).backoff = Some(backoff);
        }
        step.begin = std::mem::take(&mut step.plan.actions);
        for action in &step.begin {
            self.begin(action, now);
        }

        let failure = self.known.failures.get(&Key::Resize);
        self.resize.follow(step.plan.resizing, failure, &self.pod, &mut step.notices);
        let (notice, due) = self.blocked.follow(step.plan.blocked.as_ref(), &self.lifecycle, now);
        step.blocked = notice;
        step.wake_at = [step.plan.wake_at, due].into_iter().flatten().min();
        if self.ending == Ending::Finished {
            self.ending = Ending::Announced;
            step.announce = true;
        }
        self.release_empty_maps();
        step
    }

    /// Plans once and applies the change of lifecycle that is due. Returns true if there was one:
    /// the plan is another then.
    pub fn turn(&mut self, now: Now) -> bool {
        let mut plan = self.plan(now);
        // The events of a plan go with its lifecycle: the next plan looks at another one.
        self.emit(&plan.notices);
        let transition = plan.transition.take();
        self.next.plan = plan;

        let Some(transition) = transition else { return false };
        let is_applied = self.transit(&transition, now);
        if is_applied {
            self.next.transitions.push(transition);
        }
        is_applied
    }

    /// Plans with what is known now.
    pub fn plan(&self, now: Now) -> Plan {
        plan(&PlanInput {
            pod: &self.pod,
            lifecycle: &self.lifecycle,
            observed: &self.observed,
            facts: &self.facts,
            known: &self.known,
            in_flight: &self.in_flight,
            now,
        })
    }

    /// Derives the facts that depend on several events, or on the time.
    pub fn refresh(&mut self, now: Now) {
        self.delay_removal(now.mono);
        let Delivery { sent, accepted } = self.delivery;
        self.facts.status_accepted =
            sent.is_none_or(|sent| accepted.version >= sent || accepted.is_gone);
    }

    /// Applies a change of lifecycle, one way only. Returns true if it changed anything.
    fn transit(&mut self, transition: &Transition, now: Now) -> bool {
        match (transition, &self.lifecycle) {
            (Transition::Terminate { cause, grace }, Lifecycle::Syncing) => {
                let (cause, grace) = (cause.clone(), *grace);
                self.lifecycle = Lifecycle::Terminating(Terminating { cause, since: now, grace });
                let cancelled = self.in_flight.keys().filter(|key| key.is_cancelled_by_stop());
                self.next.cancel.extend(cancelled.cloned());
            }
            (Transition::Shorten { grace }, Lifecycle::Terminating(before)) => {
                let grace = before.grace.min(*grace);
                let shortened = Terminating { grace, ..before.clone() };
                self.lifecycle = Lifecycle::Terminating(shortened);
            }
            (Transition::Terminated, Lifecycle::Terminating(terminating)) => {
                self.lifecycle = Lifecycle::Terminated(terminating.clone());
            }
            (Transition::Finished, Lifecycle::Terminated(_)) if self.ending == Ending::Ahead => {
                self.ending = Ending::Finished;
            }
            (
                Transition::Terminate { .. },
                Lifecycle::Terminating(_) | Lifecycle::Terminated(_),
            )
            | (
                Transition::Shorten { .. } | Transition::Terminated,
                Lifecycle::Syncing | Lifecycle::Terminated(_),
            )
            | (
                Transition::Finished,
                Lifecycle::Syncing | Lifecycle::Terminating(_) | Lifecycle::Terminated(_),
            ) => return false,
        }
        true
    }

    /// Queues the events that are new or have changed.
    fn emit(&mut self, notices: &[Notice]) {
        for notice in notices {
            let container = notice.container.as_deref().unwrap_or_default();
            let subject = format!("{}/{container}", notice.reason);
            let before = self.emitted.insert(subject, notice.dedup.clone());
            if before.as_ref() != Some(&notice.dedup) {
                self.next.notices.push(notice.clone());
            }
        }
    }

    /// Frees the maps that are empty: one that was filled once keeps the room of eleven entries,
    /// and most are empty while the pod runs.
    fn release_empty_maps(&mut self) {
        fn release<K, V>(map: &mut BTreeMap<K, V>) {
            if map.is_empty() {
                *map = BTreeMap::new();
            }
        }
        release(&mut self.in_flight);
        release(&mut self.emitted);
        release(&mut self.known.containers);
        release(&mut self.known.failures);
    }

    /// The newest object.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Where the pod is in its life.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// What the runtime says.
    pub fn observed(&self) -> &Arc<ObservedPod> {
        &self.observed
    }

    /// What others say.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What others say, to be set at will.
    #[cfg(any(test, feature = "testkit"))]
    pub fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// What this process did.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// The actions in flight.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The conditions of a resize.
    pub fn resize(&self) -> &ResizeState {
        &self.resize.state
    }

    /// Restart counts and exits of removed containers, by name.
    pub fn remembered(&self) -> BTreeMap<String, Remembered> {
        let slots = self.known.slots.iter();
        slots.filter_map(|(name, slot)| Some((name.clone(), slot.remembered.clone()?))).collect()
    }

    /// Returns true once everything is cleaned up.
    pub fn is_finished(&self) -> bool {
        self.ending != Ending::Ahead
    }

    /// Returns true if nothing is left to do, ever.
    pub fn is_over(&self) -> bool {
        self.is_finished()
            && self.facts.is_gone()
            && self.in_flight.is_empty()
            && self.observed.is_empty()
    }
}

#[cfg(test)]
mod tests;
