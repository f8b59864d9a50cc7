//! The executor of one pod: what it is connected to, and the few facts of pod and node that its
//! verbs share. The verbs are in the other files of this folder, by what they work on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::super::request;
use super::super::user_namespaces::UserNamespaces;
use super::container::ImageUsers;
use super::permits::SandboxPermits;
use super::{ActionError, Context};
use crate::apiserver::events::Recorder;
use crate::apiserver::{objects, runtime_classes, services, tokens};
use crate::clock::Clock;
use crate::cri::{Runtime, RuntimeCondition};
use crate::model::reason::event;
use crate::model::{ContainerKind, EventType, Pod, PodUid, addresses, pod};
use crate::probes::Exec;
use crate::resources::manager;
use crate::{images, pleg, resources, volumes};

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
    /// The ids of pods with a user namespace of their own.
    pub user_namespaces: UserNamespaces,
    /// Cgroups of pods; `None` when `cgroupsPerQOS` is off.
    pub cgroups: Option<resources::PodCgroups>,
    /// Devices of plugins.
    pub manager: manager::Handle,
    /// Runs the commands of hooks.
    pub exec: Arc<dyn Exec>,
    /// Limit on concurrent sandbox starts.
    pub permits: SandboxPermits,
    /// The node's allocatable resources, for the downward API.
    pub allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
    /// The node's own addresses, preferred first: pods on the host's network have them.
    pub host_ips: watch::Receiver<Vec<IpAddr>>,
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

impl Drop for PodExecutor {
    fn drop(&mut self) {
        if self.warned.get_mut().dns_cut {
            self.deps.metrics.count(Count::DnsCut(false));
        }
    }
}

impl PodExecutor {
    /// The executor of a pod.
    pub fn new(deps: Arc<Deps>, uid: PodUid) -> Self {
        Self { deps, uid, warned: Mutex::default() }
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
            return self.deps.host_ips.borrow().clone();
        }
        context.observed.latest_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// The pod's addresses as the pod is told of them.
    pub(super) fn preferred(&self, ips: &[IpAddr]) -> Vec<IpAddr> {
        let prefers_ipv6 = self.deps.host_ips.borrow().first().is_some_and(IpAddr::is_ipv6);
        addresses::ordered(ips, prefers_ipv6)
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
}
