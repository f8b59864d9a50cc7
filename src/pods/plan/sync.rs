//! A pod that should run: what makes it stop, its running containers, its main and ephemeral
//! containers, and the images that are pulled ahead.

use std::collections::BTreeSet;

use super::container_spec::{ContainerSpec, quoted};
use super::planner::Planner;
use super::restart;
use super::sandbox::Verdict;
use super::start::Progress;
use super::types::{Action, Key, KillReason, Notice, Transition};
use crate::model::waiting::ProbeOutcome;
use crate::model::{
    ContainerKind, ContainerState, ContainerVerdict, EventType, Mono, ObservedContainer,
    ObservedSandbox, SandboxId, Stage, TerminationCause, pod, time,
};
use crate::pods::memory::container::HookState;
use crate::status::compute::{DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_MESSAGE};

impl Planner<'_> {
    /// Plans for a pod that should run.
    pub(super) fn sync(&mut self) {
        if let Some(cause) = self.cause_to_stop() {
            if cause == TerminationCause::DeadlineExceeded {
                self.notice(Notice {
                    dedup: "deadline".into(),
                    container: None,
                    event_type: EventType::Normal,
                    reason: DEADLINE_EXCEEDED,
                    message: DEADLINE_EXCEEDED_MESSAGE.into(),
                });
            }
            self.plan.transition = Some(Transition::Terminate { cause, grace: self.pod_grace() });
            return;
        }
        if let Some(deadline) = self.active_deadline() {
            self.wake(deadline);
        }
        self.remove_leftovers();
        self.prepare_pod();
        let making = self.doing(&Key::NewSandbox).is_some();
        match self.sandbox_verdict() {
            // Whatever is observed of a sandbox that is being made is not to be relied on.
            _ if making => {
                self.wait_for_starts(Stage::Sandbox);
            }
            Verdict::Keep(_) if self.restart_all() => {}
            Verdict::Keep(sandbox) => self.keep(sandbox),
            Verdict::Replace { attempt } => self.replace_sandbox(attempt),
        }
        self.pull_ahead();
    }

    /// Why the pod must stop, if it must.
    fn cause_to_stop(&self) -> Option<TerminationCause> {
        if self.pod.metadata.deletion_timestamp.is_some() {
            return Some(TerminationCause::Deleted);
        }
        if self.facts.is_gone() {
            return Some(TerminationCause::Removed);
        }
        // A terminal phase is never left, whoever wrote it.
        if self.facts.recorded.terminal_phase.is_some() || pod::is_terminal(self.pod) {
            return Some(TerminationCause::Finished);
        }
        if self.active_deadline().is_some_and(|deadline| deadline <= self.now.mono) {
            return Some(TerminationCause::DeadlineExceeded);
        }
        self.is_finished().then_some(TerminationCause::Finished)
    }

    /// When `activeDeadlineSeconds` is over.
    fn active_deadline(&self) -> Option<Mono> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let allowed = time::seconds(seconds);
        let started = self.facts.recorded.start_time?;
        // The whole allowance is measured from here, so that a start before this process counts
        // too.
        let remaining = allowed.saturating_sub(self.now.elapsed_since(started));
        Some(self.now.mono.after(remaining))
    }

    /// Whether the pod's work is over: every main container is done for good, initialization has
    /// failed for good, or its sandbox is gone and it may not have another.
    fn is_finished(&self) -> bool {
        let starting =
            self.keys_in_flight().any(|key| matches!(key, Key::Start(_) | Key::NewSandbox));
        let mains = self.of_kind(ContainerKind::Main);
        if mains.is_empty() || starting {
            return false;
        }
        mains.iter().all(|spec| self.is_done(spec))
            || self.init_has_failed() && !mains.iter().any(|spec| self.was_created(spec.name))
            || matches!(self.sandbox_verdict(), Verdict::Replace { .. }) && !self.may_make_sandbox()
    }

    /// Plans in a good sandbox.
    fn keep(&mut self, sandbox: &ObservedSandbox) {
        self.stop_unwanted(&sandbox.id);
        for spec in self.of_kind(ContainerKind::Ephemeral) {
            // Not tied to initialization: they are there to look into pods that do not come up.
            if self.wants_start(&spec) {
                self.start(&spec, &sandbox.id, true);
            }
        }
        self.initialized = self.initialize(&sandbox.id);
        if self.initialized {
            self.run_mains(&sandbox.id);
        }
        self.resize(&sandbox.id);
    }

    /// Stops containers that run in another sandbox, and those behind a newer one of their name:
    /// whatever has become of that one, its predecessor was given up when it was made.
    fn stop_unwanted(&mut self, sandbox: &SandboxId) {
        for container in &self.observed.containers {
            if !self.may_run(container) {
                continue;
            }
            let is_newest = self
                .observed
                .latest(&container.name)
                .is_some_and(|newest| newest.id == container.id);
            if !is_newest {
                self.kill(container, KillReason::NotWanted, None);
            } else if &container.sandbox != sandbox {
                self.kill(container, KillReason::SandboxChanged, None);
            }
        }
    }

    /// Keeps the main containers running and starts those that do not, in order: one that is on its
    /// way holds the next.
    fn run_mains(&mut self, sandbox: &SandboxId) {
        let mut may_start = true;
        for spec in self.of_kind(ContainerKind::Main) {
            match self.latest_in(spec.name, sandbox) {
                Some(container) if container.state.is_running() => {
                    self.check_running(&spec, container);
                    if self.hook_is_pending(&spec, container)
                        && !self.is_being_killed(&container.id)
                    {
                        may_start = false;
                    }
                }
                latest => {
                    if let Some(container) = latest {
                        self.stop_unknown(container);
                    }
                    if self.wants_start(&spec)
                        && self.start(&spec, sandbox, may_start) == Progress::InProgress
                    {
                        if !may_start {
                            self.block_on_turn(&spec);
                        }
                        may_start = false;
                    }
                }
            }
        }
        for spec in self.of_kind(ContainerKind::Main) {
            if let Some(container) = self.latest_in(spec.name, sandbox)
                && container.state.is_running()
                && self.hook_is_pending(&spec, container)
            {
                let on = format!("the postStart hook of {}", quoted(spec.name));
                self.block_on(Stage::PostStart, on, &Key::PostStart(container.id.clone()));
            }
        }
    }

    /// Checks a running container: its definition, its probes, its postStart hook.
    pub(super) fn check_running(
        &mut self,
        spec: &ContainerSpec<'_>,
        container: &ObservedContainer,
    ) {
        if self.is_being_killed(&container.id) {
            return;
        }
        let verdict = self.facts.probes.containers.get(&container.id);
        let failed = |probe: fn(&ContainerVerdict) -> Option<ProbeOutcome>| {
            verdict.and_then(probe) == Some(ProbeOutcome::Failure)
        };
        let hook = self.known.hook(&container.id).filter(|_| spec.has_post_start());
        let why = if self.definition_changed(spec.name, container.hash) {
            KillReason::DefinitionChanged
        } else if failed(|verdict| verdict.liveness) {
            KillReason::Liveness
        } else if failed(|verdict| verdict.startup) {
            KillReason::Startup
        } else if let Some(HookState::Failed { message }) = hook {
            KillReason::PostStart { message: message.clone() }
        } else if self.needs_restart_for_resize(spec, container) {
            KillReason::Resize
        } else {
            if self.hook_is_pending(spec, container) {
                self.attempt(Action::PostStart {
                    container: spec.name.to_owned(),
                    id: container.id.clone(),
                });
            }
            return;
        };
        let why = if self.ends_the_pod(spec, &why) { KillReason::PodStopping } else { why };
        self.kill(container, why, None);
    }

    /// Whether a probe's kill leaves no main container that runs or will run: upstream then stops
    /// the pod, and says so.
    fn ends_the_pod(&self, spec: &ContainerSpec<'_>, why: &KillReason) -> bool {
        spec.kind == ContainerKind::Main
            && matches!(why, KillReason::Liveness | KillReason::Startup)
            && !restart::after_kill(spec, why)
            && self.is_ending_but_for(Some(spec.name))
    }

    /// Whether a running container's postStart hook has not ended yet.
    pub(super) fn hook_is_pending(
        &self,
        spec: &ContainerSpec<'_>,
        container: &ObservedContainer,
    ) -> bool {
        spec.has_post_start() && self.known.hook(&container.id).is_none()
    }

    /// Whether a container's startup probe has succeeded.
    pub(super) fn startup_succeeded(&self, container: &ObservedContainer) -> bool {
        let verdict = self.facts.probes.containers.get(&container.id);
        verdict.and_then(|verdict| verdict.startup) == Some(ProbeOutcome::Success)
    }

    /// Reports that a main container waits for one before it.
    fn block_on_turn(&mut self, spec: &ContainerSpec<'_>) {
        let pending = self.of_kind(ContainerKind::Main).into_iter().find_map(|before| {
            let container = self.observed.latest(before.name)?;
            (container.state.is_running() && self.hook_is_pending(&before, container))
                .then_some((before, container))
        });
        if let Some((before, container)) = pending {
            let on = format!(
                "the postStart hook of {}, before {}",
                quoted(before.name),
                quoted(spec.name)
            );
            self.block_on(Stage::PostStart, on, &Key::PostStart(container.id.clone()));
        }
    }

    /// Pulls what will be needed for containers whose turn has not come, without a word.
    ///
    /// Only where a present image would be used as it is: otherwise the pull in turn would come on
    /// top.
    fn pull_ahead(&mut self) {
        if !self.known.is_prepared() {
            return;
        }
        let mut images: BTreeSet<&str> = BTreeSet::new();
        for spec in self.specs.clone() {
            let key = Key::Image(spec.name.to_owned());
            let over = spec.kind == ContainerKind::Init && self.initialized;
            let is_new = match self.observed.latest(spec.name) {
                Some(container) => container.state == ContainerState::Created,
                None => !self.was_created(spec.name),
            };
            if over || !is_new || self.doing(&Key::Start(spec.name.to_owned())).is_some() {
                continue;
            }
            let known = !self.known.is_image_unknown(spec.name);
            // Several containers often share an image: one pull serves them all.
            let is_first = images.insert(spec.image);
            let failed = [key.clone(), Key::Start(spec.name.to_owned())];
            let is_quiet = !self.is_busy(&key)
                && !failed.iter().any(|key| self.known.failures.contains_key(key));
            if is_first
                && is_quiet
                && !known
                && spec.kind != ContainerKind::Ephemeral
                && spec.may_pull_ahead()
            {
                self.attempt(Action::EnsureImage { container: spec.name.to_owned(), silent: true });
            }
        }
    }
}
