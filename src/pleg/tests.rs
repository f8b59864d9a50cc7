//! The laws of observation against the fake runtime, in paused time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::Status;

use super::{Handle, Mutation, Observation, new};
use crate::clock::Clock;
use crate::cri::fake::{Effect, FakeRuntime, Gate};
use crate::cri::{Runtime, labels, v1};
use crate::model::{
    ContainerId, ContainerState, ObservedPod, PodUid, SandboxId, SandboxState, Wall,
};

/// A node with a running pleg.
struct Node {
    fake: FakeRuntime,
    runtime: Runtime,
    pleg: Handle,
    clock: Clock,
    _tasks: JoinSet<()>,
}

fn start(prepare: impl FnOnce(&FakeRuntime)) -> Node {
    let clock = Clock::starting_at(Wall::UNIX_EPOCH + jiff::SignedDuration::from_hours(480_000));
    let fake = FakeRuntime::new(clock);
    fake.add_image("web:1", 1);
    prepare(&fake);
    let runtime = fake.client();
    let (handle, task) = new(runtime.clone(), clock, Arc::new(|_| {}));
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    Node { fake, runtime, pleg: handle, clock, _tasks: tasks }
}

fn labelled(uid: &str, container: Option<&str>) -> std::collections::HashMap<String, String> {
    let mut found = std::collections::HashMap::from([
        (labels::POD_UID.to_owned(), uid.to_owned()),
        (labels::POD_NAME.to_owned(), format!("pod-{uid}")),
        (labels::POD_NAMESPACE.to_owned(), "shop".to_owned()),
    ]);
    found.extend(container.map(|name| (labels::CONTAINER_NAME.to_owned(), name.to_owned())));
    found
}

fn sandbox_config(uid: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: format!("pod-{uid}"),
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            attempt: 0,
        }),
        labels: labelled(uid, None),
        ..Default::default()
    }
}

fn create_request(uid: &str, sandbox: &SandboxId, name: &str) -> v1::CreateContainerRequest {
    v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.as_str().to_owned(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "web:1".to_owned(), ..Default::default() }),
            labels: labelled(uid, Some(name)),
            ..Default::default()
        }),
        sandbox_config: None,
    }
}

impl Node {
    /// Creates a sandbox as another client of the runtime: without an epoch, so that only events
    /// and relists report it.
    async fn sandbox(&self, uid: &str) -> SandboxId {
        let message =
            v1::RunPodSandboxRequest { config: Some(sandbox_config(uid)), ..Default::default() };
        self.runtime.run_pod_sandbox(message, ()).await.0.expect("a sandbox")
    }

    async fn container(&self, uid: &str, sandbox: &SandboxId, name: &str) -> ContainerId {
        let id = self
            .runtime
            .create_container(create_request(uid, sandbox, name), ())
            .await
            .0
            .expect("a container");
        self.runtime.start_container(&id, ()).await.0.expect("started");
        id
    }

    async fn until(&self, uid: &str, wanted: impl FnMut(&Observation) -> bool) -> Observation {
        let mut receiver = self.pleg.subscribe(&PodUid::new(uid));
        let found = tokio::time::timeout(Duration::from_secs(100), receiver.wait_for(wanted)).await;
        found.expect("it is seen").expect("the sender lives").clone()
    }
}

fn running(observation: &Observation) -> usize {
    observation.pod.containers.iter().filter(|container| container.state.is_running()).count()
}

#[tokio::test(start_paused = true)]
async fn the_first_relist_finds_what_runs() {
    let node =
        start(|fake| fake.script("ListContainers", None, 1, Effect::Delay(Duration::from_secs(1))));
    let sandbox = node.sandbox("a").await;
    node.container("a", &sandbox, "web").await;
    let receiver = node.pleg.subscribe(&PodUid::new("b"));
    assert!(!receiver.borrow().fresh, "nothing is known yet");
    node.pleg.synced().await;
    let pods = node.pleg.pods();
    let found = pods.iter().find(|pod| pod.uid.as_str() == "a").expect("it was there before");
    assert_eq!(found.key.as_ref().map(ToString::to_string).as_deref(), Some("shop/pod-a"));
    assert!(found.observation.fresh && found.observation.quiet && !found.subscribed);
    assert_eq!(running(&found.observation), 1);
    assert_eq!(found.observation.pod.sandboxes[0].ips.len(), 1);
    let other = receiver.borrow().clone();
    assert!(other.fresh && other.pod.is_empty(), "known not to be there");
    assert_eq!(node.pleg.healthy(node.clock.now().mono), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_relist_that_began_before_a_create_does_not_hide_the_container() {
    let node = start(|fake| fake.set_version("containerd", "1.7.35"));
    let uid = PodUid::new("a");
    let sandbox = node.sandbox("a").await;
    node.pleg.synced().await;
    let receiver = node.pleg.subscribe(&uid);
    // A relist lists no container, and its answer is under way while one is made.
    let gate = node.fake.hold_next_answer("ListContainers");
    node.pleg.relist();
    gate.reached().await;
    let mutation = node.pleg.begin(&uid);
    let (id, mut mutation) =
        node.runtime.create_container(create_request("a", &sandbox, "web"), mutation).await;
    let id = id.expect("created");
    mutation.touched_container(&id, &sandbox);
    mutation.end();
    assert!(!receiver.borrow().fresh, "stale in the same instant");
    gate.open();
    let seen = node.until("a", |observation| observation.fresh).await;
    assert!(seen.pod.container(&id).is_some(), "the first fresh observation has the container");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(receiver.borrow().pod.container(&id).is_some(), "and it stays");
}

#[tokio::test(start_paused = true)]
async fn a_read_of_one_pod_that_began_before_a_mutation_ended_does_not_count() {
    let node = start(|_| {});
    let uid = PodUid::new("a");
    let sandbox = node.sandbox("a").await;
    let id = node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 1).await;
    let receiver = node.pleg.subscribe(&uid);
    let gate = Gate::default();
    node.fake.script("ContainerStatus", None, 2, Effect::HoldAnswer(gate.clone()));
    let mut first = node.pleg.begin(&uid);
    first.touched_container(&id, &sandbox);
    first.end();
    // The status says "running", and its answer is held back while the container is stopped.
    gate.reached().await;
    let second = node.pleg.begin(&uid);
    let stop = v1::StopContainerRequest { container_id: id.as_str().to_owned(), timeout: 30 };
    node.runtime.stop_container(stop).await.expect("stopped");
    second.end();
    gate.open();
    // The read that is made instead stands at the gate.
    gate.reached().await;
    assert!(!receiver.borrow().fresh, "the old answer does not count");
    gate.open();
    let seen = node.until("a", |observation| observation.fresh).await;
    assert_eq!(running(&seen), 0, "the first fresh observation knows of the stop");
}

#[tokio::test(start_paused = true)]
async fn a_long_stop_does_not_blind_the_pod() {
    let node = start(|fake| fake.set_stop_time("slow", None));
    let uid = PodUid::new("a");
    let sandbox = node.sandbox("a").await;
    let slow = node.container("a", &sandbox, "slow").await;
    let web = node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 2).await;
    let mutation = node.pleg.begin(&uid);
    let mut tasks = JoinSet::new();
    let runtime = node.runtime.clone();
    tasks.spawn(async move {
        let stop = v1::StopContainerRequest { container_id: slow.as_str().to_owned(), timeout: 30 };
        runtime.stop_container(stop).await.expect("stopped");
        mutation.end();
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.fake.exit_container(&web, 3, "Error");
    let seen = node.until("a", |observation| running(observation) == 1).await;
    assert!(seen.fresh && !seen.quiet && seen.in_flight == 1);
    assert!(
        node.clock.now().mono.0 < Duration::from_secs(20),
        "seen while the other one is being stopped"
    );
    let seen = node.until("a", |observation| running(observation) == 0).await;
    assert!(seen.fresh && seen.quiet);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_mutation_is_seen_at_once_and_cheaply() {
    let node = start(|_| {});
    node.pleg.synced().await;
    let uid = PodUid::new("a");
    let before = node.clock.now().mono;
    let message =
        v1::RunPodSandboxRequest { config: Some(sandbox_config("a")), ..Default::default() };
    let (sandbox, mut mutation) =
        node.runtime.run_pod_sandbox(message, node.pleg.begin(&uid)).await;
    let sandbox = sandbox.expect("a sandbox");
    mutation.touched_sandbox(&sandbox);
    let seen = mutation.observed().await;
    assert_eq!(seen.pod.latest_sandbox().map(|found| &found.id), Some(&sandbox));
    node.fake.clear_calls();
    let (id, mutation) = node
        .runtime
        .create_container(create_request("a", &sandbox, "web"), node.pleg.begin(&uid))
        .await;
    let id = id.expect("created");
    let (started, mut mutation) = node.runtime.start_container(&id, mutation).await;
    started.expect("started");
    mutation.touched_container(&id, &sandbox);
    let seen = mutation.observed().await;
    assert_eq!(running(&seen), 1);
    assert_eq!(node.clock.now().mono, before, "no timer was waited for");
    tokio::time::sleep(Duration::from_millis(50)).await;
    let calls: Vec<&str> = node.fake.calls().iter().map(|call| call.name).collect();
    assert_eq!(
        calls,
        ["CreateContainer", "StartContainer", "ContainerStatus"],
        "events of our own cost nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_takes_its_containers_along() {
    // Without events, so that only the look that the mutation asks for can tell.
    let node = start(|fake| fake.set_events(false));
    let uid = PodUid::new("a");
    let sandbox = node.sandbox("a").await;
    node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 1).await;
    let mut mutation = node.pleg.begin(&uid);
    let message = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.as_str().to_owned() };
    node.runtime.stop_pod_sandbox(message).await.expect("stopped");
    mutation.touched_sandbox(&sandbox);
    let seen = mutation.observed().await;
    assert_eq!((running(&seen), seen.pod.sandboxes[0].state), (0, SandboxState::NotReady));
    let mut mutation = node.pleg.begin(&uid);
    let message = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.as_str().to_owned() };
    node.runtime.remove_pod_sandbox(message).await.expect("removed");
    mutation.touched_sandbox(&sandbox);
    let seen = mutation.observed().await;
    assert!(seen.pod.is_empty() && seen.quiet);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_keeps_its_mutation() {
    let node = start(|_| {});
    node.pleg.synced().await;
    let uid = PodUid::new("a");
    let sandbox = node.sandbox("a").await;
    let gate = node.fake.hold_next("CreateContainer");
    {
        let call = node
            .runtime
            .create_container(create_request("a", &sandbox, "web"), node.pleg.begin(&uid));
        tokio::pin!(call);
        tokio::select! {
            _ = &mut call => panic!("it is held"),
            () = gate.reached() => {}
        }
    }
    let receiver = node.pleg.subscribe(&uid);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(receiver.borrow().in_flight, 1, "the call goes on");
    gate.open();
    let seen = node.until("a", |observation| observation.pod.containers.len() == 1).await;
    assert!(seen.fresh && seen.quiet && seen.in_flight == 0);
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_exits_and_removals() {
    let node = start(|_| {});
    let sandbox = node.sandbox("a").await;
    let id = node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = node.clock.now().mono;
    node.fake.exit_container(&id, 2, "Error");
    let seen = node.until("a", |observation| running(observation) == 0).await;
    assert_eq!(seen.pod.containers[0].state.exit().map(|exit| exit.exit_code), Some(2));
    assert_eq!(node.clock.now().mono, before, "no timer was waited for");
    let message = v1::RemoveContainerRequest { container_id: id.as_str().to_owned() };
    node.runtime.remove_container(message).await.expect("removed");
    node.until("a", |observation| observation.pod.containers.is_empty()).await;
    let message = v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.as_str().to_owned() };
    node.runtime.remove_pod_sandbox(message).await.expect("removed");
    node.until("a", |observation| observation.pod.is_empty()).await;
    // The last subscriber is gone: the pod is forgotten.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(node.pleg.pods().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_polls_while_the_stream_is_up() {
    let node = start(|_| {});
    let sandbox = node.sandbox("a").await;
    node.container("a", &sandbox, "web").await;
    node.pleg.synced().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.fake.clear_calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let calls = node.fake.calls().len();
    assert!((32..=52).contains(&calls), "two lists every half minute, nothing else: {calls}");
}

#[tokio::test(start_paused = true)]
async fn without_a_stream_everything_is_listed_every_second() {
    let node = start(|fake| fake.set_version("containerd", "v1.7.35"));
    let sandbox = node.sandbox("a").await;
    let id = node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 1).await;
    assert_eq!(node.fake.streams(), 0, "this stream is lossy");
    let before = node.clock.now().mono;
    node.fake.exit_container(&id, 0, "Completed");
    node.until("a", |observation| running(observation) == 0).await;
    assert!(node.clock.now().mono.since(before) <= Duration::from_millis(1100));
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_made_up_for() {
    let node = start(|_| {});
    let sandbox = node.sandbox("a").await;
    let id = node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.fake.streams(), 1);
    let before = node.clock.now().mono;
    node.fake.drop_streams();
    node.fake.exit_container(&id, 0, "Completed");
    node.until("a", |observation| running(observation) == 0).await;
    assert!(node.clock.now().mono.since(before) <= Duration::from_millis(200));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.fake.streams(), 1, "it is opened again");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_misses_events_is_not_trusted() {
    let node = start(|_| {});
    let sandbox = node.sandbox("a").await;
    node.pleg.synced().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.fake.set_events(false);
    let first = node.container("a", &sandbox, "one").await;
    node.until("a", |observation| running(observation) == 1).await;
    node.fake.exit_container(&first, 0, "Completed");
    node.until("a", |observation| running(observation) == 0).await;
    // Two relists in a row found changes that no event reported: from now on everything is listed
    // every second.
    let before = node.clock.now().mono;
    node.container("a", &sandbox, "two").await;
    node.until("a", |observation| running(observation) == 1).await;
    assert!(node.clock.now().mono.since(before) <= Duration::from_millis(1100));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_hangs_hinders_no_other() {
    let node = start(|fake| {
        fake.script(
            "ContainerStatus",
            Some("hung"),
            usize::MAX,
            Effect::Delay(Duration::from_secs(3600)),
        );
    });
    for pod in 0..10 {
        let uid = format!("hung-{pod}");
        let sandbox = node.sandbox(&uid).await;
        node.container(&uid, &sandbox, "hung").await;
    }
    let sandbox = node.sandbox("a").await;
    let id = node.container("a", &sandbox, "web").await;
    node.until("a", |observation| running(observation) == 1).await;
    assert!(node.clock.now().mono.0 < Duration::from_millis(1500));
    node.fake.exit_container(&id, 0, "Completed");
    node.until("a", |observation| running(observation) == 0).await;
    assert!(node.clock.now().mono.0 < Duration::from_secs(3));
    node.pleg.synced().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_made_again() {
    let node = start(|_| {});
    let uid = PodUid::new("a");
    let sandbox = node.sandbox("a").await;
    node.until("a", |observation| !observation.pod.is_empty()).await;
    node.fake.script("ContainerStatus", None, 3, Effect::Fail(Status::unavailable("restarting")));
    let (id, mut mutation) = node
        .runtime
        .create_container(create_request("a", &sandbox, "web"), node.pleg.begin(&uid))
        .await;
    let id = id.expect("created");
    mutation.touched_container(&id, &sandbox);
    let seen = mutation.observed().await;
    assert_eq!(seen.pod.container(&id).map(|found| &found.state), Some(&ContainerState::Created));
    assert!(node.clock.now().mono.0 < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn health_speaks_as_upstream() {
    let node = start(|fake| {
        fake.script("ListContainers", None, usize::MAX, Effect::Fail(Status::unknown("no")));
    });
    let at = |seconds| crate::model::Mono(Duration::from_secs(seconds));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        node.pleg.healthy(at(3)).map_err(|problem| problem.to_string()),
        Err("PLEG is not healthy: pleg has yet to be successful".to_owned())
    );
    node.fake.clear_script();
    node.pleg.synced().await;
    let last = node.pleg.last_relist().expect("it has succeeded");
    assert_eq!(node.pleg.healthy(last.after(Duration::from_secs(180))), Ok(()));
    assert_eq!(
        node.pleg
            .healthy(last.after(Duration::from_millis(185_500)))
            .map_err(|problem| problem.to_string()),
        Err("PLEG is not healthy: pleg was last seen active 3m5.5s ago; threshold is 3m0s"
            .to_owned())
    );
}

/// A reproducible source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Returns the runtime's own state of a pod, in the form of [`seen`].
fn truth(fake: &FakeRuntime, uid: &str) -> Vec<String> {
    let of = |labels: &std::collections::HashMap<String, String>| {
        labels.get(labels::POD_UID).is_some_and(|own| own == uid)
    };
    let sandboxes = fake.sandboxes().into_iter().filter(|sandbox| of(&sandbox.config.labels));
    let containers = fake.containers().into_iter().filter(|container| of(&container.config.labels));
    let mut all: Vec<String> =
        sandboxes.map(|sandbox| format!("{} {}", sandbox.id, sandbox.ready)).collect();
    all.extend(containers.map(|container| format!("{} {:?}", container.id, container.state)));
    all.sort();
    all
}

fn seen(observation: &Observation) -> Vec<String> {
    let state = |state: &ContainerState| match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
        ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
    };
    let sandboxes = observation.pod.sandboxes.iter();
    let mut all: Vec<String> = sandboxes
        .map(|sandbox| format!("{} {}", sandbox.id, sandbox.state == SandboxState::Ready))
        .collect();
    all.extend(
        observation
            .pod
            .containers
            .iter()
            .map(|container| format!("{} {:?}", container.id, state(&container.state))),
    );
    all.sort();
    all
}

/// One pod's life by chance, as its worker would live it: after each of its own calls it waits for
/// a fresh observation, which must know what the call made or removed. Events get lost, calls are
/// slow, containers end by themselves.
async fn live(node: &Node, uid: &str, seed: u64) {
    let mut dice = Dice(seed);
    let id = PodUid::new(uid);
    let mut receiver = node.pleg.subscribe(&id);
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(dice.roll(400))).await;
        let known = receiver.borrow().pod.clone();
        let mutation = node.pleg.begin(&id);
        let (made, removed) = mutate(node, uid, &known, mutation, &mut dice).await;
        let found = receiver
            .wait_for(|observation| observation.fresh)
            .await
            .expect("the sender lives")
            .clone();
        let lines = seen(&found).join(", ");
        assert!(made.is_none_or(|made| lines.contains(&made)), "seed {seed}: {lines}");
        assert!(removed.is_none_or(|removed| !lines.contains(&removed)), "seed {seed}: {lines}");
        let running = found.pod.containers.iter().find(|container| container.state.is_running());
        if let Some(running) = running.filter(|_| dice.roll(5) == 0) {
            node.fake.exit_container(&running.id, 1, "Error");
        }
    }
}

/// One change by chance; the id of what it made and of what it removed.
async fn mutate(
    node: &Node,
    uid: &str,
    known: &ObservedPod,
    mut mutation: Mutation,
    dice: &mut Dice,
) -> (Option<String>, Option<String>) {
    let named = dice.roll(2) == 0;
    let sandbox = known.latest_sandbox().filter(|sandbox| sandbox.state == SandboxState::Ready);
    let mut made = None;
    let mut removed = None;
    match (sandbox, dice.roll(6)) {
        (None, _) => {
            let mut config = sandbox_config(uid);
            let attempt = u32::try_from(dice.roll(1 << 20)).expect("small");
            config.metadata.get_or_insert_default().attempt = attempt;
            let message = v1::RunPodSandboxRequest { config: Some(config), ..Default::default() };
            let (outcome, mut held) = node.runtime.run_pod_sandbox(message, mutation).await;
            if let Some(sandbox) = outcome.ok().filter(|_| named) {
                held.touched_sandbox(&sandbox);
                made = Some(sandbox.to_string());
            }
            held.end();
        }
        (Some(sandbox), 0..=2) => {
            let name = format!("c{}", dice.roll(1 << 30));
            let request = create_request(uid, &sandbox.id, &name);
            let (outcome, mut held) = node.runtime.create_container(request, mutation).await;
            if let Ok(container) = outcome {
                (_, held) = node.runtime.start_container(&container, held).await;
                if named {
                    held.touched_container(&container, &sandbox.id);
                }
                made = Some(container.to_string());
            }
            held.end();
        }
        (Some(sandbox), 3) => {
            let pod_sandbox_id = sandbox.id.to_string();
            drop(node.runtime.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id }).await);
            if named {
                mutation.touched_sandbox(&sandbox.id);
            }
            mutation.end();
        }
        (Some(_), _) => {
            if let Some(container) = known.containers.first() {
                let container_id = container.id.to_string();
                removed = Some(container_id.clone());
                drop(
                    node.runtime
                        .remove_container(v1::RemoveContainerRequest { container_id })
                        .await,
                );
                if named {
                    mutation.touched_container(&container.id, &container.sandbox);
                }
            }
            mutation.end();
        }
    }
    (made, removed)
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_truth_is_seen_in_the_end() {
    for seed in 0..6 {
        let node = Arc::new(start(|fake| {
            for call in ["ListContainers", "ListPodSandbox", "ContainerStatus", "PodSandboxStatus"]
            {
                fake.script(
                    call,
                    None,
                    40,
                    Effect::DelayAnswer(Duration::from_millis(30 + seed * 7)),
                );
            }
            for call in ["ContainerStatus", "ListContainers", "CreateContainer"] {
                fake.script(call, None, 2, Effect::Fail(Status::unavailable("by chance")));
            }
        }));
        let mut pods = JoinSet::new();
        for pod in 0..4 {
            let node = Arc::clone(&node);
            pods.spawn(async move { live(&node, &format!("p{pod}"), seed * 100 + pod).await });
        }
        for toggle in 0..12_u64 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            node.fake.set_events(!(toggle + seed).is_multiple_of(3));
            if (toggle + seed).is_multiple_of(5) {
                node.fake.drop_streams();
            }
        }
        pods.join_all().await;
        node.fake.set_events(true);
        tokio::time::sleep(Duration::from_secs(120)).await;
        for pod in 0..4 {
            let uid = format!("p{pod}");
            let observation = node.pleg.subscribe(&PodUid::new(uid.as_str())).borrow().clone();
            assert!(observation.fresh && observation.quiet, "seed {seed}");
            assert_eq!(seen(&observation), truth(&node.fake, &uid), "seed {seed}");
        }
    }
}

/// A runtime that hangs with every read slot taken, while another pod's retry has come due.
async fn hang_with_a_retry_due() {
    let node = start(|_| {});
    let bad = node.sandbox("bad").await;
    for pod in 0..super::task::READS {
        node.sandbox(&format!("p{pod}")).await;
    }
    node.pleg.synced().await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let refused = Effect::Fail(Status::unavailable("by chance"));
    node.fake.script("PodSandboxStatus", Some(bad.as_str()), 1, refused);
    node.pleg.refresh(&PodUid::new("bad"));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let hang = Effect::Delay(Duration::from_secs(20));
    node.fake.script("PodSandboxStatus", None, super::task::READS, hang);
    for pod in 0..super::task::READS {
        node.pleg.refresh(&PodUid::new(format!("p{pod}")));
    }

    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(node.until("bad", |observation| observation.fresh).await.quiet);
}

#[test]
fn a_hanging_runtime_does_not_make_it_spin() {
    let (done, ended) = std::sync::mpsc::channel();
    // Paused time goes on only when every task waits: a loop that never waits stops it for good.
    // The thread is left behind then.
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(hang_with_a_retry_due());
        done.send(()).ok();
    });
    ended.recv_timeout(Duration::from_secs(30)).expect("time goes on");
}
