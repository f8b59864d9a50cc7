//! Questions to the API server (TokenReview, SubjectAccessReview), asked once and remembered.
//!
//! 1. An answer is kept for the time that comes with it; of more answers than fit, those that have
//!    not been used for longest go first.
//! 2. While a question is being asked, others who have the same question wait for its answer.
//! 3. A question is asked again after a failure that may pass, as upstream's webhooks do: five
//!    tries, 0.5 s apart at first, half as long again each time, and 30 s in all.
//! 4. A failure is not remembered.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::hash::Hash;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use kube::api::PostParams;
use lru::LruCache;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::apiserver::random;
use crate::clock::Clock;
use crate::model::Mono;

/// Answers that are kept; upstream's number for authorisation.
const CACHE: NonZeroUsize = NonZeroUsize::new(8192).expect("it is not zero");

/// Time for all tries of a question; upstream's `sharedLookupTimeout`.
const DEADLINE: Duration = Duration::from_secs(30);

/// Time for one try.
const TRY_DEADLINE: Duration = Duration::from_secs(10);

/// Upstream's `DefaultAuthWebhookRetryBackoff`.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

/// The reasons for a question without an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    /// There is no API server (standalone).
    #[error("there is no API server to ask: the kubelet runs without --kubeconfig")]
    NoClient,
    /// The API server took too long.
    #[error("the API server did not answer the review in time")]
    Deadline,
    /// The API server refused, or could not be reached.
    #[error("the API server refused the review")]
    Api(#[source] kube::Error),
    /// The error in the status of the answer.
    #[error("{0}")]
    Answer(String),
}

/// An answer and how long it counts.
#[derive(Clone, Debug)]
pub(super) struct Answer<V> {
    pub(super) value: V,
    pub(super) ttl: Duration,
}

type Outcome<V> = Result<V, Arc<ReviewError>>;
type Asking<V> = BoxFuture<'static, Outcome<V>>;

/// The answers to one kind of question. Cheap to clone.
pub(super) struct Reviews<K, V> {
    clock: Clock,
    shared: Arc<Mutex<State<K, V>>>,
}

struct State<K, V> {
    answers: LruCache<K, (V, Mono)>,
    /// Questions that are being asked, for as long as a request waits for the answer.
    asking: BTreeMap<K, WeakShared<Asking<V>>>,
}

impl<K, V> Clone for Reviews<K, V> {
    fn clone(&self) -> Self {
        Self { clock: self.clock, shared: Arc::clone(&self.shared) }
    }
}

impl<K, V> Reviews<K, V>
where
    K: Clone + Ord + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new(clock: Clock) -> Self {
        let state = State { answers: LruCache::new(CACHE), asking: BTreeMap::new() };
        Self { clock, shared: Arc::new(Mutex::new(state)) }
    }

    /// Returns the answer to `key`: one that is kept, else that of a request which asks the same,
    /// else that of `ask`. Cancel-safe: a request that still waits carries the question on.
    pub(super) async fn get<F>(&self, key: K, ask: impl FnOnce() -> F) -> Outcome<V>
    where
        F: Future<Output = Result<Answer<V>, ReviewError>> + Send + 'static,
    {
        let asking = {
            let now = self.clock.now().mono;
            let mut state = self.shared.lock();
            if let Some((value, until)) = state.answers.get(&key)
                && *until > now
            {
                return Ok(value.clone());
            }
            match state.asking.get(&key).and_then(WeakShared::upgrade) {
                Some(asking) => asking,
                None => self.begin(&mut state, key, ask()),
            }
        };
        asking.await
    }

    /// Makes `ask` the one question about `key`.
    fn begin<F>(&self, state: &mut State<K, V>, key: K, ask: F) -> Shared<Asking<V>>
    where
        F: Future<Output = Result<Answer<V>, ReviewError>> + Send + 'static,
    {
        let reviews = self.clone();
        let kept = key.clone();
        let asking = async move {
            let outcome = ask.await.map_err(Arc::new);
            let now = reviews.clock.now().mono;
            let mut state = reviews.shared.lock();
            state.asking.remove(&kept);
            let answer = outcome?;
            if !answer.ttl.is_zero() {
                state.answers.put(kept, (answer.value.clone(), now.after(answer.ttl)));
            }
            Ok(answer.value)
        };
        let asking: Shared<Asking<V>> = asking.boxed().shared();

        // Questions that everybody has given up leave their entries behind.
        state.asking.retain(|_, asking| asking.upgrade().is_some());
        if let Some(weak) = asking.downgrade() {
            state.asking.insert(key, weak);
        }
        asking
    }
}

/// Asks the API server by making `review`, again after failures that may pass.
pub(super) async fn create<R>(client: kube::Client, review: R) -> Result<R, ReviewError>
where
    R: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let api: kube::Api<R> = kube::Api::all(client);

    let ask = async {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let parameters = PostParams::default();
            let answer = tokio::time::timeout(TRY_DEADLINE, api.create(&parameters, &review)).await;
            let problem = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if may_pass(&error) => ReviewError::Api(error),
                Ok(Err(error)) => return Err(ReviewError::Api(error)),
                Err(_) => ReviewError::Deadline,
            };

            if tries == TRIES {
                return Err(problem);
            }
            tries += 1;
            tokio::time::sleep(random::jitter(wait, JITTER)).await;
            wait = wait.mul_f64(FACTOR);
        }
    };

    tokio::time::timeout(DEADLINE, ask).await.unwrap_or(Err(ReviewError::Deadline))
}

/// Returns true if a failure may pass (upstream's `DefaultShouldRetry`): the server says so, or the
/// connection broke. A connection that is refused stays refused.
fn may_pass(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error {
        let wait = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        return matches!(status.code, 429 | 500 | 504) || wait > 0;
    }
    if !matches!(error, kube::Error::HyperError(_) | kube::Error::Service(_)) {
        return false;
    }

    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return false;
        }
        cause = error.source();
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn reviews() -> Reviews<u32, &'static str> {
        Reviews::new(Clock::system())
    }

    /// Answers after a second, and counts.
    fn slowly(
        count: &Arc<AtomicUsize>,
        answer: Result<Answer<&'static str>, ReviewError>,
    ) -> impl Future<Output = Result<Answer<&'static str>, ReviewError>> + Send + 'static {
        let count = Arc::clone(count);
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer
        }
    }

    fn yes(seconds: u64) -> Answer<&'static str> {
        Answer { value: "yes", ttl: Duration::from_secs(seconds) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_question_is_asked_once() {
        let (reviews, count) = (reviews(), Arc::default());
        let all = (0..10).map(|_| reviews.get(1, || slowly(&count, Ok(yes(3600)))));
        let answers = futures::future::join_all(all).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok("yes"))));
        reviews.get(1, || slowly(&count, Ok(yes(3600)))).await.expect("kept");
        assert_eq!(count.load(Ordering::SeqCst), 1);
        reviews.get(2, || slowly(&count, Ok(yes(3600)))).await.expect("another question");
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert!(reviews.shared.lock().asking.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_goes_away_does_not_end_the_question_of_others() {
        let (reviews, count) = (reviews(), Arc::default());
        let first = reviews.get(1, || slowly(&count, Ok(yes(3600))));
        let impatient = tokio::time::timeout(Duration::from_millis(500), first);
        let second = reviews.get(1, || slowly(&count, Ok(yes(3600))));
        let (impatient, second) = tokio::join!(impatient, second);
        impatient.expect_err("gone");
        second.expect("an answer");
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_failures_nor_answers_without_a_time_are_kept() {
        let (reviews, count) = (reviews(), Arc::default());
        let failed = || slowly(&count, Err(ReviewError::NoClient));
        reviews.get(1, failed).await.expect_err("a failure");
        reviews.get(1, || slowly(&count, Ok(yes(0)))).await.expect("an answer");
        reviews.get(1, || slowly(&count, Ok(yes(0)))).await.expect("an answer");
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_answers_the_least_used_go() {
        let reviews: Reviews<usize, &'static str> = Reviews::new(Clock::system());
        let now = async |key| {
            let mut asked = false;
            let answer = reviews
                .get(key, || {
                    asked = true;
                    std::future::ready(Ok(yes(3600)))
                })
                .await;
            answer.expect("an answer");
            asked
        };
        for key in 0..CACHE.get() + 10 {
            now(key).await;
            assert!(key == 0 || !now(0).await, "an answer in use stays");
        }
        assert!(now(1).await, "an old one has gone");
    }
}
