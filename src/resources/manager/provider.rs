//! The seam between the manager and what gives something to containers: devices today; CPUs,
//! memory and claims of DRA have the same shape. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::Allocation;
use crate::model::{Pod, PodUid, pod};
use crate::resources::devices::error::DeviceError;
use crate::resources::devices::{Answer, Call};

/// One container that the node is asked to give something to.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: api::Container,
    /// Whether it runs already: then it keeps what it has, whatever has become of it.
    pub running: bool,
}

impl Ask {
    /// The pod's UID.
    pub fn uid(&self) -> PodUid {
        pod::uid(&self.pod)
    }
}

/// A set of NUMA nodes that a resource can be taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The nodes.
    pub nodes: BTreeSet<i64>,
    /// Whether no smaller set would do on an empty machine.
    pub preferred: bool,
}

/// What comes next on a container's way to what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It has everything.
    Done,
    /// A plugin is to be called, and [`Provider::allocate`] to be told its answer.
    Call(Call),
}

/// Gives one kind of thing to containers, and remembers what it gave.
pub trait Provider {
    /// The sets of NUMA nodes of the machine (`nodes`) that could serve the container, by resource.
    /// A resource without an entry has no preference; one without a hint cannot be had.
    fn hints(&self, ask: &Ask, nodes: &BTreeSet<i64>) -> BTreeMap<String, Vec<Hint>>;

    /// Decides what the container gets, from `affinity` if there is one, and sets it aside. Begins
    /// without an answer; after a [`Step::Call`] it is called again with the answer to it. Asking
    /// for what the container has already changes nothing.
    fn allocate(
        &mut self,
        ask: &Ask,
        affinity: Option<&BTreeSet<i64>>,
        answer: Option<Answer>,
    ) -> Result<Step, DeviceError>;

    /// Adds what the container has to `allocation`.
    fn add_to(&self, uid: &PodUid, container: &str, allocation: &mut Allocation);

    /// Frees what the pod has. Returns whether it had anything.
    fn forget(&mut self, uid: &PodUid) -> bool;
}
