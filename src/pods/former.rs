//! The restart counts of static pods that have just ended, for the case that their file comes back.
//!
//! Pure. The backend puts a pod in at its end and takes it out at its next start. A file that was
//! deleted and written again gives a pod of the same UID, and its containers count on, as with
//! upstream, whose garbage collector has not yet removed the old ones by then.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::observed::Remembered;
use crate::model::{Mono, PodUid};

/// How long the counts are kept: the period of upstream's garbage collector.
const KEPT: Duration = Duration::from_secs(60);

/// The pods, each with its end and the restart counts by container name.
#[derive(Debug, Default)]
pub(super) struct FormerLives(BTreeMap<PodUid, (Mono, BTreeMap<String, Remembered>)>);

impl FormerLives {
    /// Keeps the restart counts of a pod that has ended. How its containers ended does not count
    /// for its next life.
    pub(super) fn keep(
        &mut self,
        uid: PodUid,
        mut remembered: BTreeMap<String, Remembered>,
        now: Mono,
    ) {
        self.drop_old(now);
        for container in remembered.values_mut() {
            container.exit = None;
        }
        self.0.insert(uid, (now, remembered));
    }

    /// Takes the restart counts of a pod's last life; none if that ended too long ago.
    pub(super) fn take(&mut self, uid: &PodUid, now: Mono) -> BTreeMap<String, Remembered> {
        self.drop_old(now);
        self.0.remove(uid).map(|(_, remembered)| remembered).unwrap_or_default()
    }

    fn drop_old(&mut self, now: Mono) {
        self.0.retain(|_, (ended, _)| now.since(*ended) < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn counts_are_kept_for_a_minute_and_taken_once() {
        let start = Clock::system().now().mono;
        let counts =
            || BTreeMap::from([("main".to_owned(), Remembered { restart_count: 3, exit: None })]);
        let mut former = FormerLives::default();
        former.keep("a".into(), counts(), start);
        former.keep("b".into(), counts(), start);
        assert_eq!(former.take(&"a".into(), start.after(Duration::from_secs(59))), counts());
        assert!(former.take(&"a".into(), start).is_empty(), "taken once");
        assert!(former.take(&"b".into(), start.after(KEPT)).is_empty(), "too long ago");
        former.keep("c".into(), counts(), start.after(KEPT));
        assert_eq!(former.0.len(), 1, "nothing old stays");
    }
}
