//! Initialization: init containers in order, each ended before the next begins; sidecars in
//! between, each started before the next begins, then kept running.

use super::container_spec::{ContainerSpec, quoted};
use super::planner::Planner;
use super::restart;
use super::sandbox::Verdict;
use super::types::{Key, KillReason};
use crate::model::{
    Blocked, ContainerKind, ContainerState, ObservedContainer, ObservedSandbox, RestartPolicy,
    SandboxId, Stage,
};

impl<'a> Planner<'a> {
    /// Carries initialization on in `sandbox`; true once main containers may start.
    ///
    /// Progress is read off the newest init container that this sandbox has seen (upstream reads it
    /// the same way): those before it were through, whether or not the runtime still has them. A
    /// main container in this sandbox means that initialization was over; its sidecars are kept
    /// running, and nothing waits for them any more.
    pub(super) fn initialize(&mut self, sandbox: &SandboxId) -> bool {
        let specs = self.initializing();
        let mains_began =
            self.of_kind(ContainerKind::Main).iter().any(|spec| self.has_begun(spec, sandbox));
        if mains_began {
            let is_ending = self.is_ending();
            for spec in specs.iter().filter(|spec| spec.kind == ContainerKind::Sidecar) {
                let runs = self
                    .latest_in(spec.name, sandbox)
                    .is_some_and(|container| container.state.is_running());
                if runs || !is_ending {
                    self.keep_running(spec, sandbox);
                }
            }
            return true;
        }
        let Some(newest) = specs.iter().rposition(|spec| self.has_begun(spec, sandbox)) else {
            return match specs.first() {
                Some(first) => {
                    self.start(first, sandbox, true);
                    false
                }
                None => true,
            };
        };
        for spec in specs.iter().take(newest) {
            if spec.kind == ContainerKind::Sidecar {
                self.keep_running(spec, sandbox);
            }
        }
        if !self.is_through(&specs[newest], sandbox) {
            return false;
        }
        match specs.get(newest + 1) {
            Some(next) => {
                self.start(next, sandbox, true);
                false
            }
            None => true,
        }
    }

    /// The init containers and sidecars, in spec order.
    fn initializing(&self) -> Vec<ContainerSpec<'a>> {
        self.specs
            .iter()
            .filter(|spec| matches!(spec.kind, ContainerKind::Init | ContainerKind::Sidecar))
            .copied()
            .collect()
    }

    /// Whether the init container whose turn it is has got lost: its state is unknown, and its
    /// policy has it not run again. The pod has failed then, as with upstream; rules do not count,
    /// since there is no exit code.
    pub(super) fn init_is_lost(&self) -> bool {
        let Verdict::Keep(ObservedSandbox { id: sandbox, .. }) = self.sandbox_verdict() else {
            return false;
        };
        if self.of_kind(ContainerKind::Main).iter().any(|spec| self.has_begun(spec, sandbox)) {
            return false;
        }
        let specs = self.initializing();
        let newest = specs.iter().rfind(|spec| self.has_begun(spec, sandbox));
        newest.is_some_and(|spec| {
            spec.kind == ContainerKind::Init
                && spec.restart.policy() == RestartPolicy::Never
                && self
                    .latest_in(spec.name, sandbox)
                    .is_some_and(|container| container.state == ContainerState::Unknown)
        })
    }

    /// Whether no main container will run any more: each is done for good, or is being stopped and
    /// stays so. A sidecar that has ended is then not started again (upstream starts nothing while
    /// it stops a container).
    fn is_ending(&self) -> bool {
        self.is_ending_but_for(None)
    }

    /// The same of all main containers but one.
    pub(super) fn is_ending_but_for(&self, except: Option<&str>) -> bool {
        let stays_stopped = |spec: &ContainerSpec<'_>| {
            let why =
                self.observed.latest(spec.name).and_then(|latest| self.known.killing(&latest.id));
            why.is_some_and(|why| restart::stays_stopped(spec, why))
        };
        self.of_kind(ContainerKind::Main)
            .iter()
            .filter(|spec| except != Some(spec.name))
            .all(|spec| stays_stopped(spec) || self.is_done(spec))
    }

    /// Whether a container was begun in `sandbox`: it is there, is being made, or is recorded as
    /// done.
    fn has_begun(&self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
        self.latest_in(spec.name, sandbox).is_some()
            || self.doing(&Key::Start(spec.name.to_owned())).is_some()
            || self.is_recorded_done(spec, sandbox)
    }

    /// Whether the API knew the init container as done when this process adopted the pod with this
    /// sandbox.
    fn is_recorded_done(&self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
        let recorded = &self.facts.recorded;
        spec.kind == ContainerKind::Init
            && recorded.sandbox.as_ref() == Some(sandbox)
            && recorded.init_done.iter().any(|name| name == spec.name)
    }

    /// Carries the newest init container on; true when the next may begin.
    fn is_through(&mut self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
        match spec.kind {
            ContainerKind::Sidecar => {
                self.keep_running(spec, sandbox) && self.is_started(spec, sandbox)
            }
            ContainerKind::Init | ContainerKind::Main | ContainerKind::Ephemeral => {
                self.is_init_through(spec, sandbox)
            }
        }
    }

    fn is_init_through(&mut self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
        let Some(container) = self.latest_in(spec.name, sandbox) else {
            if self.is_recorded_done(spec, sandbox) {
                return true;
            }
            self.start(spec, sandbox, true);
            return false;
        };
        match &container.state {
            ContainerState::Exited(exit) if !restart::init_failed(exit) => return true,
            ContainerState::Running { started_at } => {
                let since = self.at_wall(*started_at);
                let on = format!("init {} to finish", quoted(spec.name));
                self.block(Blocked {
                    stage: Stage::Init,
                    on,
                    since,
                    last_error: None,
                    next_try: None,
                });
                return false;
            }
            ContainerState::Unknown => self.stop_unknown(container),
            ContainerState::Created | ContainerState::Exited(_) => {}
        }
        // One that has failed for good never gets here: the pod is over.
        if self.wants_start(spec) {
            self.start(spec, sandbox, true);
        }
        false
    }

    /// Keeps a sidecar running; true while it does.
    fn keep_running(&mut self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
        match self.latest_in(spec.name, sandbox) {
            Some(container) if container.state.is_running() => {
                self.check_running(spec, container);
                !self.is_being_killed(&container.id)
            }
            latest => {
                if let Some(container) = latest {
                    self.stop_unknown(container);
                }
                if self.wants_start(spec) {
                    self.start(spec, sandbox, true);
                }
                false
            }
        }
    }

    /// Whether a running sidecar counts as started: its postStart hook has ended and its startup
    /// probe has succeeded.
    fn is_started(&mut self, spec: &ContainerSpec<'_>, sandbox: &SandboxId) -> bool {
        let Some(container) = self.latest_in(spec.name, sandbox) else { return false };
        if self.hook_is_pending(spec, container) {
            let on = format!("the postStart hook of sidecar {}", quoted(spec.name));
            self.block_on(Stage::PostStart, on, &Key::PostStart(container.id.clone()));
            return false;
        }
        let started = !spec.has_startup_probe() || self.startup_succeeded(container);
        if !started {
            let since = match &container.state {
                ContainerState::Running { started_at } => self.at_wall(*started_at),
                ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown => {
                    self.now
                }
            };
            let on = format!("the startup probe of sidecar {}", quoted(spec.name));
            self.block(Blocked { stage: Stage::Init, on, since, last_error: None, next_try: None });
        }
        started
    }

    /// Stops a container whose state is unknown, so that it can be started again.
    pub(super) fn stop_unknown(&mut self, container: &ObservedContainer) {
        if container.state == ContainerState::Unknown && self.may_run(container) {
            self.kill(container, KillReason::Unknown, None);
            self.block_on_kill(Stage::Start, &container.id, &container.name);
        }
    }
}
