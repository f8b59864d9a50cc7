//! The start of one container, from the wish to the action: back-off, the last failure, the image,
//! its turn. Pure.

use std::time::Duration;

use super::container_spec::{ContainerSpec, quoted};
use super::crash::CrashBackoff;
use super::draft::Draft;
use super::prepare::{Before, is_prepared};
use super::types::{Action, InFlightAction, Key, KillReason, Notice};
use super::view::View;
use crate::model::reason::{container as reason, event};
use crate::model::{Blocked, ContainerState, EventType, Mono, SandboxId, Stage};
use crate::pods::memory::slot::ImageState;

/// After this long, the look for an image counts as a pull.
const PULL_ANNOUNCED_AFTER: Duration = Duration::from_millis(500);

/// How often the event of a crash back-off is counted while it lasts. Upstream counts it each time
/// that it looks at the pod: at the crash, and then every 60 to 90 s.
const BACK_OFF_COUNTED_EVERY: Duration = Duration::from_secs(75);

/// How far a container is that should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// On its way: those behind it wait.
    InProgress,
    /// Held back (back-off, a failure, a missing image): those behind it go first.
    Blocked,
}

/// Brings up a container that should be started in `sandbox`. With `may_start` false only reports
/// why it waits.
pub(super) fn start(
    draft: &mut Draft<'_>,
    spec: &ContainerSpec<'_>,
    sandbox: &SandboxId,
    may_start: bool,
) -> Progress {
    let view = draft.view;
    let key = Key::Start(spec.name.to_owned());
    if draft.is_busy(&key) {
        keep_waiting_reason(draft, spec);
        draft.block_on(Stage::Start, to_be_started(spec), &key);
        return Progress::InProgress;
    }
    if view.name_is_taken(spec.name) {
        // Its predecessor is still being stopped.
        return Progress::InProgress;
    }
    if clears_never_started(draft, spec) {
        return Progress::InProgress;
    }

    if let Some(until) = CrashBackoff::of(view, spec).held_until() {
        report_crash_loop(draft, spec, until);
        return Progress::Blocked;
    }
    keep_waiting_reason(draft, spec);
    if let Some((failure, next)) = view.retry_pending(&key) {
        draft.wake(next);
        draft.wait(spec.name, &failure.reason, failure.message.clone());
        draft.block_on(Stage::Create, to_be_started(spec), &key);
        return Progress::Blocked;
    }

    if !may_start || !is_prepared(draft, Before::Container) {
        return Progress::InProgress;
    }
    start_with_image(draft, spec, sandbox)
}

/// Removes a container that was created and never started: its creator died before, or the answer
/// was lost. The one created in its place has its number, since nothing was restarted; upstream
/// counts it. Returns true while it is in the way.
fn clears_never_started(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>) -> bool {
    let view = draft.view;
    let Some(latest) = view.observed.latest(spec.name) else { return false };
    let key = Key::Container(latest.id.clone());
    if latest.state != ContainerState::Created || view.retry_pending(&key).is_some() {
        return false;
    }

    let on = format!("the removal of {}, which was made and never started", quoted(spec.name));
    draft.attempt(Action::RemoveContainer { id: latest.id.clone(), reset: false });
    draft.block_on(Stage::Start, on, &key);
    true
}

fn start_with_image(
    draft: &mut Draft<'_>,
    spec: &ContainerSpec<'_>,
    sandbox: &SandboxId,
) -> Progress {
    let view = draft.view;
    let key = Key::Image(spec.name.to_owned());
    let on = format!("image \"{}\" of {}", spec.image, quoted(spec.name));
    let ensure = Action::EnsureImage { container: spec.name.to_owned(), silent: false };
    match view.known.image(spec.name) {
        Some(ImageState::Present { image_ref }) => {
            start_now(draft, spec, sandbox, image_ref.clone());
            Progress::InProgress
        }
        Some(ImageState::Failed { message, retry_at, since, .. }) => {
            if retry_at.is_some_and(|at| at <= view.now.mono) {
                draft.attempt(ensure);
            } else if let Some(at) = retry_at {
                draft.wake(*at);
            }
            draft.block(Blocked {
                stage: Stage::Image,
                on,
                since: *since,
                last_error: Some(message.clone()),
                next_try: *retry_at,
            });
            Progress::Blocked
        }
        None => {
            if let Some(InFlightAction::Busy { silent: true, since }) = view.doing(&key) {
                announce_pull(draft, spec, since.mono.after(PULL_ANNOUNCED_AFTER));
            }
            let is_pulled = draft.attempt(ensure) || view.doing(&key).is_some();
            draft.block_on(Stage::Image, on, &key);
            if is_pulled { Progress::InProgress } else { Progress::Blocked }
        }
    }
}

/// An image is pulled ahead and its turn has come: users are told as if the pull began here. Not
/// before `due`: most of the time the pull only finds that the image is there.
fn announce_pull(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, due: Mono) {
    if draft.view.now.mono < due {
        draft.wake(due);
        return;
    }

    draft.notice(Notice {
        dedup: format!("{} {}", spec.image, draft.view.next_restart_count(spec.name)),
        container: Some(spec.name.to_owned()),
        event_type: EventType::Normal,
        reason: event::PULLING,
        message: format!("Pulling image \"{}\"", spec.image),
    });
}

fn start_now(
    draft: &mut Draft<'_>,
    spec: &ContainerSpec<'_>,
    sandbox: &SandboxId,
    image_ref: String,
) {
    let restart_count = draft.view.next_restart_count(spec.name);
    draft.attempt(Action::StartContainer {
        container: spec.name.to_owned(),
        kind: spec.kind,
        restart_count,
        sandbox: sandbox.clone(),
        image_ref,
    });
    let key = Key::Start(spec.name.to_owned());
    draft.block_on(Stage::Start, to_be_started(spec), &key);
    if let Some(raised) = CrashBackoff::of(draft.view, spec).raised(restart_count) {
        draft.store_backoff(spec.name, raised);
    }
}

fn report_crash_loop(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>, until: Mono) {
    let view = draft.view;
    draft.wake(until);
    let wait = view.known.backoff(spec.name).map(|entry| entry.wait).unwrap_or_default();
    let crash = CrashBackoff::of(view, spec);
    draft.wait(spec.name, reason::CRASH_LOOP_BACK_OFF, crash.text(wait));

    // The event is counted while the back-off lasts, so that a reader of the events sees that it
    // still does.
    let now = view.now.mono;
    let held_for = crash.ended_at().map_or(Duration::ZERO, |ended| now.since(ended));
    let counted = held_for.as_secs() / BACK_OFF_COUNTED_EVERY.as_secs();
    let next = BACK_OFF_COUNTED_EVERY
        .saturating_mul(u32::try_from(counted.saturating_add(1)).unwrap_or(u32::MAX));
    draft.wake(now.after(next.saturating_sub(held_for)));
    draft.notice(Notice {
        dedup: format!("restart {} {counted}", view.next_restart_count(spec.name)),
        container: Some(spec.name.to_owned()),
        event_type: EventType::Warning,
        reason: event::BACK_OFF,
        message: format!(
            "Back-off restarting failed container {} in pod {}",
            spec.name,
            view.pod_text()
        ),
    });

    let exit = view.last_exit(spec.name);
    let text =
        exit.map(|exit| format!("it ended with exit code {} ({})", exit.exit_code, exit.reason));
    draft.block(Blocked {
        stage: Stage::Start,
        on: format!("the back-off before {} is started again", quoted(spec.name)),
        since: exit.map_or(view.now, |exit| view.at_wall(exit.finished_at)),
        last_error: text,
        next_try: Some(until),
    });
}

/// Keeps a container's last trouble in its status while it is brought up, until it runs. Upstream's
/// reason cache does the same; without it the status would change twice within one start.
fn keep_waiting_reason(draft: &mut Draft<'_>, spec: &ContainerSpec<'_>) {
    let view = draft.view;
    if let Some(ImageState::Failed { reason, message, .. }) = view.known.image(spec.name) {
        draft.wait(spec.name, reason, message.clone());
        return;
    }
    if let Some(failure) = view.known.failures.get(&Key::Start(spec.name.to_owned())) {
        draft.wait(spec.name, &failure.reason, failure.message.clone());
        return;
    }
    if let Some(message) = failed_hook(view, spec.name) {
        draft.wait(spec.name, reason::POST_START_HOOK_ERROR, message);
    }

    let crash = CrashBackoff::of(view, spec);
    if let Some(served) = crash.served() {
        draft.wait(spec.name, reason::CRASH_LOOP_BACK_OFF, crash.text(served));
    }
}

/// The error of the postStart hook for which the newest container of a name was killed.
fn failed_hook(view: &View<'_>, name: &str) -> Option<String> {
    let latest = view.observed.latest(name)?;
    match view.known.killed(&latest.id)? {
        KillReason::PostStart { message } => Some(message.clone()),
        KillReason::PodStopping
        | KillReason::SandboxChanged
        | KillReason::DefinitionChanged
        | KillReason::Liveness
        | KillReason::Startup
        | KillReason::Unknown
        | KillReason::Resize
        | KillReason::NotWanted
        | KillReason::RestartAll => None,
    }
}

fn to_be_started(spec: &ContainerSpec<'_>) -> String {
    format!("{} to be created and started", quoted(spec.name))
}
