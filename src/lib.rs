//! rkubelet: the agent of one Kubernetes node. (The architecture document is written here; see CONTRIBUTING.md.)

pub mod admission;
pub mod apiserver;
pub mod clock;
pub mod cni;
pub mod config;
pub mod cri;
pub mod desired;
pub mod images;
pub mod linux;
pub mod model;
pub mod node;
pub mod pleg;
pub mod pods;
pub mod probes;
pub mod resources;
pub mod server;
pub mod sources;
pub mod status;
pub mod telemetry;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod volumes;
