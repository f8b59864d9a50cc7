//! Before a pod's admission something may have to be set aside for it, which can take a plugin's
//! time; when it does not count any more, that is free again. Other pods go on meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::error;

use super::resize::Trigger;
use super::{Backend, Dispatch, NodeLook, PodView};
use crate::admission::Rejection;
use crate::model::{Pod, PodUid, pod};

/// Gives what pods ask of the node besides CPU time and memory.
pub trait Give: Send + Sync + 'static {
    /// Sets aside what a new pod asks for; none if it asks for nothing. `running` names its
    /// containers if they run already. What was set aside is free again with [`Self::release`], or
    /// when the pod is forgotten.
    fn allocate(&self, pod: &Arc<Pod>, running: &[String])
    -> Option<BoxFuture<'static, Allocated>>;

    /// The pod counts no longer, though its object is still there. Must not block.
    fn release(&self, uid: &PodUid);
}

/// The outcome of [`Give::allocate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Why the pod cannot be given what it asks for.
    pub refused: Option<Rejection>,
    /// How many of each resource pods have, this one included.
    pub given: BTreeMap<String, i64>,
}

/// Pods that something is set aside for, and pods that count.
#[derive(Debug, Default)]
pub(super) struct Allocations {
    /// New pods whose allocation is under way. They have no task yet; the newest object counts.
    pub(super) pending: BTreeMap<PodUid, Arc<Pod>>,
    /// What was set aside for pods that are not admitted yet.
    pub(super) done: BTreeMap<PodUid, Allocated>,
    pub(super) jobs: JoinSet<(PodUid, Allocated)>,
    /// One for each pod that counts: ends when it does not count any more.
    pub(super) lives: JoinSet<Option<PodUid>>,
}

impl<B: Backend> Dispatch<B> {
    /// Has things set aside for a new pod. Returns false if it needs none: it is admitted at once.
    pub(super) fn begin_allocation(&mut self, pod: &Arc<Pod>) -> bool {
        if pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
            return false;
        }
        let uid = pod::uid(pod);
        let running = {
            let found = self.backend.found();
            let found = found.borrow();
            let own = found.as_ref().and_then(|found| found.get(&uid));
            own.filter(|own| own.is_running).map(|own| own.containers.clone()).unwrap_or_default()
        };
        let Some(allocation) = self.give.allocate(pod, &running) else { return false };
        self.allocations.pending.insert(uid.clone(), pod.clone());
        self.allocations.jobs.spawn(async move { (uid, allocation.await) });
        true
    }

    /// Goes on with the admission of a pod.
    pub(super) fn allocated(&mut self, allocated: Result<(PodUid, Allocated), JoinError>) {
        let (uid, allocated) = match allocated {
            Ok(allocated) => allocated,
            Err(error) => {
                error!(%error, "setting aside what a pod asks for panicked; the pod waits");
                return;
            }
        };
        match self.allocations.pending.remove(&uid) {
            Some(pod) => {
                self.allocations.done.insert(uid, allocated);
                self.enter(pod, NodeLook::Cached);
            }
            // It went meanwhile: what came too late is given back. Its object may be back already.
            None if self.entries.contains_key(&uid) => {}
            None => self.forget.forget(&uid),
        }
    }

    /// Follows a pod until it does not count any more. Its task may live on for as long as its
    /// object is there.
    pub(super) fn watch_life(&mut self, uid: &PodUid, mut view: watch::Receiver<PodView>) {
        let uid = uid.clone();
        self.allocations.lives.spawn(async move {
            let over = view.wait_for(|view| !view.is_active()).await;
            // A task that has ended says so itself.
            over.is_ok().then_some(uid)
        });
    }

    /// A pod does not count any more.
    pub(super) fn is_over(&mut self, life: Result<Option<PodUid>, JoinError>) {
        if let Ok(Some(uid)) = life {
            self.give.release(&uid);
            self.retry_resizes(Trigger::PodTerminated);
        }
    }

    /// Publishes the pods that count, with what they have been given, if that has changed.
    pub(super) fn publish_active(&self) {
        let views = self.table.views().into_iter().filter(PodView::is_active);
        self.table.publish_active(
            views
                .map(|view| match self.entries.get(&view.uid) {
                    Some(entry) => entry.directive.borrow().pod.clone(),
                    None => view.pod,
                })
                .collect(),
        );
    }
}
