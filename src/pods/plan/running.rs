//! A container that runs, or may run: reasons to stop it on its own, and its postStart hook. Pure.

use super::container_spec::ContainerSpec;
use super::draft::Draft;
use super::kill::kill;
use super::resize::needs_restart;
use super::restart;
use super::types::{Action, KillReason};
use super::view::View;
use crate::model::waiting::ProbeOutcome;
use crate::model::{ContainerKind, ContainerState, ContainerVerdict, ObservedContainer, Stage};
use crate::pods::memory::container::HookState;

/// Kills a running container if its definition, its probes, its postStart hook or a resize ask for
/// that; else runs its postStart hook.
pub(super) fn check(
    draft: &mut Draft<'_>,
    spec: &ContainerSpec<'_>,
    container: &ObservedContainer,
) {
    let view = draft.view;
    if draft.is_being_killed(&container.id) {
        return;
    }

    if let Some(why) = reason_to_kill(view, spec, container) {
        draft.attempt(kill(view, container, why, None));
    } else if view.hook_is_pending(spec, container) {
        draft.attempt(Action::PostStart {
            container: spec.name.to_owned(),
            id: container.id.clone(),
        });
    }
}

/// Stops a container whose state is unknown, so that it can be started again.
pub(super) fn stop_unknown(draft: &mut Draft<'_>, container: &ObservedContainer) {
    let view = draft.view;
    if container.state == ContainerState::Unknown && view.may_run(container) {
        draft.attempt(kill(view, container, KillReason::Unknown, None));
        draft.block_on_kill(Stage::Start, &container.id, &container.name);
    }
}

/// The outcome of a container's startup probe.
pub(super) fn startup_outcome(
    view: &View<'_>,
    container: &ObservedContainer,
) -> Option<ProbeOutcome> {
    view.facts.probes.containers.get(&container.id)?.startup
}

fn reason_to_kill(
    view: &View<'_>,
    spec: &ContainerSpec<'_>,
    container: &ObservedContainer,
) -> Option<KillReason> {
    let verdict = view.facts.probes.containers.get(&container.id);
    let failed = |probe: fn(&ContainerVerdict) -> Option<ProbeOutcome>| {
        verdict.and_then(probe) == Some(ProbeOutcome::Failure)
    };
    let hook = view.known.hook(&container.id).filter(|_| spec.has_post_start());

    let why = if view.definition_changed(container) {
        KillReason::DefinitionChanged
    } else if failed(|verdict| verdict.liveness) {
        KillReason::Liveness
    } else if failed(|verdict| verdict.startup) {
        KillReason::Startup
    } else if let Some(HookState::Failed { message }) = hook {
        KillReason::PostStart { message: message.clone() }
    } else if needs_restart(view, spec, container) {
        KillReason::Resize
    } else {
        return None;
    };
    Some(if ends_the_pod(view, spec, &why) { KillReason::PodStopping } else { why })
}

/// Returns true if a probe's kill leaves no main container that runs or will run: upstream then
/// stops the pod, and says so.
fn ends_the_pod(view: &View<'_>, spec: &ContainerSpec<'_>, why: &KillReason) -> bool {
    spec.kind == ContainerKind::Main
        && matches!(why, KillReason::Liveness | KillReason::Startup)
        && !restart::after_kill(spec, why)
        && view.is_ending_but_for(Some(spec.name))
}
