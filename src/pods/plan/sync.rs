//! A pod that should run: what makes it stop, its containers in a good sandbox, and the images that
//! are pulled ahead. Pure.

use std::collections::BTreeSet;

use super::container_spec::{ContainerSpec, quoted};
use super::draft::Draft;
use super::init::{initialize, is_lost};
use super::kill::{kill, pod_grace};
use super::leftovers;
use super::prepare::prepare;
use super::resize::resize;
use super::restart_all::{is_restarting_all, restart_all};
use super::running::{check, stop_unknown};
use super::sandbox::{self, Verdict};
use super::start::{Progress, start};
use super::types::{Action, Key, KillReason, Notice, Transition};
use super::view::View;
use crate::model::{
    ContainerKind, ContainerState, EventType, Mono, SandboxId, Stage, TerminationCause, pod, time,
};
use crate::status::compute::{DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_MESSAGE};

/// Plans for a pod that should run.
pub(super) fn sync(draft: &mut Draft<'_>) {
    let view = draft.view;
    if let Some(cause) = cause_to_stop(view) {
        if cause == TerminationCause::DeadlineExceeded {
            draft.notice(Notice {
                dedup: "deadline".into(),
                container: None,
                event_type: EventType::Normal,
                reason: DEADLINE_EXCEEDED,
                message: DEADLINE_EXCEEDED_MESSAGE.into(),
            });
        }
        draft.transition(Transition::Terminate { cause, grace: pod_grace(view) });
        return;
    }
    if let Some(deadline) = active_deadline(view) {
        draft.wake(deadline);
    }

    draft.attempt_all(leftovers::behind_the_newest(view));
    draft.attempt_all(prepare(view));
    let is_making = view.doing(&Key::NewSandbox).is_some();
    let mut is_initialized = false;
    match sandbox::verdict(view) {
        // Whatever is observed of a sandbox that is being made is not to be relied on.
        _ if is_making => {
            draft.wait_for_starts(Stage::Sandbox);
        }
        Verdict::Keep(_) if restart_all(draft) => {}
        Verdict::Keep(sandbox) => is_initialized = keep(draft, &sandbox.id),
        Verdict::Replace { attempt } => sandbox::replace(draft, attempt),
    }
    draft.attempt_all(pull_ahead(view, is_initialized));
}

/// Returns why the pod must stop, if it must.
fn cause_to_stop(view: &View<'_>) -> Option<TerminationCause> {
    if view.pod.metadata.deletion_timestamp.is_some() {
        return Some(TerminationCause::Deleted);
    }
    if view.facts.is_gone() {
        return Some(TerminationCause::Removed);
    }
    // A terminal phase is never left, whoever wrote it.
    if view.facts.recorded.terminal_phase.is_some() || pod::is_terminal(view.pod) {
        return Some(TerminationCause::Finished);
    }
    if active_deadline(view).is_some_and(|deadline| deadline <= view.now.mono) {
        return Some(TerminationCause::DeadlineExceeded);
    }
    is_finished(view).then_some(TerminationCause::Finished)
}

/// The moment at which `activeDeadlineSeconds` is over.
fn active_deadline(view: &View<'_>) -> Option<Mono> {
    let seconds = view.pod.spec.as_ref()?.active_deadline_seconds?;
    let allowed = time::seconds(seconds);
    let started = view.facts.recorded.start_time?;
    // The whole allowance is measured from here, so that a start before this process counts too.
    let remaining = allowed.saturating_sub(view.now.elapsed_since(started));
    Some(view.now.mono.after(remaining))
}

/// Returns true if the pod's work is over: every main container is done for good, initialization
/// has failed for good or was lost, or its sandbox is gone and it may not have another.
fn is_finished(view: &View<'_>) -> bool {
    let is_starting =
        view.keys_in_flight().any(|key| matches!(key, Key::Start(_) | Key::NewSandbox));
    let mains = view.of_kind(ContainerKind::Main);
    if mains.is_empty() || is_starting {
        return false;
    }

    let has_no_sandbox = matches!(sandbox::verdict(view), Verdict::Replace { .. });
    if !has_no_sandbox && is_restarting_all(view) {
        // The main containers that are stopped for it will run again.
        return false;
    }

    mains.iter().all(|spec| view.is_done(spec))
        || is_lost(view)
        || view.init_has_failed() && !mains.iter().any(|spec| view.was_created(spec.name))
        || has_no_sandbox && !sandbox::may_be_created(view)
}

/// Plans in a good sandbox. Returns whether initialization is over.
fn keep(draft: &mut Draft<'_>, sandbox: &SandboxId) -> bool {
    let view = draft.view;
    draft.attempt_all(stop_unwanted(view, sandbox));
    for spec in view.of_kind(ContainerKind::Ephemeral) {
        // Not tied to initialization: they are there to look into pods that do not come up.
        if view.wants_start(&spec) {
            start(draft, &spec, sandbox, true);
        }
    }

    let is_initialized = initialize(draft, sandbox);
    if is_initialized {
        run_mains(draft, sandbox);
    }
    resize(draft, Some(sandbox));
    is_initialized
}

/// Stops containers that run in another sandbox, and those behind a newer one of their name:
/// whatever has become of that one, its predecessor was given up when it was made.
fn stop_unwanted(view: &View<'_>, sandbox: &SandboxId) -> Vec<Action> {
    let mut actions = Vec::new();
    for container in view.observed.containers.iter().filter(|container| view.may_run(container)) {
        let newest = view.observed.latest(&container.name);
        if newest.is_none_or(|newest| newest.id != container.id) {
            actions.push(kill(view, container, KillReason::NotWanted, None));
        } else if &container.sandbox != sandbox {
            actions.push(kill(view, container, KillReason::SandboxChanged, None));
        }
    }
    actions
}

/// Keeps the main containers running and starts those that do not, in order: one that is on its way
/// holds the next.
fn run_mains(draft: &mut Draft<'_>, sandbox: &SandboxId) {
    let view = draft.view;
    let mains = view.of_kind(ContainerKind::Main);
    let mut may_start = true;
    for spec in &mains {
        match view.latest_in(spec.name, sandbox) {
            Some(container) if container.state.is_running() => {
                check(draft, spec, container);
                if view.hook_is_pending(spec, container) && !draft.is_being_killed(&container.id) {
                    may_start = false;
                }
            }
            latest => {
                if let Some(container) = latest {
                    stop_unknown(draft, container);
                }
                if view.wants_start(spec)
                    && start(draft, spec, sandbox, may_start) == Progress::InProgress
                {
                    if !may_start {
                        block_on_turn(draft, spec);
                    }
                    may_start = false;
                }
            }
        }
    }

    for spec in &mains {
        if let Some(container) = view.latest_in(spec.name, sandbox)
            && container.state.is_running()
            && view.hook_is_pending(spec, container)
        {
            let on = format!("the postStart hook of {}", quoted(spec.name));
            draft.block_on(Stage::PostStart, on, &Key::PostStart(container.id.clone()));
        }
    }
}

/// Reports that a main container waits for the hook of one before it.
fn block_on_turn(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>) {
    let view = draft.view;
    let pending = view.of_kind(ContainerKind::Main).into_iter().find_map(|before| {
        let container = view.observed.latest(before.name)?;
        let is_pending = container.state.is_running() && view.hook_is_pending(&before, container);
        is_pending.then_some((before, container))
    });
    if let Some((before, container)) = pending {
        let on =
            format!("the postStart hook of {}, before {}", quoted(before.name), quoted(spec.name));
        draft.block_on(Stage::PostStart, on, &Key::PostStart(container.id.clone()));
    }
}

/// Pulls the images of containers whose turn has not come, silently.
///
/// Only where a present image would be used as it is: otherwise the pull in turn would come on top.
fn pull_ahead(view: &View<'_>, is_initialized: bool) -> Vec<Action> {
    let mut actions = Vec::new();
    if !view.known.is_prepared() {
        return actions;
    }

    let mut images: BTreeSet<&str> = BTreeSet::new();
    for spec in &view.specs {
        let start = Key::Start(spec.name.to_owned());
        let is_over = spec.kind == ContainerKind::Init && is_initialized;
        let is_new = match view.observed.latest(spec.name) {
            Some(container) => container.state == ContainerState::Created,
            None => !view.was_created(spec.name),
        };
        if is_over || !is_new || view.doing(&start).is_some() {
            continue;
        }

        // Several containers often share an image: one pull serves them all.
        let is_first = images.insert(spec.image);
        let failures = &view.known.failures;
        let has_failed = failures.contains_key(&start)
            || failures.contains_key(&Key::Image(spec.name.to_owned()));
        if is_first
            && !has_failed
            && view.known.is_image_unknown(spec.name)
            && spec.kind != ContainerKind::Ephemeral
            && spec.may_pull_ahead()
        {
            let container = spec.name.to_owned();
            actions.push(Action::EnsureImage { container, silent: true });
        }
    }
    actions
}
