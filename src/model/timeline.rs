//! The steps of a pod's life on this node, with their durations. Pure.
//!
//! Written by the pod's task, one step for each action (a pull, the start of a container) and each
//! change of phase or readiness; read by `rkubelet timeline`. It holds the newest [`MOST`] steps,
//! and decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::time::{Mono, Now, Wall};

/// The number of steps that are kept: enough for the start of a pod of ten containers.
pub const MOST: usize = 48;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineStep {
    /// The kind of step, e.g. `create sandbox`.
    pub what: &'static str,
    /// The container that the step is about; empty for the pod.
    pub container: Box<str>,
    /// The begin.
    pub began: Mono,
    /// How far the step has come.
    pub state: StepState,
}

/// How far a step has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepState {
    /// The step is being carried out.
    Running,
    /// The step has ended well after this time.
    Done(Duration),
    /// The step has failed after this time, for this reason.
    Failed(Duration, Box<str>),
    /// The step was given up after this time.
    Cancelled(Duration),
    /// Something happened that takes no time: a change of phase.
    Moment,
}

/// Names a step of one timeline, so that its end can be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepId(u64);

/// The end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEnd<'a> {
    /// It did what it should.
    Done,
    /// It failed, for this reason.
    Failed(&'a str),
    /// It was given up.
    Cancelled,
}

/// The newest steps of one pod.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    steps: VecDeque<TimelineStep>,
    /// The number of steps that were dropped from the front.
    dropped: u64,
    /// A reading of both clocks, by which a monotonic time becomes a wall time.
    reference: Option<Now>,
}

impl Timeline {
    /// Records the begin of a step.
    pub fn begin(&mut self, what: &'static str, container: &str, now: Now) -> StepId {
        self.push(what, container, StepState::Running, now)
    }

    /// Records something that takes no time.
    pub fn moment(&mut self, what: &'static str, now: Now) {
        self.push(what, "", StepState::Moment, now);
    }

    fn push(&mut self, what: &'static str, container: &str, state: StepState, now: Now) -> StepId {
        self.reference.get_or_insert(now);
        if self.steps.len() == MOST {
            self.steps.pop_front();
            self.dropped += 1;
        }
        self.steps.push_back(TimelineStep {
            what,
            container: container.into(),
            began: now.mono,
            state,
        });
        StepId(self.dropped + self.steps.len() as u64 - 1)
    }

    /// Records the end of a step. Without effect if the step has been dropped since.
    pub fn end(&mut self, id: StepId, end: StepEnd<'_>, now: Now) {
        let Some(step) =
            id.0.checked_sub(self.dropped)
                .and_then(|index| usize::try_from(index).ok())
                .and_then(|index| self.steps.get_mut(index))
        else {
            return;
        };

        let took = now.mono.since(step.began);
        step.state = match end {
            StepEnd::Done => StepState::Done(took),
            StepEnd::Failed(problem) => StepState::Failed(took, problem.into()),
            StepEnd::Cancelled => StepState::Cancelled(took),
        };
    }

    /// Returns the steps, oldest first, each with the wall time of its begin.
    pub fn steps(&self) -> impl Iterator<Item = (Wall, &TimelineStep)> {
        self.steps.iter().filter_map(|step| {
            let reference = self.reference?;
            let later = step.began.since(reference.mono);
            Some((reference.wall.checked_add(later).unwrap_or(Wall::MAX), step))
        })
    }

    /// Returns the number of older steps that are not kept any more.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// A timeline that its pod's task writes and that others read.
pub type SharedTimeline = Arc<Mutex<Timeline>>;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MOST, StepEnd, StepState, Timeline};
    use crate::model::{Mono, Now, Wall};

    fn at(seconds: u64) -> Now {
        let later = Duration::from_secs(seconds);
        Now { mono: Mono(later), wall: Wall::UNIX_EPOCH.checked_add(later).expect("a time") }
    }

    #[test]
    fn a_step_has_its_duration_and_wall_time() {
        let mut timeline = Timeline::default();
        let pull = timeline.begin("pull image", "app", at(5));
        timeline.moment("phase Running", at(6));
        timeline.end(pull, StepEnd::Failed("no such image"), at(8));

        let steps: Vec<_> = timeline.steps().collect();
        assert_eq!(steps[0].0, at(5).wall);
        let failed = StepState::Failed(Duration::from_secs(3), "no such image".into());
        assert_eq!(steps[0].1.state, failed);
        assert_eq!(steps[1].1.state, StepState::Moment);
    }

    #[test]
    fn old_steps_are_dropped_and_their_ends_ignored() {
        let mut timeline = Timeline::default();
        let first = timeline.begin("pull image", "old", at(0));
        for _ in 0..MOST {
            timeline.moment("phase Running", at(1));
        }
        let last = timeline.begin("pull image", "new", at(2));

        timeline.end(first, StepEnd::Done, at(3));
        timeline.end(last, StepEnd::Done, at(3));

        let steps: Vec<_> = timeline.steps().collect();
        assert_eq!(steps.len(), MOST);
        assert_eq!(timeline.dropped(), 2);
        assert_eq!(steps[MOST - 1].1.state, StepState::Done(Duration::from_secs(1)));
        assert!(steps[..MOST - 1].iter().all(|(_, step)| step.state == StepState::Moment));
    }
}
