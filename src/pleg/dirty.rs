//! The dirty set: which pods to look at again, and how closely. Fed by event reader, relists and
//! the ends of mutations; drained by the task. Its size is bounded by the pods, whatever the number
//! of marks: marks of one pod coalesce.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::{ContainerId, PodUid, SandboxId};

/// How closely to look at one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// List everything of the pod; the rest is then included.
    pub(super) whole: bool,
    /// Containers to ask for, with their sandbox where it is known.
    pub(super) containers: BTreeMap<ContainerId, Option<SandboxId>>,
    /// Sandboxes to ask for.
    pub(super) sandboxes: BTreeSet<SandboxId>,
}

impl Look {
    /// At everything.
    pub(super) fn whole() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// Also at a container.
    pub(super) fn container(&mut self, id: &ContainerId, sandbox: Option<&SandboxId>) {
        let known = self.containers.entry(id.clone()).or_default();
        if let Some(sandbox) = sandbox {
            *known = Some(sandbox.clone());
        }
    }

    /// Also at a sandbox.
    pub(super) fn sandbox(&mut self, id: &SandboxId) {
        self.sandboxes.insert(id.clone());
    }

    /// Also at what `other` says.
    pub(super) fn merge(&mut self, other: Self) {
        self.whole |= other.whole;
        for (id, sandbox) in other.containers {
            self.container(&id, sandbox.as_ref());
        }
        self.sandboxes.extend(other.sandboxes);
    }

    /// Whether it is at nothing.
    pub(super) fn is_empty(&self) -> bool {
        !self.whole && self.containers.is_empty() && self.sandboxes.is_empty()
    }
}

/// What the set holds.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// By pod.
    pub(super) pods: HashMap<PodUid, Look>,
    /// A relist is asked for.
    pub(super) all: bool,
}

/// The set.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    marks: Mutex<Marks>,
    notify: Notify,
}

impl Dirty {
    /// Marks a pod.
    pub(super) fn mark(&self, uid: &PodUid, look: Look) {
        self.marks.lock().pods.entry(uid.clone()).or_default().merge(look);
        self.notify.notify_one();
    }

    /// Asks for a relist.
    pub(super) fn mark_all(&self) {
        self.marks.lock().all = true;
        self.notify.notify_one();
    }

    /// Waits until something is marked. Cancel-safe: a wake-up that is not taken is kept.
    pub(super) async fn marked(&self) {
        self.notify.notified().await;
    }

    /// Takes everything.
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
            look.container(&ContainerId::new("c"), (n == 7).then(|| SandboxId::new("s")).as_ref());
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
