//! What users read while a container does not run: upstream's reasons and texts, with the cause
//! where there is one.

use super::planner::Planner;
use crate::model::reason::container::{CONTAINER_CREATING, POD_INITIALIZING};
use crate::model::{ContainerState, Lifecycle, Stage, pod};

impl Planner<'_> {
    /// Gives every container that has not come up yet, and has no reason so far, upstream's default
    /// one. Where the whole pod waits for something that has gone wrong the message says so
    /// (upstream leaves it empty).
    pub(super) fn explain_waiting(&mut self) {
        if self.facts.recorded.terminal_phase.is_some() || pod::is_terminal(self.pod) {
            // It was all over before this process saw it: what the API has recorded stands.
            return;
        }
        let reason = if pod::init_containers(self.pod).is_empty() {
            CONTAINER_CREATING
        } else {
            POD_INITIALIZING
        };
        let message = self.pod_wide_obstacle();
        for spec in self.specs.clone() {
            if self.plan.waiting.contains_key(spec.name) || !self.never_ran(spec.name) {
                continue;
            }
            self.wait(spec.name, reason, message.clone());
        }
    }

    /// Whether nothing is known of a container but that it should come up.
    fn never_ran(&self, name: &str) -> bool {
        if let Some(container) = self.observed.latest(name) {
            return container.state == ContainerState::Created;
        }
        let recorded = &self.facts.recorded;
        let same_sandbox = recorded.sandbox.is_some()
            && recorded.sandbox.as_ref()
                == self.observed.latest_sandbox().map(|sandbox| &sandbox.id);
        let done_before = same_sandbox && recorded.init_done.iter().any(|done| done == name);
        !done_before && !self.was_created(name)
    }

    /// What keeps all containers from coming up, once something has gone wrong with it.
    fn pod_wide_obstacle(&self) -> String {
        if *self.lifecycle() != Lifecycle::Syncing {
            return String::new();
        }
        let Some(blocked) = &self.plan.blocked else { return String::new() };
        match blocked.stage {
            Stage::Cgroup | Stage::Volumes | Stage::Sandbox => {
                let failed = |error| format!("waiting for {}: {error}", blocked.on);
                blocked.last_error.as_ref().map(failed).unwrap_or_default()
            }
            Stage::Network => blocked.on.clone(),
            Stage::Admission => format!("waiting for {}", blocked.on),
            Stage::Image
            | Stage::Create
            | Stage::Start
            | Stage::PostStart
            | Stage::Init
            | Stage::Resize
            | Stage::Restart
            | Stage::Stop
            | Stage::Status => String::new(),
        }
    }
}
