//! The laws of the table of pods, with a backend that only writes down what it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Allocated, Backend, Config, Deps, Directive, Dispatch, Ended, Forgetters, Found, FoundPod,
    Give, Launched, PodView, PodsHandle, ReadNode, Resizable, ViewState,
};
use crate::admission::{Features, Rejection, SysctlAllowlist};
use crate::apiserver::events::{Event, Recorder};
use crate::clock::Clock;
use crate::desired::{self, Change};
use crate::model::quantity::Amount;
use crate::model::{
    Lifecycle, NodeFacts, Pod, PodKey, PodUid, ResizeVerdict, TerminationCause, pod,
};
use crate::resources::allocation;
use crate::resources::pod_states::{Entries, PodStates};
use crate::sources::{Source, SourceKind, SourceState};

/// How a fake task is to end.
#[derive(Clone, Copy, Debug)]
enum End {
    Gone,
    Panic,
}

struct Running {
    directive: watch::Receiver<Directive>,
    end: oneshot::Sender<End>,
    view: watch::Sender<PodView>,
}

#[derive(Default)]
struct World {
    /// Every start, in order.
    starts: Vec<(PodUid, Lifecycle)>,
    running: BTreeMap<PodUid, Running>,
    forgotten: Vec<PodUid>,
    /// Pods that something is set aside for, and when that is done.
    allocations: BTreeMap<PodUid, oneshot::Receiver<Allocated>>,
    /// Pods that count no longer.
    released: Vec<PodUid>,
    /// How often the Node object was read.
    reads: usize,
    /// The Node object in the API.
    node: Option<Value>,
}

#[derive(Clone)]
struct Fake {
    world: Arc<Mutex<World>>,
    found: watch::Sender<Option<Found>>,
}

impl Backend for Fake {
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> Launched {
        let (sender, view) = watch::channel(PodView::new(&pod, &lifecycle));
        let (end, ended) = oneshot::channel();
        let uid = pod::uid(&pod);
        self.found.send_if_modified(|found| {
            found.as_mut().is_some_and(|found| found.remove(&uid).is_some())
        });
        let mut world = self.world.lock();
        world.starts.push((uid.clone(), lifecycle));
        world.running.insert(uid, Running { directive, end, view: sender });
        let task = async move {
            match ended.await {
                Ok(End::Gone) => Ended::Gone,
                Ok(End::Panic) => panic!("asked to"),
                Err(_) => Ended::Shutdown,
            }
        };
        Launched { task: Box::pin(task), view }
    }

    fn found(&self) -> watch::Receiver<Option<Found>> {
        self.found.subscribe()
    }
}

impl Give for Fake {
    fn allocate(&self, pod: &Arc<Pod>, _: &[String]) -> Option<BoxFuture<'static, Allocated>> {
        let allocation = self.world.lock().allocations.remove(&pod::uid(pod))?;
        Some(async move { allocation.await.unwrap_or_default() }.boxed())
    }

    fn release(&self, uid: &PodUid) {
        self.world.lock().released.push(uid.clone());
    }
}

struct Bench {
    fake: Fake,
    changes: mpsc::Sender<Change>,
    /// What the one source has.
    source: watch::Sender<SourceState>,
    node: watch::Sender<Option<Arc<NodeFacts>>>,
    handle: PodsHandle,
    allocated: PodStates,
    events: mpsc::Receiver<Event>,
    _merged: mpsc::Receiver<Change>,
    _tasks: JoinSet<()>,
    _shutdown: tokio_util::sync::DropGuard,
}

/// A node with two CPUs.
fn facts() -> NodeFacts {
    let amounts = [("cpu", "2"), ("memory", "4Gi"), ("pods", "10")];
    NodeFacts {
        allocatable: amounts
            .into_iter()
            .map(|(name, text)| (name.to_owned(), Amount::parse(text).expect("an amount")))
            .collect(),
        ..NodeFacts::default()
    }
}

/// A bench with pods that an earlier process has left running, as static pods.
fn bench(found: &[&str]) -> Bench {
    bench_with(found.iter().map(|uid| (PodUid::from(*uid), found_pod(uid, true))).collect())
}

fn bench_with(found: Found) -> Bench {
    bench_of(found, Resizable { whole_pods: true, swap: false }, Entries::new())
}

/// A bench of a node that carries these resizes out, where `allocated` is what an earlier process
/// has kept of what pods were given.
fn bench_of(found: Found, resizes: Resizable, allocated: Entries) -> Bench {
    let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (recorder, events) = Recorder::channel();
    let (source, state) = watch::channel(SourceState::default());
    let sources = vec![Source { kind: SourceKind::Api, state }];
    let deps = desired::Deps { sources, mirrors: None, recorder: recorder.clone(), clock };
    let (desired, merged, merging) = desired::new(deps);
    tasks.spawn(merging);
    let (node, node_facts) = watch::channel(Some(Arc::new(facts())));

    let fake = Fake { world: Arc::default(), found: watch::Sender::new(Some(found)) };
    let mut forget = Forgetters::default();
    let world = Arc::clone(&fake.world);
    forget.add(move |uid: &PodUid| world.lock().forgotten.push(uid.clone()));
    let world = Arc::clone(&fake.world);
    let read_node: ReadNode = Arc::new(move || {
        let mut world = world.lock();
        world.reads += 1;
        let node: Option<Node> =
            world.node.clone().map(|node| serde_json::from_value(node).expect("a node"));
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            node.map(Arc::new)
        }
        .boxed()
    });

    let config = Config {
        node_name: "n".to_owned(),
        sysctls: SysctlAllowlist::default(),
        apparmor: true,
        features: Features { pod_level_resources: true, declared: None },
        resizes,
    };
    let allocated = PodStates::new(allocated);
    let deps = Deps {
        backend: fake.clone(),
        desired,
        node: node_facts,
        read_node: Some(read_node),
        give: Arc::new(fake.clone()),
        allocated: allocated.clone(),
        forget,
        recorder,
        clock,
        shutdown: shutdown.clone(),
    };
    let (dispatch, handle) = Dispatch::new(config, deps);
    let (changes, receiver) = mpsc::channel(16);
    tasks.spawn(dispatch.run(receiver));
    Bench {
        fake,
        changes,
        source,
        node,
        handle,
        allocated,
        events,
        _merged: merged,
        _tasks: tasks,
        _shutdown: shutdown.drop_guard(),
    }
}

impl Bench {
    async fn upsert(&self, pod: &Arc<Pod>) {
        self.changes.send(Change::Upsert(pod.clone())).await.expect("dispatch runs");
        self.settle().await;
    }

    async fn gone(&self, uid: &str) {
        self.changes.send(Change::Gone(uid.into())).await.expect("dispatch runs");
        self.settle().await;
    }

    /// The source has these pods, and has seen all that it will see.
    async fn source_has(&self, pods: &[&Arc<Pod>]) {
        let pods = pods.iter().map(|pod| (pod::uid(pod), Arc::clone(pod))).collect();
        self.source.send_replace(SourceState { ready: true, pods });
        self.settle().await;
    }

    /// Changes the facts of the node.
    async fn node(&self, change: impl FnOnce(&mut NodeFacts)) {
        let mut facts = facts();
        change(&mut facts);
        self.node.send_replace(Some(Arc::new(facts)));
        self.settle().await;
    }

    /// Lets every task come to rest; time is paused, so this takes none.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn end(&self, uid: &str, end: End) {
        let running = self.fake.world.lock().running.remove(&PodUid::from(uid));
        running.expect("it runs").end.send(end).expect("its task waits");
        self.settle().await;
    }

    #[track_caller]
    fn started(&self, uids: &[&str]) {
        let world = self.fake.world.lock();
        let started: Vec<&str> = world.starts.iter().map(|(uid, _)| uid.as_str()).collect();
        assert_eq!(started, uids);
    }

    fn directive(&self, uid: &str) -> Directive {
        self.fake.world.lock().running[&PodUid::from(uid)].directive.borrow().clone()
    }

    fn forgotten(&self) -> Vec<PodUid> {
        self.fake.world.lock().forgotten.clone()
    }

    /// Where the life of a pod began.
    fn first(&self, uid: &str) -> Lifecycle {
        let world = self.fake.world.lock();
        let start = world.starts.iter().find(|(started, _)| started.as_str() == uid);
        start.expect("it was started").1.clone()
    }

    fn rejection(&self, uid: &str) -> Option<String> {
        let first = self.first(uid);
        let terminating = first.terminating()?;
        let TerminationCause::Rejected { reason, .. } = &terminating.cause else { return None };
        Some(reason.clone())
    }
}

/// A pod of the API, changed as JSON.
fn api_pod_with(uid: &str, change: impl FnOnce(&mut Value)) -> Arc<Pod> {
    let mut value = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid},
        "spec": {"containers": [{"name": "c"}]}});
    change(&mut value);
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn api_pod(uid: &str) -> Arc<Pod> {
    api_pod_with(uid, |_| {})
}

/// A pod that asks for CPU.
fn sized(uid: &str, cpu: &str, generation: i64) -> Arc<Pod> {
    api_pod_with(uid, |pod| {
        pod["metadata"]["generation"] = json!(generation);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    })
}

fn static_pod(name: &str, uid: &str) -> Arc<Pod> {
    let value = json!({"metadata": {"name": name, "namespace": "d", "uid": uid,
        "annotations": {"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": uid}},
        "spec": {"containers": [{"name": "c"}]}});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn found_pod(uid: &str, is_running: bool) -> FoundPod {
    FoundPod {
        key: PodKey::new("d", uid),
        containers: vec!["c".into()],
        grace: Duration::from_secs(30),
        is_running,
        is_static: true,
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_an_orphan_before_the_sources_are_ready() {
    let bench = bench(&["left"]);
    let pod = api_pod("a");
    bench.upsert(&pod).await;
    bench.started(&["a"]);
    assert!(bench.handle.known().now_or_never().is_none());
    bench.source_has(&[&pod]).await;
    bench.started(&["a", "left"]);
    assert!(bench.directive("left").gone, "it has no object that could be waited for");
    assert!(matches!(
        bench.first("left"),
        Lifecycle::Terminating(ending) if ending.cause == TerminationCause::Removed
    ));
    assert_eq!(bench.handle.known().now_or_never().map(|known| known.len()), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_change_is_still_queued_is_no_orphan() {
    let bench = bench(&["a", "b"]);
    bench.source_has(&[&api_pod("a"), &api_pod("b")]).await;
    bench.upsert(&api_pod("a")).await;
    bench.started(&["a"]);
    let known = bench.handle.known().await;
    assert!(known.contains(&"b".into()), "what it has on disk is spared, too: {known:?}");
    bench.upsert(&api_pod("b")).await;
    assert!(!bench.directive("b").gone);
    assert_eq!(bench.first("b"), Lifecycle::Syncing);
}

#[tokio::test(start_paused = true)]
async fn generations_of_a_static_pod_never_overlap() {
    let bench = bench(&[]);
    bench.upsert(&static_pod("etcd", "h1")).await;
    bench.gone("h1").await;
    bench.upsert(&static_pod("etcd", "h2")).await;
    bench.started(&["h1"]);
    bench.end("h1", End::Gone).await;
    bench.started(&["h1", "h2"]);
    assert_eq!(bench.forgotten(), ["h1".into()]);
    assert!(bench.handle.by_uid(&"h1".into()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_waits_for_the_end_of_what_ran_under_its_name_before() {
    let bench = bench(&["etcd"]);
    let pod = static_pod("etcd", "h2");
    // No source is ready: the API server may be behind this very pod.
    bench.upsert(&pod).await;
    bench.started(&["etcd"]);
    assert!(bench.directive("etcd").gone);
    bench.upsert(&pod).await;
    bench.started(&["etcd"]);
    bench.end("etcd", End::Gone).await;
    bench.started(&["etcd", "h2"]);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_waits_for_an_orphan_of_its_name() {
    let bench = bench(&["etcd"]);
    bench.source_has(&[]).await;
    bench.started(&["etcd"]);
    bench.upsert(&static_pod("etcd", "h2")).await;
    bench.started(&["etcd"]);
    bench.end("etcd", End::Gone).await;
    bench.started(&["etcd", "h2"]);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_stops_as_an_orphan_is_started_again_when_its_file_is_back() {
    let bench = bench(&["etcd"]);
    bench.upsert(&static_pod("etcd", "h2")).await;
    bench.started(&["etcd"]);
    // The file is edited back before the old pod has stopped.
    bench.gone("h2").await;
    bench.upsert(&static_pod("etcd", "etcd")).await;
    assert!(bench.directive("etcd").gone, "stopping is never taken back");
    bench.end("etcd", End::Gone).await;
    bench.started(&["etcd", "etcd"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_api_is_not_stopped_for_a_static_pod_of_its_name() {
    let of_the_api = FoundPod { is_static: false, ..found_pod("web", true) };
    let bench = bench_with([(PodUid::from("web"), of_the_api)].into());
    bench.upsert(&static_pod("web", "h1")).await;
    bench.started(&["h1"]);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_comes_back_while_it_stops_is_started_anew() {
    let bench = bench(&[]);
    let pod = static_pod("etcd", "h1");
    bench.upsert(&pod).await;
    bench.gone("h1").await;
    bench.upsert(&pod).await;
    bench.started(&["h1"]);
    assert!(bench.directive("h1").gone, "stopping is not taken back");
    bench.end("h1", End::Gone).await;
    bench.started(&["h1", "h1"]);
    assert!(!bench.directive("h1").gone);
    // Removed while it waits for its turn: it does not start any more.
    bench.gone("h1").await;
    bench.upsert(&pod).await;
    bench.gone("h1").await;
    bench.end("h1", End::Gone).await;
    bench.started(&["h1", "h1"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_started_again_as_it_was() {
    let bench = bench(&[]);
    bench.upsert(&sized("a", "3", 1)).await;
    let grace = Duration::from_secs(5);
    assert!(bench.handle.stop("a".into(), TerminationCause::Removed, grace).await);
    bench.settle().await;
    bench.end("a", End::Panic).await;
    bench.started(&["a"]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    bench.started(&["a", "a"]);
    let starts = bench.fake.world.lock().starts.clone();
    assert_eq!(bench.rejection("a").as_deref(), Some("OutOfcpu"));
    assert_eq!(starts[0].1, starts[1].1, "a rejected pod stays rejected");
    assert_eq!(
        bench.directive("a").stop.map(|stop| stop.grace),
        Some(grace),
        "an order to stop is not lost"
    );
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_waits_for_those_that_make_room() {
    let mut bench = bench(&[]);
    bench.upsert(&sized("a", "2", 1)).await;
    let critical = api_pod_with("critical", |pod| {
        pod["spec"]["priority"] = json!(2_000_001_000);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    });
    bench.upsert(&critical).await;
    let room: Vec<_> =
        bench.directive("critical").room.iter().map(|view| view.borrow().uid.clone()).collect();
    assert_eq!(room, ["a".into()]);
    assert!(bench.directive("a").stop.is_some());
    assert_eq!(bench.events.try_recv().map(|event| event.reason).as_deref(), Ok("Preempting"));
}

#[tokio::test(start_paused = true)]
async fn a_resize_waits_until_there_is_room() {
    let bench = bench(&[]);
    bench.source_has(&[]).await;
    bench.upsert(&sized("a", "1", 1)).await;
    bench.upsert(&sized("a", "3", 2)).await;
    let directive = bench.directive("a");
    assert_eq!(allocation::of(&directive.pod), allocation::of(&sized("a", "1", 1)));
    assert_eq!(directive.pod.metadata.generation, Some(2), "all else is the newest");
    assert_eq!(
        directive.resize.pending.map(|pending| pending.verdict),
        Some(ResizeVerdict::Deferred(
            "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
                .into()
        ))
    );
    bench
        .node(|facts| {
            facts.allocatable.insert("cpu".into(), Amount::from_units(4));
        })
        .await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let directive = bench.directive("a");
    assert!(directive.resize.pending.is_none() && directive.resize.granted == Some(2));
    assert_eq!(allocation::of(&directive.pod), allocation::of(&sized("a", "3", 2)));
}

/// A pod that asks for CPU as a whole.
fn whole(uid: &str, cpu: &str, generation: i64) -> Arc<Pod> {
    api_pod_with(uid, |pod| {
        pod["metadata"]["generation"] = json!(generation);
        pod["spec"]["resources"] = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_resized_as_a_whole() {
    let bench = bench(&[]);
    bench.source_has(&[]).await;
    bench.upsert(&whole("a", "1", 1)).await;
    bench.upsert(&whole("a", "2", 2)).await;
    let directive = bench.directive("a");
    assert!(directive.resize.pending.is_none() && directive.resize.granted == Some(2));
    assert_eq!(allocation::of(&directive.pod), allocation::of(&whole("a", "2", 2)));
    let kept = bench.allocated.get(&"a".into()).expect("it is kept");
    assert_eq!(*kept, allocation::of(&whole("a", "2", 2)));

    bench.upsert(&whole("a", "3", 3)).await;
    let directive = bench.directive("a");
    let pending = directive.resize.pending.expect("there is no room");
    assert_eq!(pending.verdict.reason(), "Deferred");
    assert_eq!(allocation::of(&directive.pod), allocation::of(&whole("a", "2", 2)));
    assert_eq!(bench.allocated.get(&"a".into()), Some(kept));

    bench.upsert(&whole("a", "2", 4)).await;
    assert!(bench.directive("a").resize.pending.is_none(), "it is taken back");
}

#[tokio::test(start_paused = true)]
async fn resizes_that_are_not_carried_out_are_infeasible() {
    let resizes = Resizable { whole_pods: false, swap: true };
    let bench = bench_of(Found::new(), resizes, Entries::new());
    bench.source_has(&[]).await;
    bench.upsert(&whole("a", "1", 1)).await;
    bench.upsert(&whole("a", "2", 2)).await;
    let infeasible = |message: &str| Some(ResizeVerdict::Infeasible(message.to_owned()));
    let verdict = |uid: &str| bench.directive(uid).resize.pending.map(|pending| pending.verdict);
    let message = "InPlacePodLevelResourcesVerticalScaling is disabled";
    assert_eq!(verdict("a"), infeasible(message));

    let swaps = |memory: &str, generation: i64| {
        api_pod_with("b", |pod| {
            pod["metadata"]["generation"] = json!(generation);
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": memory}});
        })
    };
    bench.upsert(&swaps("64Mi", 1)).await;
    bench.upsert(&swaps("32Mi", 2)).await;
    bench.upsert(&swaps("32Mi", 3)).await;
    let message = "In-place resize of containers with swap is not supported.";
    assert_eq!(verdict("b"), infeasible(message));
    let counted = bench.handle.counts().infeasible;
    assert_eq!(counted, [("plr_feature_gate_off", 1), ("swap_limitation", 1)].into());

    // Each change is counted once, and so is the way back.
    let requested = |operation| {
        let counts = bench.handle.counts().requested;
        counts.get(&["memory", "requests", operation]).copied().unwrap_or_default()
    };
    assert_eq!(requested("decrease"), 1);
    bench.upsert(&swaps("64Mi", 4)).await;
    assert_eq!(requested("increase"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_was_given_is_what_the_file_says() {
    let given = Arc::new(allocation::of(&sized("a", "1", 1)));
    let gone = Arc::clone(&given);
    let entries = [("a".into(), given), ("gone".into(), gone)].into();
    let found = [(PodUid::from("a"), found_pod("a", true))].into();
    let bench = bench_of(found, Resizable { whole_pods: true, swap: false }, entries);
    // Its status says nothing: the earlier process was stopped before it wrote one.
    let wanted = sized("a", "2", 2);
    let other = sized("b", "1", 1);
    bench.source_has(&[&wanted, &other]).await;
    bench.upsert(&wanted).await;
    let directive = bench.directive("a");
    assert_eq!(allocation::of(&directive.pod), allocation::of(&sized("a", "1", 1)));
    bench.upsert(&other).await;
    assert!(bench.directive("a").resize.pending.is_some(), "b has its place");
    assert_eq!(bench.allocated.get(&"gone".into()), None, "no source has it");
}

#[tokio::test(start_paused = true)]
async fn resizes_are_counted_as_upstream_counts_them() {
    let bench = bench(&[]);
    bench.source_has(&[]).await;
    bench.upsert(&sized("a", "1", 1)).await;
    bench.upsert(&sized("b", "1", 1)).await;
    bench.upsert(&sized("a", "2", 2)).await;
    // Another change of the object asks for nothing new.
    bench.upsert(&sized("a", "2", 3)).await;
    assert!(bench.directive("a").resize.pending.is_some(), "b has its place");
    let counts = bench.handle.counts();
    assert_eq!(counts.requested, [(["cpu", "requests", "increase"], 1)].into());
    assert!(counts.accepted.is_empty() && counts.infeasible.is_empty(), "{counts:?}");

    // b has ended, and its object stays.
    let over = |view: &mut PodView| view.state = ViewState::Terminated;
    bench.fake.world.lock().running[&PodUid::from("b")].view.send_modify(over);
    bench.settle().await;
    assert_eq!(bench.directive("a").resize.granted, Some(3), "it is looked at again at once");
    assert_eq!(bench.handle.counts().accepted, [("pod_terminated", 1)].into());
}

#[tokio::test(start_paused = true)]
async fn of_two_resizes_that_wait_the_more_important_one_goes_first() {
    let important = |cpu: &str, generation| {
        let mut pod = (*sized("z", cpu, generation)).clone();
        pod.spec.as_mut().expect("a spec").priority = Some(10);
        Arc::new(pod)
    };
    let bench = bench(&[]);
    bench.source_has(&[]).await;
    bench.upsert(&sized("a", "1", 1)).await;
    bench.upsert(&important("1", 1)).await;
    bench.upsert(&sized("a", "2", 2)).await;
    bench.upsert(&important("2", 2)).await;
    bench
        .node(|facts| {
            facts.allocatable.insert("cpu".into(), Amount::from_units(3));
        })
        .await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.directive("z").resize.granted, Some(2), "by priority, not by UID");
    assert!(bench.directive("a").resize.pending.is_some());
}

/// A pod that was given one CPU, before this process, and asks for more.
fn resized_meanwhile(uid: &str, cpu: &str) -> Arc<Pod> {
    let mut pod = (*sized(uid, cpu, 2)).clone();
    let status = json!({"containerStatuses": [{"name": "c", "ready": true, "restartCount": 0,
        "image": "", "imageID": "", "allocatedResources": {"cpu": "1"},
        "resources": {"requests": {"cpu": "1"}}}]});
    pod.status = serde_json::from_value(status).expect("a status");
    Arc::new(pod)
}

#[tokio::test(start_paused = true)]
async fn a_resize_asked_for_while_the_kubelet_was_away_is_decided_when_every_pod_is_here() {
    let bench = bench(&["a", "b"]);
    let pods = [resized_meanwhile("a", "2"), sized("b", "1", 1)];
    bench.source_has(&[&pods[0], &pods[1]]).await;
    bench.upsert(&pods[0]).await;
    let directive = bench.directive("a");
    assert_eq!(allocation::of(&directive.pod), allocation::of(&sized("a", "1", 1)));
    assert!(directive.resize.pending.is_none() && directive.resize.granted.is_none());
    bench.upsert(&pods[1]).await;
    let pending = bench.directive("a").resize.pending.expect("it waits: b has its place");
    assert_eq!(pending.verdict.reason(), "Deferred");
}

#[tokio::test(start_paused = true)]
async fn neither_the_end_of_a_pod_nor_time_decides_on_a_resize_before_every_pod_is_here() {
    let bench = bench(&["a", "b", "ended"]);
    let (a, b, ended) = (resized_meanwhile("a", "2"), sized("b", "1", 1), api_pod("ended"));
    bench.source_has(&[&a, &b, &ended]).await;
    bench.upsert(&ended).await;
    bench.upsert(&a).await;
    bench.source_has(&[&a, &b]).await;
    bench.gone("ended").await;
    bench.end("ended", End::Gone).await;
    let resize = bench.directive("a").resize;
    assert!(resize.pending.is_none() && resize.granted.is_none(), "{resize:?}");
    tokio::time::sleep(Duration::from_secs(11)).await;
    let resize = bench.directive("a").resize;
    assert!(resize.pending.is_none() && resize.granted.is_none(), "{resize:?}");

    bench.upsert(&b).await;
    let pending = bench.directive("a").resize.pending.expect("it waits: b has its place");
    assert_eq!(pending.verdict.reason(), "Deferred");
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_waits_for_the_sources_does_not_keep_the_loop_awake() {
    let bench = bench(&[]);
    bench.upsert(&sized("a", "1", 1)).await;
    bench.upsert(&sized("a", "2", 2)).await;
    // Paused time moves only while every task sleeps: a loop that does not would hold the test up
    // for ever.
    let (sender, hung) = oneshot::channel();
    let (_silent, patience) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if patience.recv_timeout(Duration::from_secs(10)) == Err(RecvTimeoutError::Timeout) {
            let _ = sender.send(());
        }
    });
    tokio::select! {
        () = tokio::time::sleep(Duration::from_mins(1)) => {}
        _ = hung => panic!("the loop does not sleep"),
    }
    assert!(bench.directive("a").resize.granted.is_none());
    bench.source_has(&[&sized("a", "2", 2)]).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.directive("a").resize.granted, Some(2));
}

#[tokio::test(start_paused = true)]
async fn what_a_reboot_left_does_not_spare_admission() {
    let bench = bench(&["runs"]);
    bench.fake.found.send_modify(|found| {
        let found = found.as_mut().expect("it was looked at");
        found.insert("left".into(), found_pod("left", false));
    });
    bench.upsert(&sized("runs", "3", 1)).await;
    assert_eq!(bench.rejection("runs"), None, "a pod that runs is never sent away");
    bench.upsert(&sized("left", "3", 1)).await;
    assert_eq!(bench.rejection("left").as_deref(), Some("OutOfcpu"));
    assert_eq!(bench.handle.counts().rejections, [("OutOfcpu", 1)].into(), "counted once");
}

/// A pod for nodes with a label.
fn choosy(uid: &str) -> Arc<Pod> {
    api_pod_with(uid, |pod| pod["spec"]["nodeSelector"] = json!({"disk": "ssd"}))
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_only_the_labels_refuse_is_decided_by_the_node_read_afresh() {
    let bench = bench(&[]);
    bench.fake.world.lock().node =
        Some(json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}}));
    bench.upsert(&choosy("a")).await;
    bench.upsert(&api_pod("b")).await;
    bench.started(&["b"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.started(&["b", "a"]);
    assert_eq!(bench.rejection("a"), None);

    bench.fake.world.lock().node = None;
    bench.upsert(&choosy("c")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.rejection("c").as_deref(), Some("NodeAffinity"), "no answer: as it was known");
    assert_eq!(bench.fake.world.lock().reads, 2, "once for each");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_while_its_admission_waits_never_starts() {
    let bench = bench(&[]);
    bench.upsert(&choosy("a")).await;
    bench.gone("a").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.started(&[]);
    assert_eq!(bench.forgotten(), ["a".into()]);
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_never_had_a_turn_holds_nobody_up() {
    let bench = bench(&[]);
    bench.upsert(&static_pod("etcd", "h1")).await;
    bench.gone("h1").await;
    bench.upsert(&static_pod("etcd", "h2")).await;
    bench.gone("h2").await;
    bench.started(&["h1"]);
    assert_eq!(bench.forgotten(), ["h2".into()]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_devices_are_set_aside_holds_up_no_other() {
    let bench = bench(&[]);
    let (done, allocation) = oneshot::channel();
    let (gone_done, gone_allocation) = oneshot::channel();
    bench.fake.world.lock().allocations =
        [(PodUid::from("slow"), allocation), (PodUid::from("gone"), gone_allocation)].into();
    bench.upsert(&api_pod("slow")).await;
    bench.upsert(&api_pod("gone")).await;
    bench.upsert(&api_pod("quick")).await;
    bench.settle().await;
    bench.started(&["quick"]);

    // Who goes meanwhile has what came too late taken back.
    bench.gone("gone").await;
    bench.settle().await;
    let refused = Some(Rejection::new("UnexpectedAdmissionError", "no"));
    done.send(Allocated { refused, ..Allocated::default() }).expect("it waits");
    gone_done.send(Allocated::default()).expect("it waits");
    bench.settle().await;
    bench.started(&["quick", "slow"]);
    let world = bench.fake.world.lock();
    let (_, lifecycle) = &world.starts[1];
    let rejected = matches!(lifecycle, Lifecycle::Terminating(stop)
        if matches!(&stop.cause, TerminationCause::Rejected { reason, .. }
            if reason == "UnexpectedAdmissionError"));
    assert!(rejected, "{lifecycle:?}");
    assert_eq!(world.forgotten, [PodUid::from("gone"), PodUid::from("gone")]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_gives_back_what_it_has_and_counts_no_longer() {
    let bench = bench(&[]);
    let active = bench.handle.active();
    bench.upsert(&api_pod("a")).await;
    bench.upsert(&api_pod("b")).await;
    bench.settle().await;
    assert_eq!(active.borrow().len(), 2);
    bench.fake.world.lock().running[&PodUid::from("a")].view.send_modify(|view| {
        view.status = Arc::new(k8s_openapi::api::core::v1::PodStatus {
            phase: Some("Succeeded".to_owned()),
            ..Default::default()
        });
    });
    bench.settle().await;
    assert_eq!(bench.fake.world.lock().released, [PodUid::from("a")]);
    let left: Vec<PodUid> = active.borrow().iter().map(|pod| pod::uid(pod)).collect();
    assert_eq!(left, [PodUid::from("b")]);
}
