//! The composition root: makes every subsystem, leaves first, joins their channels, supervises
//! their tasks, drains.
//!
//! Fed by the configuration; nothing imports it but `main`. It has no policy of its own. [`run`]
//! makes what the process needs from the machine; [`Kubelet::start`] is the list of everything
//! else, in order, with one function for each group in `wire`.
//!
//! The list has two parts. [`Core`] is the agent of a node, whatever runs the pods: [`agent`]
//! composes it for another backend. [`Kubelet`] is that and the parts around a container runtime.

pub mod agent;
mod identity;
mod kernel;
mod lock_file;
mod plugin_folders;
mod process;
#[cfg(any(test, feature = "testkit"))]
pub mod simulated;
mod stuck_volumes;
mod subordinate_ids;
mod switched_off;
mod tasks;
mod trim_memory;
mod watchdog;
mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::identity::Identity;
use self::tasks::Tasks;
use crate::apiserver::events::Recorder;
use crate::apiserver::{Clients, events_task};
use crate::clock::Clock;
use crate::config::{Gate, Host, Loaded};
use crate::cri::{self, Runtime};
use crate::dispatch;
use crate::model::{EventType, Pressure, StartBacklog};
use crate::telemetry::metrics::{
    BuildInfo, Registry, register_build_info, register_features, register_process,
    register_start_time,
};
use crate::volumes::mounter::{KernelMounter, Mounter};

/// The help of the metric of that name.
const CGROUP_VERSION: &str = "[ALPHA] cgroup version on the hosts.";
/// The event of a machine with the legacy hierarchies of cgroups.
const CGROUP_V1: &str = "CgroupV1";
/// Upstream's message of that event.
const CGROUP_V1_MESSAGE: &str = "cgroup v1 detected. cgroup v1 support is deprecated and will be \
                                 removed in a future release. Please migrate to cgroup v2. More \
                                 information at \
                                 https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";

/// How long the HTTPS server waits for the node's addresses: its own certificate names them.
const ADDRESSES: Duration = Duration::from_secs(3);

/// Runs the kubelet until `shutdown`.
pub async fn run(loaded: Loaded, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut tasks = Tasks::new(shutdown.clone());
    let (health, unhealthy) = watch::channel(None);
    if let Some(interval) = watchdog::interval()? {
        // From here on, as upstream: the start is watched too.
        tasks.run("watchdog", watchdog::run(interval, unhealthy, watchdog::ping));
    }

    let path = &loaded.flags.lock_file;
    // Held until the end.
    let lock = if path.is_empty() { None } else { lock_file::acquire(path, &shutdown).await? };
    if lock.is_none() && !path.is_empty() {
        return Ok(());
    }
    if lock.is_some() && loaded.flags.exit_on_lock_contention {
        tasks.run("lock file", lock_file::end_on_contention(path, shutdown.clone())?);
    }

    let identity = Identity::read(&loaded)?;
    process::check_parts(&loaded, &identity)?;
    process::make_directories(&loaded)?;
    process::prepare(&loaded.config)?;
    let rootless = loaded.gates.enabled(Gate::KUBELET_IN_USER_NAMESPACE);
    kernel::prepare(loaded.config.protect_kernel_defaults, rootless)?;
    let metrics = Registry::new();
    register_self(&metrics, &loaded);

    let observer = cri::metrics::observer(&metrics);
    let runtime = Runtime::new(&cri::Config::from(&loaded), clock, observer)?;
    let clients = wire::clients(&loaded, &identity, clock, &metrics, &mut tasks);
    let Some(clients) = shutdown.run_until_cancelled(clients).await.transpose()? else {
        return tasks.supervise().await;
    };
    if clients.is_none() {
        warn!("no kubeconfig: running standalone, with static pods only and without events");
    }

    let machine = Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        mounter: KernelMounter::detect(),
        container_logs_dir: "/var/log/containers".into(),
        // Where plugins look for it, wherever the kubelet's own directory is; as upstream.
        device_plugins_dir: "/var/lib/kubelet/device-plugins".into(),
    };
    let host_ips = watch::channel(Vec::new()).1;
    let outside = Outside { clock, clients, metrics, describes_node: true, host_ips };
    let core = Core::new(loaded, identity, outside, health, &mut tasks, shutdown);
    core.report_warnings();
    let ended = Box::pin(Kubelet { core, machine, runtime }.start(tasks)).await;
    drop(lock);
    ended
}

/// Registers the metrics of the process: its use of the machine, its version, its gates.
fn register_self(metrics: &Registry, loaded: &Loaded) {
    register_process(metrics);
    // As Go names the architectures that we are built for.
    let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let build = BuildInfo {
        git_version: crate::config::KUBERNETES_VERSION,
        major: "1",
        minor: "36",
        platform,
    };
    register_build_info(metrics, &build);
    register_features(metrics, loaded.gates.all());
}

/// The parts of the machine that the CRI backend uses. A simulation has stand-ins for them.
struct Machine<M> {
    /// The number of processors.
    cores: usize,
    mounter: M,
    /// The folder of links to containers' logs.
    container_logs_dir: PathBuf,
    /// The folder of the registration socket of device plugins.
    device_plugins_dir: PathBuf,
}

/// The world outside the process, and the registry that its clients count in.
struct Outside {
    clock: Clock,
    clients: Option<Clients>,
    metrics: Registry,
    /// True if the Node object is kept. If not, `host_ips` are the node's addresses.
    describes_node: bool,
    host_ips: watch::Receiver<Vec<IpAddr>>,
}

/// The base of a node's agent, whatever runs the pods.
struct Core {
    clock: Clock,
    identity: Identity,
    loaded: Loaded,
    /// The registry of `/metrics`.
    metrics: Registry,
    /// The registry of `/metrics/probes`.
    probe_metrics: Registry,
    recorder: Recorder,
    /// Counts the pods that wait for their start.
    backlog: StartBacklog,
    clients: Option<Clients>,
    rest: trim_memory::MemoryTrimmer,
    /// The problem behind `/healthz/syncloop`; `None` while the kubelet is healthy.
    health: watch::Sender<Option<String>>,
    /// True if the Node object is kept. If not, `host_ips` are the node's addresses.
    describes_node: bool,
    host_ips: watch::Receiver<Vec<IpAddr>>,
    shutdown: CancellationToken,
}

/// The base of the kubelet: the agent, and a container runtime on this machine.
struct Kubelet<M> {
    core: Core,
    machine: Machine<M>,
    runtime: Runtime,
}

impl Core {
    /// Makes the base, and starts what every subsystem uses: events, and the return of memory.
    fn new(
        loaded: Loaded,
        identity: Identity,
        outside: Outside,
        health: watch::Sender<Option<String>>,
        tasks: &mut Tasks,
        shutdown: CancellationToken,
    ) -> Self {
        let Outside { clock, clients, metrics, describes_node, host_ips } = outside;
        let probe_metrics = Registry::new();
        register_start_time(&probe_metrics);
        let backlog = StartBacklog::default();
        let (recorder, events) = Recorder::channel();
        let writer = events_task::Deps {
            clients: clients.as_ref(),
            host: &identity.name,
            clock,
            backlog: backlog.clone(),
        };
        tasks.run("events", events_task::new(writer, events));
        let (rest, task) = trim_memory::new();
        tasks.run("memory", task);

        Self {
            clock,
            identity,
            loaded,
            metrics,
            probe_metrics,
            recorder,
            backlog,
            clients,
            rest,
            health,
            describes_node,
            host_ips,
            shutdown,
        }
    }

    /// Reports on the Node what the configuration promises and this kubelet does not do yet.
    /// (`main` has logged it.)
    fn report_warnings(&self) {
        let is_v2 = Host::detect().cgroup_v2;
        let version = self.metrics.gauge("kubelet_cgroup_version", CGROUP_VERSION);
        version.set(if is_v2 { 2.0 } else { 1.0 });
        if !is_v2 {
            let warning = EventType::Warning;
            self.recorder.node(&self.identity.name, warning, CGROUP_V1, CGROUP_V1_MESSAGE);
        }
        for warning in self.loaded.warnings.iter().filter(|warning| warning.node_event) {
            self.recorder.node(
                &self.identity.name,
                EventType::Warning,
                "ConfigurationWithoutEffect",
                warning.text.clone(),
            );
        }
    }
}

impl<M: Mounter> Kubelet<M> {
    /// Starts everything, then runs until the stop.
    async fn start(self, mut tasks: Tasks) -> anyhow::Result<()> {
        // The runtime may take the whole of a deadline for any of its answers; a stop does not wait
        // for that.
        let core = &self.core;
        let stop = &core.shutdown;
        let answered = stop.run_until_cancelled(self.start_runtime(&mut tasks)).await;
        let Some(runtime) = answered.transpose()?.flatten() else {
            info!("stopped before the container runtime answered");
            return Ok(());
        };
        let api = core.start_api(&mut tasks);
        let csi = self.start_csi(&mut tasks, &runtime, &api);
        let (short, pressure) = watch::channel(Pressure::default());
        let (announced, shutdown) = watch::channel(None);
        let changing = (pressure.clone(), shutdown.clone());
        let (node, network_not_ready) =
            self.start_node(&mut tasks, &runtime, &api, (&csi, changing)).await;
        let status = core.start_status(&mut tasks);
        let volumes = self.start_volumes(&mut tasks, &api, csi.csi);
        let (desired, changes) = core.start_sources(&mut tasks, &api)?;
        let usage = self.start_stats(&mut tasks, &runtime, &volumes, &desired);
        // A directory service may be asked, which may take its time.
        let ids = stop.run_until_cancelled(self.user_namespaces()).await;
        let Some(user_namespaces) = ids.transpose()? else { return tasks.supervise().await };

        let mut host_ips = node.host_ips.clone();
        let driver = runtime.condition.borrow().cgroup_driver;
        let housekeeping = runtime.images.clone();
        let cgroups = runtime.cgroups.clone();
        let condition = runtime.condition.clone();
        let requested = core.start_serving_certificate(&mut tasks, &node)?;
        let parts = wire::Parts {
            user_namespaces,
            runtime,
            api,
            status,
            volumes,
            desired: desired.clone(),
            changes,
            node: node.node,
            pressure,
            shutdown,
            host_ips: node.host_ips,
            network_not_ready,
        };
        let pods = self.start_pods(&mut tasks, parts)?;
        let images = self.start_housekeeping(&mut tasks, housekeeping, &pods);
        let eviction = wire::EvictionParts {
            stats: usage.clone(),
            images,
            pressure: short,
            cgroups,
            condition,
        };
        self.start_eviction(&mut tasks, eviction, &pods)?;
        core.start_graceful_shutdown(&mut tasks, announced, &pods);
        dispatch::metrics::register(&core.metrics, pods.clone(), desired.clone());

        let host_ips = addresses(&mut host_ips).await;
        let certificate = wire::CertificateParts { requested, host_ips };
        core.start_server(&mut tasks, (pods, desired, usage), driver, certificate).await?;

        info!(node = core.identity.name, "kubelet started");
        notify_ready();
        tasks.supervise().await
    }
}

/// Waits for the node's addresses, which the HTTPS server's own certificate names. Without an
/// address in time the certificate goes without.
async fn addresses(host_ips: &mut watch::Receiver<Vec<IpAddr>>) -> Vec<IpAddr> {
    let found = host_ips.wait_for(|found| !found.is_empty());
    tokio::time::timeout(ADDRESSES, found).await.ok();
    host_ips.borrow().clone()
}

/// Tells systemd that the kubelet is up. Without systemd this does nothing.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd did not take the notice");
    }
}
