//! Resizes in place: whether a pod that asks for other resources gets them now.
//!
//! Until then its task sees it with what it has been given. Wishes that wait are looked at again
//! when a pod has gone, when another pod asks, and every now and then, always in [`order`].
//! Nothing is decided before every source has said what it has and those pods are admitted: a
//! resize must not take the room of a pod that was there before it.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodCondition;
use tracing::info;

use super::handle::count;
use super::{Asks, Backend, Dispatch, PendingResize, Resize, requested};
use crate::model::{Mono, Pod, PodUid, ResizeVerdict, Wall, pod};
use crate::resources::allocation::{self, Allocation, RESIZE_PENDING};
use crate::resources::list::{self, CPU, MEMORY};
use crate::resources::qos::{self, QosClass};
use crate::resources::swap;

/// How often resizes that wait are looked at: pods that end without going away make room, too.
const RETRY: Duration = Duration::from_secs(10);

/// The message of a resize of the pod as a whole where that is switched off.
const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling is disabled";

/// The message of a resize of a container that swaps.
const SWAP: &str = "In-place resize of containers with swap is not supported.";

/// A resize that waits.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// The pod as it wishes to be.
    pod: Arc<Pod>,
    /// Since when it waits.
    since: Wall,
}

/// When resizes are decided.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When those that wait are looked at again.
    pub(super) next: Option<Mono>,
    /// Whether the pods that the sources had at the start have all been admitted.
    is_caught_up: bool,
}

/// What has resizes that wait looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// A pod asks for a resize.
    PodUpdated,
    /// The pods that the sources had at the start are here.
    PodsAdded,
    /// A pod has gone.
    PodsRemoved,
    /// A pod does not count any more, though its object is still there.
    PodTerminated,
    /// Time has passed.
    Periodic,
}

impl Trigger {
    /// Upstream's label.
    fn as_str(self) -> &'static str {
        match self {
            Self::PodUpdated => "pod_updated",
            Self::PodsAdded => "pods_added",
            Self::PodsRemoved => "pods_removed",
            Self::PodTerminated => "pod_terminated",
            Self::Periodic => "periodic_retry",
        }
    }
}

impl<B: Backend> Dispatch<B> {
    /// Hands a newer object on, with other resources only if the node has them.
    pub(super) fn update(&mut self, uid: &PodUid, newer: Arc<Pod>) {
        let now = self.clock.now();
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let resize = entry.directive.borrow().resize.clone();
        let given = match allocation::apply(&newer, &entry.allocation) {
            Some(given) if !entry.is_static => given,
            Some(_) | None => {
                let granted = resize.granted.filter(|_| !entry.is_static);
                entry.wish = None;
                self.hand_on(uid, newer, Resize { granted, pending: None });
                return;
            }
        };

        let since = match &entry.wish {
            Some(wish) => wish.since,
            None => pending_condition(&newer).map_or(now.wall, |found| since(found, now.wall)),
        };
        entry.wish = Some(Wish { pod: newer, since });
        self.resizes.next.get_or_insert(now.mono.after(RETRY));
        if self.may_decide() {
            self.decide_resizes(Trigger::PodUpdated);
        } else {
            self.hand_on(uid, Arc::new(given), resize);
        }
    }

    /// Counts what a newer object of a pod asks for.
    pub(super) fn count_requested(&self, uid: &PodUid, newer: &Pod) {
        let Some(entry) = self.entries.get(uid).filter(|entry| !entry.is_static) else { return };
        let operations = {
            let before = entry.directive.borrow();
            // One that is infeasible is no wish any more, but it was asked for and counted.
            let older = match (&entry.wish, &before.resize.pending) {
                (Some(wish), _) => &wish.pod,
                (None, Some(pending)) => &pending.wanted,
                (None, None) => &before.pod,
            };
            requested::operations(older, newer)
        };
        if operations.is_empty() {
            return;
        }
        self.table.count(|counts| {
            for operation in operations {
                count(&mut counts.requested, operation);
            }
        });
    }

    /// Looks again at those that wait.
    pub(super) fn retry_resizes(&mut self, trigger: Trigger) {
        if self.may_decide() {
            self.decide_resizes(trigger);
        } else if self.resizes.next.is_some() {
            // A moment that stays in the past would wake the loop for ever.
            self.resizes.next = Some(self.clock.now().mono.after(RETRY));
        }
    }

    /// Decides on the resizes that were asked for while this process was away, once every pod that
    /// the sources had at the start is here.
    pub(super) fn catch_up(&mut self) {
        if !self.resizes.is_caught_up && self.may_decide() {
            self.decide_resizes(Trigger::PodsAdded);
        }
    }

    fn may_decide(&mut self) -> bool {
        if !self.resizes.is_caught_up && self.desired.sources_ready() {
            let is_here = |pod: &Arc<Pod>| {
                let uid = pod::uid(pod);
                self.entries.contains_key(&uid)
                    || self.queued.get(&pod::key(pod)).is_some_and(|own| pod::uid(own) == uid)
            };
            self.resizes.is_caught_up = self.desired.pods().iter().all(is_here);
        }
        self.resizes.is_caught_up && self.desired.sources_ready()
    }

    /// Decides on every resize that waits, in order: what one is granted the next one cannot have.
    fn decide_resizes(&mut self, trigger: Trigger) {
        self.resizes.next = None;
        let mut waiting: Vec<(PodUid, Candidate)> = self
            .entries
            .iter()
            .filter_map(|(uid, entry)| {
                let wish = entry.wish.as_ref()?;
                let given = allocation::apply(&wish.pod, &entry.allocation);
                Some((uid.clone(), Candidate::new(wish, given.as_ref())))
            })
            .collect();
        waiting.sort_by(|(_, a), (_, b)| order(a, b));
        for (uid, _) in waiting {
            self.decide_resize(&uid, trigger);
        }
        if self.entries.values().any(|entry| entry.wish.is_some()) {
            self.resizes.next = Some(self.clock.now().mono.after(RETRY));
        }
    }

    /// Decides on one resize and hands on what follows.
    fn decide_resize(&mut self, uid: &PodUid, trigger: Trigger) {
        let Some(entry) = self.entries.get(uid) else { return };
        let Some(Wish { pod: wanted, .. }) = entry.wish.clone() else { return };
        let before = entry.directive.borrow().clone();
        let Some(given) = allocation::apply(&wanted, &entry.allocation) else { return };

        let is_whole_resized = allocation::is_whole_resized(&wanted, &entry.allocation);
        let resizes = self.door.config.resizes;
        let decision = if is_whole_resized && !resizes.whole_pods {
            Err(ResizeVerdict::Infeasible(POD_LEVEL.to_owned()))
        } else if resizes.swap && swap::is_resized(&wanted, &given) {
            Err(ResizeVerdict::Infeasible(SWAP.to_owned()))
        } else {
            let others = self.others(uid);
            let answer = self.door.admit(&wanted, &others, Asks::Resize, None, None);
            answer.map_err(|rejection| ResizeVerdict::Deferred(rejection.message))
        };

        let preempt = match decision {
            Ok(preempt) => preempt,
            Err(verdict) => {
                let Some(entry) = self.entries.get_mut(uid) else { return };
                let is_counted = before.resize.pending.as_ref().is_some_and(|known| {
                    known.verdict == verdict
                        && allocation::of(&known.wanted) == allocation::of(&wanted)
                });
                match &verdict {
                    ResizeVerdict::Deferred(_) => {}
                    ResizeVerdict::Infeasible(message) => {
                        entry.wish = None;
                        let label = infeasible_label(message);
                        if !is_counted {
                            self.table.count(|counts| count(&mut counts.infeasible, label));
                        }
                    }
                }
                let is_known = before.resize.pending.as_ref().is_some_and(|known| {
                    known.verdict == verdict && Arc::ptr_eq(&known.wanted, &wanted)
                });
                if !is_known {
                    let pending = Some(PendingResize { verdict, wanted });
                    let granted = before.resize.granted;
                    self.hand_on(uid, Arc::new(given), Resize { granted, pending });
                }
                return;
            }
        };
        info!(pod = %pod::key(&wanted), "a resize is granted");
        let has_waited = before.resize.pending.is_some_and(|known| match known.verdict {
            ResizeVerdict::Deferred(_) => true,
            ResizeVerdict::Infeasible(_) => false,
        });
        if has_waited {
            self.table.count(|counts| count(&mut counts.accepted, trigger.as_str()));
        }
        self.preempt(preempt);
        if let Some(entry) = self.entries.get_mut(uid) {
            let granted = wanted.metadata.generation.or(Some(0));
            entry.wish = None;
            self.hand_on(uid, wanted, Resize { granted, pending: None });
        }
    }

    /// Hands an object, and what was decided on its resources, on to the pod's task.
    fn hand_on(&mut self, uid: &PodUid, pod: Arc<Pod>, resize: Resize) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.allocation = allocation::of(&pod);
        self.allocated.set(uid, entry.allocation.clone());
        entry.directive.send_modify(|directive| {
            directive.pod = pod;
            directive.gone = false;
            directive.resize = resize;
        });
    }

    /// What a pod that comes to the node had been given by an earlier process. The file of the
    /// pods' resources says so; without it the pod's status does. A static pod has what its
    /// manifest says.
    pub(super) fn given_before(&self, pod: &Pod) -> Allocation {
        let uid = pod::uid(pod);
        match self.allocated.get(&uid).filter(|_| !pod::is_static(pod)) {
            Some(given) => (*given).clone(),
            None => allocation::recorded(pod),
        }
    }
}

/// The label of a resize that can never be carried out, by its message.
fn infeasible_label(message: &str) -> &'static str {
    match message {
        POD_LEVEL => "plr_feature_gate_off",
        SWAP => "swap_limitation",
        message if message.contains("CPU Manager policy") => {
            "guaranteed_pod_cpu_manager_static_policy"
        }
        message if message.contains("Memory Manager policy") => {
            "guaranteed_pod_memory_manager_static_policy"
        }
        _ => "other",
    }
}

/// What the order of resizes looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    /// Whether it asks for more CPU or memory than it has.
    is_increasing: bool,
    priority: i32,
    is_guaranteed: bool,
    since: Wall,
}

impl Candidate {
    /// `given` is the pod with what it has; `None`: the same as it wishes.
    fn new(wish: &Wish, given: Option<&Pod>) -> Self {
        let asked = list::pod_requests(&wish.pod);
        let has = given.map(list::pod_requests).unwrap_or_default();
        let is_more = |name| {
            asked.get(name).copied().unwrap_or_default()
                > has.get(name).copied().unwrap_or_default()
        };
        Self {
            is_increasing: given.is_some() && (is_more(CPU) || is_more(MEMORY)),
            priority: wish.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default(),
            is_guaranteed: qos::of(&wish.pod) == QosClass::Guaranteed,
            since: wish.since,
        }
    }
}

/// Upstream's order: those that ask for no more first, then by priority, Guaranteed before
/// Burstable, and the longest wait first.
fn order(a: &Candidate, b: &Candidate) -> Ordering {
    a.is_increasing
        .cmp(&b.is_increasing)
        .then(b.priority.cmp(&a.priority))
        .then(b.is_guaranteed.cmp(&a.is_guaranteed))
        .then(a.since.cmp(&b.since))
}

/// What an earlier process said of a resize that still waits.
pub(super) fn recorded(pod: &Arc<Pod>) -> Option<PendingResize> {
    let condition = pending_condition(pod)?;
    let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
    let verdict = ResizeVerdict::recorded(reason, message);
    Some(PendingResize { verdict, wanted: Arc::clone(pod) })
}

fn pending_condition(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == RESIZE_PENDING)
}

fn since(condition: &PodCondition, now: Wall) -> Wall {
    condition.last_transition_time.as_ref().map_or(now, |time| time.0)
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Wall, order};

    #[test]
    fn resizes_are_decided_by_need_priority_class_and_age() {
        let at = |second| Wall::from_second(second).expect("a time");
        let first =
            Candidate { is_increasing: false, priority: 0, is_guaranteed: false, since: at(9) };
        let increasing = Candidate { is_increasing: true, ..first };
        let sorted = [
            first,
            Candidate { priority: 2, ..increasing },
            Candidate { priority: 1, is_guaranteed: true, ..increasing },
            Candidate { since: at(1), ..increasing },
            Candidate { since: at(2), ..increasing },
        ];
        let mut shuffled = [sorted[3], sorted[1], sorted[4], sorted[0], sorted[2]];
        shuffled.sort_by(order);
        assert_eq!(shuffled, sorted);
    }
}
