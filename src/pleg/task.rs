//! Reads the runtime and publishes each pod's observation: the one task of this room.
//!
//! In: the dirty set, the state of the event stream, its own timers. Out: each pod's `watch`. Pods
//! are read side by side, each at most once at a time, so that a slow pod delays no other. A relist
//! only finds out which pods to read; it never publishes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

use super::changes::{self, Change};
use super::convert::Rows;
use super::diff::differs;
use super::dirty::Look;
use super::read::{self, Order, Outcome};
use super::stream::Reader;
use super::{Measure, Observer, PodEntry, Shared, Stamp};
use crate::clock::Clock;
use crate::cri::{CriError, Runtime};
use crate::model::{Mono, PodKey, PodUid};

/// The pods that are read at the same time, at most.
pub(super) const READS: usize = 32;
/// The period of relists without an event stream, while something runs; upstream's period.
const RELIST: Duration = Duration::from_secs(1);
/// The period while nothing runs: only changes by others could be missed.
const RELIST_IDLE: Duration = Duration::from_secs(5);
/// The period of relists with an event stream, give or take a fifth.
const RELIST_SAFETY: Duration = Duration::from_secs(30);
/// The shortest time between two relists that were requested.
const RELIST_APART: Duration = Duration::from_millis(100);
/// The wait after the first failed read of a pod; it doubles with each failure.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest wait after a failed read.
const RETRY_LAST: Duration = Duration::from_secs(5);
/// If this many consecutive relists find changes that the event stream did not report, the stream
/// is considered broken and is reopened.
const SUSPICIOUS: u32 = 2;

/// The task before it runs; made by [`super::new`].
pub(super) struct PlegTask {
    runtime: Runtime,
    clock: Clock,
    observer: Observer,
    shared: Arc<Shared>,
}

/// A pod that waits in the queue, and how closely to read it.
#[derive(Debug, Default)]
struct Waiting {
    look: Look,
    /// The pod's rows of a recent relist, so that it need not be listed again.
    rows: Option<(Stamp, Rows)>,
    /// No read begins before this time: the last one failed.
    not_before: Option<Mono>,
}

/// A read that is running.
struct Reading {
    uid: PodUid,
    look: Look,
    stamp: Stamp,
    began: Mono,
}

/// A relist that is running.
struct Relisting {
    stamps: HashMap<PodUid, Stamp>,
    began: Mono,
}

/// The state of the running task.
struct State {
    runtime: Runtime,
    clock: Clock,
    observer: Observer,
    shared: Arc<Shared>,
    waiting: HashMap<PodUid, Waiting>,
    queue: VecDeque<PodUid>,
    reads: JoinSet<Result<Outcome, CriError>>,
    reading: HashMap<Id, Reading>,
    failures: HashMap<PodUid, u32>,
    relists: JoinSet<Result<HashMap<PodUid, Rows>, CriError>>,
    relisting: Option<Relisting>,
    relist_due: Mono,
    relist_began: Option<Mono>,
    /// The pods of the first relist that have not been read yet; `None` before and after.
    unsynced: Option<HashSet<PodUid>>,
    stream_up: bool,
    /// Consecutive relists that found changes which the stream did not report.
    suspicion: u32,
    distrust: watch::Sender<u64>,
}

impl PlegTask {
    pub(super) fn new(
        runtime: Runtime,
        clock: Clock,
        observer: Observer,
        shared: Arc<Shared>,
    ) -> Self {
        Self { runtime, clock, observer, shared }
    }

    /// Reads for ever. May be dropped at any await.
    pub(super) async fn run(self) {
        let Self { runtime, clock, observer, shared } = self;
        let (up, mut stream_up) = watch::channel(false);
        let (distrust, distrusted) = watch::channel(0);
        let reader = Reader {
            runtime: runtime.clone(),
            shared: Arc::clone(&shared),
            observer: Arc::clone(&observer),
            clock,
            up,
            distrusted,
        };

        // The reader ends with this task, which owns the set.
        let mut readers = JoinSet::new();
        readers.spawn(reader.run());
        let mut state = State {
            runtime,
            clock,
            observer,
            shared: Arc::clone(&shared),
            waiting: HashMap::new(),
            queue: VecDeque::new(),
            reads: JoinSet::new(),
            reading: HashMap::new(),
            failures: HashMap::new(),
            relists: JoinSet::new(),
            relisting: None,
            relist_due: clock.now().mono,
            relist_began: None,
            unsynced: None,
            stream_up: false,
            suspicion: 0,
            distrust,
        };

        loop {
            state.start_what_is_due();
            let wake = clock.instant(state.wake_at());

            // `marked`, `join_next` and `changed` are cancel-safe; a timer is made anew each time.
            tokio::select! {
                () = shared.dirty.marked() => state.take_marks(),
                Some(done) = state.reads.join_next_with_id() => state.read_done(done),
                Some(done) = state.relists.join_next() => state.relist_done(done),
                Ok(()) = stream_up.changed() => {
                    state.stream_changed(*stream_up.borrow_and_update());
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }
}

impl State {
    fn start_what_is_due(&mut self) {
        let now = self.clock.now().mono;
        if self.relisting.is_none() && self.relist_due <= now {
            self.start_relist(now);
        }

        // One round over the queue: a pod that cannot be read now goes back to its end.
        for _ in 0..self.queue.len() {
            if self.reads.len() >= READS {
                break;
            }

            let Some(uid) = self.queue.pop_front() else { break };
            let Some(waiting) = self.waiting.get(&uid) else { continue };

            let early = waiting.not_before.is_some_and(|moment| moment > now);
            if early || self.is_read(&uid) {
                self.queue.push_back(uid);
                continue;
            }

            if let Some(waiting) = self.waiting.remove(&uid) {
                self.start_read(uid, waiting, now);
            }
        }
    }

    /// Returns the next moment at which time alone makes something due. It is never a past moment
    /// on which [`Self::start_what_is_due`] cannot act.
    fn wake_at(&self) -> Mono {
        // While every place is taken, the end of a read makes room, not time.
        let may_read = self.reads.len() < READS;
        let retry = self
            .waiting
            .iter()
            .filter(|(uid, _)| may_read && !self.is_read(uid))
            .filter_map(|(_, waiting)| waiting.not_before)
            .min();
        let relist = if self.relisting.is_some() { Mono(Duration::MAX) } else { self.relist_due };
        let far = self.clock.now().mono.after(RELIST_SAFETY * 4);

        retry.map_or(relist, |retry| retry.min(relist)).min(far)
    }

    /// Returns true while a read of the pod is running.
    fn is_read(&self, uid: &PodUid) -> bool {
        self.reading.values().any(|reading| &reading.uid == uid)
    }

    fn start_read(&mut self, uid: PodUid, waiting: Waiting, now: Mono) {
        let Waiting { mut look, rows, not_before: _ } = waiting;
        let (current, known) = self.shared.entry(&uid, |entry| {
            let observation = entry.observation.borrow();
            (observation.stamp(), Arc::clone(&observation.pod))
        });

        // Before the first relist there is no observation that a part could be added to.
        look.whole |= !*self.shared.synced.borrow();
        let (stamp, rows) = rows.map_or((current, None), |(stamp, rows)| (stamp, Some(rows)));

        let order = Order { uid: uid.clone(), look: look.clone(), rows, known };
        let runtime = self.runtime.clone();
        let task = self.reads.spawn(async move { read::read(&runtime, order).await });
        self.reading.insert(task.id(), Reading { uid, look, stamp, began: now });
    }

    fn read_done(&mut self, done: Result<(Id, Result<Outcome, CriError>), JoinError>) {
        let (id, outcome) = match done {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                tracing::error!(%error, "reading a pod from the runtime panicked");
                (
                    error.id(),
                    Err(CriError::unusable_answer("ContainerStatus", "the reader panicked")),
                )
            }
        };
        let Some(Reading { uid, look, stamp, began }) = self.reading.remove(&id) else { return };
        let now = self.clock.now().mono;

        match outcome {
            Ok(outcome) => {
                (self.observer)(Measure::PodRead(now.since(began)));
                self.failures.remove(&uid);
                if !self.publish(&uid, stamp, outcome) {
                    (self.observer)(Measure::ReadDiscarded);
                    self.enqueue(&uid, look, None);
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%uid, %error, "reading a pod from the runtime failed");
                let failures = self.failures.entry(uid.clone()).or_default();
                let wait = (RETRY_FIRST * 2_u32.saturating_pow(*failures)).min(RETRY_LAST);
                *failures = (*failures + 1).min(8);
                self.enqueue(&uid, look, None);
                if let Some(waiting) = self.waiting.get_mut(&uid) {
                    waiting.not_before = Some(now.after(wait));
                }
            }
        }

        self.note_synced(&uid);
    }

    /// Publishes a read if it counts. Returns true if it did.
    fn publish(&mut self, uid: &PodUid, stamp: Stamp, outcome: Outcome) -> bool {
        let (channel, key) = self.shared.entry(uid, |entry| {
            if entry.key.is_none() {
                entry.key = outcome.key;
            }
            (entry.observation.clone(), entry.key.clone())
        });

        let new = Arc::new(outcome.pod);
        let mut old = None;
        let mut counts = false;
        let news = channel.send_if_modified(|observation| {
            counts = observation.counts(stamp);
            if counts {
                old = Some(Arc::clone(&observation.pod));
            }
            counts && observation.take(stamp, Arc::clone(&new))
        });

        // The first relist finds the containers that ran before this process: no change.
        if let Some(old) = old.filter(|_| *self.shared.synced.borrow()) {
            for change in changes::between(&old, &new) {
                log_change(uid, key.as_ref(), change);
            }
        }

        let unheard = channel.receiver_count() == 0;
        drop(channel);
        self.forget_if_unused(uid);
        if news && unheard {
            self.shared.changes.send_modify(|changes| *changes += 1);
        }

        counts
    }

    /// Notes that a pod of the first relist has been read; the last one completes the first sync.
    fn note_synced(&mut self, uid: &PodUid) {
        let Some(unsynced) = &mut self.unsynced else { return };
        unsynced.remove(uid);
        if unsynced.is_empty() {
            self.unsynced = None;
            self.shared.synced.send_replace(true);
        }
    }

    /// Puts a pod into the queue, or adds to its place there.
    fn enqueue(&mut self, uid: &PodUid, look: Look, rows: Option<(Stamp, Rows)>) {
        let waiting = self.waiting.entry(uid.clone()).or_insert_with(|| {
            self.queue.push_back(uid.clone());
            Waiting::default()
        });
        waiting.look.merge(look);
        // Marks that come later concern something newer than the rows.
        waiting.rows = rows;
    }

    fn take_marks(&mut self) {
        let marks = self.shared.dirty.take();
        for (uid, look) in marks.pods {
            self.enqueue(&uid, look, None);
            // Something has happened to the pod: a read is worth trying at once.
            if let Some(waiting) = self.waiting.get_mut(&uid) {
                waiting.not_before = None;
            }
        }

        if marks.all {
            self.relist_soon();
        }
    }

    fn relist_soon(&mut self) {
        let now = self.clock.now().mono;
        let earliest = self.relist_began.map_or(now, |began| began.after(RELIST_APART));
        self.relist_due = self.relist_due.min(earliest.max(now));
    }

    fn stream_changed(&mut self, up: bool) {
        self.stream_up = up;
        self.suspicion = 0;
        self.relist_soon();
    }

    fn start_relist(&mut self, now: Mono) {
        let pods = self.shared.pods.lock();
        let stamps = pods
            .iter()
            .map(|(uid, entry)| (uid.clone(), entry.observation.borrow().stamp()))
            .collect();
        drop(pods);
        self.relisting = Some(Relisting { stamps, began: now });
        let runtime = self.runtime.clone();
        self.relists.spawn(async move { read::list(&runtime, None).await });

        // A request that comes meanwhile sets the time: see `relist_soon`.
        self.relist_due = Mono(Duration::MAX);
    }

    fn relist_done(&mut self, done: Result<Result<HashMap<PodUid, Rows>, CriError>, JoinError>) {
        let Some(Relisting { stamps, began }) = self.relisting.take() else { return };
        let now = self.clock.now().mono;

        match done {
            Ok(Ok(rows)) => {
                let interval = self.relist_began.map_or(Duration::ZERO, |last| began.since(last));
                (self.observer)(Measure::Relist { took: now.since(began), interval });
                self.shared.last_relist.send_replace(Some(now));
                self.compare(rows, &stamps);
            }
            Ok(Err(error)) => tracing::debug!(%error, "listing what runs failed"),
            Err(error) => tracing::error!(%error, "listing what runs panicked"),
        }

        self.relist_began = Some(began);
        self.relist_due = self.relist_due.min(now.after(self.relist_period()));
    }

    /// Puts every pod into the queue that differs from the list.
    fn compare(&mut self, mut rows: HashMap<PodUid, Rows>, stamps: &HashMap<PodUid, Stamp>) {
        let mut uids: HashSet<PodUid> = self.shared.pods.lock().keys().cloned().collect();
        uids.extend(rows.keys().cloned());
        let mut unannounced = false;

        for uid in uids {
            let found = rows.remove(&uid);
            let observation = self.shared.entry(&uid, |entry| {
                if entry.key.is_none() {
                    entry.key = found.as_ref().and_then(|rows| rows.key.clone());
                }
                entry.observation.borrow().clone()
            });

            let differs = differs(&observation.pod, found.as_ref());
            if !differs && observation.fresh {
                self.forget_if_unused(&uid);
                continue;
            }

            let busy = self.waiting.contains_key(&uid) || self.is_read(&uid);
            unannounced |= differs && observation.fresh && observation.in_flight == 0 && !busy;

            // A pod that was unknown when the list was requested has not been changed by us since.
            let stamp = stamps
                .get(&uid)
                .copied()
                .or_else(|| (observation.epoch == 0).then(|| observation.stamp()));
            let usable = stamp.filter(|stamp| observation.counts(*stamp) && !busy);
            self.enqueue(
                &uid,
                Look::whole(),
                usable.map(|stamp| (stamp, found.unwrap_or_default())),
            );
        }

        if !*self.shared.synced.borrow() && self.unsynced.is_none() {
            let unsynced: HashSet<PodUid> = self
                .waiting
                .keys()
                .chain(self.reading.values().map(|reading| &reading.uid))
                .cloned()
                .collect();
            if unsynced.is_empty() {
                self.shared.synced.send_replace(true);
            } else {
                self.unsynced = Some(unsynced);
            }
        }

        self.judge_stream(unannounced);
    }

    /// Reopens the stream if consecutive relists found changes that it did not report.
    fn judge_stream(&mut self, unannounced: bool) {
        if !self.stream_up {
            return;
        }

        self.suspicion = if unannounced { self.suspicion + 1 } else { 0 };
        if self.suspicion >= SUSPICIOUS {
            tracing::warn!(
                "the runtime's event stream misses events: listing every second for a while"
            );
            self.suspicion = 0;
            self.distrust.send_modify(|times| *times += 1);
        } else if unannounced {
            // The event may merely have been late: list again soon.
            self.relist_due = self.relist_due.min(self.clock.now().mono.after(RELIST_IDLE));
        }
    }

    fn forget_if_unused(&mut self, uid: &PodUid) {
        let busy = self.waiting.contains_key(uid) || self.is_read(uid);
        let mut pods = self.shared.pods.lock();
        if !busy && pods.get(uid).is_some_and(PodEntry::is_unused) {
            pods.remove(uid);
        }
    }

    fn relist_period(&self) -> Duration {
        if self.stream_up {
            return jittered(RELIST_SAFETY);
        }
        let pods = self.shared.pods.lock();
        let busy = pods.values().any(|entry| {
            let observation = entry.observation.borrow();
            observation.in_flight > 0 || !observation.fresh || !observation.pod.is_empty()
        });
        if busy || !*self.shared.synced.borrow() { RELIST } else { RELIST_IDLE }
    }
}

/// Logs a change of a pod's sandbox or container. The termination message is left out: it is the
/// container's own text.
fn log_change(uid: &PodUid, key: Option<&PodKey>, change: Change<'_>) {
    let message = change.message();
    let pod = key.map(tracing::field::display);
    match change {
        Change::Sandbox(sandbox) | Change::SandboxRemoved(sandbox) => {
            tracing::info!(pod, %uid, sandbox = %sandbox.id, "{message}");
        }
        Change::Container(container) | Change::ContainerRemoved(container) => {
            let exit = container.state.exit();
            tracing::info!(
                pod,
                %uid,
                container = container.name,
                id = %container.id,
                exit_code = exit.map(|exit| exit.exit_code),
                reason = exit.map(|exit| exit.reason.as_str()),
                "{message}"
            );
        }
    }
}

/// Returns `period`, give or take a fifth.
fn jittered(period: Duration) -> Duration {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let percent = 80 + u32::try_from(random % 41).unwrap_or_default();
    period * percent / 100
}
