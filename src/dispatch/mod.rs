//! The table of pods and their tasks.
//!
//! ```text
//!  desired ──(Change)──► table ──(Directive)──► task of a pod, made by the backend
//!                          │ ▲                      │
//!     admission ◄──────────┘ └── found (watch) ─────┴──► PodView ──► Handle ──► node, server, …
//! ```
//!
//! One task owns the table. It has each new pod admitted, starts a task for it, hands newer objects
//! and orders on, keeps one live generation per static pod name, decides on resizes in place, and
//! starts tasks that only stop what runs and no source has. When nothing of a pod is left,
//! everything that registered a [`Forget`] forgets it.
//!
//! Fed by the desired pods, the facts of the node, commands of other subsystems, the ends of tasks,
//! and what the [`Backend`] finds on the node. It never talks to a runtime or the API server.

mod admit;
mod allocate;
mod backend;
mod config;
mod directive;
mod forget;
mod handle;
pub mod metrics;
mod orphan;
mod requested;
mod resize;
mod streams;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use self::admit::{Asks, Door, Preempt, Undecided};
pub use self::admit::{Config, ReadNode, Resizable};
use self::allocate::Allocations;
pub use self::allocate::{Allocated, Give};
pub use self::backend::{Backend, Found, FoundPod, Launched};
pub use self::directive::{Directive, Ended, PendingResize, Resize, Stop};
pub use self::forget::{Forget, Forgetters};
pub use self::handle::PodsHandle;
use self::handle::{Command, Table};
use self::resize::{Trigger, Wish};
pub use self::streams::{
    Cause, Channels, Exec, LogChunks, LogOptions, Opening, Output, Session, StreamError, Streams,
};
pub use self::view::{PodView, ViewState};
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::desired::{self, Change};
use crate::model::{
    Lifecycle, Mono, NodeFacts, Pod, PodKey, PodUid, Terminating, TerminationCause, pod,
};
use crate::resources::allocation::{self, Allocation};
use crate::resources::pod_states::PodStates;

/// How many commands of other subsystems may wait (evictions, requests of the server).
const COMMANDS: usize = 64;

/// How soon a pod whose task panicked gets a new one; doubled each time up to [`PANIC_PAUSE_MAX`].
const PANIC_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause after panics.
const PANIC_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What dispatch works with.
pub struct Deps<B> {
    /// Runs the pods.
    pub backend: B,
    /// The desired pods. Their changes come by [`Dispatch::run`].
    pub desired: desired::Handle,
    /// The facts of the node; `None` until they are known, and no pod is admitted before.
    pub node: watch::Receiver<Option<Arc<NodeFacts>>>,
    /// Reads the Node object afresh; `None` without an API server.
    pub read_node: Option<ReadNode>,
    /// Gives what pods ask for besides CPU time and memory.
    pub give: Arc<dyn Give>,
    /// What pods were given of CPU time and memory, as it outlives this process.
    pub allocated: PodStates,
    /// Everything that keeps something of a pod.
    pub forget: Forgetters,
    /// Events.
    pub recorder: Recorder,
    /// The clocks.
    pub clock: Clock,
    /// The end of the process; pods run on.
    pub shutdown: CancellationToken,
}

impl<B> std::fmt::Debug for Deps<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").field("forget", &self.forget).finish_non_exhaustive()
    }
}

/// A pod that has a task.
#[derive(Debug)]
struct PodEntry {
    directive: watch::Sender<Directive>,
    key: PodKey,
    is_static: bool,
    /// Where its life began: a task that is started again begins there again.
    first: Lifecycle,
    panics: u32,
    /// What its containers have been given.
    allocation: Allocation,
    /// The resize that has to wait.
    wish: Option<Wish>,
}

/// The table of pods and their tasks.
pub struct Dispatch<B> {
    backend: B,
    door: Door,
    desired: desired::Handle,
    forget: Forgetters,
    give: Arc<dyn Give>,
    /// What pods were given of CPU time and memory, as it outlives this process.
    allocated: PodStates,
    allocations: Allocations,
    clock: Clock,
    entries: BTreeMap<PodUid, PodEntry>,
    /// Pods that are not admitted yet.
    undecided: Undecided,
    /// Static pods whose older generation still stops.
    queued: BTreeMap<PodKey, Arc<Pod>>,
    workers: JoinSet<(PodUid, Ended)>,
    ids: BTreeMap<tokio::task::Id, PodUid>,
    /// Pods whose task panicked, and when it is started again.
    broken: BTreeMap<PodUid, Mono>,
    resizes: resize::Schedule,
    table: Table,
    commands: mpsc::Receiver<Command>,
    shutdown: CancellationToken,
}

impl<B> std::fmt::Debug for Dispatch<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatch").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl<B: Backend> Dispatch<B> {
    /// The table, empty, and the handle that others reach pods by.
    pub fn new(config: Config, deps: Deps<B>) -> (Self, PodsHandle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let table = Table::default();
        let handle = PodsHandle::new(table.clone(), sender, deps.backend.streams());
        let door =
            Door { config, node: deps.node, read_node: deps.read_node, recorder: deps.recorder };
        let dispatch = Self {
            backend: deps.backend,
            door,
            desired: deps.desired,
            forget: deps.forget,
            give: deps.give,
            allocated: deps.allocated,
            allocations: Allocations::default(),
            clock: deps.clock,
            entries: BTreeMap::new(),
            undecided: Undecided::default(),
            queued: BTreeMap::new(),
            workers: JoinSet::new(),
            ids: BTreeMap::new(),
            broken: BTreeMap::new(),
            resizes: resize::Schedule::default(),
            table,
            commands,
            shutdown: deps.shutdown,
        };
        (dispatch, handle)
    }

    /// Runs until shutdown.
    pub async fn run(mut self, changes: mpsc::Receiver<Change>) {
        let shutdown = self.shutdown.clone();
        let mut found = self.backend.found();

        // A pod that runs already must not be taken for a new one, and for a node of no size every
        // new pod would be refused for good.
        let ready = async {
            let looked = found.wait_for(Option::is_some).await.is_ok();
            looked && self.door.wait().await
        };
        if shutdown.run_until_cancelled(ready).await == Some(true) {
            self.serve(changes, found).await;
        }

        // Workers see the same cancellation; containers stay.
        while self.workers.join_next().await.is_some() {}
    }

    async fn serve(
        &mut self,
        mut changes: mpsc::Receiver<Change>,
        mut found: watch::Receiver<Option<Found>>,
    ) {
        let shutdown = self.shutdown.clone();
        let desired = self.desired.clone();

        loop {
            let clock = self.clock;
            let next_repair = self.broken.values().chain(&self.resizes.next).min().copied();
            let repair = clock.sleep_until_some(next_repair);

            // Every arm is cancel-safe: `recv`, `changed`, `join_next`, `next` and
            // `wait_sources_ready` lose nothing when dropped.
            tokio::select! {
                () = shutdown.cancelled() => break,
                change = changes.recv() => match change {
                    Some(change) => self.change(change),
                    None => break,
                },
                Some(command) = self.commands.recv() => self.command(command),
                Some(joined) = self.workers.join_next_with_id() => self.joined(joined),
                Some(allocated) = self.allocations.jobs.join_next() => self.allocated(allocated),
                Some(life) = self.allocations.lives.join_next() => self.is_over(life),
                answered = self.undecided.next() => if let Some((pod, node)) = answered {
                    self.enter(pod, NodeLook::Afresh(node.as_deref()));
                },
                news = found.changed() => if news.is_err() { break },
                () = desired.wait_sources_ready(), if !self.table.is_swept() => {}
                () = repair => {
                    self.repair();
                    self.retry_resizes(Trigger::Periodic);
                }
            }

            self.sweep(&found);
            self.catch_up();
            self.publish_active();
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Upsert(pod) => self.upsert(pod),
            Change::Gone(uid) => {
                self.queued.retain(|_, queued| pod::uid(queued) != uid);
                self.undecided.remove(&uid);
                self.allocations.done.remove(&uid);
                let pending = self.allocations.pending.remove(&uid);
                match self.entries.get(&uid) {
                    Some(entry) => entry.directive.send_modify(|directive| directive.gone = true),
                    // It never had a turn: what waits for its end must not wait for ever.
                    None => self.forget.forget(&uid),
                }
                if let Some(next) = pending.and_then(|pod| self.queued.remove(&pod::key(&pod))) {
                    self.upsert(next);
                }
            }
        }
    }

    fn upsert(&mut self, pod: Arc<Pod>) {
        let uid = pod::uid(&pod);
        let key = pod::key(&pod);
        if let Some(entry) = self.entries.get(&uid) {
            if pod::is_static(&pod) && entry.directive.borrow().gone {
                // The same file again, while the pod already stops, for itself or as an orphan:
                // stopping is never taken back, so it starts anew.
                debug!(pod = %key, "static pod is back; it is started again when it has stopped");
                self.table.returns().restarted.fetch_add(1, Ordering::Relaxed);
                self.queued.insert(key, pod);
                return;
            }
            self.count_requested(&uid, &pod);
            self.update(&uid, pod);
            // A pod of the API that is back is no end that a static pod of its name waits for.
            if let Some(waiting) = self.queued.remove(&key) {
                self.upsert(waiting);
            }
            return;
        }
        if self.undecided.update(&pod) {
            return;
        }
        if let Some(pending) = self.allocations.pending.get_mut(&uid) {
            *pending = pod;
            return;
        }
        if pod::is_static(&pod) && self.has_other_generation(&uid, &key) {
            debug!(pod = %key, "static pod waits for its older generation to end");
            self.queued.insert(key, pod);
            return;
        }
        if !self.begin_allocation(&pod) {
            self.enter(pod, NodeLook::Cached);
        }
    }

    /// Whether another pod under the name of a static pod has to end first. One that an earlier
    /// process left is stopped at once, before the sources are ready: what the API server wants may
    /// not be known before this pod runs.
    fn has_other_generation(&mut self, uid: &PodUid, key: &PodKey) -> bool {
        let found = self.backend.found();
        let wanted = self.desired.pods();
        let is_wanted = |uid: &PodUid| wanted.iter().any(|pod| pod::uid(pod) == *uid);
        let left: Vec<(PodUid, FoundPod)> = found
            .borrow()
            .iter()
            .flatten()
            .filter(|(other, found)| {
                found.key == *key
                    && found.is_static
                    && found.is_running
                    && *other != uid
                    && !is_wanted(other)
            })
            .map(|(uid, found)| (uid.clone(), found.clone()))
            .collect();
        for (uid, found) in left {
            info!(pod = %key, %uid, "stopping what runs under the name of a static pod");
            self.stop_orphan(&uid, &found);
        }

        let ends = |entry: &PodEntry| entry.is_static || entry.directive.borrow().gone;
        let pending = &self.allocations.pending;
        self.entries.values().any(|entry| entry.key == *key && ends(entry))
            || pending.values().any(|pod| pod::is_static(pod) && pod::key(pod) == *key)
    }

    /// Has a pod admitted and starts its task, or puts it off until the Node object has been read.
    /// `look`: which Node object is decided by. What the pod asks for besides has been set aside.
    fn enter(&mut self, pod: Arc<Pod>, look: NodeLook<'_>) {
        // A resize that waited when this process began still does: the pod begins with what it had.
        let given = allocation::apply(&pod, &self.given_before(&pod)).map(Arc::new);
        let start = given.clone().unwrap_or_else(|| pod.clone());
        let resize = match given {
            Some(_) => Resize { granted: None, pending: resize::recorded(&pod) },
            None => Resize::default(),
        };
        let (lifecycle, room) = match self.decide_entry(&start, look) {
            Entrance::Open { room } => {
                self.allocated.set(&pod::uid(&pod), allocation::of(&start));
                (Lifecycle::Syncing, room)
            }
            Entrance::Closed(cause) => (self.terminating(cause, Duration::ZERO), Vec::new()),
            Entrance::PutOff(read_node) => {
                self.undecided.put_off(pod, &read_node);
                return;
            }
        };
        let directive = Directive {
            pod: start,
            gone: false,
            stop: None,
            resize,
            room,
            collect: BTreeSet::new(),
        };
        self.start(directive, lifecycle);
        if given.is_some() {
            self.update(&pod::uid(&pod), pod);
        }
    }

    /// Whether a pod may run on this node, and which pods it has to wait for.
    fn decide_entry(&mut self, pod: &Arc<Pod>, look: NodeLook<'_>) -> Entrance {
        if pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
            return Entrance::Open { room: Vec::new() };
        }
        let is_running = self
            .backend
            .found()
            .borrow()
            .as_ref()
            .and_then(|found| found.get(&pod::uid(pod)))
            .is_some_and(|found| found.is_running);
        let others = self.others(&pod::uid(pod));
        let (fresh, may_read) = match look {
            NodeLook::Cached => (None, true),
            NodeLook::Afresh(node) => (node, false),
        };
        let asks = Asks::Entry { is_running };
        let allocated = self.allocations.done.get(&pod::uid(pod));
        match self.door.admit(pod, &others, asks, fresh, allocated) {
            Ok(preempt) => {
                let room =
                    preempt.iter().filter_map(|preempt| self.table.view(&preempt.uid)).collect();
                self.preempt(preempt);
                Entrance::Open { room }
            }
            Err(rejection) => {
                if may_read && let Some(read_node) = self.door.may_be_stale(&rejection) {
                    return Entrance::PutOff(read_node.clone());
                }
                self.door.tell_rejected(pod, &rejection);
                let label = metrics::rejection_label(&rejection.reason);
                self.table.count(|counts| handle::count(&mut counts.rejections, label));
                let reason = rejection.reason;
                let message = rejection.message;
                info!(pod = %pod::key(pod), reason, message, "pod rejected");
                Entrance::Closed(TerminationCause::Rejected { reason, message })
            }
        }
    }

    /// The other pods that count against the node, with what they have been given: a task may not
    /// have seen its newest order yet.
    fn others(&self, uid: &PodUid) -> Vec<Arc<Pod>> {
        let views = self.table.views().into_iter();
        views
            .filter(|view| view.is_active() && view.uid != *uid)
            .map(|view| match self.entries.get(&view.uid) {
                Some(entry) => entry.directive.borrow().pod.clone(),
                None => view.pod,
            })
            .collect()
    }

    fn terminating(&self, cause: TerminationCause, grace: Duration) -> Lifecycle {
        Lifecycle::Terminating(Terminating { cause, since: self.clock.now(), grace })
    }

    fn preempt(&mut self, preempt: Vec<Preempt>) {
        for Preempt { uid, cause, grace } in preempt {
            self.command(Command::Stop { uid, cause, grace });
        }
    }

    fn start(&mut self, directive: Directive, lifecycle: Lifecycle) {
        let pod = directive.pod.clone();
        let uid = pod::uid(&pod);
        let (directive, receiver) = watch::channel(directive);
        // A task that is started again goes on where the one before it stood.
        let before = self.entries.remove(&uid);
        let (panics, wish) = before.map_or((0, None), |entry| (entry.panics, entry.wish));
        let is_static = pod::is_static(&pod);
        let entry = PodEntry {
            directive,
            key: pod::key(&pod),
            is_static,
            first: lifecycle.clone(),
            panics,
            allocation: allocation::of(&pod),
            wish,
        };
        let launched = self.backend.launch(pod, lifecycle, receiver);
        self.entries.insert(uid.clone(), entry);
        self.allocations.done.remove(&uid);
        self.watch_life(&uid, launched.view.clone());
        self.table.insert(uid.clone(), launched.view);
        let id = {
            let uid = uid.clone();
            self.workers.spawn(async move { (uid, launched.task.await) }).id()
        };
        self.ids.insert(id, uid);
    }

    fn joined(
        &mut self,
        joined: Result<(tokio::task::Id, (PodUid, Ended)), tokio::task::JoinError>,
    ) {
        match joined {
            Ok((id, (uid, ended))) => {
                self.ids.remove(&id);
                match ended {
                    Ended::Shutdown => {}
                    Ended::Gone => self.gone(&uid),
                }
            }
            Err(error) => {
                let Some(uid) = self.ids.remove(&error.id()) else { return };
                let Some(entry) = self.entries.get_mut(&uid) else { return };
                entry.panics = entry.panics.saturating_add(1);
                let pause = PANIC_PAUSE
                    .saturating_mul(2_u32.saturating_pow(entry.panics - 1))
                    .min(PANIC_PAUSE_MAX);
                error!(%uid, pod = %entry.key, ?pause, "the pod's task panicked; it is started again after a pause");
                self.broken.insert(uid, self.clock.now().mono.after(pause));
            }
        }
    }

    fn gone(&mut self, uid: &PodUid) {
        let Some(entry) = self.entries.remove(uid) else { return };
        self.table.remove(uid);
        self.allocated.remove(uid);
        self.forget.forget(uid);
        if let Some(next) = self.queued.remove(&entry.key) {
            self.upsert(next);
        }
        self.retry_resizes(Trigger::PodsRemoved);
    }

    /// Starts tasks again that had panicked and whose pause is over.
    fn repair(&mut self) {
        let now = self.clock.now().mono;
        let due: Vec<PodUid> =
            self.broken.iter().filter(|(_, at)| **at <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.broken.remove(&uid);
            if let Some(entry) = self.entries.get(&uid) {
                let (directive, first) = (entry.directive.borrow().clone(), entry.first.clone());
                self.start(directive, first);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Stop { uid, cause, grace } => {
                if let Some(entry) = self.entries.get(&uid) {
                    entry
                        .directive
                        .send_modify(|directive| directive.stop = Some(Stop { cause, grace }));
                }
            }
            Command::Collect { containers } => {
                for (uid, containers) in containers {
                    if let Some(entry) = self.entries.get(&uid) {
                        entry.directive.send_modify(|directive| directive.collect = containers);
                    }
                }
            }
        }
    }

    /// Stops what is on the node and no source has, once every source has said what it has.
    fn sweep(&mut self, found: &watch::Receiver<Option<Found>>) {
        if !self.desired.sources_ready() {
            return;
        }
        let orphans: Vec<(PodUid, FoundPod)> = found
            .borrow()
            .iter()
            .flatten()
            .filter(|(uid, _)| !self.entries.contains_key(*uid))
            .map(|(uid, found)| (uid.clone(), found.clone()))
            .collect();
        if orphans.is_empty() && self.table.is_swept() {
            return;
        }

        // Also those whose change has not been received yet: a change is queued behind others, and
        // its pod must not be taken for an orphan meanwhile.
        let wanted: BTreeSet<PodUid> =
            self.desired.pods().iter().map(|pod| pod::uid(pod)).collect();
        for (uid, found) in orphans.into_iter().filter(|(uid, _)| !wanted.contains(uid)) {
            info!(pod = %found.key, %uid, "stopping a pod that no source has");
            self.stop_orphan(&uid, &found);
        }
        if !self.table.is_swept() {
            let known: BTreeSet<PodUid> = self.entries.keys().cloned().chain(wanted).collect();
            self.allocated.retain(|uid| known.contains(uid));
            self.table.publish_known(known);
        }
    }

    /// Starts a task that only stops what was found of a pod.
    fn stop_orphan(&mut self, uid: &PodUid, found: &FoundPod) {
        self.table.returns().orphans.fetch_add(1, Ordering::Relaxed);
        let directive = Directive {
            pod: orphan::pod(uid, found),
            gone: true,
            stop: None,
            resize: Resize::default(),
            room: Vec::new(),
            collect: BTreeSet::new(),
        };
        let lifecycle = self.terminating(TerminationCause::Removed, found.grace);
        self.start(directive, lifecycle);
    }
}

/// The Node object that a pod is decided by.
#[derive(Clone, Copy, Debug)]
enum NodeLook<'a> {
    /// As it was last heard of; it may be behind.
    Cached,
    /// Read afresh for this pod; `None`: there was no answer.
    Afresh(Option<&'a Node>),
}

/// The answer to a pod that comes to the node.
enum Entrance {
    /// It may run, once the pods of these views have stopped.
    Open { room: Vec<watch::Receiver<PodView>> },
    /// It may not.
    Closed(TerminationCause),
    /// The Node object has to be read first.
    PutOff(ReadNode),
}

#[cfg(test)]
mod tests;
