//! Accepts connections: TLS for the kubelet's API, plain for healthz and the read-only port.
//!
//! Each connection is a task of the set that belongs to its listener, and ends with it at shutdown.
//! How many there are is `crowd`'s to bound; a listener never stops accepting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection;
use super::crowd::Crowd;
use super::tls::TlsSource;

/// The pause before a port that is taken is tried again, as upstream's health port.
const TAKEN: Duration = Duration::from_secs(5);

/// Pause after a failed accept. Out of file descriptors, most likely: some have to be closed first.
const REFUSED: Duration = Duration::from_millis(100);

/// The error of a port that cannot be served.
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
/// again every five seconds: a kubelet without its health port still does its work.
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
    let crowd = Crowd::default();
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: `accept` and `join_next` lose nothing when dropped.
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let place = crowd.enter(address.ip());
                    let (router, tls) = (router.clone(), tls.clone());
                    connections.spawn(connection::run(stream, address, place, router, tls));
                }
                Err(error) => {
                    debug!(%error, "accepting a connection failed");
                    tokio::time::sleep(REFUSED).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
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
    use crate::server::crowd::STRANGERS;

    #[tokio::test]
    async fn silent_connections_do_not_shut_the_port() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        // Both ends of each connection are this process's.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raised");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", axum::routing::get(async || "ok"));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(super::serve(listener, router, None, shutdown.clone()));

        let mut silent = Vec::new();
        for _ in 0..STRANGERS + 100 {
            silent.push(TcpStream::connect(address).await.expect("a connection"));
        }
        let ask = async {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("asked");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            answer
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), ask).await.expect("at once");
        assert_eq!(&answer, b"HTTP/1.1 200");
        shutdown.cancel();
    }

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
