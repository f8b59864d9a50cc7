//! All of a pod started again in its sandbox, because a container has ended in a way that a rule of
//! its own says so for (`RestartAllContainers`, KEP-5532): everything is stopped and removed,
//! whoever asked for it last, and the pod then begins as if it were new.
//!
//! The container that asked is what says that this is going on. It is removed when nothing else is
//! left, so that a process that ends in between leaves enough behind for the next one to go on.

use super::container_spec::quoted;
use super::planner::Planner;
use super::types::{Action, Key, KillReason};
use crate::model::{ContainerKind, ObservedContainer, Stage};

impl<'a> Planner<'a> {
    /// Stops and removes everything if a container's end asks for it; false when there is nothing
    /// of the kind to do.
    pub(super) fn restart_all(&mut self) -> bool {
        if !self.is_restarting_all() {
            return false;
        }
        let starting = self.wait_for_starts(Stage::Restart);
        let of_kinds = |kinds: &[ContainerKind]| -> Vec<&'a ObservedContainer> {
            let of_kind = |container: &&ObservedContainer| {
                self.spec(&container.name).is_some_and(|spec| kinds.contains(&spec.kind))
            };
            self.observed.containers.iter().filter(of_kind).collect()
        };
        let mains = of_kinds(&[ContainerKind::Main]);
        let inits = of_kinds(&[ContainerKind::Init, ContainerKind::Sidecar]);
        if self.kill_running(&mains) || self.kill_running(&inits) || starting {
            return true;
        }
        let (sources, victims): (Vec<_>, Vec<_>) =
            mains.into_iter().chain(inits).partition(|container| self.has_asked(container));
        for container in if victims.is_empty() { sources } else { victims } {
            self.attempt(Action::RemoveContainer { id: container.id.clone(), reset: true });
            let on =
                format!("{} to be removed, before all are started again", quoted(&container.name));
            self.block_on(Stage::Restart, on, &Key::Container(container.id.clone()));
        }
        true
    }

    fn is_restarting_all(&self) -> bool {
        self.facts.config.restart_all
            && self.specs.iter().any(|spec| {
                self.observed.latest(spec.name).is_some_and(|container| self.has_asked(container))
            })
    }

    /// Whether a container has ended in a way that has the whole pod started again.
    fn has_asked(&self, container: &ObservedContainer) -> bool {
        let exit = container.state.exit();
        exit.is_some_and(|exit| {
            self.spec(&container.name).is_some_and(|spec| spec.restart.restarts_all(exit.exit_code))
        })
    }

    /// Stops those that may run, without grace as upstream; false when none does.
    fn kill_running(&mut self, containers: &[&ObservedContainer]) -> bool {
        let mut any = false;
        for container in containers {
            if self.may_run(container) || self.is_being_killed(&container.id) {
                any = true;
                self.kill(container, KillReason::RestartAll, Some(self.now.mono));
                self.block_on_kill(Stage::Restart, &container.id, &container.name);
            }
        }
        any
    }
}
