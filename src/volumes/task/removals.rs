//! The removal of pods' directories: asked for by a pod that has ended, or found to belong to
//! nobody by a sweep.
//!
//! One removal per pod at a time, never while a job works in its directory. What could not be
//! removed is tried again, ever more rarely, and told once: who asked, in the log, and to those who
//! watch what is stuck. Decides; the work is [`super::super::directories::remove_pod`].

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::super::error::TearDownError;
use super::super::plan::wait_after;
use super::super::{Stuck, Swept};
use crate::model::{Mono, PodUid};

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
    /// `None`: only when it is asked for again.
    retry_at: Option<Mono>,
    text: String,
    reason: &'static str,
}

/// All removals.
#[derive(Default)]
pub(super) struct Removals {
    wanted: BTreeMap<PodUid, Removal>,
    failed: BTreeMap<PodUid, Failed>,
    /// How many pods that nobody knew were cleaned since the last sweep.
    cleaned: u64,
}

impl Removals {
    /// Somebody waits for a removal.
    pub(super) fn ask(&mut self, uid: &PodUid, reply: Reply) {
        self.wanted.entry(uid.clone()).or_default().replies.push(reply);
    }

    pub(super) fn is_running(&self, uid: &PodUid) -> bool {
        self.wanted.get(uid).is_some_and(|removal| removal.running)
    }

    /// What a sweep has found: the pods on disk of which `is_known` knows nothing are removed,
    /// unless they wait after a failure. Answers those.
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

    /// Pods without anybody who wants them whose next try is due.
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

    /// When the next try is due.
    pub(super) fn wake_at(&self) -> Option<Mono> {
        self.failed.values().filter_map(|failed| failed.retry_at).min()
    }

    /// Whether a removal is wanted that does not run; it does from now on.
    pub(super) fn begin(&mut self, uid: &PodUid) -> bool {
        match self.wanted.get_mut(uid) {
            Some(removal) if !removal.running => {
                removal.running = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A removal has ended: answers those who wait, and plans the next try. A pod that asks for
    /// itself asks again.
    pub(super) fn ended(&mut self, uid: &PodUid, result: Result<(), TearDownError>, now: Mono) {
        let replies = self.wanted.remove(uid).unwrap_or_default().replies;
        match &result {
            Ok(()) => {
                self.failed.remove(uid);
                self.cleaned += u64::from(replies.is_empty());
                debug!(pod = %uid, "The pod's directory is gone");
            }
            Err(error) => {
                let text = error.text();
                let before = self.failed.get(uid);
                if before.is_none_or(|before| before.text != text) {
                    warn!(pod = %uid, error = text, "Could not remove the directory of a pod that is gone");
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
            // Nobody waits any more: fine.
            drop(first.send(result));
        }
        for reply in replies {
            drop(reply.send(text.clone().map_or(Ok(()), |text| Err(TearDownError::Again(text)))));
        }
    }

    /// What is stuck.
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
    use crate::volumes::error::TearDownError;

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
        assert_eq!((told.stuck.len(), told.stuck[0].reason, told.cleaned), (1, "other", 0));
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
