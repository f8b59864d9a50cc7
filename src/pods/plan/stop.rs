//! A pod that must stop: main containers first and in parallel, sidecars after them in reverse
//! order, all within one deadline, then the sandboxes.

use super::planner::Planner;
use super::types::{Action, InFlightAction, Key, KillReason, Transition};
use crate::model::{ContainerKind, Mono, ObservedContainer, Stage, Terminating};

impl Planner<'_> {
    /// Plans for a pod that must stop. Nothing is created or started any more; what is being
    /// created is waited for, since it cannot be called back (invariant 7), and stopped then.
    pub(super) fn stop(&mut self, terminating: &Terminating) {
        if let Some(shorter) = self.shortened(terminating) {
            self.plan.transition = Some(shorter);
            return;
        }
        let quiet = self.stop_containers(Some(terminating.deadline()), &KillReason::PodStopping);
        let starting = self.wait_for_starts(Stage::Stop);
        if !quiet || starting || !self.stop_sandboxes(Stage::Stop) {
            return;
        }
        self.plan.transition = Some(Transition::Terminated);
    }

    /// The shorter grace that a later deletion asks for, counted from when the pod began to stop.
    /// The removal of an object by force may come without the update that carried the grace.
    fn shortened(&self, terminating: &Terminating) -> Option<Transition> {
        if self.pod.metadata.deletion_grace_period_seconds.is_none() && !self.is_removed_by_force()
        {
            return None;
        }
        let elapsed = self.now.mono.since(terminating.since.mono);
        let grace = elapsed.saturating_add(self.pod_grace());
        (grace < terminating.grace).then_some(Transition::Shorten { grace })
    }

    /// Stops every container that may run; true once none does. Without a `deadline` (the sandbox
    /// is replaced) the pod's own grace counts from the first kill.
    pub(super) fn stop_containers(&mut self, deadline: Option<Mono>, why: &KillReason) -> bool {
        let shared = deadline.or_else(|| self.kill_deadlines().max());
        let running: Vec<&ObservedContainer> = self
            .observed
            .containers
            .iter()
            .filter(|container| self.may_run(container) || self.is_being_killed(&container.id))
            .collect();
        for container in &running {
            if self.may_stop(container, &running, shared) {
                self.stop_one(container, why, deadline, shared);
            } else {
                self.run_pre_stop_early(container, shared);
            }
        }
        for container in &running {
            self.block_on_kill(Stage::Stop, &container.id, &container.name);
        }
        running.is_empty()
    }

    fn stop_one(
        &mut self,
        container: &ObservedContainer,
        why: &KillReason,
        deadline: Option<Mono>,
        shared: Option<Mono>,
    ) {
        let key = Key::Container(container.id.clone());
        match (self.doing(&key), deadline) {
            (Some(InFlightAction::Kill { deadline: running, .. }), Some(deadline)) => {
                let deadline = self.at_least(deadline);
                if *running > deadline {
                    self.plan
                        .actions
                        .push(Action::HurryKill { id: container.id.clone(), deadline });
                }
            }
            (Some(_), _) => {}
            (None, _) => self.kill(container, why.clone(), shared),
        }
    }

    /// Whether it is a container's turn to stop. Sidecars come after all main containers, the last
    /// one first; when time is up, everybody goes.
    fn may_stop(
        &mut self,
        container: &ObservedContainer,
        running: &[&ObservedContainer],
        deadline: Option<Mono>,
    ) -> bool {
        let Some(position) = self.specs.iter().position(|spec| spec.name == container.name) else {
            return true;
        };
        if self.specs[position].kind != ContainerKind::Sidecar
            || self.is_being_killed(&container.id)
        {
            return true;
        }
        if deadline.is_some_and(|deadline| deadline <= self.now.mono) {
            return true;
        }
        let waits_for = running.iter().any(|other| {
            self.specs.iter().enumerate().any(|(place, spec)| {
                let comes_before = match spec.kind {
                    ContainerKind::Main => true,
                    ContainerKind::Sidecar => place > position,
                    ContainerKind::Init | ContainerKind::Ephemeral => false,
                };
                spec.name == other.name && comes_before
            })
        });
        let in_hook = self.doing(&Key::PreStop(container.id.clone())).is_some();
        if (waits_for || in_hook)
            && let Some(deadline) = deadline
        {
            self.wake(deadline);
        }
        !waits_for && !in_hook
    }

    /// Runs the preStop hook of a sidecar that waits for its turn.
    fn run_pre_stop_early(&mut self, container: &ObservedContainer, deadline: Option<Mono>) {
        let has_hook = self.spec(&container.name).is_some_and(|spec| spec.has_pre_stop());
        let grace = self.own_grace(None, &KillReason::PodStopping);
        let deadline = deadline.unwrap_or_else(|| self.now.mono.after(grace));
        if has_hook && container.state.is_running() && !self.known.is_pre_stopped(&container.id) {
            self.attempt(Action::PreStop {
                container: container.name.clone(),
                id: container.id.clone(),
                deadline,
            });
        }
    }
}
