//! A pod that has stopped: volumes, directories and cgroup, the final status, and the removal of
//! what is left. Pure.

use super::draft::Draft;
use super::leftovers;
use super::teardown::{stop_containers, stop_sandboxes};
use super::types::{Action, Key, KillReason, Transition};
use crate::model::{Blocked, Stage, VolumesState};
use crate::pods::memory::facts::{Removal, Source};
use crate::pods::memory::known::Preparation;

/// Plans for a pod that has stopped.
pub(super) fn finish(draft: &mut Draft<'_>) {
    let view = draft.view;
    // A start that outlived its caller may still bring something up.
    let starting = draft.wait_for_starts(Stage::Stop);
    let quiet = stop_containers(draft, Some(view.now.mono), &KillReason::PodStopping);
    if starting || !quiet || !stop_sandboxes(draft, Stage::Stop) {
        return;
    }

    match view.facts.source {
        Source::Gone(Removal::Delayed { at, .. }) if at > view.now.mono => draft.wake(at),
        Source::Gone(Removal::Delayed { .. } | Removal::Due) => {
            draft.attempt_all(leftovers::everything(view));
        }
        Source::Present => {
            draft.attempt_all(leftovers::behind_the_newest(view));
            draft.attempt_all(leftovers::wanted_by_node(view));
        }
    }
    if are_volumes_gone(draft) && is_cleaned_up(draft) && is_reported(draft) {
        draft.transition(Transition::Finished);
    }
}

fn are_volumes_gone(draft: &mut Draft<'_>) -> bool {
    let view = draft.view;
    let failed_before = view.known.failures.contains_key(&Key::Volumes);
    let last_error = match &view.facts.volumes {
        VolumesState::Absent if view.doing(&Key::Volumes).is_none() => return true,
        // What is being set up would come to be mounted after all.
        VolumesState::Absent => None,
        VolumesState::Pending { .. } | VolumesState::Ready => {
            draft.attempt(Action::UnmountVolumes);
            None
        }
        // The volume subsystem is at it; an action that failed as a whole has to be repeated.
        VolumesState::TearingDown { last_error } => {
            if failed_before {
                draft.attempt(Action::UnmountVolumes);
            }
            (!last_error.is_empty()).then(|| last_error.clone())
        }
    };

    let on = "its volumes to be unmounted".to_owned();
    if last_error.is_some() {
        let since = view.busy_since(&Key::Volumes).unwrap_or(view.now);
        draft.block(Blocked { stage: Stage::Volumes, on, since, last_error, next_try: None });
    } else {
        draft.block_on(Stage::Volumes, on, &Key::Volumes);
    }
    false
}

fn is_cleaned_up(draft: &mut Draft<'_>) -> bool {
    let view = draft.view;
    let is_absent = view.known.preparation == Preparation::Absent;
    let is_preparing = view.doing(&Key::Prepare).is_some();
    if is_absent && !is_preparing && view.doing(&Key::CleanUp).is_none() {
        return true;
    }

    if !is_preparing {
        draft.attempt(Action::CleanUp);
    }
    let on = "its cgroup and directories to be removed".to_owned();
    draft.block_on(Stage::Cgroup, on, &Key::CleanUp);
    false
}

/// Returns true if nothing is left to be reported or removed. The worker ends when, beyond that,
/// the object is gone.
fn is_reported(draft: &mut Draft<'_>) -> bool {
    let view = draft.view;
    if view.facts.is_gone() {
        return view.observed.is_empty();
    }

    if !view.facts.status_accepted {
        let on = "the API server to accept its final status".to_owned();
        draft.block_since(Stage::Status, on, view.now);
    }
    view.facts.status_accepted
}
