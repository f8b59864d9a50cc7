//! Pod → CRI requests, and nothing else: every function here is pure, and what it needs (settings
//! of the node, fetched ConfigMaps, mounted volumes, addresses) is handed in by the executor, which
//! does the fetching and mounting.
//!
//! The order for a container: [`references()`] says what to fetch, [`environment`] composes the
//! variables, [`sub_path`] expands what must be prepared on disk, [`container_config`] makes the
//! request. For a sandbox: [`sandbox_config`].
//!
//! Texts of errors are upstream's: users see them in the waiting message and in events.

mod annotations;
mod container;
mod dns;
mod downward;
mod env;
pub(crate) mod env_file;
mod expand;
mod hash;
mod hosts;
mod input;
mod log_paths;
mod mounts;
mod references;
mod resources;
mod sandbox;
mod security;
mod services;
mod validate;
mod warning;

use std::time::Duration;

use crate::model::reason;

pub use container::container_config;
pub use dns::{DnsSettings, NoNameserver, PodDns, ResolvConf, pod_dns};
pub use env::environment;
pub use expand::sub_path;
pub use hash::container_hash;
pub use hosts::{Hostname, hostname, hosts_file, node_hosts_file};
pub use input::{ContainerInput, EnvFile, EnvInput, EnvVar, ImageUser, VolumeSource};
pub use log_paths::{container_log_path, pod_log_directory};
pub use mounts::mounts_hosts_file;
pub use references::{ObjectRef, references};
pub use resources::{PodTotals, linux_resources};
pub use sandbox::{SandboxInput, SandboxRequest, sandbox_config};
pub use warning::{Warning, WarningTarget};

/// What of the node's configuration and kernel shapes the requests. Made once, by the composition
/// root.
#[derive(Clone, Debug)]
pub struct Settings {
    /// DNS of the cluster and the node.
    pub dns: DnsSettings,
    /// `podLogsDir`, `/var/log/pods` unless configured.
    pub pod_logs_dir: String,
    /// Where Localhost seccomp profiles live, `<root dir>/seccomp`.
    pub seccomp_profile_root: String,
    /// `seccompDefault`: containers without a profile get the runtime's instead of none.
    pub seccomp_default: bool,
    /// `cpuCFSQuota`: whether CPU limits are enforced.
    pub cpu_cfs_quota: bool,
    /// `cpuCFSQuotaPeriod`.
    pub cpu_cfs_quota_period: Duration,
    /// Whether the node runs the unified cgroup hierarchy.
    pub cgroup_v2: bool,
    /// Whether the kernel has the swap controller.
    pub swap_controller: bool,
    /// `memorySwap.swapBehavior: LimitedSwap`: what containers may share in; `None`: no swap for
    /// them.
    pub limited_swap: Option<Swap>,
    /// `singleProcessOOMKill`: when unset on cgroup v2, all of a container's processes are killed
    /// together.
    pub single_process_oom_kill: bool,
    /// The kernel's huge page sizes as the runtime names them: `2MB`, `1GB`.
    pub huge_page_sizes: Vec<String>,
    /// Further paths to mask beside the fixed ones: the existing
    /// `/sys/devices/system/cpu/cpu<n>/thermal_throttle`.
    pub extra_masked_paths: Vec<String>,
    /// Whether SELinux is enabled on the node.
    pub selinux: bool,
    /// The feature gate `ContainerStopSignals`: whether `lifecycle.stopSignal` is passed on.
    pub stop_signals: bool,
}

impl Default for Settings {
    /// Upstream's defaults on a node with cgroup v2 and neither swap, huge pages nor SELinux.
    fn default() -> Self {
        Self {
            dns: DnsSettings::default(),
            pod_logs_dir: "/var/log/pods".into(),
            seccomp_profile_root: "/var/lib/kubelet/seccomp".into(),
            seccomp_default: false,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            cgroup_v2: true,
            swap_controller: false,
            limited_swap: None,
            single_process_oom_kill: false,
            huge_page_sizes: Vec::new(),
            extra_masked_paths: Vec::new(),
            selinux: false,
            stop_signals: false,
        }
    }
}

/// What the machine has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Its memory.
    pub memory: i64,
    /// Its swap.
    pub swap: i64,
}

/// Ids of the node that are the ids from 0 on in a pod with a user namespace of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The id of the node that is root in the pod.
    pub first: u32,
    /// How many there are.
    pub length: u32,
}

impl IdRange {
    /// Whether an id is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let end = |range: Self| u64::from(range.first) + u64::from(range.length);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }
}

/// Why a request cannot be made from the pod. The message is what the user sees.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecError {
    /// The waiting reason of the container (`CreateContainerConfigError`), or the event's reason
    /// for a sandbox.
    pub reason: &'static str,
    /// Upstream's message.
    pub message: String,
}

impl SpecError {
    /// An error in what a container is made from.
    pub fn container(message: impl Into<String>) -> Self {
        Self { reason: reason::container::CREATE_CONTAINER_CONFIG_ERROR, message: message.into() }
    }

    /// An error in what a sandbox is made from.
    pub fn sandbox(message: impl Into<String>) -> Self {
        Self { reason: reason::event::FAILED_CREATE_POD_SANDBOX, message: message.into() }
    }
}

/// How upstream names a pod in messages: `NAME_NAMESPACE(UID)`.
pub fn pod_in_messages(pod: &crate::model::Pod) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!(
        "{}_{}({})",
        text(&pod.metadata.name),
        text(&pod.metadata.namespace),
        text(&pod.metadata.uid)
    )
}

#[cfg(test)]
pub(super) mod testing {
    //! Pods for the tests of this folder, written as JSON.
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON reads better at the calls without a borrow"
    )]

    use crate::model::Pod;

    /// A pod `web` in `prod` with UID `u1` and this spec.
    #[track_caller]
    pub(in crate::pods) fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "prod", "uid": "u1", "labels": {"app": "web"}},
            "spec": spec,
        }))
        .expect("a pod")
    }
}
