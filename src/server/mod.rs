//! The kubelet's HTTPS API (10250), its read-only twin (10255) and the health port (10248): one
//! file per endpoint family.
//!
//! Fed by requests; reaches pods by `PodsHandle` and the runtime by the CRI client. Every request
//! of the HTTPS port is authenticated and authorised before anything is read (`guard`). It never
//! changes a pod.

mod authn;
mod authz;
mod config;
mod guard;
mod health;
mod listener;
mod log_lines;
mod log_stream;
mod logs;
mod pods;
mod run;
mod streaming;
mod streams;
mod tls;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use tokio::sync::watch;

pub use self::authn::{Authenticator, Settings as AuthenticationSettings, User};
pub use self::authz::{Authorizer, Mode as AuthorizationMode};
pub use self::listener::{ListenError, bind, serve, serve_when_free};
pub use self::tls::{TlsError, TlsSettings, TlsSource, self_signed};
use crate::clock::Clock;
use crate::cri::Runtime;
use crate::desired;
use crate::dispatch::PodsHandle;
use crate::telemetry::metrics::Registry;

/// What the endpoints read.
#[derive(Clone, Debug)]
pub struct State {
    /// The pods.
    pub pods: PodsHandle,
    /// The desired pods and their mirrors.
    pub desired: desired::Handle,
    /// The runtime.
    pub cri: Runtime,
    /// `/metrics`.
    pub metrics: Registry,
    /// `/metrics/probes`.
    pub probe_metrics: Registry,
    /// `/configz`: the effective configuration, serialised once.
    pub configz: Arc<str>,
    /// Why the kubelet is not healthy; `None`: it is.
    pub unhealthy: watch::Receiver<Option<String>>,
    /// The clocks.
    pub clock: Clock,
    /// Whether `/run`, `/exec`, `/attach`, `/portForward`, `/containerLogs`, `/runningpods` are
    /// served (`enableDebuggingHandlers`).
    pub debugging_handlers: bool,
}

/// The HTTPS API: every route behind authentication and authorisation.
pub fn secure_router(state: State, authenticator: Authenticator, authorizer: Authorizer) -> Router {
    let open = common_routes()
        .route("/configz", get(pods::configz))
        .route("/debug/blocked", get(pods::blocked));
    let debugging = Router::new()
        .route("/runningpods/", get(pods::running))
        .merge(logs::routes())
        .merge(streaming::routes())
        .merge(run::routes());
    let debugging = if state.debugging_handlers {
        debugging
    } else {
        debugging.layer(axum::middleware::from_fn(
            async |_: axum::extract::Request, _: axum::middleware::Next| {
                text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.")
            },
        ))
    };
    let guard = guard::Guard { authenticator, authorizer };
    open.merge(debugging)
        .fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(guard, guard::check))
        .with_state(state)
}

/// The read-only port: no credentials, nothing that runs or reads inside containers.
pub fn read_only_router(state: State) -> Router {
    common_routes().fallback(not_found).with_state(state)
}

/// The health port.
pub fn health_router(state: State) -> Router {
    health::routes().fallback(not_found).with_state(state)
}

fn common_routes() -> Router<State> {
    health::routes()
        .route("/pods", get(pods::list))
        .route("/pods/", get(pods::list))
        .route("/metrics", get(health::metrics))
        .route("/metrics/probes", get(health::probe_metrics))
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A plain text answer.
fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into())
        .into_response()
}

/// A JSON answer.
fn json(body: String) -> Response {
    (StatusCode::OK, [(http::header::CONTENT_TYPE, "application/json")], body).into_response()
}
