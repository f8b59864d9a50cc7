//! The kubelet's HTTPS API (10250), its read-only twin (10255) and the health port (10248): one
//! file per endpoint family.
//!
//! Fed by requests; reaches pods, and their backend's streams, by `PodsHandle`. Every request of
//! the HTTPS port is authenticated and authorised before anything is read (`guard`). It never
//! changes a pod, and never talks to a runtime.

mod authn;
mod authz;
mod bearer;
mod checkpoint;
mod client_ca;
mod config;
mod connection;
mod crowd;
mod debug;
mod diagnostics;
mod guard;
mod health;
mod listener;
mod local;
mod log_query;
mod logs;
mod node_log_query;
mod pem_file;
mod pods;
mod request_metrics;
mod reviews;
mod run;
mod slis;
mod stats;
mod streaming;
mod streams;
mod system_logs;
mod tls;
mod zpages;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::StatusCode;
use tokio::sync::watch;

pub use self::authn::{AuthenticationConfig, Authenticator, User};
pub use self::authz::{Authorizer, Mode as AuthorizationMode};
pub use self::client_ca::ClientCa;
pub use self::config::{AddressError, Addresses, check};
pub use self::diagnostics::{Diagnostics, Handler};
pub use self::listener::{ListenError, bind, serve, serve_when_free};
pub use self::local::{
    BlockedReport, PodReport, SocketError, StepReport, StepResult, TimelineReport, bind_local,
    local_router, serve_local, socket_path,
};
pub use self::pem_file::{NamedFile, TlsError};
use self::request_metrics::{RequestMetrics, Server};
pub use self::slis::Checks;
pub use self::tls::{TlsSettings, TlsSource, self_signed};
use crate::clock::Clock;
use crate::desired;
use crate::dispatch::PodsHandle;
use crate::stats::StatsHandle;
use crate::telemetry::metrics::Registry;

/// The values that the endpoints read.
#[derive(Clone, Debug)]
pub struct State {
    /// The pods, and the streams into them.
    pub pods: PodsHandle,
    /// The desired pods and their mirrors.
    pub desired: desired::Handle,
    /// What the node and its pods use.
    pub stats: StatsHandle,
    /// `/metrics`.
    pub metrics: Registry,
    /// `/metrics/probes`.
    pub probe_metrics: Registry,
    /// `/metrics/slis`: the outcomes of health checks.
    pub checks: Checks,
    /// `/configz`: the effective configuration, serialised once.
    pub configz: Arc<str>,
    /// The problem behind `/healthz/syncloop`; `None` while the kubelet is healthy.
    pub unhealthy: watch::Receiver<Option<String>>,
    /// The clocks.
    pub clock: Clock,
    /// True if `/run`, `/exec`, `/attach`, `/portForward`, `/containerLogs`, `/runningpods` are
    /// served (`enableDebuggingHandlers`).
    pub debugging_handlers: bool,
    /// What is switched on one by one, and what it shows.
    pub diagnostics: Arc<Diagnostics>,
}

/// The HTTPS API: every route behind authentication and authorisation.
///
/// Without `enableDebuggingHandlers`, as upstream, the paths of [`DISABLED`] answer 405, and the
/// other debugging pages (`/configz`) do not exist.
pub fn secure_router(state: State, authenticator: Authenticator, authorizer: Authorizer) -> Router {
    let diagnostics = Arc::clone(&state.diagnostics);
    let more =
        if state.debugging_handlers { debugging_routes(&diagnostics) } else { disabled_routes() };
    let guard = guard::Guard { authenticator, authorizer };
    let router = common_routes()
        .merge(more)
        .fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(guard, guard::check));

    let buckets =
        request_metrics::buckets(state.debugging_handlers, &optional_buckets(&diagnostics));
    counted(&state, Server::ReadWrite, buckets, router).with_state(state)
}

/// Has the requests of `router` counted.
fn counted(
    state: &State,
    server: Server,
    buckets: std::collections::BTreeSet<&'static str>,
    router: Router<State>,
) -> Router<State> {
    RequestMetrics::new(&state.metrics, server, buckets, state.clock).count(router)
}

/// The handlers with a bucket in the metrics of requests that the configuration can leave out.
fn optional_buckets(diagnostics: &Diagnostics) -> Vec<&'static str> {
    [(Handler::Checkpoint, "checkpoint"), (Handler::Flagz, "flagz"), (Handler::Statusz, "statusz")]
        .into_iter()
        .filter_map(|(handler, bucket)| diagnostics.serves(handler).then_some(bucket))
        .collect()
}

/// Returns the routes that `enableDebuggingHandlers` switches on.
fn debugging_routes(diagnostics: &Diagnostics) -> Router<State> {
    Router::new()
        .route("/configz", get(pods::configz))
        .route("/debug/blocked", get(pods::blocked))
        .route("/runningpods/", get(pods::running))
        .merge(logs::routes())
        .merge(streaming::routes())
        .merge(run::routes())
        .merge(checkpoint::routes(diagnostics))
        .merge(debug::routes(diagnostics))
        .merge(system_logs::routes(diagnostics))
        .merge(zpages::routes(diagnostics))
}

/// The paths, and all below them, that say that they are disabled. `/debug/blocked` is ours.
const DISABLED: [&str; 9] = [
    "/run/",
    "/exec/",
    "/attach/",
    "/portForward/",
    "/containerLogs/",
    "/runningpods/",
    "/debug/pprof/",
    "/logs/",
    "/debug/blocked",
];

fn disabled_routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    DISABLED.into_iter().fold(Router::new(), |router, path| {
        router.merge(closed(path, "Debug endpoints are disabled.\n"))
    })
}

/// Answers 405 with a sentence at `path`, and below it if it ends with a slash.
fn closed<S: Clone + Send + Sync + 'static>(path: &str, sentence: &'static str) -> Router<S> {
    let refuse = move || async move { text(StatusCode::METHOD_NOT_ALLOWED, sentence) };
    let router = Router::new().route(path, axum::routing::any(refuse));
    if path.ends_with('/') {
        router.route(&format!("{path}{{*rest}}"), axum::routing::any(refuse))
    } else {
        router
    }
}

/// The read-only port: no credentials, nothing that runs or reads inside containers. As upstream,
/// the paths of [`DISABLED`] answer 405 here.
pub fn read_only_router(state: State) -> Router {
    let router = common_routes().merge(disabled_routes()).fallback(not_found);
    let buckets = request_metrics::buckets(false, &[]);
    counted(&state, Server::ReadOnly, buckets, router).with_state(state)
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
        .route("/metrics/slis", get(slis::page))
        .merge(stats::routes())
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Makes a plain text answer.
fn text(status: StatusCode, body: impl Into<String>) -> Response {
    (status, [(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")], body.into())
        .into_response()
}

/// Makes a JSON answer.
fn json(body: String) -> Response {
    (StatusCode::OK, [(http::header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_disabled_can_be_routed() {
        // Routes that overlap panic when the router is made.
        let _router = disabled_routes().merge(common_routes());
        let everything = Diagnostics {
            handlers: [
                Handler::Profiling,
                Handler::DebugFlags,
                Handler::SystemLogs,
                Handler::LogQuery,
                Handler::Checkpoint,
                Handler::Flagz,
                Handler::Statusz,
            ]
            .into(),
            flags: std::collections::BTreeMap::new(),
            started: crate::model::Wall::UNIX_EPOCH,
            log: None,
            checkpoints: std::path::PathBuf::new(),
            system_logs: std::path::PathBuf::new(),
        };
        let nothing =
            Diagnostics { handlers: std::collections::BTreeSet::new(), ..everything.clone() };
        for diagnostics in [everything, nothing] {
            let _router = debugging_routes(&diagnostics).merge(common_routes());
        }
    }

    #[tokio::test]
    async fn disabled_endpoints_say_so_and_configz_is_not_there() {
        use http_body_util::BodyExt as _;
        use tower::ServiceExt as _;

        let router: Router = disabled_routes::<()>().fallback(not_found);
        let ask = async |path: &str| {
            let request = http::Request::get(path).body(axum::body::Body::empty());
            let answer = router.clone().oneshot(request.expect("a request")).await;
            let answer = answer.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        let disabled = (405, "Debug endpoints are disabled.\n".to_owned());
        for path in [
            "/run/a/b/c",
            "/exec/a/b/c",
            "/containerLogs/a/b/c",
            "/runningpods/",
            "/debug/pprof/heap",
            "/debug/blocked",
            "/logs/",
        ] {
            assert_eq!(ask(path).await, disabled, "{path}");
        }
        for path in ["/configz", "/debug/flags/v", "/checkpoint/a/b/c"] {
            assert_eq!(ask(path).await.0, 404, "{path}");
        }
    }
}
