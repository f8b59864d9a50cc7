//! The order that dispatch gives to a pod's task, and how the task ends.
//!
//! Dispatch writes it, the task reads it, on a `watch`: the latest value wins, nothing queues
//! (invariant 2). It says what is wished, never how it is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::view::PodView;
use crate::model::{Pod, ResizeVerdict, TerminationCause};

/// The order for a pod's task. The latest value wins, nothing queues (invariant 2).
#[derive(Clone, Debug)]
pub struct Directive {
    /// The newest object.
    pub pod: Arc<Pod>,
    /// Whether the object is gone from its source.
    pub gone: bool,
    /// Stop the pod for the node's sake; the grace only shrinks.
    pub stop: Option<Stop>,
    /// What was decided about the newest change of its resources.
    pub resize: Resize,
    /// The pods that make room for this one: it starts when they have stopped.
    pub room: Vec<watch::Receiver<PodView>>,
}

/// What was decided about a change of a pod's resources. The pod that its task is told of shows
/// what it has been given.
#[derive(Clone, Debug, Default)]
pub struct Resize {
    /// The generation of the object that was granted last.
    pub granted: Option<i64>,
    /// The newest wish, if it has to wait.
    pub pending: Option<PendingResize>,
}

/// A wish for other resources that has to wait.
#[derive(Clone, Debug)]
pub struct PendingResize {
    /// Why it is not granted.
    pub verdict: ResizeVerdict,
    /// The pod as it wishes to be.
    pub wanted: Arc<Pod>,
}

/// An order to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why, as users will read it.
    pub cause: TerminationCause,
    /// The grace period.
    pub grace: Duration,
}

/// How a worker's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The pod is gone from the node.
    Gone,
    /// The process ends; everything that runs stays.
    Shutdown,
}
