//! Answers questions from one reading at a time: a question joins the reading that is under way,
//! takes the last one if it is young enough, or has a new one begun.
//!
//! Fed by the task of this room. It reads nothing itself and never makes anyone wait for a reading
//! that began too early for the question.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Answer, StatsError};
use crate::model::Mono;

/// The readings of one kind.
#[derive(Debug)]
pub(super) struct Flight<T> {
    /// The last reading, and when it began.
    latest: Option<(Mono, Arc<T>)>,
    /// When the reading that is under way began.
    under_way: Option<Mono>,
    waiting: Vec<Waiter<T>>,
}

#[derive(Debug)]
struct Waiter<T> {
    /// The earliest begin of a reading that answers the question.
    not_before: Mono,
    reply: oneshot::Sender<Answer<T>>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self { latest: None, under_way: None, waiting: Vec::new() }
    }
}

impl<T> Flight<T> {
    /// Takes a question in. Returns true if a reading is to be begun now.
    pub(super) fn ask(
        &mut self,
        max_age: Duration,
        now: Mono,
        reply: oneshot::Sender<Answer<T>>,
    ) -> bool {
        let not_before = Mono(now.0.saturating_sub(max_age));
        if let Some((began, latest)) = &self.latest
            && *began >= not_before
        {
            // Whoever has stopped waiting needs no answer.
            drop(reply.send(Ok(Arc::clone(latest))));
            return false;
        }

        self.waiting.push(Waiter { not_before, reply });
        self.begin(now)
    }

    /// Takes the end of the reading in, and answers those that waited for it. Returns true if
    /// another reading is to be begun, for those whom it does not serve.
    pub(super) fn done(&mut self, outcome: Result<T, StatsError>, now: Mono) -> bool {
        let Some(began) = self.under_way.take() else { return false };
        let answer = outcome.map(Arc::new).map_err(Arc::new);
        if let Ok(reading) = &answer {
            self.latest = Some((began, Arc::clone(reading)));
        }

        let all = std::mem::take(&mut self.waiting);
        let open = all.into_iter().filter(|waiter| !waiter.reply.is_closed());
        let (served, rest): (Vec<_>, Vec<_>) = open.partition(|waiter| began >= waiter.not_before);
        self.waiting = rest;
        for waiter in served {
            drop(waiter.reply.send(answer.clone()));
        }
        !self.waiting.is_empty() && self.begin(now)
    }

    /// Forgets a reading that was taken before `limit`, so that an idle node keeps none.
    pub(super) fn forget_before(&mut self, limit: Mono) {
        self.latest.take_if(|(began, _)| *began < limit);
    }

    fn begin(&mut self, now: Mono) -> bool {
        if self.under_way.is_some() {
            return false;
        }
        self.under_way = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::{Flight, StatsError};
    use crate::model::Mono;
    use crate::stats::Answer;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn ask(
        flight: &mut Flight<u8>,
        max_age: u64,
        now: u64,
    ) -> (bool, oneshot::Receiver<Answer<u8>>) {
        let (reply, answer) = oneshot::channel();
        (flight.ask(Duration::from_secs(max_age), at(now), reply), answer)
    }

    fn got(mut answer: oneshot::Receiver<Answer<u8>>) -> u8 {
        *answer.try_recv().expect("an answer").expect("a reading")
    }

    #[test]
    fn those_who_ask_together_share_a_reading() {
        let mut flight = Flight::default();
        let (first, one) = ask(&mut flight, 0, 10);
        let (second, two) = ask(&mut flight, 5, 11);
        assert!(first && !second, "one reading");
        assert!(!flight.done(Ok(7), at(12)));
        assert_eq!((got(one), got(two)), (7, 7));
    }

    #[test]
    fn a_reading_that_began_too_early_is_not_the_answer() {
        let mut flight = Flight::default();
        let (_, one) = ask(&mut flight, 0, 10);
        let (second, two) = ask(&mut flight, 0, 11);
        assert!(!second, "one at a time");
        assert!(flight.done(Ok(7), at(12)), "the second needs its own");
        assert_eq!(got(one), 7);
        assert!(!flight.done(Ok(8), at(13)));
        assert_eq!(got(two), 8);
    }

    #[test]
    fn a_young_reading_answers_at_once_and_an_old_one_is_read_again() {
        let mut flight = Flight::default();
        drop(ask(&mut flight, 0, 10));
        flight.done(Ok(7), at(11));
        let (begins, answer) = ask(&mut flight, 5, 15);
        assert!(!begins);
        assert_eq!(got(answer), 7);
        assert!(ask(&mut flight, 5, 16).0);
    }

    #[test]
    fn a_failure_is_told_to_all_and_not_kept() {
        let mut flight = Flight::default();
        let (_, mut one) = ask(&mut flight, 0, 10);
        flight.done(Err(StatsError::Stopped), at(11));
        assert!(one.try_recv().expect("an answer").is_err());
        assert!(ask(&mut flight, 100, 12).0, "it is read again");
    }

    #[test]
    fn nothing_is_read_for_those_who_have_left() {
        let mut flight = Flight::default();
        let (_, _one) = ask(&mut flight, 0, 10);
        drop(ask(&mut flight, 0, 11));
        assert!(!flight.done(Ok(7), at(12)));
    }
}
