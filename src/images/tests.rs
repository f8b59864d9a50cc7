//! Images against the fake runtime, in paused time: policies, events, back-offs, limits, pulls
//! ahead of their turn.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use super::{
    Config, EnsureImage, Handle, ImageError, Limits, NodeCredentials, Plugins, Present, PullPolicy,
    PullSecret, Verification,
};
use crate::apiserver::events::{Event, Recorder};
use crate::clock::Clock;
use crate::cri::fake::{Effect, FakeRuntime, Gate};
use crate::model::{ContainerKind, Mono, Pod, Wall};

struct Node {
    fake: FakeRuntime,
    images: Handle,
    events: mpsc::Receiver<Event>,
    clock: Clock,
    _root: tempfile::TempDir,
}

fn start(limits: Limits) -> Node {
    let clock = Clock::starting_at(Wall::UNIX_EPOCH);
    let fake = FakeRuntime::new(clock);
    let (recorder, events) = Recorder::channel();
    let root = tempfile::tempdir().expect("a directory");
    let settings = Config {
        limits,
        node_credentials: NodeCredentials::default(),
        root_dir: root.path().to_owned(),
        verification: Verification::NeverForPreloaded,
        plugins: Plugins::default(),
    };
    let images = Handle::new(settings, fake.client(), clock, recorder, Arc::new(|_| {}));
    Node { fake, images, events, clock, _root: root }
}

const FREE: Limits = Limits { parallel: None, qps: 0.0, burst: 0 };
const SERIAL: Limits = Limits { parallel: Some(1), ..FREE };

fn request(pod: &str, image: &str, policy: PullPolicy) -> EnsureImage {
    let metadata = ObjectMeta {
        name: Some(pod.to_owned()),
        namespace: Some("shop".to_owned()),
        uid: Some(format!("uid-{pod}")),
        ..ObjectMeta::default()
    };
    EnsureImage {
        pod: Arc::new(Pod { metadata, ..Pod::default() }),
        kind: ContainerKind::Main,
        container: "web".to_owned(),
        image: image.to_owned(),
        policy,
        of_volume: false,
        secrets: Vec::new(),
        silent: false,
        runtime_handler: String::new(),
        sandbox: None,
    }
}

fn silent(request: EnsureImage) -> EnsureImage {
    EnsureImage { silent: true, ..request }
}

impl Node {
    /// Takes the events since the last call: type, reason, message.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            assert_eq!(event.object.field_path, "spec.containers{web}");
            told.push(format!("{} {} {}", event.event_type.as_str(), event.reason, event.message));
        }
        told
    }

    fn at(&self) -> Mono {
        self.clock.now().mono
    }
}

#[track_caller]
fn failed(outcome: Result<Present, ImageError>, reason: &str, message: &str) -> Option<Mono> {
    let error = outcome.expect_err("it cannot be had");
    assert_eq!((error.reason.as_str(), error.message.as_str()), (reason, message));
    error.retry_at
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_there_is_not_pulled() {
    let mut node = start(FREE);
    node.fake.add_image("nginx:1", 7);
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let present = node.images.ensure(request("a", "nginx:1", policy)).await.expect("present");
        assert!(present.image_ref.starts_with("sha256:"));
        let expected = "Normal Pulled Container image \"nginx:1\" already present on machine and can be accessed by the pod";
        assert_eq!(node.told(), [expected]);
    }
    assert_eq!(node.fake.count("PullImage"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_secret_matters_only_when_the_image_is_pulled() {
    let node = start(FREE);
    node.fake.add_image("nginx:1", 7);
    let secret = serde_json::json!({
        "metadata": {"name": "pull", "namespace": "default", "uid": "u"},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": "bm8ganNvbg=="},
    });
    let secret = serde_json::from_value(secret).expect("a secret");
    let secret = PullSecret::from_secret(&secret).expect("a pull secret");
    let with = |image: &str, policy| EnsureImage {
        secrets: vec![secret.clone()],
        ..request("a", image, policy)
    };
    node.images.ensure(with("nginx:1", PullPolicy::IfNotPresent)).await.expect("it is there");
    for (image, policy) in [("nginx:1", PullPolicy::Always), ("other:1", PullPolicy::IfNotPresent)]
    {
        let error = node.images.ensure(with(image, policy)).await.expect_err("it is pulled");
        assert_eq!(error.reason, "ErrImagePull");
    }
    assert_eq!(node.fake.count("PullImage"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pull_is_told_as_upstream_tells_it() {
    let mut node = start(FREE);
    node.fake.add_to_registry("nginx:latest", 42);
    node.fake.script("PullImage", None, 1, Effect::Delay(Duration::from_millis(1500)));
    node.images.ensure(request("a", "nginx", PullPolicy::Always)).await.expect("pulled");
    let expected = [
        "Normal Pulling Pulling image \"nginx\"",
        "Normal Pulled Successfully pulled image \"nginx\" in 1.5s (1.5s including waiting). Image size: 42 bytes.",
    ];
    assert_eq!(node.told(), expected);
    assert_eq!(node.images.list(50).await.expect("listed")[0].names, ["nginx:latest"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_backs_off() {
    let mut node = start(FREE);
    node.fake.script("PullImage", None, 2, Effect::Fail(Status::unknown("no such host")));
    let ask = || request("a", "x.io/app:1", PullPolicy::IfNotPresent);
    let retry =
        failed(node.images.ensure(ask()).await, "ErrImagePull", "no such host").expect("a time");
    assert_eq!(retry, node.at().after(Duration::from_secs(2)));
    let expected = [
        "Normal Pulling Pulling image \"x.io/app:1\"",
        "Warning Failed Failed to pull image \"x.io/app:1\": no such host",
        "Warning Failed Error: ErrImagePull",
    ];
    assert_eq!(node.told(), expected);
    node.clock.sleep_until(retry).await;
    let message = "Back-off pulling image \"x.io/app:1\": ErrImagePull: no such host";
    let retry =
        failed(node.images.ensure(ask()).await, "ImagePullBackOff", message).expect("a time");
    assert_eq!(retry, Mono(Duration::from_secs(10)));
    let expected = [
        "Normal BackOff Back-off pulling image \"x.io/app:1\"",
        "Warning Failed Error: ImagePullBackOff",
    ];
    assert_eq!(node.told(), expected);
    // Another pod is not held back, and a silent pull leaves the back-off alone.
    failed(
        node.images.ensure(request("b", "x.io/app:1", PullPolicy::Always)).await,
        "ErrImagePull",
        "no such host",
    );
    node.clock.sleep_until(retry).await;
    let text = "rpc error: code = NotFound desc = failed to pull and unpack image \"x.io/app:1\": failed to resolve \
                reference \"x.io/app:1\": x.io/app:1: not found";
    failed(node.images.ensure(ask()).await, "ErrImagePull", text);
    node.told();
    let outcome = node.images.ensure(ask()).await.expect_err("it waits");
    assert_eq!(outcome.retry_at, Some(Mono(Duration::from_secs(30))));
    node.fake.add_to_registry("x.io/app:1", 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    node.images.ensure(ask()).await.expect("pulled");
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_as_upstream_tells_them() {
    let mut node = start(FREE);
    let outcome = node.images.ensure(request("a", "nginx:1", PullPolicy::Never)).await;
    let message = "Container image \"nginx:1\" is not present with pull policy of Never";
    assert!(failed(outcome, "ErrImageNeverPull", message).is_some());
    let expected = [
        &*format!("Warning ErrImageNeverPull {message}"),
        "Warning Failed Error: ErrImageNeverPull",
    ];
    assert_eq!(node.told(), expected);
    let outcome = node.images.ensure(request("a", "Nginx", PullPolicy::Always)).await;
    let message = "Failed to apply default image tag \"Nginx\": couldn't parse image name \"Nginx\": invalid reference \
                   format: repository name (library/Nginx) must be lowercase";
    assert_eq!(failed(outcome, "InvalidImageName", message), None);
    let expected =
        [&*format!("Warning InspectFailed {message}"), "Warning Failed Error: InvalidImageName"];
    assert_eq!(node.told(), expected);
    node.fake.fail_next("ImageStatus", Status::unavailable("down"));
    let outcome = node.images.ensure(request("a", "nginx:1", PullPolicy::IfNotPresent)).await;
    let message = "Failed to inspect image \"\": rpc error: code = Unavailable desc = down";
    assert!(failed(outcome, "ImageInspectError", message).is_some());
    let expected =
        [&*format!("Warning InspectFailed {message}"), "Warning Failed Error: ImageInspectError"];
    assert_eq!(node.told(), expected);
    node.fake.fail_next("PullImage", Status::unknown("RegistryUnavailable: 503"));
    let outcome = node.images.ensure(request("a", "x.io/a:1", PullPolicy::Always)).await;
    let message = "image pull failed for x.io/a:1 because the registry is unavailable: 503";
    failed(outcome, "RegistryUnavailable", message);
    assert_eq!(
        node.told().last().map(String::as_str),
        Some("Warning Failed Error: RegistryUnavailable")
    );
}

#[tokio::test(start_paused = true)]
async fn a_pull_ahead_of_its_turn_is_silent_and_counts() {
    let mut node = start(FREE);
    node.fake.add_to_registry("nginx:latest", 1);
    node.fake.fail_next("PullImage", Status::unknown("flaky"));
    let ask = || request("a", "nginx", PullPolicy::Always);
    let error = node.images.ensure(silent(ask())).await.expect_err("flaky");
    assert_eq!(error.retry_at, None);
    node.fake.script("PullImage", None, 1, Effect::Delay(Duration::from_secs(3)));
    node.images.ensure(silent(ask())).await.expect("pulled: a silent failure is no back-off");
    assert_eq!(node.told(), Vec::<String>::new());
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.images.ensure(ask()).await.expect("it is there");
    let expected = [
        "Normal Pulling Pulling image \"nginx\"",
        "Normal Pulled Successfully pulled image \"nginx\" in 3s (3s including waiting). Image size: 1 bytes.",
    ];
    assert_eq!(node.told(), expected);
    assert_eq!(node.fake.count("PullImage"), 2, "the silent pull was the pull");
    node.images.ensure(ask()).await.expect("pulled");
    assert_eq!(node.fake.count("PullImage"), 3, "the next start asks again");
}

#[tokio::test(start_paused = true)]
async fn equal_pulls_are_one_and_it_ends_with_its_last_waiter() {
    let node = start(FREE);
    node.fake.add_to_registry("nginx:1", 1);
    let gate = Gate::default();
    node.fake.script("PullImage", None, 10, Effect::Hold(gate.clone()));
    let mut waiters = JoinSet::new();
    for pod in ["a", "b", "c"] {
        let images = node.images.clone();
        waiters.spawn(async move {
            images.ensure(request(pod, "nginx:1", PullPolicy::IfNotPresent)).await
        });
    }
    gate.reached().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.images.pulls()[0].waiters, 3);
    gate.open();
    while let Some(outcome) = waiters.join_next().await {
        outcome.expect("no panic").expect("pulled");
    }
    assert_eq!(node.fake.count("PullImage"), 1);
    let images = node.images.clone();
    waiters.spawn(async move { images.ensure(request("a", "nginx:1", PullPolicy::Always)).await });
    gate.reached().await;
    waiters.shutdown().await;
    assert!(node.images.pulls().is_empty(), "given up");
    let images = node.images.clone();
    waiters.spawn(async move { images.ensure(request("a", "nginx:1", PullPolicy::Always)).await });
    gate.reached().await;
    gate.open();
    waiters.join_next().await.expect("one").expect("no panic").expect("a new pull");
}

#[tokio::test(start_paused = true)]
async fn serial_pulls_wait_and_those_that_are_there_do_not() {
    let mut node = start(SERIAL);
    node.fake.add_to_registry("big:1", 1);
    node.fake.add_to_registry("small:1", 1);
    node.fake.add_to_registry("here:1", 1);
    node.fake.add_image("here:1", 1);
    node.fake.script("PullImage", Some("big:1"), 1, Effect::Delay(Duration::from_secs(100)));
    let mut waiters = JoinSet::new();
    for (pod, image) in [("a", "big:1"), ("b", "small:1"), ("c", "here:1")] {
        let images = node.images.clone();
        let clock = node.clock;
        waiters.spawn(async move {
            images.ensure(request(pod, image, PullPolicy::Always)).await.expect("pulled");
            (pod, clock.now().mono.0.as_secs())
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut ended = waiters.join_all().await;
    ended.sort_unstable();
    assert_eq!(ended, [("a", 100), ("b", 100), ("c", 0)]);
    let told = node.told();
    let waited = "Normal Pulled Successfully pulled image \"small:1\" in 0s (1m39.99s including waiting). Image size: 1 bytes.";
    assert!(told.iter().any(|event| event == waited), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_pulls_is_limited() {
    let node = start(Limits { parallel: None, qps: 1.0, burst: 1 });
    node.fake.add_to_registry("nginx:1", 1);
    node.images.ensure(request("a", "nginx:1", PullPolicy::Always)).await.expect("pulled");
    failed(
        node.images.ensure(request("b", "nginx:1", PullPolicy::Always)).await,
        "ErrImagePull",
        "pull QPS exceeded",
    );
}

#[tokio::test(start_paused = true)]
async fn the_image_of_a_volume_is_told_of_the_pod() {
    let mut node = start(FREE);
    let request = EnsureImage { of_volume: true, ..request("a", "tools:1", PullPolicy::Never) };
    node.images.ensure(request).await.expect_err("it is not there");
    let mut told = Vec::new();
    while let Ok(event) = node.events.try_recv() {
        told.push(format!("{} {}", event.object.field_path, event.message));
    }
    let never = " Container image \"tools:1\" is not present with pull policy of Never";
    assert_eq!(told, [never, "spec.containers{web} Error: ErrImageNeverPull"]);
}
