//! Authentication and authorisation in front of every route of the HTTPS port.
//!
//! The handlers behind it never ask who calls. A connection is one of a stranger (`crowd`) until a
//! request of a known user has passed.

use axum::extract::{Extension, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;

use super::authn::Authenticator;
use super::authz::{Authorizer, Decision, attributes};
use super::connection::Peer;
use super::text;

/// The authenticator and the authorizer of requests.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) authenticator: Authenticator,
    pub(super) authorizer: Authorizer,
}

/// Lets a request through, or answers 401, 403 or 500 as upstream does.
pub(super) async fn check(
    State(guard): State<Guard>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let certificates = peer.certificates.as_deref();
    let Some(user) = guard.authenticator.authenticate(certificates, request.headers_mut()).await
    else {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    };
    let attributes = attributes(request.method(), request.uri().path());
    match guard.authorizer.authorize(&user, &attributes).await {
        Decision::Allowed => {
            if !user.is_anonymous() {
                peer.place.admit();
            }
            next.run(request).await
        }
        Decision::Forbidden(message) => text(StatusCode::FORBIDDEN, message),
        Decision::Failed(message) => text(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}
