//! Why something has not happened yet: the waiting reasons of containers, what a pod is blocked on,
//! the verdicts of probes and the state of a pod's volumes. Written by one subsystem each, read by
//! the planner and the status.

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

/// The part of a pod's way that something keeps it from passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The node has no place for it yet.
    Admission,
    /// Its cgroup and directories are made or removed.
    Cgroup,
    /// Its volumes are set up or torn down.
    Volumes,
    /// Its sandbox is made.
    Sandbox,
    /// The node's network is not ready.
    Network,
    /// An image is pulled.
    Image,
    /// A container is created.
    Create,
    /// A container is started, or its back-off runs.
    Start,
    /// A postStart hook runs.
    PostStart,
    /// An init container runs.
    Init,
    /// Its containers are given other resources.
    Resize,
    /// All its containers are started again in place.
    Restart,
    /// Its containers and sandboxes stop.
    Stop,
    /// The API server accepts its last status.
    Status,
}

impl Stage {
    /// The stage as events, `/debug/blocked` and the metric name it, e.g. `postStart`.
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

/// What a pod waits for, since when, what went wrong last and when it is tried again (invariant
/// 12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The stage that the pod is in.
    pub stage: Stage,
    /// What exactly, e.g. `volume "config": configmap "web" not found`.
    pub on: String,
    /// Since when, as far as the planner can tell: whoever shows it keeps the earliest while
    /// `stage` and `on` stay.
    pub since: Now,
    /// The last error, if one was seen.
    pub last_error: Option<String>,
    /// When it is tried again; `None`: as soon as the thing happens.
    pub next_try: Option<Mono>,
}

/// The verdicts of the probes of one pod's running containers. A container without an entry has no
/// verdict yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeVerdicts {
    /// By container id: verdicts never outlive the container that they are about.
    pub containers: BTreeMap<ContainerId, ContainerVerdict>,
}

/// The verdicts about one container. `None`: no such probe, or no verdict yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerVerdict {
    /// Startup probe: `Some(true)` once it has succeeded.
    pub startup: Option<ProbeOutcome>,
    /// Readiness probe.
    pub readiness: Option<ProbeOutcome>,
    /// Liveness probe: a failure asks for a restart.
    pub liveness: Option<ProbeOutcome>,
}

/// What a probe says after its thresholds.
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
    /// Nobody asked for them yet, and nothing is known to be mounted.
    #[default]
    Absent,
    /// Being set up, or being tried again.
    Pending {
        /// The volumes that are missing, in spec order, each with its last error (empty when it is
        /// merely not done).
        missing: Vec<(String, String)>,
        /// When a failed one is tried again.
        next_try: Option<Mono>,
        /// Whether all that they are made of is there and nothing has failed: the sandbox may be
        /// made meanwhile.
        on_their_way: bool,
    },
    /// All are in place.
    Ready,
    /// Being torn down; the text says what is left.
    TearingDown {
        /// The last error, empty when it is merely not done.
        last_error: String,
    },
}
