//! The input of a status: the values that the worker gathers for each computation. Pure.
//!
//! The files beside this one read [`ComputeInput`] and never each other's results, but for the
//! status that is being made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use crate::model::observed::Remembered;
use crate::model::{
    ContainerId, Lifecycle, Now, ObservedPod, Pod, ProbeVerdicts, ResizeVerdict, Waiting,
};
use crate::resources::Figures;
use crate::resources::devices::PodHealth;

/// The input of one computation.
#[derive(Clone, Copy, Debug)]
pub struct ComputeInput<'a> {
    /// The pod as its source has it; for a static pod the static pod, not its mirror.
    pub pod: &'a Pod,
    /// The stage of the pod's life.
    pub lifecycle: &'a Lifecycle,
    /// The pod's sandboxes and containers in the runtime.
    pub observed: &'a ObservedPod,
    /// The status that this process computed last; none the first time.
    pub previous: Option<&'a api::PodStatus>,
    /// The API's status: the watched object's, or a static pod's mirror's. None: the one in `pod`.
    pub recorded: Option<&'a api::PodStatus>,
    /// The reasons for which containers do not run, from the planner.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The containers whose end is not shown before their successor runs, from the planner.
    pub replaced: &'a BTreeSet<ContainerId>,
    /// The progress of a resize.
    pub resize: &'a ResizeState,
    /// CPU and memory of the pod's cgroup; `None`: not known, and taken for what they should be.
    pub cgroup: Option<Figures>,
    /// The health of the devices of its containers; `None`: they have none, or it is not shown.
    pub devices: Option<&'a PodHealth>,
    /// The verdicts of the probes.
    pub probes: &'a ProbeVerdicts,
    /// The ends of containers that are already removed, by name.
    pub remembered: &'a BTreeMap<String, Remembered>,
    /// The facts that are the same for all pods of the node.
    pub node: &'a NodeFacts,
    /// The time: for transition times and the start time.
    pub now: Now,
}

/// The progress of a resize of the pod: the two conditions that show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeState {
    /// `PodResizePending`: the newest resize is not granted.
    pub pending: Option<PendingResize>,
    /// `PodResizeInProgress`: the granted one is being carried out.
    pub in_progress: Option<ResizeInProgress>,
}

/// A resize that is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingResize {
    /// Why not.
    pub verdict: ResizeVerdict,
    /// The generation of the object that asks for it.
    pub generation: Option<i64>,
}

/// A resize that is being carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeInProgress {
    /// Why the last attempt failed; it is tried again.
    pub error: Option<String>,
    /// The generation of the object that was granted.
    pub generation: Option<i64>,
}

/// The facts of the node that statuses show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's addresses, primary first; the second, if any, is of the other family. Empty: not
    /// known yet, or no API.
    pub host_ips: Vec<IpAddr>,
    /// True if a pod's IPv6 address comes first because the node's configured address is IPv6.
    pub prefers_ipv6: bool,
    /// The runtime's name, e.g. `containerd`: the scheme of container ids.
    pub runtime: String,
    /// The runtime handlers that can mount read-only recursively; the default handler is the empty
    /// text.
    pub recursive_read_only: BTreeSet<String>,
    /// True if statuses show the stop signal of a container (feature gate `ContainerStopSignals`).
    pub shows_stop_signals: bool,
    /// True if statuses lack the condition `PodReadyToStartContainers` (its feature gate is off).
    pub hides_ready_to_start: bool,
}
