//! Pods and containers for tests, with the defaults that the API server would write.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::{Pod, Wall};

/// Builds a pod.
#[derive(Clone, Debug)]
pub struct PodBuilder {
    pod: Pod,
}

impl PodBuilder {
    /// A pod in the namespace `default` with UID `uid-NAME`, restart policy `Always` and 30 s of
    /// grace.
    pub fn new(name: &str) -> Self {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("default".to_owned());
        pod.metadata.uid = Some(format!("uid-{name}"));
        pod.spec = Some(api::PodSpec {
            restart_policy: Some("Always".to_owned()),
            termination_grace_period_seconds: Some(30),
            ..api::PodSpec::default()
        });
        Self { pod }
    }

    /// Sets the restart policy.
    #[must_use]
    pub fn restart_policy(mut self, policy: &str) -> Self {
        self.spec().restart_policy = Some(policy.to_owned());
        self
    }

    /// Sets the grace period in seconds.
    #[must_use]
    pub fn grace(mut self, seconds: i64) -> Self {
        self.spec().termination_grace_period_seconds = Some(seconds);
        self
    }

    /// Sets `activeDeadlineSeconds`.
    #[must_use]
    pub fn active_deadline(mut self, seconds: i64) -> Self {
        self.spec().active_deadline_seconds = Some(seconds);
        self
    }

    /// Sets the resource version: the object is the API server's.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.pod.metadata.resource_version = Some(version.to_owned());
        self
    }

    /// Puts the pod into the node's network.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.spec().host_network = Some(true);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.pod
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds a main container.
    #[must_use]
    pub fn container(mut self, container: ContainerBuilder) -> Self {
        self.spec().containers.push(container.build());
        self
    }

    /// Adds an init container; one with restart policy `Always` is a sidecar.
    #[must_use]
    pub fn init(mut self, container: ContainerBuilder) -> Self {
        self.spec().init_containers.get_or_insert_default().push(container.build());
        self
    }

    /// Adds a sidecar.
    #[must_use]
    pub fn sidecar(self, container: ContainerBuilder) -> Self {
        self.init(container.restart_policy("Always"))
    }

    /// The pod.
    pub fn build(self) -> Pod {
        self.pod
    }

    fn spec(&mut self) -> &mut api::PodSpec {
        self.pod.spec.get_or_insert_default()
    }
}

/// Adds an ephemeral container to a pod.
pub fn add_ephemeral(pod: &mut Pod, name: &str) {
    pod.spec.get_or_insert_default().ephemeral_containers.get_or_insert_default().push(
        api::EphemeralContainer {
            name: name.to_owned(),
            image: Some(format!("{name}:1")),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            ..api::EphemeralContainer::default()
        },
    );
}

/// Marks a pod as deleted, as the API server does.
pub fn mark_deleted(pod: &mut Pod, now: Wall, grace_seconds: i64) {
    let at = now.saturating_add(jiff::SignedDuration::from_secs(grace_seconds)).unwrap_or(now);
    pod.metadata.deletion_timestamp = Some(Time(at));
    pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
}

/// Sets a container's CPU request (`cpu=250m`) or memory limit (`memory=64Mi`); false for anything
/// else.
pub fn set_resource(container: &mut api::Container, amount: &str) -> bool {
    let resources = container.resources.get_or_insert_default();
    let (list, name, text) = match amount.split_once('=') {
        Some(("cpu", text)) => (&mut resources.requests, "cpu", text),
        Some(("memory", text)) => (&mut resources.limits, "memory", text),
        Some(_) | None => return false,
    };
    list.get_or_insert_default().insert(name.to_owned(), Quantity(text.to_owned()));
    true
}

/// Builds a container.
#[derive(Clone, Debug)]
pub struct ContainerBuilder {
    container: api::Container,
}

impl ContainerBuilder {
    /// A container of the image `NAME:1` with pull policy `IfNotPresent`.
    pub fn new(name: &str) -> Self {
        Self {
            container: api::Container {
                name: name.to_owned(),
                image: Some(format!("{name}:1")),
                image_pull_policy: Some("IfNotPresent".to_owned()),
                ..api::Container::default()
            },
        }
    }

    /// Sets the image.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        self.container.image = Some(image.to_owned());
        self
    }

    /// Sets the image pull policy.
    #[must_use]
    pub fn pull_policy(mut self, policy: &str) -> Self {
        self.container.image_pull_policy = Some(policy.to_owned());
        self
    }

    /// Sets the container's own restart policy.
    #[must_use]
    pub fn restart_policy(mut self, policy: &str) -> Self {
        self.container.restart_policy = Some(policy.to_owned());
        self
    }

    /// Sets its CPU request (`cpu=250m`) or memory limit (`memory=64Mi`).
    #[must_use]
    pub fn resource(mut self, amount: &str) -> Self {
        set_resource(&mut self.container, amount);
        self
    }

    /// Has it restarted when that resource changes.
    #[must_use]
    pub fn restart_on_resize(mut self, resource: &str) -> Self {
        self.container.resize_policy.get_or_insert_default().push(api::ContainerResizePolicy {
            resource_name: resource.to_owned(),
            restart_policy: "RestartContainer".to_owned(),
        });
        self
    }

    /// Adds a restart rule: `action` when the exit code is `operator` (`In`, `NotIn`) of `codes`.
    #[must_use]
    pub fn restart_rule(mut self, action: &str, operator: &str, codes: &[i32]) -> Self {
        self.container.restart_policy_rules.get_or_insert_default().push(
            api::ContainerRestartRule {
                action: action.to_owned(),
                exit_codes: Some(api::ContainerRestartRuleOnExitCodes {
                    operator: operator.to_owned(),
                    values: Some(codes.to_vec()),
                }),
            },
        );
        self
    }

    /// Gives it a postStart hook.
    #[must_use]
    pub fn post_start(mut self) -> Self {
        self.container.lifecycle.get_or_insert_default().post_start =
            Some(api::LifecycleHandler::default());
        self
    }

    /// Gives it a preStop hook.
    #[must_use]
    pub fn pre_stop(mut self) -> Self {
        self.container.lifecycle.get_or_insert_default().pre_stop =
            Some(api::LifecycleHandler::default());
        self
    }

    /// Gives it a startup probe, with a grace period of its own if `grace` says so.
    #[must_use]
    pub fn startup_probe(mut self, grace: Option<i64>) -> Self {
        self.container.startup_probe = Some(probe(grace));
        self
    }

    /// Gives it a liveness probe, with a grace period of its own if `grace` says so.
    #[must_use]
    pub fn liveness_probe(mut self, grace: Option<i64>) -> Self {
        self.container.liveness_probe = Some(probe(grace));
        self
    }

    /// The container.
    pub fn build(self) -> api::Container {
        self.container
    }
}

fn probe(grace: Option<i64>) -> api::Probe {
    api::Probe { termination_grace_period_seconds: grace, ..api::Probe::default() }
}
