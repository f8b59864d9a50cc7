//! Pulls images: one pull at a time per image and credentials, within the configured limits,
//! cancelled when no caller waits any more. It has no texts, no events and no back-off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::credentials::Tracked;
use super::policy;
use crate::clock::Clock;
use crate::cri::{CriError, Runtime, v1};
use crate::model::Mono;

/// The pulls that may pass a queue of real pulls: pulls of images that are on the node already
/// (`Always`) only ask the registry for a digest.
const FAST_LANE: usize = 2;

/// The limits on pulls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The pulls that may run at a time (`serializeImagePulls`: one; else `maxParallelImagePulls`);
    /// `None`: any number.
    pub parallel: Option<usize>,
    /// `registryPullQPS`; zero: no limit.
    pub qps: f64,
    /// `registryBurst`.
    pub burst: u32,
}

/// A pull that has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulled {
    /// The reference to create containers with.
    pub(super) image_ref: String,
    /// The image's size; zero if the runtime does not report it.
    pub(super) size: u64,
    /// The duration, without the wait in the queue.
    pub(super) took: Duration,
    /// The credentials that worked, if any.
    pub(super) used: Option<Tracked>,
}

type Outcome = Arc<Result<Pulled, PullError>>;

/// The reasons why an image is not pulled.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    /// There are too many pulls; upstream's text.
    #[error("pull QPS exceeded")]
    TooMany,
    /// The process ends.
    #[error("pulls have been stopped")]
    Stopped,
    /// The pull's task ended.
    #[error("the pull ended without an answer")]
    Lost,
    /// The runtime refused, with each of the credentials.
    #[error("{}", policy::aggregate(&.0.iter().map(CriError::pull_text).collect::<Vec<_>>()))]
    Refused(Vec<CriError>),
}

/// A pull to make. Two orders of the same image with the same credentials are one pull.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// The image as the runtime's request names it.
    pub(super) image: v1::ImageSpec,
    /// The credentials to try, in order; without any, the pull is anonymous.
    pub(super) credentials: Vec<Tracked>,
    /// The sandbox that the image is for.
    pub(super) sandbox: Option<v1::PodSandboxConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    image: String,
    handler: String,
    /// Hashes of the credentials, so that no password is kept.
    credentials: Vec<String>,
}

struct Flight {
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
    waiters: usize,
    cancel: CancellationToken,
    since: Mono,
    running: Arc<std::sync::atomic::AtomicBool>,
}

/// The state of a pull; for the debug endpoint and for the reason why a pod is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullState {
    /// The image.
    pub image: String,
    /// The begin of the pull.
    pub since: Mono,
    /// True while it waits for other pulls.
    pub queued: bool,
    /// The number of containers that wait for it.
    pub waiters: usize,
}

pub(super) struct Puller {
    runtime: Runtime,
    clock: Clock,
    lane: Option<Semaphore>,
    fast_lane: Semaphore,
    bucket: Mutex<Bucket>,
    flights: Mutex<(u64, HashMap<Key, Flight>)>,
    tasks: TaskTracker,
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    limits: Limits,
    tokens: f64,
    filled: Mono,
}

impl Bucket {
    fn try_take(&mut self, now: Mono) -> bool {
        if self.limits.qps <= 0.0 {
            return true;
        }

        let gained = now.since(self.filled).as_secs_f64() * self.limits.qps;
        self.tokens = (self.tokens + gained).min(f64::from(self.limits.burst.max(1)));
        self.filled = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }

        enough
    }
}

/// Counts a waiter. The last one to go cancels the pull.
struct Waiter<'a> {
    puller: &'a Puller,
    key: Key,
    number: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut flights = self.puller.flights.lock();
        let Some(flight) =
            flights.1.get_mut(&self.key).filter(|flight| flight.number == self.number)
        else {
            return;
        };

        flight.waiters -= 1;
        if flight.waiters == 0 {
            flight.cancel.cancel();
            flights.1.remove(&self.key);
        }
    }
}

impl Puller {
    pub(super) fn new(runtime: Runtime, clock: Clock, limits: Limits) -> Self {
        let bucket =
            Bucket { limits, tokens: f64::from(limits.burst.max(1)), filled: clock.now().mono };
        Self {
            runtime,
            clock,
            lane: limits.parallel.map(|parallel| Semaphore::new(parallel.max(1))),
            fast_lane: Semaphore::new(FAST_LANE),
            bucket: Mutex::new(bucket),
            flights: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Pulls, or joins a pull that is running. Cancel-safe: a pull without waiters is cancelled.
    pub(super) async fn pull(self: &Arc<Self>, order: Order) -> Outcome {
        let (mut outcome, waiter) = self.join(order);
        let found =
            outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        drop(waiter);
        found.unwrap_or_else(|| Arc::new(Err(PullError::Lost)))
    }

    /// Returns the pulls that are running.
    pub(super) fn states(&self) -> Vec<PullState> {
        let flights = self.flights.lock();
        flights
            .1
            .iter()
            .map(|(key, flight)| PullState {
                image: key.image.clone(),
                since: flight.since,
                queued: !flight.running.load(std::sync::atomic::Ordering::Relaxed),
                waiters: flight.waiters,
            })
            .collect()
    }

    fn join(self: &Arc<Self>, order: Order) -> (watch::Receiver<Option<Outcome>>, Waiter<'_>) {
        let key = Key {
            image: order.image.image.clone(),
            handler: order.image.runtime_handler.clone(),
            credentials: order
                .credentials
                .iter()
                .map(|tracked| tracked.credential.hash())
                .collect(),
        };
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.1.get_mut(&key) {
            flight.waiters += 1;
            let number = flight.number;
            return (flight.outcome.clone(), Waiter { puller: self, key, number });
        }

        flights.0 += 1;
        let number = flights.0;
        let (sender, outcome) = watch::channel(None);
        let cancel = CancellationToken::new();
        let running = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let since = self.clock.now().mono;
        let flight = Flight {
            number,
            outcome: outcome.clone(),
            waiters: 1,
            cancel: cancel.clone(),
            since,
            running: Arc::clone(&running),
        };
        flights.1.insert(key.clone(), flight);
        drop(flights);
        let puller = Arc::clone(self);
        let own = key.clone();
        self.tasks.spawn(async move {
            let found = tokio::select! {
                () = cancel.cancelled() => return,
                found = puller.work(order, &running) => found,
            };

            // A caller that comes from now on begins a new pull.
            let mut flights = puller.flights.lock();
            if flights.1.get(&own).is_some_and(|flight| flight.number == number) {
                flights.1.remove(&own);
            }

            drop(flights);
            sender.send_replace(Some(Arc::new(found)));
        });

        (outcome, Waiter { puller: self, key, number })
    }

    async fn work(
        &self,
        order: Order,
        running: &std::sync::atomic::AtomicBool,
    ) -> Result<Pulled, PullError> {
        let _permit = match &self.lane {
            None => None,
            Some(lane) => Some(self.turn(lane, &order.image).await?),
        };
        running.store(true, std::sync::atomic::Ordering::Relaxed);
        let began = self.clock.now().mono;
        if !self.bucket.lock().try_take(began) {
            return Err(PullError::TooMany);
        }

        let (image_ref, used) = self.try_all(&order).await?;
        // The size is for the event only: a failure to read it is no error.
        let size = self.status(&order.image).await.map_or(0, |image| image.size);
        let took = self.clock.now().mono.since(began);

        Ok(Pulled { image_ref, size, took, used })
    }

    /// Waits for a place in the lane, or in the fast one if the image is on the node already.
    async fn turn<'a>(
        &'a self,
        lane: &'a Semaphore,
        image: &v1::ImageSpec,
    ) -> Result<tokio::sync::SemaphorePermit<'a>, PullError> {
        if let Ok(permit) = lane.try_acquire() {
            return Ok(permit);
        }
        if self.status(image).await.is_none() {
            return lane.acquire().await.map_err(|_| PullError::Stopped);
        }

        tokio::select! {
            permit = lane.acquire() => permit.map_err(|_| PullError::Stopped),
            permit = self.fast_lane.acquire() => permit.map_err(|_| PullError::Stopped),
        }
    }

    async fn try_all(&self, order: &Order) -> Result<(String, Option<Tracked>), PullError> {
        let request = |auth| v1::PullImageRequest {
            image: Some(order.image.clone()),
            auth,
            sandbox_config: order.sandbox.clone(),
        };
        if order.credentials.is_empty() {
            let pulled = self.runtime.pull_image(request(None)).await;
            let image_ref = pulled.map_err(|error| PullError::Refused(vec![error]))?;
            return Ok((image_ref, None));
        }

        let mut errors = Vec::new();
        for tracked in &order.credentials {
            let auth = v1::AuthConfig {
                username: tracked.credential.username.clone(),
                password: tracked.credential.password.clone(),
                ..v1::AuthConfig::default()
            };
            match self.runtime.pull_image(request(Some(auth))).await {
                Ok(image_ref) => return Ok((image_ref, Some(tracked.clone()))),
                Err(error) => errors.push(error),
            }
        }

        Err(PullError::Refused(errors))
    }

    async fn status(&self, image: &v1::ImageSpec) -> Option<v1::Image> {
        let request = v1::ImageStatusRequest { image: Some(image.clone()), verbose: false };
        self.runtime.image_status(request).await.ok()?.image
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bucket, Limits};
    use crate::model::Mono;

    #[test]
    fn the_bucket_fills_at_its_rate() {
        let at = |milliseconds| Mono(Duration::from_millis(milliseconds));
        let limits = Limits { parallel: None, qps: 5.0, burst: 2 };
        let mut bucket = Bucket { limits, tokens: 2.0, filled: at(0) };
        assert!(bucket.try_take(at(0)) && bucket.try_take(at(0)));
        assert!(!bucket.try_take(at(100)));
        assert!(bucket.try_take(at(250)));
        assert!(!bucket.try_take(at(250)));
        let mut unlimited =
            Bucket { limits: Limits { qps: 0.0, ..limits }, tokens: 0.0, filled: at(0) };
        assert!((0..100).all(|_| unlimited.try_take(at(0))));
    }
}
