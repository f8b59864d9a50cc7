//! Returns freed memory to the kernel when a burst of work is over. The allocator would otherwise
//! keep for good what decoding and starting many pods took for a moment, and so would the code that
//! ran only then.
//!
//! Fed by the starts of containers and the ends of pods. Nothing waits for it.

use std::time::Duration;

use tokio::sync::watch;

use crate::linux::{malloc, program};

/// Memory is returned after this long without a start or an end. A burst of pods is quiet for a
/// second at times; returning takes milliseconds, and the next burst has to ask for the memory
/// again.
const QUIET: Duration = Duration::from_secs(5);

/// Takes notes of work. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct MemoryTrimmer(watch::Sender<u64>);

/// Makes the trimmer and its task; the start of the process is the first burst.
pub(super) fn new() -> (MemoryTrimmer, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(0);
    let trim = || {
        malloc::trim();
        program::forget_code();
    };
    (MemoryTrimmer(sender), give_back(receiver, trim))
}

impl MemoryTrimmer {
    /// Notes that something has begun or ended.
    pub(super) fn note(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// Calls `trim` once after each burst; returns when no other can be noted.
async fn give_back(mut work: watch::Receiver<u64>, trim: impl Fn()) {
    loop {
        // Cancel-safe: a timeout loses no change.
        while let Ok(changed) = tokio::time::timeout(QUIET, work.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        trim();
        if work.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio_util::task::TaskTracker;

    use super::{QUIET, give_back};

    #[tokio::test(start_paused = true)]
    async fn once_after_each_burst() {
        let (sender, receiver) = watch::channel(0_u64);
        let trims = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&trims);
        let tasks = TaskTracker::new();
        let trim = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let task = tasks.spawn(give_back(receiver, trim));
        for _ in 0..20 {
            tokio::time::sleep(QUIET / 2).await;
            sender.send_modify(|count| *count += 1);
        }
        assert_eq!(trims.load(Ordering::Relaxed), 0, "it is busy all the time");
        tokio::time::sleep(QUIET * 10).await;
        assert_eq!(trims.load(Ordering::Relaxed), 1);
        sender.send_modify(|count| *count += 1);
        tokio::time::sleep(QUIET + Duration::from_millis(1)).await;
        assert_eq!(trims.load(Ordering::Relaxed), 2);
        drop(sender);
        task.await.expect("it ends");
    }
}
