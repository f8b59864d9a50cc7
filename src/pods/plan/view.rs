//! One planning step's view of the pod: the input, and the questions that several stages ask about
//! it. Pure.
//!
//! It is read-only. No answer depends on what the step has planned so far: see `draft` for that.

use super::backoff;
use super::container_spec::ContainerSpec;
use super::input::PlanInput;
use super::restart;
use super::types::{InFlight, InFlightAction, Key};
use crate::model::observed::Exit;
use crate::model::{
    ContainerId, ContainerKind, ContainerState, Lifecycle, Mono, Now, ObservedContainer,
    ObservedPod, Pod, SandboxId, Wall, pod,
};
use crate::pods::memory::facts::Facts;
use crate::pods::memory::known::{Failure, Known};

/// The pod as one planning step sees it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) pod: &'a Pod,
    pub(super) lifecycle: &'a Lifecycle,
    pub(super) observed: &'a ObservedPod,
    pub(super) facts: &'a Facts,
    pub(super) known: &'a Known,
    pub(super) now: Now,
    /// Every container of the spec, see [`ContainerSpec::all`].
    pub(super) specs: Vec<ContainerSpec<'a>>,
    in_flight: &'a InFlight,
}

/// The spec.
impl<'a> View<'a> {
    pub(super) fn new(input: &PlanInput<'a>) -> Self {
        let PlanInput { pod, lifecycle, observed, facts, known, in_flight, now } = *input;
        let specs = ContainerSpec::all(pod);
        Self { pod, lifecycle, observed, facts, known, now, specs, in_flight }
    }

    /// The containers of one kind, in spec order.
    pub(super) fn of_kind(&self, kind: ContainerKind) -> Vec<ContainerSpec<'a>> {
        self.specs.iter().filter(|spec| spec.kind == kind).copied().collect()
    }

    /// The container of a name.
    pub(super) fn spec(&self, name: &str) -> Option<ContainerSpec<'a>> {
        self.specs.iter().find(|spec| spec.name == name).copied()
    }

    /// The pod as upstream writes it in messages: `NAME_NAMESPACE(UID)`.
    pub(super) fn pod_text(&self) -> String {
        let key = pod::key(self.pod);
        format!("{}_{}({})", key.name, key.namespace, pod::uid(self.pod))
    }
}

/// Actions in flight and failures.
impl<'a> View<'a> {
    /// The action in flight for `key`.
    pub(super) fn doing(&self, key: &Key) -> Option<&'a InFlightAction> {
        self.in_flight.get(key)
    }

    /// The moment at which the action in flight for `key` began.
    pub(super) fn busy_since(&self, key: &Key) -> Option<Now> {
        match self.doing(key)? {
            InFlightAction::Busy { since, .. } | InFlightAction::Kill { since, .. } => Some(*since),
        }
    }

    /// The keys of all actions in flight.
    pub(super) fn keys_in_flight(&self) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.in_flight.keys()
    }

    /// The deadlines of the kills in flight.
    pub(super) fn kill_deadlines(&self) -> impl Iterator<Item = Mono> + use<'a> {
        self.in_flight.values().filter_map(|doing| match doing {
            InFlightAction::Kill { deadline, .. } => Some(*deadline),
            InFlightAction::Busy { .. } => None,
        })
    }

    /// Returns true if a kill of the container is in flight.
    pub(super) fn is_being_killed(&self, id: &ContainerId) -> bool {
        matches!(self.doing(&Key::Container(id.clone())), Some(InFlightAction::Kill { .. }))
    }

    /// The failure that still holds `key` back, with the moment of the next try.
    pub(super) fn retry_pending(&self, key: &Key) -> Option<(&'a Failure, Mono)> {
        let failure = self.known.failures.get(key)?;
        let next = failure.at.mono.after(backoff::retry_after(failure.count));
        (next > self.now.mono).then_some((failure, next))
    }
}

/// The clocks.
impl View<'_> {
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
}

/// Containers.
impl<'a> View<'a> {
    /// Returns true if a container may still run: it does, or its state is unknown and it was not
    /// stopped.
    pub(super) fn may_run(&self, container: &ObservedContainer) -> bool {
        match container.state {
            ContainerState::Running { .. } => true,
            ContainerState::Unknown => self.known.killed(&container.id).is_none(),
            ContainerState::Created | ContainerState::Exited(_) => false,
        }
    }

    /// Returns true if a container may run or is being stopped.
    pub(super) fn is_alive(&self, container: &ObservedContainer) -> bool {
        self.may_run(container) || self.is_being_killed(&container.id)
    }

    /// Returns true if any container of a name may run or is being stopped.
    pub(super) fn name_is_taken(&self, name: &str) -> bool {
        let mut twins = self.observed.containers.iter().filter(|container| container.name == name);
        twins.any(|container| self.is_alive(container))
    }

    /// The newest container of a name, if it lives in `sandbox`.
    pub(super) fn latest_in(
        &self,
        name: &str,
        sandbox: &SandboxId,
    ) -> Option<&'a ObservedContainer> {
        self.observed.latest(name).filter(|container| &container.sandbox == sandbox)
    }

    /// Returns true if a sandbox still holds a container.
    pub(super) fn holds_containers(&self, sandbox: &SandboxId) -> bool {
        self.observed.containers.iter().any(|container| &container.sandbox == sandbox)
    }

    /// Returns true if the postStart hook of a running container has not ended.
    pub(super) fn hook_is_pending(
        &self,
        spec: &ContainerSpec<'_>,
        container: &ObservedContainer,
    ) -> bool {
        spec.has_post_start() && self.known.hook(&container.id).is_none()
    }

    /// Returns true if a container was made from another definition than the spec's.
    pub(super) fn definition_changed(&self, container: &ObservedContainer) -> bool {
        let expected = self.known.expected_hash(&container.name);
        container.hash != 0 && expected.is_some_and(|expected| expected != container.hash)
    }
}

/// The past and the next start of a container name.
impl<'a> View<'a> {
    /// How the newest container of a name ended: observed, else remembered.
    pub(super) fn last_exit(&self, name: &str) -> Option<&'a Exit> {
        match self.observed.latest(name) {
            Some(container) => container.state.exit(),
            None => self.known.remembered(name)?.exit.as_ref(),
        }
    }

    /// Returns true if a container of a name has ever been created, as far as is known.
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

    /// Returns true if a container should be started (again): not while it runs, and not once it is
    /// done for good.
    pub(super) fn wants_start(&self, spec: &ContainerSpec<'_>) -> bool {
        let asks_for_all = |exit: &Exit| {
            self.facts.config.restart_all && spec.restart.restarts_all(exit.exit_code)
        };
        if self.last_exit(spec.name).is_some_and(asks_for_all) {
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

    /// Returns true if a container has ended and will not be started again.
    pub(super) fn is_done(&self, spec: &ContainerSpec<'_>) -> bool {
        self.last_exit(spec.name).is_some()
            && !self.name_is_taken(spec.name)
            && !self.wants_start(spec)
    }

    /// Returns true if an init container has failed for good.
    pub(super) fn init_has_failed(&self) -> bool {
        self.of_kind(ContainerKind::Init).iter().any(|spec| {
            self.last_exit(spec.name).is_some_and(restart::init_failed) && self.is_done(spec)
        })
    }

    /// Returns true if no main container but `except` will run any more: each is done for good, or
    /// is being stopped and stays stopped.
    pub(super) fn is_ending_but_for(&self, except: Option<&str>) -> bool {
        let stays_stopped = |spec: &ContainerSpec<'_>| {
            let latest = self.observed.latest(spec.name);
            let why = latest.and_then(|latest| self.known.killing(&latest.id));
            why.is_some_and(|why| restart::stays_stopped(spec, why))
        };
        self.of_kind(ContainerKind::Main)
            .iter()
            .filter(|spec| except != Some(spec.name))
            .all(|spec| stays_stopped(spec) || self.is_done(spec))
    }
}
