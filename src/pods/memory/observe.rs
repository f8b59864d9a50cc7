//! What an observation of the runtime changes in the memory of a pod: actions that have been read,
//! what is taken over at adoption, what stays known of containers that are removed. Pure.

use std::sync::Arc;

use super::container::HookState;
use super::{Memory, Now};
use crate::model::observed::Remembered;
use crate::model::{ContainerState, ObservedContainer, ObservedPod, pod};
use crate::pods::plan::types::Key;
use crate::pods::recorded;
use crate::resources::allocation::{Allocation, Requirements};

impl Memory {
    /// Stores a fresh observation. It knows of every mutation that has ended (invariant 3).
    pub(super) fn observe(&mut self, observed: Arc<ObservedPod>, now: Now) {
        for key in std::mem::take(&mut self.settling) {
            self.in_flight.remove(&key);
        }

        let before = std::mem::replace(&mut self.observed, observed);
        for old in &before.containers {
            if self.observed.container(&old.id).is_none() {
                self.forget_removed(old, now);
            }
        }
    }

    /// Takes over what ran before this process: the postStart hooks of running containers are not
    /// run again, and their resources are what the runtime reports, or what was kept of them.
    pub(super) fn adopt(&mut self, kept: Option<&Allocation>) {
        // What was done in an earlier sandbox has to be done again in this one (a process that
        // ended in between).
        let began = self.facts.recorded.init_began;
        let latest =
            self.observed.latest_sandbox().filter(|sandbox| recorded::is_of(began, sandbox));
        self.facts.recorded.sandbox = latest.map(|sandbox| sandbox.id.clone());

        for container in &self.observed.containers {
            if !container.state.is_running() {
                continue;
            }
            let given = pod::find_container(&self.pod, &container.name).map(|(_, spec)| {
                Requirements::adopted(
                    Requirements::of(&self.pod, &spec),
                    container.resources.as_ref(),
                    kept.and_then(|kept| kept.containers.get(&container.name)),
                )
            });
            let adopted = self.known.container_mut(&container.id);
            adopted.hook = Some(HookState::Done);
            adopted.given = given;
        }
    }

    /// Drops what is known of a container that the runtime no longer has, but for its restart count
    /// and exit.
    fn forget_removed(&mut self, old: &ObservedContainer, now: Now) {
        let forgotten = self.known.containers.remove(&old.id).unwrap_or_default();
        self.known.failures.remove(&Key::Container(old.id.clone()));
        if old.state == ContainerState::Created {
            // It has never run: the next one is not a restart of it.
            return;
        }

        let new = Remembered { restart_count: old.restart_count, exit: None };
        let remembered = self.known.slot_mut(&old.name).remembered.get_or_insert(new);
        if forgotten.reset {
            remembered.restart_count = remembered.restart_count.max(old.restart_count);
            self.forget_ends();
        } else if old.restart_count >= remembered.restart_count {
            remembered.restart_count = old.restart_count;
            remembered.exit = Some(match &old.state {
                ContainerState::Exited(exit) => exit.clone(),
                // Nobody has seen how it ended; upstream says the same.
                ContainerState::Created
                | ContainerState::Running { .. }
                | ContainerState::Unknown => recorded::unknown_exit(now.wall),
            });
        }
    }

    /// The pod begins anew: no end that was seen so far counts any more.
    fn forget_ends(&mut self) {
        self.facts.recorded.init_done.clear();
        for slot in self.known.slots.values_mut() {
            if let Some(remembered) = &mut slot.remembered {
                remembered.exit = None;
            }
        }
    }
}
