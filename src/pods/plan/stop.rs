//! A pod that must stop: its containers, then its sandboxes, within one deadline that may shrink.
//! Pure.

use super::draft::Draft;
use super::kill::{is_removed_by_force, pod_grace};
use super::teardown::{stop_containers, stop_sandboxes};
use super::types::{KillReason, Transition};
use super::view::View;
use crate::model::{Stage, Terminating};

/// Plans for a pod that must stop. Nothing is created or started any more; what is being created is
/// waited for, since it cannot be called back (invariant 7), and stopped then.
pub(super) fn stop(draft: &mut Draft<'_>, terminating: &Terminating) {
    if let Some(shorter) = shortened(draft.view, terminating) {
        draft.transition(shorter);
        return;
    }

    let quiet = stop_containers(draft, Some(terminating.deadline()), &KillReason::PodStopping);
    let starting = draft.wait_for_starts(Stage::Stop);
    if !quiet || starting || !stop_sandboxes(draft, Stage::Stop) {
        return;
    }
    draft.transition(Transition::Terminated);
}

/// The shorter grace that a later deletion asks for, counted from when the pod began to stop. The
/// removal of an object by force may come without the update that carried the grace.
fn shortened(view: &View<'_>, terminating: &Terminating) -> Option<Transition> {
    let has_grace = view.pod.metadata.deletion_grace_period_seconds.is_some();
    if !has_grace && !is_removed_by_force(view) {
        return None;
    }

    let elapsed = view.now.mono.since(terminating.since.mono);
    let grace = elapsed.saturating_add(pod_grace(view));
    (grace < terminating.grace).then_some(Transition::Shorten { grace })
}
