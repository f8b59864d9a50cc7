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
use crate::resources::PodCgroupPolicy;

impl From<&Loaded> for Config {
    fn from(loaded: &Loaded) -> Self {
        let gates = &loaded.gates;
        let (initial, max) = if gates.enabled(Gate::REDUCE_DEFAULT_CRASH_LOOP_BACK_OFF_DECAY) {
            (Duration::from_secs(1), Duration::from_secs(60))
        } else {
            (Duration::from_secs(10), Duration::from_secs(300))
        };
        let configured = loaded.config.crash_loop_back_off.max_container_restart_period;
        // Without its gate the field is refused where it is set; with it, it always has a value.
        let configured =
            configured.filter(|_| gates.enabled(Gate::KUBELET_CRASH_LOOP_BACK_OFF_MAX));
        let max_backoff = configured.map_or(max, GoDuration::to_std);

        Self {
            max_backoff,
            initial_backoff: initial.min(max_backoff),
            cgroups: PodCgroupPolicy::from(loaded),
            restart_all: gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS),
            // At least one, as upstream: the last state is its exit.
            dead_kept: usize::try_from(loaded.flags.maximum_dead_containers_per_container)
                .map_or(1, |count| count.max(1)),
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

#[cfg(test)]
mod tests {
    use crate::config::{Host, load_on};

    use super::*;

    /// The first and the longest crash back-off, in seconds, that a file gives.
    fn crash_back_off(gates: &str, fields: &str) -> (u64, u64) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("c.yaml");
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             featureGates: {{{gates}}}\n{fields}\n"
        );
        crate::linux::fs::write_atomic(&path, text.as_bytes(), 0o600).expect("written");
        let args = [format!("--config={}", path.display()), "--kubeconfig=/k".to_owned()];
        let loaded = load_on(&args, Host { cgroup_v2: true }).expect("valid");
        let config = Config::from(&loaded);
        (config.initial_backoff.as_secs(), config.max_backoff.as_secs())
    }

    #[test]
    fn the_crash_back_off_follows_its_gates() {
        let field = "crashLoopBackOff: {maxContainerRestartPeriod: 5s}";
        for (gates, file, expected) in [
            ("", "", (10, 300)),
            ("", field, (5, 5)),
            ("ReduceDefaultCrashLoopBackOffDecay: true", "", (1, 300)),
            ("ReduceDefaultCrashLoopBackOffDecay: true", field, (1, 5)),
            ("KubeletCrashLoopBackOffMax: false", "", (10, 300)),
            (
                "KubeletCrashLoopBackOffMax: false, ReduceDefaultCrashLoopBackOffDecay: true",
                "",
                (1, 60),
            ),
        ] {
            assert_eq!(crash_back_off(gates, file), expected, "{gates} {file}");
        }
    }
}
