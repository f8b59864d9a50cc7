//! What has ended and is of no more use: containers behind the newest dead one of their name,
//! sandboxes behind the newest (upstream's pod container deletor and garbage collector, which run
//! on a timer; here it is part of the plan). Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::types::Action;
use super::view::View;
use crate::model::{ContainerId, ContainerState, ObservedContainer, SandboxId, SandboxState};

/// Removes dead containers and old sandboxes that nothing needs. Kept are, per name, the newest
/// container and the newest that have ended (`kubectl logs --previous`, `lastState`; how many is a
/// setting, one by default), and the newest sandbox. Of those that the node wants removed, the
/// newest of a name stays while the pod may start it again.
pub(super) fn behind_the_newest(view: &View<'_>) -> Vec<Action> {
    let mut by_name: BTreeMap<&str, Vec<&ObservedContainer>> = BTreeMap::new();
    for container in &view.observed.containers {
        by_name.entry(&container.name).or_default().push(container);
    }

    let mut actions = Vec::new();
    for twins in by_name.values() {
        let ended = twins.iter().filter(|container| container.state.exit().is_some());
        let kept: BTreeSet<&ContainerId> =
            ended.take(view.facts.config.dead_kept.max(1)).map(|container| &container.id).collect();
        for container in twins.iter().skip(1) {
            let stays = kept.contains(&container.id) && !view.facts.collect.contains(&container.id);
            if !stays && !view.is_alive(container) {
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

/// Removes the containers that the node wants removed from a pod that is over, and then the
/// sandboxes that they leave empty. The status of the pod is what it was.
pub(super) fn wanted_by_node(view: &View<'_>) -> Vec<Action> {
    let wanted = &view.facts.collect;
    if wanted.is_empty() {
        return Vec::new();
    }
    everything(view)
        .into_iter()
        .filter(
            |action| !matches!(action, Action::RemoveContainer { id, .. } if !wanted.contains(id)),
        )
        .collect()
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
