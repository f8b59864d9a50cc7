//! Which pods have a task. One task owns the table: it starts a worker for each pod that is new,
//! tells workers what their source says, keeps one live generation per static pod name, and starts
//! workers that only stop for what the runtime has and no source knows.
//!
//! Input: changes of the desired pods, commands of other subsystems, ends of workers, the runtime's
//! list of pods. Output: workers. It never talks to the runtime or the API server.

mod allocate;
pub mod directive;
mod handle;
pub mod orphan;
mod resize;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

pub use self::directive::{Directive, Ended, PendingResize, Resize, Stop};
pub use self::handle::PodsHandle;
use self::handle::{Command, Table};
pub use self::view::{PodView, ViewState};
use crate::clock::Clock;
use crate::desired::Change;
use crate::model::{Lifecycle, Mono, Pod, PodKey, PodUid, Terminating, TerminationCause, pod};
use crate::resources::allocation::{self, Allocation};

/// How many commands of other subsystems may wait (evictions, requests of the server).
const COMMANDS: usize = 64;

/// How soon a pod whose task panicked gets a new one; doubled each time up to [`PANIC_PAUSE_MAX`].
const PANIC_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause after panics.
const PANIC_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What dispatch needs to start a pod's task. Implemented by `pods::launch`, and by a fake in
/// tests.
pub trait Launch: Send + 'static {
    /// Starts the task of a pod: a future that ends with the pod, and its view.
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> (impl Future<Output = Ended> + Send + 'static, watch::Receiver<PodView>);
    /// Sets aside what a new pod asks of the node besides CPU time and memory, before its
    /// admission; none if it asks for nothing. What was set aside is free again with
    /// [`Self::over`] or [`Self::ended`].
    fn allocate(
        &mut self,
        pod: &Arc<Pod>,
    ) -> Option<impl Future<Output = Allocated> + Send + 'static>;
    /// Admission of a pod that is seen for the first time, or that asks for other resources: the
    /// pods that must make room for it, or why the node does not take it so. `others` are the pods
    /// that count, without itself.
    fn admit(
        &mut self,
        pod: &Arc<Pod>,
        others: &[Arc<Pod>],
        asks: &Asks,
    ) -> Result<Vec<Preempt>, Rejected>;
    /// The pod counts no longer, though its object is still there: what it was given is free.
    fn over(&mut self, uid: &PodUid);
    /// Whether all sources have reported and the runtime has been read, so that what nobody knows
    /// may be stopped.
    fn may_sweep(&self) -> bool;
    /// The pods that a source has now, among them those whose change has not been received yet: a
    /// change is queued behind others, and what it is about must not be taken for an orphan
    /// meanwhile.
    fn wanted(&self) -> BTreeSet<PodUid>;
    /// Pods that the runtime has.
    fn in_runtime(&self) -> Vec<orphan::RuntimePod>;
    /// Everything of the pod is gone: other subsystems forget it.
    fn ended(&mut self, uid: &PodUid);
    /// The pods that count against the node have changed.
    fn active_changed(&mut self, active: Vec<Arc<Pod>>);
    /// Removes what is on disk of pods that nobody knows.
    fn sweep_disk(&mut self, known: Vec<PodUid>);
}

/// What a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// To run here, with what [`Launch::allocate`] has set aside for it.
    Entry(Option<Allocated>),
    /// To be given other resources in place.
    Resize,
}

/// The outcome of [`Launch::allocate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Why the pod cannot be given what it asks for.
    pub refused: Option<Rejected>,
    /// How many of each resource pods have, this one included.
    pub given: BTreeMap<String, i64>,
}

/// A pod that makes room for a critical one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preempt {
    /// Which.
    pub uid: PodUid,
    /// Upstream's reason and message.
    pub why: Rejected,
    /// Its grace period.
    pub grace: Duration,
}

/// Why a pod was refused, or has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Upstream's reason.
    pub reason: String,
    /// Upstream's message.
    pub message: String,
}

/// A pod that has a task.
#[derive(Debug)]
struct Entry {
    directive: watch::Sender<Directive>,
    key: PodKey,
    is_static: bool,
    /// Where its life began: a task that is started again begins there again.
    first: Lifecycle,
    panics: u32,
    /// What its containers have been given.
    allocation: Allocation,
    /// The pod as it wishes to be, while a resize has to wait.
    wanted: Option<Arc<Pod>>,
}

/// The table of pods and their tasks.
#[derive(Debug)]
pub struct Dispatch<L> {
    launch: L,
    clock: Clock,
    entries: BTreeMap<PodUid, Entry>,
    /// Static pods whose older generation still stops.
    queued: BTreeMap<PodKey, Arc<Pod>>,
    workers: JoinSet<(PodUid, Ended)>,
    ids: BTreeMap<tokio::task::Id, PodUid>,
    /// New pods that something is set aside for before their admission.
    allocating: BTreeMap<PodUid, Arc<Pod>>,
    allocations: JoinSet<(PodUid, Allocated)>,
    /// One for each pod that counts: ends when it does not count any more.
    lives: JoinSet<Option<PodUid>>,
    /// Pods whose task panicked, and when it is started again.
    broken: BTreeMap<PodUid, Mono>,
    /// When resizes that wait are looked at again.
    next_resize: Option<Mono>,
    table: Table,
    commands: mpsc::Receiver<Command>,
    swept: bool,
    shutdown: CancellationToken,
}

impl<L: Launch> Dispatch<L> {
    /// The table, empty, and the handle that others reach pods by.
    pub fn new(launch: L, clock: Clock, shutdown: CancellationToken) -> (Self, PodsHandle) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let table = Table::default();
        let handle = PodsHandle::new(table.clone(), sender);
        let dispatch = Self {
            launch,
            clock,
            entries: BTreeMap::new(),
            queued: BTreeMap::new(),
            workers: JoinSet::new(),
            ids: BTreeMap::new(),
            allocating: BTreeMap::new(),
            allocations: JoinSet::new(),
            lives: JoinSet::new(),
            broken: BTreeMap::new(),
            next_resize: None,
            table,
            commands,
            swept: false,
            shutdown,
        };
        (dispatch, handle)
    }

    /// Runs until shutdown. `sweep` changes when the sources or the runtime's list of pods have
    /// changed.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        mut sweep: watch::Receiver<u64>,
    ) {
        loop {
            let clock = self.clock;
            let next_repair = self.broken.values().chain(&self.next_resize).min().copied();
            let repair = async {
                match next_repair {
                    Some(moment) => clock.sleep_until(moment).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm is cancel-safe: `recv`, `changed` and `join_next` lose nothing when
            // dropped.
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                change = changes.recv() => match change {
                    Some(change) => self.change(change),
                    None => break,
                },
                Some(command) = self.commands.recv() => self.command(command),
                Some(joined) = self.workers.join_next_with_id() => self.joined(joined),
                Some(allocated) = self.allocations.join_next() => self.allocated(allocated),
                Some(life) = self.lives.join_next() => self.is_over(life),
                news = sweep.changed() => if news.is_err() { break },
                () = repair => {
                    self.repair();
                    self.retry_resizes();
                }
            }
            self.sweep();
        }
        // Workers see the same cancellation; containers stay.
        while self.workers.join_next().await.is_some() {}
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Upsert(pod) => self.upsert(pod),
            Change::Gone(uid) => {
                self.queued.retain(|_, queued| pod::uid(queued) != uid);
                let allocating = self.allocating.remove(&uid);
                match self.entries.get(&uid) {
                    Some(entry) => entry.directive.send_modify(|directive| directive.gone = true),
                    // It never had a turn: whoever waits for its end must not wait for ever.
                    None => self.launch.ended(&uid),
                }
                if let Some(next) = allocating.and_then(|pod| self.queued.remove(&pod::key(&pod))) {
                    self.upsert(next);
                }
            }
        }
    }

    fn upsert(&mut self, pod: Arc<Pod>) {
        let uid = pod::uid(&pod);
        let key = pod::key(&pod);
        if let Some(entry) = self.entries.get(&uid) {
            if entry.is_static && entry.directive.borrow().gone {
                // The same file again, while the pod already stops: stopping is never taken back,
                // so it starts anew.
                debug!(pod = %key, "static pod is back; it is started again when it has stopped");
                self.queued.insert(key, pod);
                return;
            }
            self.update(&uid, pod);
            return;
        }
        if let Some(allocating) = self.allocating.get_mut(&uid) {
            *allocating = pod;
            return;
        }
        let older = self.entries.values().any(|entry| entry.is_static && entry.key == key)
            || self.allocating.values().any(|pod| pod::is_static(pod) && pod::key(pod) == key);
        if pod::is_static(&pod) && older {
            debug!(pod = %key, "static pod waits for its older generation to end");
            self.queued.insert(key, pod);
            return;
        }
        if self.begin_allocation(&pod) {
            return;
        }
        self.enter(pod, None);
    }

    /// Admits a pod, with what has been set aside for it, and starts its task.
    fn enter(&mut self, pod: Arc<Pod>, allocated: Option<Allocated>) {
        let uid = pod::uid(&pod);
        // A resize that waited when this process began still does: the pod begins with what it had.
        let given = allocation::apply(&pod, &allocation::recorded(&pod)).map(Arc::new);
        let start = given.clone().unwrap_or_else(|| pod.clone());
        let (lifecycle, room) = self.first_lifecycle(&start, allocated);
        self.start(
            Directive { pod: start, gone: false, stop: None, resize: Resize::default(), room },
            lifecycle,
        );
        if given.is_some() {
            self.update(&uid, pod);
        }
    }

    /// Where a pod's life begins on this node, and whom it has to wait for.
    fn first_lifecycle(
        &mut self,
        pod: &Arc<Pod>,
        allocated: Option<Allocated>,
    ) -> (Lifecycle, Vec<watch::Receiver<PodView>>) {
        if !is_admitted_anew(pod) {
            return (Lifecycle::Syncing, Vec::new());
        }
        let active: Vec<Arc<Pod>> = self.table.active_pods();
        match self.launch.admit(pod, &active, &Asks::Entry(allocated)) {
            Ok(preempt) => {
                let room =
                    preempt.iter().filter_map(|preempt| self.table.view(&preempt.uid)).collect();
                self.preempt(preempt);
                (Lifecycle::Syncing, room)
            }
            Err(Rejected { reason, message }) => {
                info!(pod = %pod::key(pod), reason, message, "pod rejected");
                let lifecycle = Lifecycle::Terminating(Terminating {
                    cause: TerminationCause::Rejected { reason, message },
                    since: self.clock.now(),
                    grace: Duration::ZERO,
                });
                (lifecycle, Vec::new())
            }
        }
    }

    fn preempt(&mut self, preempt: Vec<Preempt>) {
        for Preempt { uid, why: Rejected { reason, message }, grace } in preempt {
            let cause = TerminationCause::Evicted { reason, message };
            self.command(Command::Stop { uid, cause, grace });
        }
    }

    fn start(&mut self, directive: Directive, lifecycle: Lifecycle) {
        let pod = directive.pod.clone();
        let uid = pod::uid(&pod);
        let (directive, receiver) = watch::channel(directive);
        let panics = self.entries.remove(&uid).map_or(0, |entry| entry.panics);
        let is_static = pod::is_static(&pod);
        let entry = Entry {
            directive,
            key: pod::key(&pod),
            is_static,
            first: lifecycle.clone(),
            panics,
            allocation: allocation::of(&pod),
            wanted: None,
        };
        let (worker, view) = self.launch.launch(pod, lifecycle, receiver);
        self.entries.insert(uid.clone(), entry);
        self.watch_life(&uid, view.clone());
        self.table.insert(uid.clone(), view);
        let id = {
            let uid = uid.clone();
            self.workers.spawn(async move { (uid, worker.await) }).id()
        };
        self.ids.insert(id, uid);
        self.tell_active();
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
        self.launch.ended(uid);
        self.tell_active();
        if let Some(next) = self.queued.remove(&entry.key) {
            self.upsert(next);
        }
        self.retry_resizes();
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
        }
    }

    /// Stops what the runtime has and no source knows.
    fn sweep(&mut self) {
        if !self.launch.may_sweep() {
            return;
        }
        let wanted = self.launch.wanted();
        for runtime_pod in self.launch.in_runtime() {
            let is_known = self.entries.contains_key(&runtime_pod.uid)
                || self.allocating.contains_key(&runtime_pod.uid);
            if is_known || wanted.contains(&runtime_pod.uid) {
                continue;
            }
            info!(pod = %runtime_pod.key, uid = %runtime_pod.uid, "stopping a pod that no source knows");
            let pod = orphan::pod(&runtime_pod);
            let lifecycle = Lifecycle::Terminating(Terminating {
                cause: TerminationCause::Removed,
                since: self.clock.now(),
                grace: runtime_pod.grace,
            });
            self.start(
                Directive {
                    pod,
                    gone: true,
                    stop: None,
                    resize: Resize::default(),
                    room: Vec::new(),
                },
                lifecycle,
            );
        }
        if !std::mem::replace(&mut self.swept, true) {
            let known = self.entries.keys().chain(self.allocating.keys()).cloned();
            let known = known.chain(wanted).collect();
            self.launch.sweep_disk(known);
        }
    }
}

/// Whether a pod that is new here is asked about: one that is over, or asked to go, is only stopped.
fn is_admitted_anew(pod: &Pod) -> bool {
    !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests;
