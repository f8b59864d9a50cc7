//! The composition root: makes every subsystem, leaves first, joins their channels, supervises
//! their tasks, drains.
//!
//! Fed by the configuration; nothing imports it but `main`. It has no policy of its own: a value
//! that it computes here is a setting that some subsystem asked for.

mod bridge;
mod metrics;
mod pod_metrics;
mod pods;
mod process;
mod settings;
#[cfg(any(test, feature = "testkit"))]
pub mod simulated;
mod stuck_volumes;
mod subordinate_ids;
mod trim_memory;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::settings::NodeSettings;
use crate::apiserver::events::Recorder;
use crate::apiserver::nodes::NodeView;
use crate::apiserver::{Clients, claims, events_task, objects, runtime_classes, services, tokens};
use crate::clock::Clock;
use crate::config::Loaded;
use crate::cri::{self, Runtime};
use crate::dispatch::{PodView, PodsHandle};
use crate::model::{EventType, StartBacklog, pod};
use crate::pods::logs;
use crate::pods::user_namespaces::UserNamespaces;
use crate::telemetry::metrics::{
    BuildInfo, Registry, register_build_info, register_features, register_process,
};
use crate::volumes::mounter::{KernelMounter, Mounter};
use crate::{cni, desired, images, node, pleg, resources, server, sources, status, volumes};

/// How long the end may take: statuses in flight, nothing else. Containers stay.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the first answer of the runtime is waited for between complaints.
const RUNTIME_COMPLAINT: Duration = Duration::from_secs(10);

/// Runs the kubelet until `shutdown`.
pub async fn run(loaded: Loaded, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut settings = NodeSettings::new(&loaded)?;
    settings.find_ips().await?;
    settings.make_directories()?;
    process::prepare(&loaded.config)?;
    let metrics = Registry::new();
    register_self(&metrics, &loaded);
    let observers = metrics::Observers::new(&metrics);
    let (recorder, events) = Recorder::channel();

    let runtime = Runtime::new(&settings.cri(), clock, observers.cri())
        .context("containerRuntimeEndpoint")?;
    let clients = settings.clients(clock)?;
    if clients.is_none() {
        warn!("no kubeconfig: running standalone, with static pods only and without events");
    }
    let (name, rush) = (settings.node_name.clone(), StartBacklog::default());
    let written =
        events_task::Parts { clients: clients.as_ref(), host: &name, clock, rush: rush.clone() };
    events_task::start(written, events, &mut tasks, shutdown.clone());
    settings.report_warnings(&recorder);
    let rest = trim_memory::MemoryTrimmer::start(&mut tasks, shutdown.clone());

    let machine = Machine {
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        mounter: KernelMounter::detect(),
        container_logs_dir: "/var/log/containers".into(),
        // Where plugins look for it, wherever the kubelet's own directory is; as upstream.
        device_plugins_dir: "/var/lib/kubelet/device-plugins".into(),
        describes_node: true,
    };
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

/// Shows what the process is: its use of the machine, its version, its gates.
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

/// What the parts ask of the machine itself. A simulation has stand-ins for it.
struct Machine<M> {
    /// How many processors share the work.
    cores: usize,
    mounter: M,
    /// Where the links to containers' logs are.
    container_logs_dir: PathBuf,
    /// Where the registration socket of device plugins is.
    device_plugins_dir: PathBuf,
    /// Whether the Node object is kept.
    describes_node: bool,
}

/// What everything else is made from.
struct Core<M> {
    clock: Clock,
    machine: Machine<M>,
    settings: NodeSettings,
    loaded: Loaded,
    metrics: Registry,
    observers: metrics::Observers,
    recorder: Recorder,
    /// Whether pods wait for their start.
    rush: StartBacklog,
    runtime: Runtime,
    clients: Option<Clients>,
    rest: trim_memory::MemoryTrimmer,
    shutdown: CancellationToken,
}

/// What talks to the runtime.
struct RuntimeParts {
    pleg: pleg::Handle,
    condition: watch::Receiver<cri::RuntimeCondition>,
    images: images::Handle,
    /// Counts pulls that have ended.
    pulls: watch::Receiver<u64>,
    cgroups: Option<resources::PodCgroups>,
    devices: resources::devices::Handle,
}

/// What talks to the API server.
struct ApiParts {
    objects: Option<objects::Handle>,
    services: services::Handle,
    runtime_classes: runtime_classes::Handle,
    tokens: Option<tokens::Handle>,
    node: watch::Receiver<NodeView>,
}

impl<M: Mounter> Core<M> {
    async fn start(self, mut tasks: JoinSet<()>) -> anyhow::Result<()> {
        // The runtime may take the whole of a deadline for any of its answers; who asks for the end
        // does not wait for that.
        let answered = self.shutdown.run_until_cancelled(self.start_runtime(&mut tasks)).await;
        let Some(runtime_parts) = answered.transpose()? else {
            info!("ended before the container runtime answered");
            return Ok(());
        };
        let api = self.start_api(&mut tasks);
        let (inputs, inputs_receiver) = watch::channel(node::NodeInputs::default());
        self.bridge_node(&mut tasks, &runtime_parts, inputs);
        let network_not_ready = self.bridge_network(&mut tasks, &runtime_parts);
        let unhealthy = self.bridge_health(&mut tasks, &runtime_parts);
        let node_handle =
            self.clients.as_ref().filter(|_| self.machine.describes_node).map(|clients| {
                let parts = node::Parts {
                    clients: clients.clone(),
                    view: api.node.clone(),
                    inputs: inputs_receiver,
                    recorder: self.recorder.clone(),
                    clock: self.clock,
                };
                node::start(self.settings.node(), parts, &mut tasks, &self.shutdown)
            });

        let status = self.start_status(&mut tasks);
        let volumes = volumes::start(
            self.settings.volumes(),
            volumes::Sources {
                objects: api.objects.clone(),
                tokens: api.tokens.clone(),
                claims: Arc::new(
                    self.clients.as_ref().map(|clients| claims::new(clients, api.node.clone())),
                ),
            },
            self.recorder.clone(),
            self.clock,
            self.machine.mounter.clone(),
            &mut tasks,
            &self.shutdown,
        );
        stuck_volumes::register(&self.metrics, volumes.swept());
        let (node, recorder) = (self.settings.node_name.clone(), self.recorder.clone());
        stuck_volumes::tell(volumes.swept(), node, recorder, &mut tasks, self.shutdown.clone());
        let (desired, changes) = self.start_sources(&mut tasks, &api)?;
        // A directory service may be asked, which may take its time.
        let Some(user_namespaces) =
            self.shutdown.run_until_cancelled(self.user_namespaces()).await.transpose()?
        else {
            return supervise(tasks, self.shutdown).await;
        };
        let images = runtime_parts.images.clone();
        let parts = pods::Parts {
            user_namespaces,
            runtime: runtime_parts,
            api,
            status,
            volumes,
            desired: desired.clone(),
            changes,
            node: node_handle,
            network_not_ready,
        };
        let pods = self.start_pods(parts, &mut tasks)?;
        self.start_housekeeping(&mut tasks, images, &pods);
        if self.machine.describes_node && self.loaded.config.make_iptables_util_chains {
            node::packet_filter::start(crate::linux::iptables::System, &mut tasks, &self.shutdown);
        }
        pod_metrics::register(&self.metrics, pods.clone(), desired.clone());
        self.start_server(&mut tasks, pods, desired, unhealthy).await?;
        info!(node = self.settings.node_name, "kubelet started");
        notify_ready();
        supervise(tasks, self.shutdown).await
    }

    /// The runtime's answers: its version first, for nothing works without it. May be dropped at
    /// any point, with `tasks`.
    async fn start_runtime(&self, tasks: &mut JoinSet<()>) -> anyhow::Result<RuntimeParts> {
        // The runtime has its own setting for the folder; it is looked at only to ask the runtime
        // at once.
        let (look_again, watcher) = cni::watch(Path::new(cni::CONF_DIR));
        tasks.spawn(watcher.run(self.shutdown.clone()));
        let (mut condition, task) =
            cri::condition::condition(self.runtime.clone(), self.clock, look_again);
        let stop = self.shutdown.clone();
        tasks.spawn(async move { task.run(stop).await });
        let identified = loop {
            let wait = condition.wait_for(|condition| condition.identity.is_some());
            // Cancel-safe: a lost wait is made again.
            match tokio::time::timeout(RUNTIME_COMPLAINT, wait).await {
                Ok(Ok(condition)) => break condition.clone(),
                Ok(Err(_)) => anyhow::bail!("the runtime's task has ended"),
                Err(_) => {}
            }
            let problem = condition.borrow().last_error.as_ref().map(ToString::to_string);
            warn!(
                endpoint = self.loaded.config.container_runtime_endpoint,
                problem, "waiting for the container runtime: is containerd running?"
            );
        };
        if let Some(identity) = &identified.identity {
            info!(runtime = identity.node_info(), "container runtime answers");
        }
        let cgroups = self.settings.cgroups(&identified).await?;
        if cgroups.is_some() {
            let (reason, text) =
                ("NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
            self.recorder.node(&self.settings.node_name, EventType::Normal, reason, text);
        }
        let (pleg, task) = pleg::pleg(self.runtime.clone(), self.clock, self.observers.pleg());
        let stop = self.shutdown.clone();
        tasks.spawn(async move { task.run(stop).await });
        let (pulled, pulls) = watch::channel(0_u64);
        let observer = self.observers.images(move || pulled.send_modify(|count| *count += 1));
        let (runtime, recorder) = (self.runtime.clone(), self.recorder.clone());
        let images =
            images::Handle::new(self.settings.images(), runtime, self.clock, recorder, observer);
        if let Err(error) = images.recover_records().await {
            warn!(%error, "records of images that were pulled before could not be checked");
        }
        let folder = self.machine.device_plugins_dir.clone();
        let devices = resources::devices::start(folder, self.clock, tasks, &self.shutdown);
        Ok(RuntimeParts { pleg, condition, images, pulls, cgroups, devices })
    }

    /// The ids that pods' users have, as the disk says.
    async fn user_namespaces(&self) -> anyhow::Result<UserNamespaces> {
        let ids = subordinate_ids::ids(&self.loaded.config).await?;
        let paths = self.settings.paths();
        Ok(crate::linux::blocking::spawn(move || UserNamespaces::new(ids, paths)).await?)
    }

    /// What keeps the node's disk from filling up: images that nobody needs go, long logs are
    /// rotated.
    fn start_housekeeping(
        &self,
        tasks: &mut JoinSet<()>,
        images: images::Handle,
        pods: &PodsHandle,
    ) {
        let wanted = {
            let pods = pods.clone();
            Arc::new(move || {
                pods.views().iter().filter(|view| view.is_active()).flat_map(images_of).collect()
            })
        };
        let collector = images::gc::Collector::new(
            images,
            self.settings.image_gc(),
            self.settings.node_name.clone(),
            wanted,
        );
        let stop = self.shutdown.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(collector.run()).await;
            stop.cancelled().await;
        });
        if let Some(policy) = self.settings.log_rotation() {
            let rotator =
                logs::Rotator::new(policy, pods.clone(), self.runtime.clone(), self.clock);
            let stop = self.shutdown.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(rotator.run()).await;
            });
        }
    }

    fn start_status(&self, tasks: &mut JoinSet<()>) -> status::Handle {
        match &self.clients {
            Some(clients) => {
                let api = status::KubeStatusApi::new(clients.writes.clone());
                let (handle, writer) =
                    status::Writer::new(api, self.clock, self.rush.clone(), &clients.reach);
                tasks.spawn(writer.run(self.shutdown.clone()));
                handle
            }
            // Nothing is sent: no pod has an object in the API.
            None => status::Handle::standalone(),
        }
    }

    fn start_api(&self, tasks: &mut JoinSet<()>) -> ApiParts {
        let Some(clients) = &self.clients else {
            return ApiParts {
                objects: None,
                services: services::Handle::standalone(),
                runtime_classes: runtime_classes::Handle::standalone(),
                tokens: None,
                node: watch::channel(NodeView::default()).1,
            };
        };
        let stop = || self.shutdown.clone();
        let node = crate::apiserver::nodes::start(clients, tasks, stop());
        ApiParts {
            objects: Some(objects::start(
                clients,
                self.settings.change_detection(node.clone()),
                stop(),
            )),
            services: services::start(clients, tasks, stop()),
            runtime_classes: runtime_classes::start(clients, tasks, stop()),
            tokens: Some(tokens::new(clients, self.clock)),
            node,
        }
    }

    fn start_sources(
        &self,
        tasks: &mut JoinSet<()>,
        api: &ApiParts,
    ) -> anyhow::Result<(desired::Handle, tokio::sync::mpsc::Receiver<desired::Change>)> {
        let mut all = Vec::new();
        if let Some(config) = self.settings.manifests() {
            let recorder = self.recorder.clone();
            all.push(sources::manifests::start(
                config,
                recorder,
                self.clock,
                tasks,
                self.shutdown.clone(),
            ));
        }
        if let Some(config) = self.settings.http()? {
            all.push(sources::http::start(config, self.clock, tasks, self.shutdown.clone()));
        }
        if let Some(clients) = &self.clients {
            let node = self.loaded.config.register_node.then(|| api.node.clone());
            all.push(sources::apiserver::start(
                clients,
                node,
                self.clock,
                tasks,
                self.shutdown.clone(),
            ));
        }
        let mirrors = self.clients.as_ref().map(|clients| desired::MirrorSetup {
            clients: clients.clone(),
            node: api.node.clone(),
        });
        Ok(desired::start(all, mirrors, self.recorder.clone(), self.clock, tasks, &self.shutdown))
    }

    async fn start_server(
        &self,
        tasks: &mut JoinSet<()>,
        pods: PodsHandle,
        desired: desired::Handle,
        unhealthy: watch::Receiver<Option<String>>,
    ) -> anyhow::Result<()> {
        let config = &self.loaded.config;
        let state = server::State {
            pods,
            desired,
            cri: self.runtime.clone(),
            metrics: self.metrics.clone(),
            probe_metrics: self.observers.probe_registry(),
            configz: config.configz().to_string().into(),
            unhealthy,
            clock: self.clock,
            debugging_handlers: config.enable_debugging_handlers,
        };
        if let Some(address) = self.settings.health_address()? {
            tasks.spawn(server::serve_when_free(
                address,
                server::health_router(state.clone()),
                self.shutdown.clone(),
            ));
        }
        let mut serve = |listener, router, tls| {
            let stop = self.shutdown.clone();
            tasks.spawn(server::serve(listener, router, tls, stop));
        };
        if !config.enable_server {
            return Ok(());
        }
        if let Some(address) = self.settings.read_only_address()? {
            serve(server::bind(address).await?, server::read_only_router(state.clone()), None);
        }
        let tls = server::TlsSource::load(self.settings.tls(self.clock)?)?;
        let client = self.clients.as_ref().map(|clients| clients.writes.clone());
        let authenticator = server::Authenticator::new(
            self.settings.authentication(),
            tls.client_ca(),
            client.clone(),
            self.clock,
        );
        let authorizer = server::Authorizer::new(
            self.settings.authorization(),
            &self.settings.node_name,
            client,
            self.clock,
        );
        let address = self.settings.server_address()?;
        let router = server::secure_router(state, authenticator, authorizer);
        serve(server::bind(address).await?, router, Some(Arc::new(tls)));
        Ok(())
    }
}

/// Waits for the end that was asked for; a task that ends before it ends the process with an error,
/// and whoever supervises the process starts it again.
async fn supervise(mut tasks: JoinSet<()>, shutdown: CancellationToken) -> anyhow::Result<()> {
    // Cancel-safe: `join_next` and `cancelled` lose nothing when dropped.
    let unexpected = loop {
        tokio::select! {
            () = shutdown.cancelled() => break None,
            ended = tasks.join_next() => match ended {
                Some(Err(error)) => break Some(error),
                // Tasks may end on their own only when their work is done for good.
                Some(Ok(())) => {}
                None => break None,
            },
        }
    };
    shutdown.cancel();
    let drained =
        tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        warn!(left = tasks.len(), "tasks did not end in time; they are dropped");
        tasks.abort_all();
    }
    match unexpected {
        Some(panic) => {
            error!(error = %panic, "a core task failed");
            Err(anyhow::anyhow!(panic).context("a core task of the kubelet failed"))
        }
        None => Ok(()),
    }
}

/// Tells systemd that the kubelet is up; without systemd nobody listens.
/// The images that a pod refers to: of its containers, and those that it mounts.
fn images_of(view: &PodView) -> Vec<String> {
    let spec = view.pod.spec.as_ref();
    let volumes = spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mounted = volumes.iter().filter_map(|volume| volume.image.as_ref()?.reference.clone());
    let containers = pod::main_containers(&view.pod).iter().chain(pod::init_containers(&view.pod));
    containers.filter_map(|container| container.image.clone()).chain(mounted).collect()
}

fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd was not told");
    }
}
