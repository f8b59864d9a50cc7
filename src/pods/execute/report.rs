//! The real executor of one pod: its dependencies, the dispatch of actions, events, and what is
//! told after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::plan::types::{Action, Key, Notice};
use super::super::request;
use super::super::user_namespaces::UserNamespaces;
use super::container::{ImageUsers, Start};
use super::kill::Kill;
use super::{
    ActionError, Completion, Context, Execute, Outcome, Published, Report, SandboxPermits,
};
use crate::apiserver::events::Recorder;
use crate::apiserver::{objects, runtime_classes, services, tokens};
use crate::clock::Clock;
use crate::cri::{Runtime, RuntimeCondition};
use crate::model::reason::event;
use crate::model::{
    Blocked, ContainerId, ContainerKind, ContainerState, EventType, Now, ObservedContainer,
    ObservedPod, Pod, PodUid, pod,
};
use crate::probes::{Exec, PodProbes, ProbeTarget, Recorded};
use crate::resources::devices;
use crate::status::{Acked, StatusUpdate};
use crate::{desired, images, pleg, resources, status, volumes};

/// How long a wait must last before it is reported as an event of our own (upstream reports none or
/// a generic one).
const BLOCKED_REPORT_AFTER: Duration = Duration::from_secs(10);

/// What every pod's executor shares.
#[derive(Debug)]
pub struct Deps {
    /// The clocks.
    pub clock: Clock,
    /// The runtime.
    pub cri: Runtime,
    /// What runs.
    pub pleg: pleg::Handle,
    /// The runtime's condition: handlers, names.
    pub condition: watch::Receiver<RuntimeCondition>,
    /// Images.
    pub images: images::Handle,
    /// The users of images that were started before.
    pub image_users: ImageUsers,
    /// Volumes.
    pub volumes: volumes::Handle,
    /// ConfigMaps and Secrets; `None` without an API server.
    pub objects: Option<objects::Handle>,
    /// Services, for environment variables.
    pub services: services::Handle,
    /// RuntimeClasses.
    pub runtime_classes: runtime_classes::Handle,
    /// Tokens of service accounts; `None` without an API server.
    pub tokens: Option<tokens::Handle>,
    /// Events.
    pub recorder: Recorder,
    /// Statuses.
    pub status: status::Handle,
    /// Desired pods: mirrors of static pods.
    pub desired: desired::Handle,
    /// The ids of pods with a user namespace of their own.
    pub user_namespaces: UserNamespaces,
    /// Cgroups of pods; `None` when `cgroupsPerQOS` is off.
    pub cgroups: Option<resources::PodCgroups>,
    /// Devices of plugins.
    pub devices: devices::Handle,
    /// Runs the commands of hooks.
    pub exec: Arc<dyn Exec>,
    /// Limit on concurrent sandbox starts.
    pub permits: SandboxPermits,
    /// The node's allocatable resources, for the downward API.
    pub allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
    /// Counters.
    pub metrics: Metrics,
    /// What does not change.
    pub settings: Settings,
}

/// Settings of the node that the executor needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name.
    pub node_name: String,
    /// The node's directories.
    pub paths: volumes::paths::Paths,
    /// `/var/log/containers`.
    pub container_logs_dir: PathBuf,
    /// `resolvConf`; empty: none.
    pub resolv_conf: PathBuf,
    /// The node's addresses, preferred first.
    pub node_ips: Vec<IpAddr>,
    /// Memory of the machine in bytes, for OOM scores.
    pub memory_capacity: i64,
    /// What shapes requests.
    pub spec: request::Settings,
}

/// What is counted of the starts.
#[derive(Clone, Copy, Debug)]
pub enum Count<'a> {
    /// A sandbox is made.
    Pod {
        /// Whether its pod has users of its own.
        own_users: bool,
    },
    /// A sandbox could not be made.
    PodFailed {
        /// Whether its pod has users of its own.
        own_users: bool,
    },
    /// A container is made.
    Container(ContainerKind),
    /// A container could not be made or started.
    ContainerFailed {
        /// Which.
        kind: ContainerKind,
        /// Its waiting reason.
        reason: &'a str,
    },
    /// The resolver configuration of a pod was cut, or a pod for which it was is gone.
    DnsCut(bool),
}

/// Counters of what pods do.
#[derive(Clone)]
pub struct Metrics {
    /// Told of each start.
    pub count: Arc<dyn Fn(Count<'_>) + Send + Sync>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(super) fn count(&self, count: Count<'_>) {
        (self.count)(count);
    }
}

/// Carries out the actions of one pod on the real runtime.
#[derive(Debug)]
pub struct PodExecutor {
    pub(super) deps: Arc<Deps>,
    pub(super) uid: PodUid,
    is_static: bool,
    probes: PodProbes,
    /// What probes had said, before this process, of containers that may still run.
    adopted: Mutex<BTreeMap<ContainerId, Recorded>>,
    sent: Mutex<Sent>,
    pub(super) warned: Mutex<Warned>,
}

/// The warnings about a pod's requests that were told.
#[derive(Debug, Default)]
pub(super) struct Warned {
    /// Of which generation of the pod they speak.
    pub(super) generation: i64,
    pub(super) told: BTreeSet<String>,
    /// Whether its resolver configuration was cut.
    pub(super) dns_cut: bool,
}

/// What was told last, so that only changes are told.
#[derive(Debug, Default)]
struct Sent {
    status: Option<Arc<PodStatus>>,
    /// The version of that status.
    version: Option<u64>,
    /// The API's object that it was sent to.
    told: Option<PodUid>,
    /// Whether it told of a failure that the pod waits for.
    is_failing: bool,
    targets: Vec<ProbeTarget>,
    stopping: bool,
}

impl Drop for PodExecutor {
    fn drop(&mut self) {
        if self.warned.get_mut().dns_cut {
            self.deps.metrics.count(Count::DnsCut(false));
        }
    }
}

impl PodExecutor {
    /// The executor of a pod; `probes` is the pod's prober, `api_status` what the API says of it
    /// (of its mirror, for a static pod).
    pub fn new(
        deps: Arc<Deps>,
        pod: &Pod,
        api_status: Option<&PodStatus>,
        probes: PodProbes,
    ) -> Self {
        let adopted = Mutex::new(super::super::recorded::probed(api_status));
        let is_static = pod::is_static(pod);
        Self {
            deps,
            uid: pod::uid(pod),
            is_static,
            probes,
            adopted,
            sent: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    /// The same for a static pod whose mirror was seen only later, before its task begins.
    pub fn recall(&self, api_status: Option<&PodStatus>) {
        *self.adopted.lock() = super::super::recorded::probed(api_status);
    }

    /// `<root>/pods/<uid>`.
    pub(super) fn pod_dir(&self) -> PathBuf {
        self.deps.settings.paths.pod(&self.uid)
    }

    pub(super) fn pod_event(
        &self,
        pod: &Pod,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.deps.recorder.pod(pod, None, event_type, reason, message);
    }

    pub(super) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: String,
    ) {
        let found = pod::find_container(pod, container).map(|(kind, _)| (kind, container));
        self.deps.recorder.pod(pod, found, kind, reason, message);
    }

    /// The pod's addresses: the sandbox's, or the node's for a pod on the node's network.
    pub(super) fn pod_ips(&self, context: &Context) -> Vec<IpAddr> {
        if pod::is_host_network(&context.pod) {
            return self.deps.settings.node_ips.clone();
        }
        context.observed.latest_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// The first address of the node's family, then the first of the other: what the pod is told of
    /// its addresses.
    pub(super) fn preferred(&self, ips: &[IpAddr]) -> Vec<IpAddr> {
        let prefers_ipv6 = self.deps.settings.node_ips.first().is_some_and(IpAddr::is_ipv6);
        let first = |v6: bool| ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
        first(prefers_ipv6).into_iter().chain(first(!prefers_ipv6)).collect()
    }

    pub(super) fn pod_ip(&self, context: &Context) -> Option<IpAddr> {
        self.pod_ips(context).first().copied()
    }

    pub(super) fn oom_score_adj(&self, pod: &Pod, container: &api::Container) -> i64 {
        resources::oom::score_adj(pod, container, self.deps.settings.memory_capacity).into()
    }

    /// The services of the pod's namespace and `default`; `None` while they have never been read.
    pub(super) fn services(&self, pod: &Pod) -> Option<Vec<Arc<services::Service>>> {
        let namespace = pod::key(pod).namespace;
        self.deps
            .services
            .synced()
            .then(|| self.deps.services.in_namespaces(&["default", &namespace]))
    }

    /// The runtime handler of the pod's RuntimeClass.
    pub(super) fn runtime_handler(&self, pod: &Pod) -> Result<String, ActionError> {
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        self.deps
            .runtime_classes
            .handler(class)
            .map_err(|error| ActionError::new(event::FAILED_CREATE_POD_SANDBOX, error.to_string()))
    }

    /// Whether the pod's runtime handler can mount recursively read-only.
    pub(super) fn recursive_read_only(&self, pod: &Pod) -> bool {
        let handler = self.runtime_handler(pod).unwrap_or_default();
        let condition = self.deps.condition.borrow();
        condition
            .handlers
            .iter()
            .any(|known| known.name == handler && known.recursive_read_only_mounts)
    }

    /// The facts that statuses need of the node.
    fn node_facts(&self) -> status::NodeFacts {
        let condition = self.deps.condition.borrow();
        let identity = condition.identity.as_ref();
        let handlers =
            condition.handlers.iter().filter(|handler| handler.recursive_read_only_mounts);
        status::NodeFacts {
            host_ips: self.deps.settings.node_ips.clone(),
            prefers_ipv6: self.deps.settings.node_ips.first().is_some_and(IpAddr::is_ipv6),
            runtime: identity.map(|identity| identity.name.clone()).unwrap_or_default(),
            recursive_read_only: handlers.map(|handler| handler.name.clone()).collect(),
        }
    }

    /// The status that follows from what is known now.
    fn compute_status(&self, report: &Report<'_>, previous: Option<&PodStatus>) -> PodStatus {
        let mirror =
            if pod::is_static(report.pod) { self.deps.desired.mirror_of(&self.uid) } else { None };
        let starting = without_starting(report);
        status::compute(&status::ComputeInput {
            pod: report.pod,
            lifecycle: report.lifecycle,
            observed: starting.as_ref().unwrap_or(report.observed),
            previous,
            recorded: mirror.as_ref().and_then(|mirror| mirror.status.as_ref()),
            waiting: report.waiting,
            replaced: report.replaced,
            resize: report.resize,
            probes: &report.inputs.probes,
            remembered: &report.inputs.remembered,
            node: &self.node_facts(),
            now: report.now,
        })
    }

    /// The API's object of this pod: for a static pod its mirror. `None`: there is none to write a
    /// status to.
    fn api_object(&self, pod: &Arc<Pod>) -> Option<Arc<Pod>> {
        if self.is_static {
            return self.deps.desired.mirror_of(&self.uid);
        }
        // A pod that was rebuilt from the runtime has no object.
        pod.metadata.resource_version.is_some().then(|| pod.clone())
    }

    /// Tells the prober what runs, and that the pod stops, when that has changed.
    fn tell_probes(&self, report: &Report<'_>) {
        let targets = self.probe_targets(report);
        let stopping = report.lifecycle.is_stopping();
        let mut sent = self.sent.lock();
        if stopping && !std::mem::replace(&mut sent.stopping, stopping) {
            self.probes.terminating();
        }
        if sent.targets != targets {
            self.probes.running(targets.clone());
            sent.targets = targets;
        }
    }

    fn probe_targets(&self, report: &Report<'_>) -> Vec<ProbeTarget> {
        // What the status has as `podIP`. Hooks ask the runtime's first address, as upstream's do.
        let pod_ip = if pod::is_host_network(report.pod) {
            self.deps.settings.node_ips.first().copied()
        } else {
            let sandbox = report.observed.latest_sandbox();
            let ips = sandbox.map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default();
            self.preferred(ips).first().copied()
        };
        let mut targets = Vec::new();
        for container in &report.observed.containers {
            let ContainerState::Running { started_at } = container.state else { continue };
            let Some((kind, _)) = pod::find_container(report.pod, &container.name) else {
                continue;
            };
            if is_starting(report, container) {
                continue;
            }
            targets.push(ProbeTarget {
                container: container.name.clone(),
                kind,
                id: container.id.clone(),
                pod_ip,
                started_at,
                recorded: self.adopted.lock().get(&container.id).copied(),
            });
        }
        targets
    }
}

/// Whether a container runs and its postStart hook has not ended: until then nobody is told that it
/// runs and no probe looks at it, as upstream, where the pod's worker waits for the hook.
fn is_starting(report: &Report<'_>, container: &ObservedContainer) -> bool {
    let hooked = || {
        pod::find_container(report.pod, &container.name).is_some_and(|(_, spec)| {
            spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some())
        })
    };
    container.state.is_running()
        && !report.inputs.post_start.contains_key(&container.id)
        && hooked()
}

/// What runs, with the containers whose postStart hook has not ended as merely created; `None` when
/// there are none.
fn without_starting(report: &Report<'_>) -> Option<ObservedPod> {
    if report.lifecycle.is_stopping() {
        return None;
    }
    report.observed.containers.iter().any(|container| is_starting(report, container)).then(|| {
        let mut observed = ObservedPod::clone(report.observed);
        for container in &mut observed.containers {
            if is_starting(report, container) {
                container.state = ContainerState::Created;
            }
        }
        observed
    })
}

impl Execute for PodExecutor {
    async fn execute(&self, key: Key, action: Action, context: Context) -> Completion {
        match action {
            Action::Prepare => self.prepare(key, context).await,
            Action::MountVolumes => {
                self.deps.volumes.ensure(context.pod.clone());
                Completion { key, outcome: Ok(Outcome::Done), mutated: false }
            }
            Action::UnmountVolumes => {
                self.deps.volumes.release(&self.uid);
                Completion { key, outcome: Ok(Outcome::Done), mutated: false }
            }
            Action::CreateSandbox { attempt } => self.create_sandbox(key, attempt, context).await,
            Action::EnsureImage { container, silent } => {
                self.ensure_image(key, container, silent, context).await
            }
            Action::StartContainer { container, kind, restart_count, sandbox, image_ref } => {
                self.start(
                    key,
                    Start { container, kind, restart_count, sandbox, image_ref },
                    context,
                )
                .await
            }
            Action::Resize { sandbox } => self.resize(key, sandbox, context).await,
            Action::PostStart { container, id } => {
                self.post_start(key, container, id, context).await
            }
            Action::PreStop { container, id, deadline } => {
                self.pre_stop_ahead(key, id, container, deadline, context).await
            }
            Action::KillContainer { id, container, why, deadline, pre_stop } => {
                self.kill(key, Kill { id, container, why, deadline, pre_stop }, context).await
            }
            // The worker hurries the kill that runs; it never comes here.
            Action::HurryKill { .. } => {
                Completion { key, outcome: Ok(Outcome::Done), mutated: false }
            }
            Action::RemoveContainer { id, reset } => {
                self.remove_container(key, id, reset, context).await
            }
            Action::StopSandbox { id } => self.stop_sandbox(key, id, context).await,
            Action::RemoveSandbox { id } => self.remove_sandbox(key, id).await,
            Action::CleanUp => self.clean_up(key, context).await,
        }
    }

    async fn acked(&self) -> watch::Receiver<Acked> {
        self.deps.status.acked(&self.uid).await
    }

    async fn poked(&self) {
        if self.is_static {
            let told = self.sent.lock().told.clone();
            self.deps.desired.mirror_changed(&self.uid, told).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    async fn finished(&self, pod: &Arc<Pod>) {
        if self.is_static {
            // Its mirror pod goes with the static pod, whose source is a file.
            self.deps.desired.release(&self.uid);
        } else if pod.metadata.deletion_timestamp.is_some() {
            self.deps.status.delete(&self.uid, pod.clone()).await;
        }
    }

    fn is_rush(&self) -> bool {
        self.deps.permits.is_rush()
    }

    fn gone(&self, pod: &Arc<Pod>) {
        self.remove_log_directory(pod);
    }

    async fn updated(&self, pod: &Arc<Pod>, stopping: bool) {
        if !self.is_static {
            self.deps.status.observed(&self.uid, pod.clone()).await;
        }
        if !stopping {
            self.deps.volumes.update(pod.clone());
        }
    }

    fn notice(&self, pod: &Arc<Pod>, notice: &Notice) {
        match &notice.container {
            Some(container) => {
                self.container_event(
                    pod,
                    container,
                    notice.event_type,
                    notice.reason,
                    notice.message.clone(),
                );
            }
            None => self.pod_event(pod, notice.event_type, notice.reason, notice.message.clone()),
        }
    }

    fn blocked(&self, pod: &Arc<Pod>, blocked: &Blocked, now: Now) {
        let seconds = now.mono.since(blocked.since.mono).as_secs();
        let error = blocked
            .last_error
            .as_ref()
            .map(|error| format!("; last error: {error}"))
            .unwrap_or_default();
        let message =
            format!("waiting for {} for {seconds} s: {}{error}", blocked.stage, blocked.on);
        self.pod_event(pod, EventType::Warning, event::POD_BLOCKED, message);
    }

    fn blocked_report_after(&self) -> Duration {
        BLOCKED_REPORT_AFTER
    }

    async fn publish(&self, report: &Report<'_>) -> Published {
        self.tell_probes(report);
        let object = self.api_object(report.pod);
        let is_failing = report.blocked.is_some_and(|blocked| blocked.last_error.is_some());
        let (status, is_news) = {
            let mut sent = self.sent.lock();
            let status = self.compute_status(report, sent.status.as_deref());
            let unchanged = sent.status.as_deref() == Some(&status);
            let status =
                sent.status.take().filter(|_| unchanged).unwrap_or_else(|| Arc::new(status));
            sent.status = Some(status.clone());
            // Another object (a mirror that was made anew) has to be told even what has not
            // changed.
            let uid = object.as_ref().map(|object| pod::uid(object));
            let is_news = !unchanged || sent.told != uid || (is_failing && !sent.is_failing);
            (sent.told, sent.is_failing) = (uid, is_failing);
            (status, is_news)
        };
        let version = match object {
            None => None,
            Some(pod) if is_news => {
                let update = StatusUpdate { pod, status: status.clone(), is_failing };
                Some(self.deps.status.set(&self.uid, update).await)
            }
            Some(_) => self.sent.lock().version,
        };
        self.sent.lock().version = version;
        Published { status, version }
    }
}
