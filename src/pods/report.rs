//! Reports what is known of one pod: its status to the writer, what runs to the prober, its events
//! to the recorder, its object to those who follow it. It decides nothing: what is shown is part of
//! the plan.
//!
//! [`Report`] is the seam: the real [`PodReporter`] and the worker's fake.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::lives::{Busy, Life, Lives, Reached};
use super::memory::known::Known;
use super::plan::types::{Notice, Plan};
use super::{actuated, recorded};
use crate::apiserver::events::Recorder;
use crate::cri::RuntimeCondition;
use crate::model::observed::Remembered;
use crate::model::{
    ContainerId, ContainerState, Lifecycle, Now, ObservedPod, Pod, PodUid, ProbeVerdicts,
    addresses, pod,
};
use crate::pods::SandboxPermits;
use crate::probes::{PodProbes, ProbeTarget, Recorded};
use crate::resources::allocation::Allocation;
use crate::resources::devices::{Health, PodHealth};
use crate::resources::pod_states::PodStates;
use crate::status::{self, Acked, ResizeState, StatusUpdate};
use crate::{desired, volumes};

/// The reports of one pod's task.
pub trait Report: Send + Sync + 'static {
    /// The status versions that the API server has accepted, now and from now on.
    fn acked(&self) -> impl Future<Output = watch::Receiver<Acked>> + Send;

    /// Resolves when the status has to be sent again for a reason that no feed has: a static pod's
    /// mirror pod, the node's addresses or the health of devices have changed. Cancel-safe.
    fn mirror_changed(&self) -> impl Future<Output = ()> + Send;

    /// Returns true while other pods wait for their start or their stop.
    fn has_backlog(&self) -> bool;

    /// Passes on that the pod has reached a milestone.
    fn milestone(&self, pod: &Arc<Pod>, milestone: Milestone) -> impl Future<Output = ()> + Send;

    /// Emits an event.
    fn notice(&self, pod: &Arc<Pod>, notice: &Notice);

    /// Computes the status, hands it to the writer if it has changed, and tells the prober what
    /// runs.
    fn publish(&self, picture: &Picture<'_>) -> impl Future<Output = Published> + Send;
}

/// A moment of a pod's life that others follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// A newer object was taken in.
    Updated {
        /// Whether the pod was stopping by then.
        is_stopping: bool,
    },
    /// The pod is finished on this node: its API object is deleted if that was asked for.
    Finished,
}

/// What a status is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The pod.
    pub pod: &'a Arc<Pod>,
    /// Where it is in its life.
    pub lifecycle: &'a Lifecycle,
    /// What runs.
    pub observed: &'a Arc<ObservedPod>,
    /// What probes say.
    pub probes: &'a ProbeVerdicts,
    /// How removed containers ended, by name.
    pub remembered: &'a BTreeMap<String, Remembered>,
    /// What the planner says of each container.
    pub plan: &'a Plan,
    /// How far a resize is.
    pub resize: &'a ResizeState,
    /// What this process did with the pod.
    pub known: &'a Known,
    /// What its actions do.
    pub busy: Busy,
    /// The time.
    pub now: Now,
}

/// A status that was computed.
#[derive(Clone, Debug)]
pub struct Published {
    /// The status.
    pub status: Arc<PodStatus>,
    /// The version that [`Acked`] reaches once it is accepted; `None`: there is no object.
    pub version: Option<u64>,
}

/// What every pod's reporter shares.
#[derive(Debug)]
pub struct ReportDeps {
    /// Statuses.
    pub status: status::Handle,
    /// Desired pods: mirrors of static pods.
    pub desired: desired::Handle,
    /// Volumes, which follow the object.
    pub volumes: volumes::Handle,
    /// The resources that are enforced, as they outlive this process.
    pub actuated: PodStates,
    /// Events.
    pub recorder: Recorder,
    /// The runtime's condition: handlers, names.
    pub condition: watch::Receiver<RuntimeCondition>,
    /// Pods that wait for their start or their stop.
    pub permits: SandboxPermits,
    /// True if statuses show stop signals (feature gate `ContainerStopSignals`).
    pub shows_stop_signals: bool,
    /// True if statuses lack the condition `PodReadyToStartContainers` (its feature gate is off).
    pub hides_ready_to_start: bool,
    /// True if what probes had said before this process does not count (feature gate
    /// `ChangeContainerStatusOnKubeletRestart`).
    pub forgets_probes: bool,
    /// The health of the devices of pods; `None`: statuses do not show it (feature gate
    /// `ResourceHealthStatus`).
    pub devices: Option<watch::Receiver<Health>>,
    /// The node's own addresses, preferred first: pods on the host's network have them.
    pub host_ips: watch::Receiver<Vec<IpAddr>>,
    /// Measures starts, ends and work.
    pub lives: Lives,
}

/// Reports one pod.
#[derive(Debug)]
pub struct PodReporter {
    deps: Arc<ReportDeps>,
    uid: PodUid,
    is_static: bool,
    probes: PodProbes,
    /// What probes had said, before this process, of containers that may still run.
    adopted: Mutex<BTreeMap<ContainerId, Recorded>>,
    sent: Mutex<Sent>,
    life: Mutex<Life>,
    /// What the API server has accepted.
    acked: OnceLock<watch::Receiver<Acked>>,
}

/// What was reported last, so that only changes are.
#[derive(Debug, Default)]
struct Sent {
    status: Option<Arc<PodStatus>>,
    /// The version of that status.
    version: Option<u64>,
    /// The API's object that it was sent to.
    object: Option<PodUid>,
    /// The node's addresses that it was made from.
    host_ips: Vec<IpAddr>,
    /// The health of devices that it was made from.
    devices: Option<Arc<PodHealth>>,
    /// Whether it was sent while the pod waited for something that failed.
    is_failing: bool,
    targets: Vec<ProbeTarget>,
    is_stopping: bool,
}

impl PodReporter {
    /// The reporter of a pod; `probes` is the pod's prober, `api_status` what the API says of it
    /// (of its mirror, for a static pod).
    pub fn new(
        deps: Arc<ReportDeps>,
        pod: &Pod,
        api_status: Option<&PodStatus>,
        probes: PodProbes,
    ) -> Self {
        let adopted = recorded::probed(api_status.filter(|_| !deps.forgets_probes));
        let life = deps.lives.begin(pod, api_status);
        Self {
            deps,
            uid: pod::uid(pod),
            is_static: pod::is_static(pod),
            probes,
            adopted: Mutex::new(adopted),
            sent: Mutex::default(),
            life: Mutex::new(life),
            acked: OnceLock::new(),
        }
    }

    /// Takes over what the probes had said of a static pod whose mirror was seen only later, before
    /// its task begins.
    pub fn adopt_mirror(&self, api_status: Option<&PodStatus>) {
        let counts = !self.deps.forgets_probes;
        *self.adopted.lock() = recorded::probed(api_status.filter(|_| counts));
    }

    /// The health of the pod's devices.
    fn devices(&self) -> Option<Arc<PodHealth>> {
        self.deps.devices.as_ref()?.borrow().get(&self.uid).cloned()
    }

    /// The facts that statuses need of the node.
    fn node_facts(&self) -> status::NodeFacts {
        let host_ips = self.deps.host_ips.borrow().clone();
        let condition = self.deps.condition.borrow();
        let identity = condition.identity.as_ref();
        let handlers =
            condition.handlers.iter().filter(|handler| handler.recursive_read_only_mounts);
        status::NodeFacts {
            prefers_ipv6: host_ips.first().is_some_and(IpAddr::is_ipv6),
            host_ips,
            runtime: identity.map(|identity| identity.name.clone()).unwrap_or_default(),
            recursive_read_only: handlers.map(|handler| handler.name.clone()).collect(),
            shows_stop_signals: self.deps.shows_stop_signals,
            hides_ready_to_start: self.deps.hides_ready_to_start,
        }
    }

    /// The status that follows from what is known now.
    fn compute_status(&self, picture: &Picture<'_>, previous: Option<&PodStatus>) -> PodStatus {
        let mirror = if self.is_static { self.deps.desired.mirror_of(&self.uid) } else { None };
        let devices = self.devices();
        let recorded = mirror.as_ref().and_then(|mirror| mirror.status.as_ref());
        let unprobed = (self.deps.forgets_probes && previous.is_none())
            .then(|| recorded.or(picture.pod.status.as_ref()).map(recorded::unprobed))
            .flatten();
        let shown = shown(picture.observed, &picture.plan.shown_as_created);
        status::compute(&status::ComputeInput {
            pod: picture.pod,
            lifecycle: picture.lifecycle,
            observed: shown.as_ref().unwrap_or(picture.observed),
            previous,
            recorded: unprobed.as_ref().or(recorded),
            waiting: &picture.plan.waiting,
            replaced: &picture.plan.replaced,
            resize: picture.resize,
            cgroup: picture.known.cgroup.has,
            devices: devices.as_deref(),
            probes: picture.probes,
            remembered: picture.remembered,
            node: &self.node_facts(),
            now: picture.now,
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
    fn update_probes(&self, picture: &Picture<'_>) {
        let targets = self.probe_targets(picture);
        let is_stopping = picture.lifecycle.is_stopping();
        let mut sent = self.sent.lock();
        if is_stopping && !sent.is_stopping {
            sent.is_stopping = true;
            self.probes.terminating();
        }
        if sent.targets != targets {
            self.probes.running(targets.clone());
            sent.targets = targets;
        }
    }

    /// Keeps the resources that are enforced.
    fn keep_actuated(&self, picture: &Picture<'_>) {
        let before = self.deps.actuated.get(&self.uid);
        let Picture { pod, observed, known, .. } = *picture;
        let actuated = actuated::of(pod, observed, known, before.as_deref());
        if !picture.lifecycle.is_stopping() && actuated != Allocation::default() {
            self.deps.actuated.set(&self.uid, actuated);
        }
    }

    fn probe_targets(&self, picture: &Picture<'_>) -> Vec<ProbeTarget> {
        let pod_ip = self.probed_ip(picture);
        let adopted = self.adopted.lock();
        let probed = picture.observed.containers.iter().filter_map(|container| {
            let ContainerState::Running { started_at } = container.state else { return None };
            let (kind, _) = pod::find_container(picture.pod, &container.name)?;
            picture.plan.probed.contains(&container.id).then(|| ProbeTarget {
                container: container.name.clone(),
                kind,
                id: container.id.clone(),
                pod_ip,
                started_at,
                recorded: adopted.get(&container.id).copied(),
            })
        });
        probed.collect()
    }

    /// The address that probes ask: the status's `podIP`. Hooks ask the runtime's first address,
    /// as upstream's do.
    fn probed_ip(&self, picture: &Picture<'_>) -> Option<IpAddr> {
        let host_ip = self.deps.host_ips.borrow().first().copied();
        if pod::is_host_network(picture.pod) {
            return host_ip;
        }
        let sandbox = picture.observed.latest_sandbox()?;
        let prefers_ipv6 = host_ip.is_some_and(|ip| ip.is_ipv6());
        addresses::ordered(&sandbox.ips, prefers_ipv6).first().copied()
    }
}

/// What runs, with the containers of `created` as merely created; `None` when there are none.
fn shown(observed: &ObservedPod, created: &BTreeSet<ContainerId>) -> Option<ObservedPod> {
    if created.is_empty() {
        return None;
    }
    let mut shown = observed.clone();
    for container in &mut shown.containers {
        if created.contains(&container.id) {
            container.state = ContainerState::Created;
        }
    }
    Some(shown)
}

impl Report for PodReporter {
    async fn acked(&self) -> watch::Receiver<Acked> {
        let acked = self.deps.status.acked(&self.uid).await;
        self.acked.get_or_init(|| acked.clone());
        acked
    }

    async fn mirror_changed(&self) {
        let (object, host_ips, devices) = {
            let sent = self.sent.lock();
            (sent.object.clone(), sent.host_ips.clone(), sent.devices.clone())
        };
        let mirror = async {
            if self.is_static {
                self.deps.desired.mirror_changed(&self.uid, object).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let mut addresses = self.deps.host_ips.clone();
        let moved = async {
            if addresses.wait_for(|now| *now != host_ips).await.is_err() {
                std::future::pending::<()>().await;
            }
        };

        let mut health = self.deps.devices.clone();
        let health = async {
            let known = devices.as_ref();
            let has_changed = match &mut health {
                Some(health) => health.wait_for(|now| now.get(&self.uid) != known).await.is_ok(),
                None => false,
            };
            if !has_changed {
                std::future::pending::<()>().await;
            }
        };

        // All of them only wait.
        tokio::select! {
            () = mirror => {}
            () = moved => {}
            () = health => {}
        }
    }

    fn has_backlog(&self) -> bool {
        self.deps.permits.has_backlog()
    }

    async fn milestone(&self, pod: &Arc<Pod>, milestone: Milestone) {
        match milestone {
            Milestone::Updated { is_stopping } => {
                if !self.is_static {
                    self.deps.status.observed(&self.uid, pod.clone()).await;
                }
                if !is_stopping {
                    self.deps.volumes.update(pod.clone());
                }
            }
            // Its mirror pod goes with the static pod, whose source is a file.
            Milestone::Finished if self.is_static => {
                self.life.lock().finished();
                self.deps.desired.release(&self.uid);
            }
            Milestone::Finished => {
                self.life.lock().finished();
                if pod.metadata.deletion_timestamp.is_some() {
                    self.deps.status.delete(&self.uid, pod.clone()).await;
                }
            }
        }
    }

    fn notice(&self, pod: &Arc<Pod>, notice: &Notice) {
        let found = notice.container.as_deref().and_then(|container| {
            pod::find_container(pod, container).map(|(kind, _)| (kind, container))
        });
        let message = notice.message.clone();
        self.deps.recorder.pod(pod, found, notice.event_type, notice.reason, message);
    }

    async fn publish(&self, picture: &Picture<'_>) -> Published {
        // Before they are used: a change meanwhile makes the worker report once more.
        let host_ips = self.deps.host_ips.borrow().clone();
        let devices = self.devices();
        {
            let mut sent = self.sent.lock();
            sent.host_ips = host_ips;
            sent.devices = devices;
        }
        self.update_probes(picture);
        self.keep_actuated(picture);
        let object = self.api_object(picture.pod);
        let is_failing = picture.plan.is_failing();
        let (before, status, is_news) = {
            let mut sent = self.sent.lock();
            let before = sent.status.clone();
            let status = self.compute_status(picture, sent.status.as_deref());
            let unchanged = sent.status.as_deref() == Some(&status);
            let status =
                sent.status.take().filter(|_| unchanged).unwrap_or_else(|| Arc::new(status));
            sent.status = Some(status.clone());

            // Another object (a mirror that was made anew) has to be told even what has not
            // changed.
            let uid = object.as_ref().map(|object| pod::uid(object));
            let is_news = !unchanged || sent.object != uid || (is_failing && !sent.is_failing);
            sent.object = uid;
            sent.is_failing = is_failing;
            (before, status, is_news)
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
        self.life.lock().reached(&Reached {
            pod: picture.pod,
            before: before.as_deref(),
            status: &status,
            version,
            acked: self.acked.get().map(|acked| *acked.borrow()).unwrap_or_default(),
            is_stopping: picture.lifecycle.is_stopping(),
            busy: picture.busy,
            now: picture.now,
        });
        Published { status, version }
    }
}
