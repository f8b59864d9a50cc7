//! All of a pod started again in its sandbox, because a container has ended in a way for which one
//! of its rules asks for that (`RestartAllContainers`, KEP-5532): everything is stopped and
//! removed, the container that asked last, and the pod then begins as if it were new. Pure.
//!
//! The container that asked is the record that this is going on. It is removed when nothing else is
//! left, so that a process that ends in between leaves enough behind for the next one to go on.

use super::container_spec::quoted;
use super::draft::Draft;
use super::kill::kill;
use super::types::{Action, Key, KillReason};
use super::view::View;
use crate::model::{ContainerKind, ObservedContainer, Stage};

/// Stops and removes everything if a container's end asks for it. Returns false when none does.
pub(super) fn restart_all(draft: &mut Draft<'_>) -> bool {
    let view = draft.view;
    if !is_restarting_all(view) {
        return false;
    }

    let starting = draft.wait_for_starts(Stage::Restart);
    let mains = of_kinds(view, &[ContainerKind::Main]);
    let inits = of_kinds(view, &[ContainerKind::Init, ContainerKind::Sidecar]);
    if kill_running(draft, &mains) || kill_running(draft, &inits) || starting {
        return true;
    }

    let (sources, victims): (Vec<_>, Vec<_>) =
        mains.into_iter().chain(inits).partition(|container| has_asked(view, container));
    for container in if victims.is_empty() { sources } else { victims } {
        draft.attempt(Action::RemoveContainer { id: container.id.clone(), reset: true });
        let on = format!("{} to be removed, before all are started again", quoted(&container.name));
        draft.block_on(Stage::Restart, on, &Key::Container(container.id.clone()));
    }
    true
}

/// Returns true if a container has ended in a way that has the whole pod started again.
pub(super) fn is_restarting_all(view: &View<'_>) -> bool {
    view.facts.config.restart_all
        && view.specs.iter().any(|spec| {
            view.observed.latest(spec.name).is_some_and(|container| has_asked(view, container))
        })
}

/// Returns true if a container has ended in a way that has the whole pod started again.
fn has_asked(view: &View<'_>, container: &ObservedContainer) -> bool {
    let Some(exit) = container.state.exit() else { return false };
    let spec = view.spec(&container.name);
    spec.is_some_and(|spec| spec.restart.restarts_all(exit.exit_code))
}

fn of_kinds<'a>(view: &View<'a>, kinds: &[ContainerKind]) -> Vec<&'a ObservedContainer> {
    let is_of_kinds = |container: &&ObservedContainer| {
        view.spec(&container.name).is_some_and(|spec| kinds.contains(&spec.kind))
    };
    view.observed.containers.iter().filter(is_of_kinds).collect()
}

/// Stops those that may run, without grace as upstream. Returns false when none does.
fn kill_running(draft: &mut Draft<'_>, containers: &[&ObservedContainer]) -> bool {
    let view = draft.view;
    let mut any = false;
    for container in containers {
        if view.is_alive(container) {
            any = true;
            draft.attempt(kill(view, container, KillReason::RestartAll, Some(view.now.mono)));
            draft.block_on_kill(Stage::Restart, &container.id, &container.name);
        }
    }
    any
}
