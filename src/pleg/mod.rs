//! Reads what runs in the runtime and tells each pod's task what is new (upstream: pod lifecycle
//! event generator).
//!
//! One task reads; pods subscribe by UID through the [`Handle`] and get an
//! [`Observation`] on a `watch`. It is fed by the runtime's answers only: the event stream, relists
//! and the ends of our own calls merely say where to look again, by marking pods in one dirty set.
//!
//! The law of the epoch. Whoever makes a call that changes a pod holds a [`Mutation`] while it
//! runs. Its begin and its end each move the pod's epoch on, and its end makes what is published
//! stale (`fresh = false`) in the same instant, so nobody who learns of the end can still take the
//! old picture for current. A read counts only if no mutation ended after it began; else it is
//! thrown away and made again. A mutation that is still in flight does not spoil a read (a stop may
//! last for minutes, and the pod's other containers must be seen meanwhile): whoever plans knows
//! what he has in flight. Whoever concludes from something's absence asks for `quiet`: nothing in
//! flight during the read or since.
//!
//! Never: changes anything in the runtime; publishes a list's answer without the statuses; queues
//! events.

mod convert;
mod diff;
mod dirty;
mod health;
pub mod metrics;
mod read;
mod stream;
mod task;
mod termination;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::cri::Runtime;
use crate::model::time::go_duration;
use crate::model::{ContainerId, Mono, ObservedPod, PodKey, PodUid, SandboxId};

use dirty::{Dirty, Look};
pub use health::health;
use task::PlegTask;

/// Without a successful relist for this long nothing that is published can be trusted; upstream's
/// threshold.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(180);

/// What is known of one pod in the runtime.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Moves on when a mutation begins and when it ends.
    pub epoch: u64,
    /// How many mutations are in flight now (as of the borrow).
    pub in_flight: u32,
    /// Whether no mutation has ended since this was read: it may be planned on.
    pub fresh: bool,
    /// Whether, besides, no mutation was in flight when it was read or has begun since: what is not
    /// in it, is not there.
    pub quiet: bool,
    /// What the runtime said.
    pub pod: Arc<ObservedPod>,
    /// How many mutations have ended.
    ended: u64,
}

/// Where a pod's epoch stood when a read began.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    epoch: u64,
    ended: u64,
    in_flight: u32,
}

impl Observation {
    fn stamp(&self) -> Stamp {
        Stamp { epoch: self.epoch, ended: self.ended, in_flight: self.in_flight }
    }

    /// Whether a read that began at `stamp` still counts.
    fn counts(&self, stamp: Stamp) -> bool {
        self.ended == stamp.ended
    }

    /// Takes over the outcome of a read that counts; whether that is news.
    fn take(&mut self, stamp: Stamp, pod: Arc<ObservedPod>) -> bool {
        let quiet = self.epoch == stamp.epoch && stamp.in_flight == 0;
        let news = !self.fresh || self.quiet != quiet || self.pod != pod;
        self.fresh = true;
        self.quiet = quiet;
        self.pod = pod;
        news
    }
}

/// A pod that the runtime knows, or that somebody has subscribed to.
#[derive(Clone, Debug)]
pub struct KnownPod {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name as the runtime's labels have them.
    pub key: Option<PodKey>,
    /// What is known of it.
    pub observation: Observation,
    /// Whether anybody is subscribed to it; if not, it has no task.
    pub subscribed: bool,
}

/// What is worth counting; for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A relist has succeeded: how long it took, and how long after the one before.
    Relist {
        /// Its duration.
        took: Duration,
        /// Since the one before began.
        interval: Duration,
    },
    /// One pod has been read: how long it took.
    PodRead(Duration),
    /// A read did not count, because a mutation ended meanwhile.
    ReadDiscarded,
    /// The event stream has come up.
    StreamUp,
    /// The event stream was lost or refused.
    StreamLost,
}

/// Told of every [`Measure`].
pub type Observer = Arc<dyn Fn(Measure) + Send + Sync>;

/// Makes the handle, and the task that reads.
pub fn new(
    runtime: Runtime,
    clock: Clock,
    observer: Observer,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let shared = Arc::new(Shared {
        pods: Mutex::default(),
        dirty: Dirty::default(),
        synced: watch::Sender::new(false),
        changes: watch::Sender::new(0),
        last_relist: watch::Sender::new(None),
    });
    let task = PlegTask::new(runtime, clock, observer, Arc::clone(&shared));
    (Handle { shared }, task.run())
}

/// What the handle and the task share. The lock on the pods is held for look-ups only.
struct Shared {
    pods: Mutex<HashMap<PodUid, Entry>>,
    dirty: Dirty,
    synced: watch::Sender<bool>,
    changes: watch::Sender<u64>,
    last_relist: watch::Sender<Option<Mono>>,
}

struct Entry {
    observation: watch::Sender<Observation>,
    key: Option<PodKey>,
}

impl Entry {
    /// Whether nobody would miss it: the runtime has nothing of the pod, and nobody listens or is
    /// changing it.
    fn is_unused(&self) -> bool {
        let alone = self.observation.receiver_count() == 0 && self.observation.sender_count() == 1;
        let observation = self.observation.borrow();
        alone && observation.fresh && observation.in_flight == 0 && observation.pod.is_empty()
    }
}

impl Shared {
    /// Works on a pod's entry, under the lock. A pod that is new here after the first relist is
    /// known not to be in the runtime: nobody but this kubelet puts pods there, and what somebody
    /// else puts there the next relist finds.
    fn entry<T>(&self, uid: &PodUid, work: impl FnOnce(&mut Entry) -> T) -> T {
        let mut pods = self.pods.lock();
        let entry = pods.entry(uid.clone()).or_insert_with(|| {
            let synced = *self.synced.borrow();
            let observation =
                Observation { fresh: synced, quiet: synced, ..Observation::default() };
            Entry { observation: watch::Sender::new(observation), key: None }
        });
        work(entry)
    }
}

/// How everybody else reaches this subsystem. Cheap to clone.
///
/// Do not call it while you hold a `borrow()` of an observation: as everywhere with `watch`, that
/// can deadlock.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("pleg::Handle")
            .field("pods", &self.shared.pods.lock().len())
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// What is known of a pod from now on. Before the first relist, and after each mutation until
    /// it has been read again, the observation is not `fresh`. A change of freshness to false alone
    /// is not notified.
    pub fn subscribe(&self, uid: &PodUid) -> watch::Receiver<Observation> {
        self.shared.entry(uid, |entry| entry.observation.subscribe())
    }

    /// Says that a call that changes the pod begins. Keep the guard until the call has ended.
    pub fn begin(&self, uid: &PodUid) -> Mutation {
        // Holding a sender keeps the entry from being forgotten.
        let channel = self.shared.entry(uid, |entry| entry.observation.clone());
        channel.send_if_modified(|observation| {
            observation.epoch += 1;
            observation.in_flight += 1;
            observation.quiet = false;
            false
        });
        Mutation {
            shared: Arc::clone(&self.shared),
            uid: uid.clone(),
            channel,
            look: Look::default(),
        }
    }

    /// Has a pod read again.
    pub fn refresh(&self, uid: &PodUid) {
        self.shared.dirty.mark(uid, Look::whole());
    }

    /// Has everything listed again.
    pub fn relist(&self) {
        self.shared.dirty.mark_all();
    }

    /// Every pod that the runtime knows or that somebody has subscribed to.
    pub fn pods(&self) -> Vec<KnownPod> {
        let pods = self.shared.pods.lock();
        pods.iter()
            .map(|(uid, entry)| KnownPod {
                uid: uid.clone(),
                key: entry.key.clone(),
                observation: entry.observation.borrow().clone(),
                subscribed: entry.observation.receiver_count() > 0,
            })
            .collect()
    }

    /// Changes when a pod that nobody has subscribed to appears, changes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Waits until everything that runs has been read once. Cancel-safe.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        if synced.wait_for(|synced| *synced).await.is_err() {
            // The sender lives in `self`, so it cannot be gone.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until a relist has succeeded after the one at `last`. Cancel-safe.
    pub async fn relisted_since(&self, last: Option<Mono>) {
        if self.shared.last_relist.subscribe().wait_for(|now| *now != last).await.is_err() {
            // The sender lives in `self`, so it cannot be gone.
            std::future::pending::<()>().await;
        }
    }

    /// When the last relist succeeded.
    pub fn last_relist(&self) -> Option<Mono> {
        *self.shared.last_relist.borrow()
    }

    /// Returns when what is published can no longer be trusted unless a relist succeeds before;
    /// `None` before the first one.
    pub fn unhealthy_at(&self) -> Option<Mono> {
        // Healthy up to and including the threshold.
        self.last_relist().map(|last| last.after(UNHEALTHY_AFTER + Duration::from_nanos(1)))
    }

    /// Whether what is published can be trusted.
    pub fn healthy(&self, now: Mono) -> Result<(), Unhealthy> {
        let Some(last) = self.last_relist() else {
            return Err(Unhealthy::NeverRelisted);
        };
        let elapsed = now.since(last);
        if elapsed <= UNHEALTHY_AFTER {
            return Ok(());
        }
        Err(Unhealthy::Silent(elapsed))
    }
}

/// Why what is published cannot be trusted: upstream's texts for the node's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    /// No relist has succeeded yet.
    #[error("PLEG is not healthy: pleg has yet to be successful")]
    NeverRelisted,
    /// The last relist succeeded this long ago.
    #[error(
        "PLEG is not healthy: pleg was last seen active {} ago; threshold is {}",
        go_duration(*.0),
        go_duration(UNHEALTHY_AFTER)
    )]
    Silent(Duration),
}

/// A call that changes a pod, while it runs. Its end, by [`Mutation::end`] or by dropping it, makes
/// the published observation stale at once and has the pod read again.
#[must_use = "the mutation ends when the guard is dropped"]
pub struct Mutation {
    shared: Arc<Shared>,
    uid: PodUid,
    channel: watch::Sender<Observation>,
    look: Look,
}

impl fmt::Debug for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutation").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl Mutation {
    /// Only this container has changed: the read that follows is one ContainerStatus. `sandbox` is
    /// the one that it lives in. May be called several times; without any `touched` the whole pod
    /// is read.
    pub fn touched_container(&mut self, id: &ContainerId, sandbox: &SandboxId) {
        self.look.container(id, Some(sandbox));
    }

    /// Only this sandbox has changed: the read that follows is one PodSandboxStatus.
    pub fn touched_sandbox(&mut self, id: &SandboxId) {
        self.look.sandbox(id);
    }

    /// The call has ended. Report it to whoever plans only after this.
    pub fn end(self) {
        drop(self);
    }

    /// Ends, and waits for the observation that knows of it. Cancel-safe (the end is not undone).
    pub async fn observed(self) -> Observation {
        let mut receiver = self.channel.subscribe();
        drop(self);
        let fresh = receiver
            .wait_for(|observation| observation.fresh)
            .await
            .map(|observation| observation.clone());
        match fresh {
            Ok(observation) => observation,
            // The entry is kept while anybody is subscribed, so its sender outlives the wait.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Mutation {
    fn drop(&mut self) {
        self.channel.send_if_modified(|observation| {
            observation.epoch += 1;
            observation.ended += 1;
            observation.in_flight = observation.in_flight.saturating_sub(1);
            observation.fresh = false;
            observation.quiet = false;
            false
        });
        let look = std::mem::take(&mut self.look);
        self.shared.dirty.mark(&self.uid, if look.is_empty() { Look::whole() } else { look });
    }
}
