//! The manager with a device plugin in this process, over its real sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Arc, Handle, Pod, PodUid, new};
use crate::clock::Clock;
use crate::model::pod;
use crate::resources::devices::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use crate::resources::devices::v1beta1::registration_client::RegistrationClient;
use crate::resources::devices::v1beta1::{self as api};

/// A plugin in this process: two devices; it refuses `broken` ones.
#[derive(Clone, Debug)]
struct Plugin;

type Answer<T> = Result<tonic::Response<T>, tonic::Status>;
type Lists = futures::stream::BoxStream<'static, Result<api::ListAndWatchResponse, tonic::Status>>;

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    type ListAndWatchStream = Lists;

    async fn get_device_plugin_options(
        &self,
        _: tonic::Request<api::Empty>,
    ) -> Answer<api::DevicePluginOptions> {
        Ok(tonic::Response::new(api::DevicePluginOptions {
            pre_start_required: true,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(&self, _: tonic::Request<api::Empty>) -> Answer<Lists> {
        use futures::StreamExt as _;
        let device = |id: &str| api::Device {
            id: id.to_owned(),
            health: "Healthy".to_owned(),
            topology: None,
        };
        let list = api::ListAndWatchResponse { devices: ["0", "1"].map(device).into() };
        let lists = futures::stream::iter([Ok(list)]).chain(futures::stream::pending());
        Ok(tonic::Response::new(lists.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        _: tonic::Request<api::PreferredAllocationRequest>,
    ) -> Answer<api::PreferredAllocationResponse> {
        let first = api::ContainerPreferredAllocationResponse { device_i_ds: vec!["1".into()] };
        Ok(tonic::Response::new(api::PreferredAllocationResponse {
            container_responses: vec![first],
        }))
    }

    async fn allocate(
        &self,
        request: tonic::Request<api::AllocateRequest>,
    ) -> Answer<api::AllocateResponse> {
        let asked = request.into_inner().container_requests.remove(0).devices_ids;
        if asked.len() > 1 {
            return Err(tonic::Status::internal("one at a time"));
        }
        let response = api::ContainerAllocateResponse {
            envs: [("DEVICES".to_owned(), asked.join(","))].into(),
            ..Default::default()
        };
        Ok(tonic::Response::new(api::AllocateResponse { container_responses: vec![response] }))
    }

    async fn pre_start_container(
        &self,
        request: tonic::Request<api::PreStartContainerRequest>,
    ) -> Answer<api::PreStartContainerResponse> {
        assert_eq!(request.into_inner().devices_ids, ["1"]);
        Ok(tonic::Response::new(api::PreStartContainerResponse {}))
    }
}

struct World {
    folder: tempfile::TempDir,
    manager: Handle,
    tasks: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let mut tasks = JoinSet::new();
        let (manager, task) = new(folder.path().to_owned(), None, Clock::system());
        tasks.spawn(task);
        Self { folder, manager, tasks }
    }

    /// Serves the plugin, registers it, and waits until its devices count.
    async fn plug_in(&mut self) {
        // Sockets from before the kubelet are removed when it begins to listen.
        let mut kubelet = connect(self.folder.path()).await;
        let listener = tokio::net::UnixListener::bind(self.folder.path().join("plugin.sock"));
        let listener = listener.expect("a socket");
        let incoming = futures::stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        self.tasks.spawn(async move {
            let mut server = tonic::transport::Server::builder();
            let service = DevicePluginServer::new(Plugin);
            server.add_service(service).serve_with_incoming(incoming).await.ok();
        });
        kubelet
            .register(api::RegisterRequest {
                version: "v1beta1".into(),
                endpoint: "plugin.sock".into(),
                resource_name: "example.com/gpu".into(),
                options: None,
            })
            .await
            .expect("registered");
        let mut figures = self.manager.figures();
        let counted = figures.wait_for(|figures| figures.get("example.com/gpu") == Some(&(2, 2)));
        counted.await.expect("it counts");
    }

    async fn admit(&self, pod: &Arc<Pod>) -> Result<(), String> {
        match self.manager.admit(pod, &[]) {
            None => Ok(()),
            Some(waits) => Box::pin(waits).await.map_err(|refusal| refusal.to_string()),
        }
    }
}

async fn connect(folder: &Path) -> RegistrationClient<tonic::transport::Channel> {
    let socket: PathBuf = folder.join("kubelet.sock");
    while !socket.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await;
            stream.map(hyper_util::rt::TokioIo::new)
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    RegistrationClient::new(endpoint.connect_with_connector(connector).await.expect("it listens"))
}

#[expect(clippy::needless_pass_by_value, reason = "JSON reads better without a borrow")]
fn asking(uid: &str, limits: Value) -> Arc<Pod> {
    let pod = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid},
        "spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]}});
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

#[tokio::test]
async fn a_pod_has_its_devices_from_its_admission_to_its_end() {
    let mut world = World::new();
    world.plug_in().await;
    let one = json!({"example.com/gpu": "1"});
    let first = asking("a", one.clone());
    assert_eq!(world.admit(&first).await, Ok(()));
    assert_eq!(world.manager.given().await["example.com/gpu"], 1);
    for _ in 0..2 {
        let main = &pod::main_containers(&first)[0];
        let allocation = world.manager.start(&first, main).await.expect("it has it");
        assert_eq!(allocation.envs["DEVICES"], "1", "the plugin prefers it, each time");
    }

    // Without an admission it gets none of the first one's.
    assert_eq!(world.admit(&asking("b", one.clone())).await, Ok(()));
    assert_eq!(
        world.admit(&asking("c", one.clone())).await.expect_err("none is left"),
        "Allocate failed due to requested number of devices unavailable for example.com/gpu. \
         Requested: 1, Available: 0, which is unexpected"
    );
    world.manager.forget(&PodUid::new("a")).await;
    assert_eq!(world.admit(&asking("c", one)).await, Ok(()));
}

#[tokio::test]
async fn what_a_plugin_refuses_is_said_and_nothing_stays_set_aside() {
    let mut world = World::new();
    world.plug_in().await;
    assert_eq!(
        world.admit(&asking("a", json!({"example.com/gpu": "2"}))).await.expect_err("refused"),
        "Allocate failed due to rpc error: code = Internal desc = one at a time, \
         which is unexpected"
    );
    assert!(world.manager.given().await.is_empty());
}

#[tokio::test]
async fn who_asks_for_nothing_does_not_wait() {
    let world = World::new();
    let plain = asking("a", json!({"cpu": "1"}));
    assert!(world.manager.admit(&plain, &[]).is_none());
    let foreign = asking("b", json!({"example.com/other": "1"}));
    assert_eq!(world.admit(&foreign).await, Ok(()), "no plugin ever offered it");
    assert!(world.manager.given().await.is_empty());
}

#[tokio::test]
async fn a_checkpoint_that_could_not_be_written_is_written_later() {
    let mut world = World::new();
    let file = world.folder.path().join(super::task::CHECKPOINT);
    std::fs::create_dir(&file).expect("a folder in its place");
    world.plug_in().await;
    std::fs::remove_dir(&file).expect("removed");

    // Longer than the pause before the next try.
    for _ in 0..400 {
        if file.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = std::fs::read_to_string(&file).expect("written without another change");
    assert!(text.contains("example.com/gpu"), "{text}");
}
