//! The task on a temporary directory with fake objects, tokens and mounts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::apiserver::events::{Event, Recorder};
use crate::apiserver::objects::ObjectError;
use crate::apiserver::tokens::{Token, TokenError};
use crate::clock::Clock;
use crate::linux::fs::write_atomic;
use crate::model::{Mono, Pod, PodUid, VolumesState, Wall};
use crate::volumes::mounter::fake::FakeMounter;
use crate::volumes::source::fake::{FakeClaims, FakeObjects, FakeTokens};
use crate::volumes::{Allocatable, Config, Deps, Handle, Paths, Sources, new};

struct World {
    dir: tempfile::TempDir,
    objects: FakeObjects,
    tokens: FakeTokens,
    claims: FakeClaims,
    mounter: FakeMounter,
    clock: Clock,
    handle: Handle,
    events: mpsc::Receiver<Event>,
    task: AbortOnDropHandle<()>,
}

fn world() -> World {
    let dir = tempfile::tempdir().expect("a directory");
    begin(
        dir,
        FakeObjects::default(),
        FakeTokens::default(),
        FakeClaims::default(),
        FakeMounter::default(),
    )
}

fn begin(
    dir: tempfile::TempDir,
    objects: FakeObjects,
    tokens: FakeTokens,
    claims: FakeClaims,
    mounter: FakeMounter,
) -> World {
    let config = Config {
        paths: Paths::new(dir.path(), dir.path().join("logs")),
        allocatable: Allocatable::default(),
    };
    let (recorder, events) = Recorder::channel();
    let clock = Clock::starting_at(Wall::UNIX_EPOCH);
    let sources = Sources {
        objects: objects.clone(),
        tokens: tokens.clone(),
        claims: Arc::new(claims.clone()),
    };
    let csi = crate::volumes::kinds::csi::tests::without_drivers();
    let deps = Deps { sources, csi, mounter: mounter.clone(), recorder, clock };
    let (handle, volumes) = new(config, deps);
    let tracker = TaskTracker::new();
    let task = AbortOnDropHandle::new(tracker.spawn(volumes));
    World { dir, objects, tokens, claims, mounter, clock, handle, events, task }
}

fn uid() -> PodUid {
    PodUid::from("u1")
}

/// A pod of which one container mounts every volume.
fn pod(volumes: &str) -> Pod {
    let volumes: serde_json::Value = serde_json::from_str(volumes).expect("volumes");
    let names = volumes.as_array().expect("a list").iter().map(|volume| volume["name"].clone());
    let mounts: Vec<_> = names
        .enumerate()
        .map(|(index, name)| serde_json::json!({"name": name, "mountPath": format!("/m{index}")}))
        .collect();
    let pod = serde_json::json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "labels": {"a": "1"}},
        "spec": {"volumes": volumes, "containers": [{"name": "app", "volumeMounts": mounts}]},
    });
    serde_json::from_value(pod).expect("a pod")
}

impl World {
    fn volume(&self, plugin: &str, file: &str) -> PathBuf {
        self.dir.path().join(format!("pods/u1/volumes/kubernetes.io~{plugin}/v/{file}"))
    }

    fn read(&self, plugin: &str, file: &str) -> String {
        std::fs::read_to_string(self.volume(plugin, file)).expect("readable")
    }

    fn messages(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            assert_eq!((event.reason.as_str(), event.object.name.as_str()), ("FailedMount", "web"));
            messages.push(event.message);
        }
        messages
    }

    /// The next message; the task is about to record it.
    async fn message(&mut self) -> String {
        self.events.recv().await.expect("the task runs").message
    }

    /// Waits until a file has that content: the task is about to write it.
    async fn shows(&self, plugin: &str, file: &str, content: &str) {
        let path = self.volume(plugin, file);
        while std::fs::read_to_string(&path).unwrap_or_default() != content {
            tokio::task::yield_now().await;
        }
    }
}

async fn ready(state: &mut watch::Receiver<VolumesState>) {
    drop(state.wait_for(|state| *state == VolumesState::Ready).await.expect("the task runs"));
}

async fn absent(state: &mut watch::Receiver<VolumesState>) {
    drop(state.wait_for(|state| *state == VolumesState::Absent).await.expect("the task runs"));
}

async fn pending(state: &mut watch::Receiver<VolumesState>, wanted: &str) {
    let shows = |state: &VolumesState| match state {
        VolumesState::Pending { missing, .. } => missing.iter().any(|(_, why)| why == wanted),
        VolumesState::Absent | VolumesState::Ready | VolumesState::TearingDown { .. } => false,
    };
    drop(state.wait_for(shows).await.expect("the task runs"));
}

const CONFIG: &str = r#"[{"name":"v","configMap":{"name":"c"}}]"#;

#[tokio::test]
async fn waits_for_a_config_map_follows_it_and_lets_it_go() {
    let mut world = world();
    let mut state = world.handle.ensure(Arc::new(pod(CONFIG)));
    pending(&mut state, "waiting for configmap \"c\"").await;
    world.objects.set_config_map("c", 1, &[("key", "one")]);
    ready(&mut state).await;
    assert_eq!(world.read("configmap", "key"), "one");
    world.objects.set_config_map("c", 2, &[("key", "two")]);
    world.shows("configmap", "key", "two").await;
    assert_eq!(world.objects.subscribers("c"), 2, "one to read, one to wait");
    assert_eq!(*state.borrow(), VolumesState::Ready);
    world.handle.release(&uid());
    absent(&mut state).await;
    assert!(!world.volume("configmap", "").exists());
    while world.objects.subscribers("c") > 0 {
        tokio::task::yield_now().await;
    }
    world.handle.remove_pod_dir(&uid()).await.expect("removed");
    assert!(!world.dir.path().join("pods/u1").exists());
    assert_eq!(world.messages(), [""; 0]);
    assert_eq!(*world.tokens.forgotten.lock(), [uid()]);
}

#[tokio::test]
async fn a_missing_object_is_told_once_and_tried_when_it_appears() {
    let mut world = world();
    let not_found = ObjectError::NotFound { kind: "configmap", name: "c".to_owned() };
    world.objects.fail_config_map("c", not_found);
    let mut state = world.handle.ensure(Arc::new(pod(CONFIG)));
    let told = "MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found";
    assert_eq!(world.message().await, told);
    pending(&mut state, "configmap \"c\" not found").await;
    world.objects.set_config_map("c", 1, &[("key", "one")]);
    ready(&mut state).await;
    assert_eq!(world.messages(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn upstreams_summary_comes_at_upstreams_moment_and_again() {
    let mut world = world();
    drop(world.handle.ensure(Arc::new(pod(CONFIG))));
    let began = world.clock.now().mono;
    let summary = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], \
                   failed to process volumes=[]: context deadline exceeded";
    assert_eq!(world.message().await, summary);
    assert_eq!(world.clock.now().mono.since(began).as_secs(), 123);
    assert_eq!(world.message().await, summary);
    assert_eq!(world.clock.now().mono.since(began).as_secs(), 246);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_when_it_lasts() {
    let mut world = world();
    let (namespace, name, problem) = ("ns".to_owned(), "c".to_owned(), "forbidden".to_owned());
    world
        .objects
        .fail_config_map("c", ObjectError::Failed { kind: "configmap", namespace, name, problem });
    let mut state = world.handle.ensure(Arc::new(pod(CONFIG)));
    pending(&mut state, "failed to fetch configmap ns/c: forbidden").await;
    assert_eq!(world.messages(), [""; 0]);
    assert!(world.message().await.ends_with(" : failed to fetch configmap ns/c: forbidden"));
    assert_eq!(world.clock.now().mono.0.as_secs(), 5);
}

#[tokio::test]
async fn an_unsupported_kind_is_told_at_once_and_the_rest_is_set_up() {
    let mut world = world();
    let volumes = r#"[{"name":"data","nfs":{"server":"s","path":"/"}},{"name":"v","emptyDir":{}}]"#;
    let mut state = world.handle.ensure(Arc::new(pod(volumes)));
    let told = world.message().await;
    assert!(
        told.starts_with("Unable to attach or mount volumes: unmounted volumes=[data v]"),
        "{told}"
    );
    assert!(
        told.contains("failed to process volumes=[data]: failed to get Plugin from volumeSpec"),
        "{told}"
    );
    let only_data = |state: &VolumesState| match state {
        VolumesState::Pending { missing, .. } => {
            missing.len() == 1 && missing[0].1.contains("volumes of kind nfs")
        }
        VolumesState::Absent | VolumesState::Ready | VolumesState::TearingDown { .. } => false,
    };
    drop(state.wait_for(only_data).await.expect("the task runs"));
    assert!(world.volume("empty-dir", "").is_dir());
}

const CLAIM: &str = r#"[{"name":"v","persistentVolumeClaim":{"claimName":"c"}}]"#;

fn disk(world: &World) -> String {
    let disk = world.dir.path().join("disk");
    std::fs::create_dir_all(&disk).expect("made");
    disk.display().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_waited_for_mounted_and_released() {
    let mut world = world();
    let mut state = world.handle.ensure(Arc::new(pod(CLAIM)));
    let why = "error processing PVC ns/c: failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found";
    pending(&mut state, why).await;
    let summary = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: ";
    assert_eq!(world.message().await, format!("{summary}{why}"));
    world.claims.bind("c", "pv", &disk(&world));
    ready(&mut state).await;
    let target = world.dir.path().join("pods/u1/volumes/kubernetes.io~local-volume/pv");
    assert_eq!(world.mounter.mounts()[&target], format!("bind {}", disk(&world)));
    let volume = pod(CLAIM).spec.and_then(|spec| spec.volumes).expect("volumes").remove(0);
    let placed = world.handle.place(&uid(), &volume).expect("it has a place");
    assert_eq!((placed.path, placed.name.as_str()), (target.clone(), "pv"));
    world.handle.release(&uid());
    absent(&mut state).await;
    assert!(world.mounter.mounts().is_empty() && !target.exists());
    assert_eq!(world.handle.place(&uid(), &volume), None);
    assert!(!world.dir.path().join("pods/u1/volume-ledger/v").exists());
}

#[tokio::test]
async fn a_restart_keeps_what_a_claim_led_to_even_without_an_api_server() {
    let first = world();
    first.claims.bind("c", "pv", &disk(&first));
    ready(&mut first.handle.ensure(Arc::new(pod(CLAIM)))).await;
    let World { dir, tokens, mounter, task, .. } = first;
    drop(task);
    let second = begin(dir, FakeObjects::default(), tokens, FakeClaims::default(), mounter);
    let mut state = second.handle.ensure(Arc::new(pod(CLAIM)));
    ready(&mut state).await;
    assert_eq!(
        second.mounter.log().len(),
        1,
        "nothing was mounted or unmounted: {:?}",
        second.mounter.log()
    );
    second.handle.release(&uid());
    absent(&mut state).await;
    assert!(second.mounter.mounts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_a_mount_stays_until_the_claim_says_that_it_is_the_one() {
    let first = world();
    first.claims.bind("c", "pv", &disk(&first));
    ready(&mut first.handle.ensure(Arc::new(pod(CLAIM)))).await;
    let World { dir, tokens, claims, mounter, task, .. } = first;
    drop(task);
    // As upstream's kubelet leaves it.
    std::fs::remove_dir_all(dir.path().join("pods/u1/volume-ledger")).expect("removed");
    let second = begin(dir, FakeObjects::default(), tokens, FakeClaims::default(), mounter);
    let mut state = second.handle.ensure(Arc::new(pod(CLAIM)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(second.mounter.log().len(), 1, "the mount stays");
    second.claims.claims.lock().clone_from(&claims.claims.lock());
    second.claims.volumes.lock().clone_from(&claims.volumes.lock());
    ready(&mut state).await;
    assert_eq!(second.mounter.log().len(), 1, "and is taken over");
    second.handle.release(&uid());
    absent(&mut state).await;
    assert!(second.mounter.mounts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_volume_for_one_pod_is_not_given_to_two() {
    let mut world = world();
    world.claims.bind("c", "pv", &disk(&world));
    if let Some(volume) = world.claims.volumes.lock().get_mut("pv") {
        volume.spec.get_or_insert_default().access_modes =
            Some(vec!["ReadWriteOncePod".to_owned()]);
    }
    ready(&mut world.handle.ensure(Arc::new(pod(CLAIM)))).await;
    let mut other = pod(CLAIM);
    other.metadata.uid = Some("u2".to_owned());
    let mut state = world.handle.ensure(Arc::new(other));
    assert_eq!(
        world.message().await,
        "MountVolume.SetUp failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in \
         use by another pod"
    );
    world.handle.release(&uid());
    ready(&mut state).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_there_soon_after_the_api_server_is_back() {
    let world = world();
    let volumes =
        r#"[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}]"#;
    let mut state = world.handle.ensure(Arc::new(pod(volumes)));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let back = world.clock.now().mono;
    let (secret, expires_at) = ("first".into(), Wall::UNIX_EPOCH);
    *world.tokens.answer.lock() =
        Ok(Token { secret, expires_at, refresh_at: Mono(Duration::from_secs(10_000)) });
    ready(&mut state).await;
    assert!(world.clock.now().mono.since(back) <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_written_renewed_and_retried() {
    let world = world();
    let volumes =
        r#"[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}]"#;
    let mut state = world.handle.ensure(Arc::new(pod(volumes)));
    pending(&mut state, "failed to fetch token: no token is scripted").await;
    let token = |text: &str, seconds: u64| Token {
        secret: text.into(),
        expires_at: Wall::UNIX_EPOCH,
        refresh_at: Mono(Duration::from_secs(seconds)),
    };
    *world.tokens.answer.lock() = Ok(token("first", 1000));
    ready(&mut state).await;
    assert!(
        world.clock.now().mono.0 <= Duration::from_secs(2),
        "the back-off starts at half a second"
    );
    assert_eq!(world.read("projected", "token"), "first");
    let mounts = world.mounter.mounts();
    assert!(mounts.keys().any(|path| path.ends_with("kubernetes.io~projected/v")), "{mounts:?}");
    *world.tokens.answer.lock() = Err(TokenError { problem: "down".to_owned() });
    tokio::time::sleep(Duration::from_secs(1000)).await;
    *world.tokens.answer.lock() = Ok(token("second", 1_000_000));
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.shows("projected", "token", "second").await;
    assert_eq!(*state.borrow(), VolumesState::Ready, "a failed renewal leaves the volume as it is");
}

#[tokio::test]
async fn a_changed_label_reaches_the_file() {
    let world = world();
    let volumes = r#"[{"name":"v","downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}}]"#;
    let mut changed = pod(volumes);
    let mut state = world.handle.ensure(Arc::new(changed.clone()));
    ready(&mut state).await;
    assert_eq!(world.read("downward-api", "labels"), "a=\"1\"");
    changed.metadata.labels = Some([("a".to_owned(), "2".to_owned())].into());
    world.handle.update(Arc::new(changed));
    world.shows("downward-api", "labels", "a=\"2\"").await;
}

#[tokio::test]
async fn after_a_restart_volumes_are_ready_at_once_or_removed_by_a_sweep() {
    let first = world();
    first.objects.set_config_map("c", 1, &[("key", "one")]);
    ready(&mut first.handle.ensure(Arc::new(pod(CONFIG)))).await;
    let World { dir, tokens, claims, mounter, task, .. } = first;
    drop(task);
    std::fs::create_dir_all(dir.path().join("pods/u2/volumes/kubernetes.io~empty-dir/x"))
        .expect("made");
    // The API server is away after the restart.
    let second = begin(dir, FakeObjects::default(), tokens, claims, mounter);
    ready(&mut second.handle.ensure(Arc::new(pod(CONFIG)))).await;
    assert_eq!(second.read("configmap", "key"), "one");
    second.objects.set_config_map("c", 2, &[("key", "two")]);
    second.shows("configmap", "key", "two").await;
    second.handle.sweep([uid()]);
    while second.dir.path().join("pods/u2").exists() {
        tokio::task::yield_now().await;
    }
    assert!(second.volume("configmap", "key").exists(), "a known pod is left alone");
}

#[tokio::test]
async fn a_stuck_directory_is_reported_and_foreign_data_stays() {
    let world = world();
    let foreign = world.dir.path().join("pods/u9/volumes/kubernetes.io~csi/pv/mount");
    std::fs::create_dir_all(&foreign).expect("made");
    write_atomic(&foreign.join("data"), "x", 0o600).expect("written");
    let mut swept = world.handle.swept();
    world.handle.sweep([]);
    let swept = swept.wait_for(|swept| !swept.stuck.is_empty()).await.expect("the task runs");
    assert_eq!(swept.stuck[0].uid, PodUid::from("u9"));
    assert!(swept.stuck[0].problem.contains("kubernetes.io~csi/pv"), "{}", swept.stuck[0].problem);
    assert!(foreign.join("data").exists());
}

#[tokio::test(start_paused = true)]
async fn a_busy_mount_is_tried_again() {
    let world = world();
    let mut state =
        world.handle.ensure(Arc::new(pod(r#"[{"name":"v","emptyDir":{"medium":"Memory"}}]"#)));
    ready(&mut state).await;
    let target = world.dir.path().join("pods/u1/volumes/kubernetes.io~empty-dir/v");
    world.mounter.set_busy(&target, true);
    world.handle.release(&uid());
    let failed = |state: &VolumesState| match state {
        VolumesState::TearingDown { last_error } => last_error.contains("could not unmount"),
        VolumesState::Absent | VolumesState::Ready | VolumesState::Pending { .. } => false,
    };
    drop(state.wait_for(failed).await.expect("the task runs"));
    assert!(target.exists());
    world.mounter.set_busy(&target, false);
    absent(&mut state).await;
    assert!(world.mounter.mounts().is_empty() && !target.exists());
}

#[tokio::test]
async fn old_files_stay_until_the_container_has_started() {
    let world = world();
    world.objects.set_config_map("c", 1, &[("key", "one")]);
    ready(&mut world.handle.ensure(Arc::new(pod(CONFIG)))).await;
    let old = std::fs::read_link(world.volume("configmap", "..data")).expect("a link");
    let old = world.volume("configmap", "").join(old);
    let guards = (world.handle.starting(&uid()), world.handle.starting(&uid()));
    world.objects.set_config_map("c", 2, &[("key", "two")]);
    world.shows("configmap", "key", "two").await;
    drop(guards.0);
    assert!(old.join("key").exists());
    drop(guards.1);
    while old.exists() {
        tokio::task::yield_now().await;
    }
}
