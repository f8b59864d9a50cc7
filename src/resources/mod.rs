//! QoS, OOM scores, the cgroup tree, allocatable: pure arithmetic, and its application to cgroupfs
//! or to systemd's slices.
//!
//! [`manager`] gives out what is not counted in CPU time and memory: devices of plugins.
//!
//! Fed by pods and by a small [`apply::Config`]; read by the pods' workers (cgroup parent, OOM
//! score), by the status (QoS class, resources), by admission (requests) and by the node status
//! (allocatable). Effects are in [`apply`] and [`slices`], asked by the pods' workers, by [`tiers`]
//! and by [`node_limits`]. They stay below the configured cgroup root, but for the limits of the
//! two cgroups that the configuration names (`systemReservedCgroup`, `kubeReservedCgroup`).

pub mod allocatable;
pub mod allocation;
pub mod apply;
pub mod cgroup_names;
pub mod claims;
mod config;
pub mod cpu;
pub mod devices;
pub mod follow;
pub mod list;
pub mod manager;
pub mod node_limits;
pub mod oom;
pub mod pod_config;
pub mod pod_states;
pub mod qos;
pub mod slices;
pub mod swap;
pub mod tiers;
mod timed;

pub use allocatable::Reservations;
pub use apply::{Config, PodCgroups};
pub use cgroup_names::{CgroupDriver, CgroupName, CgroupTree};
pub use config::PodCgroupsError;
pub use list::Amounts;
pub use node_limits::NodeLimits;
pub use pod_config::{CgroupSettings, Figures, PodCgroupPolicy};
pub use qos::QosClass;
pub use slices::Slices;
pub use timed::Durations;
