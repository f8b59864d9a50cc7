//! The dirty set: the pods to read again, and how closely.
//!
//! Marked by the event reader, by relists and by the ends of mutations; drained by the task. Marks
//! of one pod coalesce, so the number of pods bounds its size, whatever the number of marks.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::{ContainerId, PodUid, SandboxId};

/// The parts of one pod to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// List the whole pod; this includes the rest.
    pub(super) whole: bool,
    /// Containers to read, with their sandbox where it is known.
    pub(super) containers: BTreeMap<ContainerId, Option<SandboxId>>,
    /// Sandboxes to read.
    pub(super) sandboxes: BTreeSet<SandboxId>,
}

impl Look {
    /// Returns a look at the whole pod.
    pub(super) fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// Adds a container.
    pub(super) fn add_container(&mut self, id: &ContainerId, sandbox: Option<&SandboxId>) {
        let known = self.containers.entry(id.clone()).or_default();
        if let Some(sandbox) = sandbox {
            *known = Some(sandbox.clone());
        }
    }

    /// Adds a sandbox.
    pub(super) fn add_sandbox(&mut self, id: &SandboxId) {
        self.sandboxes.insert(id.clone());
    }

    /// Adds everything that `other` includes.
    pub(super) fn merge(&mut self, other: Self) {
        self.whole |= other.whole;
        for (id, sandbox) in other.containers {
            self.add_container(&id, sandbox.as_ref());
        }
        self.sandboxes.extend(other.sandboxes);
    }

    /// Returns true if the look includes nothing.
    pub(super) fn is_empty(&self) -> bool {
        !self.whole && self.containers.is_empty() && self.sandboxes.is_empty()
    }
}

/// The marks since the last time they were taken.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The looks, by pod.
    pub(super) pods: HashMap<PodUid, Look>,
    /// True if a relist is requested.
    pub(super) all: bool,
}

/// The set of marks, and the wake-up of the task that drains it.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    marks: Mutex<Marks>,
    notify: Notify,
}

impl Dirty {
    /// Adds a look to a pod's mark.
    pub(super) fn mark(&self, uid: &PodUid, look: Look) {
        self.marks.lock().pods.entry(uid.clone()).or_default().merge(look);
        self.notify.notify_one();
    }

    /// Requests a relist.
    pub(super) fn mark_all(&self) {
        self.marks.lock().all = true;
        self.notify.notify_one();
    }

    /// Waits until something is marked. Cancel-safe: a wake-up that is not consumed is kept.
    pub(super) async fn marked(&self) {
        self.notify.notified().await;
    }

    /// Takes all marks.
    pub(super) fn take(&self) -> Marks {
        std::mem::take(&mut *self.marks.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::{Dirty, Look};
    use crate::model::{ContainerId, PodUid, SandboxId};

    #[tokio::test]
    async fn marks_of_one_pod_coalesce() {
        let dirty = Dirty::default();
        let uid = PodUid::new("u");
        for n in 0..1000 {
            let mut look = Look::default();
            look.add_container(
                &ContainerId::new("c"),
                (n == 7).then(|| SandboxId::new("s")).as_ref(),
            );
            dirty.mark(&uid, look);
        }
        dirty.marked().await;
        let marks = dirty.take();
        assert_eq!(marks.pods.len(), 1);
        assert!(!marks.all);
        let look = &marks.pods[&uid];
        assert!(!look.whole);
        assert_eq!(look.containers.get(&ContainerId::new("c")), Some(&Some(SandboxId::new("s"))));
        assert!(dirty.take().pods.is_empty());
    }
}
