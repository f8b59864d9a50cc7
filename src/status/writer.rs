//! The task that writes statuses to the API.
//!
//! In: [`Handle`]'s commands on one bounded channel. Out: requests through a [`StatusApi`], and
//! [`Acked`] on a `watch` for each pod. [`super::queue`] decides the order and time of writes and
//! keeps the laws; this file reads the clock, runs the jobs and passes the news on.
//!
//! The task never waits for a request itself: each write is a job of its own. So a command never
//! waits long, and an API server that hangs delays only the writes that it hangs on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::api::StatusApi;
use super::handle::{Acked, Command, Handle};
use super::job::Outcome;
use super::queue::{FIRST_HOLD, News, Queue, Retry};
use crate::apiserver::connectivity::{Connectivity, Reconnected};
use crate::clock::Clock;
use crate::model::{Mono, PodUid, StartBacklog};

/// The time for the last writes when the process ends.
const DRAIN: Duration = Duration::from_secs(2);

/// The task. See the module's documentation.
#[derive(Debug)]
pub struct Writer<A> {
    api: Arc<A>,
    clock: Clock,
    backlog: StartBacklog,
    commands: mpsc::Receiver<Command>,
    queue: Queue,
    followers: BTreeMap<PodUid, watch::Sender<Acked>>,
    jobs: JoinSet<Outcome>,
    /// Resolves when the API server comes back: writes that failed are then tried again soon.
    reconnected: Reconnected,
}

impl<A: StatusApi> Writer<A> {
    /// Returns the task and its handle. `connectivity` reports when the API server comes back.
    pub fn new(
        api: A,
        clock: Clock,
        backlog: StartBacklog,
        connectivity: &Connectivity,
    ) -> (Handle, Self) {
        let (handle, commands) = Handle::channel();
        let writer = Self {
            api: Arc::new(api),
            clock,
            backlog,
            commands,
            queue: Queue::default(),
            followers: BTreeMap::new(),
            jobs: JoinSet::new(),
            reconnected: connectivity.listen(),
        };

        (handle, writer)
    }

    /// Runs until it is cancelled or every handle is gone; then the last writes get [`DRAIN`].
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            self.begin_jobs();
            let due = self.queue.next_due();

            // Every branch is cancel-safe: `recv`, `join_next` and timers lose nothing when another
            // branch wins.
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(outcome) = self.jobs.join_next() => self.finish(outcome),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                () = self.clock.sleep_until_some(due) => {
                    let now = self.now();
                    self.queue.wake(now, self.backlog.is_on());
                }
                () = self.reconnected.next() => {
                    let now = self.now();
                    self.queue.hasten(now);
                }
            }
        }
        self.drain().await;
    }

    /// Writes the rest, for as long as [`DRAIN`]: a pod's end that is not written now is written
    /// late.
    async fn drain(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }

        let now = self.now();
        self.queue.wake(now.after(FIRST_HOLD), self.backlog.is_on());

        let deadline = now.after(DRAIN);
        loop {
            self.begin_jobs();
            if self.jobs.is_empty() {
                return;
            }
            // Cancel-safe as above.
            tokio::select! {
                Some(outcome) = self.jobs.join_next() => self.finish(outcome),
                () = self.clock.sleep_until(deadline) => return,
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Set { uid, version, update } => self.queue.set(&uid, version, update, now),
            Command::Observed { uid, pod } => self.queue.observed(&uid, pod, now),
            Command::Acked { uid, reply } => {
                let acked = self.queue.add(&uid);
                let follower =
                    self.followers.entry(uid).or_insert_with(|| watch::Sender::new(acked));
                drop(reply.send(follower.subscribe()));
            }
            Command::Delete { uid, pod } => {
                if !self.queue.delete(&uid, pod, now) {
                    tracing::warn!(
                        pod_uid = %uid,
                        "not deleting a pod whose deletion was not asked for"
                    );
                }
            }
            Command::Forget { uid } => self.queue.forget(&uid),
        }

        self.publish();
    }

    fn begin_jobs(&mut self) {
        while let Some(job) = self.queue.begin() {
            let api = Arc::clone(&self.api);
            self.jobs.spawn(async move { job.perform(&*api).await });
        }
    }

    fn finish(&mut self, outcome: Result<Outcome, JoinError>) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Jobs are aborted only by the end of the task.
                Err(_) => return,
            },
        };
        let uid = outcome.uid.clone();
        let now = self.now();
        if let Some(retry) = self.queue.finish(outcome, now) {
            log(&uid, &retry);
        }

        self.publish();
    }

    /// Passes the queue's news on to the pods' followers.
    fn publish(&mut self) {
        for news in self.queue.news() {
            match news {
                News::Acked(uid, acked) => {
                    if let Some(follower) = self.followers.get(&uid) {
                        follower.send_replace(acked);
                    }
                }
                News::Forgotten(uid) => drop(self.followers.remove(&uid)),
            }
        }
    }

    fn now(&self) -> Mono {
        self.clock.now().mono
    }
}

fn log(uid: &PodUid, retry: &Retry) {
    let error = &retry.failure as &dyn std::error::Error;
    if retry.before == 0 {
        tracing::warn!(pod_uid = %uid, error, "cannot write a pod's status, trying again");
    } else {
        let failures = retry.before;
        tracing::debug!(pod_uid = %uid, failures, error, "still cannot write a pod's status");
    }
}
