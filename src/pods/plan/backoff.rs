//! Waits before the same thing is tried again: the crash back-off of containers, and the cadence of
//! retries. Pure.
//!
//! The crash back-off is upstream's (`flowcontrol.Backoff` as the kubelet sets it up): the first
//! restart is immediate and arms 10 s, each further one doubles that up to the maximum; it counts
//! from the moment the container ended, and is forgotten when a container ended more than ten
//! minutes after it was last raised. No jitter.

use std::time::Duration;

use crate::model::Mono;
use crate::pods::memory::facts::Config;
use crate::pods::memory::slot::Backoff;

/// The first wait of the crash back-off where the configuration does not say.
const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait where the configuration does not say.
const DEFAULT_MAX: Duration = Duration::from_secs(300);
/// A container that ended this long after its back-off was raised starts afresh (upstream: 600 s
/// whatever the maximum).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// The longest wait between two tries of an action that fails; upstream tries every 10 to 15 s.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The bounds of the crash back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The wait that the first restart arms.
    pub(super) initial: Duration,
    /// The longest wait.
    pub(super) max: Duration,
}

impl From<&Config> for Bounds {
    /// Reads the configured bounds; zero means the default.
    fn from(config: &Config) -> Self {
        let or = |said: Duration, default| if said.is_zero() { default } else { said };
        let max = or(config.max_backoff, DEFAULT_MAX);
        Self { initial: or(config.initial_backoff, INITIAL).min(max), max }
    }
}

/// The moment until which a container that ended at `ended` is held back; `None`: it may start.
pub(super) fn held_until(entry: Option<&Backoff>, ended: Mono, now: Mono) -> Option<Mono> {
    let entry = entry?;
    if ended.since(entry.updated) > FORGOTTEN_AFTER {
        return None;
    }
    let until = ended.after(entry.wait);
    (now < until).then_some(until)
}

/// The back-off after the start with `restart_count` of a container that ended at `ended`.
pub(super) fn raised(
    entry: Option<&Backoff>,
    ended: Mono,
    now: Mono,
    restart_count: u32,
    bounds: Bounds,
) -> Backoff {
    let wait = match entry {
        Some(entry) if ended.since(entry.updated) <= FORGOTTEN_AFTER => {
            entry.wait.saturating_mul(2).min(bounds.max)
        }
        Some(_) | None => bounds.initial,
    };
    Backoff { wait, updated: now, restart_count }
}

/// The wait after the `count`th failure in a row: 1, 2, 4, 8, 10, 10… seconds.
pub fn retry_after(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(8);
    Duration::from_secs(1 << doublings).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bounds, Config, held_until, raised, retry_after};
    use crate::model::Mono;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    /// The waits of a container that ends `runs` seconds after each start.
    fn waits(runs: u64, max: u64, crashes: usize) -> Vec<u64> {
        let max_backoff = Duration::from_secs(max);
        waits_with(&Config { max_backoff, ..Config::default() }, runs, crashes)
    }

    fn waits_with(config: &Config, runs: u64, crashes: usize) -> Vec<u64> {
        let bounds = Bounds::from(config);
        let (mut now, mut entry, mut seen) = (at(1000), None, Vec::new());
        for count in 0..crashes {
            let ended = now.after(Duration::from_secs(runs));
            let next = held_until(entry.as_ref(), ended, ended).unwrap_or(ended);
            seen.push(next.since(ended).as_secs());
            let count = u32::try_from(count).expect("small");
            entry = Some(raised(entry.as_ref(), ended, next, count + 1, bounds));
            now = next;
        }
        seen
    }

    #[test]
    fn doubles_up_to_the_maximum_after_an_immediate_first_restart() {
        assert_eq!(waits(0, 300, 8), [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(waits(0, 30, 5), [0, 10, 20, 30, 30]);
        assert_eq!(waits(0, 1, 3), [0, 1, 1]);
    }

    #[test]
    fn begins_lower_where_the_configuration_says_so() {
        let config = Config {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            ..Config::default()
        };
        assert_eq!(waits_with(&config, 0, 9), [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn is_forgotten_after_ten_quiet_minutes() {
        assert_eq!(waits(600, 300, 3), [0, 10, 20]);
        assert_eq!(waits(601, 300, 3), [0, 0, 0]);
    }

    #[test]
    fn retries_never_slower_than_every_ten_seconds() {
        assert_eq!(
            [1, 2, 3, 4, 5, 100].map(|count| retry_after(count).as_secs()),
            [1, 2, 4, 8, 10, 10]
        );
    }
}
