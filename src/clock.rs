//! The one place that reads the clocks. Tasks hold a [`Clock`] and hand readings on as [`Now`].

use tokio::time::Instant;

use crate::linux::timer::WallClockTimer;
use crate::model::time::LONGEST;
use crate::model::{Mono, Now};

/// Both clocks. Under tokio's paused time the wall clock follows the paused one, so that tests are
/// exact.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall_origin: jiff::Timestamp,
    /// Whether the wall reading is derived from the monotonic one (tests) or read from the system.
    derived: bool,
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self { origin: Instant::now(), wall_origin: jiff::Timestamp::now(), derived: false }
    }

    /// A clock that starts at `wall` and follows tokio's (possibly paused) time.
    pub fn starting_at(wall: jiff::Timestamp) -> Self {
        Self { origin: Instant::now(), wall_origin: wall, derived: true }
    }

    /// Reads both.
    pub fn now(&self) -> Now {
        let elapsed = self.origin.elapsed();
        let wall = if self.derived {
            self.wall_origin
                .saturating_add(
                    jiff::SignedDuration::try_from(elapsed).unwrap_or(jiff::SignedDuration::MAX),
                )
                .unwrap_or(self.wall_origin)
        } else {
            jiff::Timestamp::now()
        };
        Now { mono: Mono(elapsed), wall }
    }

    /// The instant to hand to tokio's timers for `moment`; one that cannot be expressed is far off.
    pub fn instant(&self, moment: Mono) -> Instant {
        let far = || self.origin + LONGEST;
        self.origin.checked_add(moment.0).unwrap_or_else(far)
    }

    /// Sleeps until `moment`. Cancel-safe.
    pub async fn sleep_until(&self, moment: Mono) {
        tokio::time::sleep_until(self.instant(moment)).await;
    }

    /// Sleeps until `moment`, for ever without one. Cancel-safe.
    pub async fn sleep_until_some(&self, moment: Option<Mono>) {
        match moment {
            Some(moment) => self.sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }
}

/// Tells when the wall clock is set (by NTP, by somebody, after a sleep): what was planned by it is
/// then to be looked at.
#[derive(Debug)]
pub struct Jumps(Option<WallClockTimer>);

impl Jumps {
    /// Watches from now on. On a kernel that cannot tell nothing is ever told.
    pub fn watch() -> Self {
        let timer = WallClockTimer::new();
        if let Err(error) = &timer {
            tracing::warn!(%error, "changes of the wall clock cannot be watched");
        }
        Self(timer.ok())
    }

    /// Waits for the next time. Cancel-safe.
    pub async fn next(&mut self) {
        let Some(timer) = &self.0 else { return std::future::pending().await };
        if let Err(error) = timer.was_set().await {
            tracing::warn!(%error, "changes of the wall clock can no longer be watched");
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Clock;
    use crate::model::time::seconds;
    use crate::model::{Mono, Now};

    #[tokio::test(start_paused = true)]
    async fn no_moment_is_too_far_away() {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let Now { mono, .. } = clock.now();
        for wait in [seconds(400_000_000_000), seconds(i64::MAX), Duration::MAX] {
            let sleep = clock.sleep_until(mono.after(wait));
            let woken = tokio::time::timeout(Duration::from_secs(1), sleep).await;
            assert!(woken.is_err(), "{wait:?}");
        }
        assert!(clock.instant(Mono(Duration::MAX)) > clock.instant(mono));
    }
}
