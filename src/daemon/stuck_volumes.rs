//! Reports what is left of pods that are gone and cannot be removed: one event per pod and cause,
//! and gauges.
//!
//! Fed by `volumes`, which tries the removals again. This task only tells of them.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::apiserver::events::Recorder;
use crate::model::reason::event::ORPHANED_VOLUME_STUCK;
use crate::model::{EventType, PodUid};
use crate::telemetry::metrics::{Kind, Registry};
use crate::volumes::{StuckReason, Swept};

/// Registers upstream's gauges and ours.
pub(super) fn register(registry: &Registry, swept: watch::Receiver<Swept>) {
    registry.on_collect(move |out| {
        let swept = swept.borrow().clone();
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let number = |count: usize| count as f64;
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let cleaned = swept.cleaned as f64;
        out.family(
            "kubelet_orphan_pod_cleaned_volumes",
            "[ALPHA] The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep.",
            Kind::Gauge,
            &[],
            &[(&[], cleaned)],
        );
        out.family(
            "kubelet_orphan_pod_cleaned_volumes_errors",
            "[ALPHA] The number of orphaned Pods whose volumes failed to be cleaned in the last periodic sweep.",
            Kind::Gauge,
            &[],
            &[(&[], number(swept.stuck.len()))],
        );
        let of = |reason: StuckReason| {
            number(swept.stuck.iter().filter(|stuck| stuck.reason == reason).count())
        };
        let samples: Vec<([&str; 1], f64)> =
            StuckReason::ALL.iter().map(|reason| ([reason.as_str()], of(*reason))).collect();
        let samples: Vec<(&[&str], f64)> =
            samples.iter().map(|(labels, value)| (labels.as_slice(), *value)).collect();
        let help = "Pods that are gone and of which something cannot be removed, by the kind of reason.";
        out.family("rkubelet_orphaned_volumes_stuck", help, Kind::Gauge, &["reason"], &samples);
    });
}

/// Reports each new cause in an event of the node.
pub(super) async fn report(
    mut swept: watch::Receiver<Swept>,
    node_name: String,
    recorder: Recorder,
) {
    let mut reported: BTreeSet<(PodUid, String)> = BTreeSet::new();
    while swept.changed().await.is_ok() {
        let stuck = swept.borrow_and_update().stuck.clone();
        reported.retain(|(uid, problem)| {
            stuck.iter().any(|stuck| stuck.uid == *uid && stuck.problem == *problem)
        });

        for stuck in stuck {
            let message =
                format!("Could not remove what is left of pod {}: {}", stuck.uid, stuck.problem);
            if reported.insert((stuck.uid, stuck.problem)) {
                recorder.node(&node_name, EventType::Warning, ORPHANED_VOLUME_STUCK, message);
            }
        }
    }
    // The volumes have ended: so does everything, by the stop.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio_util::task::TaskTracker;

    use super::{register, report};
    use crate::apiserver::events::Recorder;
    use crate::model::PodUid;
    use crate::telemetry::metrics::Registry;
    use crate::volumes::{Stuck, StuckReason, Swept};

    fn stuck(problem: &str) -> Swept {
        let stuck = Stuck {
            uid: PodUid::from("u1"),
            problem: problem.to_owned(),
            reason: StuckReason::Mounted,
        };
        Swept { stuck: vec![stuck], cleaned: 0 }
    }

    #[tokio::test]
    async fn each_cause_is_told_once() {
        let (sender, receiver) = watch::channel(Swept::default());
        let (recorder, mut events) = Recorder::channel();
        let tasks = TaskTracker::new();
        tasks.spawn(report(receiver.clone(), "n1".to_owned(), recorder));
        let registry = Registry::new();
        register(&registry, receiver);
        sender.send_replace(stuck("one"));
        let event = events.recv().await.expect("an event");
        assert_eq!(event.message, "Could not remove what is left of pod u1: one");
        sender.send_replace(Swept { cleaned: 1, ..stuck("one") });
        sender.send_replace(stuck("two"));
        assert!(
            events.recv().await.expect("an event").message.ends_with(": two"),
            "the same cause is told once"
        );
        assert!(
            registry.encode().contains("rkubelet_orphaned_volumes_stuck{reason=\"mounted\"} 1")
        );
    }
}
