//! Authentication of requests to the kubelet's API: client certificate, bearer token (TokenReview,
//! cached), anonymous.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::Clock;
use crate::model::Mono;

/// How many reviews are kept.
const CACHE: usize = 1024;

/// How long the API server may take to answer a review.
const REVIEW_DEADLINE: Duration = Duration::from_secs(10);

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The UID, if known.
    pub uid: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// What the authenticator adds.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// How requests are authenticated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether a request without credentials is `system:anonymous`.
    pub anonymous: bool,
    /// Whether bearer tokens are reviewed, and how long an answer is kept.
    pub webhook: Option<Duration>,
}

/// Authenticates requests.
#[derive(Clone)]
pub struct Authenticator {
    settings: Settings,
    client: Option<kube::Client>,
    clock: Clock,
    /// By the token's hash: the token itself is not kept.
    cache: Arc<Mutex<BTreeMap<[u8; 32], Cached>>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Cached {
    user: Option<User>,
    until: Mono,
}

impl Authenticator {
    /// An authenticator; `client` is needed for token reviews only.
    pub fn new(settings: Settings, client: Option<kube::Client>, clock: Clock) -> Self {
        Self { settings, client, clock, cache: Arc::default() }
    }

    /// Who makes the request: by the verified certificate of the connection, else by bearer token,
    /// else anonymous. `None`: nobody that is let in.
    pub async fn authenticate(
        &self,
        certificate: Option<&[u8]>,
        headers: &HeaderMap,
    ) -> Option<User> {
        if let Some(user) = certificate.and_then(certificate_user) {
            return Some(with_authenticated(user));
        }
        // Where no token is reviewed, one says nothing, as upstream.
        if let Some(token) = bearer(headers).filter(|_| self.settings.webhook.is_some()) {
            // A token that is refused does not fall back to anonymous (upstream: the error wins).
            return self.review(token).await.map(with_authenticated);
        }
        self.settings.anonymous.then(|| User {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..User::default()
        })
    }

    async fn review(&self, token: &str) -> Option<User> {
        let ttl = self.settings.webhook?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.clock.now().mono;
        if let Some(cached) = self.cache.lock().get(&hash)
            && cached.until > now
        {
            return cached.user.clone();
        }
        let api: kube::Api<TokenReview> = kube::Api::all(self.client.clone()?);
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let answer = match tokio::time::timeout(REVIEW_DEADLINE, api.create(&parameters, &review))
            .await
        {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(error = %error, "Unable to authenticate the request due to an error");
                return None;
            }
            Err(_) => {
                tracing::error!(
                    "Unable to authenticate the request: the token review was not answered in time"
                );
                return None;
            }
        };
        let status = answer.status.unwrap_or_default();
        let user = (status.authenticated == Some(true)).then(|| {
            let info = status.user.unwrap_or_default();
            User {
                name: info.username.unwrap_or_default(),
                uid: info.uid,
                groups: info.groups.unwrap_or_default(),
                extra: info.extra.unwrap_or_default(),
            }
        });
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE {
            cache.retain(|_, cached| cached.until > now);
            if cache.len() >= CACHE {
                cache.clear();
            }
        }
        cache.insert(hash, Cached { user: user.clone(), until: now.after(ttl) });
        user
    }
}

fn with_authenticated(mut user: User) -> User {
    let group = "system:authenticated";
    if !user.groups.iter().any(|have| have == group) {
        user.groups.push(group.to_owned());
    }
    user
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Name and groups of a client certificate: common name and organisations. The chain was verified
/// by the handshake.
fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(User { name, groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator(anonymous: bool) -> Authenticator {
        Authenticator::new(Settings { anonymous, webhook: None }, None, Clock::system())
    }

    fn headers(authorization: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(http::header::AUTHORIZATION, value.parse().expect("a header value"));
        }
        headers
    }

    #[tokio::test]
    async fn nobody_is_let_in_without_credentials_unless_anonymous_may() {
        assert_eq!(authenticator(false).authenticate(None, &headers(None)).await, None);
        let user = authenticator(true).authenticate(None, &headers(None)).await.expect("anonymous");
        assert_eq!(user.name, "system:anonymous");
        assert_eq!(user.groups, ["system:unauthenticated"]);
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_reviewed_is_not_anonymous() {
        let settings = Settings { anonymous: true, webhook: Some(Duration::from_secs(1)) };
        let authenticator = Authenticator::new(settings, None, Clock::system());
        assert_eq!(authenticator.authenticate(None, &headers(Some("Bearer abc"))).await, None);
    }

    #[tokio::test]
    async fn where_no_token_is_reviewed_one_says_nothing() {
        let user = authenticator(true)
            .authenticate(None, &headers(Some("Bearer abc")))
            .await
            .expect("anonymous");
        assert_eq!(user.name, "system:anonymous");
        assert_eq!(
            authenticator(false).authenticate(None, &headers(Some("Bearer abc"))).await,
            None
        );
    }

    #[tokio::test]
    async fn a_certificate_names_user_and_groups() {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver");
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let user = authenticator(false)
            .authenticate(Some(certificate.der()), &headers(None))
            .await
            .expect("a user");
        assert_eq!(user.name, "kube-apiserver");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    }
}
