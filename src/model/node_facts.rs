//! The facts of the node on which decisions about pods depend.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::pressure::Pressure;
use super::quantity::Amount;

/// The facts of the node that admission reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// The taints of the Node object.
    pub taints: Vec<Taint>,
    /// `status.allocatable`, `pods` included.
    pub allocatable: BTreeMap<String, Amount>,
    /// True if the runtime honours `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: bool,
    /// What the node is short of.
    pub pressure: Pressure,
    /// True while the machine shuts down.
    pub shutting_down: bool,
}

impl NodeFacts {
    /// Returns the same facts with the labels and taints of `node`.
    #[must_use]
    pub fn with_object(mut self, node: &Node) -> Self {
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self
    }
}
