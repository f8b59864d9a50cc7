//! One container of the pod's spec as the planner reads it: borrowed, of any kind, with defaults
//! applied.

use k8s_openapi::api::core::v1 as api;

use super::restart;
use super::types::KillReason;
use crate::model::Pod;
use crate::model::pod::{self, ContainerKind};
use crate::resources::allocation::Requirements;

/// What the planner needs to know of a container's definition.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContainerSpec<'a> {
    pub(super) name: &'a str,
    pub(super) kind: ContainerKind,
    pub(super) image: &'a str,
    pull_policy: Option<&'a str>,
    lifecycle: Option<&'a api::Lifecycle>,
    startup: Option<&'a api::Probe>,
    liveness: Option<&'a api::Probe>,
    resize_policy: &'a [api::ContainerResizePolicy],
    /// What it asks for of CPU and memory.
    pub(super) requirements: Requirements,
    /// The container's own restart policy, where it has one.
    pub(super) restart_policy: Option<&'a str>,
    /// Its restart rules, in order.
    pub(super) restart_rules: &'a [api::ContainerRestartRule],
}

impl<'a> ContainerSpec<'a> {
    fn new(container: &'a api::Container, kind: ContainerKind) -> Self {
        Self {
            name: &container.name,
            kind,
            image: container.image.as_deref().unwrap_or_default(),
            pull_policy: container.image_pull_policy.as_deref(),
            lifecycle: container.lifecycle.as_ref(),
            startup: container.startup_probe.as_ref(),
            liveness: container.liveness_probe.as_ref(),
            resize_policy: container.resize_policy.as_deref().unwrap_or_default(),
            requirements: Requirements::of(container),
            restart_policy: container.restart_policy.as_deref(),
            restart_rules: container.restart_policy_rules.as_deref().unwrap_or_default(),
        }
    }

    fn ephemeral(container: &'a api::EphemeralContainer) -> Self {
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
            restart_policy: None,
            restart_rules: &[],
        }
    }

    /// Every container of the pod: init containers and sidecars, main ones, ephemeral ones, each in
    /// spec order.
    pub(super) fn all(pod: &'a Pod) -> Vec<Self> {
        let init = pod::init_containers(pod).iter().map(|container| {
            let kind = if pod::is_sidecar(container) {
                ContainerKind::Sidecar
            } else {
                ContainerKind::Init
            };
            Self::new(container, kind)
        });
        let main = pod::main_containers(pod)
            .iter()
            .map(|container| Self::new(container, ContainerKind::Main));
        init.chain(main).chain(pod::ephemeral_containers(pod).iter().map(Self::ephemeral)).collect()
    }

    /// Whether a change of one of its resources needs a restart.
    pub(super) fn restarts_for(&self, resource: &str) -> bool {
        let policy = self.resize_policy.iter().find(|policy| policy.resource_name == resource);
        policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    }

    /// Whether an exit with `exit_code` has the whole pod started again: the first rule that
    /// matches says so.
    pub(super) fn restarts_all(&self, exit_code: i32) -> bool {
        restart::matching_rule(self, exit_code)
            .is_some_and(|rule| rule.action == restart::RESTART_ALL)
    }

    /// Whether it has a postStart hook.
    pub(super) fn has_post_start(&self) -> bool {
        self.lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())
    }

    /// Whether it has a preStop hook.
    pub(super) fn has_pre_stop(&self) -> bool {
        self.lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
    }

    /// Whether it has a startup probe.
    pub(super) fn has_startup_probe(&self) -> bool {
        self.startup.is_some()
    }

    /// The grace in seconds that a probe gives the container that it kills, where it sets one.
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

    /// Whether an image that is there already is used as it is, so that it may be pulled before its
    /// turn.
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
