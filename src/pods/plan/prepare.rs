//! What a pod needs before its sandbox and its containers: room on the node, its cgroup and
//! directories, its volumes. Pure.

use super::draft::Draft;
use super::resize::expects_cgroup_resize;
use super::types::{Action, Key};
use super::view::View;
use crate::model::{Blocked, Mono, Stage, VolumesState};

/// What is about to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// A sandbox. It does not wait for volumes that are on their way (upstream's does): they take
    /// about as long, and only containers need them.
    Sandbox,
    /// A container.
    Container,
}

/// Has the pod's cgroup, directories and volumes made, side by side; nothing waits for them here.
pub(super) fn prepare(view: &View<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    if !view.known.is_prepared() {
        actions.push(Action::Prepare);
    }

    let asked_before = view.known.failures.contains_key(&Key::Volumes);
    match view.facts.volumes {
        VolumesState::Absent => actions.push(Action::MountVolumes),
        // The volume subsystem tries again by itself; an action that failed as a whole has to be
        // repeated.
        VolumesState::Pending { .. } if asked_before => actions.push(Action::MountVolumes),
        VolumesState::Pending { .. } | VolumesState::Ready | VolumesState::TearingDown { .. } => {}
    }
    actions
}

/// Returns true if everything is there. Reports what is missing when not.
pub(super) fn is_prepared(draft: &mut Draft<'_>, before: Before) -> bool {
    let view = draft.view;
    let victims = &view.facts.preemption_victims;
    if !victims.is_empty() {
        let on = format!("{} to stop and make room for it", victims.join(", "));
        draft.block_since(Stage::Admission, on, view.now);
        return false;
    }
    if !view.known.is_prepared() {
        let on = "the pod's cgroup and directories".to_owned();
        draft.block_on(Stage::Cgroup, on, &Key::Prepare);
        return false;
    }
    if expects_cgroup_resize(view) {
        // What starts now has the new resources, and its cgroup must hold them.
        let on = "the pod's cgroup to be given other resources".to_owned();
        draft.block_on(Stage::Resize, on, &Key::Resize);
        return false;
    }
    are_volumes_ready(draft, before)
}

fn are_volumes_ready(draft: &mut Draft<'_>, before: Before) -> bool {
    let view = draft.view;
    match &view.facts.volumes {
        VolumesState::Ready => true,
        VolumesState::Absent => {
            draft.block_on(Stage::Volumes, "its volumes to be set up".to_owned(), &Key::Volumes);
            false
        }
        VolumesState::Pending { on_their_way: true, .. } if before == Before::Sandbox => true,
        VolumesState::Pending { missing, next_try, .. } => {
            draft.block(pending_volumes(view, missing, *next_try));
            false
        }
        VolumesState::TearingDown { last_error } => {
            draft.block(Blocked {
                stage: Stage::Volumes,
                on: "its volumes, which are still being torn down".to_owned(),
                since: view.now,
                last_error: (!last_error.is_empty()).then(|| last_error.clone()),
                next_try: None,
            });
            false
        }
    }
}

/// The wait for volumes that are being set up: names the first that fails, else the first.
fn pending_volumes(
    view: &View<'_>,
    missing: &[(String, String)],
    next_try: Option<Mono>,
) -> Blocked {
    let failing = missing.iter().find(|(_, error)| !error.is_empty()).or(missing.first());
    let on = match failing {
        Some((name, _)) => format!("volume \"{name}\""),
        None => "its volumes to be set up".to_owned(),
    };
    let last_error = failing.map(|(_, error)| error).filter(|error| !error.is_empty()).cloned();
    let since = view.busy_since(&Key::Volumes).unwrap_or(view.now);
    Blocked { stage: Stage::Volumes, on, since, last_error, next_try }
}
