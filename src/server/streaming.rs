//! The routes of `/exec`, `/attach` and `/portForward`: finds the pod, has its backend prepare a
//! session, and hands the connection to `streams`, or to `websocket` if it has to be translated.

use axum::Router;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;

use super::diagnostics::Handler;
use super::streams::pass_through;
use super::{State, text, websocket};
use crate::dispatch::{Channels, Exec, PodView, Session, StreamError};

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

/// The two streams into a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exec,
    Attach,
}

impl Kind {
    /// Its name as a label.
    fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
        }
    }
}

/// Reads the channels that a client asks for (`input`, `output`, `error`, `tty`).
fn channels(query: &[(String, String)]) -> Result<Channels, &'static str> {
    let asked = |name: &str| query.iter().any(|(key, value)| key == name && value == "1");
    let tty = asked("tty");
    // A terminal has one output.
    let channels = Channels {
        stdin: asked("input"),
        stdout: asked("output"),
        stderr: asked("error") && !tty,
        tty,
    };
    if channels.stdin || channels.stdout || channels.stderr {
        Ok(channels)
    } else {
        Err("you must specify at least 1 of stdin, stdout, stderr")
    }
}

async fn run_stream(
    kind: Kind,
    Shared(state): Shared<State>,
    (namespace, name, uid, container): (&str, &str, Option<&str>, &str),
    Query(query): Pairs,
    request: Request,
) -> Response {
    let channels = match channels(&query) {
        Ok(channels) => channels,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let view = match pod_of(&state, namespace, name, uid, container) {
        Ok(view) => view,
        Err(refusal) => return refusal,
    };

    let streams = state.pods.streams();
    let session = match kind {
        Kind::Exec => {
            let command = query
                .into_iter()
                .filter(|(key, _)| key == "command")
                .map(|(_, value)| value)
                .collect();
            let exec = Exec { container: container.to_owned(), command, channels };
            streams.exec(&view, exec).await
        }
        Kind::Attach => streams.attach(&view, container, channels).await,
    };
    let translates = state.diagnostics.serves(Handler::WebSockets)
        && websocket::asks_for_channels(request.headers());
    if !translates {
        return connect(request, session).await;
    }
    match session {
        Ok(Session::PassThrough { url }) => {
            websocket::count(&state.metrics, kind.as_str());
            websocket::translate(request, url, channels).await
        }
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
    let tunnels = state.diagnostics.serves(Handler::WebSockets)
        && websocket::asks_for_tunnel(request.headers());
    let mut ports = Vec::new();
    // A tunnel's ports are named in the streams within it.
    let query = if tunnels { Vec::new() } else { query };
    for (_, value) in query.iter().filter(|(key, _)| key == "port") {
        for part in value.split(',') {
            match part.parse::<u16>() {
                Ok(port) if port > 0 => ports.push(port),
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
    let session = state.pods.streams().port_forward(&view, ports).await;
    if !tunnels {
        return connect(request, session).await;
    }
    match session {
        Ok(Session::PassThrough { url }) => {
            websocket::count(&state.metrics, "portforward");
            websocket::tunnel(request, &url).await
        }
        Err(error) => refused(&error),
    }
}

/// The pod that is meant, or the refusal. A UID of another pod is refused as a container that is
/// not there, as upstream.
#[expect(clippy::result_large_err, reason = "the refusal is the response itself")]
pub(super) fn pod_of(
    state: &State,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
    container: &str,
) -> Result<PodView, Response> {
    let Some(view) = state.pods.by_name(namespace, name) else {
        return Err(text(StatusCode::NOT_FOUND, "pod does not exist"));
    };
    if uid.is_some_and(|uid| !uid.is_empty() && uid != view.uid.as_str()) {
        return Err(text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not found ({container:?})"),
        ));
    }
    Ok(view)
}

/// Connects the client with the session.
async fn connect(request: Request, session: Result<Session, StreamError>) -> Response {
    match session {
        Ok(Session::PassThrough { url }) => pass_through(request, &url).await,
        Err(error) => refused(&error),
    }
}

/// The answer to an error of the backend.
fn refused(error: &StreamError) -> Response {
    let status = match error {
        StreamError::NotFound(_) => StatusCode::NOT_FOUND,
        StreamError::Exhausted(_) => StatusCode::TOO_MANY_REQUESTS,
        StreamError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        StreamError::Unsupported => StatusCode::NOT_IMPLEMENTED,
    };
    text(status, error.to_string())
}
