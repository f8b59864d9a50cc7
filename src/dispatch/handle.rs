//! How the rest of the process reaches pods: their views, the pods that count, the streams into
//! them, orders to stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use super::streams::Streams;
use super::view::PodView;
use crate::model::{ContainerId, Pod, PodUid, TerminationCause};

/// What dispatch can be asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// Stop a pod for the node's sake.
    Stop {
        /// Which.
        uid: PodUid,
        /// Why, as users will read it.
        cause: TerminationCause,
        /// The grace period.
        grace: Duration,
    },
    /// Have containers that have ended removed from the runtime.
    Collect {
        /// The containers, by pod.
        containers: BTreeMap<PodUid, BTreeSet<ContainerId>>,
    },
}

/// The read cache of views: written by dispatch, read by others; never held across an await.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    views: Arc<RwLock<BTreeMap<PodUid, watch::Receiver<PodView>>>>,
    active: watch::Sender<Vec<Arc<Pod>>>,
    known: watch::Sender<Option<Arc<BTreeSet<PodUid>>>>,
    counts: Arc<RwLock<Counts>>,
    returns: Arc<Returns>,
}

/// What dispatch has decided so far, by the labels of upstream's metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Pods that were not taken, by the reason.
    pub(super) rejections: BTreeMap<&'static str, u64>,
    /// Changes of a container's resources that were asked for: the resource, the requirement and
    /// the operation.
    pub(super) requested: BTreeMap<[&'static str; 3], u64>,
    /// Resizes that can never be carried out, by the reason.
    pub(super) infeasible: BTreeMap<&'static str, u64>,
    /// Resizes that were granted after they had waited, by what had them looked at again.
    pub(super) accepted: BTreeMap<&'static str, u64>,
}

/// Counts one more.
pub(super) fn count<L: Ord>(counts: &mut BTreeMap<L, u64>, label: L) {
    *counts.entry(label).or_default() += 1;
}

/// How often pods came in an unusual way.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Pods that the runtime had and no source.
    pub(super) orphans: AtomicU64,
    /// Static pods that were back before they had stopped.
    pub(super) restarted: AtomicU64,
}

impl Table {
    pub(super) fn insert(&self, uid: PodUid, view: watch::Receiver<PodView>) {
        self.views.write().insert(uid, view);
    }

    pub(super) fn remove(&self, uid: &PodUid) {
        self.views.write().remove(uid);
    }

    /// One pod's view.
    pub(super) fn view(&self, uid: &PodUid) -> Option<watch::Receiver<PodView>> {
        self.views.read().get(uid).cloned()
    }

    pub(super) fn views(&self) -> Vec<PodView> {
        self.views.read().values().map(|view| view.borrow().clone()).collect()
    }

    /// Publishes the pods that count, if they or what they have been given has changed.
    pub(super) fn publish_active(&self, active: Vec<Arc<Pod>>) {
        self.active.send_if_modified(|before| {
            let is_same = before.len() == active.len()
                && before.iter().zip(&active).all(|(before, now)| Arc::ptr_eq(before, now));
            *before = active;
            !is_same
        });
    }

    /// Counts what was decided.
    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.write());
    }

    /// The counts of pods that came in an unusual way.
    pub(super) fn returns(&self) -> &Returns {
        &self.returns
    }

    /// Publishes the pods that are known.
    pub(super) fn publish_known(&self, known: BTreeSet<PodUid>) {
        self.known.send_replace(Some(Arc::new(known)));
    }

    /// Whether the pods that are known have been published.
    pub(super) fn is_swept(&self) -> bool {
        self.known.borrow().is_some()
    }
}

/// Reaches the pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodsHandle {
    table: Table,
    commands: mpsc::Sender<Command>,
    streams: Arc<dyn Streams>,
}

impl PodsHandle {
    pub(super) fn new(
        table: Table,
        commands: mpsc::Sender<Command>,
        streams: Arc<dyn Streams>,
    ) -> Self {
        Self { table, commands, streams }
    }

    /// The streams into pods, which their backend opens.
    pub fn streams(&self) -> &dyn Streams {
        &*self.streams
    }

    /// Every pod that has a task, by UID.
    pub fn views(&self) -> Vec<PodView> {
        self.table.views()
    }

    /// One pod by UID.
    pub fn by_uid(&self, uid: &PodUid) -> Option<PodView> {
        self.table.views.read().get(uid).map(|view| view.borrow().clone())
    }

    /// One pod by namespace and name; the newest when an older one of that name still stops.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<PodView> {
        let mut found: Vec<PodView> = self.views();
        found.retain(|view| &*view.key.namespace == namespace && &*view.key.name == name);
        found.sort_by(|a, b| {
            a.pod.metadata.creation_timestamp.cmp(&b.pod.metadata.creation_timestamp)
        });
        let running = found.iter().rposition(|view| view.pod.metadata.deletion_timestamp.is_none());
        running.map_or_else(|| found.last().cloned(), |index| found.get(index).cloned())
    }

    /// The view of one pod as it changes; it ends with the pod's task.
    pub fn watch(&self, uid: &PodUid) -> Option<watch::Receiver<PodView>> {
        self.table.view(uid)
    }

    /// The pods that count against the node's resources, as of the last time that one came or went.
    pub fn active(&self) -> watch::Receiver<Vec<Arc<Pod>>> {
        self.table.active.subscribe()
    }

    /// What dispatch has decided so far.
    pub(super) fn counts(&self) -> Counts {
        self.table.counts.read().clone()
    }

    /// How often pods came in an unusual way.
    pub(super) fn returns(&self) -> &Returns {
        self.table.returns()
    }

    /// Waits until every source has said which pods it has: the UIDs of those, and of the pods that
    /// have a task. What is on disk of any other pod is left over. Cancel-safe.
    pub async fn known(&self) -> Arc<BTreeSet<PodUid>> {
        let mut known = self.table.known.subscribe();
        // Never an error: the table of this handle holds the sender.
        let known = known.wait_for(Option::is_some).await.map(|known| known.clone());
        known.ok().flatten().unwrap_or_default()
    }

    /// Whether a pod has a task, or was among [`PodsHandle::known`].
    pub fn is_known(&self, uid: &PodUid) -> bool {
        let has_task = self.table.views.read().contains_key(uid);
        has_task || self.table.known.borrow().as_ref().is_some_and(|known| known.contains(uid))
    }

    /// Asks for a pod to be stopped; false when the process is shutting down.
    pub async fn stop(&self, uid: PodUid, cause: TerminationCause, grace: Duration) -> bool {
        self.commands.send(Command::Stop { uid, cause, grace }).await.is_ok()
    }

    /// Asks for containers that have ended to be removed from the runtime, by pod; one that runs
    /// stays. False when the process is shutting down.
    pub async fn collect(&self, containers: BTreeMap<PodUid, BTreeSet<ContainerId>>) -> bool {
        self.commands.send(Command::Collect { containers }).await.is_ok()
    }
}
