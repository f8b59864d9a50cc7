//! Decides which pod's status may be written, and when. Pure.
//!
//! The writer feeds it with the statuses of workers, the objects of the watch, the ends of jobs and
//! the time. It returns the jobs that may begin now, and [`News`] for the followers of a pod. It
//! never makes a call and never reads a clock.
//!
//! Laws, each a property test in `queue_tests.rs`:
//!
//! 1. At most one write of a pod is in flight.
//! 2. A write carries the newest status: an older one never follows a newer one.
//! 3. A write reads the object first only if the fate of the last one is unknown.
//! 4. A status that ends a pod or changes its readiness is not held. Neither is a first status that
//!    reports a failure. Everything else waits for [`HOLD`], so that updates coalesce.
//! 5. A failed write is tried again after a wait that grows from 50 ms to 10 s, and the newest
//!    status arrives in the end.
//!
//! ```text
//!   Idle ──► Waiting (held, to be tried again, to be looked at) ──► Ready ──► Writing ──► Idle
//!    └────────────────────── urgent ──────────────────────────────────▲          └──► Gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;

use super::api::Failure;
use super::base::{Base, Want, resource_version};
use super::conditions;
use super::handle::{Acked, StatusUpdate};
use super::job::{End, Job, Outcome};
use crate::model::phase::is_terminal;
use crate::model::{Mono, Pod, PodUid};

/// The writes that may be in flight together: enough to hide a slow API server, few enough not to
/// be one of its problems.
const WRITERS: usize = 16;
/// The wait after the first failure; it doubles with each.
const RETRY: Duration = Duration::from_millis(50);
/// The longest wait after a failure.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(10);
/// The wait before a change by another writer is checked: two writers that disagree must not chase
/// each other.
const RECHECK: Duration = Duration::from_secs(1);
/// The delay of a status that neither ends a pod nor changes its readiness. A status that does
/// mostly follows, and the API server's work meanwhile would slow the pod's own start.
pub(super) const HOLD: Duration = Duration::from_millis(500);
/// The longest delay of a pod's first status while pods wait for their start: the status only says
/// that the pod waits.
pub(super) const FIRST_HOLD: Duration = Duration::from_secs(5);

/// The order in which pods that are ready are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Delete,
    Terminal,
    Readiness,
    Other,
}

/// The stage of a pod's next write.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    /// Everything has been written.
    Idle,
    /// The write may begin now; the number keeps the order within a lane.
    Ready(Lane, u64),
    /// The write has to wait until then.
    Waiting(Mono),
    /// The write is in flight.
    Writing(Then),
    /// The API no longer has the object with this UID: there is nothing to write to.
    Gone { uid: String },
}

/// The work that follows the write in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing new has come.
    Nothing,
    /// The object has changed, by this write or by another writer.
    Look,
    /// There is something new to write.
    Write,
    /// The pod is forgotten.
    Forget,
}

/// The state of one pod.
#[derive(Debug)]
struct PodEntry {
    want: Option<Want>,
    base: Option<Base>,
    acked: Acked,
    work: Work,
    /// True once the deletion of the object was requested.
    delete: bool,
    /// True if the fate of the last write is unknown.
    read_first: bool,
    /// The failures since the last success.
    failures: u32,
    /// The time of the first status.
    since: Option<Mono>,
}

/// News for the followers of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The API server has accepted a status, or has lost the object.
    Acked(PodUid, Acked),
    /// The pod is forgotten.
    Forgotten(PodUid),
}

/// A failed write that must be tried again.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) failure: Failure,
    /// The failures before this one.
    pub(super) before: u32,
}

/// All pods and the order of their writes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pods: BTreeMap<PodUid, PodEntry>,
    /// The pods that are [`Work::Ready`].
    ready: BTreeSet<(Lane, u64, PodUid)>,
    /// The pods that are [`Work::Waiting`].
    waiting: BTreeSet<(Mono, PodUid)>,
    /// The number of pods that are [`Work::Writing`].
    writing: usize,
    sequence: u64,
    news: Vec<News>,
}

impl Queue {
    /// Takes the news since the last call.
    pub(super) fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Returns the next moment at which [`Self::wake`] has something to do.
    pub(super) fn next_due(&self) -> Option<Mono> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Begins to keep a pod, if it is not kept yet. Returns the part that was accepted.
    pub(super) fn add(&mut self, uid: &PodUid) -> Acked {
        let entry = self.pods.entry(uid.clone()).or_insert_with(PodEntry::new);
        if entry.work == Work::Writing(Then::Forget) {
            entry.work = Work::Writing(Then::Nothing);
        }
        entry.acked
    }

    /// Takes a newer status.
    pub(super) fn set(&mut self, uid: &PodUid, version: u64, update: StatusUpdate, now: Mono) {
        self.add(uid);
        self.learn(uid, update.pod, now);
        let Some(entry) = self.pods.get_mut(uid) else { return };

        let is_same = entry.want.as_ref().is_some_and(|want| want.status == update.status);
        entry.want = Some(Want { version, status: update.status, is_failing: update.is_failing });
        entry.since.get_or_insert(now);

        if is_same && entry.work == Work::Idle {
            self.ack(uid, version);
        } else {
            self.ask(uid, now);
        }
    }

    /// Takes the object that the watch shows, if the pod is kept.
    pub(super) fn observed(&mut self, uid: &PodUid, pod: Arc<Pod>, now: Mono) {
        self.learn(uid, pod, now);
    }

    /// Requests the deletion of the object. Returns false if the object must not be deleted.
    pub(super) fn delete(&mut self, uid: &PodUid, pod: Arc<Pod>, now: Mono) -> bool {
        self.add(uid);
        self.learn(uid, pod, now);
        let Some(entry) = self.pods.get_mut(uid) else { return false };
        if !entry.base.as_ref().is_some_and(Base::is_deletable) {
            return false;
        }
        entry.delete = true;
        self.ask(uid, now);
        true
    }

    /// Forgets a pod; if it is being written, once the write has ended.
    pub(super) fn forget(&mut self, uid: &PodUid) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if let Work::Writing(then) = &mut entry.work {
            *then = Then::Forget;
            return;
        }
        self.put(uid, Work::Idle);
        self.remove(uid);
    }

    /// Makes pods ready whose time has come by `now`. While pods wait for their start
    /// (`has_backlog`), first statuses that can wait go on waiting.
    pub(super) fn wake(&mut self, now: Mono, has_backlog: bool) {
        while let Some((due, uid)) = self.waiting.first().cloned() {
            if due > now {
                return;
            }
            let Some(entry) = self.pods.get(&uid) else {
                self.waiting.pop_first();
                continue;
            };

            if has_backlog && entry.may_wait(now) {
                self.put(&uid, Work::Waiting(now.after(HOLD)));
            } else {
                self.make_ready(&uid);
            }
        }
    }

    /// Shortens the waits after failures to the first one: the API server is back.
    pub(super) fn hasten(&mut self, now: Mono) {
        let soon = now.after(RETRY);
        let late: Vec<PodUid> = self
            .waiting
            .iter()
            .filter(|(due, uid)| *due > soon && self.has_failed(uid))
            .map(|(_, uid)| uid.clone())
            .collect();

        for uid in late {
            self.put(&uid, Work::Waiting(soon));
        }
    }

    /// Begins the most urgent write; `None` if there is none or enough are in flight.
    pub(super) fn begin(&mut self) -> Option<Job> {
        if self.writing >= WRITERS {
            return None;
        }

        let (_, _, uid) = self.ready.first().cloned()?;
        self.put(&uid, Work::Writing(Then::Nothing));

        let entry = self.pods.get(&uid)?;
        Some(Job {
            base: entry.base.clone()?,
            want: entry.want.clone(),
            read_first: entry.read_first,
            delete: entry.delete,
            uid,
        })
    }

    /// Takes the end of a write. Returns its failure if it must be tried again.
    pub(super) fn finish(&mut self, outcome: Outcome, now: Mono) -> Option<Retry> {
        let uid = outcome.uid;
        let entry = self.pods.get_mut(&uid)?;
        let Work::Writing(mut then) = entry.work else { return None };
        self.put(&uid, Work::Idle);

        if then == Then::Forget {
            self.remove(&uid);
            return None;
        }

        let entry = self.pods.get_mut(&uid)?;
        if entry.base.as_ref().is_some_and(|base| base.uid() != outcome.target_uid) {
            // The object was created anew meanwhile: the news of the old one is void.
            if then == Then::Write {
                self.ask(&uid, now);
            }
            return None;
        }

        let known = entry.base.as_ref().and_then(Base::version);
        if let Some(base) = outcome.base
            && known <= base.version()
        {
            if then == Then::Look {
                // The change that was seen meanwhile was our own, or is in the answer.
                then = Then::Nothing;
            }
            if known < base.version() {
                entry.base = Some(base);
            }
        }
        if let Some(version) = outcome.accepted {
            self.ack(&uid, version);
        }

        self.settle(&uid, outcome.end, outcome.target_uid, then, now)
    }

    /// Decides what follows a write that has ended.
    fn settle(
        &mut self,
        uid: &PodUid,
        end: End,
        target_uid: String,
        then: Then,
        now: Mono,
    ) -> Option<Retry> {
        let entry = self.pods.get_mut(uid)?;
        let is_overwritten = matches!(end, End::Overwritten);

        match end {
            End::Done | End::Overwritten => {
                entry.failures = 0;
                entry.read_first = false;
                // Another writer may have changed the object: check whether a field of ours was
                // lost.
                if then != Then::Nothing {
                    self.ask(uid, now);
                } else if is_overwritten {
                    // The watch will not show the change as a newer one: the answer is newer still.
                    self.put(uid, Work::Waiting(now.after(RECHECK)));
                }
                None
            }
            End::Gone => {
                entry.delete = false;
                entry.acked.is_gone = true;
                self.news.push(News::Acked(uid.clone(), entry.acked));
                self.put(uid, Work::Gone { uid: target_uid });
                None
            }
            End::Failed(failure) => {
                let before = entry.failures;
                let wait = RETRY.saturating_mul(1 << before.min(8)).min(RETRY_MAX);
                entry.failures = before.saturating_add(1);
                entry.read_first |= failure.leaves_doubt();
                self.put(uid, Work::Waiting(now.after(wait)));
                Some(Retry { failure, before })
            }
        }
    }

    /// Takes over the newer parts of an object.
    fn learn(&mut self, uid: &PodUid, pod: Arc<Pod>, now: Mono) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let seen = pod.metadata.uid.as_deref().unwrap_or_default();
        let is_gone = match &entry.work {
            Work::Gone { uid } if uid == seen => return,
            Work::Gone { .. } => true,
            Work::Idle | Work::Ready(..) | Work::Waiting(_) | Work::Writing(_) => false,
        };

        let known = entry.base.as_ref().and_then(Base::version);
        let shown = resource_version(&pod);
        if known > shown {
            return;
        }

        if is_gone || entry.base.as_ref().is_some_and(|base| base.uid() != seen) {
            self.start_anew(uid, pod, now);
            return;
        }

        let is_changed = entry.base.is_some() && known < shown;
        entry.base = Some(Base::Watched(pod));
        if !is_changed || entry.want.is_none() {
            return;
        }

        match &mut entry.work {
            Work::Writing(then) if *then == Then::Nothing => *then = Then::Look,
            Work::Idle => self.put(uid, Work::Waiting(now.after(RECHECK))),
            Work::Ready(..) | Work::Waiting(_) | Work::Writing(_) | Work::Gone { .. } => {}
        }
    }

    /// Takes another object of the same name: a mirror pod that was created anew. It has no status
    /// yet.
    fn start_anew(&mut self, uid: &PodUid, pod: Arc<Pod>, now: Mono) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.base = Some(Base::Watched(pod));
        entry.read_first = false;
        entry.failures = 0;
        entry.acked = Acked::default();
        self.news.push(News::Acked(uid.clone(), entry.acked));

        let has_work = entry.want.is_some() || entry.delete;
        match &mut entry.work {
            Work::Writing(Then::Forget) => {}
            Work::Writing(then) => {
                *then = if has_work { Then::Write } else { Then::Nothing };
            }
            Work::Gone { .. } => {
                self.put(uid, Work::Idle);
                if has_work {
                    self.ask(uid, now);
                }
            }
            Work::Idle | Work::Ready(..) | Work::Waiting(_) => {
                if has_work {
                    self.ask(uid, now);
                }
            }
        }
    }

    /// Requests a write: at once, or after [`HOLD`] if it may wait.
    ///
    /// A pod that waits after a failure goes on waiting. A pod that is held, or is to be checked
    /// again, does not if the write is urgent.
    fn ask(&mut self, uid: &PodUid, now: Mono) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let lane = entry.lane();
        let has_failed = entry.failures > 0;
        let held = now.after(HOLD);

        match &mut entry.work {
            Work::Writing(then) => *then = Then::Write,
            Work::Gone { .. } => {}
            Work::Ready(_, sequence) => {
                let sequence = *sequence;
                self.put(uid, Work::Ready(lane, sequence));
            }
            Work::Waiting(_) if has_failed => {}
            Work::Waiting(due) if lane == Lane::Other => {
                let due = (*due).min(held);
                self.put(uid, Work::Waiting(due));
            }
            Work::Idle if lane == Lane::Other => self.put(uid, Work::Waiting(held)),
            Work::Idle | Work::Waiting(_) => self.make_ready(uid),
        }
    }

    fn make_ready(&mut self, uid: &PodUid) {
        let Some(entry) = self.pods.get(uid) else { return };
        let lane = entry.lane();
        self.sequence += 1;
        self.put(uid, Work::Ready(lane, self.sequence));
    }

    /// Moves a pod to another stage, and updates the two sets and the count.
    fn put(&mut self, uid: &PodUid, work: Work) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        match &entry.work {
            Work::Ready(lane, sequence) => {
                self.ready.remove(&(*lane, *sequence, uid.clone()));
            }
            Work::Waiting(due) => {
                self.waiting.remove(&(*due, uid.clone()));
            }
            Work::Writing(_) => self.writing -= 1,
            Work::Idle | Work::Gone { .. } => {}
        }

        match &work {
            Work::Ready(lane, sequence) => {
                self.ready.insert((*lane, *sequence, uid.clone()));
            }
            Work::Waiting(due) => {
                self.waiting.insert((*due, uid.clone()));
            }
            Work::Writing(_) => self.writing += 1,
            Work::Idle | Work::Gone { .. } => {}
        }

        entry.work = work;
    }

    fn remove(&mut self, uid: &PodUid) {
        if self.pods.remove(uid).is_some() {
            self.news.push(News::Forgotten(uid.clone()));
        }
    }

    fn has_failed(&self, uid: &PodUid) -> bool {
        self.pods.get(uid).is_some_and(|entry| entry.failures > 0)
    }

    /// Records that the API server has accepted `version`.
    fn ack(&mut self, uid: &PodUid, version: u64) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let acked =
            Acked { version, is_terminal: entry.shown().is_some_and(is_terminal), is_gone: false };
        if entry.acked != acked {
            entry.acked = acked;
            self.news.push(News::Acked(uid.clone(), acked));
        }
    }
}

impl PodEntry {
    fn new() -> Self {
        Self {
            want: None,
            base: None,
            acked: Acked::default(),
            work: Work::Idle,
            delete: false,
            read_first: false,
            failures: 0,
            since: None,
        }
    }

    /// Returns the status that the API has.
    fn shown(&self) -> Option<&api::PodStatus> {
        self.base.as_ref().and_then(Base::status)
    }

    /// Returns true if the API server has more important work: the status only says that the pod
    /// waits.
    fn may_wait(&self, now: Mono) -> bool {
        self.is_first()
            && self.lane() == Lane::Other
            && self.since.is_some_and(|since| now < since.after(FIRST_HOLD))
    }

    /// Returns true if the API has no status of ours yet.
    fn is_first(&self) -> bool {
        self.shown().is_none_or(|status| status.start_time.is_none())
    }

    fn lane(&self) -> Lane {
        if self.delete {
            return Lane::Delete;
        }

        let Some(want) = &self.want else { return Lane::Other };
        let shown = self.shown();

        // A requested deletion waits for the last status even of a pod that ended long ago.
        let is_awaited =
            !shown.is_some_and(is_terminal) || self.base.as_ref().is_some_and(Base::is_deletable);
        if is_terminal(&want.status) && is_awaited {
            return Lane::Terminal;
        }

        let is_urgent =
            is_ready(Some(&want.status)) != is_ready(shown) || (want.is_failing && self.is_first());
        if is_urgent { Lane::Readiness } else { Lane::Other }
    }
}

fn is_ready(status: Option<&api::PodStatus>) -> bool {
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == conditions::READY && condition.status == "True")
}
