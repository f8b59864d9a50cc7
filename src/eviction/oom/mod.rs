//! What the kernel says of processes that it has killed for want of memory: an event on the node
//! when the whole machine ran out, and one on the pod when a container lost a process and went on.
//!
//! Fed by `/dev/kmsg`, of which only what the kernel itself wrote counts. A container whose first
//! process was killed ends, and its status says so (`OOMKilled`): that needs no event.

pub mod parse;
mod task;

use crate::apiserver::events::Recorder;
use crate::dispatch::PodsHandle;

/// What the reports are made with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Reaches the pods.
    pub pods: PodsHandle,
    /// Events.
    pub recorder: Recorder,
    /// The name of the node.
    pub node_name: String,
}

/// Returns the task that reads the kernel's log from now on. It ends if the log cannot be read.
pub fn new(deps: Deps) -> impl Future<Output = ()> {
    task::run(deps)
}
