//! The kubelet's tasks: each has a name, ends with the stop, and ends the process if it panics.
//!
//! One value owns them all. [`Tasks::supervise`] is the last thing that the daemon does.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info, warn};

/// How long the end may take: statuses in flight, nothing else. Containers stay.
const DRAIN: Duration = Duration::from_secs(2);

/// The tasks of the process.
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that end with `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), names: HashMap::new(), stop }
    }

    /// Runs a task that loses nothing when the stop drops it.
    pub(super) fn run(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.run_to_end(name, async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Runs a task that sees the stop itself, and finishes its work then.
    pub(super) fn run_to_end(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        debug!(task = name, "task started");
        let id = self.set.spawn(task.in_current_span()).id();
        self.names.insert(id, name);
    }

    /// Waits for the stop, then for the tasks, for a while. A task that panics is an error, and
    /// ends the others; the process's supervisor starts it again.
    pub(super) async fn supervise(mut self) -> anyhow::Result<()> {
        let failed = self.failure().await;

        info!("stopping; containers keep running");
        self.stop.cancel();
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                self.names.remove(&id_of(&ended));
            }
        });
        if drained.await.is_err() {
            let left: Vec<&str> = self.names.values().copied().collect();
            warn!(?left, "tasks did not end in time; they are dropped");
            self.set.abort_all();
        }

        match failed {
            None => {
                info!("stopped");
                Ok(())
            }
            Some((name, panic)) => {
                error!(task = name, error = %panic, "a core task failed");
                let text = format!("the core task {name} of the kubelet failed");
                Err(anyhow::anyhow!(panic).context(text))
            }
        }
    }

    /// Waits for the stop or for a task that panics, whichever comes first.
    async fn failure(&mut self) -> Option<(&'static str, JoinError)> {
        let stop = self.stop.clone();
        loop {
            // Cancel-safe: both arms lose nothing when dropped.
            let ended = tokio::select! {
                () = stop.cancelled() => return None,
                ended = self.set.join_next_with_id() => ended?,
            };
            let name = self.names.remove(&id_of(&ended)).unwrap_or("unknown");
            match ended {
                Err(error) => return Some((name, error)),
                Ok(_) if stop.is_cancelled() => {}
                Ok(_) => warn!(task = name, "a task has ended before the stop"),
            }
        }
    }
}

fn id_of(ended: &Result<(Id, ()), JoinError>) -> Id {
    match ended {
        Ok((id, ())) => *id,
        Err(error) => error.id(),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::Tasks;

    #[tokio::test(start_paused = true)]
    async fn the_stop_ends_everything_without_an_error() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        tasks.run("for ever", std::future::pending());
        tasks.run("short", async {});
        tasks.run_to_end("listens", stop.clone().cancelled_owned());
        // What does not listen is dropped.
        tasks.run_to_end("deaf", std::future::pending());
        let asked = stop.clone();
        tasks.run("asker", async move {
            tokio::time::sleep(std::time::Duration::from_secs(9)).await;
            asked.cancel();
        });
        tasks.supervise().await.expect("asked for");
    }

    #[tokio::test]
    async fn a_panic_ends_the_others_and_is_named() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        tasks.run("for ever", std::future::pending());
        tasks.run("two", async { panic!("on purpose") });
        let error = tasks.supervise().await.expect_err("a failure");
        assert_eq!(error.to_string(), "the core task two of the kubelet failed");
        assert!(format!("{error:#}").contains("on purpose"), "{error:#}");
        assert!(stop.is_cancelled());
    }
}
