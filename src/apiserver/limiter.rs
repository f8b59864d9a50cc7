//! The client's rate limit: a token bucket that writes may empty and watches may draw three
//! quarters of.
//!
//! [`Bucket`] is pure; [`Limiter`] adds the clock and the wait. Nothing here talks to anybody.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::model::Mono;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// May use every token.
    Write,
    /// Leaves a quarter of the burst to the writes: 500 watches that start at once delay no status.
    Watch,
}

/// A token bucket. Tokens may be owed: who waits has already taken its token, so waits are fair and
/// never lost.
#[derive(Clone, Debug)]
struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    updated: Mono,
}

impl Bucket {
    /// Takes a token and says how long to wait before using it.
    fn take(&mut self, urgency: Urgency, now: Mono) -> Duration {
        self.tokens =
            self.burst.min(self.tokens + now.since(self.updated).as_secs_f64() * self.per_second);
        self.updated = now;
        self.tokens -= 1.0;
        let floor = match urgency {
            Urgency::Write => 0.0,
            Urgency::Watch => self.burst / 4.0,
        };
        if self.tokens >= floor {
            Duration::ZERO
        } else {
            Duration::from_secs_f64((floor - self.tokens) / self.per_second)
        }
    }
}

/// Limits requests per second; cheap to clone, shared by everybody who clones it.
#[derive(Clone, Debug)]
pub struct Limiter {
    bucket: Option<Arc<Mutex<Bucket>>>,
    clock: Clock,
}

impl Limiter {
    /// At most `per_second` requests on average and `burst` at once; no limit when either is not
    /// positive.
    pub fn new(per_second: f64, burst: u32, clock: Clock) -> Self {
        let bucket = (per_second > 0.0 && burst > 0).then(|| {
            let burst = f64::from(burst);
            Arc::new(Mutex::new(Bucket {
                per_second,
                burst,
                tokens: burst,
                updated: clock.now().mono,
            }))
        });
        Self { bucket, clock }
    }

    /// Waits for the request's turn. Dropping the future gives the turn away, which only delays
    /// others.
    pub async fn wait(&self, urgency: Urgency) {
        let Some(bucket) = &self.bucket else { return };
        let now = self.clock.now().mono;
        let wait = bucket.lock().take(urgency, now);
        if !wait.is_zero() {
            self.clock.sleep_until(now.after(wait)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bucket, Urgency};
    use crate::model::Mono;

    fn bucket() -> Bucket {
        Bucket { per_second: 10.0, burst: 4.0, tokens: 4.0, updated: Mono::default() }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = bucket();
        let now = Mono::default();
        let waits: Vec<u128> =
            (0..6).map(|_| bucket.take(Urgency::Write, now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 100, 200]);
        assert_eq!(bucket.take(Urgency::Write, Mono(Duration::from_secs(10))), Duration::ZERO);
    }

    #[test]
    fn watches_leave_a_quarter_of_the_burst_to_writes() {
        let mut bucket = Bucket { burst: 8.0, tokens: 8.0, ..bucket() };
        let now = Mono::default();
        for _ in 0..6 {
            assert_eq!(bucket.take(Urgency::Watch, now), Duration::ZERO);
        }
        assert_eq!(bucket.take(Urgency::Watch, now), Duration::from_millis(100));
        assert_eq!(bucket.take(Urgency::Write, now), Duration::ZERO);
    }
}
