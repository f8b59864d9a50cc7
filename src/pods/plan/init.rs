//! Initialization: init containers in order, each ended before the next begins; sidecars in
//! between, each started before the next begins, then kept running. Pure.

use super::container_spec::{ContainerSpec, quoted};
use super::draft::Draft;
use super::restart;
use super::running::{check, startup_outcome, stop_unknown};
use super::sandbox::{Verdict, verdict};
use super::start::start;
use super::types::Key;
use super::view::View;
use crate::model::waiting::ProbeOutcome;
use crate::model::{
    ContainerKind, ContainerState, ObservedSandbox, RestartPolicy, SandboxId, Stage,
};

/// Carries initialization on in `sandbox`. Returns true once main containers may start.
///
/// Progress is read off the newest init container that this sandbox has seen (upstream reads it the
/// same way): those before it were through, whether or not the runtime still has them. A main
/// container in this sandbox means that initialization was over; its sidecars are kept running, and
/// nothing waits for them any more.
pub(super) fn initialize(draft: &mut Draft<'_>, sandbox: &SandboxId) -> bool {
    let view = draft.view;
    let specs = initializing(view);
    let mains = view.of_kind(ContainerKind::Main);
    if mains.iter().any(|spec| has_begun(view, spec, sandbox)) {
        keep_sidecars(draft, &specs, sandbox);
        return true;
    }

    let Some(newest) = specs.iter().rposition(|spec| has_begun(view, spec, sandbox)) else {
        return start_next(draft, specs.first(), sandbox);
    };
    for spec in specs.iter().take(newest) {
        if spec.kind == ContainerKind::Sidecar {
            keep_running(draft, spec, sandbox);
        }
    }
    is_through(draft, specs[newest], sandbox) && start_next(draft, specs.get(newest + 1), sandbox)
}

/// The init containers and sidecars, in spec order.
fn initializing<'a>(view: &'a View<'a>) -> Vec<&'a ContainerSpec<'a>> {
    let is_init = |spec: &&ContainerSpec<'_>| {
        matches!(spec.kind, ContainerKind::Init | ContainerKind::Sidecar)
    };
    view.specs.iter().filter(is_init).collect()
}

/// Returns true if the init container whose turn it is was lost: its state is unknown, and its
/// policy has it not run again. The pod has failed then, as with upstream; rules do not count,
/// since there is no exit code.
pub(super) fn is_lost(view: &View<'_>) -> bool {
    let Verdict::Keep(ObservedSandbox { id: sandbox, .. }) = verdict(view) else { return false };
    let mains = view.of_kind(ContainerKind::Main);
    if mains.iter().any(|spec| has_begun(view, spec, sandbox)) {
        return false;
    }

    let specs = initializing(view);
    let Some(newest) = specs.iter().rfind(|spec| has_begun(view, spec, sandbox)) else {
        return false;
    };
    let latest = view.latest_in(newest.name, sandbox);
    newest.kind == ContainerKind::Init
        && newest.restart.policy() == RestartPolicy::Never
        && latest.is_some_and(|container| container.state == ContainerState::Unknown)
}

/// Starts the next init container. Returns true if there is none.
fn start_next(
    draft: &mut Draft<'_>,
    next: Option<&&ContainerSpec<'_>>,
    sandbox: &SandboxId,
) -> bool {
    match next {
        Some(next) => {
            start(draft, next, sandbox, true);
            false
        }
        None => true,
    }
}

/// Keeps the sidecars running after initialization. One that has ended is not started again while
/// the last main containers end (upstream starts nothing while it stops a container).
fn keep_sidecars(draft: &mut Draft<'_>, specs: &[&ContainerSpec<'_>], sandbox: &SandboxId) {
    let view = draft.view;
    let is_ending = view.is_ending_but_for(None);
    for spec in specs.iter().filter(|spec| spec.kind == ContainerKind::Sidecar) {
        let latest = view.latest_in(spec.name, sandbox);
        let runs = latest.is_some_and(|container| container.state.is_running());
        if runs || !is_ending {
            keep_running(draft, spec, sandbox);
        }
    }
}

/// Returns true if a container was begun in `sandbox`: it is there, is being made, or is recorded
/// as done.
fn has_begun(view: &View<'_>, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
    view.latest_in(spec.name, sandbox).is_some()
        || view.doing(&Key::Start(spec.name.to_owned())).is_some()
        || is_recorded_done(view, spec, sandbox)
}

/// Returns true if the API knew the init container as done when this process adopted the pod with
/// this sandbox.
fn is_recorded_done(view: &View<'_>, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
    let recorded = &view.facts.recorded;
    spec.kind == ContainerKind::Init
        && recorded.sandbox.as_ref() == Some(sandbox)
        && recorded.init_done.iter().any(|name| name == spec.name)
}

/// Carries the newest init container on. Returns true when the next may begin.
fn is_through(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
    match spec.kind {
        ContainerKind::Sidecar => {
            keep_running(draft, spec, sandbox) && is_started(draft, spec, sandbox)
        }
        ContainerKind::Init | ContainerKind::Main | ContainerKind::Ephemeral => {
            is_init_through(draft, spec, sandbox)
        }
    }
}

fn is_init_through(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
    let view = draft.view;
    let Some(container) = view.latest_in(spec.name, sandbox) else {
        if is_recorded_done(view, spec, sandbox) {
            return true;
        }
        start(draft, spec, sandbox, true);
        return false;
    };

    match &container.state {
        ContainerState::Exited(exit) if !restart::init_failed(exit) => return true,
        ContainerState::Running { started_at } => {
            let on = format!("init {} to finish", quoted(spec.name));
            draft.block_since(Stage::Init, on, view.at_wall(*started_at));
            return false;
        }
        ContainerState::Unknown => stop_unknown(draft, container),
        ContainerState::Created | ContainerState::Exited(_) => {}
    }
    // One that has failed for good never gets here: the pod is over.
    if view.wants_start(spec) {
        start(draft, spec, sandbox, true);
    }
    false
}

/// Keeps a sidecar running. Returns true while it runs.
fn keep_running(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
    let view = draft.view;
    match view.latest_in(spec.name, sandbox) {
        Some(container) if container.state.is_running() => {
            check(draft, spec, container);
            !draft.is_being_killed(&container.id)
        }
        latest => {
            if let Some(container) = latest {
                stop_unknown(draft, container);
            }
            if view.wants_start(spec) {
                start(draft, spec, sandbox, true);
            }
            false
        }
    }
}

/// Returns true if a running sidecar counts as started: its postStart hook has ended and its
/// startup probe has succeeded.
fn is_started(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
    let view = draft.view;
    let Some(container) = view.latest_in(spec.name, sandbox) else { return false };
    if view.hook_is_pending(spec, container) {
        let on = format!("the postStart hook of sidecar {}", quoted(spec.name));
        draft.block_on(Stage::PostStart, on, &Key::PostStart(container.id.clone()));
        return false;
    }

    let has_succeeded = startup_outcome(view, container) == Some(ProbeOutcome::Success);
    let started = !spec.has_startup_probe() || has_succeeded;
    if !started {
        let since = match &container.state {
            ContainerState::Running { started_at } => view.at_wall(*started_at),
            ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown => {
                view.now
            }
        };
        let on = format!("the startup probe of sidecar {}", quoted(spec.name));
        draft.block_since(Stage::Init, on, since);
    }
    started
}
