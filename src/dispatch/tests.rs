//! The laws of the table of pods, with a launcher that only writes down what it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::orphan::RuntimePod;
use super::{
    Allocated, Asks, Directive, Dispatch, Ended, Launch, PodView, PodsHandle, Preempt, Rejected,
};
use crate::clock::Clock;
use crate::desired::Change;
use crate::model::{Lifecycle, Pod, PodKey, PodUid, TerminationCause, pod};

/// How a fake task is to end.
#[derive(Clone, Copy, Debug)]
enum End {
    Gone,
    Panic,
}

struct Running {
    directive: watch::Receiver<Directive>,
    view: watch::Sender<PodView>,
    end: oneshot::Sender<End>,
}

#[derive(Default)]
struct World {
    /// Every start, in order.
    starts: Vec<(PodUid, Lifecycle)>,
    running: BTreeMap<PodUid, Running>,
    ended: Vec<PodUid>,
    swept: Vec<Vec<PodUid>>,
    ready: bool,
    /// Who has to make room for the next one.
    preempt: Vec<PodUid>,
    wanted: BTreeSet<PodUid>,
    runtime: Vec<RuntimePod>,
    refuse: bool,
    /// Pods that something is set aside for, and when that is done.
    allocations: BTreeMap<PodUid, oneshot::Receiver<Allocated>>,
    over: Vec<PodUid>,
    /// The pods that count, as they were told last.
    active: Vec<Arc<Pod>>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<World>>);

impl Launch for Fake {
    fn launch(
        &mut self,
        pod: Arc<Pod>,
        lifecycle: Lifecycle,
        directive: watch::Receiver<Directive>,
    ) -> (impl Future<Output = Ended> + Send + 'static, watch::Receiver<PodView>) {
        let (sender, view) = watch::channel(PodView::new(&pod, &lifecycle));
        let (end, ended) = oneshot::channel();
        let uid = pod::uid(&pod);
        let mut world = self.0.lock();
        world.starts.push((uid.clone(), lifecycle));
        world.running.insert(uid, Running { directive, end, view: sender });
        let task = async move {
            match ended.await {
                Ok(End::Gone) => Ended::Gone,
                Ok(End::Panic) => panic!("asked to"),
                Err(_) => Ended::Shutdown,
            }
        };
        (task, view)
    }

    fn allocate(
        &mut self,
        pod: &Arc<Pod>,
    ) -> Option<impl Future<Output = Allocated> + Send + 'static> {
        let allocation = self.0.lock().allocations.remove(&pod::uid(pod))?;
        Some(async move { allocation.await.unwrap_or_default() })
    }

    fn over(&mut self, uid: &PodUid) {
        self.0.lock().over.push(uid.clone());
    }

    fn admit(
        &mut self,
        _pod: &Arc<Pod>,
        _others: &[Arc<Pod>],
        asks: &Asks,
    ) -> Result<Vec<Preempt>, Rejected> {
        if let Asks::Entry(Some(Allocated { refused: Some(refused), .. })) = asks {
            return Err(refused.clone());
        }
        let world = self.0.lock();
        if world.refuse {
            return Err(Rejected { reason: "OutOfcpu".into(), message: "no".into() });
        }
        let why = Rejected { reason: "Preempting".into(), message: "out".into() };
        let preempt = |uid: &PodUid| Preempt {
            uid: uid.clone(),
            why: why.clone(),
            grace: Duration::from_secs(1),
        };
        Ok(world.preempt.iter().map(preempt).collect())
    }

    fn may_sweep(&self) -> bool {
        self.0.lock().ready
    }

    fn wanted(&self) -> BTreeSet<PodUid> {
        self.0.lock().wanted.clone()
    }

    fn in_runtime(&self) -> Vec<RuntimePod> {
        self.0.lock().runtime.clone()
    }

    fn ended(&mut self, uid: &PodUid) {
        self.0.lock().ended.push(uid.clone());
    }

    fn active_changed(&mut self, active: Vec<Arc<Pod>>) {
        self.0.lock().active = active;
    }

    fn sweep_disk(&mut self, known: Vec<PodUid>) {
        self.0.lock().swept.push(known);
    }
}

struct Bench {
    fake: Fake,
    changes: mpsc::Sender<Change>,
    sweep: watch::Sender<u64>,
    handle: PodsHandle,
    _shutdown: tokio_util::sync::DropGuard,
}

fn bench(world: World) -> Bench {
    let (fake, clock) =
        (Fake(Arc::new(Mutex::new(world))), Clock::starting_at(jiff::Timestamp::UNIX_EPOCH));
    let shutdown = CancellationToken::new();
    let (dispatch, handle) = Dispatch::new(fake.clone(), clock, shutdown.clone());
    let (changes, receiver) = mpsc::channel(64);
    let (sweep, sweeps) = watch::channel(0);
    #[expect(clippy::disallowed_methods, reason = "a test's task ends with its runtime")]
    tokio::spawn(dispatch.run(receiver, sweeps));
    Bench { fake, changes, sweep, handle, _shutdown: shutdown.drop_guard() }
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

    /// Lets every task come to rest; time is paused, so this takes none.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn end(&self, uid: &str, end: End) {
        let running = self.fake.0.lock().running.remove(&PodUid::from(uid)).expect("it runs");
        running.end.send(end).expect("its task waits");
        self.settle().await;
    }

    #[track_caller]
    fn started(&self, uids: &[&str]) {
        let world = self.fake.0.lock();
        let started: Vec<&str> = world.starts.iter().map(|(uid, _)| uid.as_str()).collect();
        assert_eq!(started, uids);
    }

    fn directive(&self, uid: &str) -> Directive {
        self.fake.0.lock().running[&PodUid::from(uid)].directive.borrow().clone()
    }
}

fn api_pod(uid: &str) -> Arc<Pod> {
    let value = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": {"containers": [{"name": "c"}]}});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn static_pod(name: &str, uid: &str) -> Arc<Pod> {
    let value = json!({"metadata": {"name": name, "namespace": "d", "uid": uid,
        "annotations": {"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": uid}},
        "spec": {"containers": [{"name": "c"}]}});
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

fn in_runtime(uid: &str) -> RuntimePod {
    RuntimePod {
        uid: uid.into(),
        key: PodKey::new("d", uid),
        containers: vec!["c".into()],
        grace: Duration::from_secs(30),
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_an_orphan_before_the_sources_are_ready() {
    let bench = bench(World { runtime: vec![in_runtime("left")], ..World::default() });
    bench.upsert(&api_pod("a")).await;
    bench.started(&["a"]);
    assert!(bench.fake.0.lock().swept.is_empty());
    bench.fake.0.lock().ready = true;
    bench.sweep.send_modify(|count| *count += 1);
    bench.settle().await;
    bench.started(&["a", "left"]);
    assert!(bench.directive("left").gone, "it has no object that anybody could wait for");
    let world = bench.fake.0.lock();
    assert!(matches!(
        &world.starts[1].1,
        Lifecycle::Terminating(ending) if ending.cause == TerminationCause::Removed
    ));
    assert_eq!(world.swept.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_change_is_still_queued_is_no_orphan() {
    let bench = bench(World {
        ready: true,
        wanted: BTreeSet::from(["a".into(), "b".into()]),
        runtime: vec![in_runtime("a"), in_runtime("b")],
        ..World::default()
    });
    bench.upsert(&api_pod("a")).await;
    bench.started(&["a"]);
    let swept = bench.fake.0.lock().swept.clone();
    assert!(swept[0].contains(&"b".into()), "what it has on disk is spared, too: {swept:?}");
    bench.upsert(&api_pod("b")).await;
    assert!(!bench.directive("b").gone);
    assert_eq!(bench.fake.0.lock().starts[1].1, Lifecycle::Syncing);
}

#[tokio::test(start_paused = true)]
async fn generations_of_a_static_pod_never_overlap() {
    let bench = bench(World::default());
    bench.upsert(&static_pod("etcd", "h1")).await;
    bench.gone("h1").await;
    bench.upsert(&static_pod("etcd", "h2")).await;
    bench.started(&["h1"]);
    bench.end("h1", End::Gone).await;
    bench.started(&["h1", "h2"]);
    assert_eq!(bench.fake.0.lock().ended, ["h1".into()]);
    assert!(bench.handle.by_uid(&"h1".into()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_that_comes_back_while_it_stops_is_started_anew() {
    let bench = bench(World::default());
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
    let bench = bench(World { refuse: true, ..World::default() });
    bench.upsert(&api_pod("a")).await;
    let grace = Duration::from_secs(5);
    assert!(bench.handle.stop("a".into(), TerminationCause::Removed, grace).await);
    bench.settle().await;
    bench.end("a", End::Panic).await;
    bench.started(&["a"]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    bench.started(&["a", "a"]);
    let world = bench.fake.0.lock();
    assert_eq!(world.starts[0].1, world.starts[1].1, "a rejected pod stays rejected");
    drop(world);
    assert_eq!(
        bench.directive("a").stop.map(|stop| stop.grace),
        Some(grace),
        "an order to stop is not lost"
    );
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_waits_for_those_that_make_room() {
    let bench = bench(World::default());
    bench.upsert(&api_pod("a")).await;
    bench.fake.0.lock().preempt = vec!["a".into()];
    bench.upsert(&api_pod("critical")).await;
    let room: Vec<_> =
        bench.directive("critical").room.iter().map(|view| view.borrow().uid.clone()).collect();
    assert_eq!(room, ["a".into()]);
    assert!(bench.directive("a").stop.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_resize_waits_until_there_is_room() {
    let sized = |cpu: &str, generation: i64| {
        let mut pod = (*api_pod("a")).clone();
        pod.metadata.generation = Some(generation);
        let spec = pod.spec.as_mut().expect("a spec");
        let resources =
            serde_json::from_value(json!({"requests": {"cpu": cpu}})).expect("resources");
        spec.containers[0].resources = Some(resources);
        Arc::new(pod)
    };
    let bench = bench(World::default());
    bench.upsert(&sized("1", 1)).await;
    bench.fake.0.lock().refuse = true;
    bench.upsert(&sized("2", 2)).await;
    let directive = bench.directive("a");
    assert_eq!(
        crate::resources::allocation::of(&directive.pod),
        crate::resources::allocation::of(&sized("1", 1))
    );
    assert_eq!(directive.pod.metadata.generation, Some(2), "all else is the newest");
    assert_eq!(
        directive.resize.pending.map(|pending| (pending.reason, pending.message)),
        Some(("Deferred", "no".into()))
    );
    bench.fake.0.lock().refuse = false;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let directive = bench.directive("a");
    assert!(directive.resize.pending.is_none() && directive.resize.granted == Some(2));
    assert_eq!(
        crate::resources::allocation::of(&directive.pod),
        crate::resources::allocation::of(&sized("2", 2))
    );
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_never_had_a_turn_holds_nobody_up() {
    let bench = bench(World::default());
    bench.upsert(&static_pod("etcd", "h1")).await;
    bench.gone("h1").await;
    bench.upsert(&static_pod("etcd", "h2")).await;
    bench.gone("h2").await;
    bench.started(&["h1"]);
    assert_eq!(bench.fake.0.lock().ended, ["h2".into()]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_devices_are_set_aside_holds_up_no_other() {
    let (done, allocation) = oneshot::channel();
    let (gone_done, gone_allocation) = oneshot::channel();
    let allocations =
        [(PodUid::from("slow"), allocation), (PodUid::from("gone"), gone_allocation)].into();
    let bench = bench(World { allocations, ready: true, ..World::default() });
    bench.upsert(&api_pod("slow")).await;
    bench.upsert(&api_pod("gone")).await;
    bench.upsert(&api_pod("quick")).await;
    bench.settle().await;
    bench.started(&["quick"]);

    // A change meanwhile is taken along; who goes meanwhile has what came too late taken back.
    let mut newer = Pod::clone(&api_pod("slow"));
    newer.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    bench.upsert(&Arc::new(newer)).await;
    bench.gone("gone").await;
    bench.settle().await;
    let refused = Rejected { reason: "UnexpectedAdmissionError".into(), message: "no".into() };
    let refused = Allocated { refused: Some(refused), ..Allocated::default() };
    done.send(refused).expect("it waits");
    gone_done.send(Allocated::default()).expect("it waits");
    bench.settle().await;
    bench.started(&["quick", "slow"]);
    let world = bench.fake.0.lock();
    let (_, lifecycle) = &world.starts[1];
    let rejected = matches!(lifecycle, Lifecycle::Terminating(stop)
        if matches!(&stop.cause, TerminationCause::Rejected { reason, .. }
            if reason == "UnexpectedAdmissionError"));
    assert!(rejected, "{lifecycle:?}");
    assert_eq!(world.ended, [PodUid::from("gone"), PodUid::from("gone")]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over_gives_back_what_it_has_and_counts_no_longer() {
    let bench = bench(World { ready: true, ..World::default() });
    bench.upsert(&api_pod("a")).await;
    bench.upsert(&api_pod("b")).await;
    bench.settle().await;
    assert_eq!(bench.fake.0.lock().active.len(), 2);
    bench.fake.0.lock().running[&PodUid::from("a")].view.send_modify(|view| {
        view.status = Arc::new(k8s_openapi::api::core::v1::PodStatus {
            phase: Some("Succeeded".to_owned()),
            ..Default::default()
        });
    });
    bench.settle().await;
    let world = bench.fake.0.lock();
    assert_eq!(world.over, [PodUid::from("a")]);
    let active: Vec<PodUid> = world.active.iter().map(|pod| pod::uid(pod)).collect();
    assert_eq!(active, [PodUid::from("b")]);
}
