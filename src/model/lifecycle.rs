//! The life of a pod on this node: syncing, terminating, terminated. It goes one way only.
//!
//! ```text
//!   Syncing ──(deleted | evicted | deadline | finished | removed)──► Terminating ──(all stopped)──► Terminated
//! ```
//!
//! Kept by the pod's memory, read by the planner and the status. A pod never goes back to an
//! earlier state.

use std::time::Duration;

use super::time::{Mono, Now};

/// The three states of a pod's life on the node (upstream's pod worker states).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// The pod should run.
    Syncing,
    /// The pod must stop; nothing is created or started any more.
    Terminating(Terminating),
    /// Every container and sandbox has stopped. What remains is the clean-up, the final status and
    /// the deletion.
    Terminated(Terminating),
}

/// The cause and time of a pod's stop. The grace only shrinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminating {
    /// The cause of the stop.
    pub cause: TerminationCause,
    /// The time at which the pod began to stop.
    pub since: Now,
    /// The whole grace period, counted from `since`.
    pub grace: Duration,
}

impl Terminating {
    /// Returns the time after which containers are killed.
    pub fn deadline(&self) -> Mono {
        self.since.mono.after(self.grace)
    }
}

/// The causes of a pod's stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminationCause {
    /// The API object has a deletion timestamp.
    Deleted,
    /// The object is gone from its source (force deletion, static file removed), or no source has
    /// it.
    Removed,
    /// `activeDeadlineSeconds` has passed: phase Failed, reason `DeadlineExceeded`.
    DeadlineExceeded,
    /// All containers have ended for good: the phase follows from their exit codes.
    Finished,
    /// Admission refused it: it never started.
    Rejected {
        /// Upstream's reason, e.g. `OutOfcpu`.
        reason: String,
        /// Upstream's message.
        message: String,
    },
    /// The node evicts it.
    Evicted {
        /// Upstream's reason, e.g. `Evicted`.
        reason: String,
        /// Upstream's message.
        message: String,
    },
}

impl TerminationCause {
    /// Returns the word for logs, e.g. `deleted`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Removed => "removed",
            Self::DeadlineExceeded => "deadline exceeded",
            Self::Finished => "finished",
            Self::Rejected { .. } => "rejected",
            Self::Evicted { .. } => "evicted",
        }
    }
}

impl Lifecycle {
    /// Returns true if the pod must not start anything any more.
    pub fn is_stopping(&self) -> bool {
        match self {
            Self::Syncing => false,
            Self::Terminating(_) | Self::Terminated(_) => true,
        }
    }

    /// Returns the cause and time of the stop; `None` while the pod should run.
    pub fn terminating(&self) -> Option<&Terminating> {
        match self {
            Self::Syncing => None,
            Self::Terminating(terminating) | Self::Terminated(terminating) => Some(terminating),
        }
    }
}
