//! Numbers that follow from a seed.

use std::time::Duration;

use rkubelet::internals::linux::seeded;

/// A generator.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds shall have nothing in common.
        let mut state = seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0x5DEE_CE66;
        Self(seeded::next(&mut state))
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        (seeded::next(&mut self.0) >> 11) % end.max(1)
    }

    /// The same for what counts things.
    pub(super) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or_default()
    }

    /// True so often.
    pub(super) fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub(super) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.index(among.len())]
    }

    /// A time between.
    pub(super) fn between(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(from_ms + self.below(to_ms - from_ms))
    }
}
