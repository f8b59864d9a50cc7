//! Reads the clocks: the one place that does. Tasks hold a [`Clock`] and pass readings on as
//! [`Now`].
//!
//! It decides nothing. Deciding code never holds a [`Clock`].

use tokio::time::Instant;

use crate::linux::timer::WallClockTimer;
use crate::model::time::LONGEST;
use crate::model::{Mono, Now};

/// The monotonic and the wall clock. Under tokio's paused time the wall clock follows the paused
/// one, so that tests are exact.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    wall_origin: jiff::Timestamp,
    /// True if the wall time is derived from the monotonic one (tests) instead of read.
    derived: bool,
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clocks")]
impl Clock {
    /// Returns the machine's clocks.
    pub fn system() -> Self {
        Self { origin: Instant::now(), wall_origin: jiff::Timestamp::now(), derived: false }
    }

    /// Returns a clock that starts at `wall` and follows tokio's (possibly paused) time.
    pub fn starting_at(wall: jiff::Timestamp) -> Self {
        Self { origin: Instant::now(), wall_origin: wall, derived: true }
    }

    /// Reads both clocks.
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

    /// Converts `moment` for tokio's timers. A moment that cannot be expressed becomes a far one.
    pub fn instant(&self, moment: Mono) -> Instant {
        let far = || self.origin + LONGEST;
        self.origin.checked_add(moment.0).unwrap_or_else(far)
    }

    /// Sleeps until `moment`. Cancel-safe.
    pub async fn sleep_until(&self, moment: Mono) {
        tokio::time::sleep_until(self.instant(moment)).await;
    }

    /// Sleeps until `moment`; for ever if there is none. Cancel-safe.
    pub async fn sleep_until_some(&self, moment: Option<Mono>) {
        match moment {
            Some(moment) => self.sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }
}

/// Reports when the wall clock is set (by NTP, by an administrator, after a suspend). Plans that
/// were made by wall time must then be made anew.
#[derive(Debug)]
pub struct Jumps(Option<WallClockTimer>);

impl Jumps {
    /// Watches from now on. On a kernel without support nothing is ever reported.
    pub fn watch() -> Self {
        let timer = WallClockTimer::new();
        if let Err(error) = &timer {
            tracing::warn!(%error, "changes of the wall clock cannot be watched");
        }
        Self(timer.ok())
    }

    /// Waits for the next jump. Cancel-safe.
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
