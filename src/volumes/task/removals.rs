//! Decides when pods' directories are removed: on request of a pod that has ended, or because a
//! sweep found a directory of an unknown pod.
//!
//! - At most one removal per pod at a time, and none while a job works in its directory.
//! - A failed removal is tried again with growing delays.
//! - Each failure is reported once: to the caller, in the log, and on the watch of stuck volumes.
//!
//! Bookkeeping only, fed by the task. [`crate::volumes::directories::remove_pod`] does the work.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::model::{Mono, PodUid};
use crate::volumes::error::{StuckReason, TearDownError};
use crate::volumes::plan::wait_after;
use crate::volumes::{Stuck, Swept};

type Reply = oneshot::Sender<Result<(), TearDownError>>;

/// The removal of one pod's directory.
#[derive(Default)]
struct Removal {
    replies: Vec<Reply>,
    running: bool,
}

/// A pod's directory that could not be removed.
struct Failed {
    count: u32,
    /// The time of the next try; `None` if it waits for another request.
    retry_at: Option<Mono>,
    text: String,
    reason: StuckReason,
}

/// All removals.
#[derive(Default)]
pub(super) struct Removals {
    wanted: BTreeMap<PodUid, Removal>,
    failed: BTreeMap<PodUid, Failed>,
    /// Number of unknown pods whose directories were removed since the last sweep.
    cleaned: u64,
}

impl Removals {
    /// Requests a removal; `reply` is answered when it has ended.
    pub(super) fn ask(&mut self, uid: &PodUid, reply: Reply) {
        self.wanted.entry(uid.clone()).or_default().replies.push(reply);
    }

    pub(super) fn is_running(&self, uid: &PodUid) -> bool {
        self.wanted.get(uid).is_some_and(|removal| removal.running)
    }

    /// Takes the pods that a sweep found on disk. The unknown ones are removed, unless they wait
    /// after a failure. Returns the pods to remove now.
    pub(super) fn sweep(
        &mut self,
        on_disk: &BTreeSet<PodUid>,
        is_known: impl Fn(&PodUid) -> bool,
        now: Mono,
    ) -> BTreeSet<PodUid> {
        self.failed.retain(|uid, _| on_disk.contains(uid));
        self.cleaned = 0;
        let waits = |uid: &PodUid| {
            self.failed
                .get(uid)
                .is_some_and(|failed| failed.retry_at.is_some_and(|retry_at| retry_at > now))
        };
        let due: BTreeSet<PodUid> =
            on_disk.iter().filter(|uid| !is_known(uid) && !waits(uid)).cloned().collect();
        for uid in &due {
            self.wanted.entry(uid.clone()).or_default();
        }

        due
    }

    /// Returns the unknown pods whose next try is due.
    pub(super) fn due(
        &mut self,
        is_known: impl Fn(&PodUid) -> bool,
        now: Mono,
    ) -> BTreeSet<PodUid> {
        let mut due = BTreeSet::new();
        for (uid, failed) in &mut self.failed {
            if failed.retry_at.is_none_or(|at| at > now) {
                continue;
            }
            failed.retry_at = None;
            if !is_known(uid) {
                self.wanted.entry(uid.clone()).or_default();
                due.insert(uid.clone());
            }
        }

        due
    }

    /// Returns the time of the next try.
    pub(super) fn wake_at(&self) -> Option<Mono> {
        self.failed.values().filter_map(|failed| failed.retry_at).min()
    }

    /// Begins a removal if one is requested and not running. Returns true if it did.
    pub(super) fn begin(&mut self, uid: &PodUid) -> bool {
        match self.wanted.get_mut(uid) {
            Some(removal) if !removal.running => {
                removal.running = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes the result of a removal and replies to the requests. Without a request it plans the
    /// next try (a pod that requests its own removal requests it again).
    pub(super) fn ended(&mut self, uid: &PodUid, result: Result<(), TearDownError>, now: Mono) {
        let replies = self.wanted.remove(uid).unwrap_or_default().replies;
        match &result {
            Ok(()) => {
                self.failed.remove(uid);
                self.cleaned += u64::from(replies.is_empty());
                debug!(pod = %uid, "the pod's directory is gone");
            }
            Err(error) => {
                let text = error.text();
                let before = self.failed.get(uid);
                if before.is_none_or(|before| before.text != text) {
                    warn!(pod = %uid, error = text, "could not remove the directory of a pod that is gone");
                }
                let count = before.map_or(0, |before| before.count) + 1;
                let retry_at = replies.is_empty().then(|| now.after(wait_after(count)));
                self.failed
                    .insert(uid.clone(), Failed { count, retry_at, text, reason: error.reason() });
            }
        }

        let text = result.as_ref().err().map(TearDownError::text);
        let mut replies = replies.into_iter();
        if let Some(first) = replies.next() {
            // The receiver may be gone.
            drop(first.send(result));
        }

        for reply in replies {
            drop(reply.send(text.clone().map_or(Ok(()), |text| Err(TearDownError::Again(text)))));
        }
    }

    /// Returns the directories that cannot be removed.
    pub(super) fn stuck(&self) -> Swept {
        let stuck = |(uid, failed): (&PodUid, &Failed)| Stuck {
            uid: uid.clone(),
            problem: failed.text.clone(),
            reason: failed.reason,
        };
        Swept { stuck: self.failed.iter().map(stuck).collect(), cleaned: self.cleaned }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::Removals;
    use crate::model::{Mono, PodUid};
    use crate::volumes::error::{StuckReason, TearDownError};

    fn at(millis: u64) -> Mono {
        Mono(Duration::from_millis(millis))
    }

    fn busy() -> Result<(), TearDownError> {
        Err(TearDownError::Again("busy".to_owned()))
    }

    #[test]
    fn an_orphan_that_is_stuck_is_tried_ever_more_rarely() {
        let mut removals = Removals::default();
        let uid = PodUid::from("u1");
        let found = BTreeSet::from([uid.clone()]);
        assert_eq!(removals.sweep(&found, |_| false, at(0)), found);
        assert!(removals.begin(&uid) && !removals.begin(&uid), "one at a time");
        removals.ended(&uid, busy(), at(0));
        assert_eq!(removals.wake_at(), Some(at(500)));
        assert!(
            removals.sweep(&found, |_| false, at(100)).is_empty(),
            "a sweep does not shorten the wait"
        );
        assert!(removals.due(|_| false, at(499)).is_empty());
        assert_eq!(removals.due(|_| false, at(500)), found);
        assert_eq!(removals.wake_at(), None);
        assert!(removals.begin(&uid));
        removals.ended(&uid, busy(), at(500));
        assert_eq!(removals.wake_at(), Some(at(1500)));
        assert!(removals.due(|_| true, at(2000)).is_empty(), "the pod has come back");
        let told = removals.stuck();
        assert_eq!(
            (told.stuck.len(), told.stuck[0].reason, told.cleaned),
            (1, StuckReason::Other, 0)
        );
        assert_eq!(removals.sweep(&found, |_| false, at(3000)), found);
        removals.begin(&uid);
        removals.ended(&uid, Ok(()), at(3000));
        let told = removals.stuck();
        assert_eq!((told.stuck.len(), told.cleaned), (0, 1));
    }

    #[test]
    fn everybody_who_waits_is_answered() {
        let mut removals = Removals::default();
        let uid = PodUid::from("u1");
        let (first, mut one) = tokio::sync::oneshot::channel();
        let (second, mut two) = tokio::sync::oneshot::channel();
        removals.ask(&uid, first);
        removals.ask(&uid, second);
        assert!(removals.begin(&uid));
        removals.ended(&uid, busy(), at(0));
        for answer in [one.try_recv(), two.try_recv()] {
            assert_eq!(answer.expect("an answer").expect_err("an error").text(), "busy");
        }
        assert_eq!(removals.wake_at(), None, "who asked asks again");
    }
}
