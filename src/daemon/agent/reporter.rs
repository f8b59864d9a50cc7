//! Reports one pod of a backend: its status by the project's laws, its probes, its events, its end.
//!
//! A pod's task calls [`Reporter::publish`] with what it sees. The reporter decides nothing about
//! the pod; the status follows from the picture (`status::compute`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::watch;

use super::shared::Shared;
use crate::model::{
    ContainerId, ContainerState, EventType, Lifecycle, ObservedPod, Pod, PodUid, ProbeVerdicts,
    Waiting, addresses, pod,
};
use crate::pods::recorded;
use crate::probes::{PodProbes, ProbeTarget, Recorded};
use crate::status::{self, ResizeState, StatusUpdate};

/// A pod as its task sees it.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The newest object.
    pub pod: &'a Arc<Pod>,
    /// Where it is in its life. It goes one way only.
    pub lifecycle: &'a Lifecycle,
    /// What runs, and what has run.
    pub observed: &'a ObservedPod,
    /// Why containers do not run, by name, e.g. `CrashLoopBackOff`.
    pub waiting: &'a BTreeMap<String, Waiting>,
}

/// Reports one pod. Its probes end when it is dropped.
pub struct Reporter {
    shared: Arc<Shared>,
    uid: PodUid,
    is_static: bool,
    probes: PodProbes,
    /// What probes had said, before this process, of containers that may still run.
    adopted: BTreeMap<ContainerId, Recorded>,
    status: Option<Arc<PodStatus>>,
    /// The API's object that the status was sent to, with the node's addresses.
    sent: Option<(PodUid, Vec<IpAddr>)>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl Reporter {
    pub(super) fn new(shared: Arc<Shared>, pod: &Pod, probes: PodProbes) -> Self {
        Self {
            adopted: recorded::probed(pod.status.as_ref()),
            shared,
            uid: pod::uid(pod),
            is_static: pod::is_static(pod),
            probes,
            status: None,
            sent: None,
        }
    }

    /// Returns the verdicts of the probes, as they change. A failure of a liveness or startup probe
    /// means that the backend stops the container.
    pub fn verdicts(&self) -> watch::Receiver<Arc<ProbeVerdicts>> {
        self.probes.verdicts()
    }

    /// Passes a newer object on: the base of the next write.
    pub async fn updated(&self, pod: &Arc<Pod>) {
        if !self.is_static {
            self.shared.status.observed(&self.uid, pod.clone()).await;
        }
    }

    /// Computes the status, and has it written if it has changed. Says to the probes what runs.
    pub async fn publish(&mut self, picture: &Picture<'_>) -> Arc<PodStatus> {
        self.probes.running(self.targets(picture));
        if picture.lifecycle.is_stopping() {
            self.probes.terminating();
        }

        let object = self.api_object(picture.pod);
        let status = Arc::new(self.compute(picture, object.as_deref()));
        let host_ips = self.shared.host_ips.borrow().clone();
        let target = object.as_ref().map(|object| (pod::uid(object), host_ips));
        let is_news = self.status.as_ref() != Some(&status) || self.sent != target;
        self.status = Some(Arc::clone(&status));
        self.sent = target;
        if let Some(pod) = object.filter(|_| is_news) {
            let update = StatusUpdate { pod, status: Arc::clone(&status), is_failing: false };
            self.shared.status.set(&self.uid, update).await;
        }
        status
    }

    /// Reports the end of a pod of which nothing is left on the node: its object is deleted if that
    /// was asked for, once its last status is accepted.
    pub async fn finish(&self, pod: &Arc<Pod>) {
        if self.is_static {
            self.shared.desired.release(&self.uid);
        } else if pod.metadata.deletion_timestamp.is_some() {
            self.shared.status.delete(&self.uid, pod.clone()).await;
        }
    }

    /// Records an event about the pod, or about one of its containers.
    pub fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        event_type: EventType,
        (reason, message): (&'static str, String),
    ) {
        let found =
            container.and_then(|name| pod::find_container(pod, name).map(|(kind, _)| (kind, name)));
        self.shared.recorder.pod(pod, found, event_type, reason, message);
    }

    /// The API's object of this pod: for a static pod its mirror. `None`: there is none to write a
    /// status to.
    fn api_object(&self, pod: &Arc<Pod>) -> Option<Arc<Pod>> {
        if self.is_static {
            return self.shared.desired.mirror_of(&self.uid);
        }
        pod.metadata.resource_version.is_some().then(|| pod.clone())
    }

    fn compute(&self, picture: &Picture<'_>, object: Option<&Pod>) -> PodStatus {
        let host_ips = self.shared.host_ips.borrow().clone();
        let node = status::NodeFacts {
            prefers_ipv6: host_ips.first().is_some_and(IpAddr::is_ipv6),
            host_ips,
            runtime: self.shared.runtime.clone(),
            recursive_read_only: BTreeSet::new(),
            shows_stop_signals: self.shared.shows_stop_signals,
            hides_ready_to_start: self.shared.hides_ready_to_start,
        };
        let verdicts = self.probes.verdicts().borrow().clone();
        status::compute(&status::ComputeInput {
            pod: picture.pod,
            lifecycle: picture.lifecycle,
            observed: picture.observed,
            previous: self.status.as_deref(),
            recorded: object.filter(|_| self.is_static).and_then(|pod| pod.status.as_ref()),
            waiting: picture.waiting,
            replaced: &BTreeSet::new(),
            resize: &ResizeState::default(),
            cgroup: None,
            devices: None,
            probes: &verdicts,
            remembered: &BTreeMap::new(),
            node: &node,
            now: self.shared.clock.now(),
        })
    }

    fn targets(&self, picture: &Picture<'_>) -> Vec<ProbeTarget> {
        let host_ip = self.shared.host_ips.borrow().first().copied();
        let sandbox = picture.observed.latest_sandbox();
        let pod_ip = match sandbox {
            Some(sandbox) if !sandbox.host_network => {
                let prefers_ipv6 = host_ip.is_some_and(|ip| ip.is_ipv6());
                addresses::ordered(&sandbox.ips, prefers_ipv6).first().copied()
            }
            Some(_) | None => host_ip,
        };
        let running = picture.observed.containers.iter().filter_map(|container| {
            let ContainerState::Running { started_at } = container.state else { return None };
            let (kind, _) = pod::find_container(picture.pod, &container.name)?;
            Some(ProbeTarget {
                container: container.name.clone(),
                kind,
                id: container.id.clone(),
                pod_ip,
                started_at,
                recorded: self.adopted.get(&container.id).copied(),
            })
        });
        running.collect()
    }
}
