//! Authentication of requests to the kubelet's API.
//!
//! As upstream's union of authenticators, in this order:
//!
//! 1. the client certificate of the connection, verified now against the present client CA;
//! 2. the bearer token of `Authorization`, reviewed by the API server;
//! 3. the bearer token of a WebSocket request's subprotocol, likewise.
//!
//! The first that knows the client decides. If none does and one of them failed (a certificate that
//! has expired, a token that is refused), the request is refused; if there were no credentials at
//! all, it is anonymous, where that is allowed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest as _, Sha256};
use x509_parser::der_parser::oid;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use super::bearer::{self, ProtocolError};
use super::client_ca::ClientCa;
use super::reviews::{self, Answer, ReviewError, Reviews};
use crate::clock::Clock;

/// The extra field of a user that names the credential, e.g. `X509SHA256=0a1b…`.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The part of a certificate's subject that is the user's UID.
const X509_UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

const ANONYMOUS: &str = "system:anonymous";
const ALL_AUTHENTICATED: &str = "system:authenticated";
const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The UID, if known.
    pub uid: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// The fields that the authenticator adds, e.g. `authentication.kubernetes.io/credential-id`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Returns true if the request came without credentials.
    pub(super) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    /// Adds the group of everybody who is authenticated, unless the groups say already whether the
    /// user is.
    fn authenticated(mut self) -> Self {
        let is_said = |group: &String| group == ALL_AUTHENTICATED || group == ALL_UNAUTHENTICATED;
        if !self.is_anonymous() && !self.groups.iter().any(is_said) {
            self.groups.push(ALL_AUTHENTICATED.to_owned());
        }
        self
    }
}

/// The configuration of authentication.
#[derive(Clone, Debug)]
pub struct AuthenticationConfig {
    /// True if a request without credentials is `system:anonymous`.
    pub anonymous: bool,
    /// The time for which a review of a bearer token is kept; `None`: tokens are not reviewed.
    pub webhook: Option<Duration>,
}

/// The error of a credential that is refused.
#[derive(Debug, thiserror::Error)]
enum AuthenticationError {
    #[error("verifying certificate {certificate} failed")]
    Certificate {
        certificate: String,
        #[source]
        source: rustls::Error,
    },
    #[error("the client certificate cannot be read")]
    Unreadable,
    #[error("expected 1 UID, but found multiple: {0:?}")]
    ManyUids(Vec<String>),
    #[error("UID cannot be an empty string")]
    EmptyUid,
    #[error("invalid bearer token")]
    Token,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Review(#[from] Arc<ReviewError>),
}

/// Authenticates requests.
#[derive(Clone)]
pub struct Authenticator {
    settings: AuthenticationConfig,
    client_ca: Option<Arc<ClientCa>>,
    client: Option<kube::Client>,
    clock: Clock,
    /// By the token's hash: the token itself is not kept. `None`: no such user.
    reviews: Reviews<[u8; 32], Option<User>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Makes an authenticator; `client` is needed for token reviews only.
    pub fn new(
        settings: AuthenticationConfig,
        client_ca: Option<Arc<ClientCa>>,
        client: Option<kube::Client>,
        clock: Clock,
    ) -> Self {
        Self { settings, client_ca, client, clock, reviews: Reviews::new(clock) }
    }

    /// Returns the user who makes the request, or `None` if the request is refused. Removes a token
    /// that was used from the headers.
    pub async fn authenticate(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
        headers: &mut HeaderMap,
    ) -> Option<User> {
        let mut errors = Vec::new();
        match self.by_certificate(certificates) {
            Ok(Some(user)) => return Some(user.authenticated()),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        // Without reviews a token says nothing: it is not even an error.
        if let Some(ttl) = self.settings.webhook {
            match self.by_authorization(headers, ttl).await {
                Ok(Some(user)) => return Some(user.authenticated()),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
            match self.by_protocol(headers, ttl).await {
                Ok(Some(user)) => return Some(user.authenticated()),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }

        for error in &errors {
            let error = error as &dyn std::error::Error;
            tracing::error!(error, "Unable to authenticate the request due to an error");
        }
        let is_anonymous = errors.is_empty() && self.settings.anonymous;
        is_anonymous.then(|| User {
            name: ANONYMOUS.to_owned(),
            groups: vec![ALL_UNAUTHENTICATED.to_owned()],
            ..User::default()
        })
    }

    /// The user of the connection's certificate.
    fn by_certificate(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
    ) -> Result<Option<User>, AuthenticationError> {
        let (Some(ca), Some(chain)) = (&self.client_ca, certificates) else { return Ok(None) };
        let Some(leaf) = chain.first() else { return Ok(None) };

        let since_epoch = self.clock.now().wall.duration_since(jiff::Timestamp::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since_epoch.unsigned_abs());
        ca.verify(chain, now).map_err(|source| AuthenticationError::Certificate {
            certificate: identifier(leaf),
            source,
        })?;

        certificate_user(leaf)
    }

    /// The user of the token in `Authorization`.
    async fn by_authorization(
        &self,
        headers: &mut HeaderMap,
        ttl: Duration,
    ) -> Result<Option<User>, AuthenticationError> {
        let Some(token) = bearer::token(headers) else { return Ok(None) };
        let user = self.review(token, ttl).await?.ok_or(AuthenticationError::Token)?;
        headers.remove(AUTHORIZATION);
        Ok(Some(user))
    }

    /// The user of the token among the subprotocols of a WebSocket request.
    async fn by_protocol(
        &self,
        headers: &mut HeaderMap,
        ttl: Duration,
    ) -> Result<Option<User>, AuthenticationError> {
        let Some(found) = bearer::protocol_token(headers)? else { return Ok(None) };
        let user = self.review(&found.token, ttl).await?.ok_or(AuthenticationError::Token)?;
        found.remove_from(headers);
        Ok(Some(user))
    }

    /// Asks the API server for the user of a token; `None` if the token is no user's.
    async fn review(&self, token: &str, ttl: Duration) -> Result<Option<User>, Arc<ReviewError>> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let client = self.client.clone();
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let ask = || async move {
            let answer = reviews::create(client.ok_or(ReviewError::NoClient)?, review).await?;
            let status = answer.status.unwrap_or_default();
            if status.authenticated != Some(true) {
                return match status.error.filter(|error| !error.is_empty()) {
                    Some(error) => Err(ReviewError::Answer(error)),
                    None => Ok(Answer { value: None, ttl }),
                };
            }
            let info = status.user.unwrap_or_default();
            let user = User {
                name: info.username.unwrap_or_default(),
                uid: info.uid,
                groups: info.groups.unwrap_or_default(),
                extra: info.extra.unwrap_or_default(),
            };
            Ok(Answer { value: Some(user), ttl })
        };
        self.reviews.get(key, ask).await
    }
}

/// The user that a verified certificate names: the common name, the organisations as groups, the
/// UID if there is one. `None` without a common name.
fn certificate_user(der: &[u8]) -> Result<Option<User>, AuthenticationError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| AuthenticationError::Unreadable)?;
    let subject = certificate.subject();
    // Of several common names the last one counts, as in Go.
    let names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
    let Some(name) = names.last().filter(|name| !name.is_empty()) else { return Ok(None) };

    let uids = subject.iter_by_oid(&X509_UID).filter_map(|uid| uid.as_str().ok());
    let mut uids: Vec<String> = uids.map(str::to_owned).collect();
    let uid = match uids.len() {
        0 => None,
        1 => uids.pop(),
        _ => return Err(AuthenticationError::ManyUids(uids)),
    };
    if uid.as_ref().is_some_and(String::is_empty) {
        return Err(AuthenticationError::EmptyUid);
    }

    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let credential = format!("X509SHA256={}", hex(&Sha256::digest(der)));
    Ok(Some(User {
        name: name.to_owned(),
        uid,
        groups: groups.map(str::to_owned).collect(),
        extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![credential])]),
    }))
}

/// Returns the name of a certificate in upstream's log: `SN=1, SKID=0A:1B, AKID=2C:3D`.
fn identifier(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return "that cannot be read".to_owned();
    };
    let mut subject_key = String::new();
    let mut authority_key = String::new();
    for extension in certificate.extensions() {
        let extension = extension.parsed_extension();
        if let ParsedExtension::SubjectKeyIdentifier(key) = extension {
            subject_key = colon_hex(key.0);
        } else if let ParsedExtension::AuthorityKeyIdentifier(found) = extension {
            let key = found.key_identifier.as_ref();
            authority_key = key.map(|key| colon_hex(key.0)).unwrap_or_default();
        }
    }
    format!("SN={}, SKID={subject_key}, AKID={authority_key}", certificate.tbs_certificate.serial)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // A String takes everything.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

fn colon_hex(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

#[cfg(test)]
mod tests;
