//! Graceful shutdown of the node: when the machine announces its shutdown, pods end in the order of
//! their priorities, each with its grace, before the machine goes on.
//!
//! ```text
//!  logind (D-Bus) ─► task ─► groups (who ends, and for how long) ─► dispatch (stop)
//!                     ├──► watch of node::Shutdown ─► the node's Ready condition, admission
//!                     └──► state file, metrics, events of the node
//! ```
//!
//! One task holds logind's inhibitor lock and owns what is remembered; the order is pure
//! ([`groups`]). It never stops a container itself and never shuts the machine down.

pub mod groups;
mod metrics;
mod state;
mod task;

use std::path::PathBuf;

use tokio::sync::watch;

use self::groups::Group;
pub use self::metrics::Metrics;
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::config::{Gate, Loaded};
use crate::dispatch::PodsHandle;
use crate::linux::logind::Logind;
use crate::node::Shutdown;

/// The settings of a graceful shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The grace periods by priority, from low to high; never empty.
    pub groups: Vec<Group>,
    /// The name of the node.
    pub node_name: String,
    /// The file that tells when the last shutdown began and ended; `None` if it is not kept, and
    /// neither are the metrics (feature gate `GracefulNodeShutdownBasedOnPodPriority`).
    pub state_file: Option<PathBuf>,
}

impl Config {
    /// Takes the settings; `None` if nothing is to be done at a shutdown.
    pub fn from_loaded(loaded: &Loaded, node_name: &str) -> Option<Self> {
        if !loaded.gates.enabled(Gate::GRACEFUL_NODE_SHUTDOWN) {
            return None;
        }
        let by_priority = loaded.gates.enabled(Gate::GRACEFUL_NODE_SHUTDOWN_BASED_ON_POD_PRIORITY);
        let config = &loaded.config;
        let listed = if by_priority { &*config.shutdown_grace_period_by_pod_priority } else { &[] };
        let groups = groups::from_config(
            listed,
            config.shutdown_grace_period.to_std(),
            config.shutdown_grace_period_critical_pods.to_std(),
        );
        let state_file = PathBuf::from(&loaded.flags.root_dir).join(state::FILE);
        (!groups.is_empty()).then(|| Self {
            groups,
            node_name: node_name.to_owned(),
            state_file: by_priority.then_some(state_file),
        })
    }
}

/// What the task works with.
#[derive(Debug)]
pub struct Deps {
    /// Announces shutdowns, and waits for this kubelet.
    pub logind: Logind,
    /// Reaches the pods.
    pub pods: PodsHandle,
    /// Takes the shutdown that is under way.
    pub announced: watch::Sender<Option<Shutdown>>,
    /// Events of the node.
    pub recorder: Recorder,
    /// The metrics.
    pub metrics: Metrics,
    /// The clocks.
    pub clock: Clock,
}

/// Returns the task. It runs until it is dropped.
pub fn new(config: Config, deps: Deps) -> impl Future<Output = ()> {
    task::Task::new(config, deps).run()
}
