//! Service-account tokens for pods, by TokenRequest: cached, single-flight, renewed before they
//! expire.
//!
//! Nothing runs by itself: the volume of a pod asks again at [`Token::refresh_at`]. The only state
//! is the cache, one lock per token held across its request (that is the single flight). Tokens
//! never reach logs, errors or `Debug`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use super::client::Clients;
use super::failure::{self, FailureKind};
use super::random;
use crate::clock::Clock;
use crate::model::{Mono, Now, PodUid, Wall, time};

/// The longest time between two requests for one token, whatever its expiry.
const LONGEST_AGE: Duration = Duration::from_secs(24 * 3600);
/// How much earlier, at random, a token is renewed.
const LARGEST_JITTER: Duration = Duration::from_secs(10);
/// How far a token's own times may lie ahead of our clock before the token is taken for one from
/// before a clock jump.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);
/// When to try again if a renewal failed and the old token is still good.
const RETRY: Duration = Duration::from_secs(30);

/// The node authorizer refuses what belongs to a pod that its own watch has not shown it yet: then
/// it is asked again soon, without a word, for two and a half seconds.
const FIRST_STRANGER_WAIT: Duration = Duration::from_millis(20);
const LAST_STRANGER_WAIT: Duration = Duration::from_millis(1280);

/// What a token is for. Equal requests share one token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The namespace of pod and service account.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// Its UID, which the API server then demands; empty: any.
    pub service_account_uid: String,
    /// The pod that the token is bound to.
    pub pod_name: String,
    /// Its UID.
    pub pod_uid: PodUid,
    /// The audiences; empty for the API server's own.
    pub audiences: Vec<String>,
    /// The asked life in seconds.
    pub expiration_seconds: i64,
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The text to give to the pod.
    pub secret: Arc<str>,
    /// When it expires.
    pub expires_at: Wall,
    /// When to ask for it again.
    pub refresh_at: Mono,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires_at", &self.expires_at)
            .field("refresh_at", &self.refresh_at)
            .finish_non_exhaustive()
    }
}

/// Why there is no token. The text continues upstream's `failed to fetch token: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to fetch token: {problem}")]
pub struct TokenError {
    /// The server's text.
    pub problem: String,
}

#[derive(Clone)]
struct Cached {
    token: Token,
    /// The earliest moment of the wall clock at which this token makes sense.
    not_before: Wall,
}

type Cell = Arc<tokio::sync::Mutex<Option<Cached>>>;

struct Shared {
    client: kube::Client,
    clock: Clock,
    cells: Mutex<HashMap<Request, Cell>>,
}

/// The token cache. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("tokens::Handle")
            .field("cells", &self.shared.cells.lock().len())
            .finish_non_exhaustive()
    }
}

/// Makes the cache. It has no task.
pub fn new(clients: &Clients, clock: Clock) -> Handle {
    Handle {
        shared: Arc::new(Shared { client: clients.writes.clone(), clock, cells: Mutex::default() }),
    }
}

impl Handle {
    /// The token, from the cache while it is fresh. A failed renewal answers the old token for as
    /// long as it is valid. Cancel-safe: a cancelled request is made again by the next caller.
    pub async fn token(&self, request: &Request) -> Result<Token, TokenError> {
        let cell = Arc::clone(self.shared.cells.lock().entry(request.clone()).or_default());
        let mut cached = cell.lock().await;
        let now = self.shared.clock.now();
        if let Some(known) = &*cached
            && is_fresh(known, now)
        {
            return Ok(known.token.clone());
        }
        match self.fetch(request).await {
            Ok(fetched) => {
                let token = fetched.token.clone();
                *cached = Some(fetched);
                Ok(token)
            }
            Err(error) => match &mut *cached {
                Some(known)
                    if now.wall < known.token.expires_at && now.wall >= known.not_before =>
                {
                    tracing::warn!(
                        namespace = request.namespace,
                        service_account = request.service_account,
                        error = error.problem,
                        "a service account token could not be renewed; the old one is still valid"
                    );
                    let refresh_at = now.mono.after(RETRY);
                    Ok(Token { refresh_at, ..known.token.clone() })
                }
                Some(_) | None => Err(error),
            },
        }
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, pod: &PodUid) {
        self.shared.cells.lock().retain(|request, _| request.pod_uid != *pod);
    }

    async fn fetch(&self, request: &Request) -> Result<Cached, TokenError> {
        let api: Api<ServiceAccount> =
            Api::namespaced(self.shared.client.clone(), &request.namespace);
        let uid = &request.service_account_uid;
        let body = TokenRequest {
            metadata: ObjectMeta {
                uid: Some(uid.clone()).filter(|uid| !uid.is_empty()),
                ..ObjectMeta::default()
            },
            spec: Some(TokenRequestSpec {
                audiences: Some(request.audiences.clone()),
                expiration_seconds: Some(request.expiration_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(request.pod_name.clone()),
                    uid: Some(request.pod_uid.to_string()),
                }),
            }),
            ..TokenRequest::default()
        };

        let mut wait = FIRST_STRANGER_WAIT;
        let answer = loop {
            let answer = api
                .create_token_request(&request.service_account, &PostParams::default(), &body)
                .await;
            match answer {
                Ok(answer) => break answer,
                Err(error) if is_stranger(&error) && wait <= LAST_STRANGER_WAIT => {
                    self.shared.clock.sleep_until(self.shared.clock.now().mono.after(wait)).await;
                    wait *= 2;
                }
                Err(error) => return Err(TokenError { problem: failure::text(&error) }),
            }
        };

        let status = answer.status.unwrap_or_default();
        let (Some(secret), Some(expires_at)) = (status.token, status.expiration_timestamp) else {
            return Err(TokenError {
                problem: "the API server's answer holds no token".to_owned(),
            });
        };

        let now = self.shared.clock.now();
        let issued = issued_at(&secret).unwrap_or(now.wall);
        let early = LARGEST_JITTER.mul_f64(random::unit());

        Ok(Cached {
            not_before: earlier(issued.min(now.wall), CLOCK_LEEWAY),
            token: Token {
                expires_at: expires_at.0,
                refresh_at: refresh_at(expires_at.0, request.expiration_seconds, early, now),
                secret: secret.into(),
            },
        })
    }
}

/// Whether the API server may just not know the pod yet: its node authorizer and its check of the
/// pod have caches.
fn is_stranger(error: &kube::Error) -> bool {
    match failure::kind(error) {
        FailureKind::Forbidden => true,
        // Not of a service account: that one is missing.
        FailureKind::NotFound => failure::text(error).starts_with("pod "),
        FailureKind::AlreadyExists
        | FailureKind::Conflict
        | FailureKind::Gone
        | FailureKind::Invalid
        | FailureKind::Busy
        | FailureKind::Unknown => false,
    }
}

/// Whether a cached token needs no renewal: not due, not expired by the wall clock, and not from a
/// time that the wall clock has since left behind by jumping back.
fn is_fresh(cached: &Cached, now: Now) -> bool {
    now.mono < cached.token.refresh_at
        && now.wall < cached.token.expires_at
        && now.wall >= cached.not_before
}

/// Upstream's rule: at 80 % of the life, at the latest after a day, a little earlier at random.
fn refresh_at(expires_at: Wall, asked_seconds: i64, early: Duration, now: Now) -> Mono {
    let left = Duration::try_from(expires_at.duration_since(now.wall)).unwrap_or_default();
    let asked = time::seconds(asked_seconds);
    // The server may give another life than was asked; the share of it that is left unused follows
    // what was asked.
    let life = if asked.is_zero() { left } else { asked };
    let unused = life.mul_f64(0.2).min(left);
    let due = left.saturating_sub(unused).min(LONGEST_AGE).saturating_sub(early);
    now.mono.after(due)
}

/// The later of `iat` and `nbf` of a JWT; `None` when it is not one.
fn issued_at(token: &str) -> Option<Wall> {
    #[derive(serde::Deserialize)]
    struct Claims {
        iat: Option<i64>,
        nbf: Option<i64>,
    }
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&bytes).ok()?;
    Wall::from_second(claims.iat.into_iter().chain(claims.nbf).max()?).ok()
}

fn earlier(wall: Wall, by: Duration) -> Wall {
    jiff::SignedDuration::try_from(by).ok().and_then(|by| wall.checked_sub(by).ok()).unwrap_or(wall)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cached, Request, Token, is_fresh, refresh_at};
    use crate::apiserver::fake::FakeApi;
    use crate::clock::Clock;
    use crate::model::{Mono, Now, Wall};

    fn at(seconds: i64) -> Wall {
        Wall::from_second(1_700_000_000 + seconds).expect("in range")
    }

    fn now(mono: u64, wall: i64) -> Now {
        Now { mono: Mono(Duration::from_secs(mono)), wall: at(wall) }
    }

    #[track_caller]
    fn due(expires: i64, asked: i64, expected: u64) {
        assert_eq!(
            refresh_at(at(expires), asked, Duration::ZERO, now(0, 0)),
            Mono(Duration::from_secs(expected))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_the_authorizer_does_not_know_yet_is_asked_for_again() {
        let clock = Clock::starting_at(at(0));
        let fake = FakeApi::new(clock);
        let tokens = super::new(&fake.clients("n"), clock);
        let request = Request {
            namespace: "d".to_owned(),
            service_account: "default".to_owned(),
            service_account_uid: String::new(),
            pod_name: "p".to_owned(),
            pod_uid: "u".into(),
            audiences: Vec::new(),
            expiration_seconds: 3600,
        };
        fake.fail("POST", "token", 403, 3);
        let began = clock.now().mono;
        tokens.token(&request).await.expect("it is known by then");
        assert!(clock.now().mono.since(began) < Duration::from_millis(200));
        fake.fail("POST", "token", 403, 1000);
        let error = tokens
            .token(&Request { pod_name: "q".to_owned(), ..request })
            .await
            .expect_err("it is refused");
        assert_eq!(error.to_string(), "failed to fetch token: a fault of the test");
    }

    #[test]
    fn renews_at_four_fifths_or_after_a_day() {
        due(3600, 3600, 2880);
        due(600, 600, 480);
        // The API server extends an hour to a year (ExtendServiceAccountTokens).
        due(31_536_000, 3607, 86_400);
        due(0, 3600, 0);
    }

    #[test]
    fn a_clock_that_jumps_back_or_ahead_makes_a_token_stale() {
        let token = Token {
            secret: "t".into(),
            expires_at: at(3600),
            refresh_at: Mono(Duration::from_secs(2880)),
        };
        let cached = Cached { token, not_before: at(-60) };
        assert!(is_fresh(&cached, now(100, 100)));
        assert!(is_fresh(&cached, now(100, -59)));
        assert!(!is_fresh(&cached, now(100, -61)), "the wall clock has jumped back");
        assert!(!is_fresh(&cached, now(100, 3601)), "the wall clock has jumped ahead");
        assert!(!is_fresh(&cached, now(2880, 100)), "it is due");
    }
}
