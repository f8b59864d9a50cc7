//! The limits on concurrent starts and stops (invariant 9). A new sandbox waits while too much is
//! being started; a container of a pod that has its sandbox never waits; a sandbox is stopped while
//! few others are. The limits order, they never block: a start that hangs counts for [`START_FOR`]
//! only, a stop for [`STOP_FOR`].
//!
//! Used by the actions of all pods. It knows neither pods nor the runtime.
//!
//! Measured: of 50 pods created at once, half were up after 3.0 s when four were started at a time
//! and after 5.1 s when all were, with the same end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::model::StartBacklog;

/// The longest time for which one start keeps others waiting.
const START_FOR: Duration = Duration::from_secs(2);

/// The longest time for which one stop keeps others waiting. Short: a network plugin that takes
/// seconds for each pod takes them for many pods at once.
const STOP_FOR: Duration = Duration::from_millis(300);

/// Starts, and stops, per processor.
const PER_CORE: usize = 2;

/// The limits on concurrent starts and stops. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SandboxPermits {
    starts: Arc<Gate>,
    stops: Arc<Gate>,
    backlog: StartBacklog,
    /// Pods that wait for their stop. Removals give way to them; statuses and events do not.
    stopping: StartBacklog,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Gate {
    limit: usize,
    /// The longest time for which a permit counts.
    longest: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number under way; containers may raise it above the limit.
    busy: usize,
    /// Sandboxes, in the order of arrival. A waiter that has given up drops its permit.
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// One start or stop that counts. Dropping it lets the next one in.
#[derive(Debug)]
struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state.lock().busy -= 1;
        self.0.let_in();
    }
}

impl Gate {
    /// Gives permits to waiters, as far as there is room.
    fn let_in(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.busy >= self.limit {
                    return;
                }
                let Some(next) = state.waiting.pop_front() else { return };
                state.busy += 1;
                next
            };
            // Not under the lock: a permit that is not taken is dropped, and that takes the lock.
            drop(next.send(Permit(Arc::clone(self))));
        }
    }
}

impl SandboxPermits {
    /// Allows about two of each per core. Counts in `backlog` the pods that wait for their start.
    pub fn for_cores(cores: usize, backlog: StartBacklog) -> Self {
        let limit = cores.max(1) * PER_CORE;
        let gate = |longest| Arc::new(Gate { limit, longest, state: Mutex::default() });
        Self {
            starts: gate(START_FOR),
            stops: gate(STOP_FOR),
            backlog,
            stopping: StartBacklog::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Returns true while pods wait for their start or their stop. Work that no pod waits for is
    /// delayed then.
    pub fn has_backlog(&self) -> bool {
        self.backlog.is_on() || self.stopping.is_on()
    }

    /// Runs `work` beside everything else, to its own end.
    pub fn background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Waits for the turn of a new sandbox. It ends with the returned guard, or after
    /// [`START_FOR`]. Cancel-safe.
    pub async fn start(&self) -> Turn {
        self.acquire(&self.starts, &self.backlog).await
    }

    /// Waits for the turn of a sandbox that is stopped. It ends with the returned guard, or after
    /// [`STOP_FOR`]. Cancel-safe.
    pub async fn stop(&self) -> Turn {
        self.acquire(&self.stops, &self.stopping).await
    }

    async fn acquire(&self, gate: &Arc<Gate>, backlog: &StartBacklog) -> Turn {
        let (sender, permit) = oneshot::channel();
        let _waits = backlog.wait();
        gate.state.lock().waiting.push_back(sender);
        gate.let_in();
        match permit.await {
            Ok(permit) => self.turn(permit),
            // No waiting sender is ever dropped.
            Err(_closed) => Turn { early: None },
        }
    }

    /// Counts the start of a container. It begins at once, but new sandboxes wait for it.
    pub fn container(&self) -> Turn {
        self.starts.state.lock().busy += 1;
        self.turn(Permit(Arc::clone(&self.starts)))
    }

    fn turn(&self, permit: Permit) -> Turn {
        let (early, given_back) = oneshot::channel();
        self.tasks.spawn(hold(permit, given_back));
        Turn { early: Some(early) }
    }
}

/// Keeps the permit until the turn is over or has lasted too long.
async fn hold(permit: Permit, given_back: oneshot::Receiver<()>) {
    // Either end is fine: the permit is dropped after both.
    drop(tokio::time::timeout(permit.0.longest, given_back).await);
    drop(permit);
}

/// One turn; dropping it gives the permit back.
#[derive(Debug)]
pub struct Turn {
    early: Option<oneshot::Sender<()>>,
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

    async fn within(permits: &SandboxPermits, time: Duration) -> Option<Turn> {
        tokio::time::timeout(time, permits.start()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_start_gives_its_permit_back() {
        let permits = SandboxPermits::for_cores(1, StartBacklog::default());
        let first = permits.start().await;
        let _second = permits.start().await;
        assert!(
            within(&permits, Duration::from_secs(1)).await.is_none(),
            "two are held: the third waits"
        );
        drop(first);
        let _third = within(&permits, Duration::from_millis(10)).await.expect(
            "a permit that was given back is there at once, though one has given up waiting for it",
        );
        let _fourth = within(&permits, START_FOR + Duration::from_millis(10))
            .await
            .expect("a held permit comes back after its time");
    }

    #[tokio::test(start_paused = true)]
    async fn stops_wait_for_stops_alone_and_not_for_long() {
        let backlog = StartBacklog::default();
        let permits = SandboxPermits::for_cores(1, backlog.clone());
        let _starts = [permits.start().await, permits.start().await];
        let _hung = [permits.stop().await, permits.stop().await];
        assert!(!permits.has_backlog(), "all have their turn");
        let third = permits.tasks.spawn({
            let permits = permits.clone();
            async move { permits.stop().await }
        });
        tokio::time::sleep(STOP_FOR / 2).await;
        assert!(permits.has_backlog() && !third.is_finished(), "one waits");
        assert!(!backlog.is_on(), "statuses and events are not held back for it");
        let _third =
            tokio::time::timeout(STOP_FOR, third).await.expect("the first two take too long");
        assert!(!permits.has_backlog());
    }

    #[tokio::test(start_paused = true)]
    async fn containers_do_not_wait_and_sandboxes_wait_for_them() {
        let permits = SandboxPermits::for_cores(1, StartBacklog::default());
        let [first, second, third] =
            [permits.container(), permits.container(), permits.container()];
        drop(first);
        assert!(within(&permits, Duration::from_secs(1)).await.is_none(), "two are still started");
        drop(second);
        let _sandbox = within(&permits, Duration::from_millis(10)).await.expect("there is room");
        drop(third);
        assert!(within(&permits, Duration::from_millis(10)).await.is_some());
    }
}
