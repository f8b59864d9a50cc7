//! Measures requests to the API server for `/metrics`. The names are those of upstream's client.
//!
//! Each lane feeds it at the begin and at the end of a request. It decides nothing.

use http::{Method, StatusCode};

use crate::clock::Clock;
use crate::model::Mono;
use crate::telemetry::metrics::{Counter, Family, Histogram, Registry};

/// Upstream's buckets of durations, in seconds.
const SECONDS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// Upstream's buckets of sizes: 64 bytes to 16 MB.
const BYTES: &[f64] = &[
    64.0,
    256.0,
    512.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// The metrics of requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    clock: Clock,
    requests: Family<Counter>,
    latency: Family<Histogram>,
    limiter: Family<Histogram>,
    request_size: Family<Histogram>,
    response_size: Family<Histogram>,
}

impl RequestMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry, clock: Clock) -> Self {
        const BY: &[&str] = &["host", "verb"];
        Self {
            clock,
            requests: registry.counters(
                "rest_client_requests_total",
                "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "host", "method"],
            ),
            latency: registry.histograms(
                "rest_client_request_duration_seconds",
                "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
                BY,
                SECONDS,
            ),
            limiter: registry.histograms(
                "rest_client_rate_limiter_duration_seconds",
                "[ALPHA] Client side rate limiter latency in seconds. Broken down by verb, and host.",
                BY,
                SECONDS,
            ),
            request_size: registry.histograms(
                "rest_client_request_size_bytes",
                "[ALPHA] Request size in bytes. Broken down by verb and host.",
                BY,
                BYTES,
            ),
            response_size: registry.histograms(
                "rest_client_response_size_bytes",
                "[ALPHA] Response size in bytes. Broken down by verb and host.",
                BY,
                BYTES,
            ),
        }
    }

    /// Begins to measure a request, which may have to wait for its turn.
    pub(super) fn begin(&self, host: &str, method: &Method) -> Measured {
        let since = self.clock.now().mono;
        Measured { metrics: self.clone(), host: host.to_owned(), method: method.clone(), since }
    }
}

/// A request that is measured.
#[derive(Debug)]
pub(super) struct Measured {
    metrics: RequestMetrics,
    host: String,
    method: Method,
    /// When it began to wait for its turn, and then when it had its turn.
    since: Mono,
}

impl Measured {
    fn labels(&self) -> [&str; 2] {
        [&self.host, self.method.as_str()]
    }

    /// Takes in that the request has its turn.
    pub(super) fn sent(&mut self, bytes: u64) {
        let now = self.metrics.clock.now().mono;
        let waited = now.since(self.since);
        self.since = now;
        let metrics = &self.metrics;
        metrics.limiter.with(&self.labels()).observe_duration(waited);
        metrics.request_size.with(&self.labels()).observe(float(bytes));
    }

    /// Takes in the head of an answer; `None`: there was none. A watch takes as long as it likes:
    /// its time does not count.
    pub(super) fn answered(&self, status: Option<StatusCode>, is_watch: bool) {
        let code = status.as_ref().map_or("<error>", StatusCode::as_str);
        let labels = [code, &self.host, self.method.as_str()];
        self.metrics.requests.with(&labels).inc();
        if !is_watch {
            let took = self.metrics.clock.now().mono.since(self.since);
            self.metrics.latency.with(&self.labels()).observe_duration(took);
        }
    }

    /// Returns the histogram of the sizes of answers.
    pub(super) fn sizes(&self) -> Histogram {
        self.metrics.response_size.with(&self.labels())
    }
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
pub(super) fn float(bytes: u64) -> f64 {
    bytes as f64
}
