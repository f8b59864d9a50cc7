//! What others say about one pod: the node's configuration, the network, the volume subsystem, the
//! probes, the pod's source, the API server. Pure.
//!
//! [`super::Memory`] stores the newest value of each; the planner reads them. Nothing here is
//! derived from what this process did: that is [`super::known`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use crate::cni::NetworkProblem;
use crate::model::{ContainerId, Mono, Phase, ProbeVerdicts, SandboxId, VolumesState, Wall};
use crate::resources::PodCgroupPolicy;

/// The facts about one pod, each as it was last reported.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's configuration.
    pub config: Config,
    /// Why no new sandbox may be made on this node; `None`: it may.
    pub network: Option<NetworkProblem>,
    /// The pods that are preempted for this one and have yet to stop, as users name them.
    pub preemption_victims: Vec<String>,
    /// The pod's volumes.
    pub volumes: VolumesState,
    /// The verdicts of the probes.
    pub probes: Arc<ProbeVerdicts>,
    /// The API's last status of the pod at adoption.
    pub recorded: Recorded,
    /// The pod's source.
    pub source: Source,
    /// True once the API server has accepted the newest status, or if there is no object to write
    /// one to.
    pub status_accepted: bool,
    /// True while other pods wait for their start or their stop.
    pub has_backlog: bool,
    /// Containers that have ended and that the node wants removed.
    pub collect: BTreeSet<ContainerId>,
}

impl Facts {
    /// Returns true if the object is gone from its source: deleted from the API, file removed.
    pub fn is_gone(&self) -> bool {
        match self.source {
            Source::Present => false,
            Source::Gone(_) => true,
        }
    }
}

/// The part of the node's configuration that the planner reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// The longest crash back-off (`crashLoopBackOff.maxContainerRestartPeriod`); zero: 300 s.
    pub max_backoff: Duration,
    /// The crash back-off that the first restart arms; zero: 10 s.
    pub initial_backoff: Duration,
    /// What is written into pods' cgroups.
    pub cgroups: PodCgroupPolicy,
    /// Enables the restart rule `RestartAllContainers` (feature gate
    /// `RestartAllContainersOnContainerExits`). Without it the container's policy decides.
    pub restart_all: bool,
    /// How many containers that have ended are kept of each name beyond the newest one
    /// (`--maximum-dead-containers-per-container`); zero means one.
    pub dead_kept: usize,
}

/// The state of a pod's object at its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The source has the object.
    #[default]
    Present,
    /// The object is gone: containers and sandboxes that are left are removed.
    Gone(Removal),
}

/// When the remains of a pod whose object is gone are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// At once.
    Due,
    /// Later.
    Delayed {
        /// The next moment at which removal is considered.
        at: Mono,
        /// The moment after which it is not delayed further.
        at_most: Mono,
    },
}

/// The API's last status of a pod, read once at adoption.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// A terminal phase, which is never left.
    pub terminal_phase: Option<Phase>,
    /// Init containers that the API knows to have ended with success.
    pub init_done: Vec<String>,
    /// When the first of those was started, in whole seconds.
    pub init_began: Option<Wall>,
    /// The newest sandbox at adoption, if `init_done` can have happened in it. Counts only while it
    /// is the pod's sandbox.
    pub sandbox: Option<SandboxId>,
    /// When the pod was first acknowledged: `status.startTime`.
    pub start_time: Option<Wall>,
}
