//! A pod that has stopped: volumes, directories and cgroup, the final status, and the removal of
//! what is left.

use super::planner::Planner;
use super::types::{Action, Key, KillReason, Transition};
use crate::model::{Blocked, Stage, VolumesState};
use crate::pods::memory::facts::{Removal, Source};
use crate::pods::memory::known::Preparation;

impl Planner<'_> {
    /// Plans for a pod that has stopped.
    pub(super) fn finish(&mut self) {
        // A start that outlived its caller may still bring something up.
        let starting = self.wait_for_starts(Stage::Stop);
        let quiet = self.stop_containers(Some(self.now.mono), &KillReason::PodStopping);
        if starting || !quiet || !self.stop_sandboxes(Stage::Stop) {
            return;
        }
        match self.facts.source {
            Source::Gone(Removal::Delayed { at, .. }) if at > self.now.mono => self.wake(at),
            Source::Gone(Removal::Delayed { .. } | Removal::Due) => self.remove_everything(),
            Source::Present => self.remove_leftovers(),
        }
        if self.are_volumes_gone() && self.is_cleaned_up() && self.is_told() {
            self.plan.transition = Some(Transition::Finished);
        }
    }

    fn are_volumes_gone(&mut self) -> bool {
        let failed_before = self.known.failures.contains_key(&Key::Volumes);
        let last_error = match &self.facts.volumes {
            VolumesState::Absent if self.doing(&Key::Volumes).is_none() => return true,
            // What is being set up would come to be mounted after all.
            VolumesState::Absent => None,
            VolumesState::Pending { .. } | VolumesState::Ready => {
                self.attempt(Action::UnmountVolumes);
                None
            }
            // The volume subsystem is at it; an action that failed as a whole has to be repeated.
            VolumesState::TearingDown { last_error } => {
                if failed_before {
                    self.attempt(Action::UnmountVolumes);
                }
                (!last_error.is_empty()).then(|| last_error.clone())
            }
        };
        let on = "its volumes to be unmounted".to_owned();
        if last_error.is_some() {
            let since = self.busy_since(&Key::Volumes).unwrap_or(self.now);
            self.block(Blocked { stage: Stage::Volumes, on, since, last_error, next_try: None });
        } else {
            self.block_on(Stage::Volumes, on, &Key::Volumes);
        }
        false
    }

    fn is_cleaned_up(&mut self) -> bool {
        let is_there = self.known.preparation != Preparation::Absent;
        if !is_there && self.doing(&Key::CleanUp).is_none() && self.doing(&Key::Prepare).is_none() {
            return true;
        }
        if self.doing(&Key::Prepare).is_none() {
            self.attempt(Action::CleanUp);
        }
        self.block_on(
            Stage::Cgroup,
            "its cgroup and directories to be removed".into(),
            &Key::CleanUp,
        );
        false
    }

    /// Whether nothing is left to be told or removed. The worker ends when, beyond that, the object
    /// is gone.
    fn is_told(&mut self) -> bool {
        if self.facts.is_gone() {
            return self.observed.is_empty();
        }
        if !self.facts.status_accepted {
            let on = "the API server to accept its final status".into();
            self.block(Blocked {
                stage: Stage::Status,
                on,
                since: self.now,
                last_error: None,
                next_try: None,
            });
        }
        self.facts.status_accepted
    }
}
