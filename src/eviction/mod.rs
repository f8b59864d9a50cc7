//! Keeps the node alive: evicts pods when it runs out of memory, disk or process ids, and pods
//! that use more local storage than they may.
//!
//! ```text
//!  stats ─► signals ─► thresholds ─► decide ─► task ─► dispatch (stop, remove what has ended)
//!                                      ▲         ├──► images  (delete what nobody needs)
//!  dispatch (pods) ─► rank · limits ───┘         └──► watch of Pressure ─► node, admission
//! ```
//!
//! One task owns what is remembered ([`task`]); all else here is pure. Beside it stand the limits
//! of containers that have ended ([`garbage`], [`collect`]) and what the kernel says of processes
//! that it has killed ([`oom`]). It never reads a cgroup (`stats` does) and never stops a container
//! itself.

pub mod collect;
mod config;
pub mod decide;
pub mod garbage;
pub mod limits;
pub mod message;
mod metrics;
pub mod oom;
pub mod quantity;
pub mod rank;
pub mod signals;
mod task;
pub mod thresholds;
mod wake;

use std::path::PathBuf;

use tokio::sync::watch;

pub use self::metrics::Metrics;
pub use self::wake::MemcgConfig;
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::cri::Runtime;
use crate::dispatch::PodsHandle;
use crate::images::gc;
use crate::model::Pressure;
use crate::stats::StatsHandle;

/// The settings of eviction.
#[derive(Clone, Debug)]
pub struct Config {
    /// When pods are evicted.
    pub policy: decide::Policy,
    /// The name of the node.
    pub node_name: String,
    /// The kubelet's root directory: its file system is the node's.
    pub root_dir: PathBuf,
    /// The cgroups that the kernel watches; `None`: none.
    pub memcg: Option<MemcgConfig>,
}

/// What eviction works with.
#[derive(Debug)]
pub struct Deps {
    /// Reads the node and its pods.
    pub stats: StatsHandle,
    /// Reaches the pods.
    pub pods: PodsHandle,
    /// Deletes images.
    pub images: gc::Handle,
    /// Says where images lie.
    pub runtime: Runtime,
    /// Takes what the node is short of.
    pub pressure: watch::Sender<Pressure>,
    /// Events.
    pub recorder: Recorder,
    /// The metrics.
    pub metrics: Metrics,
    /// The clocks.
    pub clock: Clock,
}

/// Returns eviction's task. Nobody commands it: what it finds out is on the `watch` of pressure.
pub fn new(config: Config, deps: Deps) -> impl Future<Output = ()> {
    task::Task::new(config, deps).run()
}

#[cfg(test)]
mod tests;
