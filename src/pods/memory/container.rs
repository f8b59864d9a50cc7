//! What this process knows of one container that the runtime does not say: its resources, its
//! hooks, whether and why it is being stopped. Pure.
//!
//! Entries are made by [`super::Memory`] and dropped when the runtime no longer has the container.

use crate::pods::plan::types::KillReason;
use crate::resources::allocation::Requirements;

/// The memory of one container, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    /// Resources last applied to it. If they differ from the spec, the pod is resized.
    pub given: Option<Requirements>,
    /// Its postStart hook; `None`: it has not ended.
    pub hook: Option<HookState>,
    /// Whether it is being stopped, or has been.
    pub stop: Stop,
    /// True if its preStop hook has been run, successfully or not, ahead of its kill.
    pub pre_stopped: bool,
    /// True if it was removed so that the whole pod starts from the beginning.
    pub reset: bool,
}

/// How far the postStart hook of a container is, once it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookState {
    /// It ended with success, the container has none, or it was adopted (hooks do not run twice).
    Done,
    /// It failed: the container is killed.
    Failed {
        /// The message of the event and the status.
        message: String,
    },
}

/// How far the stop of a container by this process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Not asked for.
    #[default]
    No,
    /// A kill is in flight.
    Killing(KillReason),
    /// The kill succeeded.
    Killed(KillReason),
}

impl Stop {
    /// Returns why it is being stopped, while it is.
    pub fn killing(&self) -> Option<&KillReason> {
        match self {
            Self::Killing(why) => Some(why),
            Self::No | Self::Killed(_) => None,
        }
    }

    /// Returns why it was stopped, once it has been.
    pub fn killed(&self) -> Option<&KillReason> {
        match self {
            Self::Killed(why) => Some(why),
            Self::No | Self::Killing(_) => None,
        }
    }

    /// Returns why it is being stopped, or was.
    pub fn reason(&self) -> Option<&KillReason> {
        match self {
            Self::Killing(why) | Self::Killed(why) => Some(why),
            Self::No => None,
        }
    }
}
