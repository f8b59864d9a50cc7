//! The configuration of cgroups from the kubelet's, and the owner of pods' cgroups as configured.

use std::collections::BTreeMap;

use super::list::Amounts;
use super::node_limits::{self, Machine, NodeLimits};
use super::timed::{Durations, Timed};
use super::{CgroupDriver, CgroupTree, Config, PodCgroupPolicy, PodCgroups, Slices, cpu};
use crate::config::{Host, KubeletConfiguration, Loaded};
use crate::cri::condition;
use crate::linux::cgroup::{CgroupError, CgroupFs};
use crate::linux::systemd::Systemd;
use crate::model::quantity::Amount;

/// Why pods' cgroups cannot be kept on this machine.
#[derive(Debug, thiserror::Error)]
pub enum PodCgroupsError {
    /// The machine has the legacy hierarchies.
    #[error(
        "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is in maintenance mode: \
         set failCgroupV1 to false to run here"
    )]
    LegacyHierarchy,
    /// The hierarchies cannot be read.
    #[error("reading the cgroup hierarchies")]
    Hierarchies(#[source] CgroupError),
}

impl PodCgroups {
    /// The cgroups of pods on this machine; `None` with `cgroupsPerQOS: false`. `driver` is the
    /// runtime's, which counts; the configuration's counts only where the runtime names none
    /// (KubeletCgroupDriverFromCRI). Blocks.
    pub fn from_loaded(
        loaded: &Loaded,
        driver: Option<condition::CgroupDriver>,
        durations: Durations,
    ) -> Result<Option<Self>, PodCgroupsError> {
        let config = &loaded.config;
        if !config.cgroups_per_qos {
            return Ok(None);
        }
        let driver = CgroupDriver::of(config, driver);
        if !Host::detect().cgroup_v2 && config.fail_cgroup_v1 {
            return Err(PodCgroupsError::LegacyHierarchy);
        }

        let tree = CgroupTree::new(&config.cgroup_root, driver, true);
        let pods = Config { tree, policy: PodCgroupPolicy::from(loaded) };
        let fs = CgroupFs::detect().map_err(PodCgroupsError::Hierarchies)?;
        Ok(Some(match driver {
            CgroupDriver::Cgroupfs => Self::new(Timed::new(fs, durations), pods),
            CgroupDriver::Systemd => {
                let slices = Slices::new(fs, Systemd::default());
                Self::new(Timed::new(slices, durations), pods)
            }
        }))
    }
}

impl From<&Loaded> for PodCgroupPolicy {
    fn from(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        let period = config.cpu_cfs_quota_period.to_std().as_micros();
        Self {
            enforce_cpu_limits: config.cpu_cfs_quota,
            cpu_period: u64::try_from(period).unwrap_or(cpu::QUOTA_PERIOD),
            pids_limit: config.pod_pids_limit,
        }
    }
}

impl CgroupDriver {
    /// The driver that the runtime has chosen, else that of the configuration.
    fn of(config: &KubeletConfiguration, chosen: Option<condition::CgroupDriver>) -> Self {
        match chosen {
            Some(condition::CgroupDriver::Systemd) => Self::Systemd,
            None if config.cgroup_driver == "systemd" => Self::Systemd,
            Some(condition::CgroupDriver::Cgroupfs) | None => Self::Cgroupfs,
        }
    }
}

impl CgroupTree {
    /// The names of cgroups where pods have none of their own (`cgroupsPerQOS: false`).
    pub fn without_pods(loaded: &Loaded, driver: Option<condition::CgroupDriver>) -> Self {
        let driver = CgroupDriver::of(&loaded.config, driver);
        Self::new(&loaded.config.cgroup_root, driver, false)
    }
}

impl NodeLimits {
    /// The limits of all pods together and of the reserved daemons (`enforceNodeAllocatable`).
    pub fn from_loaded(loaded: &Loaded, machine: &Machine) -> Self {
        node_limits::plan(&node_limits::Config::from(loaded), machine)
    }
}

impl From<&Loaded> for node_limits::Config {
    fn from(loaded: &Loaded) -> Self {
        let config = &loaded.config;
        Self {
            enforce: config.enforce_node_allocatable.clone(),
            system_reserved: amounts(&config.system_reserved),
            kube_reserved: amounts(&config.kube_reserved),
            system_cgroup: config.system_reserved_cgroup.clone(),
            kube_cgroup: config.kube_reserved_cgroup.clone(),
            cpus_are_managed: config.cpu_manager_policy == "static",
        }
    }
}

fn amounts(reserved: &BTreeMap<String, String>) -> Amounts {
    reserved
        .iter()
        .filter_map(|(name, text)| Some((name.clone(), Amount::parse(text).ok()?)))
        .collect()
}
