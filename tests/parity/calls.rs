//! The CRI calls of a pod, from the recording of the harness's proxy: what was asked of each
//! sandbox and container, and in which order.
//!
//! Reads (status, list, stats, versions) are left out: how often a kubelet looks is its own affair.
//! A call that is repeated at once counts once, and a command that is executed again and again (a
//! probe) counts where it was first.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use rkubelet_bed::look;
use rkubelet_bed::parity::compare::THEN;
use rkubelet_bed::parity::names::plain;
use rkubelet_bed::parity::recording::{Place, Recording, as_text};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The calls that change something.
#[rustfmt::skip]
const CHANGING: [&str; 14] = [
    "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "CreateContainer", "StartContainer", "StopContainer",
    "RemoveContainer", "UpdateContainerResources", "UpdatePodSandboxResources", "ReopenContainerLog", "ExecSync",
    "PullImage", "RemoveImage", "CheckpointContainer",
];

/// What every container is told of the API server's service.
const KUBERNETES: [(&str, &str); 8] = [
    ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
    ("KUBERNETES_PORT_443_TCP_PORT", "443"),
    ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("KUBERNETES_SERVICE_PORT", "443"),
    ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
];

/// One call to the runtime.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: String,
    request: Value,
    response: Value,
    ok: bool,
}

/// An answer of the proxy's control socket.
pub(crate) async fn ask_proxy(socket: &str, verb: &str, path: &str) -> Result<String> {
    let mut stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("the CRI proxy {socket}"))?;
    stream.write_all(format!("{verb} {path} HTTP/1.0\r\nHost: proxy\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of the CRI proxy")?;
    anyhow::ensure!(head.contains(" 200 ") || head.contains(" 204 "), "the CRI proxy: {head}");
    Ok(body.to_owned())
}

/// Reads the calls that change something from the proxy, a part at a time.
#[derive(Debug)]
pub(crate) struct Recorder {
    socket: String,
    /// The number of the last line that was read.
    last: i64,
    /// By the time at which they began.
    calls: Vec<(i64, Call)>,
}

impl Recorder {
    pub(crate) fn new(socket: &str) -> Self {
        Self { socket: socket.to_owned(), last: 0, calls: Vec::new() }
    }

    /// Reads what is new.
    pub(crate) async fn read(&mut self) -> Result<()> {
        let path = format!("/record?since={}&method={}", self.last, CHANGING.join("%7C"));
        let record = ask_proxy(&self.socket, "GET", &path).await?;
        for line in record.lines() {
            let mut call: Value =
                serde_json::from_str(line).context("a line of the CRI recording")?;
            let number = look::number(&call, "seq");
            if number <= self.last {
                continue;
            }
            self.last = number;
            let ok = call["code"].as_str().is_none_or(|code| code == "OK");
            let method = look::text(&call, "method");
            let (request, response) = (call["request"].take(), call["response"].take());
            self.calls.push((look::number(&call, "start"), Call { method, request, response, ok }));
        }
        Ok(())
    }

    /// All calls, oldest first.
    pub(crate) fn calls(mut self) -> Vec<Call> {
        self.calls.sort_by_key(|(start, _)| *start);
        self.calls.into_iter().map(|(_, call)| call).collect()
    }
}

/// What the recording says of one pod.
#[derive(Debug, Default)]
pub(crate) struct PodCalls {
    /// Sandbox and container ids, each with its name and attempt: `sandbox#0`, `main#1`.
    pub(crate) units: BTreeMap<String, String>,
    sandboxes: Vec<(String, Value)>,
    order: BTreeMap<String, Vec<String>>,
    starts: Vec<String>,
    configs: BTreeMap<String, BTreeMap<Place, String>>,
}

impl PodCalls {
    /// Gathers the calls about pod `name` and writes them below `pod` of the recording.
    pub(crate) fn write(
        calls: &[Call],
        namespace: &str,
        name: &str,
        recording: &mut Recording,
    ) -> Self {
        let mut pod = Self::default();
        for call in calls {
            let config = if call.method == "RunPodSandbox" { "config" } else { "sandbox_config" };
            let metadata = &call.request[config]["metadata"];
            let mine = metadata["namespace"] == namespace && metadata["name"] == name;
            pod.add(call, mine, name, recording);
        }
        for (unit, order) in &pod.order {
            recording.put(&[name, "cri", unit, "calls"], order.join(THEN));
        }
        if !pod.starts.is_empty() {
            recording.put(&[name, "cri", "starts"], pod.starts.join(THEN));
        }
        pod
    }

    fn add(&mut self, call: &Call, mine: bool, name: &str, recording: &mut Recording) {
        match call.method.as_str() {
            "RunPodSandbox" if mine => {
                let config = &call.request["config"];
                let unit = format!("sandbox#{}", attempt(config));
                self.units.insert(look::text(&call.response, "pod_sandbox_id"), unit.clone());
                self.sandboxes.push((unit.clone(), config.clone()));
                put(recording, &[name, "cri", &unit], &call.request);
                self.note(&unit, step(call));
            }
            "CreateContainer" if mine => {
                let config = &call.request["config"];
                let unit = format!("{}#{}", look::text(config, "metadata.name"), attempt(config));
                self.units.insert(look::text(&call.response, "container_id"), unit.clone());
                if is_late(&unit) {
                    return;
                }
                self.put_config(name, &unit, config, recording);
                let sandbox = self.units.get(&look::text(&call.request, "pod_sandbox_id")).cloned();
                recording.put(&[name, "cri", &unit, "in"], sandbox.unwrap_or_default());
                self.put_sandbox_config(&[name, "cri", &unit, "sandbox_config"], call, recording);
                self.note(&unit, step(call));
            }
            "PullImage" if mine => {
                let image = look::text(&call.request, "image.image");
                put(recording, &[name, "cri", "pulls", &image, "image"], &call.request["image"]);
                let has_auth = !call.request["auth"].is_null();
                recording.put(&[name, "cri", "pulls", &image, "auth"], has_auth.to_string());
                self.put_sandbox_config(
                    &[name, "cri", "pulls", &image, "sandbox_config"],
                    call,
                    recording,
                );
            }
            _ => self.add_by_id(call, name, recording),
        }
    }

    fn add_by_id(&mut self, call: &Call, name: &str, recording: &mut Recording) {
        let id = ["container_id", "pod_sandbox_id"]
            .iter()
            .find_map(|key| call.request.get(key)?.as_str());
        let Some(unit) = id.and_then(|id| self.units.get(id)).cloned() else { return };
        if is_late(&unit) {
            return;
        }
        match call.method.as_str() {
            "StopContainer" => {
                let timeout = call.request.get("timeout").map_or_else(|| "0".to_owned(), as_text);
                self.note(&unit, format!("StopContainer({timeout})"));
            }
            "ExecSync" => {
                let argv: Vec<String> =
                    call.request["cmd"].as_array().into_iter().flatten().map(as_text).collect();
                let timeout = call.request.get("timeout").map_or_else(|| "0".to_owned(), as_text);
                let step = plain(&format!("ExecSync({}; {timeout})", argv.join(" ")));
                if !self.order.get(&unit).is_some_and(|order| order.contains(&step)) {
                    self.note(&unit, step);
                }
            }
            "UpdateContainerResources" => {
                put(
                    recording,
                    &[name, "cri", &unit, "UpdateContainerResources"],
                    &call.request["linux"],
                );
                self.note(&unit, step(call));
            }
            method => {
                if method == "StartContainer" {
                    self.starts.push(unit.clone());
                }
                self.note(&unit, step(call));
            }
        }
    }

    /// Of an attempt only what is not as in the one before.
    fn put_config(&mut self, name: &str, unit: &str, config: &Value, recording: &mut Recording) {
        let mut part = Recording::default();
        put(&mut part, &["config"], &readable(config));
        let container = look::text(config, "metadata.name");
        let before = self.configs.insert(container, part.leaves.clone()).unwrap_or_default();
        let gone = before.keys().filter(|place| !part.leaves.contains_key(*place));
        let gone: Vec<_> = gone.map(|place| (place.clone(), "(not any more)".to_owned())).collect();
        let new = part.leaves.into_iter().filter(|(place, text)| before.get(place) != Some(text));
        for (place, text) in new.chain(gone) {
            let root = [name, "cri", unit].map(str::to_owned);
            recording.leaves.insert(root.into_iter().chain(place).collect(), text);
        }
    }

    fn note(&mut self, unit: &str, step: String) {
        let order = self.order.entry(unit.to_owned()).or_default();
        if order.last() != Some(&step) {
            order.push(step);
        }
    }

    /// The sandbox's configuration goes along with other calls: as it was, or what is different.
    fn put_sandbox_config(&self, place: &[&str], call: &Call, recording: &mut Recording) {
        let config = &call.request["sandbox_config"];
        match self.sandboxes.iter().rev().find(|(_, known)| known == config) {
            Some((unit, _)) => recording.put(place, format!("as of {unit}")),
            None => put(recording, place, config),
        }
    }
}

/// How often a container is started again is a matter of time: the first two attempts are compared.
pub(crate) fn is_late(unit: &str) -> bool {
    unit.rsplit_once('#').is_some_and(|(_, attempt)| !matches!(attempt, "0" | "1"))
}

/// What was asked, and whether it was done.
fn step(call: &Call) -> String {
    if call.ok { call.method.clone() } else { format!("{} fails", call.method) }
}

fn attempt(config: &Value) -> String {
    config["metadata"].get("attempt").map_or_else(|| "0".to_owned(), as_text)
}

/// Variables have no order that upstream keeps; mounts have. The variables of the API server's own
/// service are always the same.
fn readable(config: &Value) -> Value {
    let mut config = config.clone();
    let paths = |mounts: &Vec<Value>| {
        mounts.iter().map(|mount| look::text(mount, "container_path")).collect()
    };
    let order: Option<Vec<String>> = config["mounts"].as_array().map(paths);
    if let Some(order) = order {
        config["mounts_order"] = Value::String(order.join(" "));
    }
    let mut variables = serde_json::Map::new();
    for variable in config["envs"].as_array().into_iter().flatten() {
        let value = look::text(variable, "value");
        let value = base64::engine::general_purpose::STANDARD
            .decode(&value)
            .unwrap_or_else(|_| value.into());
        let value = String::from_utf8_lossy(&value).into_owned();
        let mut name = look::text(variable, "key");
        while variables.contains_key(&name) {
            name += " again";
        }
        variables.insert(name, Value::String(value));
    }
    let standard = |variables: &serde_json::Map<String, Value>| {
        KUBERNETES
            .iter()
            .all(|(name, value)| variables.get(*name).is_some_and(|seen| seen == value))
    };
    if standard(&variables) {
        variables.retain(|name, _| !KUBERNETES.iter().any(|(known, _)| known == name));
        variables.insert("KUBERNETES…".to_owned(), Value::String("as always".to_owned()));
    }
    config["envs"] = Value::Object(variables);
    config
}

fn put(recording: &mut Recording, place: &[&str], value: &Value) {
    let mut part = Recording::default();
    part.put_json(place, value);
    for (place, text) in part.leaves {
        recording.leaves.insert(place.iter().map(|part| plain(part)).collect(), plain(&text));
    }
}
