//! Labels and annotations that the kubelet finds its pods and containers again by. Names and
//! formats are upstream's, so that either kubelet can take over what the other has started.

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cri::labels;
use crate::model::Pod;

use super::container_hash;

/// The labels of a sandbox: the pod's own and its identity.
pub(super) fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut all: HashMap<_, _> = pod
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    all.extend(identity(pod));
    all
}

/// The labels of a container: whose it is.
pub(super) fn container_labels(pod: &Pod, container: &api::Container) -> HashMap<String, String> {
    let mut all: HashMap<_, _> = identity(pod).collect();
    all.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    all
}

fn identity(pod: &Pod) -> impl Iterator<Item = (String, String)> + use<> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    [
        (labels::POD_NAME, text(&metadata.name)),
        (labels::POD_NAMESPACE, text(&metadata.namespace)),
        (labels::POD_UID, text(&metadata.uid)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
}

/// The annotations of a container: what has to be known of it when the pod's spec is gone.
pub(super) fn container_annotations(
    pod: &Pod,
    container: &api::Container,
    restart_count: u32,
) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    set(labels::CONTAINER_HASH, format!("{:x}", container_hash(container)));
    set(labels::CONTAINER_RESTART_COUNT, restart_count.to_string());
    set(
        labels::CONTAINER_TERMINATION_MESSAGE_PATH,
        container.termination_message_path.clone().unwrap_or_default(),
    );
    set(
        labels::CONTAINER_TERMINATION_MESSAGE_POLICY,
        container.termination_message_policy.clone().unwrap_or_default(),
    );
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        set(labels::POD_DELETION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(seconds) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds)
    {
        set(labels::POD_TERMINATION_GRACE_PERIOD, seconds.to_string());
    }
    if let Some(hook) =
        container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref())
    {
        set(labels::CONTAINER_PRE_STOP_HANDLER, json(&Hook::of(hook)));
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        set(labels::CONTAINER_PORTS, json(&ports.iter().map(Port::of).collect::<Vec<_>>()));
    }
    all
}

/// A port as upstream writes it: its fields are in the order of the API's own types, so that the
/// texts are equal.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Port<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<i32>,
    container_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<&'a str>,
}

impl<'a> Port<'a> {
    fn of(port: &'a api::ContainerPort) -> Self {
        Self {
            name: port.name.as_deref().filter(|name| !name.is_empty()),
            host_port: port.host_port.filter(|port| *port != 0),
            container_port: port.container_port,
            protocol: port.protocol.as_deref().filter(|protocol| !protocol.is_empty()),
            host_ip: port.host_ip.as_deref().filter(|ip| !ip.is_empty()),
        }
    }
}

/// A preStop hook as upstream writes it, likewise.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Hook<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<&'a api::ExecAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<HttpGet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<TcpSocket<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sleep: Option<&'a api::SleepAction>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<&'a str>,
    #[serde(skip_serializing_if = "<[api::HTTPHeader]>::is_empty")]
    http_headers: &'a [api::HTTPHeader],
}

#[derive(serde::Serialize)]
struct TcpSocket<'a> {
    port: &'a IntOrString,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

impl<'a> Hook<'a> {
    fn of(hook: &'a api::LifecycleHandler) -> Self {
        let http_get = hook.http_get.as_ref().map(|get| HttpGet {
            path: get.path.as_deref(),
            port: &get.port,
            host: get.host.as_deref(),
            scheme: get.scheme.as_deref(),
            http_headers: get.http_headers.as_deref().unwrap_or_default(),
        });
        let tcp_socket = hook
            .tcp_socket
            .as_ref()
            .map(|socket| TcpSocket { port: &socket.port, host: socket.host.as_deref() });
        Self { exec: hook.exec.as_ref(), http_get, tcp_socket, sleep: hook.sleep.as_ref() }
    }
}

/// As Go writes it: what HTML would understand is escaped. It can only stand in texts.
fn json(value: &impl serde::Serialize) -> String {
    let text =
        serde_json::to_string(value).expect("an API type that came from JSON goes back to JSON");
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
