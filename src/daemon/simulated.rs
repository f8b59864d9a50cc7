//! The daemon's own composition on stand-ins for the machine: a runtime, an API server and mounts
//! in memory, a clock that stands still while something is to be done, files below a folder of the
//! test. What is left out: the Node object, the HTTPS server, cgroups.
//!
//! Dropping the future and the tokio runtime that runs it is what a crash is; the stand-ins outlive
//! it.

use std::path::PathBuf;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::settings::NodeSettings;
use super::{Core, Machine, metrics, trim_memory};
use crate::apiserver::events::Recorder;
use crate::apiserver::{Clients, events_task};
use crate::clock::Clock;
use crate::config::Loaded;
use crate::cri::fake::FakeRuntime;
use crate::model::StartBacklog;
use crate::telemetry::metrics::Registry;
use crate::volumes::mounter::fake::FakeMounter;

/// What stands in for the machine.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The clock.
    pub clock: Clock,
    /// The runtime.
    pub runtime: FakeRuntime,
    /// Clients of the API server.
    pub clients: Clients,
    /// Mounts.
    pub mounter: FakeMounter,
    /// Where the links to containers' logs are.
    pub container_logs_dir: PathBuf,
    /// Where the registration socket of device plugins is.
    pub device_plugins_dir: PathBuf,
    /// How many processors there are.
    pub cores: usize,
}

/// Runs until `shutdown`. The directories of the configuration exist.
pub async fn run(loaded: Loaded, parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tasks: JoinSet<()> = JoinSet::new();
    let settings = NodeSettings::new(&loaded)?;
    let metrics = Registry::new();
    let observers = metrics::Observers::new(&metrics);
    let (recorder, events) = Recorder::channel();
    let runtime = parts.runtime.client_with(observers.cri());
    let (clients, name, rush) =
        (Some(parts.clients), settings.node_name.clone(), StartBacklog::default());
    let written = events_task::Parts {
        clients: clients.as_ref(),
        host: &name,
        clock: parts.clock,
        rush: rush.clone(),
    };
    events_task::start(written, events, &mut tasks, shutdown.clone());
    let rest = trim_memory::MemoryTrimmer::start(&mut tasks, shutdown.clone());
    let machine = Machine {
        cores: parts.cores,
        mounter: parts.mounter,
        container_logs_dir: parts.container_logs_dir,
        device_plugins_dir: parts.device_plugins_dir,
        describes_node: false,
    };
    let clock = parts.clock;
    let core = Core {
        clock,
        machine,
        settings,
        loaded,
        metrics,
        observers,
        recorder,
        rush,
        runtime,
        clients,
        rest,
        shutdown,
    };
    core.start(tasks).await
}
