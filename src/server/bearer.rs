//! Reads bearer tokens from the headers of a request. Pure.
//!
//! A token comes in `Authorization`. Browsers cannot set that header for a WebSocket, and send the
//! token as a subprotocol.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};

/// The subprotocol that carries a token, e.g. `base64url.bearer.authorization.k8s.io.dG9rZW4`.
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The error of a subprotocol that holds no readable token. The texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("multiple base64.bearer.authorization tokens specified")]
    Multiple,
    #[error("invalid base64.bearer.authorization token encoding")]
    Encoding,
    #[error("invalid base64.bearer.authorization token")]
    NotText,
    #[error("missing additional subprotocol")]
    NoOther,
}

/// Returns the token of the `Authorization` header.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let mut parts = value.split(' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A token that came as a WebSocket subprotocol.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProtocolToken {
    /// The token.
    pub(super) token: String,
    /// The other subprotocols, as the header has them once the token is taken out.
    others: String,
}

impl ProtocolToken {
    /// Removes the token from the headers, so that the handler of the request never sees it.
    pub(super) fn remove_from(&self, headers: &mut HeaderMap) {
        match HeaderValue::from_str(&self.others) {
            Ok(others) => drop(headers.insert(SEC_WEBSOCKET_PROTOCOL, others)),
            Err(_) => drop(headers.remove(SEC_WEBSOCKET_PROTOCOL)),
        }
    }
}

/// Returns the token among the subprotocols of a WebSocket request.
pub(super) fn protocol_token(headers: &HeaderMap) -> Result<Option<ProtocolToken>, ProtocolError> {
    if !is_websocket(headers) {
        return Ok(None);
    }

    let mut encoded = None;
    let mut others = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            match protocol.strip_prefix(PROTOCOL_PREFIX) {
                None => others.push(protocol),
                Some(_) if encoded.is_some() => return Err(ProtocolError::Multiple),
                Some(token) => encoded = Some(token),
            }
        }
    }

    let decoded =
        URL_SAFE_NO_PAD.decode(encoded.unwrap_or_default()).map_err(|_| ProtocolError::Encoding)?;
    let token = String::from_utf8(decoded).map_err(|_| ProtocolError::NotText)?;
    if token.is_empty() {
        return Ok(None);
    }
    // One protocol must be left that the answer can name.
    if others.is_empty() {
        return Err(ProtocolError::NoOther);
    }
    Ok(Some(ProtocolToken { token, others: others.join(",") }))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_upgrade = text(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let mut wishes = text(CONNECTION).unwrap_or_default().split(',');
    is_upgrade && wishes.any(|wish| wish.trim().eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn authorization(value: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a header value"));
        assert_eq!(token(&headers), expected, "{value:?}");
    }

    #[test]
    fn reads_authorization_as_upstream() {
        authorization("Bearer abc", Some("abc"));
        authorization(" bEARER abc ", Some("abc"));
        authorization("Bearer abc def", Some("abc"));
        authorization("Bearer  abc", None);
        authorization("Bearer", None);
        authorization("Basic abc", None);
        assert_eq!(token(&HeaderMap::new()), None);
    }

    fn websocket(protocols: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        for protocol in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, protocol.parse().expect("a header value"));
        }
        headers
    }

    #[track_caller]
    fn protocols(protocols: &[&str], expected: Result<Option<(&str, &str)>, ProtocolError>) {
        let found = protocol_token(&websocket(protocols)).map(|found| {
            found.map(|found| {
                let mut headers = websocket(protocols);
                found.remove_from(&mut headers);
                let left = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
                let left: Vec<_> = left.map(|value| value.to_str().expect("text")).collect();
                (found.token, left.join("|"))
            })
        });
        let expected =
            expected.map(|found| found.map(|(token, left)| (token.to_owned(), left.to_owned())));
        assert_eq!(found, expected, "{protocols:?}");
    }

    #[test]
    fn reads_subprotocols_as_upstream() {
        // `dG9rZW4` is "token".
        let bearer = "base64url.bearer.authorization.k8s.io.dG9rZW4";
        protocols(
            &["v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4"],
            Ok(Some(("token", "v5.channel.k8s.io"))),
        );
        protocols(&["a", bearer, "b"], Ok(Some(("token", "a,b"))));
        protocols(&["a,b"], Ok(None));
        protocols(&["a", "base64url.bearer.authorization.k8s.io."], Ok(None));
        protocols(&[bearer], Err(ProtocolError::NoOther));
        protocols(&["a", bearer, bearer], Err(ProtocolError::Multiple));
        let padded = "base64url.bearer.authorization.k8s.io.dG9rZW4=";
        protocols(&["a", padded], Err(ProtocolError::Encoding));
        protocols(&["a", "base64url.bearer.authorization.k8s.io._w"], Err(ProtocolError::NotText));
    }

    #[test]
    fn only_a_websocket_request_has_one() {
        let mut headers = websocket(&["a, base64url.bearer.authorization.k8s.io.dG9rZW4"]);
        headers.remove(CONNECTION);
        assert!(matches!(protocol_token(&headers), Ok(None)));
    }
}
