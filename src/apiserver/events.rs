//! Events of the API. Everybody holds a [`Recorder`]; one task (`events_task`) aggregates and
//! writes.
//!
//! Recording never waits and never fails the caller: when the bounded queue is full the event is
//! dropped and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::model::pod::{self, ContainerKind};
use crate::model::{EventType, Pod};

/// How many events may wait for the writer; upstream's broadcaster queues 1000.
const QUEUE: usize = 1000;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvolvedObject {
    /// `v1`.
    pub api_version: String,
    /// `Pod` or `Node`.
    pub kind: String,
    /// Empty for a node.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID; for a node upstream uses its name.
    pub uid: String,
    /// The resource version of a pod as the recorder's caller saw it.
    pub resource_version: String,
    /// `spec.containers{name}` or empty.
    pub field_path: String,
}

impl InvolvedObject {
    /// Names a pod, or one of its containers.
    fn pod(pod: &Pod, container: Option<(ContainerKind, &str)>) -> Self {
        let metadata = &pod.metadata;
        Self {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            field_path: container
                .map(|(kind, name)| pod::field_path(kind, name))
                .unwrap_or_default(),
        }
    }
}

/// One event as recorded, before aggregation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub object: InvolvedObject,
    /// Normal or Warning.
    pub event_type: EventType,
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
    /// Annotations, usually none.
    pub annotations: BTreeMap<String, String>,
}

/// Records events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// A recorder and the queue that its writer drains.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue, dropped: Arc::default() }, receiver)
    }

    /// Records an event; drops it when the queue is full.
    pub fn record(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records an event about a pod or one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<(ContainerKind, &str)>,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(Event {
            object: InvolvedObject::pod(pod, container),
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            annotations: BTreeMap::new(),
        });
    }

    /// Records an event about a pod, with annotations.
    pub fn annotated(
        &self,
        pod: &Pod,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
        annotations: BTreeMap<String, String>,
    ) {
        self.record(Event {
            object: InvolvedObject::pod(pod, None),
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            annotations,
        });
    }

    /// Records an event about the node.
    pub fn node(
        &self,
        node_name: &str,
        event_type: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let object = InvolvedObject {
            api_version: "v1".into(),
            kind: "Node".into(),
            namespace: String::new(),
            name: node_name.to_owned(),
            uid: node_name.to_owned(),
            resource_version: String::new(),
            field_path: String::new(),
        };
        self.record(Event {
            object,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            annotations: BTreeMap::new(),
        });
    }

    /// How many events were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
