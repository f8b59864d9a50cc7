//! Probes and lifecycle hooks. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::names;
use super::problems::Problems;

/// The parts of the pod that handlers depend on.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// `terminationGracePeriodSeconds`.
    pub(super) grace: Option<i64>,
    /// `os.name`.
    pub(super) os: Option<&'a str>,
}

/// Which probe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Liveness,
    Readiness,
    Startup,
}

pub(super) fn probe(
    problems: &mut Problems,
    path: &str,
    probe: &Probe,
    kind: Kind,
    context: Context<'_>,
) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler.check(problems, path, context);

    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        problems.not_negative(format!("{path}.{field}"), value.map(i64::from));
    }
    let grace = probe.termination_grace_period_seconds;
    let grace_path = format!("{path}.terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|grace| *grace <= 0) {
        problems.invalid(&grace_path, grace, "must be greater than 0");
    }

    match (kind, probe.success_threshold, grace) {
        (Kind::Readiness, _, Some(grace)) => {
            problems.invalid(&grace_path, grace, "must not be set for readinessProbes");
        }
        (Kind::Liveness | Kind::Startup, Some(threshold), _) if threshold != 1 => {
            problems.invalid(format!("{path}.successThreshold"), threshold, "must be 1");
        }
        (Kind::Liveness | Kind::Readiness | Kind::Startup, _, _) => {}
    }
}

pub(super) fn lifecycle(
    problems: &mut Problems,
    path: &str,
    lifecycle: &Lifecycle,
    context: Context<'_>,
) {
    for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)]
    {
        if let Some(LifecycleHandler { exec, http_get, tcp_socket, sleep }) = handler {
            let handler = Handler {
                exec: exec.as_ref(),
                http: http_get.as_ref(),
                tcp: tcp_socket.as_ref(),
                grpc: None,
                sleep: sleep.as_ref(),
            };
            handler.check(problems, &format!("{path}.{field}"), context);
        }
    }
    if let Some(signal) = &lifecycle.stop_signal {
        stop_signal(problems, &format!("{path}.stopSignal"), signal, context.os);
    }
}

fn stop_signal(problems: &mut Problems, path: &str, signal: &str, os: Option<&str>) {
    match os {
        None => {
            let why = "may not be set for containers with empty `spec.os.name`";
            problems.forbidden(path, why);
        }
        Some("linux") => {
            let names: BTreeSet<String> = signals().collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            problems.one_of(path, Some(signal), &names);
        }
        Some("windows") => problems.one_of(path, Some(signal), &["SIGKILL", "SIGTERM"]),
        Some(_) => {}
    }
}

/// The names of signals of Linux.
fn signals() -> impl Iterator<Item = String> {
    let plain = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT \
                 SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU \
                 XFSZ RTMIN RTMAX";
    plain
        .split(' ')
        .map(|name| format!("SIG{name}"))
        .chain((1..=15).map(|step| format!("SIGRTMIN+{step}")))
        .chain((1..=14).map(|step| format!("SIGRTMAX-{step}")))
}

/// What a probe or a hook does; one of these.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Handler<'_> {
    fn check(&self, problems: &mut Problems, path: &str, context: Context<'_>) {
        let mut is_first = true;
        let mut counts = |problems: &mut Problems, field: &str| {
            let is_only = std::mem::replace(&mut is_first, false);
            if !is_only {
                let why = "may not specify more than 1 handler type";
                problems.forbidden(format!("{path}.{field}"), why);
            }
            is_only
        };
        if let Some(exec) = self.exec
            && counts(problems, "exec")
            && exec.command.as_ref().is_none_or(Vec::is_empty)
        {
            problems.required(format!("{path}.exec.command"));
        }
        if let Some(http) = self.http
            && counts(problems, "httpGet")
        {
            http_get(problems, &format!("{path}.httpGet"), http);
        }
        if let Some(tcp) = self.tcp
            && counts(problems, "tcpSocket")
        {
            port(problems, &format!("{path}.tcpSocket.port"), &tcp.port);
        }
        if let Some(grpc) = self.grpc
            && counts(problems, "grpc")
        {
            number(problems, format!("{path}.grpc.port"), grpc.port);
        }
        if let Some(sleep) = self.sleep
            && counts(problems, "sleep")
            && let Some(grace) = context.grace
            && !(0..=grace).contains(&sleep.seconds)
        {
            let why = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            );
            problems.invalid(format!("{path}.sleep"), sleep.seconds, why);
        }
        if is_first {
            problems.required_for(path, "must specify a handler type");
        }
    }
}

fn http_get(problems: &mut Problems, path: &str, http: &HTTPGetAction) {
    if http.path.as_deref().unwrap_or_default().is_empty() {
        problems.required(format!("{path}.path"));
    }
    port(problems, &format!("{path}.port"), &http.port);
    problems.one_of(format!("{path}.scheme"), http.scheme.as_deref(), &["HTTP", "HTTPS"]);
    for header in http.http_headers.iter().flatten() {
        problems.name(format!("{path}.httpHeaders"), &header.name, names::header);
    }
}

fn port(problems: &mut Problems, path: &str, port: &IntOrString) {
    match port {
        IntOrString::Int(port) => number(problems, path, *port),
        IntOrString::String(name) => problems.name(path, name, names::port),
    }
}

/// Checks the number of a port.
pub(super) fn number(problems: &mut Problems, path: impl std::fmt::Display, port: i32) {
    if !(1..=65535).contains(&port) {
        problems.invalid(path, port, "must be between 1 and 65535, inclusive");
    }
}
