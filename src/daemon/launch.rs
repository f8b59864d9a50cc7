//! Making the task of a pod: its feeds, its prober, its executor; and what dispatch asks of the
//! rest of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::trim_memory::MemoryTrimmer;
use super::{ApiParts, Core, RuntimeParts};
use crate::admission::{self, AdmitInput, SysctlAllowlist};
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::config::Gate;
use crate::dispatch::orphan::RuntimePod;
use crate::dispatch::{Allocated, Asks, Directive, Ended, Launch, PodView, Preempt, Rejected};
use crate::model::quantity::Amount;
use crate::model::{EventType, Lifecycle, ObservedPod, Pod, PodKey, PodUid, pod};
use crate::pods::SandboxPermits;
use crate::pods::execute::{self, Count, Deps, ImageUsers, Metrics, PodExecutor, Settings};
use crate::pods::hooks::HookCommands;
use crate::pods::plan::types::Inputs;
use crate::pods::recorded;
use crate::pods::user_namespaces::UserNamespaces;
use crate::pods::worker::{Feeds, NetworkProblem, Start, Worker};
use crate::probes::{PodProbes, ProbeDeps};
use crate::resources::manager::UNEXPECTED;
use crate::resources::{Amounts, tiers};
use crate::volumes::mounter::Mounter;
use crate::{desired, node, pleg, status, volumes};

/// How many commands of probes run at once per core: each forks a shim and a runc.
const EXEC_PER_CORE: usize = 4;

/// The grace of a pod that no source knows: what a pod has unless it says otherwise. (Upstream: one
/// second.)
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

/// How long a static pod that runs waits for what the API server knows of it. Nobody looks after it
/// meanwhile.
const LATE_MIRROR: Duration = Duration::from_secs(5);

/// What a launcher is made from.
pub(super) struct Parts {
    pub(super) user_namespaces: UserNamespaces,
    pub(super) runtime: RuntimeParts,
    pub(super) api: ApiParts,
    pub(super) status: status::Handle,
    pub(super) volumes: volumes::Handle,
    pub(super) desired: desired::Handle,
    pub(super) node: Option<node::Handle>,
    pub(super) network_not_ready: watch::Receiver<Option<NetworkProblem>>,
}

/// Starts pods' tasks.
pub(super) struct Launcher {
    deps: Arc<Deps>,
    probes: ProbeDeps,
    node: Option<node::Handle>,
    node_name: String,
    sysctls: SysctlAllowlist,
    apparmor: bool,
    features: admission::Features<'static>,
    network_not_ready: watch::Receiver<Option<NetworkProblem>>,
    max_backoff: Duration,
    restart_all: bool,
    clock: Clock,
    recorder: Recorder,
    rest: MemoryTrimmer,
    tiers: Option<tiers::Handle>,
    shutdown: CancellationToken,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher").finish_non_exhaustive()
    }
}

impl Launcher {
    /// A launcher, and the signal that something may have to be swept.
    pub(super) fn new<M: Mounter>(
        core: &Core<M>,
        parts: Parts,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<(Self, watch::Receiver<u64>)> {
        let sysctls = SysctlAllowlist::new(
            core.settings.kernel(),
            &core.loaded.config.allowed_unsafe_sysctls,
        )
        .context("allowedUnsafeSysctls")?;
        let sweep = sweep_signal(&parts.runtime.pleg, &parts.desired, tasks, &core.shutdown);
        let probes = ProbeDeps {
            exec: Arc::new(core.runtime.clone()),
            exec_slots: Arc::new(tokio::sync::Semaphore::new(EXEC_PER_CORE * core.machine.cores)),
            recorder: core.recorder.clone(),
            clock: core.clock,
            observer: core.observers.probes(),
        };
        let allocatable = match &parts.node {
            Some(node) => allocatable(node, tasks, &core.shutdown),
            // Nobody describes the node: what the machine has counts.
            None => watch::channel(core.settings.allocatable()).1,
        };
        let tiers = parts.runtime.cgroups.clone().map(|cgroups| {
            let (handle, task) = tiers::tiers(cgroups);
            let stop = core.shutdown.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(task).await;
            });
            handle
        });
        let settings = &core.settings;
        let deps = Deps {
            clock: core.clock,
            cri: core.runtime.clone(),
            pleg: parts.runtime.pleg,
            condition: parts.runtime.condition,
            images: parts.runtime.images,
            image_users: ImageUsers::default(),
            volumes: parts.volumes,
            objects: parts.api.objects,
            services: parts.api.services,
            runtime_classes: parts.api.runtime_classes,
            tokens: parts.api.tokens,
            recorder: core.recorder.clone(),
            status: parts.status,
            desired: parts.desired,
            user_namespaces: parts.user_namespaces,
            cgroups: parts.runtime.cgroups,
            manager: parts.runtime.manager,
            exec: Arc::new(HookCommands(core.runtime.clone())),
            permits: SandboxPermits::for_cores(core.machine.cores, core.rush.clone()),
            allocatable,
            metrics: Metrics { count: starts(core) },
            settings: Settings {
                node_name: settings.node_name.clone(),
                paths: settings.paths(),
                container_logs_dir: core.machine.container_logs_dir.clone(),
                resolv_conf: core.loaded.config.resolv_conf.clone().into(),
                node_ips: settings.node_ips.clone(),
                memory_capacity: i64::try_from(settings.machine.memory).unwrap_or(i64::MAX),
                spec: settings.spec(),
            },
        };
        let period = core.loaded.config.crash_loop_back_off.max_container_restart_period;
        let launcher = Self {
            deps: Arc::new(deps),
            probes,
            node: parts.node,
            node_name: settings.node_name.clone(),
            sysctls,
            apparmor: Path::new("/sys/kernel/security/apparmor").exists(),
            features: admission::Features {
                pod_level_resources: core.loaded.gates.enabled(Gate::POD_LEVEL_RESOURCES),
                declared: settings.declared_features(),
            },
            network_not_ready: parts.network_not_ready,
            max_backoff: period.map_or(Duration::from_secs(300), super::settings::duration),
            restart_all: core.loaded.gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS),
            clock: core.clock,
            recorder: core.recorder.clone(),
            rest: core.rest.clone(),
            tiers,
            shutdown: core.shutdown.clone(),
        };
        Ok((launcher, sweep))
    }

    /// Waits until everything that runs has been read and the node is known: pods can be told from
    /// new ones then.
    pub(super) fn readiness(&self) -> impl Future<Output = ()> + Send + 'static {
        let (pleg, node, mut allocatable) =
            (self.deps.pleg.clone(), self.node.clone(), self.deps.allocatable.clone());
        async move {
            pleg.synced().await;
            if let Some(node) = node {
                node.wait().await;
                // It gets here through a task of its own: for a node of no size every new pod would
                // be refused for good.
                allocatable.wait_for(|amounts| !amounts.is_empty()).await.map(drop).ok();
            }
        }
    }

    /// Tells that a pod makes room.
    fn preempt(&self, pod: &Arc<Pod>) -> Preempt {
        let (reason, message) = (admission::PREEMPTING, admission::PREEMPTION_MESSAGE);
        self.recorder.pod(pod, None, EventType::Warning, reason, message);
        Preempt {
            uid: pod::uid(pod),
            why: Rejected { reason: reason.to_owned(), message: message.to_owned() },
            grace: Duration::from_secs(
                u64::try_from(pod::spec_grace_seconds(pod)).unwrap_or_default(),
            ),
        }
    }

    fn observed(&self, uid: &PodUid) -> Arc<ObservedPod> {
        self.deps.pleg.subscribe(uid).borrow().pod.clone()
    }
}

/// The mirror of a static pod that ran before this process, once the API server has been read: it
/// says what the probes had found, and without it the pod would turn unready until they have found
/// it again. `None`: the pod does not run, has no mirror, or the API server took too long.
/// Cancel-safe.
async fn late_mirror(
    desired: desired::Handle,
    mut observation: watch::Receiver<pleg::Observation>,
    uid: PodUid,
    shutdown: CancellationToken,
) -> Option<Arc<Pod>> {
    let wait = async {
        let observed =
            observation.wait_for(|observation| observation.fresh).await.ok()?.pod.clone();
        // One that has to be started must not wait: it may be the API server itself.
        if !observed.containers.iter().any(|container| container.state.is_running()) {
            return None;
        }
        desired.wait_sources_ready().await;
        desired.mirror_of(&uid)
    };
    shutdown.run_until_cancelled(tokio::time::timeout(LATE_MIRROR, wait)).await?.ok()?
}

impl Launch for Launcher {
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> (impl Future<Output = Ended> + Send + 'static, watch::Receiver<PodView>) {
        let uid = pod::uid(&pod);
        let mirror = if pod::is_static(&pod) { self.deps.desired.mirror_of(&uid) } else { None };
        let api_status =
            mirror.as_ref().map_or(pod.status.as_ref(), |mirror| mirror.status.as_ref());
        let of_mirror = api_status.filter(|_| pod::is_static(&pod)).map(status::of_mirror);
        let remembered = match of_mirror {
            Some(_) => BTreeMap::new(),
            None => recorded::remembered(api_status, self.clock.now().wall),
        };
        let inputs = Inputs {
            max_backoff: self.max_backoff,
            restart_all: self.restart_all,
            recorded: recorded::recorded(of_mirror.as_ref().or(api_status)),
            remembered,
            left_behind: self.deps.settings.paths.pod(&uid).exists(),
            ..Inputs::default()
        };
        let probes = PodProbes::start(self.probes.clone(), pod.clone());
        let feeds = Feeds {
            directive,
            observation: self.deps.pleg.subscribe(&uid),
            volumes: self.deps.volumes.subscribe(&uid),
            verdicts: probes.verdicts(),
            network_not_ready: self.network_not_ready.clone(),
        };
        let executor = Arc::new(PodExecutor::new(self.deps.clone(), &pod, api_status, probes));
        let recall = (pod::is_static(&pod) && mirror.is_none())
            .then(|| {
                late_mirror(
                    self.deps.desired.clone(),
                    feeds.observation.clone(),
                    uid,
                    self.shutdown.clone(),
                )
            })
            .map(Box::pin);
        let start = Start { pod, lifecycle, inputs, shutdown: self.shutdown.clone() };
        let (mut worker, view) = Worker::new(start, Arc::clone(&executor), self.clock);
        let task = async move {
            if let Some(recall) = recall
                && let Some(mirror) = recall.await
            {
                executor.recall(mirror.status.as_ref());
                let status = mirror.status.as_ref().map(status::of_mirror);
                worker.recall(recorded::recorded(status.as_ref()));
            }
            worker.run(feeds).await
        };
        (task, view)
    }

    fn allocate(
        &mut self,
        pod: &Arc<Pod>,
    ) -> Option<impl Future<Output = Allocated> + Send + 'static> {
        let observed = self.observed(&pod::uid(pod));
        let running: Vec<String> = observed
            .containers
            .iter()
            .filter(|container| container.state.is_running())
            .map(|container| container.name.clone())
            .collect();
        let waits = self.deps.manager.admit(pod, &running)?;
        let manager = self.deps.manager.clone();
        Some(async move {
            let refused = waits.await.err().map(|refusal| Rejected {
                reason: UNEXPECTED.to_owned(),
                message: refusal.to_string(),
            });
            Allocated { refused, given: manager.given().await }
        })
    }

    fn admit(
        &mut self,
        pod: &Arc<Pod>,
        others: &[Arc<Pod>],
        asks: &Asks,
    ) -> Result<Vec<Preempt>, Rejected> {
        let mut allocatable: Amounts = self
            .deps
            .allocatable
            .borrow()
            .iter()
            .filter_map(|(name, quantity)| Some((name.clone(), Amount::parse(&quantity.0).ok()?)))
            .collect();
        let allocated = match asks {
            Asks::Entry(allocated) => allocated.as_ref(),
            Asks::Resize => None,
        };
        // What pods have counts, also while its plugin is away.
        for (resource, count) in allocated.into_iter().flat_map(|allocated| &allocated.given) {
            let least = Amount::from_units(*count);
            let amount = allocatable.entry(resource.clone()).or_insert(least);
            *amount = least.max(*amount);
        }
        let is_entry = matches!(asks, Asks::Entry(_));
        let observed = self.observed(&pod::uid(pod));
        let is_running = observed.containers.iter().any(|c| c.state.is_running());
        let found = if !is_entry || observed.is_empty() {
            admission::Found::Nothing
        } else if is_running {
            admission::Found::Running
        } else {
            admission::Found::Stopped
        };
        let node = self.node.as_ref().and_then(node::Handle::node).unwrap_or_default();
        let no_labels = BTreeMap::new();
        let features = self.deps.condition.borrow().features;
        let input = AdmitInput {
            pod,
            node: admission::NodeView {
                name: &self.deps.settings.node_name,
                labels: node.metadata.labels.as_ref().unwrap_or(&no_labels),
                taints: node
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.taints.as_deref())
                    .unwrap_or_default(),
                supplemental_groups_policy: features
                    .is_some_and(|features| features.supplemental_groups_policy),
            },
            allocatable: &allocatable,
            others,
            found,
            refused: allocated.and_then(|allocated| allocated.refused.as_ref()).map(|refused| {
                admission::Refused { reason: &refused.reason, message: &refused.message }
            }),
            sysctls: &self.sysctls,
            apparmor: self.apparmor,
            features: self.features,
            pressure: &[],
        };
        match admission::admit(&input) {
            Ok(admitted) => {
                if let Some(overlooked) = admitted.overlooked {
                    let (reason, message) = (overlooked.reason, overlooked.message);
                    info!(pod = %pod::key(pod), reason, message, "a pod that runs already would not be taken today");
                }
                Ok(admitted.preempt.iter().map(|pod| self.preempt(pod)).collect())
            }
            Err(admission::Rejection { reason, message, .. }) => {
                if is_entry {
                    self.recorder.pod(pod, None, EventType::Warning, &reason, message.clone());
                }
                Err(Rejected { reason, message })
            }
        }
    }

    fn may_sweep(&self) -> bool {
        self.deps.desired.sources_ready()
    }

    fn wanted(&self) -> BTreeSet<PodUid> {
        self.deps.desired.pods().iter().map(|pod| pod::uid(pod)).collect()
    }

    fn in_runtime(&self) -> Vec<RuntimePod> {
        let known = self.deps.pleg.pods().into_iter();
        known
            .filter(|known| !known.subscribed && !known.observation.pod.is_empty())
            .map(|known| {
                let names: BTreeSet<String> = known
                    .observation
                    .pod
                    .containers
                    .iter()
                    .map(|container| container.name.clone())
                    .collect();
                RuntimePod {
                    key: known.key.unwrap_or_else(|| PodKey::new("unknown", known.uid.as_str())),
                    uid: known.uid,
                    containers: names.into_iter().collect(),
                    grace: ORPHAN_GRACE,
                }
            })
            .collect()
    }

    fn ended(&mut self, uid: &PodUid) {
        let status = self.deps.status.clone();
        let manager = self.deps.manager.clone();
        let forgotten = uid.clone();
        self.deps.permits.background(async move {
            status.forget(&forgotten).await;
            manager.forget(&forgotten).await;
        });
        self.deps.images.forget(uid);
        self.deps.desired.release(uid);
        self.deps.volumes.forget(uid);
        if let Some(tokens) = &self.deps.tokens {
            tokens.forget(uid);
        }
        self.rest.note();
    }

    fn over(&mut self, uid: &PodUid) {
        let (manager, uid) = (self.deps.manager.clone(), uid.clone());
        self.deps.permits.background(async move { manager.forget(&uid).await });
    }

    fn active_changed(&mut self, active: Vec<Arc<Pod>>) {
        if let Some(tiers) = &self.tiers {
            tiers.set(active);
        }
    }

    fn sweep_disk(&mut self, known: Vec<PodUid>) {
        self.deps.volumes.sweep(known.clone());
        let settings = self.deps.settings.clone();
        let logs = execute::unknown_logs(Path::new(&settings.spec.pod_logs_dir), &known);
        self.deps.permits.background(async move {
            let removal = move || execute::remove_unknown_logs(&logs, &settings.container_logs_dir);
            if let Err(error) = crate::linux::blocking::spawn(removal).await {
                warn!(%error, "removing logs of pods that nobody knows failed");
            }
        });
        let Some(cgroups) = self.deps.cgroups.clone() else { return };
        let node_name = self.node_name.clone();
        // Detached from any pod; ends by its own deadlines.
        self.deps.permits.background(async move {
            let found = match cgroups.list().await {
                Ok(found) => found,
                Err(error) => {
                    warn!(node = node_name, %error, "listing cgroups of pods failed");
                    return;
                }
            };
            for uid in found.into_iter().filter(|uid| !known.contains(uid)) {
                if let Err(error) = cgroups.remove(&uid).await {
                    warn!(%uid, %error, "removing the cgroup of a pod that nobody knows failed");
                }
            }
        });
    }
}

/// What is told of each start: the counters, and who gives memory back after a burst.
fn starts<M>(core: &Core<M>) -> Arc<dyn Fn(Count<'_>) + Send + Sync> {
    let (count, rest) = (core.observers.starts(), core.rest.clone());
    Arc::new(move |start| {
        count(start);
        rest.note();
    })
}

/// Counts whenever what is in the runtime without an owner may have changed, or the sources have
/// become ready.
fn sweep_signal(
    pleg: &pleg::Handle,
    desired: &desired::Handle,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    let (mut changes, desired, stop) = (pleg.changes(), desired.clone(), stop.clone());
    tasks.spawn(async move {
        let work = async {
            desired.wait_sources_ready().await;
            loop {
                sender.send_modify(|count| *count += 1);
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    });
    receiver
}

/// The node's allocatable resources as this kubelet last described them.
fn allocatable(
    node: &node::Handle,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> watch::Receiver<BTreeMap<String, Quantity>> {
    let (sender, receiver) = watch::channel(BTreeMap::new());
    let (mut described, stop) = (node.described(), stop.clone());
    tasks.spawn(async move {
        let work = async {
            loop {
                let node = described.borrow_and_update().clone();
                let now = node
                    .and_then(|node| node.status.as_ref()?.allocatable.clone())
                    .unwrap_or_default();
                sender.send_if_modified(|before| {
                    let changed = *before != now;
                    *before = now;
                    changed
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
