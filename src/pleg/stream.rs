//! Reads the runtime's event stream and does nothing but mark pods: a runtime blocks its own calls
//! while a subscriber's queue is full (invariant 9). In: the stream. Out: the dirty set, and
//! whether the stream is up.
//!
//! Opening may give no answer before the first event, so a stream that has not been refused for a
//! second counts as up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::dirty::Look;
use super::{Measure, Observation, Observer, Shared};
use crate::cri::condition::RuntimeIdentity;
use crate::cri::{CriError, Runtime, v1};
use crate::model::{ContainerId, ContainerState, PodUid, SandboxId, SandboxState};

/// A stream that has not been refused for this long is up.
const OPENED_AFTER: Duration = Duration::from_secs(1);
/// How long after a loss it is opened again, at first and at most.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
const REOPEN_LAST: Duration = Duration::from_secs(10);
/// How long a stream that has missed events is left alone.
const DISTRUST: Duration = Duration::from_secs(60);

/// The reader.
pub(super) struct Reader {
    pub(super) runtime: Runtime,
    pub(super) shared: Arc<Shared>,
    pub(super) observer: Observer,
    /// Whether the stream is up.
    pub(super) up: watch::Sender<bool>,
    /// Changes when events were found to be missing.
    pub(super) distrusted: watch::Receiver<u64>,
}

/// Why the stream is not read any more.
enum End {
    /// Lost or refused for now.
    Lost,
    /// This runtime has none that is of use.
    Useless,
    /// It misses events.
    Distrusted,
}

impl Reader {
    /// Reads for ever; may be dropped at any await.
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
                // Both only wait: dropping one loses nothing.
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
                Some(event) => self.note(&event),
                None => return Ok(()),
            }
        }
    }

    /// Marks what the event is about, unless it is known already.
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
                // Of something that is not known, or is gone already: a deletion of it changes
                // nothing.
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
            look.sandbox(&SandboxId::new(id));
        } else {
            look.container(&ContainerId::new(id), sandbox_id.map(SandboxId::new).as_ref());
        }
        self.shared.dirty.mark(&uid, look);
    }

    /// Whose container or sandbox that is.
    fn owner(&self, id: &str) -> Option<PodUid> {
        let pods = self.shared.pods.lock();
        let owns = |observation: &Observation| {
            observation.pod.containers.iter().any(|container| container.id.as_str() == id)
                || observation.pod.sandboxes.iter().any(|sandbox| sandbox.id.as_str() == id)
        };
        pods.iter().find(|(_, entry)| owns(&entry.observation.borrow())).map(|(uid, _)| uid.clone())
    }
}

/// Whether an event tells nothing new. What a call of our own has just made will be read when the
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

async fn reconnected(connection: &mut watch::Receiver<crate::cri::client::Connection>) {
    let before = connection.borrow_and_update().opened;
    if connection.wait_for(|connection| connection.opened != before).await.is_err() {
        std::future::pending::<()>().await;
    }
}
