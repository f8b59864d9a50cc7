//! The metrics of requests, with upstream's names and labels.
//!
//! A request counts from its arrival until its answer has been sent, or the stream that it became
//! has ended.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use hyper::body::{Bytes, Frame, SizeHint};

use crate::clock::Clock;
use crate::model::Mono;
use crate::telemetry::metrics::{Counter, DEFAULT_BUCKETS, Family, Gauge, Histogram, Registry};

/// Which server a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// The HTTPS API.
    ReadWrite,
    /// The read-only port.
    ReadOnly,
}

impl Server {
    fn as_label(self) -> &'static str {
        match self {
            Self::ReadWrite => "readwrite",
            Self::ReadOnly => "readonly",
        }
    }
}

/// The paths that have a bucket of their own on every server.
const COMMON: [&str; 7] = [
    "healthz",
    "pods",
    "stats",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
];
/// The paths that debugging handlers are below.
const DEBUGGING: [&str; 9] = [
    "run",
    "exec",
    "attach",
    "portForward",
    "containerLogs",
    "runningpods",
    "logs",
    "debug",
    "configz",
];
/// The paths of handlers that are disabled. Upstream calls one of them `pprof`, though its path
/// begins with `debug`.
const DISABLED: [&str; 8] =
    ["run", "exec", "attach", "portForward", "containerLogs", "runningpods", "pprof", "logs"];

/// Returns the paths that have a bucket of their own.
pub(super) fn buckets(debugging: bool, optional: &[&'static str]) -> BTreeSet<&'static str> {
    let more: &[&str] = if debugging { &DEBUGGING } else { &DISABLED };
    let optional = if debugging { optional } else { &[] };
    COMMON.iter().chain(more).chain(optional).copied().collect()
}

/// Counts the requests of one server.
#[derive(Clone, Debug)]
pub(super) struct RequestMetrics {
    server: Server,
    buckets: Arc<BTreeSet<&'static str>>,
    total: Family<Counter>,
    duration: Family<Histogram>,
    in_flight: Family<Gauge>,
    clock: Clock,
}

const LABELS: &[&str] = &["method", "path", "server_type", "long_running"];

impl RequestMetrics {
    /// Registers the metrics.
    pub(super) fn new(
        registry: &Registry,
        server: Server,
        buckets: BTreeSet<&'static str>,
        clock: Clock,
    ) -> Self {
        Self {
            server,
            buckets: Arc::new(buckets),
            total: registry.counters(
                "kubelet_http_requests_total",
                "[ALPHA] Number of the http requests received since the server started",
                LABELS,
            ),
            duration: registry.histograms(
                "kubelet_http_requests_duration_seconds",
                "[ALPHA] Duration in seconds to serve http requests",
                LABELS,
                DEFAULT_BUCKETS,
            ),
            in_flight: registry.gauges(
                "kubelet_http_inflight_requests",
                "[ALPHA] Number of the inflight http requests",
                LABELS,
            ),
            clock,
        }
    }

    /// Has every request of `router` counted, those that are refused too.
    pub(super) fn count<S: Clone + Send + Sync + 'static>(self, router: Router<S>) -> Router<S> {
        router.layer(axum::middleware::from_fn_with_state(self, count))
    }

    /// Begins to count a request.
    fn begin(&self, method: &Method, path: &str) -> InFlight {
        let path = self.buckets.get(root(path)).copied().unwrap_or("other");
        let labels = [method_label(method), path, self.server.as_label(), long_running(path)];
        self.total.with(&labels).inc();
        let gauge = self.in_flight.with(&labels);
        gauge.inc();
        InFlight(Arc::new(Counted {
            gauge,
            duration: self.duration.with(&labels),
            began: self.clock.now().mono,
            clock: self.clock,
        }))
    }
}

async fn count(
    State(metrics): State<RequestMetrics>,
    mut request: Request,
    next: Next,
) -> Response {
    let in_flight = metrics.begin(request.method(), request.uri().path());
    request.extensions_mut().insert(in_flight.clone());
    let response = next.run(request).await;
    response.map(|body| Body::new(CountedBody { body, in_flight }))
}

/// The body of an answer, with its request. Dropped when the answer has been sent, or given up.
struct CountedBody {
    body: Body,
    #[expect(dead_code, reason = "dropped with the body")]
    in_flight: InFlight,
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request in progress. A handler whose connection outlives its answer keeps a clone, which is an
/// extension of the request.
#[derive(Clone, Debug)]
pub(super) struct InFlight(#[expect(dead_code, reason = "held for its drop")] Arc<Counted>);

#[derive(Debug)]
struct Counted {
    gauge: Gauge,
    duration: Histogram,
    began: Mono,
    clock: Clock,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
        self.duration.observe_duration(self.clock.now().mono.since(self.began));
    }
}

/// Returns the first part of a path, and of `/metrics/…` the first two.
fn root(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut ends = path.match_indices('/').map(|(index, _)| index);
    let first = ends.next().unwrap_or(path.len());
    if &path[..first] == "metrics" && first < path.len() {
        return &path[..ends.next().unwrap_or(path.len())];
    }
    &path[..first]
}

fn method_label(method: &Method) -> &'static str {
    let known = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];
    known.into_iter().find(|name| method.as_str() == *name).unwrap_or("other")
}

/// Upstream's list has `portforward`, which no path is called: port forwards count as short.
fn long_running(path: &str) -> &'static str {
    if matches!(path, "exec" | "attach" | "portforward" | "debug") { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn roots_of_paths() {
        for (path, expected) in [
            ("/", ""),
            ("/pods", "pods"),
            ("/pods/", "pods"),
            ("/metrics", "metrics"),
            ("/metrics/", "metrics/"),
            ("/metrics/cadvisor", "metrics/cadvisor"),
            ("/metrics/cadvisor/x", "metrics/cadvisor"),
            ("/exec/a/b/c", "exec"),
        ] {
            assert_eq!(root(path), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn a_request_counts_until_its_answer_is_gone() {
        let registry = Registry::new();
        let buckets = buckets(true, &["flagz"]);
        let clock = Clock::system();
        let metrics = RequestMetrics::new(&registry, Server::ReadWrite, buckets, clock);
        let router = Router::new().route("/exec/{*rest}", get(async || "ok"));
        let router: Router = metrics.count(router);
        let ask = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).expect("a request");
            router.clone().oneshot(request).await.expect("an answer")
        };

        let labels = |path, long| {
            format!(
                "{{method=\"GET\",path=\"{path}\",server_type=\"readwrite\",long_running=\"{long}\"}}"
            )
        };
        let exec = labels("exec", "true");
        let answer = ask("/exec/a/b").await;
        let text = registry.encode();
        assert!(text.contains(&format!("kubelet_http_requests_total{exec} 1\n")), "{text}");
        assert!(text.contains(&format!("kubelet_http_inflight_requests{exec} 1\n")), "{text}");
        drop(answer);
        let text = registry.encode();
        assert!(text.contains(&format!("kubelet_http_inflight_requests{exec} 0\n")), "{text}");
        let seconds = format!("kubelet_http_requests_duration_seconds_count{exec} 1\n");
        assert!(text.contains(&seconds), "{text}");

        drop(ask("/unknown").await);
        let other = labels("other", "false");
        let text = registry.encode();
        assert!(text.contains(&format!("kubelet_http_requests_total{other} 1\n")), "{text}");
    }
}
