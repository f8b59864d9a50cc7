//! Keeps the health that `/healthz/syncloop` and the systemd watchdog report: whether relists
//! succeed.
//!
//! Fed by the times of relists. Before the first relist the kubelet counts as healthy, as
//! upstream's does before the first turn of its loop.

use tokio::sync::watch;

use super::Handle;
use crate::clock::Clock;
use crate::watch::set_if_changed;

/// Keeps the current problem in `sender`; `None` while there is none.
pub async fn health(pleg: Handle, clock: Clock, sender: watch::Sender<Option<String>>) {
    loop {
        let last = pleg.last_relist();
        let now = clock.now().mono;
        let problem = last.and_then(|_| pleg.healthy(now).err()).map(|problem| problem.to_string());
        let is_healthy = problem.is_none();
        set_if_changed(&sender, problem);

        // A relist moves the deadline on; only a missing one makes it come.
        match pleg.unhealthy_at().filter(|_| is_healthy) {
            Some(deadline) => clock.sleep_until(deadline).await,
            None => pleg.relisted_since(last).await,
        }
    }
}
