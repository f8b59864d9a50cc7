//! Before a pod's admission something may have to be set aside for it, which can take a plugin's
//! time; when it does not count any more, that is free again. Other pods go on meanwhile.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinError;
use tracing::error;

use super::{Allocated, Dispatch, Launch, PodView, is_admitted_anew};
use crate::model::{Pod, PodUid, pod};

impl<L: Launch> Dispatch<L> {
    /// Has things set aside for a new pod. Returns false if it needs none: it is admitted at once.
    pub(super) fn begin_allocation(&mut self, pod: &Arc<Pod>) -> bool {
        if !is_admitted_anew(pod) {
            return false;
        }
        let Some(allocation) = self.launch.allocate(pod) else { return false };
        let uid = pod::uid(pod);
        self.allocating.insert(uid.clone(), pod.clone());
        self.allocations.spawn(async move { (uid, allocation.await) });
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
        match self.allocating.remove(&uid) {
            Some(pod) => self.enter(pod, Some(allocated)),
            // It went meanwhile: what came too late is given back. Its object may be back already.
            None if self.entries.contains_key(&uid) => {}
            None => self.launch.ended(&uid),
        }
    }

    /// Follows a pod until it does not count any more. Its task may live on for as long as its
    /// object is there.
    pub(super) fn watch_life(&mut self, uid: &PodUid, mut view: watch::Receiver<PodView>) {
        let uid = uid.clone();
        self.lives.spawn(async move {
            let over = view.wait_for(|view| !view.is_active()).await;
            // A task that has ended says so itself.
            over.is_ok().then_some(uid)
        });
    }

    /// A pod does not count any more.
    pub(super) fn is_over(&mut self, life: Result<Option<PodUid>, JoinError>) {
        if let Ok(Some(uid)) = life {
            self.launch.over(&uid);
            self.tell_active();
        }
    }

    /// Tells which pods count, with the resources that they have been given: a task may not have
    /// seen its pod's newest ones yet.
    pub(super) fn tell_active(&mut self) {
        let mut active = self.table.active_pods();
        for pod in &mut active {
            if let Some(entry) = self.entries.get(&pod::uid(pod)) {
                *pod = entry.directive.borrow().pod.clone();
            }
        }
        self.launch.active_changed(active);
    }
}
