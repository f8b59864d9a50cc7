//! One container of the pod's spec as the planner reads it: borrowed, of any kind, with defaults
//! applied. Pure.

use k8s_openapi::api::core::v1 as api;

use super::types::KillReason;
use crate::model::pod::{self, ContainerKind};
use crate::model::{Pod, RestartPolicy, RestartRules};
use crate::resources::allocation::Requirements;

/// The parts of a container's definition that the planner reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContainerSpec<'a> {
    pub(super) name: &'a str,
    pub(super) kind: ContainerKind,
    pub(super) image: &'a str,
    pull_policy: Option<&'a str>,
    lifecycle: Option<&'a api::Lifecycle>,
    startup: Option<&'a api::Probe>,
    liveness: Option<&'a api::Probe>,
    /// The resources that need a restart to change.
    pub(super) resize_policy: &'a [api::ContainerResizePolicy],
    /// CPU and memory that the spec asks for.
    pub(super) requirements: Requirements,
    /// The rules by which the container is started again.
    pub(super) restart: RestartRules<'a>,
}

impl<'a> ContainerSpec<'a> {
    fn new(pod: &Pod, container: &'a api::Container, kind: ContainerKind) -> Self {
        Self {
            name: &container.name,
            kind,
            image: container.image.as_deref().unwrap_or_default(),
            pull_policy: container.image_pull_policy.as_deref(),
            lifecycle: container.lifecycle.as_ref(),
            startup: container.startup_probe.as_ref(),
            liveness: container.liveness_probe.as_ref(),
            resize_policy: container.resize_policy.as_deref().unwrap_or_default(),
            requirements: Requirements::of(pod, container),
            restart: RestartRules::of(pod::restart_policy(pod), container),
        }
    }

    fn ephemeral(container: &'a api::EphemeralContainer, pod_policy: RestartPolicy) -> Self {
        Self {
            name: &container.name,
            kind: ContainerKind::Ephemeral,
            image: container.image.as_deref().unwrap_or_default(),
            pull_policy: container.image_pull_policy.as_deref(),
            lifecycle: container.lifecycle.as_ref(),
            startup: None,
            liveness: None,
            resize_policy: &[],
            requirements: Requirements::default(),
            restart: RestartRules::of_pod(pod_policy),
        }
    }

    /// Every container of the pod: init containers and sidecars, main ones, ephemeral ones, each in
    /// spec order.
    pub(super) fn all(pod: &'a Pod) -> Vec<Self> {
        let policy = pod::restart_policy(pod);
        let init = pod::init_containers(pod).iter().map(|container| {
            let kind = if pod::is_sidecar(container) {
                ContainerKind::Sidecar
            } else {
                ContainerKind::Init
            };
            Self::new(pod, container, kind)
        });
        let main = pod::main_containers(pod)
            .iter()
            .map(|container| Self::new(pod, container, ContainerKind::Main));
        let ephemeral = pod::ephemeral_containers(pod)
            .iter()
            .map(|container| Self::ephemeral(container, policy));
        init.chain(main).chain(ephemeral).collect()
    }

    /// Returns true if the container has a postStart hook.
    pub(super) fn has_post_start(&self) -> bool {
        self.lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
    }

    /// Returns true if the container has a preStop hook.
    pub(super) fn has_pre_stop(&self) -> bool {
        self.lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
    }

    /// Returns true if the container has a startup probe.
    pub(super) fn has_startup_probe(&self) -> bool {
        self.startup.is_some()
    }

    /// The grace in seconds of the probe that kills the container, where the probe sets one.
    pub(super) fn probe_grace_seconds(&self, why: &KillReason) -> Option<i64> {
        let probe = match why {
            KillReason::Liveness => self.liveness,
            KillReason::Startup => self.startup,
            KillReason::PodStopping
            | KillReason::SandboxChanged
            | KillReason::DefinitionChanged
            | KillReason::PostStart { .. }
            | KillReason::Unknown
            | KillReason::Resize
            | KillReason::NotWanted
            | KillReason::RestartAll => None,
        };
        probe.and_then(|probe| probe.termination_grace_period_seconds)
    }

    /// Returns true if an image that is present is used as it is, so that it may be pulled before
    /// the container's turn.
    ///
    /// The API server writes the policy down; without it (static pods) an image tagged `latest`, or
    /// not at all, is always pulled.
    pub(super) fn may_pull_ahead(&self) -> bool {
        if let Some(policy) = self.pull_policy {
            return policy == "IfNotPresent";
        }
        let name = self.image.rsplit('/').next().unwrap_or_default();
        name.contains('@') || name.split_once(':').is_some_and(|(_, tag)| tag != "latest")
    }
}

/// A container as messages call it.
pub(super) fn quoted(name: &str) -> String {
    format!("container \"{name}\"")
}
