//! A resize in place (KEP-1287): running containers are given other amounts of CPU and memory
//! without a restart, unless their resize policy asks for one. The pod's cgroup goes with them.
//! Pure.

use super::container_spec::ContainerSpec;
use super::draft::Draft;
use super::types::{Action, Key, KillReason, Resizing};
use super::view::View;
use crate::model::{ContainerState, ObservedContainer, SandboxId, Stage};
use crate::pods::memory::slot::ImageState;
use crate::resources::allocation;

/// Brings the running containers and the pod's cgroup to the resources of the spec. A container
/// that is about to be replaced gets them with its next start. Without a sandbox nothing runs, and
/// the cgroup is all there is.
pub(super) fn resize(draft: &mut Draft<'_>, sandbox: Option<&SandboxId>) {
    if !is_resizable(draft) {
        return;
    }

    let view = draft.view;
    let containers = view.observed.containers.iter();
    let given = containers
        .filter(|container| container.state.is_running())
        .filter_map(|container| Some((container.id.clone(), *view.known.given(&container.id)?)))
        .collect();
    draft.attempt(Action::Resize { sandbox: sandbox.cloned(), given });
    let on = match sandbox {
        Some(_) => "its containers to be given other resources",
        None => "the pod's cgroup to be given other resources",
    };
    draft.block_on(Stage::Resize, on.to_owned(), &Key::Resize);
}

/// Returns how far a resize of the pod is.
pub(super) fn resizing(draft: &Draft<'_>) -> Resizing {
    let view = draft.view;
    let any = |holds: &dyn Fn(&ContainerSpec<'_>, &ObservedContainer) -> bool| {
        view.specs.iter().any(|spec| {
            latest_started(view, spec.name).is_some_and(|container| holds(spec, container))
        })
    };
    let is_stopping = view.lifecycle.is_stopping();

    let is_wanted = |spec: &ContainerSpec<'_>, container: &ObservedContainer| {
        !was_stopped(view, container) && needs_restart(view, spec, container)
    };
    if is_resizable(draft) || !is_stopping && any(&is_wanted) {
        return Resizing::Wanted;
    }
    let is_restarting = |spec: &ContainerSpec<'_>, container: &ObservedContainer| {
        was_stopped(view, container) && !has_failed_to_start(view, spec)
    };
    if !is_stopping && any(&is_restarting) { Resizing::Restarting } else { Resizing::Over }
}

/// Returns the newest container of a name that has been started: one that is only created has not
/// taken the place of the one before it yet.
fn latest_started<'a>(view: &View<'a>, name: &str) -> Option<&'a ObservedContainer> {
    let mut twins = view.observed.containers.iter().filter(|container| container.name == name);
    twins.find(|container| container.state != ContainerState::Created)
}

/// Returns true if a container is or was stopped in order to be started anew with other resources.
fn was_stopped(view: &View<'_>, container: &ObservedContainer) -> bool {
    let known = view.known.containers.get(&container.id);
    known.and_then(|known| known.stop.reason()) == Some(&KillReason::Resize)
}

/// Returns true if the start of a container has failed. The resize that it is started for is over
/// then, as with upstream: a container that does not run has no other resources.
fn has_failed_to_start(view: &View<'_>, spec: &ContainerSpec<'_>) -> bool {
    let start = Key::Start(spec.name.to_owned());
    view.known.failures.contains_key(&start)
        || matches!(view.known.image(spec.name), Some(ImageState::Failed { .. }))
}

/// Returns true if the pod's cgroup or a running container is to be resized without a restart.
fn is_resizable(draft: &Draft<'_>) -> bool {
    let view = draft.view;
    view.known.cgroup.is_outdated()
        || view.specs.iter().any(|spec| {
            let latest = view.observed.latest(spec.name);
            latest.is_some_and(|container| is_container_resizing(draft, spec, container))
        })
}

/// Returns true if the pod's cgroup is about to be resized. A resize that has failed is not waited
/// for, as with upstream: it may fail for as long as a container uses more than its new limit.
pub(super) fn expects_cgroup_resize(view: &View<'_>) -> bool {
    view.known.cgroup.is_outdated() && !view.known.failures.contains_key(&Key::Resize)
}

/// Returns true if a running container is to be resized without a restart.
fn is_container_resizing(
    draft: &Draft<'_>,
    spec: &ContainerSpec<'_>,
    container: &ObservedContainer,
) -> bool {
    let has = draft.view.known.given(&container.id);
    container.state.is_running()
        && !draft.is_being_killed(&container.id)
        && !needs_restart(draft.view, spec, container)
        && has.is_some_and(|has| *has != spec.requirements)
}

/// Returns true if a running container has to be started anew to be given the resources of its
/// spec.
pub(super) fn needs_restart(
    view: &View<'_>,
    spec: &ContainerSpec<'_>,
    container: &ObservedContainer,
) -> bool {
    let ContainerState::Running { .. } = container.state else { return false };
    let Some(has) = view.known.given(&container.id) else { return false };
    allocation::needs_restart(spec.resize_policy, *has, spec.requirements)
}
