//! Runs work that waits for the kernel (files, mounts, cgroups) on threads of its own, so that it
//! delays no task.
//!
//! A simulation needs the same run again for the same seed. On a thread that has called
//! `inline_on_this_thread`, such work is a task like any other, in the order in which it was begun.

use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// Runs `work` on a blocking thread. Dropping the handle does not stop it.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(any(test, feature = "testkit"))]
    if inline::is_on() {
        #[expect(clippy::disallowed_methods, reason = "as unsupervised as a blocking thread")]
        return tokio::spawn(async move { work() });
    }
    tokio::task::spawn_blocking(work)
}

/// Runs `work` on a blocking thread, as one of `tasks`.
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

    /// Makes blocking work that this thread begins a task of the thread's own runtime, from now on.
    pub fn inline_on_this_thread() {
        INLINE.set(true);
    }

    pub(super) fn is_on() -> bool {
        INLINE.get()
    }
}
