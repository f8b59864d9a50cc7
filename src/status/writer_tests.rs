//! The writer against a scripted API server, in paused time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{Failure, StatusApi, Target};
use super::queue::HOLD;
use super::{Acked, Handle, StatusUpdate, Writer};
use crate::apiserver::connectivity::Connectivity;
use crate::clock::Clock;
use crate::model::{Pod, PodUid, StartBacklog, Wall};

/// The failure of a call, from a script.
#[derive(Clone, Copy, Debug)]
enum Script {
    /// The call succeeds, and the answer is lost.
    LoseAnswer,
    /// The call does not arrive.
    LoseRequest,
    /// 409.
    Conflict,
    /// 403.
    Refuse,
}

/// An API server in memory: objects by name, a log of calls, scripted failures, a delay for each
/// call.
#[derive(Clone, Debug, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    version: u64,
    log: Vec<String>,
    script: VecDeque<Script>,
    in_flight: BTreeMap<String, usize>,
    delay: Duration,
}

fn refusal(target: &Target, code: u16) -> Failure {
    let status = kube::core::Status::failure("scripted", "Scripted").with_code(code).boxed();
    let (target, source) = (target.clone(), kube::Error::Api(status));
    if code == 409 {
        Failure::Conflict { target, source }
    } else {
        Failure::Refused { target, source }
    }
}

impl Server {
    fn put(&self, name: &str, uid: &str, status: Value) -> Arc<Pod> {
        let mut state = self.0.lock();
        state.version += 1;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": state.version.to_string()},
            "spec": {"containers": [{"name": "c"}]}, "status": status}))
        .expect("a pod");
        state.pods.insert(name.to_owned(), pod.clone());
        Arc::new(pod)
    }

    /// As the watch would show it now.
    fn watched(&self, name: &str) -> Arc<Pod> {
        Arc::new(self.0.lock().pods[name].clone())
    }

    fn phase(&self, name: &str) -> Option<String> {
        self.0.lock().pods.get(name)?.status.as_ref()?.phase.clone()
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().log)
    }

    fn script(&self, steps: &[Script]) {
        self.0.lock().script.extend(steps.iter().copied());
    }

    /// Begins a call: at most one may be in flight for a pod.
    async fn begin(&self, target: &Target, line: String) -> Option<Script> {
        let delay = {
            let mut state = self.0.lock();
            let count = state.in_flight.entry(target.name.clone()).or_default();
            *count += 1;
            assert_eq!(*count, 1, "two calls in flight for {}", target.name);
            state.log.push(line);
            state.delay
        };
        tokio::time::sleep(delay).await;
        let mut state = self.0.lock();
        state.in_flight.insert(target.name.clone(), 0);
        state.script.pop_front()
    }
}

/// Lists of conditions merge, everything else is replaced: as much of a strategic merge as these
/// tests need.
fn apply(status: &mut Value, patch: &Value) {
    let fields = status.as_object_mut().expect("an object");
    for (name, value) in patch.as_object().expect("an object") {
        if name.starts_with('$') {
            continue;
        }
        if name == "conditions" {
            let list = fields
                .entry("conditions")
                .or_insert_with(|| json!([]))
                .as_array_mut()
                .expect("a list");
            for change in value.as_array().expect("a list") {
                list.retain(|other| other["type"] != change["type"]);
                if change.get("$patch").is_none() {
                    list.push(change.clone());
                }
            }
        } else if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
}

impl StatusApi for Server {
    async fn patch_status(&self, target: &Target, patch: &Value) -> Result<Pod, Failure> {
        let phase = patch["status"]["phase"].as_str().unwrap_or("-");
        let script = self.begin(target, format!("PATCH {} {phase}", target.name)).await;
        let unknown = || Failure::Unknown { target: target.clone(), source: None };
        match script {
            Some(Script::LoseRequest) => return Err(unknown()),
            Some(Script::Conflict) => return Err(refusal(target, 409)),
            Some(Script::Refuse) => return Err(refusal(target, 403)),
            Some(Script::LoseAnswer) | None => {}
        }
        let mut state = self.0.lock();
        state.version += 1;
        let version = state.version.to_string();
        let Some(pod) = state.pods.get_mut(&target.name) else {
            return Err(Failure::NotFound { target: target.clone() });
        };
        if pod.metadata.uid.as_deref() != patch["metadata"]["uid"].as_str() {
            return Err(refusal(target, 409));
        }
        let mut status =
            serde_json::to_value(pod.status.clone().unwrap_or_default()).expect("JSON");
        apply(&mut status, &patch["status"]);
        pod.status = Some(serde_json::from_value(status).expect("a status"));
        pod.metadata.resource_version = Some(version);
        match script {
            Some(_) => Err(unknown()),
            None => Ok(pod.clone()),
        }
    }

    async fn get(&self, target: &Target) -> Result<Pod, Failure> {
        self.begin(target, format!("GET {}", target.name)).await;
        let state = self.0.lock();
        state
            .pods
            .get(&target.name)
            .cloned()
            .ok_or_else(|| Failure::NotFound { target: target.clone() })
    }

    async fn delete(&self, target: &Target) -> Result<(), Failure> {
        let script = self.begin(target, format!("DELETE {}", target.name)).await;
        let unknown = || Failure::Unknown { target: target.clone(), source: None };
        if matches!(script, Some(Script::LoseRequest)) {
            return Err(unknown());
        }
        let mut state = self.0.lock();
        match state.pods.get(&target.name) {
            None => return Err(Failure::NotFound { target: target.clone() }),
            Some(pod) if pod.metadata.uid.as_deref() != Some(&target.uid) => {
                return Err(refusal(target, 409));
            }
            Some(_) => state.pods.remove(&target.name),
        };
        if script.is_some() { Err(unknown()) } else { Ok(()) }
    }
}

struct World {
    server: Server,
    handle: Handle,
    backlog: StartBacklog,
    reach: Connectivity,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let (server, backlog) = (Server::default(), StartBacklog::default());
        let reach = Connectivity::default();
        let clock = Clock::starting_at(Wall::UNIX_EPOCH);
        let (handle, writer) = Writer::new(server.clone(), clock, backlog.clone(), &reach);
        let cancel = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(writer.run(cancel.clone()));
        Self { server, handle, backlog, reach, cancel, task }
    }

    async fn set(&self, pod: &Arc<Pod>, status: Value) -> u64 {
        let status = Arc::new(serde_json::from_value(status).expect("a status"));
        self.handle
            .set(&uid_of(pod), StatusUpdate { pod: Arc::clone(pod), status, is_failing: false })
            .await
    }

    async fn acked(&self, pod: &Pod) -> watch::Receiver<Acked> {
        self.handle.acked(&uid_of(pod)).await
    }

    /// Waits until the version is accepted.
    #[track_caller]
    fn reached(&self, pod: &Pod, version: u64) -> impl Future<Output = ()> {
        let (handle, uid) = (self.handle.clone(), uid_of(pod));
        async move {
            let mut acked = handle.acked(&uid).await;
            let wait = acked.wait_for(|acked| acked.version >= version);
            let outcome = tokio::time::timeout(Duration::from_secs(3600), wait).await;
            assert!(matches!(outcome, Ok(Ok(_))), "version {version} was never accepted");
        }
    }
}

fn uid_of(pod: &Pod) -> PodUid {
    crate::model::pod::uid(pod)
}

fn phase(phase: &str) -> Value {
    json!({"phase": phase})
}

fn deleting(mut pod: Pod) -> Arc<Pod> {
    pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Wall::UNIX_EPOCH));
    Arc::new(pod)
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_is_written_and_one_at_a_time() {
    let world = World::new();
    world.server.0.lock().delay = Duration::from_millis(100);
    let pod = world.server.put("a", "u-a", json!({}));
    world.set(&pod, phase("Pending")).await;
    tokio::time::sleep(HOLD + Duration::from_millis(50)).await;
    let mut last = 0;
    for message in ["one", "two", "three"] {
        last = world.set(&pod, json!({"phase": "Running", "message": message})).await;
    }
    world.reached(&pod, last).await;
    assert_eq!(world.server.log(), ["PATCH a Pending", "PATCH a Running"]);
    let written = world.server.watched("a").status.clone().expect("a status");
    assert_eq!(written.message.as_deref(), Some("three"));
}

#[tokio::test(start_paused = true)]
async fn that_a_pod_waits_is_told_when_no_other_waits_for_its_start() {
    let world = World::new();
    let pods = ["a", "b"].map(|name| world.server.put(name, &format!("u-{name}"), json!({})));
    let waits = world.backlog.wait();
    let waiting = json!({"phase": "Pending", "startTime": "1970-01-01T00:00:00Z"});
    let told = world.set(&pods[0], waiting.clone()).await;
    tokio::time::sleep(HOLD * 4).await;
    assert!(world.server.log().is_empty(), "{:?}", world.server.log());
    drop(waits);
    world.reached(&pods[0], told).await;
    // Not for ever; and what is more than that is told at once.
    let _waits = world.backlog.wait();
    world.set(&pods[1], waiting).await;
    let message = json!({"phase": "Pending", "message": "m", "startTime": "1970-01-01T00:00:00Z"});
    world.set(&pods[0], message).await;
    tokio::time::sleep(HOLD + Duration::from_millis(10)).await;
    assert_eq!(world.server.log(), ["PATCH a Pending", "PATCH a -"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.server.log(), ["PATCH b Pending"]);
}

#[tokio::test(start_paused = true)]
async fn a_first_status_that_tells_of_a_failure_waits_for_nothing() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    let _waits = world.backlog.wait();
    let failing = |status: Value| StatusUpdate {
        pod: Arc::clone(&pod),
        status: Arc::new(serde_json::from_value(status).expect("a status")),
        is_failing: true,
    };
    let waiting = json!({"phase": "Pending", "startTime": "1970-01-01T00:00:00Z"});
    world.set(&pod, waiting.clone()).await;
    tokio::time::sleep(HOLD * 2).await;
    assert!(world.server.log().is_empty(), "{:?}", world.server.log());
    world.handle.set(&uid_of(&pod), failing(waiting)).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.server.log(), ["PATCH a Pending"]);
    // What follows it is held as ever.
    let message = json!({"phase": "Pending", "message": "m", "startTime": "1970-01-01T00:00:00Z"});
    world.handle.set(&uid_of(&pod), failing(message)).await;
    tokio::time::sleep(HOLD * 9 / 10).await;
    assert!(world.server.log().is_empty(), "{:?}", world.server.log());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.server.log(), ["PATCH a -"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_and_nothing_is_written_twice() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", phase("Pending"));
    let version = world.set(&pod, phase("Pending")).await;
    world.reached(&pod, version).await;
    let version = world.set(&pod, phase("Running")).await;
    world.reached(&pod, version).await;
    world.handle.observed(&uid_of(&pod), world.server.watched("a")).await;
    let version = world.set(&pod, phase("Running")).await;
    world.reached(&pod, version).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.log(), ["PATCH a Running"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_followed_by_a_read() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.server.script(&[Script::LoseAnswer]);
    let version = world.set(&pod, phase("Running")).await;
    world.reached(&pod, version).await;
    assert_eq!(world.server.log(), ["PATCH a Running", "GET a"], "it had arrived");
    world.server.script(&[Script::LoseRequest]);
    let version = world.set(&pod, phase("Failed")).await;
    world.reached(&pod, version).await;
    assert_eq!(world.server.log(), ["PATCH a Failed", "GET a", "PATCH a Failed"], "it had not");
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_ever_more_slowly() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.server.script(&[Script::Refuse; 10]);
    let begun = tokio_now();
    let version = world.set(&pod, phase("Running")).await;
    world.reached(&pod, version).await;
    let waited = tokio_now() - begun;
    // 50 ms doubled eight times, then twice ten seconds: 12.75 + 10 + 10, less what the last
    // doubling caps.
    assert!(waited > Duration::from_secs(30) && waited < Duration::from_secs(35), "{waited:?}");
    assert_eq!(world.server.log().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_again_as_soon_as_the_server_is_back() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    // Nine attempts, and a look at what they have done before each but the first.
    world.server.script(&[Script::LoseRequest; 17]);
    let version = world.set(&pod, phase("Running")).await;
    // The tenth would be made some 23 s after the first.
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(world.server.phase("a"), None, "not written yet");
    let begun = tokio_now();
    world.reach.lost();
    world.reach.answered(http::StatusCode::OK);
    world.reached(&pod, version).await;
    let waited = tokio_now() - begun;
    assert!(waited < Duration::from_millis(100), "{waited:?}");
}

#[expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_made_anew_is_left_alone() {
    let world = World::new();
    let old = world.server.put("a", "u-old", json!({}));
    world.server.put("a", "u-new", json!({}));
    world.set(&old, phase("Running")).await;
    let mut acked = world.acked(&old).await;
    acked.wait_for(|acked| acked.is_gone).await.expect("told");
    assert_eq!(world.server.log(), ["PATCH a Running", "GET a"]);
    assert_eq!(world.server.phase("a"), None);
    world.set(&old, phase("Failed")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.server.log().is_empty(), "what is gone is not written");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.server.0.lock().pods.clear();
    world.set(&pod, phase("Running")).await;
    world.acked(&pod).await.wait_for(|acked| acked.is_gone).await.expect("told");
    assert_eq!(world.server.log(), ["PATCH a Running"]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_followed_by_a_read() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.server.script(&[Script::Conflict]);
    let version = world.set(&pod, phase("Running")).await;
    world.reached(&pod, version).await;
    assert_eq!(world.server.log(), ["PATCH a Running", "GET a", "PATCH a Running"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_before_the_deletion() {
    let world = World::new();
    let pod = deleting((*world.server.put("a", "u-a", phase("Running"))).clone());
    world.set(&pod, phase("Succeeded")).await;
    world.handle.delete(&uid_of(&pod), Arc::clone(&pod)).await;
    // The object of the script has no deletion timestamp; the answer to the patch must not undo
    // what the watch said.
    world.server.0.lock().pods.insert("a".into(), (*pod).clone());
    let mut acked = world.acked(&pod).await;
    acked.wait_for(|acked| acked.is_gone).await.expect("told");
    assert!(acked.borrow().is_terminal);
    assert_eq!(world.server.log(), ["PATCH a Succeeded", "DELETE a"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_deletion_is_tried_again() {
    let world = World::new();
    let pod = deleting((*world.server.put("a", "u-a", phase("Failed"))).clone());
    world.server.0.lock().pods.insert("a".into(), (*pod).clone());
    world.server.script(&[Script::LoseAnswer]);
    world.handle.delete(&uid_of(&pod), Arc::clone(&pod)).await;
    world.acked(&pod).await.wait_for(|acked| acked.is_gone).await.expect("told");
    assert_eq!(world.server.log(), ["DELETE a", "GET a"]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_to_delete_stays() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", phase("Succeeded"));
    world.handle.delete(&uid_of(&pod), Arc::clone(&pod)).await;
    let mut mirror = (*world.server.put("m", "u-m", phase("Failed"))).clone();
    mirror.metadata.annotations =
        Some([("kubernetes.io/config.mirror".to_owned(), "hash".to_owned())].into());
    let mirror = deleting(mirror);
    world.handle.delete(&uid_of(&mirror), mirror).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.server.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn ends_and_readiness_go_first() {
    let world = World::new();
    world.server.0.lock().delay = Duration::from_secs(1);
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    // As many as may be in flight, so that the others queue up behind.
    for number in 0..16 {
        let pod = world.server.put(&format!("busy-{number}"), &format!("u-{number}"), json!({}));
        world.set(&pod, phase("Running")).await;
    }
    let other = world.server.put("other", "u-o", json!({}));
    let becoming = world.server.put("ready", "u-r", json!({}));
    let ended = world.server.put("ended", "u-e", json!({}));
    let doomed = deleting((*world.server.put("doomed", "u-d", phase("Failed"))).clone());
    world.server.0.lock().pods.insert("doomed".into(), (*doomed).clone());
    tokio::time::sleep(HOLD + Duration::from_millis(100)).await;
    world.server.log();
    world.set(&other, json!({"message": "m"})).await;
    world.set(&becoming, ready).await;
    world.set(&ended, phase("Succeeded")).await;
    world.handle.delete(&uid_of(&doomed), doomed).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        world.server.log(),
        ["DELETE doomed", "PATCH ended Succeeded", "PATCH ready Running", "PATCH other -"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_others_overwrite_is_set_right() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let version = world.set(&pod, ready).await;
    world.reached(&pod, version).await;
    world.server.log();
    // The node's life-cycle controller says otherwise, and somebody adds a condition of their own.
    let changed = world.server.put(
        "a",
        "u-a",
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}, {"type": "x/y", "status": "True"}]}),
    );
    world.handle.observed(&uid_of(&pod), changed).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.log(), ["PATCH a -"]);
    let status = world.server.watched("a").status.clone().expect("a status");
    let told: Vec<_> =
        status.conditions.iter().flatten().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    assert_eq!(told, [("x/y", "True"), ("Ready", "True")]);
}

#[tokio::test(start_paused = true)]
async fn what_others_overwrite_during_a_write_is_set_right() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.server.0.lock().delay = Duration::from_secs(5);
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let version = world.set(&pod, ready).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.handle.observed(&uid_of(&pod), world.server.put("a", "u-a", phase("Pending"))).await;
    world.reached(&pod, version).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.log(), ["PATCH a Running"], "the answer holds what the watch showed");

    let over = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
    let newest = world.server.put("a", "u-a", over);
    // And when somebody overwrites it later, that is set right too.
    world.handle.observed(&uid_of(&pod), newest).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.log(), ["PATCH a -"]);
}

#[tokio::test(start_paused = true)]
async fn what_others_overwrite_unseen_before_a_write_is_set_right() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let version = world.set(&pod, ready).await;
    world.reached(&pod, version).await;
    world.server.log();

    // The watch is behind: our next write, of something else, follows the other writer's and its
    // answer is newer than all that the watch has to show.
    let over = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
    let overwritten = world.server.put("a", "u-a", over);
    let ready = json!({"phase": "Running", "message": "m",
        "conditions": [{"type": "Ready", "status": "True"}]});
    let version = world.set(&pod, ready).await;
    world.reached(&pod, version).await;
    world.handle.observed(&uid_of(&pod), overwritten).await;
    world.handle.observed(&uid_of(&pod), world.server.watched("a")).await;

    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.server.log(), ["PATCH a -", "PATCH a -"]);
    let status = world.server.watched("a").status.clone().expect("a status");
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    assert_eq!(ready.map(|condition| condition.status.as_str()), Some("True"));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_was_made_anew_is_written_again() {
    let world = World::new();
    let first = world.server.put("m", "u-1", json!({}));
    let uid = PodUid::from("static-uid");
    let status: Arc<api::PodStatus> =
        Arc::new(serde_json::from_value(phase("Running")).expect("a status"));
    let update = |pod: &Arc<Pod>| StatusUpdate {
        pod: Arc::clone(pod),
        status: Arc::clone(&status),
        is_failing: false,
    };
    let version = world.handle.set(&uid, update(&first)).await;
    let mut acked = world.handle.acked(&uid).await;
    acked.wait_for(|acked| acked.version == version).await.expect("told");
    let second = world.server.put("m", "u-2", json!({}));
    world.handle.observed(&uid, second).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.server.log(), ["PATCH m Running", "PATCH m Running"]);
    assert_eq!(acked.borrow().version, version);
}

#[tokio::test(start_paused = true)]
async fn forgetting_ends_it() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.server.script(&[Script::LoseRequest; 50]);
    world.set(&pod, phase("Running")).await;
    let mut acked = world.acked(&pod).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.handle.forget(&uid_of(&pod)).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(acked.changed().await.is_err(), "the channel is closed");
    world.server.log();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(world.server.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_last_writes_are_made_before_the_end() {
    let mut world = World::new();
    world.server.0.lock().delay = Duration::from_millis(500);
    for number in 0..20 {
        let pod = world.server.put(&format!("p-{number}"), &format!("u-{number}"), json!({}));
        world.set(&pod, phase("Succeeded")).await;
    }
    world.cancel.cancel();
    world.task.join_next().await.expect("it ends").expect("without a panic");
    for number in 0..20 {
        assert_eq!(world.server.phase(&format!("p-{number}")).as_deref(), Some("Succeeded"));
    }
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "a test looks at its own paused time")]
async fn what_nobody_waits_for_is_written_with_what_follows() {
    let world = World::new();
    let pod = world.server.put("a", "u-a", json!({}));
    world.set(&pod, json!({"phase": "Pending"})).await;
    tokio::time::sleep(HOLD / 2).await;
    let began = tokio::time::Instant::now();
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let version = world.set(&pod, ready).await;
    world.reached(&pod, version).await;
    assert!(began.elapsed() < HOLD / 4, "what changes the readiness waits for nothing");
    assert_eq!(world.server.log(), ["PATCH a Running"]);
    let ended = world.server.put("b", "u-b", phase("Succeeded"));
    let began = tokio::time::Instant::now();
    let version =
        world.set(&deleting((*ended).clone()), json!({"phase": "Succeeded", "message": "m"})).await;
    world.reached(&ended, version).await;
    assert!(began.elapsed() < HOLD / 4, "somebody waits for the deletion");
    // What is held when the process ends is not lost.
    world
        .set(&pod, json!({"phase": "Running", "message": "m", "conditions": [{"type": "Ready", "status": "True"}]}))
        .await;
    world.server.log();
    world.cancel.cancel();
    tokio::time::sleep(HOLD / 4).await;
    assert_eq!(world.server.log(), ["PATCH a -"]);
}
