//! Computes the times of probes. Pure, and deterministic, so that a restart of the kubelet finds
//! the same rhythm.
//!
//! ```text
//!  container starts ── initialDelay ──► looks ahead, after 0, ¼, ¾, 1¾ … s (readiness, startup: only success counts)
//!                                  └──► + phase ──► every period … first success ──► every period, at the phase
//! ```
//!
//! Upstream's probes tick from a moment that is unrelated to the container, so its first probe
//! comes between zero and one period after the initial delay. Here that offset is the probe's
//! phase: a hash spreads the probes of a node over their period, so that a hundred commands do not
//! fork at the same moment. A container that answers sooner does not wait for its phase: readiness
//! and startup look as soon as the delay is over, and again at growing distances until their turn
//! comes. A server that needs half a second to listen is ready after three quarters of one.

use std::time::Duration;

use crate::model::{Mono, Now, Wall};

use super::ProbeKind;

/// The timing of a probe, with the API's defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time after the container's start before which no probe is made.
    pub initial_delay: Duration,
    /// The time from one probe to the next; never zero.
    pub period: Duration,
    /// The deadline of one attempt; never zero.
    pub timeout: Duration,
}

/// The next probe of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The time at which the probe is due.
    pub at: Mono,
    /// Whether the probe counts.
    pub turn: Turn,
}

/// Whether a probe comes in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The probe comes in its turn: each outcome counts.
    Own,
    /// The probe comes ahead of its turn: only a success counts, and a failure is not reported.
    Ahead {
        /// The time of the probe that counts.
        of: Mono,
        /// The time to the look after this one, if it comes before the turn.
        again: Duration,
    },
}

impl Turn {
    /// Returns true if the probe comes ahead of its turn.
    pub fn is_ahead(self) -> bool {
        matches!(self, Self::Ahead { .. })
    }
}

/// The time from the first look ahead to the second. Each further one takes twice as long.
const FIRST_AGAIN: Duration = Duration::from_millis(250);

/// Returns the place of a probe in its period: more than nothing, at most the whole period.
pub fn phase(period: Duration, pod_uid: &str, container: &str, kind: ProbeKind) -> Duration {
    let parts = [pod_uid.as_bytes(), &[0], container.as_bytes(), &[kind as u8]];
    let hash = parts.iter().copied().flatten().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // A tenth at least: the first probe that counts gives the container a moment to come up.
    let share = 100 + u32::try_from((hash >> 32) % 901).unwrap_or(0);
    period.saturating_mul(share) / 1000
}

/// Returns the first probe of a container. `settled` means that the container ran before this
/// process and that the probe had succeeded: such probes keep their places in the period, so that
/// they do not all run at once after a restart.
pub fn first(
    timing: &Timing,
    kind: ProbeKind,
    phase: Duration,
    started_at: Wall,
    settled: bool,
    now: Now,
) -> Due {
    let allowed = now.mono.max(delay_over(timing, started_at, now));
    let turn = allowed.after(phase);
    if settled || kind == ProbeKind::Liveness {
        return Due { at: turn, turn: Turn::Own };
    }

    Due { at: allowed, turn: Turn::Ahead { of: turn, again: FIRST_AGAIN } }
}

/// Returns the probe after a look ahead of the turn `of` that did not succeed: another look, or the
/// turn itself. `looked` is the time at which the look was due.
pub fn after_look(looked: Mono, of: Mono, again: Duration, now: Now) -> Due {
    let next = looked.after(again).max(now.mono);
    if next >= of {
        return Due { at: of.max(now.mono), turn: Turn::Own };
    }

    Due { at: next, turn: Turn::Ahead { of, again: again.saturating_mul(2) } }
}

/// Returns the probe after one that began at `began`: a period later. Missed probes are not made up
/// for.
pub fn next(timing: &Timing, began: Mono, now: Now) -> Due {
    Due { at: began.after(timing.period).max(now.mono), turn: Turn::Own }
}

/// Returns the probe after the first success: at the probe's own place in its period, a quarter to
/// five quarters of a period later.
pub fn settled(timing: &Timing, phase: Duration, began: Mono) -> Due {
    let period = timing.period.as_nanos().max(1);
    let into = began.0.as_nanos() % period;
    let wait = (phase.as_nanos() % period + period - into) % period;
    // The next probe does not follow too closely.
    let wait = if wait * 4 < period { wait + period } else { wait };
    Due {
        at: began.after(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))),
        turn: Turn::Own,
    }
}

/// Returns the end of the initial delay. Upstream counts whole seconds since the start.
fn delay_over(timing: &Timing, started_at: Wall, now: Now) -> Mono {
    let remaining = timing.initial_delay.saturating_sub(now.elapsed_since(started_at));
    now.mono.after(remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing(initial_delay: u64, period: u64) -> Timing {
        Timing {
            initial_delay: Duration::from_secs(initial_delay),
            period: Duration::from_secs(period),
            timeout: SECOND,
        }
    }

    fn at(seconds: u64) -> Now {
        let wall =
            Wall::from_second(1_000_000 + i64::try_from(seconds).expect("small")).expect("a time");
        Now { mono: Mono(Duration::from_secs(seconds)), wall }
    }

    #[test]
    fn readiness_looks_ahead_and_liveness_waits_for_its_phase() {
        let phase = Duration::from_secs(4);
        let due = |kind, delay, settled| {
            let due = first(&timing(delay, 10), kind, phase, at(100).wall, settled, at(103));
            (due.at.0.as_secs(), due.turn.is_ahead())
        };
        assert_eq!(due(ProbeKind::Readiness, 0, false), (103, true));
        assert_eq!(due(ProbeKind::Readiness, 5, false), (105, true));
        assert_eq!(due(ProbeKind::Startup, 1, false), (103, true));
        assert_eq!(due(ProbeKind::Liveness, 0, false), (107, false));
        assert_eq!(due(ProbeKind::Liveness, 5, false), (109, false));
        assert_eq!(due(ProbeKind::Readiness, 0, true), (107, false));
    }

    #[test]
    fn looks_again_at_growing_distances_until_its_turn() {
        let started = at(100);
        let phase = Duration::from_secs(3);
        let mut due =
            first(&timing(0, 10), ProbeKind::Startup, phase, started.wall, false, started);
        let mut times = Vec::new();
        while let Turn::Ahead { of, again } = due.turn {
            times.push(due.at.since(started.mono).as_millis());
            let now = Now { mono: due.at, wall: started.wall };
            due = after_look(due.at, of, again, now);
        }
        assert_eq!(times, [0, 250, 750, 1750]);
        assert_eq!(due.at, at(103).mono);

        // A look that took past the turn is followed by the turn at once.
        let late = after_look(at(101).mono, at(103).mono, SECOND, at(104));
        assert_eq!(late, Due { at: at(104).mono, turn: Turn::Own });
    }

    #[test]
    fn keeps_the_period_and_does_not_catch_up() {
        assert_eq!(next(&timing(0, 10), at(100).mono, at(101)).at, at(110).mono);
        assert_eq!(next(&timing(0, 10), at(100).mono, at(125)).at, at(125).mono);
    }

    #[test]
    fn settles_at_its_phase_within_a_period_and_a_quarter() {
        for began in 0..20 {
            let due = settled(&timing(0, 10), Duration::from_secs(4), at(100 + began).mono);
            let wait = due.at.since(at(100 + began).mono);
            assert_eq!(due.at.0.as_secs() % 10, 4);
            assert!(
                wait >= Duration::from_millis(2500) && wait <= Duration::from_millis(12_500),
                "{began}: {wait:?}"
            );
        }
    }

    #[test]
    fn phases_are_spread_and_stable() {
        let period = Duration::from_secs(10);
        let phases: Vec<_> = (0..200)
            .map(|index| phase(period, &format!("uid-{index}"), "c", ProbeKind::Liveness))
            .collect();
        assert_eq!(phases[0], phase(period, "uid-0", "c", ProbeKind::Liveness));
        assert_ne!(phases[0], phase(period, "uid-0", "c", ProbeKind::Readiness));
        assert!(phases.iter().all(|phase| *phase >= period / 10 && *phase <= period));
        for third in 0..3 {
            let range = period / 10 + (period * 9 / 30) * third
                ..period / 10 + (period * 9 / 30) * (third + 1);
            assert!(
                phases.iter().filter(|phase| range.contains(*phase)).count() > 40,
                "third {third}"
            );
        }
    }
}
