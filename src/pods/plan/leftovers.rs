//! What has ended and is of no more use: containers behind the newest dead one of their name,
//! sandboxes behind the newest (upstream's pod container deletor and garbage collector, which run
//! on a timer; here it is part of the plan). Pure.

use std::collections::BTreeMap;

use super::types::Action;
use super::view::View;
use crate::model::{ContainerState, ObservedContainer, SandboxId, SandboxState};

/// Removes dead containers and old sandboxes that nothing needs. Kept are, per name, the newest
/// container and the newest that has ended (`kubectl logs --previous`, `lastState`), and the newest
/// sandbox.
pub(super) fn behind_the_newest(view: &View<'_>) -> Vec<Action> {
    let mut by_name: BTreeMap<&str, Vec<&ObservedContainer>> = BTreeMap::new();
    for container in &view.observed.containers {
        by_name.entry(&container.name).or_default().push(container);
    }

    let mut actions = Vec::new();
    for twins in by_name.values() {
        let last_ended = twins.iter().position(|container| container.state.exit().is_some());
        for (age, container) in twins.iter().enumerate().skip(1) {
            if Some(age) != last_ended && !view.is_alive(container) {
                actions.push(remove_container(container));
            }
        }
    }

    for sandbox in view.observed.sandboxes.iter().skip(1) {
        // A ready one beside the newest means that the pod's sandbox is replaced: not a leftover
        // yet.
        if sandbox.state == SandboxState::NotReady && !view.holds_containers(&sandbox.id) {
            actions.push(remove_sandbox(view, &sandbox.id));
        }
    }
    actions
}

/// Removes everything that has ended, once the object is gone: containers with their logs, then
/// their sandboxes.
pub(super) fn everything(view: &View<'_>) -> Vec<Action> {
    let is_over = |container: &&ObservedContainer| match container.state {
        ContainerState::Running { .. } => false,
        ContainerState::Unknown => !view.may_run(container),
        ContainerState::Created | ContainerState::Exited(_) => true,
    };
    let containers = view.observed.containers.iter().filter(is_over).map(remove_container);

    let empty = view.observed.sandboxes.iter();
    let empty = empty.filter(|sandbox| !view.holds_containers(&sandbox.id));
    let sandboxes = empty.map(|sandbox| remove_sandbox(view, &sandbox.id));
    containers.chain(sandboxes).collect()
}

fn remove_container(container: &ObservedContainer) -> Action {
    Action::RemoveContainer { id: container.id.clone(), reset: false }
}

fn remove_sandbox(view: &View<'_>, id: &SandboxId) -> Action {
    // One that died by itself may still hold its address: it is stopped before it is removed.
    if view.known.stopped.contains(id) {
        Action::RemoveSandbox { id: id.clone() }
    } else {
        Action::StopSandbox { id: id.clone() }
    }
}
