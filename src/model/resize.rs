//! The verdict on a resize in place that is not granted. Pure.

use super::reason::event;

/// Why a pod does not get the resources that it asks for: the decision, the pod's condition
/// `PodResizePending` and the event are made of this one value. Each has the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResizeVerdict {
    /// The node lacks the room now. The resize is decided again.
    Deferred(String),
    /// This node never grants it.
    Infeasible(String),
}

impl ResizeVerdict {
    /// Reads a condition that was written before. A reason that is none counts as deferred.
    pub fn recorded(reason: Option<&str>, message: Option<&str>) -> Self {
        let message = message.unwrap_or_default().to_owned();
        match reason {
            Some("Infeasible") => Self::Infeasible(message),
            Some(_) | None => Self::Deferred(message),
        }
    }

    /// The reason in the pod's condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deferred(_) => "Deferred",
            Self::Infeasible(_) => "Infeasible",
        }
    }

    /// The reason of the event.
    pub fn event(&self) -> &'static str {
        match self {
            Self::Deferred(_) => event::RESIZE_DEFERRED,
            Self::Infeasible(_) => event::RESIZE_INFEASIBLE,
        }
    }

    /// The text of the cause.
    pub fn message(&self) -> &str {
        match self {
            Self::Deferred(message) | Self::Infeasible(message) => message,
        }
    }
}
