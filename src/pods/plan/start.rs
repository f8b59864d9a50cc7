//! The start of one container, from the wish to the action: back-off, the last failure, the image,
//! its turn.

use std::time::Duration;

use super::backoff;
use super::container_spec::{ContainerSpec, quoted};
use super::planner::Planner;
use super::types::{Action, InFlightAction, Key, KillReason, Notice};
use crate::model::observed::Exit;
use crate::model::reason::{container as reason, event};
use crate::model::{Blocked, ContainerKind, ContainerState, EventType, Mono, SandboxId, Stage};
use crate::pods::memory::slot::{Backoff, ImageState};

/// After how long a look for an image is taken for a pull.
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

impl Planner<'_> {
    /// Brings up a container that should be started in `sandbox`. With `may_start` false only says
    /// why it waits.
    pub(super) fn start(
        &mut self,
        spec: &ContainerSpec<'_>,
        sandbox: &SandboxId,
        may_start: bool,
    ) -> Progress {
        let key = Key::Start(spec.name.to_owned());
        if self.is_busy(&key) {
            self.keep_waiting_reason(spec);
            self.block_on(
                Stage::Start,
                format!("{} to be created and started", quoted(spec.name)),
                &key,
            );
            return Progress::InProgress;
        }
        if self.name_is_taken(spec.name) {
            // Its predecessor is still being stopped.
            return Progress::InProgress;
        }
        if self.clears_never_started(spec) {
            return Progress::InProgress;
        }
        if let Some(until) = self.crash_backoff_until(spec) {
            self.report_crash_loop(spec, until);
            return Progress::Blocked;
        }
        self.keep_waiting_reason(spec);
        if let Some((failure, next)) = self.retry_pending(&key) {
            self.wake(next);
            self.wait(spec.name, &failure.reason, failure.message.clone());
            self.block_on(
                Stage::Create,
                format!("{} to be created and started", quoted(spec.name)),
                &key,
            );
            return Progress::Blocked;
        }
        if !may_start {
            return Progress::InProgress;
        }
        if !self.pod_is_prepared(false) {
            return Progress::InProgress;
        }
        self.start_with_image(spec, sandbox)
    }

    /// Removes a container that was made and never started: whoever made it died before, or the
    /// answer was lost. The one made in its place has its number, since nothing was restarted;
    /// upstream counts it. True while it is in the way.
    fn clears_never_started(&mut self, spec: &ContainerSpec<'_>) -> bool {
        let Some(latest) = self.observed.latest(spec.name) else { return false };
        let key = Key::Container(latest.id.clone());
        if latest.state != ContainerState::Created || self.retry_pending(&key).is_some() {
            return false;
        }
        let on = format!("the removal of {}, which was made and never started", quoted(spec.name));
        self.attempt(Action::RemoveContainer { id: latest.id.clone(), reset: false });
        self.block_on(Stage::Start, on, &key);
        true
    }

    fn start_with_image(&mut self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> Progress {
        let key = Key::Image(spec.name.to_owned());
        let on = format!("image \"{}\" of {}", spec.image, quoted(spec.name));
        match self.known.image(spec.name) {
            Some(ImageState::Present { image_ref }) => {
                self.start_now(spec, sandbox, image_ref.clone())
            }
            Some(ImageState::Failed { message, retry_at, since, .. }) => {
                if retry_at.is_some_and(|at| at <= self.now.mono) {
                    self.attempt(Action::EnsureImage {
                        container: spec.name.to_owned(),
                        silent: false,
                    });
                } else if let Some(at) = retry_at {
                    self.wake(*at);
                }
                let last_error = Some(message.clone());
                self.block(Blocked {
                    stage: Stage::Image,
                    on,
                    since: *since,
                    last_error,
                    next_try: *retry_at,
                });
                Progress::Blocked
            }
            None => {
                if let Some(InFlightAction::Busy { silent: true, since }) = self.doing(&key) {
                    self.announce_pull(spec, since.mono.after(PULL_ANNOUNCED_AFTER));
                }
                let held = !self.attempt(Action::EnsureImage {
                    container: spec.name.to_owned(),
                    silent: false,
                }) && self.doing(&key).is_none();
                self.block_on(Stage::Image, on, &key);
                if held { Progress::Blocked } else { Progress::InProgress }
            }
        }
    }

    /// An image is pulled ahead and its turn has come: users are told as if the pull began here.
    /// Not before `due`: most of the time it is only found that the image is there.
    fn announce_pull(&mut self, spec: &ContainerSpec<'_>, due: Mono) {
        if self.now.mono < due {
            self.wake(due);
            return;
        }
        self.notice(Notice {
            dedup: format!("{} {}", spec.image, self.next_restart_count(spec.name)),
            container: Some(spec.name.to_owned()),
            event_type: EventType::Normal,
            reason: event::PULLING,
            message: format!("Pulling image \"{}\"", spec.image),
        });
    }

    fn start_now(
        &mut self,
        spec: &ContainerSpec<'_>,
        sandbox: &SandboxId,
        image_ref: String,
    ) -> Progress {
        let restart_count = self.next_restart_count(spec.name);
        let raised = self.raised_backoff(spec, restart_count);
        self.attempt(Action::StartContainer {
            container: spec.name.to_owned(),
            kind: spec.kind,
            restart_count,
            sandbox: sandbox.clone(),
            image_ref,
        });
        let key = Key::Start(spec.name.to_owned());
        self.block_on(
            Stage::Start,
            format!("{} to be created and started", quoted(spec.name)),
            &key,
        );
        if let Some(raised) = raised {
            self.plan.backoff.insert(spec.name.to_owned(), raised);
        }
        Progress::InProgress
    }

    /// The crash back-off's entry, unless it is about another definition of the container.
    fn entry(&self, name: &str) -> Option<&Backoff> {
        let changed = self
            .observed
            .latest(name)
            .is_some_and(|container| self.definition_changed(name, container.hash));
        self.known.backoff(name).filter(|_| !changed)
    }

    /// Whether a container was made from another definition than the spec's.
    pub(super) fn definition_changed(&self, name: &str, hash: u64) -> bool {
        hash != 0 && self.known.expected_hash(name).is_some_and(|expected| expected != hash)
    }

    /// Until when a container that has crashed is held back.
    fn crash_backoff_until(&self, spec: &ContainerSpec<'_>) -> Option<Mono> {
        let entry = self.entry(spec.name)?;
        // The start that this entry was raised for has been tried already; its failures have a
        // cadence of their own.
        if entry.restart_count >= self.next_restart_count(spec.name) {
            return None;
        }
        backoff::held_until(Some(entry), self.crash_counted_from(spec)?, self.now.mono)
    }

    /// The back-off to be stored together with the start.
    fn raised_backoff(&self, spec: &ContainerSpec<'_>, restart_count: u32) -> Option<Backoff> {
        let ended = self.crash_counted_from(spec)?;
        let entry = self.entry(spec.name);
        if entry.is_some_and(|entry| entry.restart_count >= restart_count) {
            return None;
        }
        let max = backoff::maximum(self.facts.config.max_backoff);
        Some(backoff::raised(entry, ended, self.now.mono, restart_count, max))
    }

    /// The end that the crash back-off counts from; `None` where there was no crash.
    ///
    /// One that was stopped in order to be replaced has not crashed. One that a probe killed is
    /// restarted at once as long as it ran longer than the back-off: upstream decides before the
    /// kill, when it only knows of the end before.
    fn crash_counted_from(&self, spec: &ContainerSpec<'_>) -> Option<Mono> {
        let own = self.ended_at(spec)?;
        let Some(latest) = self.observed.latest(spec.name) else {
            // An init container without a trace was removed for a new sandbox.
            return (spec.kind == ContainerKind::Main).then_some(own);
        };
        match self.known.killed(&latest.id) {
            None | Some(KillReason::PodStopping | KillReason::PostStart { .. }) => Some(own),
            Some(
                KillReason::SandboxChanged
                | KillReason::DefinitionChanged
                | KillReason::Unknown
                | KillReason::Resize
                | KillReason::NotWanted
                | KillReason::RestartAll,
            ) => None,
            Some(KillReason::Liveness | KillReason::Startup) => {
                let before = self.end_before(spec.name)?;
                let entry = self.entry(spec.name);
                Some(if backoff::held_until(entry, before, own).is_some() { own } else { before })
            }
        }
    }

    /// When the newest container of that name ended. A runtime that lost the time gets the time of
    /// creation.
    fn ended_at(&self, spec: &ContainerSpec<'_>) -> Option<Mono> {
        let exit = self.last_exit(spec.name)?;
        let created = self.observed.latest(spec.name).map(|container| container.created_at);
        Some(self.mono_at_wall(
            created.map_or(exit.finished_at, |created| exit.finished_at.max(created)),
        ))
    }

    /// When the container before the newest one of that name ended.
    fn end_before(&self, name: &str) -> Option<Mono> {
        let mut ended = self.observed.containers.iter().filter(|container| container.name == name);
        let latest = ended.next()?;
        let observed: Option<&Exit> = ended.find_map(|container| container.state.exit());
        let remembered =
            self.known.remembered(name).filter(|seen| seen.restart_count < latest.restart_count);
        let exit = observed.or_else(|| remembered?.exit.as_ref())?;
        Some(self.mono_at_wall(exit.finished_at))
    }

    fn report_crash_loop(&mut self, spec: &ContainerSpec<'_>, until: Mono) {
        self.wake(until);
        let wait = self.known.backoff(spec.name).map(|entry| entry.wait).unwrap_or_default();
        self.wait(spec.name, reason::CRASH_LOOP_BACK_OFF, self.crash_text(spec, wait));

        // The event is counted while the back-off lasts, so that a reader of the events sees that
        // it still does.
        let held_for = self.ended_at(spec).map_or(Duration::ZERO, |at| self.now.mono.since(at));
        let counted = held_for.as_secs() / BACK_OFF_COUNTED_EVERY.as_secs();
        let next = BACK_OFF_COUNTED_EVERY
            .saturating_mul(u32::try_from(counted.saturating_add(1)).unwrap_or(u32::MAX));
        self.wake(self.now.mono.after(next.saturating_sub(held_for)));
        self.notice(Notice {
            dedup: format!("restart {} {counted}", self.next_restart_count(spec.name)),
            container: Some(spec.name.to_owned()),
            event_type: EventType::Warning,
            reason: event::BACK_OFF,
            message: format!(
                "Back-off restarting failed container {} in pod {}",
                spec.name,
                self.pod_text()
            ),
        });
        let exit = self.last_exit(spec.name);
        self.block(Blocked {
            stage: Stage::Start,
            on: format!("the back-off before {} is started again", quoted(spec.name)),
            since: exit.map_or(self.now, |exit| self.at_wall(exit.finished_at)),
            last_error: exit.map(|exit| {
                format!("it ended with exit code {} ({})", exit.exit_code, exit.reason)
            }),
            next_try: Some(until),
        });
    }

    fn crash_text(&self, spec: &ContainerSpec<'_>, wait: Duration) -> String {
        let wait = backoff::go_text(wait);
        format!("back-off {wait} restarting failed container={} pod={}", spec.name, self.pod_text())
    }

    /// What a container's status says while it is brought up: its last trouble, until it runs.
    /// Upstream's reason cache does the same; without it the status would change twice within one
    /// start.
    fn keep_waiting_reason(&mut self, spec: &ContainerSpec<'_>) {
        if let Some(ImageState::Failed { reason, message, .. }) = self.known.image(spec.name) {
            self.wait(spec.name, reason, message.clone());
            return;
        }
        if let Some(failure) = self.known.failures.get(&Key::Start(spec.name.to_owned())) {
            self.wait(spec.name, &failure.reason, failure.message.clone());
            return;
        }
        if let Some(message) = self.failed_hook(spec.name) {
            self.wait(spec.name, reason::POST_START_HOOK_ERROR, message);
        }

        let max = backoff::maximum(self.facts.config.max_backoff);
        let Some(entry) = self.entry(spec.name) else { return };
        if self.last_exit(spec.name).is_none() {
            return;
        }
        let is_raised_for_this = entry.restart_count >= self.next_restart_count(spec.name);
        let served = match (is_raised_for_this, self.crash_counted_from(spec)) {
            // Raised when the start began: what was served is the step before. The first restart is
            // immediate.
            (true, _) if entry.wait > backoff::initial(max) => {
                if entry.wait >= max {
                    max
                } else {
                    entry.wait / 2
                }
            }
            (false, Some(ended)) if backoff::held_until(Some(entry), ended, ended).is_some() => {
                entry.wait
            }
            (_, _) => return,
        };
        self.wait(spec.name, reason::CRASH_LOOP_BACK_OFF, self.crash_text(spec, served));
    }

    /// The error of the postStart hook for which the newest container of that name was killed.
    fn failed_hook(&self, name: &str) -> Option<String> {
        let latest = self.observed.latest(name)?;
        match self.known.killed(&latest.id)? {
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
}
