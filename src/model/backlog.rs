//! Whether pods wait for their start: then whoever asks the API server for what nobody waits for
//! gives way, as its work would slow the starts. Told by those who limit starts, asked by the
//! writers of statuses and events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many pods wait for their start. Cheap to clone; all clones are one count.
#[derive(Clone, Debug, Default)]
pub struct StartBacklog(Arc<AtomicUsize>);

/// One pod that waits; until it is dropped.
#[derive(Debug)]
pub struct Waits(Arc<AtomicUsize>);

impl StartBacklog {
    /// A pod begins to wait.
    pub fn wait(&self) -> Waits {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waits(Arc::clone(&self.0))
    }

    /// Whether any waits.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::StartBacklog;

    #[test]
    fn lasts_as_long_as_anybody_waits() {
        let rush = StartBacklog::default();
        assert!(!rush.is_on());
        let (first, second) = (rush.wait(), rush.clone().wait());
        drop(first);
        assert!(rush.is_on());
        drop(second);
        assert!(!rush.is_on());
    }
}
