//! The task that writes statuses to the API.
//!
//! In: [`Handle`]'s commands on one bounded queue. Out: requests through a [`StatusApi`], and
//! [`Acked`] on a `watch` for each pod. The task owns the state of every pod and never waits for a
//! request itself: each write is a job of its own, so a command never waits long and a hung server
//! delays only what it hangs on.
//!
//! Laws: never two writes of a pod in flight; never an older status after a newer one (a job takes
//! the newest when it begins); no read before a write unless the last one's fate is unknown; what
//! ends a pod or changes its readiness goes first, and so does a first status that tells of a
//! failure; the rest waits for [`HOLD`], in case more follows. A failed write is tried again after
//! a wait that grows from 50 ms to 10 s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{Failure, StatusApi, Target};
use super::compute::is_terminal;
use super::{conditions, merge, patch};
use crate::apiserver::connectivity::{Connectivity, Reconnected};
use crate::clock::Clock;
use crate::model::{Mono, Pod, PodUid, StartBacklog, pod};

/// How many commands may wait for the task; it drains them at once, so this is for bursts only.
const QUEUE: usize = 1024;
/// How many writes may be in flight together: enough to hide a slow server, few enough not to be
/// one of its problems.
const WRITERS: usize = 16;
/// The first wait after a failure.
const RETRY: Duration = Duration::from_millis(50);
/// The longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How soon what somebody else has changed is looked at: two writers that disagree must not chase
/// each other.
const RECHECK: Duration = Duration::from_secs(1);
/// How long a status waits that neither ends a pod nor changes its readiness: one that does follows
/// most of the time, and what the API server would do meanwhile slows the start that the pod is in
/// the middle of.
pub(super) const HOLD: Duration = Duration::from_millis(500);
/// How long the first status of a pod may wait while pods wait for their start: it says that the
/// pod does.
const FIRST_HOLD: Duration = Duration::from_secs(5);
/// How long the last writes may take when the process ends.
const DRAIN: Duration = Duration::from_secs(2);

/// A new status.
#[derive(Clone, Debug)]
pub struct StatusUpdate {
    /// The API's object: for a static pod its mirror.
    pub pod: Arc<Pod>,
    /// The status, shared with whoever computed it.
    pub status: Arc<api::PodStatus>,
    /// Whether the pod waits because something failed. The first status then waits for nothing:
    /// whoever sees the Warning event of the failure finds the pod's conditions.
    pub is_failing: bool,
}

/// What the API server has accepted of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// The version of the last status that it has; zero: none.
    pub version: u64,
    /// Whether the phase that it has is terminal.
    pub is_terminal: bool,
    /// Whether the object is gone from the API (deleted by us or by others, or replaced by another
    /// of its name).
    pub is_gone: bool,
}

/// How to reach the task. Cheap to clone. Every call waits only for room in the queue, and does
/// nothing once the task has ended. Calls about one pod come from one place at a time: their order
/// is the order of the writes.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    versions: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Command {
    Set { uid: PodUid, version: u64, update: StatusUpdate },
    Observed { uid: PodUid, pod: Arc<Pod> },
    Acked { uid: PodUid, reply: oneshot::Sender<watch::Receiver<Acked>> },
    Delete { uid: PodUid, pod: Arc<Pod> },
    Forget { uid: PodUid },
}

impl Handle {
    /// A handle without a writer, for a kubelet without an API server: nothing is written, nothing
    /// is accepted.
    pub fn standalone() -> Self {
        Self { commands: mpsc::channel(1).0, versions: Arc::default() }
    }

    /// Has a status written; answers its version, which [`Acked`] reaches once it is accepted. Only
    /// the newest is written.
    pub async fn set(&self, uid: &PodUid, update: StatusUpdate) -> u64 {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        self.send(Command::Set { uid: uid.clone(), version, update }).await;
        version
    }

    /// Tells what the watch shows: a newer base for the next patch.
    pub async fn observed(&self, uid: &PodUid, pod: Arc<Pod>) {
        self.send(Command::Observed { uid: uid.clone(), pod }).await;
    }

    /// What has been accepted, now and from now on. The channel closes when the pod is forgotten.
    pub async fn acked(&self, uid: &PodUid) -> watch::Receiver<Acked> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Acked { uid: uid.clone(), reply }).await;
        answer.await.unwrap_or_else(|_| watch::channel(Acked::default()).1)
    }

    /// Has the object deleted, after its newest status is accepted: the pod is finished. Objects
    /// that nobody has asked to delete, and mirrors, are left alone.
    pub async fn delete(&self, uid: &PodUid, pod: Arc<Pod>) {
        self.send(Command::Delete { uid: uid.clone(), pod }).await;
    }

    /// Forgets the pod: nothing more is written for it.
    pub async fn forget(&self, uid: &PodUid) {
        self.send(Command::Forget { uid: uid.clone() }).await;
    }

    async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("a status command came after the writer had ended");
        }
    }
}

/// The task. See the module's documentation.
#[derive(Debug)]
pub struct Writer<A> {
    api: Arc<A>,
    clock: Clock,
    rush: StartBacklog,
    commands: mpsc::Receiver<Command>,
    entries: BTreeMap<PodUid, Entry>,
    /// What may begin now, most urgent first, then in the order of coming.
    ready: BTreeSet<(Lane, u64, PodUid)>,
    /// What has to wait.
    waiting: BTreeSet<(Mono, PodUid)>,
    jobs: JoinSet<Outcome>,
    /// When the API server comes back, what failed is tried again soon.
    returns: Reconnected,
    sequence: u64,
}

/// What goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Delete,
    Terminal,
    Readiness,
    Other,
}

/// One pod.
#[derive(Debug)]
struct Entry {
    want: Option<Want>,
    base: Option<Base>,
    acked: watch::Sender<Acked>,
    /// The UID of an object that the API no longer has.
    gone: Option<String>,
    delete: bool,
    /// Whether there is something to do (or to look at).
    dirty: bool,
    /// Whether the object has changed while a write was in flight, maybe by somebody else.
    changed: bool,
    /// Whether the fate of the last write is unknown.
    doubt: bool,
    in_flight: bool,
    forgotten: bool,
    failures: u32,
    /// Since when there is a status.
    since: Option<Mono>,
    slot: Slot,
}

/// Where the entry is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    None,
    Ready(Lane, u64),
    Waiting(Mono),
}

#[derive(Clone, Debug)]
struct Want {
    version: u64,
    status: Arc<api::PodStatus>,
    is_failing: bool,
}

/// The API's object as last known: what the watch shows, or the answer to our own write while the
/// watch lags behind.
#[derive(Clone, Debug)]
enum Base {
    Watched(Arc<Pod>),
    Answered(Arc<Answer>),
}

#[derive(Debug)]
struct Answer {
    target: Target,
    version: Option<u64>,
    deleting: bool,
    mirror: bool,
    status: api::PodStatus,
}

impl Base {
    fn answered(pod: Pod) -> Self {
        Self::Answered(Arc::new(Answer {
            target: target_of(&pod),
            version: resource_version(&pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            mirror: pod::is_mirror(&pod),
            status: pod.status.unwrap_or_default(),
        }))
    }

    fn target(&self) -> Target {
        match self {
            Self::Watched(pod) => target_of(pod),
            Self::Answered(answer) => answer.target.clone(),
        }
    }

    fn uid(&self) -> &str {
        match self {
            Self::Watched(pod) => pod.metadata.uid.as_deref().unwrap_or_default(),
            Self::Answered(answer) => &answer.target.uid,
        }
    }

    fn version(&self) -> Option<u64> {
        match self {
            Self::Watched(pod) => resource_version(pod),
            Self::Answered(answer) => answer.version,
        }
    }

    fn status(&self) -> Option<&api::PodStatus> {
        match self {
            Self::Watched(pod) => pod.status.as_ref(),
            Self::Answered(answer) => Some(&answer.status),
        }
    }

    /// Whether the object may be deleted by us: somebody has asked for it, and it is nobody's
    /// image.
    fn is_deletable(&self) -> bool {
        match self {
            Self::Watched(pod) => pod.metadata.deletion_timestamp.is_some() && !pod::is_mirror(pod),
            Self::Answered(answer) => answer.deleting && !answer.mirror,
        }
    }
}

/// One write, begun with the newest there was.
struct Job {
    uid: PodUid,
    base: Base,
    want: Option<Want>,
    doubt: bool,
    delete: bool,
}

/// How it ended.
struct Outcome {
    uid: PodUid,
    /// The object's UID that it was for.
    target_uid: String,
    base: Option<Base>,
    /// The version that the server now has.
    accepted: Option<u64>,
    end: End,
}

enum End {
    Done,
    Gone,
    Failed { failure: Failure, doubt: bool },
}

impl<A: StatusApi> Writer<A> {
    /// The task and how to reach it. `reach` tells when the API server comes back.
    pub fn new(api: A, clock: Clock, rush: StartBacklog, reach: &Connectivity) -> (Handle, Self) {
        let (sender, commands) = mpsc::channel(QUEUE);
        let writer = Self {
            api: Arc::new(api),
            clock,
            rush,
            commands,
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            jobs: JoinSet::new(),
            returns: reach.listen(),
            sequence: 0,
        };
        (Handle { commands: sender, versions: Arc::default() }, writer)
    }

    /// Runs until it is cancelled or every handle is gone, then gives the last writes two seconds.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            self.begin_jobs();
            // Every arm is cancel-safe: `recv`, `join_next` and timers lose nothing when another
            // arm wins.
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(outcome) = self.jobs.join_next() => self.finish(outcome),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                () = wait_until(self.clock, self.waiting.first().map(|(due, _)| *due)) => {
                    self.wake(self.clock.now().mono);
                }
                () = self.returns.next() => self.hasten(),
            }
        }
        self.drain().await;
    }

    /// Writes what is left, for as long as [`DRAIN`]: the end of a pod that is not told now is told
    /// late.
    async fn drain(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        self.wake(self.clock.now().mono.after(FIRST_HOLD));
        let deadline = self.clock.now().mono.after(DRAIN);
        loop {
            self.begin_jobs();
            if self.jobs.is_empty() {
                return;
            }
            // Cancel-safe as above.
            tokio::select! {
                Some(outcome) = self.jobs.join_next() => self.finish(outcome),
                () = self.clock.sleep_until(deadline) => return,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Set { uid, version, update } => {
                self.learn(&uid, update.pod);
                let now = self.clock.now().mono;
                let entry = self.entry(&uid);
                let unchanged =
                    entry.want.as_ref().is_some_and(|want| want.status == update.status);
                entry.want =
                    Some(Want { version, status: update.status, is_failing: update.is_failing });
                entry.since = entry.since.or(Some(now));
                if unchanged && !entry.dirty && !entry.in_flight && entry.gone.is_none() {
                    entry.ack(Some(version));
                } else {
                    entry.dirty = true;
                    self.queue(&uid, None);
                }
            }
            Command::Observed { uid, pod } => {
                if self.entries.contains_key(&uid) {
                    self.learn(&uid, pod);
                }
            }
            Command::Acked { uid, reply } => {
                let receiver = self.entry(&uid).acked.subscribe();
                drop(reply.send(receiver));
            }
            Command::Delete { uid, pod } => {
                self.learn(&uid, pod);
                let entry = self.entry(&uid);
                if entry.base.as_ref().is_some_and(Base::is_deletable) {
                    entry.delete = true;
                    entry.dirty = true;
                    self.queue(&uid, None);
                } else {
                    tracing::warn!(pod_uid = %uid, "not deleting a pod that nobody has asked to delete");
                }
            }
            Command::Forget { uid } => self.forget(&uid),
        }
    }

    /// Takes over what is newer of the object.
    fn learn(&mut self, uid: &PodUid, pod: Arc<Pod>) {
        let now = self.clock.now().mono;
        let entry = self.entry(uid);
        let seen = pod.metadata.uid.as_deref().unwrap_or_default();
        if entry.gone.as_deref() == Some(seen) {
            return;
        }
        let (known, shown) = (entry.base.as_ref().and_then(Base::version), resource_version(&pod));
        if known > shown {
            return;
        }
        let is_other = entry.base.as_ref().is_some_and(|base| base.uid() != seen);
        if is_other || entry.gone.is_some() {
            // Another object of the name: a mirror that was made anew. It knows nothing yet.
            entry.gone = None;
            entry.base = Some(Base::Watched(pod));
            entry.doubt = false;
            entry.failures = 0;
            entry.acked.send_replace(Acked::default());
            entry.dirty = entry.want.is_some();
            self.queue(uid, None);
            return;
        }
        let is_changed = entry.base.is_some() && known < shown;
        entry.base = Some(Base::Watched(pod));
        if !is_changed || entry.want.is_none() {
            return;
        }
        if entry.in_flight {
            entry.changed = true;
        } else if !entry.dirty {
            entry.dirty = true;
            self.queue(uid, Some(now.after(RECHECK)));
        }
    }

    fn forget(&mut self, uid: &PodUid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.in_flight {
            entry.forgotten = true;
            return;
        }
        let slot = entry.slot;
        self.unqueue(uid, slot);
        self.entries.remove(uid);
    }

    fn entry(&mut self, uid: &PodUid) -> &mut Entry {
        let entry = self.entries.entry(uid.clone()).or_insert_with(Entry::new);
        entry.forgotten = false;
        entry
    }

    /// Queues the pod: at `not_before`, else at once, or after [`HOLD`] if it may wait. One that
    /// waits after a failure keeps waiting; one that waits to be looked at again does not when
    /// there is something new.
    fn queue(&mut self, uid: &PodUid, not_before: Option<Mono>) {
        let held = self.clock.now().mono.after(HOLD);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.in_flight || !entry.dirty || entry.gone.is_some() || entry.base.is_none() {
            return;
        }
        let old = entry.slot;
        if matches!(old, Slot::Waiting(_)) && entry.failures > 0 && not_before.is_none() {
            return;
        }
        let new = match (not_before, old) {
            (Some(due), _) => Slot::Waiting(due),
            (None, Slot::Ready(_, sequence)) => Slot::Ready(entry.lane(), sequence),
            (None, Slot::None) if entry.lane() == Lane::Other => Slot::Waiting(held),
            (None, Slot::Waiting(due)) if entry.lane() == Lane::Other => {
                Slot::Waiting(due.min(held))
            }
            (None, Slot::None | Slot::Waiting(_)) => {
                self.sequence += 1;
                Slot::Ready(entry.lane(), self.sequence)
            }
        };
        entry.slot = new;
        self.unqueue(uid, old);
        match new {
            Slot::Ready(lane, sequence) => {
                self.ready.insert((lane, sequence, uid.clone()));
            }
            Slot::Waiting(due) => {
                self.waiting.insert((due, uid.clone()));
            }
            Slot::None => {}
        }
    }

    fn unqueue(&mut self, uid: &PodUid, slot: Slot) {
        match slot {
            Slot::Ready(lane, sequence) => {
                self.ready.remove(&(lane, sequence, uid.clone()));
            }
            Slot::Waiting(due) => {
                self.waiting.remove(&(due, uid.clone()));
            }
            Slot::None => {}
        }
    }

    /// Moves what is due by `now` to where it may begin.
    fn wake(&mut self, now: Mono) {
        while let Some((due, uid)) = self.waiting.first().cloned() {
            if due > now {
                return;
            }
            self.waiting.pop_first();
            if let Some(entry) = self.entries.get_mut(&uid) {
                if self.rush.is_on() && entry.may_wait(now) {
                    let later = now.after(HOLD);
                    entry.slot = Slot::Waiting(later);
                    self.waiting.insert((later, uid));
                    continue;
                }
                self.sequence += 1;
                let lane = entry.lane();
                entry.slot = Slot::Ready(lane, self.sequence);
                self.ready.insert((lane, self.sequence, uid));
            }
        }
    }

    /// What waits after a failure waits no longer than after the first one.
    fn hasten(&mut self) {
        let soon = self.clock.now().mono.after(RETRY);
        let late: Vec<_> = self.waiting.iter().filter(|(due, _)| *due > soon).cloned().collect();
        for (due, uid) in late {
            if let Some(entry) = self.entries.get_mut(&uid).filter(|entry| entry.failures > 0) {
                entry.slot = Slot::Waiting(soon);
                self.waiting.remove(&(due, uid.clone()));
                self.waiting.insert((soon, uid));
            }
        }
    }

    fn begin_jobs(&mut self) {
        while self.jobs.len() < WRITERS {
            let Some((_, _, uid)) = self.ready.pop_first() else { return };
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            entry.slot = Slot::None;
            let Some(base) = entry.base.clone() else { continue };
            entry.in_flight = true;
            entry.dirty = false;
            let job = Job {
                uid,
                base,
                want: entry.want.clone(),
                doubt: entry.doubt,
                delete: entry.delete,
            };
            let api = Arc::clone(&self.api);
            self.jobs.spawn(async move { job.perform(&*api).await });
        }
    }

    fn finish(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nobody aborts jobs but the end of the task.
                Err(_) => return,
            },
        };
        let now = self.clock.now().mono;
        let Some(entry) = self.entries.get_mut(&outcome.uid) else { return };
        entry.in_flight = false;
        if entry.forgotten {
            self.entries.remove(&outcome.uid);
            return;
        }
        if entry.base.as_ref().is_some_and(|base| base.uid() != outcome.target_uid) {
            // The object was made anew meanwhile: what the old one said is of no use.
            self.queue(&outcome.uid, None);
            return;
        }
        let known = entry.base.as_ref().and_then(Base::version);
        if let Some(base) = outcome.base
            && known <= base.version()
        {
            // The change that was seen meanwhile was our own, or is in our answer.
            entry.changed = false;
            if known < base.version() {
                entry.base = Some(base);
            }
        }
        // Somebody else has written: look whether anything of ours was lost.
        entry.dirty |= std::mem::take(&mut entry.changed);
        if outcome.accepted.is_some() {
            entry.ack(outcome.accepted);
        }
        let mut not_before = None;
        match outcome.end {
            End::Done => (entry.failures, entry.doubt) = (0, false),
            End::Gone => {
                entry.gone = Some(outcome.target_uid);
                entry.dirty = false;
                entry.delete = false;
                entry.acked.send_modify(|acked| acked.is_gone = true);
            }
            End::Failed { failure, doubt } => {
                let wait = RETRY.saturating_mul(1 << entry.failures.min(8)).min(RETRY_MAX);
                if entry.failures == 0 {
                    tracing::warn!(pod_uid = %outcome.uid, error = &failure as &dyn std::error::Error, "cannot write a pod's status, trying again");
                } else {
                    tracing::debug!(pod_uid = %outcome.uid, failures = entry.failures, error = &failure as &dyn std::error::Error, "still cannot write a pod's status");
                }
                entry.failures = entry.failures.saturating_add(1);
                entry.doubt |= doubt;
                entry.dirty = true;
                not_before = Some(now.after(wait));
            }
        }
        self.queue(&outcome.uid, not_before);
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            want: None,
            base: None,
            acked: watch::Sender::new(Acked::default()),
            gone: None,
            delete: false,
            dirty: false,
            changed: false,
            doubt: false,
            in_flight: false,
            forgotten: false,
            failures: 0,
            since: None,
            slot: Slot::None,
        }
    }

    fn ack(&self, version: Option<u64>) {
        let is_over = self.base.as_ref().and_then(Base::status).is_some_and(is_terminal);
        self.acked.send_if_modified(|acked| {
            let new = Acked {
                version: version.unwrap_or(acked.version),
                is_terminal: is_over,
                is_gone: false,
            };
            std::mem::replace(acked, new) != new
        });
    }

    /// Whether there is more important work for the API server: so far there is only to say that
    /// the pod waits.
    fn may_wait(&self, now: Mono) -> bool {
        self.is_first()
            && self.lane() == Lane::Other
            && self.since.is_some_and(|since| now < since.after(FIRST_HOLD))
    }

    /// Whether the API has no status of ours yet.
    fn is_first(&self) -> bool {
        self.base.as_ref().and_then(Base::status).is_none_or(|status| status.start_time.is_none())
    }

    fn lane(&self) -> Lane {
        if self.delete {
            return Lane::Delete;
        }
        let Some(want) = &self.want else { return Lane::Other };
        let has = self.base.as_ref().and_then(Base::status);
        // Whoever has asked for a deletion waits for the last status of a pod that ended long ago,
        // too.
        let is_awaited =
            !has.is_some_and(is_terminal) || self.base.as_ref().is_some_and(Base::is_deletable);
        if is_terminal(&want.status) && is_awaited {
            return Lane::Terminal;
        }
        let is_urgent =
            is_ready(Some(&want.status)) != is_ready(has) || (want.is_failing && self.is_first());
        if is_urgent { Lane::Readiness } else { Lane::Other }
    }
}

impl Job {
    async fn perform<A: StatusApi>(mut self, api: &A) -> Outcome {
        let target = self.base.target();
        let mut outcome = Outcome {
            uid: self.uid.clone(),
            target_uid: target.uid.clone(),
            base: None,
            accepted: None,
            end: End::Done,
        };
        outcome.end = match self.steps(api, &target, &mut outcome).await {
            Ok(end) => end,
            Err(Failure::NotFound { .. }) => End::Gone,
            Err(failure) => {
                let doubt = matches!(failure, Failure::Unknown { .. } | Failure::Conflict { .. });
                End::Failed { failure, doubt }
            }
        };
        outcome
    }

    /// Reads if it must, writes if there is something to write, deletes if it should.
    async fn steps<A: StatusApi>(
        &mut self,
        api: &A,
        target: &Target,
        outcome: &mut Outcome,
    ) -> Result<End, Failure> {
        if self.doubt {
            let pod = api.get(target).await?;
            if pod.metadata.uid.as_deref() != Some(&target.uid) {
                return Ok(End::Gone);
            }
            self.take(pod, outcome);
        }
        if let Some(want) = self.want.clone() {
            let nothing = api::PodStatus::default();
            let has = self.base.status().unwrap_or(&nothing);
            let merged = merge::merge(has, &want.status);
            if let Some(body) = patch::build(&target.uid, has, &merged) {
                let pod = api.patch_status(target, &body).await?;
                if pod.metadata.uid.as_deref() != Some(&target.uid) {
                    return Ok(End::Gone);
                }
                self.take(pod, outcome);
            }
            outcome.accepted = Some(want.version);
        }
        if self.delete && self.base.is_deletable() {
            return match api.delete(target).await {
                // Another object of the name: ours is gone all the same.
                Ok(()) | Err(Failure::NotFound { .. } | Failure::Conflict { .. }) => Ok(End::Gone),
                Err(failure) => Err(failure),
            };
        }
        Ok(End::Done)
    }

    fn take(&mut self, pod: Pod, outcome: &mut Outcome) {
        self.base = Base::answered(pod);
        outcome.base = Some(self.base.clone());
    }
}

async fn wait_until(clock: Clock, due: Option<Mono>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn target_of(pod: &Pod) -> Target {
    Target {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// Resource versions of the API are numbers that grow.
fn resource_version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

fn is_ready(status: Option<&api::PodStatus>) -> bool {
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == conditions::READY && condition.status == "True")
}
