//! The command and the environment of a container, resolved: ConfigMaps, Secrets, the downward API,
//! variables of services, `$(VAR)`.
//!
//! The rules are those of containers that run by CRI (`pods::request`). Files of variables in
//! volumes are refused: a backend has no volumes of the agent's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1 as api;

use super::services::Services;
use crate::apiserver::objects::ObjectError;
use crate::model::expansion::expand;
use crate::model::{Pod, addresses, pod};
use crate::pods::request::{self, ObjectRef};

/// The longest wait for a ConfigMap or Secret that is fetched for the first time.
const OBJECT_DEADLINE: Duration = Duration::from_secs(10);

/// A container's command and environment. Values may be secrets: they are not in the `Debug`
/// output, and do not belong into the arguments of a process.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    /// `command`, expanded; empty: the image's.
    pub command: Vec<String>,
    /// `args`, expanded.
    pub args: Vec<String>,
    /// The variables, sorted by name, those of services last.
    pub environment: Vec<(String, String)>,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Resolved").field("environment", &names).finish_non_exhaustive()
    }
}

/// Why a container cannot be made from the pod. Users see both texts, in its waiting state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// The waiting reason, e.g. `CreateContainerConfigError`.
    pub reason: &'static str,
    /// Upstream's message, e.g. `configmap "web" not found`.
    pub message: String,
}

impl Services {
    /// Resolves the command and the environment of a container of any kind. Fetches the ConfigMaps
    /// and Secrets that the container refers to, for ten seconds at most. `pod_ips` are the pod's
    /// addresses; none for a pod on the node's network.
    pub async fn resolve(
        &self,
        pod: &Pod,
        container: &api::Container,
        pod_ips: &[IpAddr],
    ) -> Result<Resolved, ResolveError> {
        let mut config_maps = Vec::new();
        let mut secrets = Vec::new();
        for reference in request::references(pod, container) {
            match reference {
                ObjectRef::ConfigMap { name, .. } => config_maps.push(name),
                ObjectRef::Secret { name, .. } => secrets.push(name),
                // Its variable is refused below.
                ObjectRef::File { .. } => {}
            }
        }

        let objects = self.shared.objects.as_ref();
        let namespace = pod::key(pod).namespace;
        let config_maps = join_all(config_maps.into_iter().map(async |name| {
            let fetched = match objects {
                Some(objects) => objects.config_map(&namespace, &name).get(OBJECT_DEADLINE).await,
                None => Err(standalone("configmap", &namespace, &name)),
            };
            (name, fetched)
        }));
        let secrets = join_all(secrets.into_iter().map(async |name| {
            let fetched = match objects {
                Some(objects) => objects.secret(&namespace, &name).get(OBJECT_DEADLINE).await,
                None => Err(standalone("secret", &namespace, &name)),
            };
            (name, fetched)
        }));
        let (config_maps, secrets) = tokio::join!(config_maps, secrets);
        let config_maps: BTreeMap<_, _> = config_maps.into_iter().collect();
        let secrets: BTreeMap<_, _> = secrets.into_iter().collect();

        let host_ips = self.shared.host_ips.borrow().clone();
        let prefers_ipv6 = host_ips.first().is_some_and(IpAddr::is_ipv6);
        let pod_ips = if pod::is_host_network(pod) { &host_ips } else { pod_ips };
        let services = &self.shared.services;
        let services = services.synced().then(|| services.in_namespaces(&["default", &namespace]));
        let allocatable = self.shared.allocatable.borrow().clone();
        let environment = request::environment(&request::EnvInput {
            pod,
            container,
            pod_ips: &addresses::ordered(pod_ips, prefers_ipv6),
            host_ips: &host_ips,
            allocatable: &allocatable,
            services: services.as_deref(),
            config_maps: &config_maps,
            secrets: &secrets,
            files: &BTreeMap::new(),
        });
        let environment = environment
            .map_err(|error| ResolveError { reason: error.reason, message: error.message })?;

        let value = |name: &str| {
            environment.iter().find(|variable| variable.name == name).map(|var| &*var.value)
        };
        let expanded = |words: Option<&Vec<String>>| -> Vec<String> {
            words.into_iter().flatten().map(|word| expand(word, value)).collect()
        };
        let command = expanded(container.command.as_ref());
        let args = expanded(container.args.as_ref());
        let environment =
            environment.into_iter().map(|variable| (variable.name, variable.value)).collect();
        Ok(Resolved { command, args, environment })
    }
}

fn standalone(kind: &'static str, namespace: &str, name: &str) -> ObjectError {
    ObjectError::Failed {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        problem: "the agent runs without an API server".to_owned(),
    }
}
