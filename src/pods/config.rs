//! The settings of pods' logs from the kubelet's configuration.
//!
//! Pure.

use super::logs::Policy;
use crate::config::Loaded;
use crate::model::quantity::Amount;

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
