//! The laws of a pod's task, with an executor whose actions end when the test says so, and as it
//! says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::super::execute::{Completion, Context, Execute, Outcome};
use super::super::memory;
use super::super::memory::facts::{Config, Recorded};
use super::super::memory::known::Preparation;
use super::super::plan::types::{Action, Key, Notice};
use super::super::report::{Milestone, Picture, Published, Report};
use super::{Feeds, Start, Worker};
use crate::clock::Clock;
use crate::dispatch::{Directive, Ended, Resize};
use crate::model::reason::event;
use crate::model::{
    Lifecycle, ObservedPod, ObservedSandbox, Pod, SandboxId, SandboxState, VolumesState, Wall,
};
use crate::pleg::Observation;
use crate::status::Acked;

/// How an action is to end.
enum End {
    Done { outcome: Outcome, mutated: bool },
    Panic,
}

#[derive(Default)]
struct Fake {
    /// Actions that have begun and not ended.
    open: Mutex<Vec<(Key, oneshot::Sender<End>)>>,
    /// Every action that has begun.
    begun: Mutex<Vec<Key>>,
    /// Per announcement of the end: whether the object was to be deleted.
    announced: Mutex<Vec<bool>>,
    /// The waits that were reported.
    blocked: Mutex<Vec<String>>,
    /// What tells the actions that have begun that the pod stops.
    stops: Mutex<Vec<CancellationToken>>,
    /// Whether other pods wait.
    backlog: AtomicBool,
}

impl Execute for Fake {
    async fn execute(&self, key: Key, _action: Action, context: Context) -> Completion {
        self.stops.lock().push(context.stop);
        let (sender, end) = oneshot::channel();
        self.begun.lock().push(key.clone());
        self.open.lock().push((key.clone(), sender));
        match end.await {
            Ok(End::Done { outcome, mutated }) => Completion { key, outcome: Ok(outcome), mutated },
            Ok(End::Panic) => panic!("asked to"),
            Err(_) => std::future::pending().await,
        }
    }
}

impl Report for Fake {
    async fn acked(&self) -> watch::Receiver<Acked> {
        watch::channel(Acked::default()).1
    }

    async fn mirror_changed(&self) {
        std::future::pending::<()>().await;
    }

    fn has_backlog(&self) -> bool {
        self.backlog.load(Ordering::Relaxed)
    }

    async fn milestone(&self, pod: &Arc<Pod>, milestone: Milestone) {
        if milestone == Milestone::Finished {
            self.announced.lock().push(pod.metadata.deletion_timestamp.is_some());
        }
    }

    fn notice(&self, _pod: &Arc<Pod>, notice: &Notice) {
        if notice.reason == event::POD_BLOCKED {
            self.blocked.lock().push(notice.message.clone());
        }
    }

    async fn publish(&self, _picture: &Picture<'_>) -> Published {
        Published { status: Arc::new(PodStatus::default()), version: None }
    }
}

struct Bench {
    fake: Arc<Fake>,
    directive: watch::Sender<Directive>,
    observation: watch::Sender<Observation>,
    _volumes: watch::Sender<VolumesState>,
    task: tokio::task::JoinHandle<Ended>,
}

fn observation(fresh: bool) -> Observation {
    let mut observation = Observation::default();
    observation.fresh = fresh;
    observation
}

fn bench(pod: &Arc<Pod>) -> Bench {
    let fake = Arc::<Fake>::default();
    let (directive, directives) = watch::channel(Directive {
        pod: pod.clone(),
        gone: false,
        stop: None,
        resize: Resize::default(),
        room: Vec::new(),
    });
    let (observations, observed) = watch::channel(observation(true));
    let ready = if pod.status.is_some() { VolumesState::Absent } else { VolumesState::Ready };
    let (volumes, states) = watch::channel(ready);
    let memory = memory::Start {
        pod: pod.clone(),
        lifecycle: Lifecycle::Syncing,
        config: Config::default(),
        recorded: Recorded::default(),
        remembered: BTreeMap::new(),
        preparation: Preparation::Absent,
    };
    let start = Start { memory, shutdown: CancellationToken::new() };
    let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
    let (worker, _) = Worker::new(start, fake.clone(), fake.clone(), clock);
    let feeds = Feeds {
        directive: directives,
        observation: observed,
        volumes: states,
        verdicts: watch::channel(Arc::default()).1,
        network_not_ready: watch::channel(None).1,
    };
    #[expect(clippy::disallowed_methods, reason = "a test's task ends with its runtime")]
    let task = tokio::spawn(async move { worker.run(feeds).await.0 });
    Bench { fake, directive, observation: observations, _volumes: volumes, task }
}

impl Bench {
    /// Lets every task come to rest.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn end(&self, key: &Key, end: End) {
        self.settle().await;
        let sender = {
            let mut open = self.fake.open.lock();
            let place = open.iter().position(|(other, _)| other == key).expect("it has begun");
            open.swap_remove(place).1
        };
        assert!(sender.send(end).is_ok(), "it waits for its end");
        self.settle().await;
    }

    fn begun(&self, key: &Key) -> usize {
        self.fake.begun.lock().iter().filter(|other| *other == key).count()
    }
}

fn pod(change: &Value) -> Arc<Pod> {
    let mut value = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always"}]}});
    for (field, part) in change.as_object().expect("an object") {
        for (name, new) in part.as_object().expect("an object") {
            value[field][name] = new.clone();
        }
    }
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn prepared() -> End {
    let prepared = Outcome::Prepared { logged_restarts: BTreeMap::new(), pod: BTreeMap::new() };
    End::Done { outcome: prepared, mutated: false }
}

#[tokio::test(start_paused = true)]
async fn a_mutation_stays_in_flight_until_it_has_been_read() {
    let bench = bench(&pod(&json!({})));
    bench.end(&Key::Prepare, prepared()).await;
    assert_eq!(bench.begun(&Key::NewSandbox), 1);
    // Its end makes what is published stale, before it is told.
    bench.observation.send_if_modified(|observation| {
        observation.fresh = false;
        false
    });
    bench.end(&Key::NewSandbox, End::Done { outcome: Outcome::Done, mutated: true }).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.begun(&Key::NewSandbox), 1, "nothing is planned on a picture from before");
    bench.observation.send_modify(|observation| observation.fresh = true);
    bench.settle().await;
    assert_eq!(bench.begun(&Key::NewSandbox), 2, "it has been read: there is no sandbox");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_an_action_is_a_failure_of_that_action() {
    let bench = bench(&pod(&json!({})));
    bench.end(&Key::Prepare, End::Panic).await;
    assert_eq!(bench.begun(&Key::Prepare), 1, "not at once");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.begun(&Key::Prepare), 2);
    bench.end(&Key::Prepare, prepared()).await;
    assert_eq!(bench.begun(&Key::NewSandbox), 1);
    assert!(!bench.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_after_its_end_is_announced_again() {
    let over = json!({"status": {"phase": "Succeeded"}});
    let bench = bench(&pod(&over));
    bench.settle().await;
    assert_eq!(*bench.fake.announced.lock(), [false]);
    let deleted = json!({"status": {"phase": "Succeeded"}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    bench.directive.send_modify(|directive| directive.pod = pod(&deleted));
    bench.settle().await;
    assert_eq!(*bench.fake.announced.lock(), [false, true]);
    bench.directive.send_modify(|directive| directive.gone = true);
    assert_eq!(bench.task.await.expect("no panic"), Ended::Gone);
    assert!(bench.fake.begun.lock().is_empty(), "nothing of it was ever started");
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_reported_once_after_it_has_lasted() {
    let bench = bench(&pod(&json!({})));
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(bench.fake.blocked.lock().is_empty());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        *bench.fake.blocked.lock(),
        ["waiting for cgroup for 10 s: the pod's cgroup and directories"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_told_when_the_pod_stops() {
    let bench = bench(&pod(&json!({})));
    bench.end(&Key::Prepare, prepared()).await;
    assert!(
        bench.begun(&Key::NewSandbox) == 1
            && bench.fake.stops.lock().iter().all(|stop| !stop.is_cancelled())
    );
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    bench.directive.send_modify(|directive| directive.pod = pod(&deleted));
    bench.settle().await;
    assert!(bench.fake.stops.lock().iter().all(CancellationToken::is_cancelled));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_pod_gives_way_to_others_within_bounds() {
    let bench = bench(&pod(&json!({"status": {"phase": "Succeeded"}})));
    let sandbox = ObservedSandbox {
        id: SandboxId::new("s"),
        attempt: 0,
        state: SandboxState::NotReady,
        created_at: Wall::UNIX_EPOCH,
        ips: Vec::new(),
        host_network: false,
        runtime_handler: String::new(),
        is_static: false,
    };
    let observed = ObservedPod { sandboxes: vec![sandbox], ..ObservedPod::default() };
    bench.observation.send_modify(|observation| observation.pod = Arc::new(observed));
    let key = Key::Sandbox(SandboxId::new("s"));
    let stopped = Outcome::SandboxStopped { id: SandboxId::new("s") };
    bench.end(&key, End::Done { outcome: stopped, mutated: false }).await;
    bench.fake.backlog.store(true, Ordering::Relaxed);
    bench.directive.send_modify(|directive| directive.gone = true);
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert_eq!(bench.begun(&key), 1, "it was stopped, and others wait");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.begun(&key), 2, "it does not stay for ever");
}
