//! Authorisation of requests to the kubelet's API.
//!
//! 1. [`attributes`] says which verb on which subresources of `nodes` a request stands for.
//! 2. The API server is asked by SubjectAccessReview; answers are cached.
//!
//! Fine-grained subresources (KEP-2862) are tried first, `nodes/proxy` last, as upstream does.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};

use super::authn::User;
use super::reviews::{self, Answer, ReviewError, Reviews};
use crate::clock::Clock;

/// The mode of authorisation.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Everybody who is authenticated may do everything (`authorization.mode: AlwaysAllow`).
    AlwaysAllow,
    /// The API server is asked (`Webhook`).
    Webhook {
        /// How long a yes is kept.
        allowed_ttl: Duration,
        /// How long a no is kept.
        denied_ttl: Duration,
    },
}

/// The verb of a request, and the subresources of the node that it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// `get`, `create`, …; empty for a method without one.
    pub verb: &'static str,
    /// The subresources of `nodes`, tried in this order.
    pub subresources: Vec<&'static str>,
}

/// Returns the attributes of a request, by upstream's table. Pure.
pub(super) fn attributes(method: &Method, path: &str) -> Attributes {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let mut subresources = Vec::new();
    for (prefix, subresource) in [
        ("/pods", "pods"),
        ("/healthz", "healthz"),
        ("/configz", "configz"),
        ("/runningpods", "pods"),
    ] {
        if is_below(path, prefix) {
            subresources.push(subresource);
            break;
        }
    }
    let coarse = [
        ("/stats", "stats"),
        ("/metrics", "metrics"),
        ("/logs", "log"),
        ("/checkpoint", "checkpoint"),
        ("/statusz", "statusz"),
        ("/flagz", "configz"),
    ];
    let found = coarse.iter().find(|(prefix, _)| is_below(path, prefix));
    subresources.push(found.map_or("proxy", |(_, subresource)| subresource));
    Attributes { verb, subresources }
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The user may make the request.
    Allowed,
    /// The user may not; the text is the response's body.
    Forbidden(String),
    /// The API server could not be asked; the text is the response's body.
    Failed(String),
}

/// Authorises requests.
#[derive(Clone)]
pub struct Authorizer {
    mode: Mode,
    node_name: Arc<str>,
    client: Option<kube::Client>,
    /// By the text of the question: user, UID, groups, extra and attributes.
    reviews: Reviews<String, Verdict>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Authorizer {
    /// An authorizer; `client` is needed for [`Mode::Webhook`] only.
    pub fn new(mode: Mode, node_name: &str, client: Option<kube::Client>, clock: Clock) -> Self {
        Self { mode, node_name: node_name.into(), client, reviews: Reviews::new(clock) }
    }

    /// Decides whether `user` may make a request with these attributes.
    pub async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let ttl = match self.mode {
            Mode::AlwaysAllow => return Decision::Allowed,
            Mode::Webhook { allowed_ttl, denied_ttl } => {
                Ttl { allowed: allowed_ttl, denied: denied_ttl }
            }
        };
        for subresource in &attributes.subresources {
            match self.review(user, attributes.verb, subresource, ttl).await {
                Ok(true) => return Decision::Allowed,
                Ok(false) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        user = user.name,
                        verb = attributes.verb,
                        subresource,
                        error,
                        "Authorization error"
                    );
                    return Decision::Failed(format!(
                        "Authorization error (user={}, verb={}, resource=nodes, subresource={subresource})",
                        user.name, attributes.verb
                    ));
                }
            }
        }
        Decision::Forbidden(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            attributes.verb,
            attributes.subresources.join(" ")
        ))
    }

    /// Asks the API server about one subresource. The text of the whole question is the key.
    async fn review(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
        ttl: Ttl,
    ) -> Result<bool, AuthorizationError> {
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            uid: user.uid.clone(),
            extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some(subresource.to_owned()),
                name: Some(self.node_name.to_string()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        };

        let key = serde_json::to_string(&spec).map_err(AuthorizationError::Spec)?;
        let client = self.client.clone();

        let ask = || async move {
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            let answer = reviews::create(client.ok_or(ReviewError::NoClient)?, review).await?;
            let status = answer.status.unwrap_or_default();
            let verdict = Verdict { allowed: status.allowed, denied: status.denied == Some(true) };
            let ttl = if verdict.allowed { ttl.allowed } else { ttl.denied };
            Ok(Answer { value: verdict, ttl })
        };

        match self.reviews.get(key, ask).await? {
            Verdict { allowed: true, denied: true } => Err(AuthorizationError::Contradiction),
            Verdict { allowed, denied: _ } => Ok(allowed),
        }
    }
}

/// The answer of the API server.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    allowed: bool,
    denied: bool,
}

/// How long answers are kept.
#[derive(Clone, Copy, Debug)]
struct Ttl {
    allowed: Duration,
    denied: Duration,
}

/// The error of a review without a usable answer.
#[derive(Debug, thiserror::Error)]
enum AuthorizationError {
    #[error("the review cannot be written")]
    Spec(#[source] serde_json::Error),
    #[error("webhook subject access review returned both allow and deny response")]
    Contradiction,
    #[error(transparent)]
    Review(#[from] Arc<ReviewError>),
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that allows what `allow` says of a review's spec.
    fn client(allow: fn(&Value) -> Value) -> kube::Client {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| async move {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let mut review: Value = serde_json::from_slice(&body).expect("a review");
            review["status"] = allow(&review["spec"]);
            let body = kube::client::Body::from(review.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(201).body(body).expect("built"))
        });
        kube::Client::new(service, "default")
    }

    fn authorizer(allow: fn(&Value) -> Value) -> Authorizer {
        let hour = Duration::from_secs(3600);
        let mode = Mode::Webhook { allowed_ttl: hour, denied_ttl: hour };
        Authorizer::new(mode, "n1", Some(client(allow)), Clock::system())
    }

    fn user(uid: Option<&str>, scope: &str) -> User {
        User {
            name: "jane".to_owned(),
            uid: uid.map(str::to_owned),
            groups: vec!["devs".to_owned()],
            extra: [("scopes.example.com".to_owned(), vec![scope.to_owned()])].into(),
        }
    }

    #[tokio::test]
    async fn an_answer_is_for_one_uid_and_one_scope() {
        let authorizer = authorizer(|spec| {
            let is_full = spec["extra"]["scopes.example.com"][0] == "full";
            json!({"allowed": is_full && spec["uid"] == "1"})
        });
        let asked = attributes(&Method::GET, "/pods");
        let allowed = authorizer.authorize(&user(Some("1"), "full"), &asked).await;
        assert_eq!(allowed, Decision::Allowed);
        for other in [user(Some("1"), "read"), user(Some("2"), "full"), user(None, "full")] {
            let decision = authorizer.authorize(&other, &asked).await;
            assert!(matches!(decision, Decision::Forbidden(_)), "{other:?}: {decision:?}");
        }
    }

    #[tokio::test]
    async fn allowed_and_denied_at_once_is_an_error() {
        let authorizer = authorizer(|_| json!({"allowed": true, "denied": true}));
        let asked = attributes(&Method::GET, "/metrics");
        let expected =
            "Authorization error (user=jane, verb=get, resource=nodes, subresource=metrics)";
        let decision = authorizer.authorize(&user(None, "full"), &asked).await;
        assert_eq!(decision, Decision::Failed(expected.to_owned()));
    }

    #[track_caller]
    fn check(method: &Method, path: &str, verb: &str, subresources: &[&str]) {
        let got = attributes(method, path);
        assert_eq!(
            (got.verb, got.subresources.as_slice()),
            (verb, subresources),
            "{method} {path}"
        );
    }

    #[test]
    fn requests_have_upstreams_attributes() {
        check(&Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(&Method::GET, "/pods/", "get", &["pods", "proxy"]);
        check(&Method::GET, "/podsx", "get", &["proxy"]);
        check(&Method::GET, "/runningpods/", "get", &["pods", "proxy"]);
        check(&Method::GET, "/healthz/ping", "get", &["healthz", "proxy"]);
        check(&Method::GET, "/configz", "get", &["configz", "proxy"]);
        check(&Method::GET, "/stats/summary", "get", &["stats"]);
        check(&Method::GET, "/metrics/cadvisor", "get", &["metrics"]);
        check(&Method::GET, "/logs/x", "get", &["log"]);
        check(&Method::POST, "/checkpoint/a/b/c", "create", &["checkpoint"]);
        check(&Method::POST, "/exec/a/b/c", "create", &["proxy"]);
        check(&Method::GET, "/containerLogs/a/b/c", "get", &["proxy"]);
        check(&Method::HEAD, "/x", "", &["proxy"]);
    }
}
