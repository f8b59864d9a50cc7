//! The log of one pod's life: one line per change of its lifecycle or phase, at INFO.
//!
//! Fed by the pod's task, whose span adds the fields `pod` and `uid`. `pleg` writes the lines about
//! sandboxes and containers in the same form: a constant message that names the new state, and
//! fields for all that varies.
//!
//! ```text
//! "pod syncing" pod="ns/web" uid="…"
//! "container started" pod="ns/web" uid="…" container="app" id="…"
//! "pod phase changed" pod="ns/web" uid="…" from="Pending" to="Running"
//! "pod terminating" pod="ns/web" uid="…" cause="deleted" grace="30s"
//! ```
//!
//! A message or reason that an event carries is left out: the event has it. A pod that is found
//! running at the start of the kubelet has not changed, and gets no line.

use k8s_openapi::api::core::v1::PodStatus;
use tracing::info;

use crate::model::{Lifecycle, ObservedPod, phase};
use crate::pods::plan::types::Transition;

/// Logs the begin of a pod of which nothing runs yet.
pub(super) fn begin(lifecycle: &Lifecycle, observed: &ObservedPod, recorded: Option<&PodStatus>) {
    let has_ended = recorded.is_some_and(phase::is_terminal);
    if *lifecycle == Lifecycle::Syncing && observed.is_empty() && !has_ended {
        info!("pod syncing");
    }
}

/// Logs a change of the lifecycle.
pub(super) fn transition(transition: &Transition) {
    match transition {
        Transition::Terminate { cause, grace } => {
            info!(cause = cause.as_str(), ?grace, "pod terminating");
        }
        Transition::Shorten { grace } => info!(?grace, "pod terminating sooner"),
        Transition::Terminated => info!("pod terminated"),
        Transition::Finished => info!("pod cleaned up"),
    }
}

/// Logs a change of the phase between two statuses of the pod.
pub(super) fn phase(old: &PodStatus, new: &PodStatus) {
    if let Some((from, to)) = phase_change(old, new) {
        info!(from, to, "pod phase changed");
    }
}

/// Returns the phases before and after, if they differ. A status without a phase has none: `""`.
fn phase_change<'a>(old: &'a PodStatus, new: &'a PodStatus) -> Option<(&'a str, &'a str)> {
    let from = old.phase.as_deref().unwrap_or_default();
    let to = new.phase.as_deref().unwrap_or_default();
    (from != to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodStatus;

    use super::phase_change;

    #[test]
    fn a_phase_that_stays_is_no_change() {
        let status = |phase: Option<&str>| PodStatus {
            phase: phase.map(str::to_owned),
            ..PodStatus::default()
        };
        let pending = status(Some("Pending"));
        assert_eq!(phase_change(&pending, &pending), None);
        assert_eq!(phase_change(&status(None), &pending), Some(("", "Pending")));
        let running = status(Some("Running"));
        assert_eq!(phase_change(&pending, &running), Some(("Pending", "Running")));
    }
}
