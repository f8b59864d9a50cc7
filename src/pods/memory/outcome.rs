//! How an action ended, as the executor reports it. Pure.
//!
//! Made by `pods::execute`; [`super::Memory`] takes it in as `Event::Completed`.

use std::collections::BTreeMap;

use super::container::HookState;
use super::slot::ImageState;
use crate::model::{ContainerId, SandboxId};
use crate::pods::plan::types::{Key, KillReason};
use crate::resources::Figures;
use crate::resources::allocation::Requirements;

/// An action's end.
#[derive(Debug)]
pub struct Completion {
    /// What it worked on.
    pub key: Key,
    /// How it ended.
    pub outcome: Result<Outcome, ActionError>,
    /// Whether the runtime was changed (or may have been): the key stays in flight until it has
    /// been read again.
    pub mutated: bool,
}

/// What a success means.
#[derive(Debug)]
pub enum Outcome {
    /// Cgroup and directories exist.
    Prepared {
        /// Restart counts found in the log directories, by container.
        logged_restarts: BTreeMap<String, u32>,
        /// The figures of the pod's cgroup: those of the object that was prepared, which a newer
        /// one may have replaced, or those that an existing cgroup has. `None`: the pod has no
        /// cgroup of its own.
        cgroup: Option<Figures>,
    },
    /// The image subsystem has answered.
    Image {
        /// The container's name.
        container: String,
        /// The answer.
        state: ImageState,
    },
    /// A container runs.
    Started {
        /// Its id.
        id: ContainerId,
        /// Whether a postStart hook is to follow.
        has_post_start: bool,
    },
    /// A hook has ended.
    Hook {
        /// The container's id.
        id: ContainerId,
        /// How.
        state: HookState,
    },
    /// A silent pull has ended.
    PulledAhead {
        /// The container's name.
        container: String,
    },
    /// A container was stopped.
    Killed {
        /// Its id.
        id: ContainerId,
        /// Why.
        why: KillReason,
    },
    /// A preStop hook that was run ahead of its container's turn has ended.
    PreStopped {
        /// The container's id.
        id: ContainerId,
    },
    /// The pod has the resources that its spec asks for.
    Resized {
        /// The containers that were changed.
        containers: Vec<(ContainerId, Requirements)>,
        /// The figures that the pod's cgroup has now; `None`: the pod has none of its own.
        cgroup: Option<Figures>,
    },
    /// A container was removed so that its pod begins anew.
    Reset {
        /// Its id.
        id: ContainerId,
    },
    /// A sandbox was stopped.
    SandboxStopped {
        /// Its id.
        id: SandboxId,
    },
    /// Cgroup and directories are gone.
    CleanedUp,
    /// Nothing that the planner does not see for itself.
    Done,
}

/// Why an action failed, in the words that users read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ActionError {
    /// The waiting reason of a container start, else the stage.
    pub reason: String,
    /// The message.
    pub message: String,
}

impl ActionError {
    /// An error with upstream's reason and message.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    /// An error of our own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new("InternalError", message)
    }
}
