//! The plan while it is made: the input, what it says of each container, and the rules that every
//! action obeys (one per key, nothing while its last failure is too fresh).

use std::collections::BTreeSet;

use super::backoff;
use super::container_spec::ContainerSpec;
use super::input::PlanInput;
use super::restart;
use super::types::{Action, InFlightAction, Key, Notice, Plan};
use crate::model::observed::Exit;
use crate::model::{
    Blocked, ContainerId, ContainerKind, ContainerState, Lifecycle, Mono, Now, ObservedContainer,
    ObservedPod, Pod, RestartPolicy, SandboxId, Stage, Waiting, Wall, pod,
};
use crate::pods::memory::facts::Facts;
use crate::pods::memory::known::{Failure, Known};

/// A plan in the making.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    pub(super) pod: &'a Pod,
    pub(super) observed: &'a ObservedPod,
    pub(super) facts: &'a Facts,
    pub(super) known: &'a Known,
    pub(super) now: Now,
    pub(super) specs: Vec<ContainerSpec<'a>>,
    pub(super) plan: Plan,
    /// Whether initialization is over; set by `keep`.
    pub(super) initialized: bool,
    input: &'a PlanInput<'a>,
    taken: BTreeSet<Key>,
    kills: BTreeSet<ContainerId>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(input: &'a PlanInput<'a>) -> Self {
        Self {
            pod: input.pod,
            observed: input.observed,
            facts: input.facts,
            known: input.known,
            now: input.now,
            specs: ContainerSpec::all(input.pod),
            plan: Plan::default(),
            initialized: false,
            input,
            taken: BTreeSet::new(),
            kills: BTreeSet::new(),
        }
    }

    /// The finished plan: removal before addition, and a reason for every container that has not
    /// come up.
    pub(super) fn into_plan(mut self) -> Plan {
        self.explain_waiting();
        self.note_starting();
        self.plan.resizing = self.is_resizing();
        self.plan.actions.sort_by_key(is_addition);
        if self.plan.transition.is_some() {
            // The worker plans again at once.
            self.plan.wake_at = None;
        }
        self.plan
    }

    /// Where the pod is in its life.
    pub(super) fn lifecycle(&self) -> &'a Lifecycle {
        self.input.lifecycle
    }

    /// The containers of one kind, in spec order.
    pub(super) fn of_kind(&self, kind: ContainerKind) -> Vec<ContainerSpec<'a>> {
        self.specs.iter().filter(|spec| spec.kind == kind).copied().collect()
    }

    /// The container of that name in the spec.
    pub(super) fn spec(&self, name: &str) -> Option<ContainerSpec<'a>> {
        self.specs.iter().find(|spec| spec.name == name).copied()
    }

    /// What is being done with `key`.
    pub(super) fn doing(&self, key: &Key) -> Option<&'a InFlightAction> {
        self.input.in_flight.get(key)
    }

    /// Whether nothing may be planned for `key`: an action is in flight, or planned already.
    pub(super) fn is_busy(&self, key: &Key) -> bool {
        self.input.in_flight.contains_key(key) || self.taken.contains(key)
    }

    /// Since when something is being done with `key`.
    pub(super) fn busy_since(&self, key: &Key) -> Option<Now> {
        match self.doing(key)? {
            InFlightAction::Busy { since, .. } | InFlightAction::Kill { since, .. } => Some(*since),
        }
    }

    /// The keys of all actions in flight.
    pub(super) fn keys_in_flight(&self) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.input.in_flight.keys()
    }

    /// The deadlines of the kills in flight.
    pub(super) fn kill_deadlines(&self) -> impl Iterator<Item = Mono> + use<'a> {
        self.input.in_flight.values().filter_map(|doing| match doing {
            InFlightAction::Kill { deadline, .. } => Some(*deadline),
            InFlightAction::Busy { .. } => None,
        })
    }

    /// The failure that still holds `key` back, with the moment of the next try.
    pub(super) fn retry_pending(&self, key: &Key) -> Option<(&'a Failure, Mono)> {
        let failure = self.known.failures.get(key)?;
        let next = failure.at.mono.after(backoff::retry_after(failure.count));
        (next > self.now.mono).then_some((failure, next))
    }

    /// Plans `action` unless its key is busy or its last failure is too fresh. Returns whether it
    /// was planned.
    pub(super) fn attempt(&mut self, action: Action) -> bool {
        let key = action.key();
        if self.is_busy(&key) {
            return false;
        }
        if let Some((_, next)) = self.retry_pending(&key) {
            self.wake(next);
            return false;
        }
        self.taken.insert(key);
        if let Action::KillContainer { id, .. } = &action {
            self.kills.insert(id.clone());
        }
        self.plan.actions.push(action);
        true
    }

    /// Plans again at `moment`, if that lies ahead.
    pub(super) fn wake(&mut self, moment: Mono) {
        if moment > self.now.mono {
            self.plan.wake_at =
                Some(self.plan.wake_at.map_or(moment, |earlier| earlier.min(moment)));
        }
    }

    /// Reports what the pod waits for; the first report of a plan counts.
    pub(super) fn block(&mut self, blocked: Blocked) {
        self.plan.blocked.get_or_insert(blocked);
    }

    /// Reports that the pod waits for `key`: in flight, or failing.
    pub(super) fn block_on(&mut self, stage: Stage, on: String, key: &Key) {
        let failure = self.known.failures.get(key);
        let since = self.busy_since(key).or(failure.map(|failure| failure.at)).unwrap_or(self.now);
        let next_try = self.retry_pending(key).map(|(_, next)| next);
        self.block(Blocked {
            stage,
            on,
            since,
            last_error: failure.map(|failure| failure.message.clone()),
            next_try,
        });
    }

    /// Says why a container does not run; a later reason replaces an earlier one.
    pub(super) fn wait(&mut self, name: &str, reason: &str, message: String) {
        self.plan.waiting.insert(name.to_owned(), Waiting { reason: reason.to_owned(), message });
    }

    /// Emits an event that follows from the state.
    pub(super) fn notice(&mut self, notice: Notice) {
        self.plan.notices.push(notice);
    }

    /// The pod's restart policy.
    pub(super) fn restart_policy(&self) -> RestartPolicy {
        pod::restart_policy(self.pod)
    }

    /// The pod as upstream writes it in messages: `NAME_NAMESPACE(UID)`.
    pub(super) fn pod_text(&self) -> String {
        let key = pod::key(self.pod);
        format!("{}_{}({})", key.name, key.namespace, pod::uid(self.pod))
    }

    /// The monotonic moment at which the wall clock showed or will show `wall`.
    pub(super) fn mono_at_wall(&self, wall: Wall) -> Mono {
        if wall >= self.now.wall {
            self.now.mono_at(wall)
        } else {
            Mono(self.now.mono.0.saturating_sub(self.now.elapsed_since(wall)))
        }
    }

    /// A reading of both clocks for a moment that only the wall clock has seen.
    pub(super) fn at_wall(&self, wall: Wall) -> Now {
        Now { mono: self.mono_at_wall(wall), wall }
    }

    /// Whether a container may still run: it does, or its state is unknown and it has not been
    /// stopped.
    pub(super) fn may_run(&self, container: &ObservedContainer) -> bool {
        match container.state {
            ContainerState::Running { .. } => true,
            ContainerState::Unknown => self.known.killed(&container.id).is_none(),
            ContainerState::Created | ContainerState::Exited(_) => false,
        }
    }

    /// Whether a container is being stopped, or is to be by this plan.
    pub(super) fn is_being_killed(&self, id: &ContainerId) -> bool {
        self.kills.contains(id)
            || matches!(self.doing(&Key::Container(id.clone())), Some(InFlightAction::Kill { .. }))
    }

    /// Whether any container of that name may run or is being stopped.
    pub(super) fn name_is_taken(&self, name: &str) -> bool {
        let mut twins = self.observed.containers.iter().filter(|container| container.name == name);
        twins.any(|container| self.may_run(container) || self.is_being_killed(&container.id))
    }

    /// The newest container of that name, if it lives in `sandbox`.
    pub(super) fn latest_in(
        &self,
        name: &str,
        sandbox: &SandboxId,
    ) -> Option<&'a ObservedContainer> {
        self.observed.latest(name).filter(|container| &container.sandbox == sandbox)
    }

    /// How the newest container of that name ended: observed, else remembered.
    pub(super) fn last_exit(&self, name: &str) -> Option<&'a Exit> {
        match self.observed.latest(name) {
            Some(container) => container.state.exit(),
            None => self.known.remembered(name)?.exit.as_ref(),
        }
    }

    /// Whether a container of that name has ever been made, as far as is known.
    pub(super) fn was_created(&self, name: &str) -> bool {
        self.observed.latest(name).is_some()
            || self.known.remembered(name).is_some_and(|seen| seen.exit.is_some())
    }

    /// The restart count of the next start.
    pub(super) fn next_restart_count(&self, name: &str) -> u32 {
        let observed = self.observed.containers.iter().filter(|container| container.name == name);
        let counts = observed.map(|container| container.restart_count);
        let remembered = self.known.remembered(name).map(|seen| seen.restart_count);
        counts.chain(remembered).max().map_or(0, |count| count.saturating_add(1))
    }

    /// Whether the container should be started (again); false while it runs and for one that is
    /// done for good.
    pub(super) fn wants_start(&self, spec: &ContainerSpec<'_>) -> bool {
        if self.facts.config.restart_all
            && self
                .last_exit(spec.name)
                .is_some_and(|exit| spec.restart.restarts_all(exit.exit_code))
        {
            return true;
        }
        let Some(latest) = self.observed.latest(spec.name) else {
            return match (spec.kind, self.known.remembered(spec.name)) {
                (ContainerKind::Ephemeral, seen) => seen.is_none(),
                (ContainerKind::Sidecar, _) | (_, None) => true,
                (_, Some(seen)) => seen
                    .exit
                    .as_ref()
                    .is_none_or(|exit| spec.restart.restarts_alone(exit.exit_code)),
            };
        };
        match (&latest.state, spec.kind) {
            // Ephemeral containers are never started twice.
            (_, ContainerKind::Ephemeral) | (ContainerState::Running { .. }, _) => false,
            (ContainerState::Created, _) | (ContainerState::Exited(_), ContainerKind::Sidecar) => {
                true
            }
            (ContainerState::Unknown, _) => self.known.killed(&latest.id).is_some(),
            (ContainerState::Exited(exit), _) => {
                let killed = self.known.killed(&latest.id);
                killed.is_some_and(|why| restart::after_kill(spec, why))
                    || spec.restart.restarts_alone(exit.exit_code)
            }
        }
    }

    /// Notes which containers are stopped in order to be replaced.
    pub(super) fn note_replaced(&mut self) {
        let is_replaced = |container: &&ObservedContainer| {
            let why =
                self.known.containers.get(&container.id).and_then(|known| known.stop.reason());
            let spec = self.spec(&container.name);
            why.zip(spec).is_some_and(|(why, spec)| restart::after_kill(&spec, why))
        };
        let replaced = self.observed.containers.iter().filter(is_replaced);
        self.plan.replaced = replaced.map(|container| container.id.clone()).collect();
    }

    /// Notes which running containers are probed, and which are shown as merely created because
    /// their postStart hook has not ended.
    fn note_starting(&mut self) {
        for container in &self.observed.containers {
            let Some(spec) = self.spec(&container.name) else { continue };
            if !container.state.is_running() {
                continue;
            }
            if !self.hook_is_pending(&spec, container) {
                self.plan.probed.insert(container.id.clone());
            } else if !self.lifecycle().is_stopping() {
                self.plan.shown_as_created.insert(container.id.clone());
            }
        }
    }

    /// Whether the container has ended and will not be started again.
    pub(super) fn is_done(&self, spec: &ContainerSpec<'_>) -> bool {
        self.last_exit(spec.name).is_some()
            && !self.name_is_taken(spec.name)
            && !self.wants_start(spec)
    }

    /// Whether a sandbox still holds a container.
    pub(super) fn holds_containers(&self, sandbox: &SandboxId) -> bool {
        self.observed.containers.iter().any(|container| &container.sandbox == sandbox)
    }
}

/// Whether an action adds to what runs; those come last.
fn is_addition(action: &Action) -> bool {
    match action {
        Action::PreStop { .. }
        | Action::KillContainer { .. }
        | Action::HurryKill { .. }
        | Action::RemoveContainer { .. }
        | Action::StopSandbox { .. }
        | Action::RemoveSandbox { .. }
        | Action::UnmountVolumes
        | Action::CleanUp => false,
        Action::Prepare
        | Action::MountVolumes
        | Action::CreateSandbox { .. }
        | Action::EnsureImage { .. }
        | Action::StartContainer { .. }
        | Action::Resize { .. }
        | Action::PostStart { .. } => true,
    }
}
