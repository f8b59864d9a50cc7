//! What the begin and the end of an action change in the memory of a pod. Pure.

use super::container::{HookState, Stop};
use super::known::{Failure, Preparation};
use super::outcome::{ActionError, Completion, Outcome};
use super::slot::NextImage;
use super::{Memory, Now};
use crate::model::observed::Remembered;
use crate::model::pod;
use crate::pods::plan::types::{Action, InFlightAction, Key};
use crate::resources::allocation::Requirements;

impl Memory {
    /// Notes that an action begins.
    pub(super) fn begin(&mut self, action: &Action, now: Now) {
        let key = action.key();
        let busy = InFlightAction::Busy { since: now, silent: false };
        let doing = match action {
            Action::KillContainer { id, why, deadline, .. } => {
                self.known.container_mut(id).stop = Stop::Killing(why.clone());
                InFlightAction::Kill { since: now, deadline: *deadline }
            }
            Action::HurryKill { deadline, .. } => {
                InFlightAction::Kill { since: now, deadline: *deadline }
            }
            Action::EnsureImage { silent, .. } => {
                InFlightAction::Busy { since: now, silent: *silent }
            }
            Action::StartContainer { container, .. } => {
                let given = pod::find_container(&self.pod, container)
                    .map(|(_, spec)| Requirements::of(&self.pod, &spec));
                let slot = self.known.slot_mut(container);
                // The image was looked up for this start only.
                slot.image = NextImage::Unknown;
                slot.starting = given;
                busy
            }
            Action::Prepare
            | Action::MountVolumes
            | Action::CreateSandbox { .. }
            | Action::Resize { .. }
            | Action::PostStart { .. }
            | Action::PreStop { .. }
            | Action::RemoveContainer { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::UnmountVolumes
            | Action::CleanUp => busy,
        };
        self.in_flight.insert(key, doing);
    }

    /// Notes how an action ended. One that may have changed the runtime stays in flight until the
    /// runtime has been read again (invariant 3).
    pub(super) fn complete(&mut self, completion: Completion, now: Now) {
        let Completion { key, outcome, mutated } = completion;
        if mutated {
            self.settling.insert(key.clone());
        } else {
            self.in_flight.remove(&key);
        }

        match outcome {
            Ok(outcome) => {
                self.known.failures.remove(&key);
                self.succeed(&key, outcome);
            }
            Err(error) => self.fail(key, error, now),
        }
    }

    /// Notes that an action's task panicked. What it had done by then has to be read first.
    pub(super) fn panicked(&mut self, key: Key, now: Now) {
        self.settling.insert(key.clone());
        let error = ActionError::internal("an internal error; see the log of the kubelet");
        self.fail(key, error, now);
    }

    /// Notes a failure; the planner decides when to try again.
    fn fail(&mut self, key: Key, error: ActionError, now: Now) {
        if let Key::Container(id) = &key
            && let Some(container) = self.known.containers.get_mut(id)
            && container.stop.killing().is_some()
        {
            container.stop = Stop::No;
        }

        let before = self.known.failures.get(&key);
        let count = before.map_or(1, |failure| failure.count.saturating_add(1));
        let ActionError { reason, message } = error;
        self.known.failures.insert(key, Failure { count, at: now, reason, message });
    }

    fn succeed(&mut self, key: &Key, outcome: Outcome) {
        match outcome {
            Outcome::Prepared { logged_restarts, cgroup } => {
                self.known.preparation = Preparation::Prepared;
                self.known.cgroup.has = cgroup;
                // The runtime may have lost its containers (reboot); their logs still count
                // (upstream does the same).
                for (container, restart_count) in logged_restarts {
                    if self.observed.latest(&container).is_none() {
                        let found = Remembered { restart_count, exit: None };
                        self.known.slot_mut(&container).remembered.get_or_insert(found);
                    }
                }
            }
            Outcome::Image { container, state } => {
                self.known.slot_mut(&container).image = NextImage::Answered(state);
            }
            // Its turn asks again: the image is there then, and the events tell of the pull.
            Outcome::PulledAhead { container } => {
                self.known.slot_mut(&container).image = NextImage::PulledAhead;
            }
            Outcome::Hook { id, state } => {
                self.known.container_mut(&id).hook = Some(state);
            }
            Outcome::Started { id, has_post_start } => {
                let given = match key {
                    Key::Start(name) => self.known.slot_mut(name).starting.take(),
                    Key::Prepare
                    | Key::Volumes
                    | Key::NewSandbox
                    | Key::Sandbox(_)
                    | Key::Image(_)
                    | Key::Container(_)
                    | Key::PostStart(_)
                    | Key::PreStop(_)
                    | Key::Resize
                    | Key::CleanUp => None,
                };
                let container = self.known.container_mut(&id);
                container.given = given.or(container.given);
                if !has_post_start {
                    container.hook = Some(HookState::Done);
                }
            }
            Outcome::Killed { id, why } => {
                self.known.container_mut(&id).stop = Stop::Killed(why);
            }
            Outcome::PreStopped { id } => {
                self.known.container_mut(&id).pre_stopped = true;
            }
            Outcome::Resized { containers, cgroup } => {
                for (id, given) in containers {
                    self.known.container_mut(&id).given = Some(given);
                }
                self.known.cgroup.has = cgroup;
            }
            Outcome::Reset { id } => {
                self.known.container_mut(&id).reset = true;
            }
            Outcome::SandboxStopped { id } => {
                self.known.stopped.insert(id);
            }
            Outcome::CleanedUp => {
                self.known.preparation = Preparation::Absent;
                self.known.cgroup.has = None;
            }
            Outcome::Done => {}
        }
    }
}
