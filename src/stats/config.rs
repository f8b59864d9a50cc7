//! What readings need of the kubelet's configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::cadvisor::Machine;
use crate::config::Loaded;
use crate::resources::cgroup_names::CgroupTree;

/// The settings of readings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// `--root-dir`: its file system is the node's.
    pub root_dir: PathBuf,
    /// The names of pods' cgroups.
    pub tree: CgroupTree,
    /// `kubeletCgroups`; empty: the cgroup that this process is in.
    pub kubelet_cgroups: String,
    /// `--runtime-cgroups`; empty: not shown.
    pub runtime_cgroups: String,
    /// `systemCgroups`; empty: not shown.
    pub system_cgroups: String,
    /// `volumeStatsAggPeriod`: how often the volumes of a pod are measured at most; `None`: never.
    pub volume_period: Option<Duration>,
    /// The machine.
    pub machine: Machine,
}

impl Config {
    /// Reads the configuration.
    pub fn from_loaded(
        loaded: &Loaded,
        node_name: &str,
        tree: CgroupTree,
        machine: Machine,
    ) -> Self {
        let config = &loaded.config;
        let period = config.volume_stats_agg_period.to_std();
        Self {
            node_name: node_name.to_owned(),
            root_dir: loaded.flags.root_dir.clone().into(),
            tree,
            kubelet_cgroups: config.kubelet_cgroups.clone(),
            runtime_cgroups: loaded.flags.runtime_cgroups.clone(),
            system_cgroups: config.system_cgroups.clone(),
            volume_period: (!period.is_zero()).then_some(period),
            machine,
        }
    }
}
