//! HTTP/2 under `kube`: lanes. A lane is a set of connections for one purpose, so that the lease
//! never waits for a write and no write ever waits for a watch.
//!
//! `kube` alone speaks HTTP/1.1, which costs a socket and about 32 KB per watch. An API server
//! allows about 100 streams on one connection and hyper queues silently beyond that, so a lane
//! opens a further connection when [`STREAMS_PER_CONNECTION`] are in use. Dead connections are
//! found by pings and closed. Every request has a deadline.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use parking_lot::{Mutex, RwLock};
use tower::BoxError;

use super::connectivity::Connectivity;
use super::credentials::Credentials;
use super::limiter::{Limiter, Urgency};
use super::proxy::ServerConnector;
use super::requests::{self, Measured, RequestMetrics};
use crate::telemetry::metrics::Histogram;

/// Requests in flight (watches above all) on one connection before another one is opened: 80 % of
/// the 100 streams that an API server allows. hyper hides the peer's real setting.
pub const STREAMS_PER_CONNECTION: usize = 80;
/// How long the head of an answer may take; the API server's own limit for a request is 60 s.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a whole answer that is not a watch may take, its body included.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// How long past its own `timeoutSeconds` a watch may live.
const WATCH_GRACE: Duration = Duration::from_secs(30);
/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a request waits for another one to prove a new connection. Without this, a hundred
/// watches that begin again after an outage would each make a connection, of which one is kept.
const PROOF_DEADLINE: Duration = Duration::from_secs(2);
/// The largest answer that is read: a list of 5000 services takes about 10 MB.
const MAX_ANSWER: u64 = 512 << 20;

type Connections = Client<ServerConnector, Body>;

/// What one lane is for.
#[derive(Clone, Copy, Debug)]
pub struct LaneKind {
    /// Its name in logs.
    pub name: &'static str,
    /// How often its connection is pinged, and how long the answer may take.
    pub ping: Duration,
    /// How long the head of an answer may take.
    pub deadline: Duration,
    /// How its requests stand to the others under the same rate limit.
    pub urgency: Urgency,
    /// The value of `User-Agent`.
    pub user_agent: &'static str,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The head of the answer did not come in time.
    #[error("no answer from the API server within {0:?}")]
    Deadline(Duration),
    /// The body did not come in time.
    #[error("the API server's answer broke off: not complete within {0:?}")]
    BodyDeadline(Duration),
    /// The client certificate has been requested and is not there yet.
    #[error("no client certificate yet: the request for it has not been answered")]
    NoCertificate,
}

/// One lane, a tower service for `kube::Client`. Cheap to clone.
#[derive(Clone)]
pub struct Lane {
    inner: Arc<Inner>,
}

struct Inner {
    kind: LaneKind,
    base: Uri,
    credentials: Arc<Credentials>,
    impersonation: http::HeaderMap,
    limiter: Limiter,
    reach: Connectivity,
    connections: Mutex<Vec<Connection>>,
    make: RwLock<Make>,
    metrics: OnceLock<RequestMetrics>,
}

type Make = Arc<dyn Fn() -> ServerConnector + Send + Sync>;

struct Connection {
    client: Connections,
    state: Arc<ConnectionState>,
    /// The client certificate that it was made with.
    generation: u64,
}

#[derive(Default)]
struct ConnectionState {
    /// Requests and watches in flight.
    streams: AtomicUsize,
    /// Whether a request has been answered since the last one that broke.
    proven: AtomicBool,
    /// Held by the request that proves the connection.
    proving: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.inner.kind.name)
            .field("connections", &self.inner.connections.lock().len())
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// Makes a lane to `base`. It connects on first use, and notes in `reach` whether its requests
    /// are answered. `make` builds a connector with the present credentials.
    pub fn new(
        kind: LaneKind,
        base: Uri,
        credentials: Arc<Credentials>,
        impersonation: http::HeaderMap,
        limiter: Limiter,
        reach: Connectivity,
        make: Make,
    ) -> Self {
        let inner = Inner {
            kind,
            base,
            credentials,
            impersonation,
            limiter,
            reach,
            connections: Mutex::new(Vec::new()),
            make: RwLock::new(make),
            metrics: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Measures requests from now on.
    pub fn measure(&self, metrics: &RequestMetrics) {
        self.inner.metrics.get_or_init(|| metrics.clone());
    }

    /// How many connections the lane holds.
    pub fn connections(&self) -> usize {
        self.inner.connections.lock().len()
    }

    /// A connection with room, and the stream's entry on it. Connections that nobody uses any more
    /// go, but for one; those of an older client certificate get no new requests, and end with the
    /// requests that they carry.
    fn pick(&self) -> (Connections, StreamGuard) {
        let generation = self.inner.credentials.generation();
        let mut connections = self.inner.connections.lock();
        connections.retain(|connection| connection.generation == generation);
        let mut spare = 0;
        connections.retain(|connection| {
            let idle = connection.state.streams.load(Ordering::Acquire) == 0;
            spare += usize::from(idle);
            !idle || spare == 1
        });
        let found = connections
            .iter()
            .find(|connection| {
                connection.state.streams.load(Ordering::Acquire) < STREAMS_PER_CONNECTION
            })
            .map(|connection| (connection.client.clone(), Arc::clone(&connection.state)));
        let (client, state) = found.unwrap_or_else(|| {
            let client = self.inner.connect();
            let state: Arc<ConnectionState> = Arc::default();
            connections.push(Connection {
                client: client.clone(),
                state: Arc::clone(&state),
                generation,
            });
            (client, state)
        });
        state.streams.fetch_add(1, Ordering::AcqRel);
        (client, StreamGuard(state))
    }

    /// Sends one request, one at a time while the connection is not proven.
    async fn exchange(
        client: Connections,
        state: &ConnectionState,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, BoxError> {
        let turn = if state.proven.load(Ordering::Acquire) {
            None
        } else {
            tokio::time::timeout(PROOF_DEADLINE, state.proving.lock()).await.ok()
        };
        // Proven meanwhile: the others need not wait for this one.
        let turn = turn.filter(|_| !state.proven.load(Ordering::Acquire));
        let answer = client.request(request).await;
        state.proven.store(answer.is_ok(), Ordering::Release);
        drop(turn);
        Ok(answer?)
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<LaneBody>, BoxError> {
        let inner = &self.inner;
        let begin = |metrics: &RequestMetrics| metrics.begin(inner.host(), request.method());
        let mut measured = inner.metrics.get().map(begin);
        inner.limiter.wait(inner.kind.urgency).await;
        if let Some(measured) = &mut measured {
            let size = hyper::body::Body::size_hint(request.body());
            measured.sent(size.exact().unwrap_or_default());
        }
        let timing = Timing::of(request.uri(), inner.kind.deadline);
        *request.uri_mut() = absolute(&inner.base, request.uri())?;
        tokio::time::timeout(inner.kind.deadline, inner.credentials.wait_for_certificate())
            .await
            .map_err(|_| TransportError::NoCertificate)
            .inspect_err(|_| inner.reach.lost())?;
        let bearer = inner.credentials.bearer().await?;
        let headers = request.headers_mut();
        if let Some(bearer) = &bearer {
            headers.insert(header::AUTHORIZATION, bearer.clone());
        }
        headers.insert(header::USER_AGENT, HeaderValue::from_static(inner.kind.user_agent));
        headers.extend(inner.impersonation.clone());
        let (client, guard) = self.pick();
        let exchange = Self::exchange(client, &guard.0, request);
        let answer = tokio::time::timeout(inner.kind.deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(TransportError::Deadline(inner.kind.deadline).into()));
        if let Some(measured) = &measured {
            let status = answer.as_ref().ok().map(Response::status);
            measured.answered(status, timing.is_watch);
        }
        let answer = answer.inspect_err(|_| inner.reach.lost())?;
        inner.reach.answered(answer.status());
        if answer.status() == http::StatusCode::UNAUTHORIZED {
            inner.credentials.refused(bearer.as_ref()).await;
            if inner.credentials.is_rotated() {
                // The certificate has expired. With the next one every request gets through again.
                inner.reach.lost();
            }
        }
        let sizes = measured.filter(|_| !timing.is_watch);
        Ok(answer.map(|body| LaneBody {
            incoming: body,
            size: sizes.as_ref().map(Measured::sizes),
            read: 0,
            deadline: timing.whole,
            timer: timing.whole.map(|whole| Box::pin(tokio::time::sleep(whole))),
            stream: guard,
        }))
    }
}

impl Inner {
    /// The server's host and port, as metrics show it.
    fn host(&self) -> &str {
        self.base.authority().map_or("", http::uri::Authority::as_str)
    }

    fn connect(&self) -> Connections {
        let connector = (self.make.read())();
        Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(None)
            .http2_keep_alive_interval(self.kind.ping)
            .http2_keep_alive_timeout(self.kind.ping)
            .http2_keep_alive_while_idle(true)
            .build(connector)
    }
}

/// A TCP connector: prompt, small packets at once, and lost as soon as the peer has not
/// acknowledged for `ping` twice.
pub fn tcp_connector(ping: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_DEADLINE));
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector.set_tcp_user_timeout(Some(ping * 2));
    connector
}

impl tower::Service<Request<Body>> for Lane {
    type Response = Response<LaneBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// How long a request may take.
struct Timing {
    /// The answer is a stream of changes.
    is_watch: bool,
    /// The whole answer; `None`: as long as it likes.
    whole: Option<Duration>,
}

impl Timing {
    fn of(uri: &Uri, head: Duration) -> Self {
        let query = uri.query().unwrap_or_default();
        let value = |name: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)
        };
        let watch = value("watch").is_some_and(|(_, value)| matches!(value, "true" | "1"));
        if !watch {
            let whole = if head < ANSWER_DEADLINE { head } else { BODY_DEADLINE };
            return Self { is_watch: false, whole: Some(whole) };
        }
        let seconds = value("timeoutSeconds").and_then(|(_, seconds)| seconds.parse().ok());
        Self {
            is_watch: true,
            whole: seconds.map(|seconds| Duration::from_secs(seconds) + WATCH_GRACE),
        }
    }
}

/// The URI of a request on the configured server, whose own path is a prefix.
fn absolute(base: &Uri, relative: &Uri) -> Result<Uri, http::Error> {
    let path = relative.path_and_query().map_or("/", |path| path.as_str());
    let prefix = base.path().trim_end_matches('/');
    let mut builder = Uri::builder();
    if let Some(scheme) = base.scheme() {
        builder = builder.scheme(scheme.clone());
    }
    if let Some(authority) = base.authority() {
        builder = builder.authority(authority.clone());
    }
    builder.path_and_query(format!("{prefix}{path}")).build()
}

/// Counts a stream on its connection for as long as it lives.
struct StreamGuard(Arc<ConnectionState>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer: bounded in time and, unless it is a watch, in size.
pub struct LaneBody {
    incoming: Incoming,
    /// Takes the size at the end.
    size: Option<Histogram>,
    read: u64,
    deadline: Option<Duration>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    stream: StreamGuard,
}

impl fmt::Debug for LaneBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneBody")
            .field("read", &self.read)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl hyper::body::Body for LaneBody {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        let deadline = self.deadline.unwrap_or_default();
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(TransportError::BodyDeadline(deadline).into())));
        }

        match std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.read += frame
                    .data_ref()
                    .map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                if self.read > MAX_ANSWER {
                    return Poll::Ready(Some(Err(format!(
                        "the answer exceeds {MAX_ANSWER} bytes"
                    )
                    .into())));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                // The connection has broken under all its streams.
                self.stream.0.proven.store(false, Ordering::Release);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                if let Some(size) = self.size.take() {
                    size.observe(requests::float(self.read));
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Uri;

    use super::{ANSWER_DEADLINE, Timing, absolute};

    #[track_caller]
    fn whole(uri: &str, head: Duration, expected: Option<u64>) {
        let timing = Timing::of(&uri.parse::<Uri>().expect("a URI"), head);
        assert_eq!(timing.whole, expected.map(Duration::from_secs), "{uri}");
    }

    #[test]
    fn every_request_has_a_deadline() {
        whole("/api/v1/pods", ANSWER_DEADLINE, Some(60));
        whole(
            "/apis/coordination.k8s.io/v1/namespaces/x/leases/n",
            Duration::from_secs(10),
            Some(10),
        );
        whole("/api/v1/pods?watch=true&timeoutSeconds=290", ANSWER_DEADLINE, Some(320));
        whole("/api/v1/pods?labelSelector=watch%3Dtrue", ANSWER_DEADLINE, Some(60));
    }

    #[test]
    fn the_servers_path_is_a_prefix() {
        let base: Uri = "https://host:6443/k8s/clusters/c".parse().expect("a URI");
        let uri = absolute(&base, &"/api/v1/pods?limit=1".parse().expect("a URI")).expect("a URI");
        assert_eq!(uri.to_string(), "https://host:6443/k8s/clusters/c/api/v1/pods?limit=1");
    }
}
