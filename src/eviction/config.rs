//! Cuts eviction's part out of the configuration. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::decide::Policy;
use super::garbage;
use super::thresholds::{self, Texts, ThresholdError};
use super::wake::MemcgConfig;
use crate::config::Loaded;

impl Config {
    /// The configuration of the node `node_name`. `memcg`: the cgroups that the kernel can watch.
    pub fn from_loaded(
        loaded: &Loaded,
        node_name: &str,
        memcg: Option<MemcgConfig>,
    ) -> Result<Self, ThresholdError> {
        let config = &loaded.config;
        let seconds = u64::try_from(config.eviction_max_pod_grace_period).unwrap_or_default();
        Ok(Self {
            policy: Policy {
                thresholds: parse_thresholds(loaded)?,
                transition: config.eviction_pressure_transition_period.to_std(),
                max_pod_grace: Duration::from_secs(seconds),
                limits_local_storage: config.local_storage_capacity_isolation,
            },
            node_name: node_name.to_owned(),
            root_dir: PathBuf::from(&loaded.flags.root_dir),
            memcg: memcg.filter(|_| config.kernel_memcg_notification),
        })
    }
}

fn parse_thresholds(loaded: &Loaded) -> Result<Vec<thresholds::Threshold>, ThresholdError> {
    let config = &loaded.config;
    let texts = Texts {
        hard: &config.eviction_hard,
        soft: &config.eviction_soft,
        soft_grace: &config.eviction_soft_grace_period,
        min_reclaim: &config.eviction_minimum_reclaim,
    };
    let enforced = config.enforce_node_allocatable.iter().any(|key| key == "pods");
    // With the flag the thresholds are not kept back from pods, and do not hold for their memory.
    let pods_are_limited = enforced && !loaded.flags.experimental_allocatable_ignore_eviction;
    thresholds::parse(texts, pods_are_limited)
}

impl From<&Loaded> for garbage::Policy {
    fn from(loaded: &Loaded) -> Self {
        let flags = &loaded.flags;
        Self {
            min_age: flags.minimum_container_ttl_duration.to_std(),
            per_container: usize::try_from(flags.maximum_dead_containers_per_container).ok(),
            total: usize::try_from(flags.maximum_dead_containers).ok(),
        }
    }
}
