//! Taking a pod's containers and sandboxes down: main containers first and in parallel, sidecars
//! after them in reverse order, all within one deadline, then the sandboxes. Pure.
//!
//! Shared by a pod that stops, one that has stopped, and one whose sandbox is replaced.

use super::draft::Draft;
use super::kill::{at_least, kill, own_grace};
use super::types::{Action, InFlightAction, Key, KillReason};
use super::view::View;
use crate::model::{ContainerKind, Mono, ObservedContainer, SandboxState, Stage};

/// Stops every container that may run. Returns true once none does. Without a `deadline` (the
/// sandbox is replaced) the pod's own grace counts from the first kill.
pub(super) fn stop_containers(
    draft: &mut Draft<'_>,
    deadline: Option<Mono>,
    why: &KillReason,
) -> bool {
    let view = draft.view;
    let shared = deadline.or_else(|| view.kill_deadlines().max());
    let containers = view.observed.containers.iter();
    let running: Vec<&ObservedContainer> =
        containers.filter(|container| view.is_alive(container)).collect();
    for container in &running {
        match turn(view, container, &running, shared) {
            Turn::Now => stop_one(draft, container, why, deadline, shared),
            Turn::Later => {
                if let Some(deadline) = shared {
                    draft.wake(deadline);
                }
                draft.attempt_all(early_pre_stop(view, container, shared));
            }
        }
    }

    for container in &running {
        draft.block_on_kill(Stage::Stop, &container.id, &container.name);
    }
    running.is_empty()
}

/// Stops every sandbox that was not stopped. Returns true when all are: nothing is in flight for
/// any of them.
pub(super) fn stop_sandboxes(draft: &mut Draft<'_>, stage: Stage) -> bool {
    let view = draft.view;
    let mut all = true;
    for sandbox in &view.observed.sandboxes {
        let key = Key::Sandbox(sandbox.id.clone());
        let is_stopped =
            view.known.stopped.contains(&sandbox.id) && sandbox.state == SandboxState::NotReady;
        if is_stopped && view.doing(&key).is_none() {
            continue;
        }
        all = false;
        draft.attempt(Action::StopSandbox { id: sandbox.id.clone() });
        let on = "the old pod sandbox to stop and release its network".to_owned();
        draft.block_on(stage, on, &key);
    }
    all
}

/// Stops a container by the `shared` deadline. A kill in flight is hurried to the `deadline` of the
/// pod's stop.
fn stop_one(
    draft: &mut Draft<'_>,
    container: &ObservedContainer,
    why: &KillReason,
    deadline: Option<Mono>,
    shared: Option<Mono>,
) {
    let view = draft.view;
    let key = Key::Container(container.id.clone());
    match (view.doing(&key), deadline) {
        (Some(InFlightAction::Kill { deadline: running, .. }), Some(deadline)) => {
            let deadline = at_least(view, deadline);
            if *running > deadline {
                draft.hurry_kill(container.id.clone(), deadline);
            }
        }
        (Some(_), _) => {}
        (None, _) => {
            draft.attempt(kill(view, container, why.clone(), shared));
        }
    }
}

/// When a container is to stop.
enum Turn {
    Now,
    /// After others, or after its own preStop hook; at the deadline in any case.
    Later,
}

/// Whether it is a container's turn to stop. Sidecars come after all main containers, the last one
/// first; when time is up, everybody goes.
fn turn(
    view: &View<'_>,
    container: &ObservedContainer,
    running: &[&ObservedContainer],
    deadline: Option<Mono>,
) -> Turn {
    let Some(position) = view.specs.iter().position(|spec| spec.name == container.name) else {
        return Turn::Now;
    };
    if view.specs[position].kind != ContainerKind::Sidecar || view.is_being_killed(&container.id) {
        return Turn::Now;
    }
    if deadline.is_some_and(|deadline| deadline <= view.now.mono) {
        return Turn::Now;
    }

    let waits_for = running.iter().any(|other| {
        view.specs.iter().enumerate().any(|(place, spec)| {
            let comes_before = match spec.kind {
                ContainerKind::Main => true,
                ContainerKind::Sidecar => place > position,
                ContainerKind::Init | ContainerKind::Ephemeral => false,
            };
            spec.name == other.name && comes_before
        })
    });
    let in_hook = view.doing(&Key::PreStop(container.id.clone())).is_some();
    if waits_for || in_hook { Turn::Later } else { Turn::Now }
}

/// The preStop hook of a sidecar that waits for its turn.
fn early_pre_stop(
    view: &View<'_>,
    container: &ObservedContainer,
    deadline: Option<Mono>,
) -> Option<Action> {
    let has_hook = view.spec(&container.name).is_some_and(|spec| spec.has_pre_stop());
    let grace = own_grace(view, None, &KillReason::PodStopping);
    let deadline = deadline.unwrap_or_else(|| view.now.mono.after(grace));
    let is_due =
        has_hook && container.state.is_running() && !view.known.is_pre_stopped(&container.id);
    is_due.then(|| Action::PreStop {
        container: container.name.clone(),
        id: container.id.clone(),
        deadline,
    })
}
