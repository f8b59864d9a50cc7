//! The agent of a node whose pods run on a backend of the caller's: the composition behind
//! [`Agent`], the public entry for authors of backends.
//!
//! Fed by the builder's settings, which become flags of the kubelet, and by the backend. It starts
//! the same subsystems as the kubelet, without those around a container runtime: no CRI, PLEG,
//! images, cgroups, volumes, eviction and statistics.

mod reporter;
mod resolve;
mod services;
mod shared;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use self::reporter::{Picture, Reporter};
pub use self::resolve::{ResolveError, Resolved};
pub use self::services::{CommandError, Commands, Services};
use self::shared::Shared;
use super::identity::Identity;
use super::tasks::Tasks;
use super::{Core, Outside, register_self, wire};
use crate::clock::Clock;
use crate::config::{Gate, Loaded};
use crate::cri::RuntimeCondition;
use crate::cri::condition::RuntimeIdentity;
use crate::dispatch::{self, Allocated, Backend, Forgetters, Give};
use crate::linux::fs::ensure_root_dir;
use crate::linux::machine::Kernel;
use crate::model::{Mono, Pod, PodUid, Pressure};
use crate::resources::pod_states;
use crate::stats::StatsHandle;
use crate::telemetry::metrics::Registry;
use crate::{config, desired, node, probes};

/// The time of an answer that is never too old: a backend says itself when it is not healthy.
const ALWAYS: Mono = Mono(Duration::from_secs(1 << 30));

/// The agent of one node, before it runs. Each setting is a flag of the kubelet.
///
/// ```no_run
/// use rkubelet::agent::Agent;
/// # use rkubelet::backend::Backend;
/// # async fn start<B: Backend>(backend: B) -> anyhow::Result<()> {
/// let agent = Agent::new("edge-1", "process", "0.1.0")
///     .kubeconfig("/etc/edge/kubeconfig")
///     .root_dir("/var/lib/edge")
///     .label("node.kubernetes.io/exclude-from-external-load-balancers", "true")
///     .taint("example.com/edge=true:NoSchedule");
/// agent.run(|_services| backend, tokio_util::sync::CancellationToken::new()).await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Agent {
    runtime: RuntimeIdentity,
    root: PathBuf,
    labels: Vec<String>,
    taints: Vec<String>,
    arguments: Vec<String>,
    cores: Option<u32>,
    memory: Option<u64>,
}

impl Agent {
    /// Names the node, and the backend with its version: the Node's `containerRuntimeVersion` is
    /// `process://0.1.0`, and ids of containers begin with `process://`.
    pub fn new(node: &str, backend: &str, version: &str) -> Self {
        let runtime = RuntimeIdentity {
            name: backend.to_owned(),
            version: version.to_owned(),
            api_version: "v1".to_owned(),
        };
        let arguments = vec![
            format!("--hostname-override={node}"),
            "--anonymous-auth=false".to_owned(),
            "--authentication-token-webhook=true".to_owned(),
            "--authorization-mode=Webhook".to_owned(),
            "--fail-swap-on=false".to_owned(),
            "--fail-cgroupv1=false".to_owned(),
            "--cgroups-per-qos=false".to_owned(),
            "--enforce-node-allocatable=".to_owned(),
            "--make-iptables-util-chains=false".to_owned(),
            "--healthz-port=0".to_owned(),
        ];
        Self {
            runtime,
            root: PathBuf::from("/var/lib/rkubelet-agent"),
            labels: Vec::new(),
            taints: Vec::new(),
            arguments,
            cores: None,
            memory: None,
        }
    }

    /// Sets the kubeconfig of the node's user. Without one nothing is registered.
    #[must_use]
    pub fn kubeconfig(self, path: impl AsRef<Path>) -> Self {
        self.argument(format!("--kubeconfig={}", path.as_ref().display()))
    }

    /// Sets the folder of the agent's own state; by default `/var/lib/rkubelet-agent`.
    #[must_use]
    pub fn root_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.root = path.into();
        self
    }

    /// Sets the file of the authorities whose clients may use the HTTPS API: the API server's
    /// `--kubelet-client-certificate` is signed by one of them.
    #[must_use]
    pub fn client_ca(self, path: impl AsRef<Path>) -> Self {
        self.argument(format!("--client-ca-file={}", path.as_ref().display()))
    }

    /// Sets the port of the HTTPS API; by default 10250.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.argument(format!("--port={port}"))
    }

    /// Sets the node's address; by default that of the machine's default route.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        self.argument(format!("--node-ip={address}"))
    }

    /// Adds a label of the Node.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push(format!("{name}={value}"));
        self
    }

    /// Adds a taint of the Node, e.g. `virtual-kubelet.io/provider=process:NoSchedule`.
    #[must_use]
    pub fn taint(mut self, taint: &str) -> Self {
        self.taints.push(taint.to_owned());
        self
    }

    /// Sets the capacity of processors and memory; by default the machine's.
    #[must_use]
    pub fn capacity(mut self, cores: u32, memory_bytes: u64) -> Self {
        self.cores = Some(cores);
        self.memory = Some(memory_bytes);
        self
    }

    /// Adds any flag of the kubelet, e.g. `--max-pods=20`. A later one wins.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    fn load(&self) -> anyhow::Result<Loaded> {
        let root = self.root.display();
        let mut arguments = vec![format!("--root-dir={root}"), format!("--cert-dir={root}/pki")];
        arguments.extend(self.arguments.iter().cloned());
        if !self.labels.is_empty() {
            arguments.push(format!("--node-labels={}", self.labels.join(",")));
        }
        if !self.taints.is_empty() {
            arguments.push(format!("--register-with-taints={}", self.taints.join(",")));
        }
        config::load(&arguments).map_err(|refused| anyhow::anyhow!("{}", refused.error))
    }

    /// Runs the agent until `shutdown`; what the backend runs stays. `backend` is called once, with
    /// the services that its pods need.
    pub async fn run<B: Backend>(
        self,
        backend: impl FnOnce(Services) -> B,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let loaded = self.load()?;
        let clock = Clock::system();
        let mut tasks = Tasks::new(shutdown.clone());
        ensure_root_dir(&self.root, 0o750)
            .with_context(|| format!("cannot make {}", self.root.display()))?;
        let mut identity = Identity::read(&loaded)?;
        identity.machine.cores = self.cores.unwrap_or(identity.machine.cores);
        identity.machine.memory = self.memory.unwrap_or(identity.machine.memory);

        let metrics = Registry::new();
        register_self(&metrics, &loaded);
        let clients = wire::clients(&loaded, &identity, clock, &metrics, &mut tasks);
        let Some(clients) = shutdown.run_until_cancelled(clients).await.transpose()? else {
            return tasks.supervise().await;
        };
        let host_ips = watch::channel(Vec::new()).1;
        let outside = Outside { clock, clients, metrics, describes_node: true, host_ips };
        let health = watch::Sender::new(None);
        let core = Core::new(loaded, identity, outside, health, &mut tasks, shutdown);
        Box::pin(core.run_backend(backend, self, tasks)).await
    }
}

/// Gives nothing besides processor time and memory.
struct NoDevices;

impl Give for NoDevices {
    fn allocate(&self, _: &Arc<Pod>, _: &[String]) -> Option<BoxFuture<'static, Allocated>> {
        None
    }

    fn release(&self, _: &PodUid) {}
}

impl Core {
    /// Starts everything on a backend, then runs until the stop.
    async fn run_backend<B: Backend>(
        self,
        backend: impl FnOnce(Services) -> B,
        agent: Agent,
        mut tasks: Tasks,
    ) -> anyhow::Result<()> {
        let condition = watch::Sender::new(RuntimeCondition {
            network: Ok(()),
            last_ready: Some(ALWAYS),
            identity: Some(agent.runtime.clone()),
            ..RuntimeCondition::default()
        });
        let api = self.start_api(&mut tasks);
        let node_config = self.identity.node_config(&self.loaded);
        let (announced, machine_stops) = watch::channel(None);
        let sources = |_: &mut Tasks| node_sources(&condition, machine_stops.clone());
        let node = self.describe_node(&mut tasks, &api, node_config, sources).await;
        let status = self.start_status(&mut tasks);
        let (desired, changes) = self.start_sources(&mut tasks, &api)?;
        let requested = self.start_serving_certificate(&mut tasks, &node)?;

        let allocatable = self.allocatable(node.node.as_ref(), &mut tasks);
        let changing = wire::Changing {
            condition: condition.subscribe(),
            pressure: watch::channel(Pressure::default()).1,
            shutdown: machine_stops.clone(),
        };
        let view = api.node.clone();
        let facts =
            Self::node_facts(node.node.as_ref(), view, allocatable.clone(), changing, &mut tasks);
        let noted = pod_states::open(&agent.root)?;
        let root = agent.root.clone();
        tasks.run("pods' resources", pod_states::keep(noted.clone(), root));

        let shared = Arc::new(Shared {
            status,
            desired: desired.clone(),
            objects: api.objects,
            services: api.services,
            recorder: self.recorder.clone(),
            clock: self.clock,
            observer: probes::metrics::observer(&self.probe_metrics),
            host_ips: node.host_ips.clone(),
            allocatable,
            condition,
            runtime: agent.runtime.name,
            shows_stop_signals: self.loaded.gates.enabled(Gate::CONTAINER_STOP_SIGNALS),
            hides_ready_to_start: !self
                .loaded
                .gates
                .enabled(Gate::POD_READY_TO_START_CONTAINERS_CONDITION),
            shutdown: self.shutdown.clone(),
        });
        let parts = wire::DispatchParts {
            backend: backend(Services::new(Arc::clone(&shared))),
            desired: desired.clone(),
            changes,
            node: facts,
            give: Arc::new(NoDevices),
            allocated: noted.allocated,
            forget: forgetters(&shared),
            kernel: Kernel::detect(&self.identity.machine.kernel_version),
        };
        let pods = self.start_dispatch(&mut tasks, parts)?;
        self.start_graceful_shutdown(&mut tasks, announced, &pods);
        dispatch::metrics::register(&self.metrics, pods.clone(), desired.clone());

        let mut host_ips = node.host_ips;
        let host_ips = super::addresses(&mut host_ips).await;
        let certificate = wire::CertificateParts { requested, host_ips };
        let served = (pods, desired, StatsHandle::absent());
        self.start_server(&mut tasks, served, None, certificate).await?;

        info!(node = self.identity.name, "the node's agent started");
        super::notify_ready();
        tasks.supervise().await
    }
}

/// Makes the inputs of the Node's status. A channel without a sender stands for what a backend does
/// not have.
fn node_sources(
    condition: &watch::Sender<RuntimeCondition>,
    machine_stops: watch::Receiver<Option<node::Shutdown>>,
) -> node::Sources {
    node::Sources {
        runtime: condition.subscribe(),
        pleg: None,
        images: watch::channel(Arc::default()).1,
        devices: watch::channel([].into()).1,
        pressure: watch::channel(Pressure::default()).1,
        storage: watch::channel(None).1,
        shutdown: machine_stops,
        volumes_in_use: watch::channel(Some(Vec::new())).1,
    }
}

/// Registers what is kept of a pod.
fn forgetters(shared: &Arc<Shared>) -> Forgetters {
    let mut forget = Forgetters::default();
    let statuses = shared.status.clone();
    let jobs = TaskTracker::new();
    forget.add(move |uid: &PodUid| {
        let statuses = statuses.clone();
        let uid = uid.clone();
        jobs.spawn(async move { statuses.forget(&uid).await });
    });
    let desired: desired::Handle = shared.desired.clone();
    forget.add(move |uid: &PodUid| desired.release(uid));
    forget
}
