//! Tests of the union of authenticators, with authorities made here and an API server that answers
//! token reviews from a script.

use std::convert::Infallible;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use rcgen::DnType;
use serde_json::{Value, json};

use super::*;
use crate::server::NamedFile;
use crate::server::client_ca::testing::Authority;

/// An API server that knows one token, and what it was asked.
#[derive(Clone, Default)]
struct Reviewer {
    asked: Arc<Mutex<Vec<Value>>>,
    failures: Arc<Mutex<Vec<u16>>>,
}

impl Reviewer {
    fn client(&self) -> kube::Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let this = this.clone();
            async move {
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                let mut review: Value = serde_json::from_slice(&body).expect("a review");
                this.asked.lock().push(review["spec"].clone());
                let failure = this.failures.lock().pop();
                let (status, answer) = if let Some(code) = failure {
                    (code, json!({"kind": "Status", "status": "Failure", "code": code}))
                } else {
                    let token = review["spec"]["token"].as_str().unwrap_or_default().to_owned();
                    review["status"] = if token.starts_with("good") {
                        json!({"authenticated": true, "user": {
                            "username": "jane", "groups": ["devs"], "extra": {"jti": [token]}}})
                    } else {
                        json!({"authenticated": false})
                    };
                    (201, review)
                };
                let status = StatusCode::from_u16(status).expect("a status");
                let body = kube::client::Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(status).body(body).expect("built"))
            }
        });
        kube::Client::new(service, "default")
    }
}

struct World {
    ours: Authority,
    others: Authority,
    reviewer: Reviewer,
    authenticator: Authenticator,
    ca: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

fn world(anonymous: bool, webhook: Option<Duration>) -> World {
    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca.crt");
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    write(&ca, &ours.pem);
    let file = NamedFile { field: "clientCAFile", path: ca.clone() };
    let client_ca = Some(Arc::new(ClientCa::load(&file, true).expect("an authority")));
    let reviewer = Reviewer::default();
    let settings = AuthenticationConfig { anonymous, webhook };
    let client = Some(reviewer.client());
    let authenticator = Authenticator::new(settings, client_ca, client, Clock::system());
    World { ours, others, reviewer, authenticator, ca, _directory: directory }
}

#[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

fn webhook() -> World {
    world(true, Some(Duration::from_secs(120)))
}

fn headers(authorization: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, value.parse().expect("a header value"));
    }
    headers
}

impl World {
    async fn name(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
        authorization: Option<&str>,
    ) -> Option<String> {
        let mut headers = headers(authorization);
        let user = self.authenticator.authenticate(certificates, &mut headers).await?;
        Some(user.name)
    }
}

#[tokio::test]
async fn nobody_is_let_in_without_credentials_unless_anonymous_may() {
    assert_eq!(world(false, None).name(None, None).await, None);
    let user = world(true, None).authenticator.authenticate(None, &mut headers(None)).await;
    let user = user.expect("anonymous");
    assert_eq!(user.name, "system:anonymous");
    assert_eq!(user.groups, ["system:unauthenticated"]);
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_anonymous() {
    assert_eq!(webhook().name(None, Some("Bearer bad")).await, None);
}

#[tokio::test]
async fn where_no_token_is_reviewed_one_says_nothing() {
    let name = world(true, None).name(None, Some("Bearer good")).await;
    assert_eq!(name.as_deref(), Some("system:anonymous"));
    assert_eq!(world(false, None).name(None, Some("Bearer good")).await, None);
}

#[tokio::test]
async fn a_certificate_names_user_groups_and_credential() {
    let world = world(false, None);
    let certificate = world.ours.client(2090);
    let user = world
        .authenticator
        .authenticate(Some(&certificate), &mut headers(None))
        .await
        .expect("a user");
    assert_eq!(user.name, "kube-apiserver");
    assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    let id = &user.extra["authentication.kubernetes.io/credential-id"][0];
    let hash = id.strip_prefix("X509SHA256=").expect("the kind of credential");
    assert!(hash.len() == 64 && hash.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')), "{id}");
}

#[tokio::test]
async fn a_certificate_may_name_the_uid() {
    let world = world(false, None);
    let uid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
    let certificate = world.ours.client_named(&[(DnType::CommonName, "a"), (uid, "u-1")], 2090);
    let user = world.authenticator.authenticate(Some(&certificate), &mut headers(None)).await;
    assert_eq!(user.and_then(|user| user.uid).as_deref(), Some("u-1"));
}

#[tokio::test]
async fn a_certificate_is_judged_at_each_request() {
    let world = webhook();
    let certificate = world.ours.client(2090);
    assert_eq!(world.name(Some(&certificate), None).await.as_deref(), Some("kube-apiserver"));
    assert_eq!(world.name(Some(&world.ours.client(2001)), None).await, None, "expired");
    assert_eq!(world.name(Some(&world.others.client(2090)), None).await, None, "of others");
    write(&world.ca, &world.others.pem);
    assert_eq!(world.name(Some(&certificate), None).await, None, "its authority is withdrawn");
}

#[tokio::test]
async fn a_good_token_beside_a_bad_certificate_is_enough() {
    let world = webhook();
    let certificate = world.others.client(2090);
    let name = world.name(Some(&certificate), Some("Bearer good")).await;
    assert_eq!(name.as_deref(), Some("jane"));
}

#[tokio::test]
async fn a_websocket_may_carry_its_token_as_a_protocol() {
    let world = webhook();
    let mut headers = HeaderMap::new();
    headers.insert("upgrade", "websocket".parse().expect("a header value"));
    headers.insert("connection", "Upgrade".parse().expect("a header value"));
    // "good" in base64url.
    let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.Z29vZA";
    headers.insert("sec-websocket-protocol", protocols.parse().expect("a header value"));
    let user = world.authenticator.authenticate(None, &mut headers).await.expect("a user");
    assert_eq!(user.name, "jane");
    assert_eq!(headers["sec-websocket-protocol"], "v5.channel.k8s.io");
}

#[tokio::test]
async fn a_token_that_was_used_is_not_passed_on() {
    let mut headers = headers(Some("Bearer good"));
    webhook().authenticator.authenticate(None, &mut headers).await.expect("a user");
    assert!(headers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_review_that_fails_for_a_moment_is_asked_again() {
    let world = webhook();
    world.reviewer.failures.lock().extend([500, 429]);
    assert_eq!(world.name(None, Some("Bearer good")).await.as_deref(), Some("jane"));
    assert_eq!(world.reviewer.asked.lock().len(), 3);
    world.reviewer.failures.lock().push(403);
    assert_eq!(world.name(None, Some("Bearer good2")).await, None, "refused for good");
    assert_eq!(world.reviewer.asked.lock().len(), 4);
    assert_eq!(world.name(None, Some("Bearer good2")).await.as_deref(), Some("jane"));
}

#[tokio::test]
async fn each_token_is_reviewed_once() {
    let world = webhook();
    for token in ["Bearer good", "Bearer good", "Bearer bad", "Bearer bad"] {
        world.name(None, Some(token)).await;
    }
    assert_eq!(world.reviewer.asked.lock().len(), 2);
}
