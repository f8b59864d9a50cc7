//! Work that waits for the kernel: files, mounts, cgroups. On threads of its own, so that it holds
//! up nobody.
//!
//! A simulation needs the same run again for the same seed: on a thread that says so
//! (`inline_on_this_thread`) such work is a task like any other, in the order in which it was
//! begun.

use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// Runs `work` on a thread for such work. Dropping the handle does not stop it.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(any(test, feature = "testkit"))]
    if inline::is_on() {
        #[expect(clippy::disallowed_methods, reason = "as unsupervised as a blocking thread")]
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Runs `work` on a thread for such work, as one of `tasks`.
pub fn spawn_on<T: Send + 'static>(
    tasks: &mut JoinSet<T>,
    work: impl FnOnce() -> T + Send + 'static,
) -> AbortHandle {
    #[cfg(any(test, feature = "testkit"))]
    if inline::is_on() {
        return tasks.spawn(async move { work() });
    }
    tasks.spawn_blocking(work)
}

#[cfg(any(test, feature = "testkit"))]
pub use inline::inline_on_this_thread;

#[cfg(any(test, feature = "testkit"))]
mod inline {
    use std::cell::Cell;

    thread_local! {
        static INLINE: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on blocking work that this thread begins is a task of its own runtime.
    pub fn inline_on_this_thread() {
        INLINE.set(true);
    }

    pub(super) fn is_on() -> bool {
        INLINE.get()
    }
}
