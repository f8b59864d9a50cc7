//! Reads the runtime's event stream and marks the pods that it names.
//!
//! In: the stream. Out: the dirty set, and whether the stream is up. It never does more than mark:
//! a runtime blocks its own calls while a subscriber's queue is full (invariant 9).
//!
//! A runtime may give no answer to the opening call before the first event. A stream that has not
//! been refused for a second therefore counts as up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::dirty::Look;
use super::{Measure, Observation, Observer, Shared};
use crate::clock::Clock;
use crate::cri::condition::RuntimeIdentity;
use crate::cri::{CriError, Runtime, v1};
use crate::model::{ContainerId, ContainerState, PodUid, SandboxId, SandboxState};

/// A stream that has not been refused for this long is up.
const OPENED_AFTER: Duration = Duration::from_secs(1);
/// The wait after the first loss of the stream; it doubles with each loss.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
/// The longest wait after a loss.
const REOPEN_LAST: Duration = Duration::from_secs(10);
/// The time without a stream after it has missed events.
const DISTRUST: Duration = Duration::from_secs(60);

/// The reader of the stream.
pub(super) struct Reader {
    pub(super) runtime: Runtime,
    pub(super) shared: Arc<Shared>,
    pub(super) observer: Observer,
    pub(super) clock: Clock,
    /// True while the stream is up.
    pub(super) up: watch::Sender<bool>,
    /// Changes when relists found that events are missing.
    pub(super) distrusted: watch::Receiver<u64>,
}

/// The reason why reading the stream ended.
enum End {
    /// The stream was lost, or refused for now.
    Lost,
    /// The runtime has no stream that is of use.
    Useless,
    /// The stream misses events.
    Distrusted,
}

impl Reader {
    /// Reads for ever. May be dropped at any await.
    pub(super) async fn run(mut self) {
        let mut wait = REOPEN_FIRST;
        loop {
            let mut connection = self.runtime.connection();
            let end = self.follow().await;

            if self.up.send_replace(false) {
                wait = REOPEN_FIRST;
                (self.observer)(Measure::StreamLost);
                self.shared.dirty.mark_all();
            }

            match end {
                // Both branches only wait: dropping one loses nothing.
                End::Lost => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = reconnected(&mut connection) => wait = REOPEN_FIRST,
                },
                End::Distrusted => tokio::time::sleep(DISTRUST).await,
                End::Useless => reconnected(&mut connection).await,
            }

            wait = (wait * 2).min(REOPEN_LAST);
        }
    }

    /// Opens the stream and reads it to its end.
    async fn follow(&mut self) -> End {
        let version =
            self.runtime.version(v1::VersionRequest { version: "0.1.0".to_owned() }).await;
        let Ok(version) = version else { return End::Lost };
        let identity = RuntimeIdentity {
            name: version.runtime_name,
            version: version.runtime_version,
            api_version: version.runtime_api_version,
        };

        if !identity.has_event_stream() {
            tracing::info!(
                runtime = identity.node_info(),
                "the runtime's event stream is not used"
            );
            return End::Useless;
        }

        self.distrusted.mark_unchanged();
        let mut distrusted = self.distrusted.clone();
        tokio::select! {
            end = self.drain() => match end {
                Err(error) if error.is_unimplemented() => End::Useless,
                Ok(()) | Err(_) => End::Lost,
            },
            Ok(()) = distrusted.changed() => End::Distrusted,
        }
    }

    async fn drain(&self) -> Result<(), CriError> {
        let opening = self.runtime.container_events();
        tokio::pin!(opening);
        let opened = tokio::select! {
            opened = &mut opening => Some(opened?),
            () = tokio::time::sleep(OPENED_AFTER) => None,
        };
        self.up.send_replace(true);
        (self.observer)(Measure::StreamUp);

        let mut stream = match opened {
            Some(stream) => stream,
            None => opening.await?,
        };

        loop {
            let event = stream.message().await;
            match event.map_err(|status| CriError::from_status("GetContainerEvents", &status))? {
                Some(event) => {
                    let age = self.age(&event);
                    (self.observer)(Measure::EventAge(age));
                    self.note(&event);
                }
                None => return Ok(()),
            }
        }
    }

    /// How long ago the runtime made an event, by its own clock.
    fn age(&self, event: &v1::ContainerEventResponse) -> Duration {
        let now = self.clock.now().wall.as_nanosecond();
        let age = now.saturating_sub(i128::from(event.created_at));
        Duration::from_nanos(u64::try_from(age).unwrap_or_default())
    }

    /// Marks the pod that the event is about, unless the event is known already.
    fn note(&self, event: &v1::ContainerEventResponse) {
        let id = event.container_id.as_str();
        let named = event.pod_sandbox_status.as_ref();
        let uid = named
            .and_then(|sandbox| sandbox.metadata.as_ref())
            .map(|metadata| metadata.uid.as_str());
        let uid = match uid.filter(|uid| !uid.is_empty()) {
            Some(uid) => PodUid::new(uid),
            None => match self.owner(id) {
                Some(uid) => uid,
                // The container is unknown, or gone already: its deletion changes nothing.
                None if event.container_event_type()
                    == v1::ContainerEventType::ContainerDeletedEvent =>
                {
                    return;
                }
                None => return self.shared.dirty.mark_all(),
            },
        };

        let observation = self.shared.entry(&uid, |entry| entry.observation.borrow().clone());
        let sandbox_id = named.map(|sandbox| sandbox.id.as_str());
        if known_already(&observation, id, event.container_event_type()) {
            return;
        }

        let mut look = Look::default();
        if sandbox_id == Some(id)
            || observation.pod.sandboxes.iter().any(|sandbox| sandbox.id.as_str() == id)
        {
            look.add_sandbox(&SandboxId::new(id));
        } else {
            look.add_container(&ContainerId::new(id), sandbox_id.map(SandboxId::new).as_ref());
        }
        self.shared.dirty.mark(&uid, look);
    }

    /// Returns the pod that the container or sandbox with this id belongs to.
    fn owner(&self, id: &str) -> Option<PodUid> {
        let pods = self.shared.pods.lock();
        let owns = |observation: &Observation| {
            observation.pod.containers.iter().any(|container| container.id.as_str() == id)
                || observation.pod.sandboxes.iter().any(|sandbox| sandbox.id.as_str() == id)
        };
        pods.iter().find(|(_, entry)| owns(&entry.observation.borrow())).map(|(uid, _)| uid.clone())
    }
}

/// Returns true if the event brings nothing new. The effect of a call of our own is read when the
/// call ends.
fn known_already(observation: &Observation, id: &str, kind: v1::ContainerEventType) -> bool {
    let ours = observation.in_flight > 0 || !observation.fresh;
    let container = observation.pod.containers.iter().find(|container| container.id.as_str() == id);
    let sandbox = observation.pod.sandboxes.iter().find(|sandbox| sandbox.id.as_str() == id);

    match kind {
        v1::ContainerEventType::ContainerCreatedEvent => {
            ours || container.is_some() || sandbox.is_some()
        }
        v1::ContainerEventType::ContainerStartedEvent => {
            match container.map(|container| &container.state) {
                Some(ContainerState::Running { .. } | ContainerState::Exited(_)) => true,
                Some(ContainerState::Created | ContainerState::Unknown) | None => {
                    ours || sandbox.is_some()
                }
            }
        }
        v1::ContainerEventType::ContainerStoppedEvent => {
            container.is_some_and(|container| container.state.exit().is_some())
                || sandbox.is_some_and(|sandbox| sandbox.state == SandboxState::NotReady)
        }
        v1::ContainerEventType::ContainerDeletedEvent => container.is_none() && sandbox.is_none(),
    }
}

/// Waits until the connection to the runtime has been opened anew.
async fn reconnected(connection: &mut watch::Receiver<crate::cri::client::Connection>) {
    let before = connection.borrow_and_update().opened;
    if connection.wait_for(|connection| connection.opened != before).await.is_err() {
        std::future::pending::<()>().await;
    }
}
