//! The pod as one action sees it: the handles of [`Deps`], the pod and the runtime as they were
//! when the action was planned, and the facts that several actions derive from them.
//!
//! It changes nothing but the event stream, and decides nothing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;

use super::deps::Deps;
use super::{ActionError, Context};
use crate::apiserver::objects::ObjectError;
use crate::apiserver::services::Service;
use crate::linux::fs::go_text;
use crate::model::reason::event;
use crate::model::{ContainerId, ContainerKind, EventType, PodUid, addresses, pod};
use crate::pleg::Mutation;
use crate::pods::{hooks, request};
use crate::{images, resources};

/// The longest file name of a link to a container's log.
const MAX_LINK_NAME: usize = 255;

/// The longest wait for a pull secret. The pull is then tried without the secret (upstream reads
/// its cache only).
const SECRET_DEADLINE: Duration = Duration::from_secs(10);

/// One pod, for the time of one action.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) deps: &'a Deps,
    pub(super) uid: &'a PodUid,
    pub(super) context: &'a Context,
}

impl<'a> Scope<'a> {
    /// `<root>/pods/<uid>`.
    pub(super) fn pod_dir(self) -> PathBuf {
        self.deps.settings.paths.pod(self.uid)
    }

    /// Announces a call that changes the pod in the runtime.
    pub(super) fn begin_mutation(self) -> Mutation {
        self.deps.runtime.pleg.begin(self.uid)
    }

    /// Returns true once the pod has begun to stop.
    pub(super) fn is_stopping(self) -> bool {
        self.context.stop.is_cancelled()
    }

    /// Waits for `work`, but no longer than until the pod begins to stop.
    pub(super) async fn unless_stopped<T>(
        self,
        work: impl Future<Output = T>,
    ) -> Result<T, ActionError> {
        let done = self.context.stop.run_until_cancelled(work).await;
        done.ok_or_else(|| ActionError::internal("the pod stops"))
    }

    /// Emits an event about the pod.
    pub(super) fn event(self, kind: EventType, reason: &str, message: impl Into<String>) {
        self.deps.api.recorder.pod(&self.context.pod, None, kind, reason, message);
    }

    /// Emits an event about a container of the pod.
    pub(super) fn container_event(
        self,
        container: &str,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let pod = &self.context.pod;
        let found = pod::find_container(pod, container).map(|(kind, _)| (kind, container));
        self.deps.api.recorder.pod(pod, found, event_type, reason, message);
    }

    /// The pod's addresses: the sandbox's, or the node's for a pod on the host's network.
    pub(super) fn pod_ips(self) -> Vec<IpAddr> {
        if pod::is_host_network(&self.context.pod) {
            return self.deps.node.host_ips.borrow().clone();
        }
        let sandbox = self.context.observed.latest_sandbox();
        sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    /// The addresses that the pod sees of its own: the first of the node's family, then the first
    /// of the other.
    pub(super) fn preferred(self, ips: &[IpAddr]) -> Vec<IpAddr> {
        let prefers_ipv6 = self.deps.node.host_ips.borrow().first().is_some_and(IpAddr::is_ipv6);
        addresses::ordered(ips, prefers_ipv6)
    }

    /// The services of the pod's namespace and `default`; `None` while they have never been read.
    pub(super) fn services(self) -> Option<Vec<Arc<Service>>> {
        let services = &self.deps.api.services;
        let namespace = pod::key(&self.context.pod).namespace;
        services.synced().then(|| services.in_namespaces(&["default", &namespace]))
    }

    /// The runtime handler of the pod's RuntimeClass.
    pub(super) fn runtime_handler(self) -> Result<String, ActionError> {
        let spec = self.context.pod.spec.as_ref();
        let class = spec.and_then(|spec| spec.runtime_class_name.as_deref());
        let handler = self.deps.api.runtime_classes.handler(class);
        handler
            .map_err(|error| ActionError::new(event::FAILED_CREATE_POD_SANDBOX, error.to_string()))
    }

    /// The runtime handler that the pod's images are pulled for; empty where images belong to none.
    pub(super) fn image_handler(self) -> String {
        if self.deps.settings.images_by_handler {
            self.runtime_handler().unwrap_or_default()
        } else {
            String::new()
        }
    }

    /// Returns true if the pod's runtime handler can mount recursively read-only.
    pub(super) fn recursive_read_only(self) -> bool {
        let handler = self.runtime_handler().unwrap_or_default();
        let condition = self.deps.runtime.condition.borrow();
        let mut known = condition.handlers.iter();
        known.any(|known| known.name == handler && known.recursive_read_only_mounts)
    }

    /// The OOM score of a container.
    pub(super) fn oom_score_adj(self, container: &api::Container) -> i64 {
        let memory = self.deps.settings.memory_capacity;
        resources::oom::score_adj(&self.context.pod, container, memory).into()
    }

    /// A container as its hooks see it.
    pub(super) fn hook_target(
        self,
        kind: ContainerKind,
        container: &'a api::Container,
        id: &'a ContainerId,
    ) -> hooks::HookTarget<'a> {
        hooks::HookTarget {
            exec: &*self.deps.runtime.exec,
            recorder: &self.deps.api.recorder,
            pod: &self.context.pod,
            kind,
            container,
            id,
            pod_ip: self.pod_ips().first().copied(),
        }
    }

    /// The link to a container's log where node agents look for it:
    /// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`.
    pub(super) fn log_link(self, container: &str, id: &ContainerId) -> PathBuf {
        let key = pod::key(&self.context.pod);
        let mut name = format!("{}_{}_{container}-{id}", key.name, key.namespace);
        name.truncate(MAX_LINK_NAME - ".log".len());
        self.deps.settings.container_logs_dir.join(name + ".log")
    }

    /// Makes the request for the pod's sandbox. Reads the node's `resolv.conf`, which may change
    /// any time.
    pub(super) fn sandbox_request(
        self,
        attempt: u32,
        user_ids: Option<request::IdRange>,
    ) -> Result<request::SandboxRequest, ActionError> {
        let pod = &self.context.pod;
        let resolv_conf = self.resolv_conf()?;
        let cgroups = self.deps.resources.cgroups.as_ref();
        let cgroup_parent = cgroups.map(|cgroups| cgroups.cgroup_parent(pod)).unwrap_or_default();

        request::sandbox_config(&request::SandboxInput {
            pod,
            attempt,
            cgroup_parent: &cgroup_parent,
            resolv_conf: &resolv_conf,
            totals: request::PodTotals::of(pod),
            extra_groups: &self.deps.volumes.groups(self.uid),
            user_ids,
            settings: &self.deps.settings.spec,
        })
        .map_err(|error| ActionError::new(error.reason, error.message))
    }

    fn resolv_conf(self) -> Result<request::ResolvConf, ActionError> {
        let path = &self.deps.settings.resolv_conf;
        if path.as_os_str().is_empty() {
            return Ok(request::ResolvConf::default());
        }

        let failed = |problem: String| ActionError::new(event::FAILED_CREATE_POD_SANDBOX, problem);
        let text = std::fs::read_to_string(path)
            .map_err(|error| failed(format!("open {}: {}", path.display(), go_text(&error))))?;
        request::ResolvConf::parse(&text).map_err(|error| failed(error.to_string()))
    }

    /// Fetches the pod's pull secrets. Those that cannot be fetched are named in one event, unless
    /// the pull is silent, and left out, as upstream does.
    pub(super) async fn pull_secrets(self, silent: bool) -> Vec<images::PullSecret> {
        let spec = self.context.pod.spec.as_ref();
        let references = spec.and_then(|spec| spec.image_pull_secrets.as_deref());
        let mut found = Vec::new();
        let mut failed = Vec::new();
        for reference in references.unwrap_or_default() {
            if reference.name.is_empty() {
                continue;
            }
            match self.secret(&reference.name, SECRET_DEADLINE).await {
                Ok(secret) => found.extend(images::PullSecret::from_secret(&secret)),
                Err(_) => failed.push(reference.name.clone()),
            }
        }

        if !failed.is_empty() && !silent {
            self.event(
                EventType::Warning,
                event::FAILED_TO_RETRIEVE_IMAGE_PULL_SECRET,
                format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    failed.join(", ")
                ),
            );
        }
        found
    }

    /// Fetches a Secret of the pod's namespace.
    pub(super) async fn secret(
        self,
        name: &str,
        deadline: Duration,
    ) -> Result<Arc<api::Secret>, ObjectError> {
        let namespace = pod::key(&self.context.pod).namespace;
        match &self.deps.api.objects {
            Some(objects) => objects.secret(&namespace, name).get(deadline).await,
            None => Err(standalone("secret", &namespace, name)),
        }
    }

    /// Fetches a ConfigMap of the pod's namespace.
    pub(super) async fn config_map(
        self,
        name: &str,
        deadline: Duration,
    ) -> Result<Arc<api::ConfigMap>, ObjectError> {
        let namespace = pod::key(&self.context.pod).namespace;
        match &self.deps.api.objects {
            Some(objects) => objects.config_map(&namespace, name).get(deadline).await,
            None => Err(standalone("configmap", &namespace, name)),
        }
    }

    /// The sandbox as a pull sees it: the runtime reads the pod's identity and annotations there. A
    /// pull may be ahead of the sandbox, so the pod is given no ids for it.
    pub(super) fn sandbox_for_pull(self) -> Option<crate::cri::v1::PodSandboxConfig> {
        let user_ids = self.deps.resources.user_namespaces.of(self.uid);
        self.sandbox_request(0, user_ids).ok().map(|request| request.config)
    }
}

/// The error of an object that cannot be fetched without an API server.
fn standalone(kind: &'static str, namespace: &str, name: &str) -> ObjectError {
    ObjectError::Failed {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        problem: "the kubelet runs without an API server".to_owned(),
    }
}
