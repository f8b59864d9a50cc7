//! Time as an argument: a monotonic reading for deadlines, and a wall reading for users.
//!
//! Deciding code takes a [`Now`]; only `crate::clock` makes one.

use std::time::Duration;

/// Wall time, for statuses, events and files. Never used to measure a wait.
pub type Wall = jiff::Timestamp;

/// Monotonic time since an origin that is fixed for the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub Duration);

/// The longest wait: a hundred years. A longer one in an object means the same, and would overflow
/// deadlines and formats.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Converts a number of seconds of an object, limited to zero … [`LONGEST`].
pub fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).min(LONGEST)
}

impl Mono {
    /// Returns the moment `wait` later; saturates.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// Returns the earlier of two moments, either of which may be missing.
    #[must_use]
    pub fn earliest(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        first.into_iter().chain(second).min()
    }

    /// Returns the time from `earlier` to this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic reading, for deadlines and waits.
    pub mono: Mono,
    /// The wall reading, for users.
    pub wall: Wall,
}

impl Now {
    /// Returns the monotonic moment at which the wall clock will show `wall`; now if that has
    /// passed.
    pub fn mono_at(&self, wall: Wall) -> Mono {
        let wait = wall.duration_since(self.wall);
        Duration::try_from(wait).map_or(self.mono, |wait| self.mono.after(wait))
    }

    /// Returns the time since the wall clock showed `wall`; zero if that is in the future.
    pub fn elapsed_since(&self, wall: Wall) -> Duration {
        Duration::try_from(self.wall.duration_since(wall)).unwrap_or_default()
    }
}

/// Formats a duration as Go does (`1m30.5s`, `250ms`, `0s`), as events and conditions have them.
pub fn go_duration(duration: Duration) -> String {
    fn fraction(nanos: u128, unit: u128, suffix: &str) -> String {
        let whole = nanos / unit;
        let rest = nanos % unit;
        if rest == 0 {
            return format!("{whole}{suffix}");
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        format!("{whole}.{}{suffix}", digits.trim_end_matches('0'))
    }
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let seconds =
                fraction(nanos - u128::from(minutes) * 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LONGEST, go_duration, seconds};

    #[track_caller]
    fn check(nanos: u64, text: &str) {
        assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
    }

    #[test]
    fn seconds_of_objects_are_bounded() {
        let cases = [(-1, Duration::ZERO), (30, Duration::from_secs(30)), (i64::MAX, LONGEST)];
        for (given, expected) in cases {
            assert_eq!(seconds(given), expected);
        }
    }

    #[test]
    fn durations_read_as_in_go() {
        check(0, "0s");
        check(7, "7ns");
        check(1_500, "1.5µs");
        check(250_000_000, "250ms");
        check(1_234_000_000, "1.234s");
        check(61_000_000_000, "1m1s");
        check(180_000_000_000, "3m0s");
        check(3_600_000_000_000, "1h0m0s");
        check(5_425_010_000_000, "1h30m25.01s");
    }
}
