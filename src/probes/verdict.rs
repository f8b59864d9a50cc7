//! Turns the attempts of one probe of one container into a verdict: thresholds, initial values, the
//! end of probing. Pure.
//!
//! One [`Verdict`] lives as long as its container; a new container gets a new one.

use crate::model::waiting::ProbeOutcome;

use super::ProbeKind;

/// The thresholds of a probe, with the API's defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The consecutive successes that make a success.
    pub success: u32,
    /// The consecutive failures that make a failure.
    pub failure: u32,
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The container is healthy.
    Success,
    /// The container is not healthy.
    Failure,
    /// Nothing was learned: the attempt itself failed, was late, or came ahead of its turn.
    Nothing,
}

/// The recorded status of a container that ran before this process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The status had `started`.
    pub started: bool,
    /// The status had `ready`.
    pub ready: bool,
}

impl Recorded {
    /// Returns true if a probe of this kind has nothing to find out soon: the status that others
    /// see would not change by a success.
    pub fn is_settled(self, kind: ProbeKind) -> bool {
        match kind {
            ProbeKind::Readiness => self.ready,
            ProbeKind::Startup => self.started,
            ProbeKind::Liveness => true,
        }
    }
}

/// The verdict of one probe on one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    kind: ProbeKind,
    thresholds: Thresholds,
    outcome: Option<ProbeOutcome>,
    last: Attempt,
    run: u32,
    on_hold: bool,
}

impl Verdict {
    /// Returns the state before the first attempt: not ready, not started. A container that has
    /// been adopted keeps its recorded status, so that a restart of the kubelet changes no status.
    pub fn new(kind: ProbeKind, thresholds: Thresholds, recorded: Option<Recorded>) -> Self {
        let recorded = recorded.unwrap_or_default();
        let outcome = match kind {
            ProbeKind::Readiness => {
                Some(if recorded.ready { ProbeOutcome::Success } else { ProbeOutcome::Failure })
            }
            ProbeKind::Startup => recorded.started.then_some(ProbeOutcome::Success),
            ProbeKind::Liveness => None,
        };

        let on_hold = kind == ProbeKind::Startup && recorded.started;
        Self { kind, thresholds, outcome, last: Attempt::Nothing, run: 0, on_hold }
    }

    /// Returns the outcome so far; `None` while it is undecided.
    pub fn outcome(&self) -> Option<ProbeOutcome> {
        self.outcome
    }

    /// Returns true if probing pauses: startup is decided, or liveness has failed and the container
    /// is about to be restarted.
    pub fn on_hold(&self) -> bool {
        self.on_hold
    }

    /// Records an attempt. Returns true if it decided the outcome anew (perhaps to the same
    /// outcome).
    pub fn record(&mut self, attempt: Attempt) -> bool {
        let (outcome, threshold) = match attempt {
            Attempt::Nothing => return false,
            Attempt::Success => (ProbeOutcome::Success, self.thresholds.success),
            Attempt::Failure => (ProbeOutcome::Failure, self.thresholds.failure),
        };
        self.run = if self.last == attempt { self.run.saturating_add(1) } else { 1 };
        self.last = attempt;
        if self.run < threshold || self.on_hold {
            return false;
        }

        self.outcome = Some(outcome);
        self.on_hold = match self.kind {
            ProbeKind::Startup => true,
            ProbeKind::Liveness => outcome == ProbeOutcome::Failure,
            ProbeKind::Readiness => false,
        };

        true
    }

    /// Marks the pod as stopping: liveness and startup decide nothing more, readiness goes on.
    pub fn terminate(&mut self) {
        match self.kind {
            ProbeKind::Readiness => {}
            ProbeKind::Liveness | ProbeKind::Startup => {
                self.outcome = Some(ProbeOutcome::Success);
                self.on_hold = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProbeKind::{Liveness, Readiness, Startup};

    /// `script`: `+` success, `-` failure, `?` nothing. `expected`: the outcome after each, `.` for
    /// none.
    #[track_caller]
    fn check(kind: ProbeKind, success: u32, failure: u32, script: &str, expected: &str) -> Verdict {
        let mut verdict = Verdict::new(kind, Thresholds { success, failure }, None);
        let mut found = String::new();
        for step in script.chars() {
            verdict.record(match step {
                '+' => Attempt::Success,
                '-' => Attempt::Failure,
                _ => Attempt::Nothing,
            });
            found.push(match verdict.outcome() {
                Some(ProbeOutcome::Success) => '+',
                Some(ProbeOutcome::Failure) => '-',
                None => '.',
            });
        }
        assert_eq!(found, expected, "{kind:?} {success}/{failure} {script}");
        verdict
    }

    #[test]
    fn thresholds_count_in_a_row() {
        check(Readiness, 1, 3, "+--+---+", "++++++-+");
        check(Readiness, 2, 1, "+-+++", "---++");
        check(Liveness, 1, 3, "--+--?-", "..++++-");
        check(Startup, 1, 3, "--?+", "...+");
        check(Startup, 1, 2, "--", ".-");
    }

    #[test]
    fn holds_once_decided() {
        assert!(check(Startup, 1, 3, "+---", "++++").on_hold());
        assert!(check(Startup, 1, 2, "--+", ".--").on_hold());
        assert!(check(Liveness, 1, 1, "-+", "--").on_hold());
        assert!(!check(Liveness, 1, 1, "+", "+").on_hold());
        assert!(!check(Readiness, 1, 1, "-", "-").on_hold());
    }

    #[test]
    fn adoption_keeps_what_was_recorded() {
        let thresholds = Thresholds { success: 1, failure: 3 };
        let recorded = Some(Recorded { started: true, ready: true });
        let startup = Verdict::new(Startup, thresholds, recorded);
        assert_eq!((startup.outcome(), startup.on_hold()), (Some(ProbeOutcome::Success), true));
        let mut readiness = Verdict::new(Readiness, thresholds, recorded);
        readiness.record(Attempt::Failure);
        assert_eq!(readiness.outcome(), Some(ProbeOutcome::Success));
        assert_eq!(
            Verdict::new(Readiness, thresholds, None).outcome(),
            Some(ProbeOutcome::Failure)
        );
    }

    #[test]
    fn termination_silences_liveness_and_startup() {
        let mut liveness = check(Liveness, 1, 1, "-", "-");
        liveness.terminate();
        assert_eq!((liveness.outcome(), liveness.on_hold()), (Some(ProbeOutcome::Success), true));
        let mut readiness = check(Readiness, 1, 1, "+", "+");
        readiness.terminate();
        readiness.record(Attempt::Failure);
        assert_eq!(readiness.outcome(), Some(ProbeOutcome::Failure));
    }
}
