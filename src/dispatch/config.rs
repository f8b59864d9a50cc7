//! Dispatch's configuration from the kubelet's. Pure.

use super::{Config, Resizable};
use crate::admission::{Features, PatternError, SysctlAllowlist};
use crate::config::{Gate, Loaded};
use crate::linux::machine::Kernel;

impl Config {
    /// The configuration of the node `node_name`. Fails on an entry of `allowedUnsafeSysctls` that
    /// is no pattern.
    pub fn from_loaded(
        loaded: &Loaded,
        node_name: &str,
        kernel: &Kernel,
    ) -> Result<Self, PatternError> {
        let unsafe_sysctls = &loaded.config.allowed_unsafe_sysctls;
        Ok(Self {
            node_name: node_name.to_owned(),
            sysctls: SysctlAllowlist::new(kernel.version, unsafe_sysctls)?,
            apparmor: kernel.apparmor,
            features: Features::from(loaded),
            resizes: Resizable {
                whole_pods: loaded
                    .gates
                    .enabled(Gate::IN_PLACE_POD_LEVEL_RESOURCES_VERTICAL_SCALING),
                swap: loaded.config.memory_swap.swap_behavior == "LimitedSwap"
                    && kernel.cgroup_v2
                    && kernel.swap_controller,
            },
        })
    }
}
