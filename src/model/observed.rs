//! What the container runtime says of one pod. Made by `pleg` from CRI answers; read by the planner
//! and the status.
//!
//! Nothing here is wished for: an id that is not in an [`ObservedPod`] does not exist as far as the
//! planner knows.

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
    /// The newest sandbox.
    pub fn latest_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.first()
    }

    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The container with that id.
    pub fn container(&self, id: &ContainerId) -> Option<&ObservedContainer> {
        self.containers.iter().find(|container| &container.id == id)
    }

    /// Whether nothing of the pod is left in the runtime.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// One pod sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: SandboxId,
    /// The attempt number in its metadata.
    pub attempt: u32,
    /// Ready or not.
    pub state: SandboxState,
    /// When the runtime created it.
    pub created_at: Wall,
    /// Its addresses, the runtime's primary first; empty for a hostNetwork pod.
    pub ips: Vec<IpAddr>,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// The runtime handler (RuntimeClass) it was made with; empty for the default.
    pub runtime_handler: String,
}

/// The state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// It works.
    Ready,
    /// It has been stopped or has died.
    NotReady,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: ContainerId,
    /// The name in the pod spec.
    pub name: String,
    /// The sandbox it lives in.
    pub sandbox: SandboxId,
    /// The restart count (`io.kubernetes.container.restartCount`, else the attempt).
    pub restart_count: u32,
    /// `io.kubernetes.container.hash`: of image and name; zero when absent or unreadable.
    pub hash: u64,
    /// The image as the spec had it (status `image`).
    pub image: String,
    /// The image reference or id that the runtime resolved (status `imageID`).
    pub image_ref: String,
    /// When the runtime created it.
    pub created_at: Wall,
    /// Its state.
    pub state: ContainerState,
    /// The user it was started with, where the runtime says so.
    pub user: Option<LinuxUser>,
    /// The resources that the runtime reports as applied.
    pub resources: Option<AppliedResources>,
    /// Mounts: for `volumeMounts[].recursiveReadOnly` in the status.
    pub mounts: Vec<ObservedMount>,
    /// Where the runtime writes its log.
    pub log_path: String,
    /// The stop signal that the runtime will send, e.g. `SIGTERM`, where it says so.
    pub stop_signal: Option<String>,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum ContainerState {
    /// Created and not started.
    Created,
    /// It runs.
    Running {
        /// When it started.
        started_at: Wall,
    },
    /// It has ended.
    Exited(Exit),
    /// The runtime does not know.
    Unknown,
}

impl ContainerState {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Running { .. } => true,
            Self::Created | Self::Exited(_) | Self::Unknown => false,
        }
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited(exit) => Some(exit),
            Self::Created | Self::Running { .. } | Self::Unknown => None,
        }
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// When it had started; `None` when it never did.
    pub started_at: Option<Wall>,
    /// When it ended.
    pub finished_at: Wall,
    /// The exit code; 128 + n for a signal.
    pub exit_code: i32,
    /// The runtime's reason, e.g. `Completed`, `Error`, `OOMKilled`.
    pub reason: String,
    /// The termination message, by its policy, within its limit.
    pub message: String,
}

/// What stays known of a container after its removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its restart count.
    pub restart_count: u32,
    /// How it ended.
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

/// What the runtime says it has applied. `None`: not said.
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
    /// Read-only.
    pub read_only: bool,
    /// Read-only with everything mounted below it.
    pub recursive_read_only: bool,
}
