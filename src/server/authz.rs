//! Authorisation of requests to the kubelet's API: which attributes a request has (pure), and
//! asking the API server (SubjectAccessReview, cached) whether its user may.
//!
//! Fine-grained subresources (KEP-2862) are tried first, `nodes/proxy` last, as upstream does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use parking_lot::Mutex;

use super::authn::User;
use crate::clock::Clock;
use crate::model::Mono;

/// How many answers are kept; beyond it the oldest go.
const CACHE: usize = 1024;

/// How long the API server may take to answer a review.
const REVIEW_DEADLINE: Duration = Duration::from_secs(10);

/// How requests are authorised.
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

/// What a request wants to do to which subresource of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// `get`, `create`, …; empty for a method without one.
    pub verb: &'static str,
    /// The subresources of `nodes`, tried in this order.
    pub subresources: Vec<&'static str>,
}

/// The attributes of a request (pure; upstream's table).
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
    /// It may.
    Allowed,
    /// It may not; the text is the response's body.
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
    clock: Clock,
    cache: Arc<Mutex<BTreeMap<CacheKey, Cached>>>,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").field("mode", &self.mode).finish_non_exhaustive()
    }
}

type CacheKey = (String, Vec<String>, &'static str, &'static str);

#[derive(Clone, Copy, Debug)]
struct Cached {
    allowed: bool,
    until: Mono,
}

impl Authorizer {
    /// An authorizer; `client` is needed for [`Mode::Webhook`] only.
    pub fn new(mode: Mode, node_name: &str, client: Option<kube::Client>, clock: Clock) -> Self {
        Self { mode, node_name: node_name.into(), client, clock, cache: Arc::default() }
    }

    /// Whether `user` may.
    pub async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let (allowed_ttl, denied_ttl) = match self.mode {
            Mode::AlwaysAllow => return Decision::Allowed,
            Mode::Webhook { allowed_ttl, denied_ttl } => (allowed_ttl, denied_ttl),
        };
        for subresource in &attributes.subresources {
            match self.review(user, attributes.verb, subresource, allowed_ttl, denied_ttl).await {
                Ok(true) => return Decision::Allowed,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(user = user.name, verb = attributes.verb, subresource, %error, "Authorization error");
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

    async fn review(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
        allowed_ttl: Duration,
        denied_ttl: Duration,
    ) -> Result<bool, ReviewError> {
        let now = self.clock.now().mono;
        let key = (user.name.clone(), user.groups.clone(), verb, subresource);
        if let Some(cached) = self.cache.lock().get(&key)
            && cached.until > now
        {
            return Ok(cached.allowed);
        }
        let client = self.client.clone().ok_or(ReviewError::NoClient)?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
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
            },
            ..SubjectAccessReview::default()
        };
        let api: kube::Api<SubjectAccessReview> = kube::Api::all(client);
        let parameters = PostParams::default();
        let answer = tokio::time::timeout(REVIEW_DEADLINE, api.create(&parameters, &review))
            .await
            .map_err(|_| ReviewError::Deadline)?
            .map_err(ReviewError::Api)?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let ttl = if allowed { allowed_ttl } else { denied_ttl };
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE {
            cache.retain(|_, cached| cached.until > now);
            if cache.len() >= CACHE {
                cache.clear();
            }
        }
        cache.insert(key, Cached { allowed, until: now.after(ttl) });
        Ok(allowed)
    }
}

/// Why a review could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    /// There is no API server (standalone).
    #[error(
        "there is no API server to ask: set authorization.mode to AlwaysAllow or give --kubeconfig"
    )]
    NoClient,
    /// It took too long.
    #[error("the API server did not answer the review within {} s", REVIEW_DEADLINE.as_secs())]
    Deadline,
    /// It refused.
    #[error("the API server refused the review")]
    Api(#[source] kube::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

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
