//! Tracks how many pods are waiting to start.
//!
//! While any are, low-priority API writes (Normal events, statuses that are not urgent) are delayed
//! so that they do not compete with starts. Fed by the limits on starts; read by the writers of
//! statuses and events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of pods that wait for their start. Cheap to clone; all clones share one count.
#[derive(Clone, Debug, Default)]
pub struct StartBacklog(Arc<AtomicUsize>);

/// A pod that waits, until the guard is dropped.
#[derive(Debug)]
pub struct BacklogGuard(Arc<AtomicUsize>);

impl StartBacklog {
    /// Counts one more waiting pod until the guard is dropped.
    pub fn wait(&self) -> BacklogGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        BacklogGuard(Arc::clone(&self.0))
    }

    /// Returns true if any pod waits.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for BacklogGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::StartBacklog;

    #[test]
    fn lasts_as_long_as_anybody_waits() {
        let backlog = StartBacklog::default();
        assert!(!backlog.is_on());
        let first = backlog.wait();
        let second = backlog.clone().wait();
        drop(first);
        assert!(backlog.is_on());
        drop(second);
        assert!(!backlog.is_on());
    }
}
