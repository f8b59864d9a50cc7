//! Completed mutations whose effect has not been read yet: they stay in flight until an observation
//! arrives that knows of every mutation that has ended, so that the planner never acts on a picture
//! from before its own last action (principle 4).

use std::collections::BTreeSet;

use super::super::plan::types::{InFlight, Key};

/// Keys of mutations that have ended and have not been read yet.
#[derive(Debug, Default)]
pub(super) struct Settling {
    waiting: BTreeSet<Key>,
}

impl Settling {
    /// Keeps `key` in flight until the next fresh observation.
    pub(super) fn add(&mut self, key: Key) {
        self.waiting.insert(key);
    }

    /// A fresh observation knows of every mutation that has ended: releases their keys.
    pub(super) fn settle(&mut self, in_flight: &mut InFlight) {
        for key in std::mem::take(&mut self.waiting) {
            in_flight.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Mono, Now};
    use crate::pods::plan::types::Doing;

    #[test]
    fn only_ended_mutations_are_released() {
        let since = Now { mono: Mono(Duration::ZERO), wall: jiff::Timestamp::UNIX_EPOCH };
        let (ended, running) = (Key::Start("app".into()), Key::NewSandbox);
        let doing = Doing::Busy { since, silent: false };
        let mut in_flight =
            InFlight::from([(ended.clone(), doing.clone()), (running.clone(), doing)]);
        let mut settling = Settling::default();
        settling.add(ended);
        settling.settle(&mut in_flight);
        assert_eq!(in_flight.keys().collect::<Vec<_>>(), [&running]);
    }
}
