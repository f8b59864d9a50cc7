//! QoS, OOM scores, the cgroup tree, allocatable: pure arithmetic, and its application to cgroupfs
//! or to systemd's slices.
//!
//! Fed by pods and by a small [`apply::Config`]; read by the pods' workers (cgroup parent, OOM
//! score), by the status (QoS class, resources), by admission (requests) and by the node status
//! (allocatable). Only [`apply`] and [`slices`] have effects, and those stay below the configured
//! cgroup root: nothing outside it is ever touched.

pub mod allocatable;
pub mod allocation;
pub mod apply;
pub mod cgroup_names;
pub mod cpu;
pub mod devices;
pub mod follow;
pub mod list;
pub mod oom;
pub mod pod_config;
pub mod qos;
pub mod slices;

pub use allocatable::Reservations;
pub use apply::{Config, PodCgroups};
pub use cgroup_names::{CgroupDriver, CgroupName, CgroupTree};
pub use list::Amounts;
pub use pod_config::{CgroupSettings, PodCgroupPolicy};
pub use qos::QosClass;
pub use slices::Slices;
