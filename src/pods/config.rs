//! The settings of the CRI backend from the kubelet's configuration: the planner's, those of
//! requests to the runtime, the rotation of logs.
//!
//! Pure.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::Config;
use super::logs::Policy;
use super::request::{self, DnsSettings, Swap};
use crate::config::types::GoDuration;
use crate::config::{Gate, Loaded};
use crate::linux::machine::Kernel;
use crate::model::quantity::Amount;

impl From<&Loaded> for Config {
    fn from(loaded: &Loaded) -> Self {
        let period = loaded.config.crash_loop_back_off.max_container_restart_period;
        Self {
            max_backoff: period.map_or(Duration::from_secs(300), GoDuration::to_std),
            restart_all: loaded.gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS),
        }
    }
}

impl request::Settings {
    /// The settings of requests on a node with these addresses (`--node-ip`), memory and swap.
    pub fn from_loaded(loaded: &Loaded, kernel: Kernel, node_ips: Vec<IpAddr>, swap: Swap) -> Self {
        let config = &loaded.config;
        let root_dir = Path::new(&loaded.flags.root_dir);
        Self {
            dns: DnsSettings {
                cluster_dns: config.cluster_dns.iter().filter_map(|ip| ip.parse().ok()).collect(),
                cluster_domain: config.cluster_domain.clone(),
                node_ips,
                no_resolv_conf: config.resolv_conf.is_empty(),
            },
            pod_logs_dir: config.pod_logs_dir.clone(),
            seccomp_profile_root: root_dir.join("seccomp").to_string_lossy().into_owned(),
            seccomp_default: config.seccomp_default || loaded.flags.seccomp_default,
            cpu_cfs_quota: config.cpu_cfs_quota,
            cpu_cfs_quota_period: config.cpu_cfs_quota_period.to_std(),
            cgroup_v2: kernel.cgroup_v2,
            swap_controller: kernel.swap_controller,
            limited_swap: (config.memory_swap.swap_behavior == "LimitedSwap").then_some(swap),
            single_process_oom_kill: config.single_process_oom_kill.unwrap_or(!kernel.cgroup_v2),
            huge_page_sizes: kernel.huge_page_sizes,
            extra_masked_paths: kernel.thermal_throttle,
            selinux: kernel.selinux,
            stop_signals: loaded.gates.enabled(Gate::CONTAINER_STOP_SIGNALS),
        }
    }
}

impl Policy {
    /// When containers' logs are rotated; `None` for a negative size: never.
    pub fn from_loaded(loaded: &Loaded) -> Option<Self> {
        let config = &loaded.config;
        let size = Amount::parse(&config.container_log_max_size).ok()?.units();
        Some(Self {
            max_size: u64::try_from(size).ok()?,
            max_files: usize::try_from(config.container_log_max_files).ok()?,
            workers: usize::try_from(config.container_log_max_workers).unwrap_or(1),
            every: config.container_log_monitor_interval.to_std(),
        })
    }
}
