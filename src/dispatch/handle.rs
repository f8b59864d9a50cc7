//! How the rest of the process reaches pods: read their views, ask for one to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use super::view::PodView;
use crate::model::{Pod, PodUid, TerminationCause};

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
}

/// The read cache of views: written by dispatch, read by everybody; never held across an await.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    views: Arc<RwLock<BTreeMap<PodUid, watch::Receiver<PodView>>>>,
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

    /// The pods that count against the node's resources.
    pub(super) fn active_pods(&self) -> Vec<Arc<Pod>> {
        self.views().into_iter().filter(PodView::is_active).map(|view| view.pod).collect()
    }
}

/// Reaches the pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PodsHandle {
    table: Table,
    commands: mpsc::Sender<Command>,
}

impl PodsHandle {
    pub(super) fn new(table: Table, commands: mpsc::Sender<Command>) -> Self {
        Self { table, commands }
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

    /// Asks for a pod to be stopped; false when the process is shutting down.
    pub async fn stop(&self, uid: PodUid, cause: TerminationCause, grace: Duration) -> bool {
        self.commands.send(Command::Stop { uid, cause, grace }).await.is_ok()
    }
}
