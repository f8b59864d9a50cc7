//! One pod as the container runtime reports it. Made by `pleg` from CRI answers; read by the
//! planner and the status.
//!
//! It holds observations only, no wishes: an id that is not in an [`ObservedPod`] does not exist
//! for the planner.

use std::net::IpAddr;

use super::ids::{ContainerId, SandboxId};
use super::time::Wall;

/// All sandboxes and containers of one pod, each newest first (by creation, then attempt).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    /// The pod's sandboxes.
    pub sandboxes: Vec<ObservedSandbox>,
    /// The pod's containers, of every sandbox.
    pub containers: Vec<ObservedContainer>,
}

impl ObservedPod {
    /// Returns the newest sandbox.
    pub fn latest_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first()
    }

    /// Returns the newest container of this name.
    pub fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Returns the container with this id.
    pub fn container(&self, id: &ContainerId) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| &container.id == id)
    }

    /// Returns true if nothing of the pod is left in the runtime.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// One pod sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: SandboxId,
    /// The attempt number in the sandbox's metadata.
    pub attempt: u32,
    /// The sandbox's state.
    pub state: SandboxState,
    /// The time at which the runtime created the sandbox.
    pub created_at: Wall,
    /// The sandbox's addresses, the runtime's primary first; empty for a hostNetwork pod.
    pub ips: Vec<IpAddr>,
    /// True if the sandbox uses the node's network namespace.
    pub host_network: bool,
    /// The runtime handler (RuntimeClass) of the sandbox; empty for the default.
    pub runtime_handler: String,
    /// True if the sandbox was made for a static pod.
    pub is_static: bool,
}

/// The state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// The sandbox works.
    Ready,
    /// The sandbox has been stopped or has died.
    NotReady,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: ContainerId,
    /// The name in the pod spec.
    pub name: String,
    /// The sandbox that the container lives in.
    pub sandbox: SandboxId,
    /// The restart count (`io.kubernetes.container.restartCount`, else the attempt).
    pub restart_count: u32,
    /// `io.kubernetes.container.hash`: of image and name; zero when absent or unreadable.
    pub hash: u64,
    /// The image as the spec had it (status `image`).
    pub image: String,
    /// The image reference or id that the runtime resolved (status `imageID`).
    pub image_ref: String,
    /// The time at which the runtime created the container.
    pub created_at: Wall,
    /// The container's state.
    pub state: ContainerState,
    /// The user of the container's first process, if the runtime reports it.
    pub user: Option<LinuxUser>,
    /// The resources that the runtime reports as applied.
    pub resources: Option<AppliedResources>,
    /// The mounts, for `volumeMounts[].recursiveReadOnly` in the status.
    pub mounts: Vec<ObservedMount>,
    /// The path of the log that the runtime writes.
    pub log_path: String,
    /// The stop signal that the runtime will send, e.g. `SIGTERM`, if it reports one.
    pub stop_signal: Option<String>,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// Created and not started.
    Created,
    /// Running.
    Running {
        /// The time of the start.
        started_at: Wall,
    },
    /// Ended.
    Exited(Exit),
    /// Unknown to the runtime.
    Unknown,
}

impl ContainerState {
    /// Returns true for a running container.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Running { .. } => true,
            Self::Created | Self::Exited(_) | Self::Unknown => false,
        }
    }

    /// Returns the end of a container that has ended.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited(exit) => Some(exit),
            Self::Created | Self::Running { .. } | Self::Unknown => None,
        }
    }
}

/// The end of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The time of the start; `None` if the container never started.
    pub started_at: Option<Wall>,
    /// The time of the end.
    pub finished_at: Wall,
    /// The exit code; 128 + n for signal n.
    pub exit_code: i32,
    /// The runtime's reason, e.g. `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// The termination message, by its policy and within its limit.
    pub message: String,
}

/// The facts about a container that are kept after its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The container's restart count.
    pub restart_count: u32,
    /// The container's end.
    pub exit: Option<Exit>,
}

/// User and groups of a container's first process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxUser {
    /// The user id.
    pub uid: i64,
    /// The primary group id.
    pub gid: i64,
    /// The supplementary group ids.
    pub supplemental_groups: Vec<i64>,
}

/// The resources that the runtime reports as applied. `None`: not reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedResources {
    /// CPU shares (cgroup v1 scale).
    pub cpu_shares: Option<i64>,
    /// CFS quota in microseconds.
    pub cpu_quota: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period: Option<i64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
}

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedMount {
    /// The path inside the container.
    pub container_path: String,
    /// The path on the node.
    pub host_path: String,
    /// True if the mount is read-only.
    pub read_only: bool,
    /// True if everything mounted below is read-only, too.
    pub recursive_read_only: bool,
}
