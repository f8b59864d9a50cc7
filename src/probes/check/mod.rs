//! Makes one attempt of a probe: reads the action from the spec, carries it out, judges the answer.
//!
//! It knows no thresholds and no schedule, and records no events.

mod cbc;
pub mod exec;
pub mod grpc;
pub mod http;
mod target;
pub mod tcp;
mod tls;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::ContainerId;

pub use exec::Exec;

/// The result of an attempt. The texts are shown in events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The container is healthy.
    Success,
    /// The container is healthy, with a remark: a redirect that was not followed.
    Warning(String),
    /// The container is not healthy.
    Failure(String),
    /// The attempt could not be made or read. `state` is the result in upstream's event.
    Error {
        /// `unknown` or `failure`.
        state: &'static str,
        /// The error's text.
        problem: String,
    },
}

impl CheckResult {
    /// Returns the result of an attempt that could not be made.
    pub(super) fn unknown(problem: impl Into<String>) -> Self {
        Self::Error { state: "unknown", problem: problem.into() }
    }
}

/// The attempts in a row, at most, while they cannot be made.
const TRIES: u32 = 3;

/// Makes an attempt within `timeout`. Cancel-safe: dropping the future ends the attempt.
pub async fn check(
    probe: &api::Probe,
    container: &api::Container,
    id: &ContainerId,
    pod_ip: IpAddr,
    timeout: Duration,
    exec: &dyn Exec,
) -> CheckResult {
    let mut tries = 1;
    loop {
        let result = once(probe, container, id, pod_ip, timeout, exec).await;
        match &result {
            CheckResult::Error { .. } if tries < TRIES => tries += 1,
            CheckResult::Success
            | CheckResult::Warning(_)
            | CheckResult::Failure(_)
            | CheckResult::Error { .. } => {
                return result;
            }
        }
    }
}

async fn once(
    probe: &api::Probe,
    container: &api::Container,
    id: &ContainerId,
    pod_ip: IpAddr,
    timeout: Duration,
    exec: &dyn Exec,
) -> CheckResult {
    if let Some(action) = &probe.exec {
        return exec::check(exec, id, action, container, timeout).await;
    }

    if let Some(action) = &probe.http_get {
        return match http::Get::new(action, container, pod_ip, "probe") {
            Ok(get) => http::check(&get, timeout).await,
            Err(error) => CheckResult::unknown(error.to_string()),
        };
    }

    if let Some(action) = &probe.tcp_socket {
        return match port(&action.port, container) {
            Ok(port) => tcp::check(&host_or(action.host.as_deref(), pod_ip), port, timeout).await,
            Err(error) => CheckResult::unknown(error.to_string()),
        };
    }

    if let Some(action) = &probe.grpc {
        let service = action.service.as_deref().unwrap_or_default();
        return match u16::try_from(action.port) {
            Ok(port) => grpc::check(pod_ip, port, service, timeout).await,
            Err(_) => CheckResult::unknown(PortError::Number(action.port).to_string()),
        };
    }

    CheckResult::unknown(format!("missing probe handler for container {}", container.name))
}

/// Returns the host of an action, else the pod's address.
pub(crate) fn host_or(host: Option<&str>, pod_ip: IpAddr) -> String {
    match host {
        Some(host) if !host.is_empty() => host.to_owned(),
        Some(_) | None => pod_ip.to_string(),
    }
}

/// Why an action's port is none. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// It is neither the name of a port of the container nor a number.
    #[error("strconv.Atoi: parsing {0:?}: invalid syntax")]
    Name(String),
    /// It is no number of a port.
    #[error("invalid port number: {0}")]
    Number(i32),
}

/// Resolves a port that is given by number, by name, or by a number in quotes.
pub(crate) fn port(port: &IntOrString, container: &api::Container) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named =
                container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| PortError::Name(name.clone()))?,
            }
        }
    };
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        Ok(_) | Err(_) => Err(PortError::Number(number)),
    }
}

/// Formats `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Formats a duration as Go does: `1s`, `1m30s`.
pub(super) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let hours = seconds / 3600;
    let minutes = seconds / 60 % 60;
    let rest = seconds % 60;
    match (hours, minutes) {
        (0, 0) if duration.subsec_millis() > 0 => format!("{}ms", duration.as_millis()),
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        (_, _) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_ports() {
        let container: api::Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}),
        )
        .expect("a container");
        let text =
            |port: IntOrString| super::port(&port, &container).map_err(|error| error.to_string());
        let number = |name: &str| text(IntOrString::String(name.to_owned()));
        assert_eq!(number("web"), Ok(8080));
        assert_eq!(number("81"), Ok(81));
        assert_eq!(
            number("nope"),
            Err("strconv.Atoi: parsing \"nope\": invalid syntax".to_owned())
        );
        assert_eq!(text(IntOrString::Int(70_000)), Err("invalid port number: 70000".to_owned()));
        assert_eq!(text(IntOrString::Int(0)), Err("invalid port number: 0".to_owned()));
    }

    #[test]
    fn writes_durations_as_go_does() {
        for (millis, text) in
            [(1000, "1s"), (90_000, "1m30s"), (3_600_000, "1h0m0s"), (500, "500ms")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
