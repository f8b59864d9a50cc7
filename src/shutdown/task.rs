//! The task of graceful shutdown: holds logind's lock, and ends pods when a shutdown is announced.
//!
//! The order and the grace of pods are [`super::groups`]'s.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::groups::{self, Group};
use super::state::State;
use super::{Config, Deps};
use crate::dispatch::PodView;
use crate::linux::blocking;
use crate::linux::logind::{Announcements, Inhibitor, LogindError, Session};
use crate::model::reason::event;
use crate::model::{EventType, Pod, TerminationCause, error_chain, pod};
use crate::node::Shutdown;

/// The reason and message of a pod that a shutdown ends, in its status.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// The pause before the bus is connected to again. It doubles with each failure, up to [`SELDOM`].
const RECONNECT: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(60);
/// How long pods wait for the state file, which a slow disk may hold up.
const STATE_LIMIT: Duration = Duration::from_secs(1);
/// The pauses between two looks at what logind has made of its configuration.
const LOOKS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// The reasons why shutdowns are not heard of.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    /// logind cannot be used.
    #[error(transparent)]
    Logind(#[from] LogindError),
    /// logind does not wait for as long as the pods may need.
    #[error(
        "node shutdown manager was timed out after {} attempts waiting for logind InhibitDelayMaxSec to update to {wanted:?} (ShutdownGracePeriod), current value is {seen:?}",
        LOOKS.len()
    )]
    Delay {
        /// The time that pods may need.
        wanted: Duration,
        /// The time that logind waits.
        seen: Duration,
    },
}

/// Owns the lock and what is remembered of shutdowns.
pub(super) struct Task {
    config: Config,
    deps: Deps,
}

impl Task {
    pub(super) fn new(config: Config, deps: Deps) -> Self {
        Self { config, deps }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        self.show_last().await;
        let mut pause = RECONNECT;
        loop {
            match self.watch().await {
                Ok((session, lock, announcements)) => {
                    info!(groups = ?self.config.groups, "pods have time to end at a shutdown");
                    self.follow(&session, lock, announcements).await;
                    pause = RECONNECT;
                }
                Err(error) => {
                    let error = error_chain(&error);
                    warn!(error, retry = ?pause, "unable to watch the node for shutdown events");
                }
            }
            self.pause(pause).await;
            pause = (pause * 2).min(SELDOM);
        }
    }

    /// Takes the lock, and listens.
    async fn watch(&self) -> Result<(Session, Inhibitor, Announcements), WatchError> {
        let session = self.deps.logind.connect().await?;
        let wanted = groups::longest(&self.config.groups);
        let mut seen = session.longest_delay().await?;
        if seen < wanted {
            session.extend_delay(wanted).await?;
            for pause in LOOKS {
                self.pause(pause).await;
                seen = session.longest_delay().await?;
                if seen >= wanted {
                    break;
                }
            }
        }
        if seen < wanted {
            return Err(WatchError::Delay { wanted, seen });
        }

        // Heard from before the lock is there: between the two nothing may be missed.
        let announcements = session.announcements().await?;
        let lock = session.inhibit().await?;
        Ok((session, lock, announcements))
    }

    /// Acts on announcements until the connection breaks, or the lock cannot be taken again.
    async fn follow(&self, session: &Session, lock: Inhibitor, mut heard: Announcements) {
        let mut lock = Some(lock);
        loop {
            let Some(begins) = heard.next().await else {
                warn!("the connection to the system bus is broken");
                break;
            };
            info!(begins, "shutdown manager detected new shutdown event");
            if begins {
                self.tell("Shutdown manager detected shutdown event");
                let since = self.deps.clock.now().mono;
                self.deps.announced.send_replace(Some(Shutdown { since }));
                self.end_pods().await;
                // The machine goes on.
                lock = None;
            } else {
                self.tell("Shutdown manager detected shutdown cancellation");
                self.deps.announced.send_replace(None);
                match session.inhibit().await {
                    Ok(taken) => lock = Some(taken),
                    Err(error) => {
                        let error = error_chain(&error);
                        warn!(error, "the lock that holds shutdowns back is taken anew");
                        break;
                    }
                }
            }
        }
        drop(lock);
    }

    async fn pause(&self, time: Duration) {
        let clock = self.deps.clock;
        clock.sleep_until(clock.now().mono.after(time)).await;
    }

    fn tell(&self, message: &str) {
        let name = &self.config.node_name;
        self.deps.recorder.node(name, EventType::Normal, event::NODE_SHUTDOWN, message);
    }

    /// Ends the pods, group by group.
    async fn end_pods(&self) {
        let start = self.deps.clock.now().wall;
        let noted = self.note(State { start: Some(start), end: None });
        if tokio::time::timeout(STATE_LIMIT, noted).await.is_err() {
            warn!("the state file of graceful shutdown is late: pods do not wait for it");
        }

        let views = self.deps.pods.views().into_iter();
        let pods: Vec<Arc<Pod>> = views.filter(PodView::is_active).map(|view| view.pod).collect();
        for (group, own) in groups::plan(&self.config.groups, &pods) {
            let count = own.len();
            // Each is stopped, however short the group's time is.
            let stopped = join_all(own.iter().map(|pod| self.stop(group, pod))).await;
            let all = join_all(stopped.into_iter().flatten().map(has_ended));
            // What has not ended by then goes on ending beside the next group.
            let deadline = self.deps.clock.now().mono.after(group.grace);
            let ended = tokio::select! {
                _ = all => true,
                () = self.deps.clock.sleep_until(deadline) => false,
            };
            let Group { priority, grace } = group;
            info!(priority, ?grace, count, ended, "a group of pods was ended");
        }

        let end = self.deps.clock.now().wall;
        self.note(State { start: Some(start), end: Some(end) }).await;
        info!("every pod had its time to end: the machine may go on");
    }

    /// Has a pod stopped, and returns what shows its end; `None` if nothing of it is left.
    async fn stop(&self, group: Group, one: &Pod) -> Option<watch::Receiver<PodView>> {
        let uid = pod::uid(one);
        let view = self.deps.pods.watch(&uid);
        let cause =
            TerminationCause::Evicted { reason: REASON.to_owned(), message: MESSAGE.to_owned() };
        let grace = groups::grace(group, one);
        debug!(pod = %pod::key(one), ?grace, "shutdown manager killing pod with gracePeriod");
        let is_here = self.deps.pods.stop(uid, cause, grace).await;
        view.filter(|_| is_here)
    }

    /// Shows the times of the last shutdown in the metrics.
    async fn show_last(&self) {
        let Some(path) = self.config.state_file.clone() else { return };
        let read = blocking::spawn(move || State::read(&path)).await;
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(state) => self.show(state),
            Err(error) => warn!(%error, "failed to load graceful shutdown state"),
        }
    }

    fn show(&self, state: State) {
        let seconds = |time: Option<Timestamp>| time.map_or(0.0, whole_seconds);
        self.deps.metrics.start.set(seconds(state.start));
        self.deps.metrics.end.set(seconds(state.end));
    }

    /// Writes the state file, and shows the state in the metrics.
    async fn note(&self, state: State) {
        let Some(path): Option<PathBuf> = self.config.state_file.clone() else { return };
        let written = blocking::spawn(move || state.write(&path)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            warn!(%error, "failed to store graceful shutdown state");
        }
        self.show(state);
    }
}

/// Waits until a pod's containers have ended and its volumes are unmounted.
async fn has_ended(mut view: watch::Receiver<PodView>) {
    // An error: its task has ended, and nothing of it is left.
    view.wait_for(PodView::is_cleaned_up).await.ok();
}

/// Returns the whole seconds since the epoch.
#[expect(clippy::cast_precision_loss, reason = "a gauge; exact for millions of years")]
fn whole_seconds(time: Timestamp) -> f64 {
    time.as_second() as f64
}
