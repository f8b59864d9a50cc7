//! Joins a connection of `/exec`, `/attach` or `/portForward` with the runtime's streaming server.
//!
//! Fed by `streaming` with the URL that the runtime answered. The upgraded connection is passed
//! through byte for byte, SPDY and WebSocket alike; what has to be translated is `websocket`'s.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::request_metrics::InFlight;
use super::text;
use crate::apiserver::credentials::{CredentialsError, anonymous_tls};

/// How long the runtime's streaming server may take to accept and answer the upgrade.
const UPGRADE: Duration = Duration::from_secs(30);
/// The protocol of an upgrade to SPDY.
pub(super) const SPDY: &str = "SPDY/3.1";

/// Passes `request` to `url`, which the runtime answered. A request that is no upgrade is refused,
/// as upstream does.
pub(super) async fn pass_through(mut request: Request, url: &str) -> Response {
    if request.headers().get(header::UPGRADE).is_none() {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let client = hyper::upgrade::on(&mut request);
    let in_flight = request.extensions().get::<InFlight>().cloned();
    let backend = match answer(request, url).await {
        Ok(backend) => backend,
        Err(error) => return error.into_response(),
    };
    let mut answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in backend.headers() {
        answer = answer.header(name, value);
    }
    let server = hyper::upgrade::on(backend);
    // The connection outlives the request: its task ends when either side closes.
    #[expect(
        clippy::disallowed_methods,
        reason = "hyper hands the upgraded connection over only after the response is sent"
    )]
    tokio::spawn(async move {
        // The request counts until its stream has ended.
        let _in_flight = in_flight;
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(both) => both,
            Err(error) => {
                debug!(%error, "upgrade failed");
                return;
            }
        };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
            debug!(%error, "stream ended with an error");
        }
    });
    answer.body(Body::empty()).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A connection with the runtime's streaming server that has been upgraded to SPDY.
pub(super) struct Opened {
    /// The headers of the answer.
    pub(super) headers: HeaderMap,
    /// The connection.
    pub(super) stream: TokioIo<Upgraded>,
}

/// Sends `request`, an upgrade to SPDY, to `url`, which the runtime answered.
pub(super) async fn open(request: Request, url: &str) -> Result<Opened, OpenError> {
    let answer = answer(request, url).await?;
    let headers = answer.headers().clone();
    let says = |name: HeaderName, word: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(&word.to_ascii_lowercase()))
    };
    if !says(header::CONNECTION, "upgrade") || !says(header::UPGRADE, SPDY) {
        return Err(OpenError::NoUpgrade);
    }
    let stream = hyper::upgrade::on(answer).await.map_err(OpenError::Http)?;
    Ok(Opened { headers, stream: TokioIo::new(stream) })
}

/// The error of a streaming server that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("the runtime answered an unusable streaming URL")]
    Url,
    #[error("{0}")]
    Connect(io::Error),
    #[error("{0}")]
    Tls(#[from] CredentialsError),
    #[error("{0}")]
    Http(hyper::Error),
    #[error("the runtime's streaming server did not answer")]
    Timeout,
    #[error("the name of the protocol cannot be sent")]
    Protocol,
    #[error("unable to upgrade: missing upgrade headers in response")]
    NoUpgrade,
    #[error("unable to upgrade connection: {}", .0.status())]
    Refused(Box<Response>),
}

impl IntoResponse for OpenError {
    /// A refusal of the streaming server reaches the client as it is.
    fn into_response(self) -> Response {
        let status = match self {
            Self::Refused(response) => return *response,
            Self::Protocol => return text(StatusCode::BAD_REQUEST, self.to_string()),
            Self::NoUpgrade => {
                return text(StatusCode::INTERNAL_SERVER_ERROR, self.to_string());
            }
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Url | Self::Connect(_) | Self::Tls(_) | Self::Http(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        text(status, format!("error dialing backend: {self}"))
    }
}

/// Returns the answer of the runtime's streaming server if it switches protocols.
async fn answer(request: Request, url: &str) -> Result<hyper::Response<Incoming>, OpenError> {
    let answer = tokio::time::timeout(UPGRADE, ask(request, url)).await;
    let answer = answer.unwrap_or(Err(OpenError::Timeout))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer);
    }
    Err(OpenError::Refused(Box::new(answer.map(Body::new).into_response())))
}

/// Sends the request to the runtime's streaming server, by TLS if its URL says so. As upstream, its
/// certificate must then be one that the system trusts.
async fn ask(request: Request, url: &str) -> Result<hyper::Response<Incoming>, OpenError> {
    let url: Uri = url.parse().map_err(|_| OpenError::Url)?;
    let is_tls = url.scheme() == Some(&http::uri::Scheme::HTTPS);
    let authority = url.authority().ok_or(OpenError::Url)?;
    // An IPv6 address stands in brackets in a URL, and without them everywhere else.
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });

    let stream = TcpStream::connect((host, port)).await.map_err(OpenError::Connect)?;
    drop(stream.set_nodelay(true));
    if !is_tls {
        return send(request, &url, stream).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| OpenError::Url)?;
    let connector = TlsConnector::from(Arc::new(anonymous_tls()?));
    let stream = connector.connect(name, stream).await.map_err(OpenError::Connect)?;
    send(request, &url, stream).await
}

/// Sends the request on `stream` with the path of `url`.
async fn send<S>(
    request: Request,
    url: &Uri,
    stream: S,
) -> Result<hyper::Response<Incoming>, OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(OpenError::Http)?;
    #[expect(clippy::disallowed_methods, reason = "drives one connection; ends with it")]
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "connection to the runtime's streaming server ended with an error");
        }
    });

    let (mut parts, _) = request.into_parts();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(|_| OpenError::Url)?;
    parts.version = http::Version::HTTP_11;
    let host = url.authority().map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|_| OpenError::Url)?;
    parts.headers.insert(header::HOST, host);
    // The client's credentials are for us, not for the runtime.
    parts.headers.remove(header::AUTHORIZATION);
    sender
        .send_request(hyper::Request::from_parts(parts, Body::empty()))
        .await
        .map_err(OpenError::Http)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// The request that a streaming server at `address` is sent, and the status of the answer.
    async fn asked(address: &str) -> (String, StatusCode) {
        let listener = TcpListener::bind(address).await.expect("a port");
        let url = format!("http://{}/exec/token", listener.local_addr().expect("an address"));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.expect("a request");
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        let request = http::Request::get("/exec/ns/pod/c").header(header::UPGRADE, "x");
        let request = request.header(header::CONNECTION, "Upgrade").body(Body::empty());
        let answer = pass_through(request.expect("a request"), &url).await;
        let head = server.join_next().await.expect("a server").expect("it answers");
        (head, answer.status())
    }

    #[tokio::test]
    async fn the_streaming_server_may_be_at_either_loopback_address() {
        let has_ipv6 = TcpListener::bind("[::1]:0").await.is_ok();
        let addresses = if has_ipv6 { vec!["127.0.0.1:0", "[::1]:0"] } else { vec!["127.0.0.1:0"] };
        for address in addresses {
            let (head, status) = asked(address).await;
            assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS, "{address}");
            assert!(head.starts_with("GET /exec/token HTTP/1.1\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn an_https_url_is_dialled_by_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}/exec/token", listener.local_addr().expect("an address"));
        let request = http::Request::get("/").header(header::UPGRADE, "x").body(Body::empty());
        let request = request.expect("a request");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.read_u8().await.expect("a byte")
        };
        // Nobody answers the handshake: the connection is dropped once its first byte is seen.
        let (answer, first) = tokio::join!(pass_through(request, &url), server);
        assert_eq!(first, 22, "a TLS record with a handshake");
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
