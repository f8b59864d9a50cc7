//! Composition of what runs pods: the CRI backend, dispatch, the facts of the node that dispatch
//! needs, what forgets a pod that is gone, and the sweep of what is left over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{ApiParts, Core, RuntimeParts};
use crate::admission::{self, SysctlAllowlist};
use crate::apiserver::nodes;
use crate::config::Gate;
use crate::cri::RuntimeCondition;
use crate::desired::Change;
use crate::dispatch::{self, Dispatch, Forgetters, PodsHandle, ReadNode};
use crate::model::quantity::Amount;
use crate::model::{NodeFacts, PodUid};
use crate::pods::execute::{self, Count, ImageUsers, Metrics, Settings};
use crate::pods::hooks::HookCommands;
use crate::pods::user_namespaces::UserNamespaces;
use crate::pods::{self, CriBackend, NetworkProblem, SandboxPermits};
use crate::probes::ProbeDeps;
use crate::resources::follow;
use crate::volumes::mounter::Mounter;
use crate::{desired, node, status, volumes};

/// What running pods is made from.
pub(super) struct Parts {
    pub(super) user_namespaces: UserNamespaces,
    pub(super) runtime: RuntimeParts,
    pub(super) api: ApiParts,
    pub(super) status: status::Handle,
    pub(super) volumes: volumes::Handle,
    pub(super) desired: desired::Handle,
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) node: Option<node::Handle>,
    pub(super) network_not_ready: watch::Receiver<Option<NetworkProblem>>,
}

impl<M: Mounter> Core<M> {
    /// Starts dispatch on the CRI backend.
    pub(super) fn start_pods(
        &self,
        parts: Parts,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<PodsHandle> {
        let allocatable = self.allocatable(parts.node.as_ref(), tasks);
        let node = self.node_facts(&parts, &allocatable, tasks);
        let desired = parts.desired.clone();
        let network_not_ready = parts.network_not_ready.clone();
        let (changes, shared) = self.execute_deps(parts, allocatable);
        let shared = Arc::new(shared);

        let gates = &self.loaded.gates;
        let period = self.loaded.config.crash_loop_back_off.max_container_restart_period;
        let (backend, look) = CriBackend::new(
            pods::Config {
                max_backoff: period.map_or(Duration::from_secs(300), super::settings::duration),
                restart_all: gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS),
            },
            pods::Deps {
                execute: Arc::clone(&shared),
                probes: self.probe_deps(),
                network_not_ready,
                shutdown: self.shutdown.clone(),
            },
        );
        tasks.spawn(look);

        let deps = dispatch::Deps {
            backend,
            desired,
            node,
            read_node: self
                .clients
                .clone()
                .map(|clients| -> ReadNode { Arc::new(move || nodes::read(&clients).boxed()) }),
            forget: self.forgetters(&shared),
            recorder: self.recorder.clone(),
            clock: self.clock,
            shutdown: self.shutdown.clone(),
        };
        let (dispatch, pods) = Dispatch::new(self.dispatch_config()?, deps);
        tasks.spawn(dispatch.run(changes));
        self.follow_pods(&shared, &pods, tasks);
        Ok(pods)
    }

    fn dispatch_config(&self) -> anyhow::Result<dispatch::Config> {
        let settings = &self.settings;
        let unsafe_sysctls = &self.loaded.config.allowed_unsafe_sysctls;
        Ok(dispatch::Config {
            node_name: settings.node_name.clone(),
            sysctls: SysctlAllowlist::new(settings.kernel(), unsafe_sysctls)
                .context("allowedUnsafeSysctls")?,
            apparmor: Path::new("/sys/kernel/security/apparmor").exists(),
            features: admission::Features {
                pod_level_resources: self.loaded.gates.enabled(Gate::POD_LEVEL_RESOURCES),
                declared: settings.declared_features(),
            },
        })
    }

    fn probe_deps(&self) -> ProbeDeps {
        ProbeDeps {
            exec: Arc::new(self.runtime.clone()),
            recorder: self.recorder.clone(),
            clock: self.clock,
            observer: self.observers.probes(),
        }
    }

    fn execute_deps(
        &self,
        parts: Parts,
        allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
    ) -> (mpsc::Receiver<Change>, execute::Deps) {
        let settings = &self.settings;
        let deps = execute::Deps {
            clock: self.clock,
            cri: self.runtime.clone(),
            pleg: parts.runtime.pleg,
            condition: parts.runtime.condition,
            images: parts.runtime.images,
            image_users: ImageUsers::default(),
            volumes: parts.volumes,
            objects: parts.api.objects,
            services: parts.api.services,
            runtime_classes: parts.api.runtime_classes,
            tokens: parts.api.tokens,
            recorder: self.recorder.clone(),
            status: parts.status,
            desired: parts.desired,
            user_namespaces: parts.user_namespaces,
            cgroups: parts.runtime.cgroups,
            devices: parts.runtime.devices,
            exec: Arc::new(HookCommands(self.runtime.clone())),
            permits: SandboxPermits::for_cores(self.machine.cores, self.rush.clone()),
            allocatable,
            metrics: Metrics { count: self.count_starts() },
            settings: Settings {
                node_name: settings.node_name.clone(),
                paths: settings.paths(),
                container_logs_dir: self.machine.container_logs_dir.clone(),
                resolv_conf: self.loaded.config.resolv_conf.clone().into(),
                node_ips: settings.node_ips.clone(),
                memory_capacity: i64::try_from(settings.machine.memory).unwrap_or(i64::MAX),
                spec: settings.spec(),
            },
        };
        (parts.changes, deps)
    }

    /// What counts each start: the metrics, and what gives memory back after a burst.
    fn count_starts(&self) -> Arc<dyn Fn(Count<'_>) + Send + Sync> {
        let count = self.observers.starts();
        let rest = self.rest.clone();
        Arc::new(move |start| {
            count(start);
            rest.note();
        })
    }

    /// Registers all that keeps something of a pod.
    fn forgetters(&self, shared: &Arc<execute::Deps>) -> Forgetters {
        let mut forget = Forgetters::default();
        let queues = Arc::clone(shared);
        forget.add(move |uid: &PodUid| {
            let status = queues.status.clone();
            let devices = queues.devices.clone();
            let uid = uid.clone();
            queues.permits.background(async move {
                status.forget(&uid).await;
                devices.forget(&uid).await;
            });
        });
        let images = shared.images.clone();
        forget.add(move |uid: &PodUid| images.forget(uid));
        let desired = shared.desired.clone();
        forget.add(move |uid: &PodUid| desired.release(uid));
        let volumes = shared.volumes.clone();
        forget.add(move |uid: &PodUid| volumes.forget(uid));
        if let Some(tokens) = shared.tokens.clone() {
            forget.add(move |uid: &PodUid| tokens.forget(uid));
        }
        let rest = self.rest.clone();
        forget.add(move |_: &PodUid| rest.note());
        forget
    }

    /// Starts what follows from the pods as a whole: the shares of the burstable tier, and once per
    /// process the sweep of what pods left that are not known any more.
    fn follow_pods(&self, shared: &Arc<execute::Deps>, pods: &PodsHandle, tasks: &mut JoinSet<()>) {
        if let Some(cgroups) = shared.cgroups.clone() {
            let stop = self.shutdown.clone();
            let active = pods.active();
            tasks.spawn(async move {
                stop.run_until_cancelled(follow::keep_tiers(cgroups, active)).await;
            });
        }

        let volumes = shared.volumes.clone();
        let cgroups = shared.cgroups.clone();
        let pod_logs = PathBuf::from(&shared.settings.spec.pod_logs_dir);
        let container_logs = shared.settings.container_logs_dir.clone();
        let stop = self.shutdown.clone();
        let pods = pods.clone();
        tasks.spawn(async move {
            let sweep = async {
                let known = pods.known().await;
                volumes.sweep(known.iter().cloned());
                let has_task = pods.clone();
                let is_known = move |uid: &PodUid| has_task.is_known(uid);
                execute::sweep_logs(pod_logs, container_logs, is_known).await;
                if let Some(cgroups) = cgroups {
                    follow::sweep(&cgroups, |uid| pods.is_known(uid)).await;
                }
            };
            stop.run_until_cancelled(sweep).await;
        });
    }

    /// The node's allocatable resources as this kubelet last described them.
    fn allocatable(
        &self,
        node: Option<&node::Handle>,
        tasks: &mut JoinSet<()>,
    ) -> watch::Receiver<BTreeMap<String, Quantity>> {
        let Some(node) = node else {
            // The node is not described: what the machine has counts.
            return watch::channel(self.settings.allocatable()).1;
        };
        let (sender, receiver) = watch::channel(BTreeMap::new());
        let mut described = node.described();
        let stop = self.shutdown.clone();
        tasks.spawn(async move {
            let work = async {
                loop {
                    let node = described.borrow_and_update().clone();
                    let now = node
                        .and_then(|node| node.status.as_ref()?.allocatable.clone())
                        .unwrap_or_default();
                    sender.send_if_modified(|before| {
                        let is_changed = *before != now;
                        *before = now;
                        is_changed
                    });
                    if described.changed().await.is_err() {
                        return;
                    }
                }
            };
            stop.run_until_cancelled(work).await;
        });
        receiver
    }

    /// The facts of the node that admission looks at.
    fn node_facts(
        &self,
        parts: &Parts,
        allocatable: &watch::Receiver<BTreeMap<String, Quantity>>,
        tasks: &mut JoinSet<()>,
    ) -> watch::Receiver<Option<Arc<NodeFacts>>> {
        let (sender, receiver) = watch::channel(None);
        let mut view = parts.api.node.clone();
        let mut described = parts.node.as_ref().map(node::Handle::described);
        let mut allocatable = allocatable.clone();
        let mut condition = parts.runtime.condition.clone();
        let stop = self.shutdown.clone();
        tasks.spawn(async move {
            let work = async {
                loop {
                    let object = described
                        .as_mut()
                        .map(|described| described.borrow_and_update().clone())
                        .map(|described| view.borrow_and_update().node.clone().or(described));
                    let now = facts(
                        object.as_ref().map(Option::as_deref),
                        &allocatable.borrow_and_update(),
                        &condition.borrow_and_update(),
                    )
                    .map(Arc::new);
                    sender.send_if_modified(|before| {
                        let is_changed = *before != now;
                        *before = now;
                        is_changed
                    });
                    // Every arm is cancel-safe.
                    tokio::select! {
                        () = changed(&mut view) => {}
                        () = changed_of(&mut described) => {}
                        () = changed(&mut allocatable) => {}
                        () = changed(&mut condition) => {}
                    }
                }
            };
            stop.run_until_cancelled(work).await;
        });
        receiver
    }
}

/// The facts of the node; `None`: they are not known yet. `object` is the Node object, where this
/// kubelet keeps one.
fn facts(
    object: Option<Option<&Node>>,
    allocatable: &BTreeMap<String, Quantity>,
    condition: &RuntimeCondition,
) -> Option<NodeFacts> {
    let parse = |(name, quantity): (&String, &Quantity)| {
        Some((name.clone(), Amount::parse(&quantity.0).ok()?))
    };
    let bare = NodeFacts {
        allocatable: allocatable.iter().filter_map(parse).collect(),
        supplemental_groups_policy: condition
            .features
            .is_some_and(|features| features.supplemental_groups_policy),
        ..NodeFacts::default()
    };
    match object {
        None => Some(bare),
        Some(None) => None,
        Some(Some(node)) => (!allocatable.is_empty()).then(|| bare.with_object(node)),
    }
}

/// The next change; none once the sender is gone. Cancel-safe.
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
