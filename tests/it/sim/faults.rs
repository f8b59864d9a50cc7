//! What is done to calls, requests and events while the storm lasts.

use std::time::Duration;

use rkubelet::internals::apiserver::fake::ApiEffect;
use rkubelet::internals::cri::fake::{Delivery, Effect};
use tokio::sync::Notify;
use tonic::Status;

use super::random::Random;
use super::scenario::Faults;

/// Longer than anything waits.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// Longer than any deadline of a call that has one.
const HANGS: Duration = Duration::from_secs(300);

/// Decides by lot.
#[derive(Debug)]
pub(super) struct Chaos {
    random: Random,
    faults: Faults,
    is_over: bool,
    crash_at: Option<CrashAt>,
}

#[derive(Clone, Copy, Debug)]
struct CrashAt {
    calls: u64,
    after: bool,
}

impl Chaos {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self { random: Random::new(seed ^ 0xFA_0175), faults, is_over: false, crash_at: None }
    }

    /// Kills the process at the n-th call from now that changes something.
    pub(super) fn crash_at(&mut self, calls: u64, after: bool) {
        self.crash_at = Some(CrashAt { calls, after });
    }

    /// The process begins anew: what was to kill it has done so.
    pub(super) fn begin_life(&mut self) {
        self.crash_at = None;
    }

    pub(super) fn heal(&mut self) {
        self.is_over = true;
        self.crash_at = None;
    }

    /// Whether the process dies now: before the call, or after it.
    fn dies(&mut self, crash: &Notify) -> Option<bool> {
        let at = self.crash_at.as_mut()?;
        if at.calls > 0 {
            at.calls -= 1;
            return None;
        }
        let after = at.after;
        self.crash_at = None;
        crash.notify_one();
        Some(after)
    }

    pub(super) fn call(&mut self, call: &str, mutates: bool, crash: &Notify) -> Option<Effect> {
        if mutates && let Some(after) = self.dies(crash) {
            return Some(if after {
                Effect::DelayAnswer(FOR_EVER)
            } else {
                Effect::Delay(FOR_EVER)
            });
        }
        if self.is_over || !self.random.percent(self.faults.runtime) {
            return None;
        }
        let random = &mut self.random;
        let status = match random.below(4) {
            0 => Status::unavailable("a fault of the test"),
            1 => Status::deadline_exceeded("a fault of the test"),
            2 => Status::internal("a fault of the test"),
            _ => Status::unknown("a fault of the test"),
        };
        Some(match random.below(20) {
            0..=5 => Effect::Fail(status),
            6..=10 => Effect::FailAfter(status),
            11..=14 => Effect::Delay(random.between(1, 4_000)),
            15..=18 => Effect::DelayAnswer(random.between(1, 4_000)),
            // A pull has no deadline of ours.
            _ if call == "PullImage" => Effect::Delay(Duration::from_secs(60)),
            _ if random.percent(50) => Effect::Delay(HANGS),
            _ => Effect::DelayAnswer(HANGS),
        })
    }

    pub(super) fn request(
        &mut self,
        method: &str,
        path: &str,
        crash: &Notify,
    ) -> Option<ApiEffect> {
        let mutates = method != "GET" && path.contains("/pods");
        if mutates && let Some(after) = self.dies(crash) {
            return Some(if after {
                ApiEffect::DelayAnswer(FOR_EVER)
            } else {
                ApiEffect::Delay(FOR_EVER)
            });
        }
        if self.is_over || !self.random.percent(self.faults.api) {
            return None;
        }
        let random = &mut self.random;
        Some(match random.below(20) {
            0..=4 => ApiEffect::Fail(*random.pick(&[429, 500, 503, 504])),
            5 | 6 => ApiEffect::Break,
            7..=11 => ApiEffect::LoseAnswer,
            12..=15 => ApiEffect::Delay(random.between(1, 3_000)),
            16..=18 => ApiEffect::DelayAnswer(random.between(1, 3_000)),
            _ => ApiEffect::DelayAnswer(HANGS),
        })
    }

    pub(super) fn event(&mut self) -> Delivery {
        if self.is_over || !self.random.percent(self.faults.events) {
            return Delivery::Once;
        }
        *self.random.pick(&[Delivery::Twice, Delivery::Never, Delivery::Late])
    }
}
