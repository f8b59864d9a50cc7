//! Records the steps of one pod's life: the begin and the end of each action, and the changes of
//! phase and readiness.
//!
//! Fed by the pod's task. Readers see the steps by `PodView::timeline`. Nothing is decided by them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodStatus;

use crate::model::timeline::{SharedTimeline, StepEnd, StepId};
use crate::model::{Now, Phase};
use crate::pods::memory::Event;
use crate::pods::plan::types::{Action, Key};

/// The steps that have begun and not ended, and the timeline that readers see.
#[derive(Debug)]
pub(super) struct Recorder {
    open: BTreeMap<Key, StepId>,
    shared: SharedTimeline,
}

impl Recorder {
    /// Makes the recorder of one pod.
    pub(super) fn new(shared: SharedTimeline) -> Self {
        Self { open: BTreeMap::new(), shared }
    }

    /// Returns the timeline for readers.
    pub(super) fn shared(&self) -> SharedTimeline {
        SharedTimeline::clone(&self.shared)
    }

    /// Records the begin of an action.
    pub(super) fn begin(&mut self, action: &Action, now: Now) {
        let Some((what, container)) = step(action) else { return };
        let id = self.shared.lock().begin(what, container, now);
        self.open.insert(action.key(), id);
    }

    /// Records the end of an action, if the event is one.
    pub(super) fn end(&mut self, event: &Event, now: Now) {
        let (key, end) = match event {
            Event::Completed(completion) => match &completion.outcome {
                Ok(_) => (&completion.key, StepEnd::Done),
                Err(error) => (&completion.key, StepEnd::Failed(&error.message)),
            },
            Event::Cancelled(key) => (key, StepEnd::Cancelled),
            Event::Panicked(key) => (key, StepEnd::Failed("a defect of the kubelet: see its log")),
            Event::Observed(_)
            | Event::Ordered(_)
            | Event::Volumes(_)
            | Event::Probed(_)
            | Event::Network(_)
            | Event::PreemptionVictims(_)
            | Event::Backlog(_)
            | Event::Accepted(_)
            | Event::Published { .. } => return,
        };
        let Some(id) = self.open.remove(key) else { return };
        self.shared.lock().end(id, end, now);
        if self.open.is_empty() {
            // A map that was filled once keeps the room of eleven entries.
            self.open = BTreeMap::new();
        }
    }

    /// Records what differs between two statuses of the pod: its phase, and whether it is ready.
    pub(super) fn status(&self, old: &PodStatus, new: &PodStatus, now: Now) {
        if old.phase != new.phase
            && let Some(moment) = new.phase.as_deref().and_then(phase_moment)
        {
            self.shared.lock().moment(moment, now);
        }
        match (is_ready(old), is_ready(new)) {
            (false, true) => self.shared.lock().moment("ready", now),
            (true, false) => self.shared.lock().moment("not ready", now),
            (true, true) | (false, false) => {}
        }
    }
}

/// Returns true if the status says that the pod is ready.
fn is_ready(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Returns the step of a phase that has begun. A pod begins as `Pending`, which is no news.
fn phase_moment(name: &str) -> Option<&'static str> {
    match Phase::parse(name)? {
        Phase::Pending => None,
        Phase::Running => Some("phase Running"),
        Phase::Succeeded => Some("phase Succeeded"),
        Phase::Failed => Some("phase Failed"),
    }
}

/// Returns the kind of step that an action is, and its container; `None` for what belongs to a step
/// that runs already.
fn step(action: &Action) -> Option<(&'static str, &str)> {
    Some(match action {
        Action::Prepare => ("make cgroup and directories", ""),
        Action::MountVolumes => ("set up volumes", ""),
        Action::CreateSandbox { .. } => ("create sandbox", ""),
        Action::EnsureImage { container, silent: _ } => ("have image", container),
        Action::StartContainer { container, .. } => ("create and start", container),
        Action::Resize { .. } => ("resize", ""),
        Action::PostStart { container, id: _ } => ("run postStart", container),
        Action::PreStop { container, .. } => ("run preStop", container),
        Action::KillContainer { container, .. } => ("stop", container),
        Action::HurryKill { .. } => return None,
        Action::RemoveContainer { .. } => ("remove container", ""),
        Action::StopSandbox { .. } => ("stop sandbox", ""),
        Action::RemoveSandbox { .. } => ("remove sandbox", ""),
        Action::UnmountVolumes => ("tear down volumes", ""),
        Action::CleanUp => ("remove cgroup and directories", ""),
    })
}
