//! Writes the events that [`super::events::Recorder`] queues: a moment later, one at a time,
//! correlated, tried again for two minutes.
//!
//! The queue is drained at all times, so that every event carries the moment at which it was
//! recorded even while the API server is away; what does not fit into the backlog is dropped,
//! oldest last. Never in anybody's way.

use std::collections::VecDeque;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::client::Clients;
use super::correlate::{Correlator, Observation, Verdict};
use super::events::Event;
use super::failure::{self, FailureKind};
use super::random;
use crate::clock::Clock;
use crate::model::{EventType, Mono, Now, StartBacklog};

/// What the events name as their source.
const COMPONENT: &str = "kubelet";
/// How long after it was recorded an event is written. Most are about a pod that is just being
/// started, and the API server's work for them would slow the start; the event itself carries the
/// moment of recording.
const HOLD: Duration = Duration::from_millis(500);
/// The same of an event that nothing is wrong with, while pods wait for their start: longer than a
/// burst of 50 takes.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
/// Events that wait to be written.
const BACKLOG: usize = 1000;
/// How often a write is tried, as upstream.
const ATTEMPTS: u32 = 12;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between two attempts, as upstream.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The parts of the kubelet that the writer is made with.
#[derive(Clone, Debug)]
pub struct Deps<'a> {
    /// How the API server is reached; none: events are only logged (standalone).
    pub clients: Option<&'a Clients>,
    /// What the events name as their source's host: the node.
    pub host: &'a str,
    /// The time.
    pub clock: Clock,
    /// Whether pods wait for their start.
    pub backlog: StartBacklog,
}

/// Makes the task that writes the events of `queue`.
pub fn new(
    deps: Deps<'_>,
    queue: mpsc::Receiver<Event>,
) -> impl Future<Output = ()> + Send + use<> {
    let writer = Writer {
        client: deps.clients.map(|clients| clients.events.clone()),
        host: deps.host.to_owned(),
        clock: deps.clock,
        backlog: deps.backlog,
        correlator: Correlator::default(),
    };
    // Boxed: it holds whole events across its waits.
    Box::pin(run(writer, queue))
}

async fn run(mut writer: Writer, mut queue: mpsc::Receiver<Event>) {
    let mut backlog: VecDeque<(Event, Now)> = VecDeque::new();
    let mut dropped = 0_u64;
    loop {
        let Some((event, at)) = backlog.pop_front() else {
            // The room of a burst is not kept for the next.
            backlog.shrink_to(0);
            match queue.recv().await {
                Some(event) => {
                    backlog.push_back((event, writer.clock.now()));
                    continue;
                }
                // Nobody can record any more.
                None => std::future::pending().await,
            }
        };
        let clock = writer.clock;
        let mut write = Box::pin(writer.write(event, at));
        let mut open = true;
        // Cancel-safe: the write is kept across turns, and `recv` loses nothing.
        loop {
            tokio::select! {
                () = &mut write => break,
                next = queue.recv(), if open => match next {
                    Some(event) if backlog.len() < BACKLOG => {
                        backlog.push_back((event, clock.now()));
                    }
                    Some(_) => {
                        dropped += 1;
                        if dropped.is_power_of_two() {
                            tracing::warn!(dropped, "events are dropped: the API server does not take them");
                        }
                    }
                    None => open = false,
                }
            }
        }
    }
}

struct Writer {
    client: Option<kube::Client>,
    host: String,
    clock: Clock,
    backlog: StartBacklog,
    correlator: Correlator,
}

impl Writer {
    /// Waits until an event that was recorded at `at` may be written.
    async fn wait(&self, event: &Event, at: Mono) {
        let mut due = at.after(HOLD);
        self.clock.sleep_until(due).await;
        while event.event_type == EventType::Normal
            && self.backlog.is_on()
            && due < at.after(LONGEST_HOLD)
        {
            due = due.after(HOLD);
            self.clock.sleep_until(due).await;
        }
    }

    async fn write(&mut self, event: Event, at: Now) {
        tracing::debug!(
            object = %format_args!("{}/{}", event.object.namespace, event.object.name),
            kind = event.object.kind,
            field = event.object.field_path,
            event_type = event.event_type.as_str(),
            reason = event.reason,
            message = event.message,
            "Event occurred"
        );

        let Some(client) = self.client.clone() else { return };
        let (mut observation, mut create) = match self.correlator.observe(event, at) {
            Verdict::Create(observation) => (observation, true),
            Verdict::Update(observation) => (observation, false),
            Verdict::Drop => return,
        };

        self.wait(&observation.event, at.mono).await;
        let namespace = namespace(&observation);
        let api: Api<api::Event> = Api::namespaced(client, &namespace);

        for attempt in 1..=ATTEMPTS {
            let result = if create {
                api.create(&PostParams::default(), &self.object(&observation, &namespace)).await
            } else {
                let patch = json!({
                    "count": observation.count,
                    "lastTimestamp": Time(observation.last),
                    "message": observation.event.message,
                });
                api.patch(&observation.name, &PatchParams::default(), &Patch::Strategic(patch))
                    .await
            };

            let Err(error) = result else {
                self.correlator.written(&observation, self.clock.now().mono);
                return;
            };
            match failure::kind(&error) {
                // The API server has forgotten it.
                FailureKind::NotFound if !create => {
                    observation = Correlator::renamed(&observation, self.clock.now());
                    create = true;
                }
                // An attempt whose answer was lost has made it.
                FailureKind::AlreadyExists => {
                    self.correlator.written(&observation, self.clock.now().mono);
                    return;
                }
                FailureKind::Busy | FailureKind::Unknown => {
                    let wait = LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << attempt.min(8)));
                    tokio::time::sleep(random::jitter(wait, 0.2)).await;
                }
                FailureKind::NotFound
                | FailureKind::Conflict
                | FailureKind::Forbidden
                | FailureKind::Gone
                | FailureKind::Invalid => {
                    let error = failure::text(&error);
                    tracing::debug!(error, "the API server refuses an event");
                    return;
                }
            }
        }

        tracing::warn!(
            reason = observation.event.reason,
            "an event could not be written and is dropped"
        );
    }

    fn object(&self, observation: &Observation, namespace: &str) -> api::Event {
        let Observation { event, name, count, first, last, .. } = observation;
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        api::Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                annotations: (!event.annotations.is_empty()).then(|| event.annotations.clone()),
                ..ObjectMeta::default()
            },
            involved_object: api::ObjectReference {
                api_version: text(&event.object.api_version),
                kind: text(&event.object.kind),
                namespace: text(&event.object.namespace),
                name: text(&event.object.name),
                uid: text(&event.object.uid),
                resource_version: text(&event.object.resource_version),
                field_path: text(&event.object.field_path),
            },
            type_: Some(event.event_type.as_str().to_owned()),
            reason: Some(event.reason.clone()),
            message: Some(event.message.clone()),
            count: Some(*count),
            first_timestamp: Some(Time(*first)),
            last_timestamp: Some(Time(*last)),
            source: Some(api::EventSource {
                component: Some(COMPONENT.to_owned()),
                host: Some(self.host.clone()),
            }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.host.clone()),
            ..api::Event::default()
        }
    }
}

/// Events about a node live in the default namespace.
fn namespace(observation: &Observation) -> String {
    let namespace = &observation.event.object.namespace;
    if namespace.is_empty() { "default".to_owned() } else { namespace.clone() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::{Deps, new};
    use crate::apiserver::events::Recorder;
    use crate::apiserver::fake::FakeApi;
    use crate::clock::Clock;
    use crate::model::{EventType, Pod, StartBacklog};

    fn pod() -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}}),
        )
        .expect("a pod")
    }

    #[tokio::test(start_paused = true)]
    async fn writes_counts_and_survives_an_outage() {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let fake = FakeApi::new(clock);
        let mut tasks = JoinSet::new();
        let (recorder, queue) = Recorder::channel();
        let clients = fake.clients("n");
        let parts =
            Deps { clients: Some(&clients), host: "n", clock, backlog: StartBacklog::default() };
        tasks.spawn(new(parts, queue));
        fake.set_down(true);
        let container = Some((crate::model::ContainerKind::Main, "c"));
        recorder.pod(&pod(), container, EventType::Normal, "Pulled", "pulled");
        recorder.pod(&pod(), container, EventType::Normal, "Pulled", "pulled");
        tokio::time::sleep(Duration::from_secs(20)).await;
        fake.set_down(false);
        let event = fake
            .wait_for("api/v1/events", |events| {
                events.iter().find(|event| event["count"] == 2).cloned()
            })
            .await;
        assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{c}");
        assert_eq!(
            event["firstTimestamp"], "1970-01-01T00:00:00Z",
            "the moment of recording, not of writing"
        );
        assert_eq!(
            (&event["source"]["component"], &event["reportingInstance"]),
            (&"kubelet".into(), &"n".into())
        );
        assert_eq!(fake.list("api/v1/events").len(), 1);
        recorder.node("n", EventType::Normal, "Starting", "Starting kubelet.");
        let about_node = |events: &[serde_json::Value]| {
            events.iter().find(|e| e["reason"] == "Starting").cloned()
        };
        let event = fake.wait_for("api/v1/events", about_node).await;
        assert_eq!(event["metadata"]["namespace"], "default");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_the_server_forgot_is_made_anew() {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let fake = FakeApi::new(clock);
        let mut tasks = JoinSet::new();
        let (recorder, queue) = Recorder::channel();
        let clients = fake.clients("n");
        let parts =
            Deps { clients: Some(&clients), host: "n", clock, backlog: StartBacklog::default() };
        tasks.spawn(new(parts, queue));
        recorder.pod(&pod(), None, EventType::Normal, "Killing", "m");
        let first = fake.wait_for("api/v1/events", |events| events.first().cloned()).await;
        fake.remove("api/v1/events", "d", first["metadata"]["name"].as_str().expect("a name"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        recorder.pod(&pod(), None, EventType::Normal, "Killing", "m");
        let second = fake.wait_for("api/v1/events", |events| events.first().cloned()).await;
        assert_eq!(second["count"], 2);
        assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    }
}
