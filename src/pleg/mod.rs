//! Observes what the runtime runs and publishes it per pod (upstream: pod lifecycle event
//! generator).
//!
//! One task reads the runtime. Pods subscribe by UID through the [`Handle`] and receive an
//! [`Observation`] on a `watch`. The observations come from the runtime's answers only. The event
//! stream, the relists and the ends of our own calls merely mark pods in one dirty set, so that
//! they are read again.
//!
//! The law of the epoch:
//!
//! 1. A caller that changes a pod holds a [`Mutation`] while the call runs. The begin and the end
//!    of a mutation each move the pod's epoch on.
//! 2. The end of a mutation makes the published observation stale (`fresh = false`) in the same
//!    instant. A task that learns of the end can therefore not mistake the old picture for the
//!    current one.
//! 3. A read counts only if no mutation ended after it began. Otherwise it is discarded and made
//!    again.
//! 4. A mutation that is still in flight does not spoil a read: a stop may last for minutes, and
//!    the pod's other containers must be seen meanwhile. The planner knows its own actions in
//!    flight.
//! 5. Only a `quiet` observation proves that something is absent: no mutation was in flight during
//!    the read or has begun since.
//!
//! It never changes anything in the runtime, never publishes a list's answer without the statuses,
//! and never queues events.

mod changes;
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

/// Nothing that is published can be trusted if no relist has succeeded for this long; upstream's
/// threshold.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(180);

/// The latest picture of one pod in the runtime.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Moves on when a mutation begins and when it ends.
    pub epoch: u64,
    /// Mutations in flight at the moment of the borrow.
    pub in_flight: u32,
    /// True if no mutation has ended since this was read: the planner may use it.
    pub fresh: bool,
    /// True if, besides, no mutation was in flight during the read or has begun since: a container
    /// that is not in `pod` does not exist.
    pub quiet: bool,
    /// The runtime's sandboxes and containers of this pod.
    pub pod: Arc<ObservedPod>,
    /// Mutations that have ended, ever.
    ended: u64,
}

/// The state of a pod's epoch when a read began.
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

    /// Returns true if a read that began at `stamp` still counts.
    fn counts(&self, stamp: Stamp) -> bool {
        self.ended == stamp.ended
    }

    /// Takes over the outcome of a read that counts. Returns true if it changes the observation.
    fn take(&mut self, stamp: Stamp, pod: Arc<ObservedPod>) -> bool {
        let quiet = self.epoch == stamp.epoch && stamp.in_flight == 0;
        let news = !self.fresh || self.quiet != quiet || self.pod != pod;
        self.fresh = true;
        self.quiet = quiet;
        self.pod = pod;
        news
    }
}

/// A pod that the runtime knows, or that has subscribers.
#[derive(Clone, Debug)]
pub struct KnownPod {
    /// The pod's UID.
    pub uid: PodUid,
    /// Namespace and name from the runtime's labels.
    pub key: Option<PodKey>,
    /// The latest picture of the pod.
    pub observation: Observation,
    /// True if there is a subscriber; a pod without one has no task.
    pub subscribed: bool,
}

/// One event for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A relist has succeeded.
    Relist {
        /// The duration of the relist.
        took: Duration,
        /// The time since the previous relist began.
        interval: Duration,
    },
    /// One pod has been read, in this time.
    PodRead(Duration),
    /// A read was discarded because a mutation ended meanwhile.
    ReadDiscarded,
    /// The event stream has been opened.
    StreamUp,
    /// The event stream was lost or refused.
    StreamLost,
    /// An event has come, this long after the runtime had made it.
    EventAge(Duration),
}

/// Receives every [`Measure`].
pub type Observer = Arc<dyn Fn(Measure) + Send + Sync>;

/// Returns the handle, and the task that reads the runtime.
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

/// The state that the handle and the task share. The lock on the pods is held for look-ups only.
struct Shared {
    pods: Mutex<HashMap<PodUid, PodEntry>>,
    dirty: Dirty,
    synced: watch::Sender<bool>,
    changes: watch::Sender<u64>,
    last_relist: watch::Sender<Option<Mono>>,
}

struct PodEntry {
    observation: watch::Sender<Observation>,
    key: Option<PodKey>,
}

impl PodEntry {
    /// Returns true if the entry can be forgotten: the runtime has nothing of the pod, and there is
    /// neither a subscriber nor a mutation.
    fn is_unused(&self) -> bool {
        let alone = self.observation.receiver_count() == 0 && self.observation.sender_count() == 1;
        let observation = self.observation.borrow();
        alone && observation.fresh && observation.in_flight == 0 && observation.pod.is_empty()
    }
}

impl Shared {
    /// Runs `work` on a pod's entry, under the lock.
    ///
    /// An entry that is created after the first relist starts as fresh and empty: only this kubelet
    /// creates pods in the runtime, and the next relist finds those that others create.
    fn entry<T>(&self, uid: &PodUid, work: impl FnOnce(&mut PodEntry) -> T) -> T {
        let mut pods = self.pods.lock();
        let entry = pods.entry(uid.clone()).or_insert_with(|| {
            let synced = *self.synced.borrow();
            let observation =
                Observation { fresh: synced, quiet: synced, ..Observation::default() };
            PodEntry { observation: watch::Sender::new(observation), key: None }
        });
        work(entry)
    }
}

/// Gives the other rooms access to the observations. Cheap to clone.
///
/// Do not call a method while you hold a `borrow()` of an observation: as everywhere with `watch`,
/// that can deadlock.
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
    /// Subscribes to the observations of a pod.
    ///
    /// Before the first relist, and after each mutation until the pod has been read again, the
    /// observation is not `fresh`. A change of `fresh` to false alone does not wake the receivers.
    pub fn subscribe(&self, uid: &PodUid) -> watch::Receiver<Observation> {
        self.shared.entry(uid, |entry| entry.observation.subscribe())
    }

    /// Marks the begin of a call that changes the pod. Keep the guard until the call has ended.
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

    /// Requests a new read of a pod.
    pub fn refresh(&self, uid: &PodUid) {
        self.shared.dirty.mark(uid, Look::whole());
    }

    /// Requests a relist.
    pub fn relist(&self) {
        self.shared.dirty.mark_all();
    }

    /// Returns every pod that the runtime knows or that has subscribers.
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

    /// Returns a counter that moves when a pod without subscribers appears, changes or goes.
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

    /// Returns the time of the last successful relist.
    pub fn last_relist(&self) -> Option<Mono> {
        *self.shared.last_relist.borrow()
    }

    /// Returns the time from which the observations can no longer be trusted, unless a relist
    /// succeeds before; `None` before the first relist.
    pub fn unhealthy_at(&self) -> Option<Mono> {
        // Healthy up to and including the threshold.
        self.last_relist().map(|last| last.after(UNHEALTHY_AFTER + Duration::from_nanos(1)))
    }

    /// Returns an error with upstream's text for the Ready condition if the observations cannot be
    /// trusted.
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

/// The reasons why the observations cannot be trusted: upstream's texts for the Ready condition.
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

/// A call that changes a pod, while it runs.
///
/// Its end, by [`Mutation::end`] or by a drop, makes the published observation stale at once and
/// requests a new read of the pod.
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
    /// Restricts the following read to this container, which lives in `sandbox`, and to others
    /// named in the same way: one ContainerStatus each. Without any `touched` call the whole pod is
    /// read.
    pub fn touched_container(&mut self, id: &ContainerId, sandbox: &SandboxId) {
        self.look.add_container(id, Some(sandbox));
    }

    /// Restricts the following read to this sandbox, and to others named in the same way: one
    /// PodSandboxStatus each.
    pub fn touched_sandbox(&mut self, id: &SandboxId) {
        self.look.add_sandbox(id);
    }

    /// Ends the mutation. Report the outcome of the call to the planner only after this.
    pub fn end(self) {
        drop(self);
    }

    /// Ends the mutation and waits for an observation that includes its effect. Cancel-safe: the
    /// end is not undone.
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
