//! Admission: whether this node takes a pod. One file per check, all of them pure.
//!
//! Asked once, when a pod arrives, with what the node is and what it has taken already; upstream's
//! order, reasons and messages. A rejected pod never starts: its status becomes `Failed` with the
//! [`Rejection`], and a warning event says the same. A pod whose containers already run here (it
//! was admitted before this process began) is never sent away: what would have been its rejection
//! is handed back, to be logged.

mod apparmor;
mod config;
mod features;
mod host_ports;
mod node_affinity;
mod os;
mod preempt;
mod pressure;
mod resources_fit;
mod supplemental_groups;
pub mod sysctls;
mod taints;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use crate::model::{Pod, Pressure, pod};
use crate::resources::Amounts;

pub use features::Features;
pub use preempt::{PREEMPTING, PREEMPTION_MESSAGE};
pub use sysctls::{PatternError, SysctlAllowlist};

/// The reason and message for a pod that comes while the machine shuts down.
const NODE_SHUTDOWN: &str = "NodeShutdown";
const NODE_SHUTDOWN_MESSAGE: &str = "Pod was rejected as the node is shutting down.";

/// Everything that admission looks at.
#[derive(Clone, Copy, Debug)]
pub struct AdmitInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The node.
    pub node: NodeView<'a>,
    /// What pods may have of the node: `status.allocatable`, `pods` included.
    pub allocatable: &'a Amounts,
    /// The pods that are admitted and not over yet; not the pod itself.
    pub others: &'a [Arc<Pod>],
    /// Whether containers of the pod run here already.
    pub adopted: bool,
    /// Why the pod cannot be given what it asks for besides CPU time and memory.
    pub refused: Option<&'a Rejection>,
    /// The sysctls that pods may set.
    pub sysctls: &'a SysctlAllowlist,
    /// Whether the kernel can enforce AppArmor profiles.
    pub apparmor: bool,
    /// What the node can do, of what pods may need.
    pub features: &'a Features,
    /// What the node is short of.
    pub pressure: Pressure,
    /// Whether the machine is shutting down.
    pub shutting_down: bool,
}

/// The node as the API has it, or as it would be registered where there is no API.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its taints.
    pub taints: &'a [api::Taint],
    /// `status.features.supplementalGroupsPolicy`: whether the runtime honours it.
    pub supplemental_groups_policy: bool,
}

/// The pod is taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// Pods to be evicted first, with [`PREEMPTING`] and [`PREEMPTION_MESSAGE`]: the pod is
    /// critical and there is no room.
    pub preempt: Vec<Arc<Pod>>,
    /// What would have been its rejection if it were not running here already.
    pub overlooked: Option<Rejection>,
}

/// The pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Upstream's reason: of the status and of the event.
    pub reason: String,
    /// Upstream's message: of the event; the status puts `Pod was rejected: ` before it.
    pub message: String,
    /// Whether only labels of the node stand against it: read the node from the API and ask once
    /// more, the labels may be old.
    pub is_stale_node: bool,
}

impl Rejection {
    /// A rejection that a newer Node object does not change.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), is_stale_node: false }
    }
}

/// Why one of the scheduler's checks fails on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Misfit {
    /// There is not enough of a resource.
    Resource { name: String, requested: i64, used: i64, capacity: i64 },
    /// Something else.
    Predicate { name: &'static str, description: &'static str },
}

impl Misfit {
    fn reject(&self) -> Rejection {
        match self {
            Self::Resource { name, requested, used, capacity } => Rejection::new(
                format!("OutOf{name}"),
                format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                ),
            ),
            Self::Predicate { name, description } => {
                Rejection::new(*name, format!("Predicate {name} failed: {description}"))
            }
        }
    }
}

/// Decides.
pub fn admit(input: &AdmitInput<'_>) -> Result<Admitted, Rejection> {
    match decide(input) {
        Err(rejection) if input.adopted => {
            Ok(Admitted { preempt: Vec::new(), overlooked: Some(rejection) })
        }
        Ok(_) if input.adopted => Ok(Admitted::default()),
        decision => decision,
    }
}

/// Upstream's order.
fn decide(input: &AdmitInput<'_>) -> Result<Admitted, Rejection> {
    pressure::check(input)?;
    input.sysctls.check(input.pod)?;
    if let Some(refused) = input.refused {
        return Err(refused.clone());
    }
    os::check(input.pod)?;
    supplemental_groups::check(input)?;
    let preempt = fit(input)?;
    apparmor::check(input)?;
    features::check(input)?;
    if input.shutting_down {
        return Err(Rejection::new(NODE_SHUTDOWN, NODE_SHUTDOWN_MESSAGE));
    }
    Ok(Admitted { preempt, overlooked: None })
}

/// The checks that the scheduler makes too. Of several that fail the first is reported. For a
/// critical pod a lack of resources is no reason: others make room.
fn fit(input: &AdmitInput<'_>) -> Result<Vec<Arc<Pod>>, Rejection> {
    let mut misfits = resources_fit::check(input);
    misfits.extend(node_affinity::check(input));
    misfits.extend(node_name(input));
    misfits.extend(host_ports::check(input));
    misfits.extend(taints::check(input));
    let Some(first) = misfits.first() else { return Ok(Vec::new()) };
    let only_labels = misfits.iter().all(
        |misfit| matches!(misfit, Misfit::Predicate { name, .. } if *name == node_affinity::NAME),
    );
    if !pod::is_critical(input.pod) {
        return Err(Rejection { is_stale_node: only_labels, ..first.reject() });
    }
    if let Some(other) = misfits.iter().find(|misfit| matches!(misfit, Misfit::Predicate { .. })) {
        return Err(Rejection { is_stale_node: only_labels, ..other.reject() });
    }
    preempt::make_room(input.pod, input.others, &misfits)
}

fn node_name(input: &AdmitInput<'_>) -> Option<Misfit> {
    let wanted =
        input.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    (!wanted.is_empty() && wanted != input.node.name).then_some(Misfit::Predicate {
        name: "NodeName",
        description: "node(s) didn't match the requested node name",
    })
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests;
