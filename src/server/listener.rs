//! Accepting connections: TLS for the kubelet's API, plain for healthz and the read-only port. Each
//! connection is a task of the set that belongs to its listener; at shutdown it ends with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use super::tls::TlsSource;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How often a port that is taken is tried again, as upstream's health port.
const TAKEN: Duration = Duration::from_secs(5);

/// How many connections one listener serves at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 1024;

/// The client certificate of a connection, verified by the handshake.
#[derive(Clone, Debug)]
pub(super) struct PeerCertificate(pub Option<Arc<[u8]>>);

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: is another kubelet running?")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// Binds `address`.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Serves `router` on `address`, plainly, until `shutdown`. While the port is taken it is tried
/// again every five seconds: a kubelet without its health port still does its work, and whoever
/// watches that port hears from the one who has it.
pub async fn serve_when_free(
    (host, port): (String, u16),
    router: Router,
    shutdown: CancellationToken,
) {
    loop {
        match bind_host(&host, port).await {
            Ok(listener) => return serve(listener, router, None, shutdown).await,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(host, port, error, "Failed to start healthz server");
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(TAKEN)).await.is_none() {
            return;
        }
    }
}

/// Listens on a host, which may be an address or a name.
async fn bind_host(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let address = tokio::net::lookup_host((host, port)).await?.next();
    let address = address.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    bind(address).await.map_err(|error| error.source)
}

/// Serves `router` until `shutdown`; with `tls`, every connection begins with a handshake.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<TlsSource>>,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: `accept` and `join_next` lose nothing when dropped.
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, router.clone(), tls.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close some.
                    debug!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    tls: Option<Arc<TlsSource>>,
) {
    // Small answers must not wait for the peer's acknowledgement.
    drop(stream.set_nodelay(true));
    let Some(tls) = tls else {
        return serve_connection(stream, PeerCertificate(None), router).await;
    };
    let acceptor = TlsAcceptor::from(tls.current());
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate =
                stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate =
                PeerCertificate(certificate.map(|certificate| certificate.as_ref().into()));
            serve_connection(stream, certificate, router).await;
        }
        Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => debug!(%peer, "TLS handshake took too long"),
    }
}

async fn serve_connection<S>(stream: S, certificate: PeerCertificate, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(certificate.clone());
        request.map(axum::body::Body::new)
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        debug!(error = %error, "connection ended with an error");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::{TAKEN, serve_when_free};

    /// The host of an address, as the configuration gives it.
    fn host(address: std::net::SocketAddr) -> (String, u16) {
        (address.ip().to_string(), address.port())
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_taken_is_had_when_it_is_free_again() {
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = other.local_addr().expect("an address");
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let task = tasks.spawn(serve_when_free(host(address), Router::new(), shutdown.clone()));
        tokio::time::sleep(TAKEN * 3).await;
        assert!(!task.is_finished(), "it waits");
        drop(other);
        tokio::time::sleep(TAKEN + Duration::from_millis(1)).await;
        TcpStream::connect(address).await.expect("somebody listens");
        shutdown.cancel();
        task.await.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_port_ends_with_the_process() {
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = other.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let task = TaskTracker::new().spawn(serve_when_free(
            host(address),
            Router::new(),
            shutdown.clone(),
        ));
        tokio::time::sleep(TAKEN / 2).await;
        shutdown.cancel();
        tokio::time::timeout(Duration::from_millis(1), task)
            .await
            .expect("at once")
            .expect("it ends");
    }
}
