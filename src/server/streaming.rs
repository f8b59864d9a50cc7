//! The routes of `/exec`, `/attach` and `/portForward`: finds the container or pod, asks the
//! runtime for a streaming URL, and hands the connection to `streams`.

use axum::Router;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;

use super::streams::pass_through;
use super::{State, text};
use crate::cri::{CriError, v1};
use crate::model::{ContainerId, SandboxState, pod};

type Three = Path<(String, String, String)>;
type Four = Path<(String, String, String, String)>;
type Pairs = Query<Vec<(String, String)>>;

pub(super) fn routes() -> Router<State> {
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", get(exec).post(exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", get(exec_uid).post(exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", get(attach).post(attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", get(attach_uid).post(attach_uid))
        .route("/portForward/{namespace}/{pod}", get(forward).post(forward))
        .route("/portForward/{namespace}/{pod}/{uid}", get(forward_uid).post(forward_uid))
}

async fn exec(
    state: Shared<State>,
    Path((ns, pod, name)): Three,
    query: Pairs,
    request: Request,
) -> Response {
    run_stream(Kind::Exec, state, (&ns, &pod, None, &name), query, request).await
}

async fn exec_uid(
    state: Shared<State>,
    Path((ns, pod, uid, name)): Four,
    query: Pairs,
    request: Request,
) -> Response {
    run_stream(Kind::Exec, state, (&ns, &pod, Some(&uid), &name), query, request).await
}

async fn attach(
    state: Shared<State>,
    Path((ns, pod, name)): Three,
    query: Pairs,
    request: Request,
) -> Response {
    run_stream(Kind::Attach, state, (&ns, &pod, None, &name), query, request).await
}

async fn attach_uid(
    state: Shared<State>,
    Path((ns, pod, uid, name)): Four,
    query: Pairs,
    request: Request,
) -> Response {
    run_stream(Kind::Attach, state, (&ns, &pod, Some(&uid), &name), query, request).await
}

async fn forward(
    state: Shared<State>,
    Path((namespace, name)): Path<(String, String)>,
    query: Pairs,
    request: Request,
) -> Response {
    port_forward(state, &namespace, &name, None, query, request).await
}

async fn forward_uid(
    state: Shared<State>,
    Path((namespace, name, uid)): Three,
    query: Pairs,
    request: Request,
) -> Response {
    port_forward(state, &namespace, &name, Some(&uid), query, request).await
}

/// Which of the two streams into a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exec,
    Attach,
}

/// Which streams a client wants (`input`, `output`, `error`, `tty`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn from_query(query: &[(String, String)]) -> Result<Self, &'static str> {
        let asked = |name: &str| query.iter().any(|(key, value)| key == name && value == "1");
        let tty = asked("tty");
        // A terminal has one output.
        let streams = Self {
            stdin: asked("input"),
            stdout: asked("output"),
            stderr: asked("error") && !tty,
            tty,
        };
        if streams.stdin || streams.stdout || streams.stderr {
            Ok(streams)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

async fn run_stream(
    kind: Kind,
    Shared(state): Shared<State>,
    (namespace, name, uid, container): (&str, &str, Option<&str>, &str),
    Query(query): Pairs,
    request: Request,
) -> Response {
    let streams = match Streams::from_query(&query) {
        Ok(streams) => streams,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let id = match running_container(&state, namespace, name, uid, container) {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let container_id = id.as_str().to_owned();
    let Streams { stdin, stdout, stderr, tty } = streams;
    let url = match kind {
        Kind::Exec => {
            let cmd = query
                .into_iter()
                .filter(|(key, _)| key == "command")
                .map(|(_, value)| value)
                .collect();
            let request = v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
            state.cri.exec(request).await.map(|answer| answer.url)
        }
        Kind::Attach => {
            // The terminal is the container's, whatever the client thinks.
            let tty = state
                .pods
                .by_name(namespace, name)
                .and_then(|view| {
                    pod::find_container(&view.pod, container).and_then(|(_, spec)| spec.tty)
                })
                .unwrap_or(false);
            let request =
                v1::AttachRequest { container_id, stdin, tty, stdout, stderr: stderr && !tty };
            state.cri.attach(request).await.map(|answer| answer.url)
        }
    };
    match url {
        Ok(url) => pass_through(request, &url).await,
        Err(error) => refused(&error),
    }
}

async fn port_forward(
    Shared(state): Shared<State>,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    Query(query): Pairs,
    request: Request,
) -> Response {
    let mut ports = Vec::new();
    for (_, value) in query.iter().filter(|(key, _)| key == "port") {
        for part in value.split(',') {
            match part.parse::<u16>() {
                Ok(port) if port > 0 => ports.push(i32::from(port)),
                _ => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        format!("unable to parse {part:?} as a port"),
                    );
                }
            }
        }
    }
    let Some(view) = state.pods.by_name(namespace, name) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    if uid.is_some_and(|uid| !uid.is_empty() && uid != view.uid.as_str()) {
        return text(StatusCode::NOT_FOUND, "pod not found");
    }
    let sandbox =
        view.observed.latest_sandbox().filter(|sandbox| sandbox.state == SandboxState::Ready);
    let Some(sandbox) = sandbox else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("failed to find sandboxID for pod {:?}", view.key),
        );
    };
    let message =
        v1::PortForwardRequest { pod_sandbox_id: sandbox.id.as_str().to_owned(), port: ports };
    match state.cri.port_forward(message).await {
        Ok(answer) => pass_through(request, &answer.url).await,
        Err(error) => refused(&error),
    }
}

/// The running container that is meant, or the refusal.
#[expect(clippy::result_large_err, reason = "the refusal is the response itself")]
pub(super) fn running_container(
    state: &State,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    container: &str,
) -> Result<ContainerId, Response> {
    let Some(view) = state.pods.by_name(namespace, name) else {
        return Err(text(StatusCode::NOT_FOUND, "pod does not exist"));
    };
    let uid_fits = uid.is_none_or(|uid| uid.is_empty() || uid == view.uid.as_str());
    let found = view
        .observed
        .containers
        .iter()
        .find(|found| found.name == container && found.state.is_running());
    match found {
        Some(found) if uid_fits => Ok(found.id.clone()),
        _ => Err(text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not found ({container:?})"),
        )),
    }
}

/// An error of the runtime, with the status that upstream maps its code to.
fn refused(error: &CriError) -> Response {
    let status = match error.code {
        tonic::Code::NotFound => StatusCode::NOT_FOUND,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        tonic::Code::Ok
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::InvalidArgument
        | tonic::Code::DeadlineExceeded
        | tonic::Code::AlreadyExists
        | tonic::Code::PermissionDenied
        | tonic::Code::FailedPrecondition
        | tonic::Code::Aborted
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::Internal
        | tonic::Code::Unavailable
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, error.to_string())
}
