//! Starts what runs pods.
//!
//! - The CRI backend, with the dependencies of its executor and reporter.
//! - Dispatch on it, with the facts of the node that admission looks at.
//! - The registration of everything that forgets a pod that is gone.
//! - The shares of the burstable tier, and the sweep of what unknown pods left.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::{mpsc, watch};

use super::{ApiParts, RuntimeParts};
use crate::admission::Rejection;
use crate::apiserver::nodes::{self, NodeView};
use crate::cni::NetworkProblem;
use crate::config::Gate;
use crate::cri::RuntimeCondition;
use crate::daemon::switched_off::SwitchedOff;
use crate::daemon::tasks::Tasks;
use crate::daemon::{Core, Kubelet};
use crate::desired::Change;
use crate::dispatch::{self, Backend, Dispatch, Forgetters, PodsHandle, ReadNode};
use crate::linux::machine::Kernel;
use crate::model::quantity::Amount;
use crate::model::{NodeFacts, Pod, PodUid, Pressure};
use crate::pods::execute::{
    self, ApiDeps, Count, ImageUsers, Metrics, NodeDeps, ResourceDeps, RuntimeDeps, Settings,
};
use crate::pods::hooks::HookCommands;
use crate::pods::lives::Lives;
use crate::pods::report::ReportDeps;
use crate::pods::user_namespaces::UserNamespaces;
use crate::pods::{self, CriBackend, SandboxPermits, request};
use crate::probes::{self, ProbeDeps};
use crate::resources::manager::UNEXPECTED;
use crate::resources::pod_states::PodStates;
use crate::resources::{follow, tiers};
use crate::volumes::mounter::Mounter;
use crate::watch::set_if_changed;
use crate::{desired, node, status, volumes};

/// The parts that running pods is made from.
pub(in crate::daemon) struct Parts {
    pub(in crate::daemon) user_namespaces: UserNamespaces,
    pub(in crate::daemon) runtime: RuntimeParts,
    pub(in crate::daemon) api: ApiParts,
    pub(in crate::daemon) status: status::Handle,
    pub(in crate::daemon) volumes: volumes::Handle,
    pub(in crate::daemon) desired: desired::Handle,
    pub(in crate::daemon) changes: mpsc::Receiver<Change>,
    pub(in crate::daemon) node: Option<node::Handle>,
    /// What the node is short of.
    pub(in crate::daemon) pressure: watch::Receiver<Pressure>,
    /// The shutdown of the machine that is under way.
    pub(in crate::daemon) shutdown: watch::Receiver<Option<node::Shutdown>>,
    /// The node's own addresses, preferred first.
    pub(in crate::daemon) host_ips: watch::Receiver<Vec<IpAddr>>,
    pub(in crate::daemon) network_not_ready: watch::Receiver<Option<NetworkProblem>>,
}

/// Has the resource manager allocate what pods ask for.
struct Gives(Arc<execute::Deps>);

impl dispatch::Give for Gives {
    fn allocate(
        &self,
        pod: &Arc<Pod>,
        running: &[String],
    ) -> Option<BoxFuture<'static, dispatch::Allocated>> {
        let waits = self.0.resources.manager.admit(pod, running)?;
        let manager = self.0.resources.manager.clone();
        Some(
            async move {
                let refused = waits.await.err();
                let refused =
                    refused.map(|refusal| Rejection::new(UNEXPECTED, refusal.to_string()));
                dispatch::Allocated { refused, given: manager.given().await }
            }
            .boxed(),
        )
    }

    fn release(&self, uid: &PodUid) {
        let manager = self.0.resources.manager.clone();
        let uid = uid.clone();
        self.0.runtime.permits.background(async move { manager.forget(&uid).await });
    }
}

/// What dispatch on a backend is made from.
pub(in crate::daemon) struct DispatchParts<B> {
    pub(in crate::daemon) backend: B,
    pub(in crate::daemon) desired: desired::Handle,
    pub(in crate::daemon) changes: mpsc::Receiver<Change>,
    pub(in crate::daemon) node: watch::Receiver<Option<Arc<NodeFacts>>>,
    pub(in crate::daemon) give: Arc<dyn dispatch::Give>,
    pub(in crate::daemon) allocated: PodStates,
    pub(in crate::daemon) forget: Forgetters,
    pub(in crate::daemon) kernel: Kernel,
}

/// The facts of the node that its object does not have.
pub(in crate::daemon) struct Changing {
    pub(in crate::daemon) condition: watch::Receiver<RuntimeCondition>,
    pub(in crate::daemon) pressure: watch::Receiver<Pressure>,
    /// The shutdown of the machine that is under way.
    pub(in crate::daemon) shutdown: watch::Receiver<Option<node::Shutdown>>,
}

impl Core {
    /// Follows the node's allocatable resources as this kubelet last described them.
    pub(in crate::daemon) fn allocatable(
        &self,
        node: Option<&node::Handle>,
        tasks: &mut Tasks,
    ) -> watch::Receiver<BTreeMap<String, Quantity>> {
        let Some(node) = node else {
            // The node is not described: what the machine has counts.
            return watch::channel(self.identity.allocatable(&self.loaded)).1;
        };
        let (sender, receiver) = watch::channel(BTreeMap::new());
        let mut described = node.described();
        tasks.run("allocatable", async move {
            loop {
                let node = described.borrow_and_update().clone();
                let now = node
                    .and_then(|node| node.status.as_ref()?.allocatable.clone())
                    .unwrap_or_default();
                set_if_changed(&sender, now);
                if described.changed().await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// Follows the facts of the node that admission looks at. They are `None` until there is a Node
    /// object with allocatable resources, where this kubelet describes one.
    pub(in crate::daemon) fn node_facts(
        node: Option<&node::Handle>,
        mut view: watch::Receiver<NodeView>,
        mut allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
        changing: Changing,
        tasks: &mut Tasks,
    ) -> watch::Receiver<Option<Arc<NodeFacts>>> {
        let (sender, receiver) = watch::channel(None);
        let mut described = node.map(node::Handle::described);
        let Changing { mut condition, mut pressure, mut shutdown } = changing;
        tasks.run("node facts", async move {
            loop {
                let bare =
                    bare_facts(&allocatable.borrow_and_update(), &condition.borrow_and_update());
                let bare = NodeFacts {
                    pressure: *pressure.borrow_and_update(),
                    shutting_down: shutdown.borrow_and_update().is_some(),
                    ..bare
                };
                let now = match &mut described {
                    None => Some(bare),
                    Some(described) => {
                        let own = described.borrow_and_update().clone();
                        let object = view.borrow_and_update().node.clone().or(own);
                        // For a node of no size every new pod would be refused for good.
                        object
                            .filter(|_| !bare.allocatable.is_empty())
                            .map(|object| bare.with_object(&object))
                    }
                };
                let now = now.map(Arc::new);
                set_if_changed(&sender, now);
                // Every arm is cancel-safe.
                tokio::select! {
                    () = changed(&mut view) => {}
                    () = changed_of(&mut described) => {}
                    () = changed(&mut allocatable) => {}
                    () = changed(&mut condition) => {}
                    () = changed(&mut pressure) => {}
                    () = changed(&mut shutdown) => {}
                }
            }
        });
        receiver
    }

    /// Starts dispatch on a backend.
    pub(in crate::daemon) fn start_dispatch<B: Backend>(
        &self,
        tasks: &mut Tasks,
        parts: DispatchParts<B>,
    ) -> anyhow::Result<PodsHandle> {
        let changes = SwitchedOff::from(&self.loaded.gates).strip(parts.changes, tasks);
        let deps = dispatch::Deps {
            backend: parts.backend,
            desired: parts.desired,
            node: parts.node,
            read_node: self
                .clients
                .clone()
                .map(|clients| -> ReadNode { Arc::new(move || nodes::read(&clients).boxed()) }),
            give: parts.give,
            allocated: parts.allocated,
            forget: parts.forget,
            recorder: self.recorder.clone(),
            clock: self.clock,
            shutdown: self.shutdown.clone(),
        };
        let name = &self.identity.name;
        let config = dispatch::Config::from_loaded(&self.loaded, name, &parts.kernel)
            .context("allowedUnsafeSysctls")?;
        let (dispatch, pods) = Dispatch::new(config, deps);
        tasks.run_to_end("dispatch", dispatch.run(changes));
        Ok(pods)
    }
}

impl<M: Mounter> Kubelet<M> {
    /// Starts dispatch on the CRI backend.
    pub(in crate::daemon) fn start_pods(
        &self,
        tasks: &mut Tasks,
        parts: Parts,
    ) -> anyhow::Result<PodsHandle> {
        let allocatable = self.core.allocatable(parts.node.as_ref(), tasks);
        let changing = Changing {
            condition: parts.runtime.condition.clone(),
            pressure: parts.pressure.clone(),
            shutdown: parts.shutdown.clone(),
        };
        let view = parts.api.node.clone();
        let node =
            Core::node_facts(parts.node.as_ref(), view, allocatable.clone(), changing, tasks);
        let desired = parts.desired.clone();
        let network_not_ready = parts.network_not_ready.clone();
        let permits = SandboxPermits::for_cores(self.machine.cores, self.core.backlog.clone());
        let report = Arc::new(self.report_deps(&parts, permits.clone()));
        let allocated = parts.runtime.states.allocated.clone();
        let kernel = Kernel::detect(&self.core.identity.machine.kernel_version);
        let (changes, shared) = self.execute_deps(parts, allocatable, permits, kernel.clone());
        let shared = Arc::new(shared);

        let (backend, look) = CriBackend::new(
            pods::Config::from(&self.core.loaded),
            pods::Deps {
                execute: Arc::clone(&shared),
                report: Arc::clone(&report),
                probes: self.probe_deps(),
                network_not_ready,
                shutdown: self.core.shutdown.clone(),
            },
        );
        tasks.run_to_end("found pods", look);

        let parts = DispatchParts {
            backend,
            desired,
            changes,
            node,
            give: Arc::new(Gives(Arc::clone(&shared))),
            allocated,
            forget: self.forgetters(&shared, &report),
            kernel,
        };
        let pods = self.core.start_dispatch(tasks, parts)?;
        self.follow_pods(&shared, &report.actuated, &pods, tasks);
        Ok(pods)
    }

    fn probe_deps(&self) -> ProbeDeps {
        ProbeDeps {
            exec: Arc::new(self.runtime.clone()),
            recorder: self.core.recorder.clone(),
            clock: self.core.clock,
            observer: probes::metrics::observer(&self.core.probe_metrics),
        }
    }

    fn report_deps(&self, parts: &Parts, permits: SandboxPermits) -> ReportDeps {
        ReportDeps {
            status: parts.status.clone(),
            desired: parts.desired.clone(),
            volumes: parts.volumes.clone(),
            actuated: parts.runtime.states.actuated.clone(),
            recorder: self.core.recorder.clone(),
            condition: parts.runtime.condition.clone(),
            permits,
            shows_stop_signals: self.core.loaded.gates.enabled(Gate::CONTAINER_STOP_SIGNALS),
            hides_ready_to_start: !self
                .core
                .loaded
                .gates
                .enabled(Gate::POD_READY_TO_START_CONTAINERS_CONDITION),
            forgets_probes: self
                .core
                .loaded
                .gates
                .enabled(Gate::CHANGE_CONTAINER_STATUS_ON_KUBELET_RESTART),
            devices: self
                .core
                .loaded
                .gates
                .enabled(Gate::RESOURCE_HEALTH_STATUS)
                .then(|| parts.runtime.manager.health()),
            host_ips: parts.host_ips.clone(),
            lives: Lives::register(&self.core.metrics, self.core.clock),
        }
    }

    fn execute_deps(
        &self,
        parts: Parts,
        allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
        permits: SandboxPermits,
        kernel: Kernel,
    ) -> (mpsc::Receiver<Change>, execute::Deps) {
        let identity = &self.core.identity;
        let memory = i64::try_from(identity.machine.memory).unwrap_or(i64::MAX);
        let swap = i64::try_from(identity.machine.swap).unwrap_or(i64::MAX);
        let swap = request::Swap { memory, swap };

        let deps = execute::Deps {
            clock: self.core.clock,
            runtime: RuntimeDeps {
                cri: self.runtime.clone(),
                pleg: parts.runtime.pleg,
                condition: parts.runtime.condition,
                image_users: ImageUsers::new(self.runtime.clone()),
                exec: Arc::new(HookCommands(self.runtime.clone())),
                permits,
            },
            api: ApiDeps {
                objects: parts.api.objects,
                services: parts.api.services,
                runtime_classes: parts.api.runtime_classes,
                tokens: parts.api.tokens,
                recorder: self.core.recorder.clone(),
            },
            images: parts.runtime.images,
            volumes: parts.volumes,
            resources: ResourceDeps {
                cgroups: parts.runtime.cgroups,
                manager: parts.runtime.manager,
                user_namespaces: parts.user_namespaces,
            },
            node: NodeDeps { allocatable, host_ips: parts.host_ips },
            metrics: Metrics { count: self.count_starts() },
            settings: Settings {
                node_name: identity.name.clone(),
                paths: volumes::Paths::from(&self.core.loaded),
                container_logs_dir: self.machine.container_logs_dir.clone(),
                resolv_conf: self.core.loaded.config.resolv_conf.clone().into(),
                memory_capacity: memory,
                images_by_handler: self
                    .core
                    .loaded
                    .gates
                    .enabled(Gate::RUNTIME_CLASS_IN_IMAGE_CRI_API),
                spec: request::Settings::from_loaded(
                    &self.core.loaded,
                    kernel,
                    identity.ips.clone(),
                    swap,
                ),
            },
        };

        (parts.changes, deps)
    }

    /// Makes the observer of starts: it counts them in the metrics, and notes them for the trimmer.
    fn count_starts(&self) -> Arc<dyn Fn(Count<'_>) + Send + Sync> {
        let count = pods::metrics::observer(&self.core.metrics);
        let rest = self.core.rest.clone();
        Arc::new(move |start| {
            count(start);
            rest.note();
        })
    }

    /// Registers every subsystem that keeps something of a pod.
    fn forgetters(&self, shared: &Arc<execute::Deps>, report: &ReportDeps) -> Forgetters {
        let mut forget = Forgetters::default();
        let queues = Arc::clone(shared);
        let statuses = report.status.clone();
        forget.add(move |uid: &PodUid| {
            let status = statuses.clone();
            let manager = queues.resources.manager.clone();
            let uid = uid.clone();
            queues.runtime.permits.background(async move {
                status.forget(&uid).await;
                manager.forget(&uid).await;
            });
        });
        let actuated = report.actuated.clone();
        forget.add(move |uid: &PodUid| actuated.remove(uid));
        let images = shared.images.clone();
        forget.add(move |uid: &PodUid| images.forget(uid));
        let desired = report.desired.clone();
        forget.add(move |uid: &PodUid| desired.release(uid));
        let volumes = shared.volumes.clone();
        forget.add(move |uid: &PodUid| volumes.forget(uid));
        if let Some(tokens) = shared.api.tokens.clone() {
            forget.add(move |uid: &PodUid| tokens.forget(uid));
        }
        forget.add(shared.resources.user_namespaces.clone());
        let rest = self.core.rest.clone();
        forget.add(move |_: &PodUid| rest.note());
        forget
    }

    /// Starts what follows from the pods as a whole: the shares of the burstable tier, and once per
    /// process the sweep of what pods left that are not known any more.
    fn follow_pods(
        &self,
        shared: &Arc<execute::Deps>,
        actuated: &PodStates,
        pods: &PodsHandle,
        tasks: &mut Tasks,
    ) {
        if let Some(cgroups) = shared.resources.cgroups.clone() {
            tasks.run("tiers", tiers::keep(cgroups, pods.active()));
        }

        let volumes = shared.volumes.clone();
        let cgroups = shared.resources.cgroups.clone();
        let pod_logs = PathBuf::from(&shared.settings.spec.pod_logs_dir);
        let container_logs = shared.settings.container_logs_dir.clone();
        let pods = pods.clone();
        let stop = self.core.shutdown.clone();
        let actuated = actuated.clone();
        tasks.run("sweep", async move {
            let known = pods.known().await;
            actuated.retain(|uid| known.contains(uid));
            volumes.sweep(known.iter().cloned());
            let has_task = pods.clone();
            let is_known = move |uid: &PodUid| has_task.is_known(uid);
            execute::sweep_logs(pod_logs, container_logs, is_known).await;
            if let Some(cgroups) = cgroups {
                follow::sweep(&cgroups, |uid| pods.is_known(uid)).await;
            }
            // Once per process.
            stop.cancelled().await;
        });
    }
}

/// Makes the facts of the node without those of its object.
fn bare_facts(allocatable: &BTreeMap<String, Quantity>, condition: &RuntimeCondition) -> NodeFacts {
    let parse = |(name, quantity): (&String, &Quantity)| {
        Some((name.clone(), Amount::parse(&quantity.0).ok()?))
    };
    NodeFacts {
        allocatable: allocatable.iter().filter_map(parse).collect(),
        supplemental_groups_policy: condition
            .features
            .is_some_and(|features| features.supplemental_groups_policy),
        ..NodeFacts::default()
    }
}

/// Waits for the next change, for ever once the sender is gone. Cancel-safe.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn changed_of<T>(receiver: &mut Option<watch::Receiver<T>>) {
    match receiver {
        Some(receiver) => changed(receiver).await,
        None => std::future::pending().await,
    }
}
