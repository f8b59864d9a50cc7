//! Warnings of a request: events about what was left out or cut. Pure.

/// An event to emit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is about.
    pub target: WarningTarget,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningTarget {
    /// The pod.
    Pod,
    /// The node.
    Node,
}
