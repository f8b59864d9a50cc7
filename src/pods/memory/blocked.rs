//! The report of a wait that has lasted: one event of our own per cause (upstream has none, or a
//! generic one). Pure.

use std::time::Duration;

use crate::model::reason::event;
use crate::model::{Blocked, EventType, Lifecycle, Mono, Now, Stage};
use crate::pods::plan::types::Notice;

/// How long a wait must last before it is reported.
const REPORTED_AFTER: Duration = Duration::from_secs(10);

/// How far the report of a pod's wait is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum BlockedReport {
    /// The pod does not wait, or users learn of it elsewhere.
    #[default]
    Nothing,
    /// It waits, and the report becomes due.
    Due {
        /// Stage and object of the wait.
        cause: String,
        /// When.
        at: Mono,
    },
    /// The wait has been reported.
    Reported {
        /// Stage and object of the wait.
        cause: String,
    },
}

impl BlockedReport {
    /// Follows what the plan says of the wait. Returns the event that has become due, and when the
    /// next one will.
    pub(super) fn follow(
        &mut self,
        blocked: Option<&Blocked>,
        lifecycle: &Lifecycle,
        now: Now,
    ) -> (Option<Notice>, Option<Mono>) {
        let Some(blocked) = blocked.filter(|blocked| !is_shown_elsewhere(blocked, lifecycle))
        else {
            *self = Self::Nothing;
            return (None, None);
        };

        // A stop within its grace is expected.
        if let Lifecycle::Terminating(terminating) = lifecycle
            && now.mono < terminating.deadline()
        {
            return (None, Some(terminating.deadline()));
        }

        let now_cause = format!("{}: {}", blocked.stage, blocked.on);
        match self {
            Self::Reported { cause } if *cause == now_cause => (None, None),
            Self::Due { cause, at } if *cause == now_cause && *at > now.mono => (None, Some(*at)),
            Self::Due { cause, .. } if *cause == now_cause => {
                *self = Self::Reported { cause: now_cause };
                (Some(notice(blocked, now)), None)
            }
            Self::Nothing | Self::Due { .. } | Self::Reported { .. } => {
                let at = now.mono.after(REPORTED_AFTER);
                *self = Self::Due { cause: now_cause, at };
                (None, Some(at))
            }
        }
    }
}

/// Returns true if users learn of a wait anyway: by the event of the failure, or by the status
/// (init containers, network).
fn is_shown_elsewhere(blocked: &Blocked, lifecycle: &Lifecycle) -> bool {
    !lifecycle.is_stopping()
        && (blocked.last_error.is_some() || matches!(blocked.stage, Stage::Init | Stage::Network))
}

fn notice(blocked: &Blocked, now: Now) -> Notice {
    let seconds = now.mono.since(blocked.since.mono).as_secs();
    let error = blocked
        .last_error
        .as_ref()
        .map(|error| format!("; last error: {error}"))
        .unwrap_or_default();
    Notice {
        dedup: String::new(),
        container: None,
        event_type: EventType::Warning,
        reason: event::POD_BLOCKED,
        message: format!("waiting for {} for {seconds} s: {}{error}", blocked.stage, blocked.on),
    }
}
