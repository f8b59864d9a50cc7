//! `/exec`, `/attach`, `/portForward`: the runtime answers a URL of its streaming server, and the
//! client's upgraded connection is passed through to it, byte for byte (SPDY and WebSocket alike).
//! Nothing is translated here.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tracing::debug;

use super::text;

/// How long the runtime's streaming server may take to accept and answer the upgrade.
const UPGRADE: Duration = Duration::from_secs(30);

/// Passes `request` to `url`, which the runtime answered. A request that is no upgrade is refused,
/// as upstream does.
pub(super) async fn pass_through(mut request: Request, url: &str) -> Response {
    if request.headers().get(header::UPGRADE).is_none() {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let client = hyper::upgrade::on(&mut request);
    let backend = match tokio::time::timeout(UPGRADE, ask(request, url)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("error dialing backend: {error}"),
            );
        }
        Err(_) => {
            return text(
                StatusCode::GATEWAY_TIMEOUT,
                "error dialing backend: the runtime's streaming server did not answer",
            );
        }
    };
    if backend.status() != StatusCode::SWITCHING_PROTOCOLS {
        return backend.map(Body::new).into_response();
    }
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

/// Why the runtime's streaming server cannot be used.
#[derive(Debug, thiserror::Error)]
enum BackendError {
    #[error("the runtime answered an unusable streaming URL")]
    Url,
    #[error("{0}")]
    Connect(std::io::Error),
    #[error("{0}")]
    Http(hyper::Error),
}

async fn ask(
    request: Request,
    url: &str,
) -> Result<hyper::Response<hyper::body::Incoming>, BackendError> {
    let url: Uri = url.parse().map_err(|_| BackendError::Url)?;
    let authority = url.authority().cloned().ok_or(BackendError::Url)?;
    let port = authority.port_u16().unwrap_or(80);
    let stream =
        TcpStream::connect((authority.host(), port)).await.map_err(BackendError::Connect)?;
    drop(stream.set_nodelay(true));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(BackendError::Http)?;
    #[expect(clippy::disallowed_methods, reason = "drives one connection; ends with it")]
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "connection to the runtime's streaming server ended with an error");
        }
    });
    let (mut parts, _) = request.into_parts();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(|_| BackendError::Url)?;
    parts.version = http::Version::HTTP_11;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BackendError::Url)?;
    parts.headers.insert(header::HOST, host);
    // The client's credentials are for us, not for the runtime.
    parts.headers.remove(header::AUTHORIZATION);
    sender
        .send_request(hyper::Request::from_parts(parts, Body::empty()))
        .await
        .map_err(BackendError::Http)
}
