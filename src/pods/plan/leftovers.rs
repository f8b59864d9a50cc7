//! What has ended and is of no more use: containers behind the newest dead one of their name,
//! sandboxes behind the newest (upstream's pod container deletor and garbage collector, which run
//! on a timer; here it is part of the plan).

use std::collections::BTreeMap;

use super::planner::Planner;
use super::types::Action;
use crate::model::{ContainerState, ObservedContainer, SandboxState};

impl Planner<'_> {
    /// Removes dead containers and old sandboxes that nothing needs: per name the newest container
    /// and the newest that has ended are kept (`kubectl logs --previous`, `lastState`), per pod the
    /// newest sandbox.
    pub(super) fn remove_leftovers(&mut self) {
        let mut by_name: BTreeMap<&str, Vec<&ObservedContainer>> = BTreeMap::new();
        for container in &self.observed.containers {
            by_name.entry(&container.name).or_default().push(container);
        }
        for twins in by_name.values() {
            let last_ended = twins.iter().position(|container| container.state.exit().is_some());
            for (age, container) in twins.iter().enumerate().skip(1) {
                let is_needed = Some(age) == last_ended
                    || self.may_run(container)
                    || self.is_being_killed(&container.id);
                if !is_needed {
                    self.attempt(Action::RemoveContainer {
                        id: container.id.clone(),
                        reset: false,
                    });
                }
            }
        }
        for sandbox in self.observed.sandboxes.iter().skip(1) {
            // A ready one beside the newest means that the pod's sandbox is replaced: not a
            // leftover yet.
            if sandbox.state == SandboxState::NotReady && !self.holds_containers(&sandbox.id) {
                self.remove_sandbox(&sandbox.id);
            }
        }
    }

    /// Removes everything that has ended, once the object is gone: containers with their logs, then
    /// their sandboxes.
    pub(super) fn remove_everything(&mut self) {
        for container in &self.observed.containers {
            match container.state {
                ContainerState::Running { .. } => {}
                ContainerState::Unknown if self.may_run(container) => {}
                ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown => {
                    self.attempt(Action::RemoveContainer {
                        id: container.id.clone(),
                        reset: false,
                    });
                }
            }
        }
        for sandbox in &self.observed.sandboxes {
            if !self.holds_containers(&sandbox.id) {
                self.remove_sandbox(&sandbox.id);
            }
        }
    }

    fn remove_sandbox(&mut self, id: &crate::model::SandboxId) {
        // One that died by itself may still hold its address: it is stopped before it is removed.
        let action = if self.known.stopped.contains(id) {
            Action::RemoveSandbox { id: id.clone() }
        } else {
            Action::StopSandbox { id: id.clone() }
        };
        self.attempt(action);
    }
}
