//! Resizes in place: whether a pod that asks for other resources gets them now. Until then its task
//! sees it with what it has been given, and those who wait are looked at again when a pod has gone,
//! and every now and then.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::{Asks, Dispatch, Launch, PendingResize, Rejected, Resize};
use crate::model::{Pod, PodUid, pod};
use crate::resources::allocation;

/// How often resizes that wait are looked at: pods that end without going away make room, too.
const RETRY: Duration = Duration::from_secs(10);

/// The reason of a wish that may be granted later.
const DEFERRED: &str = "Deferred";
/// The reason of one that never is.
const INFEASIBLE: &str = "Infeasible";
/// The message of a resize of the pod as a whole.
const POD_LEVEL: &str = "InPlacePodLevelResourcesVerticalScaling is disabled";

impl<L: Launch> Dispatch<L> {
    /// Hands a newer object on, with other resources only if the node has them.
    pub(super) fn update(&mut self, uid: &PodUid, newer: Arc<Pod>) {
        let Some(entry) = self.entries.get(uid) else { return };
        let (given, resize) = match allocation::apply(&newer, &entry.allocation) {
            _ if entry.is_static => (newer, Resize::default()),
            None => {
                let granted = entry.directive.borrow().resize.granted;
                (newer, Resize { granted, pending: None })
            }
            Some(given) => self.decide(uid, given, newer),
        };
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.wanted = resize.pending.as_ref().map(|pending| pending.wanted.clone());
        let allocation = allocation::of(&given);
        let is_changed = allocation != entry.allocation;
        entry.allocation = allocation;
        if entry.wanted.is_some() {
            self.next_resize.get_or_insert(self.clock.now().mono.after(RETRY));
        }
        entry.directive.send_modify(|directive| {
            directive.pod = given;
            directive.gone = false;
            directive.resize = resize;
        });
        if is_changed {
            self.tell_active();
        }
    }

    /// Whether the pod gets what it asks for: the pod that its task is to see, and what is told.
    fn decide(&mut self, uid: &PodUid, given: Pod, wanted: Arc<Pod>) -> (Arc<Pod>, Resize) {
        let granted =
            self.entries.get(uid).and_then(|entry| entry.directive.borrow().resize.granted);
        let pod_level = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.resources.clone());
        let before = self.entries.get(uid).map(|entry| entry.directive.borrow().pod.clone());
        let decision = if before.is_some_and(|before| pod_level(&before) != pod_level(&wanted)) {
            Err((INFEASIBLE, POD_LEVEL.to_owned()))
        } else {
            let mut others = self.table.active_pods();
            others.retain(|other| &pod::uid(other) != uid);
            let answer = self.launch.admit(&wanted, &others, &Asks::Resize);
            answer.map_err(|Rejected { message, .. }| (DEFERRED, message))
        };
        match decision {
            Ok(preempt) => {
                info!(pod = %pod::key(&wanted), "a resize is granted");
                self.preempt(preempt);
                let granted = wanted.metadata.generation.or(Some(0));
                (wanted, Resize { granted, pending: None })
            }
            Err((reason, message)) => {
                let pending = Some(PendingResize { reason, message, wanted });
                (Arc::new(given), Resize { granted, pending })
            }
        }
    }

    /// Looks again at those that wait.
    pub(super) fn retry_resizes(&mut self) {
        self.next_resize = None;
        let waiting: Vec<(PodUid, Arc<Pod>)> = self
            .entries
            .iter()
            .filter_map(|(uid, entry)| Some((uid.clone(), entry.wanted.clone()?)))
            .collect();
        for (uid, wanted) in waiting {
            self.update(&uid, wanted);
        }
    }
}
