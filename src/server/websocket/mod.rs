//! WebSocket requests for `/exec`, `/attach` and `/portForward` that a runtime's streaming server
//! does not understand (gate `ExtendWebSocketsToKubelet`): translated into SPDY, or tunnelled.
//!
//! Fed by `streaming` with the URL that the runtime answered. A request for another protocol is
//! passed through by `streams`.
//!
//! | protocol | what is done |
//! |---|---|
//! | `v5.channel.k8s.io` | each message is bytes of one stream (`translate.rs`) |
//! | `SPDY/3.1+portforward.k8s.io` | the messages are the bytes of a SPDY connection (`tunnel.rs`) |

mod spdy;
mod status;
mod translate;
mod tunnel;

use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, header, request};

use super::request_metrics::InFlight;
use super::streams;
use crate::dispatch::Channels;
use crate::telemetry::metrics::Registry;

/// The protocol of commands.
const CHANNELS: &str = "v5.channel.k8s.io";
/// What stands before and behind the name of a tunnelled protocol.
const TUNNELLED: (&str, &str) = ("SPDY/3.1+", ".k8s.io");
/// The header that names the protocol within SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The longest message that a client may send; upstream's library has the same bound.
const LONGEST_MESSAGE: usize = 32 << 20;

/// Returns true if a request asks for the protocol of commands.
pub(super) fn asks_for_channels(headers: &HeaderMap) -> bool {
    protocols(headers).any(|protocol| protocol == CHANNELS)
}

/// Returns true if a request asks for a tunnel.
pub(super) fn asks_for_tunnel(headers: &HeaderMap) -> bool {
    protocols(headers).any(|protocol| tunnelled(protocol).is_some())
}

/// Counts a request by the name of what is asked for.
pub(super) fn count(registry: &Registry, subresource: &str) {
    let requests = registry.counters(
        "kubelet_websocket_streaming_requests_total",
        "[ALPHA] Total number of WebSocket streaming requests (exec/attach/portforward) received \
         by the kubelet.",
        &["subresource"],
    );
    requests.with(&[subresource]).inc();
}

/// Translates between the client and the streaming server at `url`. Whatever fails is said in the
/// client's error channel.
pub(super) async fn translate(request: Request, url: String, channels: Channels) -> Response {
    let (upgrade, parts) = match upgrade(request).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return *refusal,
    };
    let in_flight = parts.extensions.get::<InFlight>().cloned();
    upgrade.protocols([CHANNELS]).on_upgrade(move |socket| async move {
        // The request counts until its stream has ended.
        let _in_flight = in_flight;
        let request = spdy_request(&parts, [translate::PROTOCOL]);
        let opened = async { streams::open(request?, &url).await };
        translate::run(socket, opened, channels).await;
    })
}

/// Tunnels a SPDY connection between the client and the streaming server at `url`.
pub(super) async fn tunnel(request: Request, url: &str) -> Response {
    let (upgrade, parts) = match upgrade(request).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return *refusal,
    };
    let asked: Vec<&str> = protocols(&parts.headers).filter_map(tunnelled).collect();
    let request = match spdy_request(&parts, asked) {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let opened = match streams::open(request, url).await {
        Ok(opened) => opened,
        Err(error) => return error.into_response(),
    };

    let chosen = opened.headers.get(STREAM_PROTOCOL).and_then(|chosen| chosen.to_str().ok());
    let chosen = chosen.map(|chosen| format!("{}{}", TUNNELLED.0, chosen.trim()));
    let upgrade = match chosen {
        Some(chosen) => upgrade.protocols([chosen]),
        None => upgrade,
    };
    let in_flight = parts.extensions.get::<InFlight>().cloned();
    upgrade.on_upgrade(move |socket| async move {
        let _in_flight = in_flight;
        tunnel::run(socket, opened.stream).await;
    })
}

/// Takes the WebSocket out of a request.
async fn upgrade(request: Request) -> Result<(WebSocketUpgrade, request::Parts), Box<Response>> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(IntoResponse::into_response).map_err(Box::new)?;
    Ok((upgrade.max_message_size(LONGEST_MESSAGE).max_frame_size(LONGEST_MESSAGE), parts))
}

/// Makes the request to the streaming server of a client's request: an upgrade to SPDY with one of
/// `protocols` in it.
fn spdy_request<'a>(
    parts: &request::Parts,
    protocols: impl IntoIterator<Item = &'a str>,
) -> Result<Request, streams::OpenError> {
    const OF_WEBSOCKETS: [header::HeaderName; 4] = [
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_VERSION,
    ];
    let mut request = http::Request::new(Body::empty());
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.clone_from(&parts.headers);
    for name in OF_WEBSOCKETS {
        headers.remove(name);
    }
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(streams::SPDY));
    headers.remove(STREAM_PROTOCOL);
    for protocol in protocols {
        let protocol = header::HeaderValue::from_str(protocol);
        headers.append(STREAM_PROTOCOL, protocol.map_err(|_| streams::OpenError::Protocol)?);
    }
    Ok(request)
}

/// Returns the WebSocket protocols that a request asks for; none if it is no such request.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let is_websocket = headers
        .get(header::UPGRADE)
        .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let asked = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let asked = asked.filter(move |_| is_websocket).filter_map(|value| value.to_str().ok());
    asked.flat_map(|value| value.split(',')).map(str::trim)
}

/// Returns the protocol that a WebSocket protocol tunnels.
fn tunnelled(protocol: &str) -> Option<&str> {
    protocol.strip_prefix(TUNNELLED.0).filter(|inner| inner.ends_with(TUNNELLED.1))
}

#[cfg(test)]
mod tests;
