//! Volumes of a driver in this process, through the volumes' task, on a temporary directory with
//! fake mounts.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{Request, Response, Status};

use super::Csi;
use crate::apiserver::claims::ClaimError;
use crate::apiserver::events::{Event, Recorder};
use crate::apiserver::nodes::NodeView;
use crate::clock::Clock;
use crate::csi::v1::node_server::{Node, NodeServer};
use crate::csi::v1::node_service_capability::rpc::Type as RpcType;
use crate::csi::v1::node_service_capability::{Rpc, Type};
use crate::csi::{Drivers, Registered, v1};
use crate::model::{Pod, PodUid, VolumesState};
use crate::volumes::mounter::Mounter as _;
use crate::volumes::mounter::fake::FakeMounter;
use crate::volumes::source::fake::{FakeClaims, FakeObjects, FakeTokens};
use crate::volumes::{Allocatable, Config, Deps, DriverSource, Handle, Paths, Sources, new};

const DRIVER: &str = "d.io";

/// Returns the way of a node without drivers.
pub(in crate::volumes) fn without_drivers() -> Csi {
    let objects: Option<crate::apiserver::csi_objects::Handle> = None;
    let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
    Csi::new(Drivers::uncounted(clock), Arc::new(objects), "n")
}

/// A driver that mounts nothing but fakes.
#[derive(Clone, Debug, Default)]
struct FakeDriver {
    mounter: FakeMounter,
    calls: Arc<Mutex<Vec<String>>>,
    /// The failures to come, by call.
    failures: Arc<Mutex<BTreeMap<&'static str, VecDeque<Status>>>>,
}

#[allow(clippy::result_large_err, reason = "the server's error is tonic's")]
impl FakeDriver {
    fn call(&self, name: &'static str, what: &str) -> Result<(), Status> {
        let what = what.rsplit("/pods/").next().unwrap_or_default();
        self.calls.lock().push(format!("{name} {what}"));
        let failure = self.failures.lock().get_mut(name).and_then(VecDeque::pop_front);
        failure.map_or(Ok(()), Err)
    }

    fn fail(&self, name: &'static str, failure: Status) {
        self.failures.lock().entry(name).or_default().push_back(failure);
    }

    fn mount(&self, path: &str) -> Result<(), Status> {
        let path = Path::new(path);
        std::fs::create_dir_all(path)?;
        if !self.mounter.is_mount_point(path)? {
            self.mounter.mount_tmpfs(path, None)?;
        }
        Ok(())
    }

    fn unmount(&self, path: &str) -> Result<(), Status> {
        let path = Path::new(path);
        if path.exists() && self.mounter.is_mount_point(path)? {
            self.mounter.unmount(path)?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Node for FakeDriver {
    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Result<Response<v1::NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        self.call("stage", &request.volume_id)?;
        self.mount(&request.staging_target_path)?;
        Ok(Response::new(v1::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Result<Response<v1::NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        self.call("unstage", &request.volume_id)?;
        self.unmount(&request.staging_target_path)?;
        Ok(Response::new(v1::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Result<Response<v1::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        self.call("publish", &request.target_path)?;
        self.mount(&request.target_path)?;
        Ok(Response::new(v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<v1::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        self.call("unpublish", &request.target_path)?;
        self.unmount(&request.target_path)?;
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<v1::NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn node_expand_volume(
        &self,
        _: Request<v1::NodeExpandVolumeRequest>,
    ) -> Result<Response<v1::NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<v1::NodeGetCapabilitiesResponse>, Status> {
        let rpc = Rpc { r#type: RpcType::StageUnstageVolume.into() };
        let capabilities = vec![v1::NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) }];
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<v1::NodeGetInfoRequest>,
    ) -> Result<Response<v1::NodeGetInfoResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// The API's objects about the driver.
#[derive(Debug)]
struct Objects {
    driver: CSIDriver,
    node: watch::Receiver<NodeView>,
}

impl DriverSource for Objects {
    fn driver<'a>(
        &'a self,
        _name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, ClaimError>> {
        Box::pin(std::future::ready(Ok(Some(Arc::new(self.driver.clone())))))
    }

    fn attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<VolumeAttachment, ClaimError>> {
        let spec = json!({"attacher": DRIVER, "nodeName": "n", "source": {}});
        let status = json!({"attached": true});
        let object = json!({"metadata": {"name": name}, "spec": spec, "status": status});
        Box::pin(std::future::ready(Ok(serde_json::from_value(object).expect("an attachment"))))
    }

    fn secret<'a>(
        &'a self,
        _namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Secret, ClaimError>> {
        Box::pin(std::future::ready(Err(ClaimError(format!("secrets {name:?} not found")))))
    }

    fn node(&self) -> Option<watch::Receiver<NodeView>> {
        Some(self.node.clone())
    }
}

struct World {
    dir: Arc<tempfile::TempDir>,
    driver: FakeDriver,
    drivers: Drivers,
    claims: FakeClaims,
    node: watch::Sender<NodeView>,
    in_use: watch::Receiver<Option<Vec<String>>>,
    handle: Handle,
    events: mpsc::Receiver<Event>,
    task: AbortOnDropHandle<()>,
    server: AbortOnDropHandle<()>,
}

/// A node on which the driver runs, and is not registered yet.
fn world(attach: bool) -> World {
    let dir = Arc::new(tempfile::tempdir().expect("a directory"));
    begin(dir, FakeDriver::default(), FakeClaims::default(), attach)
}

fn begin(
    dir: Arc<tempfile::TempDir>,
    driver: FakeDriver,
    claims: FakeClaims,
    attach: bool,
) -> World {
    let socket = dir.path().join("csi.sock");
    std::fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).expect("bound");
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let server = tonic::transport::Server::builder()
        .add_service(NodeServer::new(driver.clone()))
        .serve_with_incoming(incoming);
    let tracker = TaskTracker::new();
    let server =
        AbortOnDropHandle::new(tracker.spawn(async move { server.await.expect("served") }));

    let clock = Clock::system();
    let (node, view) = watch::channel(NodeView { synced: true, node: None });
    let spec =
        json!({"attachRequired": attach, "volumeLifecycleModes": ["Persistent", "Ephemeral"]});
    let object = json!({"metadata": {"name": DRIVER}, "spec": spec});
    let object = serde_json::from_value(object).expect("a CSIDriver");
    let drivers = Drivers::uncounted(clock);
    let objects = Arc::new(Objects { driver: object, node: view });
    let csi = Csi::new(drivers.clone(), objects, "n");
    let in_use = csi.in_use();
    let (recorder, events) = Recorder::channel();
    let config = Config {
        paths: Paths::new(dir.path(), dir.path().join("logs")),
        allocatable: Allocatable::default(),
    };
    let sources = Sources {
        objects: FakeObjects::default(),
        tokens: FakeTokens::default(),
        claims: Arc::new(claims.clone()),
    };
    let mounter = driver.mounter.clone();
    let (handle, volumes) = new(config, Deps { sources, csi, mounter, recorder, clock });
    let task = AbortOnDropHandle::new(tracker.spawn(volumes));
    World { dir, driver, drivers, claims, node, in_use, handle, events, task, server }
}

fn pod(uid: &str, volume: &serde_json::Value) -> Arc<Pod> {
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let pod = json!({
        "metadata": {"name": uid, "namespace": "ns", "uid": uid},
        "spec": {"volumes": [volume], "containers": [{"name": "app", "volumeMounts": mounts}]},
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn claimed(uid: &str) -> Arc<Pod> {
    pod(uid, &json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}))
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("in time")
}

impl World {
    /// Binds the claim `c` to the driver's volume `h`.
    fn bind(&self) {
        self.claims.bind("c", "pv", "/none");
        let csi = json!({"driver": DRIVER, "volumeHandle": "h"});
        let spec = json!({"claimRef": {"uid": "uid-c"}, "csi": csi});
        let volume = json!({"metadata": {"name": "pv"}, "spec": spec});
        let volume = serde_json::from_value(volume).expect("a volume");
        self.claims.volumes.lock().insert("pv".to_owned(), volume);
    }

    /// Shows these volumes in use and attached on the Node.
    fn attach(&self, volumes: &[&str]) {
        let attached: Vec<_> =
            volumes.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let status = json!({"volumesInUse": volumes, "volumesAttached": attached});
        let node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status}));
        let node = Some(Arc::new(node.expect("a node")));
        self.node.send_replace(NodeView { synced: true, node });
    }

    fn register(&self) {
        let endpoint = self.dir.path().join("csi.sock");
        self.drivers.insert(DRIVER, Registered { endpoint, version: (1, 0, 0) });
    }

    async fn until(&self, uid: &str, wanted: impl Fn(&VolumesState) -> bool) {
        let mut state = self.handle.subscribe(&PodUid::from(uid));
        within(state.wait_for(wanted)).await.expect("the task runs");
    }

    async fn set_up(&self, pod: Arc<Pod>) {
        let uid = crate::model::pod::uid(&pod);
        self.handle.ensure(pod);
        self.until(uid.as_str(), |state| *state == VolumesState::Ready).await;
    }

    async fn tear_down(&self, uid: &str) {
        self.handle.release(&PodUid::from(uid));
        self.until(uid, |state| *state == VolumesState::Absent).await;
        let uid = PodUid::from(uid);
        let removed = self.handle.remove_pod_dir(&uid);
        within(removed).await.expect("removed");
    }

    /// Waits for these calls; in no order of their own where they run side by side.
    async fn until_called(&self, expected: &[&str]) {
        for _ in 0..300 {
            if *self.driver.calls.lock() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(*self.driver.calls.lock(), expected);
    }

    fn stage(&self) -> PathBuf {
        super::data::stage(&Paths::new(self.dir.path(), "/l"), DRIVER, "h")
    }

    async fn until_unstaged(&self) {
        for _ in 0..300 {
            if self.stage().parent().is_some_and(|dir| !dir.exists()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} is still there", self.stage().display());
    }

    async fn event(&mut self) -> String {
        loop {
            let event = within(self.events.recv()).await.expect("an event");
            if event.reason == "FailedMount" {
                return event.message;
            }
        }
    }
}

const PLACE: &str = "volumes/kubernetes.io~csi/pv/mount";

#[tokio::test]
async fn two_pods_share_one_stage_which_goes_with_the_last() {
    let world = world(false);
    world.bind();
    world.register();
    world.set_up(claimed("u1")).await;
    world.set_up(claimed("u2")).await;
    assert!(world.driver.mounter.mounts().contains_key(&world.stage()));
    world.tear_down("u1").await;
    let one = format!("publish u1/{PLACE}");
    let two = format!("publish u2/{PLACE}");
    let gone = format!("unpublish u1/{PLACE}");
    world.until_called(&["stage h", &one, &two, &gone]).await;
    world.tear_down("u2").await;
    world.until_unstaged().await;
    let last = format!("unpublish u2/{PLACE}");
    world.until_called(&["stage h", &one, &two, &gone, &last, "unstage h"]).await;
    assert!(world.driver.mounter.mounts().is_empty());
}

#[tokio::test]
async fn a_driver_that_comes_later_ends_the_wait() {
    let mut world = world(false);
    world.bind();
    world.handle.ensure(claimed("u1"));
    assert_eq!(
        world.event().await,
        "MountVolume.MountDevice failed for volume \"pv\" : kubernetes.io/csi: attacher.MountDevice failed to create \
         newCsiDriverClient: driver name d.io not found in the list of registered CSI drivers"
    );
    world.register();
    world.until("u1", |state| *state == VolumesState::Ready).await;
}

#[tokio::test]
async fn failures_are_told_and_tried_again_on_both_ways() {
    let mut world = world(false);
    world.bind();
    world.register();
    world.driver.fail("stage", Status::internal("no disk"));
    world.driver.fail("publish", Status::aborted("busy"));
    world.driver.fail("unpublish", Status::internal("held"));
    world.driver.fail("unstage", Status::unavailable("away"));
    world.handle.ensure(claimed("u1"));
    assert_eq!(
        world.event().await,
        "MountVolume.MountDevice failed for volume \"pv\" : rpc error: code = Internal desc = no disk"
    );
    assert_eq!(
        world.event().await,
        "MountVolume.SetUp failed for volume \"pv\" : rpc error: code = Aborted desc = busy"
    );
    world.until("u1", |state| *state == VolumesState::Ready).await;
    world.tear_down("u1").await;
    world.until_unstaged().await;
    let (publish, unpublish) = (format!("publish u1/{PLACE}"), format!("unpublish u1/{PLACE}"));
    let calls: [&str; 8] = [
        "stage h",
        "stage h",
        &publish,
        &publish,
        &unpublish,
        &unpublish,
        "unstage h",
        "unstage h",
    ];
    world.until_called(&calls).await;
}

#[tokio::test]
async fn a_pod_that_goes_before_its_volume_is_published_leaves_nothing() {
    let mut world = world(false);
    world.bind();
    world.register();
    for _ in 0..2 {
        world.driver.fail("publish", Status::aborted("busy"));
    }
    world.handle.ensure(claimed("u1"));
    world.event().await;
    world.tear_down("u1").await;
    world.until_unstaged().await;
    assert!(world.driver.mounter.mounts().is_empty());
}

#[tokio::test]
async fn an_inline_volume_is_published_without_a_stage() {
    let world = world(false);
    world.register();
    world.set_up(pod("u1", &json!({"name": "v", "csi": {"driver": DRIVER}}))).await;
    world.tear_down("u1").await;
    let place = "volumes/kubernetes.io~csi/v/mount";
    world.until_called(&[&format!("publish u1/{place}"), &format!("unpublish u1/{place}")]).await;
}

#[tokio::test]
async fn a_restart_takes_up_what_is_there_and_unstages_what_no_pod_uses() {
    let world = world(false);
    world.bind();
    world.register();
    world.set_up(claimed("u1")).await;
    world.driver.calls.lock().clear();
    // The process ends without a word.
    let World { dir, driver, claims, task, server, .. } = world;
    drop((task, server));
    let world = begin(dir, driver, claims, false);
    world.register();
    world.set_up(claimed("u1")).await;
    let publish = format!("publish u1/{PLACE}");
    world.until_called(&["stage h", &publish]).await;
    world.tear_down("u1").await;
    world.until_unstaged().await;

    // Once more, without the pod: the process ends between unpublishing and unstaging.
    world.set_up(claimed("u2")).await;
    world.driver.fail("unstage", Status::unavailable("away"));
    world.tear_down("u2").await;
    let World { dir, driver, claims, task, server, .. } = world;
    drop((task, server));
    let world = begin(dir, driver, claims, false);
    world.register();
    world.until_unstaged().await;
}

#[tokio::test]
async fn a_volume_is_in_use_from_before_its_attachment_until_it_is_unstaged() {
    let world = world(true);
    world.bind();
    world.register();
    world.handle.ensure(claimed("u1"));
    let unique = "kubernetes.io/csi/d.io^h";
    let mut in_use = world.in_use.clone();
    let wanted = Some(vec![unique.to_owned()]);
    within(in_use.wait_for(|in_use| *in_use == wanted)).await.expect("the task runs");
    assert_eq!(*world.driver.calls.lock(), [""; 0], "it is not attached");

    world.attach(&[unique]);
    world.until("u1", |state| *state == VolumesState::Ready).await;
    world.tear_down("u1").await;
    within(in_use.wait_for(|in_use| *in_use == Some(vec![]))).await.expect("the task runs");
    assert!(!world.stage().exists(), "it was unstaged before");
}

#[tokio::test]
async fn a_volume_whose_pods_cannot_be_read_stays_staged() {
    let world = world(false);
    world.bind();
    world.register();
    world.set_up(claimed("u1")).await;
    world.set_up(claimed("u2")).await;
    // What says that u1 uses the volume cannot be read for a while.
    let pod = world.dir.path().join("pods/u1");
    let files = [pod.join("volume-ledger/v"), pod.join(PLACE).with_file_name("vol_data.json")];
    for file in &files {
        std::fs::rename(file, file.with_extension("away")).expect("moved");
        std::fs::create_dir(file).expect("made");
    }
    world.tear_down("u2").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let unstaged = || world.driver.calls.lock().iter().any(|call| call == "unstage h");
    assert!(!unstaged(), "a pod uses it");

    for file in &files {
        std::fs::remove_dir(file).expect("removed");
        std::fs::rename(file.with_extension("away"), file).expect("moved back");
    }
    world.tear_down("u1").await;
    world.until_unstaged().await;
}

#[tokio::test]
async fn the_disk_is_read_again_after_it_could_not_be_read() {
    let world = world(false);
    world.bind();
    world.register();
    world.set_up(claimed("u1")).await;
    let other = world.dir.path().join("pods/u9");
    std::fs::create_dir_all(other.join("volume-ledger/v")).expect("made");
    world.tear_down("u1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.stage().exists(), "the other pod may use it");
    std::fs::remove_dir_all(&other).expect("removed");
    // Nothing else says so.
    world.until_unstaged().await;
}

#[tokio::test]
async fn a_stage_whose_file_is_damaged_stays_in_use_and_holds_up_no_other() {
    let world = world(true);
    world.bind();
    world.register();
    let unique = "kubernetes.io/csi/d.io^h";
    world.attach(&[unique]);
    world.set_up(claimed("u1")).await;
    let file = world.stage().with_file_name("vol_data.json");
    let text = std::fs::read(&file).expect("a file");
    crate::linux::fs::write_atomic(&file, "", 0o644).expect("written");
    world.tear_down("u1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let in_use = world.in_use.borrow().clone();
    assert_eq!(in_use, Some(vec![unique.to_owned()]), "it is still mounted");
    crate::linux::fs::write_atomic(&file, text, 0o644).expect("written");
    world.drivers.remove("other");
    world.register();
    world.until_unstaged().await;
}

#[tokio::test]
async fn a_volume_is_not_in_use_once_the_pod_that_waited_for_it_is_gone() {
    let world = world(true);
    world.bind();
    world.register();
    world.handle.ensure(claimed("u1"));
    let mut in_use = world.in_use.clone();
    let wanted = Some(vec!["kubernetes.io/csi/d.io^h".to_owned()]);
    within(in_use.wait_for(|in_use| *in_use == wanted)).await.expect("the task runs");
    world.tear_down("u1").await;
    within(in_use.wait_for(|in_use| *in_use == Some(vec![]))).await.expect("the task runs");
}

#[tokio::test]
async fn a_damaged_file_of_a_pod_that_the_ledger_knows_holds_up_no_other_stage() {
    let world = world(false);
    world.bind();
    world.register();
    world.set_up(claimed("u1")).await;
    let file = "pods/u1/volumes/kubernetes.io~csi/pv/vol_data.json";
    crate::linux::fs::write_atomic(&world.dir.path().join(file), "", 0o644).expect("written");
    let paths = Paths::new(world.dir.path(), "/l");
    let unused = super::data::stage(&paths, DRIVER, "old");
    std::fs::create_dir_all(&unused).expect("made");
    let data = [("driverName", DRIVER), ("volumeHandle", "old")];
    let data = data.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    super::data::write(unused.parent().expect("a folder"), &data).expect("written");

    world.drivers.remove("other");
    world.register();

    for _ in 0..300 {
        if !unused.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!unused.exists(), "no pod uses it");
    assert!(world.stage().exists(), "the pod uses it");
}
