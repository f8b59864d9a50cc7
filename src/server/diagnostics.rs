//! The endpoints that are switched on one by one, and what they show of the process.
//!
//! Fed by the configuration, once. Each handler that is left out answers as upstream's kubelet
//! does: 405 with a sentence if its field is false, 404 if its gate is off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::config::{Gate, Loaded};
use crate::model::Wall;
use crate::telemetry::logging::LogHandle;

/// A handler that the configuration can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handler {
    /// `/debug/pprof/` (`enableProfilingHandler`).
    Profiling,
    /// `/debug/flags/v` (`enableDebugFlagsHandler`).
    DebugFlags,
    /// `/logs/` (`enableSystemLogHandler`).
    SystemLogs,
    /// The queries of `/logs/` (`enableSystemLogQuery`).
    LogQuery,
    /// `/checkpoint/` (gate `ContainerCheckpoint`).
    Checkpoint,
    /// `/flagz` (gate `ComponentFlagz`).
    Flagz,
    /// `/statusz` (gate `ComponentStatusz`).
    Statusz,
    /// WebSockets for `/exec`, `/attach` and `/portForward` that are translated (gate
    /// `ExtendWebSocketsToKubelet`).
    WebSockets,
}

/// What the endpoints for people who look into a node are made of.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// The handlers that are served.
    pub handlers: BTreeSet<Handler>,
    /// Each flag with its value.
    pub flags: BTreeMap<String, String>,
    /// When the process began.
    pub started: Wall,
    /// The verbosity of the log; `None` where no log was set up.
    pub log: Option<LogHandle>,
    /// The directory of container checkpoints.
    pub checkpoints: PathBuf,
    /// The directory that `/logs/` serves.
    pub system_logs: PathBuf,
}

impl Diagnostics {
    /// Reads the configuration.
    pub fn from_loaded(loaded: &Loaded, started: Wall) -> Self {
        let config = &loaded.config;
        let gates = &loaded.gates;
        let switches = [
            (Handler::Profiling, config.enable_profiling_handler),
            (Handler::DebugFlags, config.enable_debug_flags_handler),
            (Handler::SystemLogs, config.enable_system_log_handler),
            (Handler::LogQuery, config.enable_system_log_query),
            (Handler::Checkpoint, gates.enabled(Gate::CONTAINER_CHECKPOINT)),
            (Handler::Flagz, gates.enabled(Gate::COMPONENT_FLAGZ)),
            (Handler::Statusz, gates.enabled(Gate::COMPONENT_STATUSZ)),
            (Handler::WebSockets, gates.enabled(Gate::EXTEND_WEB_SOCKETS_TO_KUBELET)),
        ];
        let is_on = |(handler, on): (Handler, bool)| on.then_some(handler);
        Self {
            handlers: switches.into_iter().filter_map(is_on).collect(),
            flags: loaded.flag_values.clone(),
            started,
            log: LogHandle::current(),
            checkpoints: PathBuf::from(&loaded.flags.root_dir).join("checkpoints"),
            system_logs: PathBuf::from("/var/log"),
        }
    }

    /// Returns true if `handler` is served.
    pub(super) fn serves(&self, handler: Handler) -> bool {
        self.handlers.contains(&handler)
    }
}
