//! The reasons why something has not happened yet: the waiting reasons of containers, the stage
//! that blocks a pod, the verdicts of probes and the state of a pod's volumes.
//!
//! Each is written by one subsystem, and read by the planner and the status.

use std::collections::BTreeMap;
use std::fmt;

use super::ids::ContainerId;
use super::time::{Mono, Now};

/// `state.waiting` of a container status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Upstream's reason, e.g. `ContainerCreating`, `CrashLoopBackOff`.
    pub reason: String,
    /// Upstream's message; may be empty.
    pub message: String,
}

/// A stage in the life of a pod at which it may have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The node has no place for the pod yet.
    Admission,
    /// The pod's cgroup and directories are being created or removed.
    Cgroup,
    /// The pod's volumes are being set up or torn down.
    Volumes,
    /// The sandbox is being created.
    Sandbox,
    /// The node's network is not ready.
    Network,
    /// An image is being pulled.
    Image,
    /// A container is being created.
    Create,
    /// A container is being started, or its back-off runs.
    Start,
    /// A postStart hook runs.
    PostStart,
    /// An init container runs.
    Init,
    /// The resources of containers are being changed.
    Resize,
    /// All containers are being started again in place.
    Restart,
    /// The containers and sandboxes are stopping.
    Stop,
    /// The API server has not accepted the last status yet.
    Status,
}

impl Stage {
    /// Returns the stage's name in events, at `/debug/blocked` and in the metric, e.g. `postStart`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Cgroup => "cgroup",
            Self::Volumes => "volumes",
            Self::Sandbox => "sandbox",
            Self::Network => "network",
            Self::Image => "image",
            Self::Create => "create",
            Self::Start => "start",
            Self::PostStart => "postStart",
            Self::Init => "init",
            Self::Resize => "resize",
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Status => "status",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The wait of a pod: for what, since when, the last error and the next attempt (invariant 12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The stage that the pod is in.
    pub stage: Stage,
    /// The awaited thing, e.g. `volume "config": configmap "web" not found`.
    pub on: String,
    /// The begin of the wait, as far as the planner knows: readers keep the earliest time while
    /// `stage` and `on` stay.
    pub since: Now,
    /// The last error, if any.
    pub last_error: Option<String>,
    /// The time of the next attempt; `None` if it begins as soon as the awaited thing happens.
    pub next_try: Option<Mono>,
}

/// The verdicts of the probes of one pod's running containers. A container without an entry has no
/// verdict yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeVerdicts {
    /// The verdicts by container id: they end with their container.
    pub containers: BTreeMap<ContainerId, ContainerVerdict>,
}

/// The verdicts on one container. `None`: no such probe, or no verdict yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerVerdict {
    /// Startup probe: `Some(true)` once it has succeeded.
    pub startup: Option<ProbeOutcome>,
    /// Readiness probe.
    pub readiness: Option<ProbeOutcome>,
    /// Liveness probe: a failure causes a restart.
    pub liveness: Option<ProbeOutcome>,
}

/// The outcome of a probe after its thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The success threshold was reached.
    Success,
    /// The failure threshold was reached.
    Failure,
}

/// The state of all volumes of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VolumesState {
    /// The volumes have not been requested yet, and none is known to be mounted.
    #[default]
    Absent,
    /// The volumes are being set up, or will be tried again.
    Pending {
        /// The missing volumes in spec order, each with its last error (empty if set-up is merely
        /// not done).
        missing: Vec<(String, String)>,
        /// The time at which a failed volume is tried again.
        next_try: Option<Mono>,
        /// True if all inputs of the volumes exist and nothing has failed: the sandbox may be
        /// created meanwhile.
        on_their_way: bool,
    },
    /// All volumes are in place.
    Ready,
    /// The volumes are being torn down.
    TearingDown {
        /// The last error; empty if the tear-down is merely not done.
        last_error: String,
    },
}
