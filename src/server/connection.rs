//! Serves one connection: TLS handshake, HTTP/1.1 or HTTP/2, and the moments at which a connection
//! that nothing happens on is closed.
//!
//! Upstream's server has `IdleTimeout: 90s` and no limit for the handshake or the first request.
//! The two limits here are shorter: a client that has connected has something to ask.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use tracing::debug;

use super::crowd::Place;
use super::tls::TlsSource;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Time for the headers of the first request, from the end of the handshake.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// How long a connection may go without a request in progress; upstream's `IdleTimeout`.
const IDLE: Duration = Duration::from_secs(90);

/// Time for what has been written when a connection is closed for idleness.
const CLOSE: Duration = Duration::from_secs(1);

/// Interval of HTTP/2 pings, and the time for each answer.
const PING: Duration = Duration::from_secs(15);

/// Go's TCP keep-alive: the first probe after 15 seconds, then one every 15 seconds, nine times.
const KEEP_ALIVE_SECONDS: u32 = 15;
const KEEP_ALIVE_PROBES: u32 = 9;

/// The facts about a connection's client. Requests carry them as an extension.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The certificates that the client showed, leaf first. The handshake has proved that the
    /// client holds the leaf's key, and nothing else: each request verifies the chain.
    pub(super) certificates: Option<Arc<[CertificateDer<'static>]>>,
    /// The connection's place among the others of its listener.
    pub(super) place: Arc<Place>,
}

/// Serves `stream` until either side ends it.
pub(super) async fn run(
    stream: TcpStream,
    address: SocketAddr,
    place: Arc<Place>,
    router: Router,
    tls: Option<Arc<TlsSource>>,
) {
    // Small answers must not wait for the peer's acknowledgement.
    drop(stream.set_nodelay(true));
    if let Err(error) = keep_alive(&stream) {
        debug!(%address, %error, "TCP keep-alive cannot be set");
    }

    let served = async {
        let Some(tls) = tls else {
            let peer = Peer { certificates: None, place: Arc::clone(&place) };
            return serve(stream, peer, router).await;
        };
        let Some(config) = tls.current() else {
            debug!(%address, "no serving certificate available for the kubelet");
            return refuse(stream).await;
        };
        let acceptor = TlsAcceptor::from(config);
        match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates().map(Arc::from);
                let peer = Peer { certificates, place: Arc::clone(&place) };
                serve(stream, peer, router).await;
            }
            Ok(Err(error)) => debug!(%address, %error, "TLS handshake failed"),
            Err(_) => debug!(%address, "TLS handshake took too long"),
        }
    };

    // Cancel-safe: a connection that gives way is closed, with all that it holds.
    tokio::select! {
        () = served => {}
        () = place.closed() => debug!(%address, "closed in favour of a newer connection"),
    }
}

/// A fatal alert of TLS: internal error. Upstream's answer while there is no certificate.
const INTERNAL_ERROR: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 80];

/// Ends a handshake for which there is no certificate.
async fn refuse(mut stream: TcpStream) {
    let answered = async {
        // An alert that is sent before the client has spoken might be lost with the connection.
        let _length = stream.read(&mut [0; 4096]).await?;
        stream.write_all(&INTERNAL_ERROR).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(HANDSHAKE, answered).await {
        debug!(%error, "a client went away in its handshake");
    }
}

/// Has the kernel probe an idle peer, as Go's listeners do.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};

    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE_PROBES)
}

/// Serves HTTP on `stream`, and closes it when no request has been in progress for too long.
async fn serve<S>(stream: S, peer: Peer, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let in_progress = InProgress::default();
    let mut count = in_progress.0.subscribe();
    let service = tower::service_fn(move |mut request: Request<hyper::body::Incoming>| {
        let guard = in_progress.begin();
        request.extensions_mut().insert(peer.clone());
        let answer = router.clone().oneshot(request.map(Body::new));
        async move { answer.await.map(|response| response.map(|body| Guarded { body, guard })) }
    });

    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The limit below counts from the end of the last request; hyper's own would be a second one.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);

    let mut limit = FIRST_REQUEST;
    let ended = loop {
        let is_idle = *count.borrow_and_update() == 0;
        // Cancel-safe: the connection is polled again, and the count is read again.
        tokio::select! {
            ended = &mut connection => break Some(ended),
            changed = count.changed() => match changed {
                Ok(()) => limit = IDLE,
                // The connection has dropped its service: it only flushes now.
                Err(_) => break tokio::time::timeout(CLOSE, &mut connection).await.ok(),
            },
            () = tokio::time::sleep(limit), if is_idle => {
                connection.as_mut().graceful_shutdown();
                break tokio::time::timeout(CLOSE, &mut connection).await.ok();
            }
        }
    };
    if let Some(Err(error)) = ended {
        debug!(error = %error, "connection ended with an error");
    }
}

/// Counts the requests of one connection that are in progress.
#[derive(Clone, Debug)]
struct InProgress(Arc<watch::Sender<usize>>);

impl Default for InProgress {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl InProgress {
    fn begin(&self) -> RequestGuard {
        self.0.send_modify(|count| *count += 1);
        RequestGuard(self.clone())
    }
}

/// A request in progress, until its answer has been written or given up.
#[derive(Debug)]
struct RequestGuard(InProgress);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// The body of an answer, with the guard of its request.
struct Guarded {
    body: Body,
    #[expect(dead_code, reason = "dropped with the body")]
    guard: RequestGuard,
}

impl hyper::body::Body for Guarded {
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::server::crowd::Crowd;

    /// A plain connection to a server with one quick and one endless answer.
    async fn connect() -> (TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (stream, address) = listener.accept().await.expect("a connection");
        let router = Router::new().route("/quick", get(async || "ok")).route(
            "/endless",
            get(async || {
                Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>())
            }),
        );
        let mut tasks = JoinSet::new();
        let place = Crowd::default().enter(address.ip());
        tasks.spawn(run(stream, address, place, router, None));
        (client, tasks)
    }

    /// How long the server keeps the connection after `sent`, on the paused clock.
    async fn stays_for(sent: &str) -> Duration {
        let (mut client, _tasks) = connect().await;
        client.write_all(sent.as_bytes()).await.expect("sent");
        if sent.contains("quick") {
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
        let began = now();
        let mut rest = Vec::new();
        let end = client.read_to_end(&mut rest);
        tokio::time::timeout(IDLE * 10, end).await.map_or(IDLE * 10, |_| began.elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
    fn now() -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_closed() {
        let stayed = stays_for("").await;
        assert!((FIRST_REQUEST..FIRST_REQUEST + CLOSE * 2).contains(&stayed), "{stayed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_closed() {
        let stayed = stays_for("GET /endl").await;
        assert!((FIRST_REQUEST..FIRST_REQUEST + CLOSE * 2).contains(&stayed), "{stayed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_after_upstreams_time() {
        let stayed = stays_for("GET /quick HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert!((IDLE..IDLE + CLOSE * 2).contains(&stayed), "{stayed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_progress_keeps_the_connection() {
        let stayed = stays_for("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
        assert_eq!(stayed, IDLE * 10);
    }
}
