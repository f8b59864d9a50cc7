//! Where a pod is in its life on this node: syncing, terminating, terminated. One way only.
//!
//! ```text
//!   Syncing ──(deleted | evicted | deadline | finished | removed)──► Terminating ──(all stopped)──► Terminated
//! ```

use std::time::Duration;

use super::time::{Mono, Now};

/// The three states of a pod's life on the node (upstream's pod worker states).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// The pod should run.
    Syncing,
    /// The pod must stop; nothing is created or started any more.
    Terminating(Terminating),
    /// Every container and sandbox has stopped; what is left is clean-up, the final status and the
    /// deletion.
    Terminated(Terminating),
}

/// Why and since when a pod stops. The grace only shrinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminating {
    /// What made it stop.
    pub cause: TerminationCause,
    /// When it began to stop.
    pub since: Now,
    /// The whole grace period, counted from `since`.
    pub grace: Duration,
}

impl Terminating {
    /// The moment after which containers are killed without mercy.
    pub fn deadline(&self) -> Mono {
        self.since.mono.after(self.grace)
    }
}

/// What makes a pod stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TerminationCause {
    /// The API object has a deletion timestamp.
    Deleted,
    /// The object is gone from its source (force deletion, static file removed) or belongs to
    /// nobody.
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

impl Lifecycle {
    /// Whether the pod must not start anything any more.
    pub fn is_stopping(&self) -> bool {
        match self {
            Self::Syncing => false,
            Self::Terminating(_) | Self::Terminated(_) => true,
        }
    }

    /// Why it stops, if it does.
    pub fn terminating(&self) -> Option<&Terminating> {
        match self {
            Self::Syncing => None,
            Self::Terminating(terminating) | Self::Terminated(terminating) => Some(terminating),
        }
    }
}
