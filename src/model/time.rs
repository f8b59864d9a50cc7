//! Time as an argument: a monotonic reading for deadlines and a wall reading for what users see.
//!
//! Deciding code takes a [`Now`]; only `crate::clock` makes one.

use std::time::Duration;

/// Wall time: what goes into statuses, events and files. Never used to measure a wait.
pub type Wall = jiff::Timestamp;

/// Monotonic time since an origin that is fixed for the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub Duration);

impl Mono {
    /// The moment `wait` later; saturates.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines and waits.
    pub mono: Mono,
    /// For what users see.
    pub wall: Wall,
}

impl Now {
    /// The monotonic moment at which the wall clock will show `wall`, now if that has passed.
    pub fn mono_at(&self, wall: Wall) -> Mono {
        let wait = wall.duration_since(self.wall);
        Duration::try_from(wait).map_or(self.mono, |wait| self.mono.after(wait))
    }

    /// How long ago the wall clock showed `wall`; zero if that is ahead.
    pub fn elapsed_since(&self, wall: Wall) -> Duration {
        Duration::try_from(self.wall.duration_since(wall)).unwrap_or_default()
    }
}
