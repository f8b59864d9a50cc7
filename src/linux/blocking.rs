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

/// Runs work that the kernel may never answer on a thread of its own, so that it takes none of the
/// blocking threads that all others share. `None`: no thread could be made, or the work panicked.
/// Dropping the future does not stop the work, and the work does not hold up the process's end.
pub async fn alone<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    #[cfg(any(test, feature = "testkit"))]
    if inline::is_on() {
        return Some(work());
    }
    let (answer, answered) = tokio::sync::oneshot::channel();
    let begun = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody may wait any more.
        answer.send(work()).ok();
    });
    if let Err(error) = begun {
        tracing::warn!(name, %error, "no thread could be made");
    }
    answered.await.ok()
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn work_that_hangs_takes_no_thread_from_others() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        let (open, gate) = mpsc::channel::<()>();
        let gate = std::sync::Arc::new(parking_lot::Mutex::new(gate));
        runtime.block_on(async {
            let mut hanging = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let gate = std::sync::Arc::clone(&gate);
                let hang = move || gate.lock().recv().is_ok();
                hanging.spawn(super::alone("hangs", hang));
            }
            tokio::task::yield_now().await;

            let other = super::spawn(|| 7);
            let other = tokio::time::timeout(Duration::from_secs(20), other).await;
            assert_eq!(other.expect("not held up").expect("no panic"), 7);

            drop(open);
            while let Some(ended) = hanging.join_next().await {
                assert_eq!(ended.expect("no panic"), Some(false));
            }
        });
    }

    #[tokio::test]
    async fn work_that_panics_has_no_answer() {
        assert_eq!(super::alone("panics", || -> u8 { panic!("as intended") }).await, None);
    }
}
