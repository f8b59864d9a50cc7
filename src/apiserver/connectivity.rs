//! Notes whether the API server answers, and ends waits early when it is back.
//!
//! Fed by every lane of a set of clients; read by what waits after a failure. After a long outage
//! those waits are up to half a minute, each of another length. The lease is tried every few
//! seconds all the time: when it gets through, the other waits end. A wait is never shortened while
//! the server is away, and nothing is sent from here.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;

use super::random;

/// How much longer one waits at most once the server is back: not all in the same moment, and not
/// in a circle where one request always gets through and another never does.
const AFTERWARDS: Duration = Duration::from_millis(250);

/// What the lanes know together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Connectivity {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether a request has been lost since one was last answered.
    is_away: AtomicBool,
    /// How often the server has come back.
    returns: watch::Sender<u64>,
}

impl Connectivity {
    /// A request got no answer.
    pub fn lost(&self) {
        self.shared.is_away.store(true, Ordering::Release);
    }

    /// A request was answered. A server that is only just starting, or knows nobody yet, is not
    /// back; nor is one lost that refuses a request, as it may do for ever.
    pub fn answered(&self, status: StatusCode) {
        let is_not_yet = status.is_server_error()
            || matches!(
                status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
            );
        if is_not_yet {
            return;
        }
        if self.shared.is_away.load(Ordering::Acquire)
            && self.shared.is_away.swap(false, Ordering::AcqRel)
        {
            self.shared.returns.send_modify(|returns| *returns = returns.wrapping_add(1));
        }
    }

    /// Hears of returns from now on.
    pub fn listen(&self) -> Reconnected {
        Reconnected { returns: self.shared.returns.subscribe(), _shared: Arc::clone(&self.shared) }
    }
}

/// Who waits for the server's return.
#[derive(Debug)]
pub struct Reconnected {
    returns: watch::Receiver<u64>,
    _shared: Arc<Shared>,
}

impl Reconnected {
    /// Waits until the server has come back once more. Cancel-safe: a return is not lost.
    pub async fn next(&mut self) {
        if self.returns.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for `wait`, or for a little after the server's return from now on, whichever comes
    /// first.
    pub async fn pause(&mut self, wait: Duration) {
        self.returns.mark_unchanged();
        let mut whole = pin!(tokio::time::sleep(wait));
        // Cancel-safe: both are only waits.
        tokio::select! {
            () = &mut whole => return,
            () = self.next() => {}
        }
        tokio::select! {
            () = whole => {}
            () = tokio::time::sleep(random::jitter(AFTERWARDS, 1.0)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{AFTERWARDS, Connectivity};
    use http::StatusCode;

    #[expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
    fn now() -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    const WAIT: Duration = Duration::from_secs(30);

    /// How long somebody waits who begins when a request was lost and something else happens 4 s
    /// later.
    async fn waits(later: impl FnOnce(&Connectivity)) -> Duration {
        let reach = Connectivity::default();
        let mut returns = reach.listen();
        // Of an earlier outage, which is over: it says nothing of this one.
        reach.lost();
        reach.answered(StatusCode::OK);
        reach.lost();
        let began = now();
        let event = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            later(&reach);
        };
        tokio::join!(returns.pause(WAIT), event);
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_return_ends_a_wait_and_nothing_else_does() {
        let soon = Duration::from_secs(4)
            ..=Duration::from_secs(4) + AFTERWARDS * 2 + Duration::from_millis(2);
        for back in
            [StatusCode::OK, StatusCode::CREATED, StatusCode::NOT_FOUND, StatusCode::CONFLICT]
        {
            let took = waits(|reach| reach.answered(back)).await;
            assert!(soon.contains(&took), "{back}: {took:?}");
        }
        for not_yet in [401, 403, 429, 500, 503] {
            let status = StatusCode::from_u16(not_yet).expect("a status");
            assert!(waits(|reach| reach.answered(status)).await >= WAIT, "{status}");
        }
        assert!(waits(Connectivity::lost).await >= WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_can_reach_it_anyway_hears_of_nothing() {
        let reach = Connectivity::default();
        let mut returns = reach.listen();
        reach.answered(StatusCode::OK);
        assert!(tokio::time::timeout(WAIT, returns.next()).await.is_err());
        // What is refused for ever must not be tried whenever something else succeeds.
        for refused in [StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR] {
            reach.answered(refused);
            reach.answered(StatusCode::OK);
            assert!(tokio::time::timeout(WAIT, returns.next()).await.is_err(), "{refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_wait_is_not_made_longer() {
        let reach = Connectivity::default();
        let mut returns = reach.listen();
        reach.lost();
        let began = now();
        tokio::join!(returns.pause(Duration::from_millis(5)), async {
            reach.answered(StatusCode::OK);
        });
        assert!(began.elapsed() < Duration::from_millis(10), "{:?}", began.elapsed());
    }
}
