//! Implements the generated server traits on top of the fake's world.
//!
//! Each call applies its effect of the script and waits here; the changes are `world`'s.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::FakeRuntime;
use super::witness::Deed;
use super::world::{FakeContainer, FakeSandbox, World, sandbox_name, sandbox_state};
use crate::cri::v1;
use crate::cri::v1::image_service_server::ImageService;
use crate::cri::v1::runtime_service_server::RuntimeService;

type Answer<T> = Result<Response<T>, Status>;
/// The future that `async_trait` makes of an async method; our macros have to write it out.
type Later<'a, T> = Pin<Box<dyn Future<Output = Answer<T>> + Send + 'a>>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn matches(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn listed_sandbox(sandbox: &FakeSandbox) -> v1::PodSandbox {
    v1::PodSandbox {
        id: sandbox.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.handler.clone(),
    }
}

fn listed_container(container: &FakeContainer) -> v1::Container {
    v1::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.clone(),
        metadata: container.config.metadata.clone(),
        image: container.config.image.clone(),
        state: container.state.into(),
        created_at: container.created_at,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
        ..Default::default()
    }
}

fn is_listed_sandbox(sandbox: &FakeSandbox, filter: &v1::PodSandboxFilter) -> bool {
    (filter.id.is_empty() || filter.id == sandbox.id)
        && filter.state.as_ref().is_none_or(|state| state.state() == sandbox_state(sandbox))
        && matches(&filter.label_selector, &sandbox.config.labels)
}

fn is_listed_container(container: &FakeContainer, filter: &v1::ContainerFilter) -> bool {
    (filter.id.is_empty() || filter.id == container.id)
        && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == container.sandbox)
        && filter.state.as_ref().is_none_or(|state| state.state() == container.state)
        && matches(&filter.label_selector, &container.config.labels)
}

/// Releases a sandbox's name if RunPodSandbox has created none, also when its caller no longer
/// waits.
struct Reserved<'a> {
    fake: &'a FakeRuntime,
    name: String,
    id: String,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut world = self.fake.inner.world.lock();
        if !world.sandboxes.contains_key(&self.id) {
            world.release(&self.name);
        }
    }
}

impl FakeRuntime {
    /// Returns the time that a container takes to end after SIGTERM (`None`: it never does), and
    /// whether the container runs.
    fn stop_wait(&self, id: &str) -> Option<(Option<Duration>, bool)> {
        let world = self.inner.world.lock();
        let container = world.containers.get(id)?;
        let running = container.state == v1::ContainerState::ContainerRunning;
        Some((
            world.stop_times.get(container.name()).copied().unwrap_or(Some(Duration::ZERO)),
            running,
        ))
    }

    fn no_such_container(id: &str) -> Status {
        Status::not_found(format!("an error occurred when try to find container {id:?}: not found"))
    }

    fn pod_of(&self, id: &str) -> String {
        self.inner.world.lock().pod_of(id)
    }

    fn container_name(&self, id: &str) -> String {
        self.inner
            .world
            .lock()
            .containers
            .get(id)
            .map_or_else(|| id.to_owned(), |found| found.name().to_owned())
    }
}

/// Implements calls that this runtime does not know.
macro_rules! unknown {
    ($($name:ident: $request:ident -> $answer:ident;)*) => {
        $(
            fn $name<'a, 'b>(&'a self, _: Request<v1::$request>) -> Later<'b, v1::$answer>
            where
                'a: 'b,
                Self: 'b,
            {
                Box::pin(std::future::ready(Err(Status::unimplemented(concat!("unknown method ", stringify!($name))))))
            }
        )*
    };
}

/// Implements list calls that stream; this runtime does not know them either.
macro_rules! unknown_streams {
    ($($name:ident: $request:ident -> $stream:ident of $answer:ident;)*) => {
        $(
            type $stream = Streamed<v1::$answer>;
            fn $name<'a, 'b>(&'a self, _: Request<v1::$request>) -> Later<'b, Self::$stream>
            where
                'a: 'b,
                Self: 'b,
            {
                Box::pin(std::future::ready(Err(Status::unimplemented(concat!("unknown method ", stringify!($name))))))
            }
        )*
    };
}

#[tonic::async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        self.serve("Version", "", |world, _| {
            Ok(v1::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: world.name.clone(),
                runtime_version: world.version.clone(),
                runtime_api_version: "v1".to_owned(),
            })
        })
        .await
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.serve("Status", "", |world, _| {
            let condition =
                |name: &str, status: bool, reason: &str, message: &str| v1::RuntimeCondition {
                    r#type: name.to_owned(),
                    status,
                    reason: if status { String::new() } else { reason.to_owned() },
                    message: if status { String::new() } else { message.to_owned() },
                };

            let network = "Network plugin returns error: cni plugin not initialized";
            let conditions = vec![
                condition("RuntimeReady", world.runtime_ready, "RuntimeNotReady", "starting"),
                condition("NetworkReady", world.network_ready, "NetworkPluginNotReady", network),
            ];

            Ok(v1::StatusResponse {
                status: Some(v1::RuntimeStatus { conditions }),
                ..Default::default()
            })
        })
        .await
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        self.serve("RuntimeConfig", "", |_, _| {
            let linux =
                v1::LinuxRuntimeConfiguration { cgroup_driver: v1::CgroupDriver::Cgroupfs.into() };
            Ok(v1::RuntimeConfigResponse { linux: Some(linux) })
        })
        .await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let v1::RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.unwrap_or_default();
        let name = sandbox_name(&config);
        let target =
            config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let pod = config.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default();
        let id = self.inner.world.lock().reserve(&name)?;
        let _reserved = Reserved { fake: self, name, id: id.clone() };

        self.serve_for("RunPodSandbox", &target, &pod, |world, now| {
            world.show(&Deed::RunSandbox(&config));
            world.add_sandbox(&id, config, runtime_handler, now);
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pod = self.pod_of(&id);
        self.serve_for("StopPodSandbox", &id, &pod, |world, now| {
            if let Some(sandbox) = world.sandboxes.get(&id) {
                world.show(&Deed::StopSandbox(sandbox));
            }
            world.stop_sandbox(&id, now);
            Ok(v1::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pod = self.pod_of(&id);
        self.serve_for("RemovePodSandbox", &id, &pod, |world, now| {
            if let Some(sandbox) = world.sandboxes.get(&id) {
                world.show(&Deed::RemoveSandbox(sandbox));
            }
            world.remove_sandbox(&id, now);
            Ok(v1::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.serve("PodSandboxStatus", &id, |world, _| match world.sandbox_status(&id) {
            Some(status) => {
                Ok(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() })
            }
            None => Err(Status::not_found(format!(
                "an error occurred when try to find sandbox {id:?}: not found"
            ))),
        })
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.serve("ListPodSandbox", "", |world, _| {
            let found =
                world.sandboxes.values().filter(|sandbox| is_listed_sandbox(sandbox, &filter));
            Ok(v1::ListPodSandboxResponse { items: found.map(listed_sandbox).collect() })
        })
        .await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let message = request.into_inner();
        let metadata =
            message.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
        let pod = self.pod_of(&message.pod_sandbox_id);

        self.serve_for("CreateContainer", &metadata.name, &pod, |world, now| {
            if let Some(config) = &message.config {
                world.show(&Deed::Create { sandbox: &message.pod_sandbox_id, config });
            }
            Ok(v1::CreateContainerResponse { container_id: world.create(message, now)? })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let name = self.container_name(&id);
        let pod = self.pod_of(&id);

        self.serve_for("StartContainer", &name, &pod, |world, now| {
            if let Some(container) = world.containers.get(&id) {
                world.show(&Deed::Start(container));
            }
            world.start(&id, now)?;
            Ok(v1::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let v1::StopContainerRequest { container_id: id, timeout } = request.into_inner();
        let name = self.container_name(&id);
        let grace = Duration::from_secs(u64::try_from(timeout).unwrap_or_default());
        let mut exit_code = 137;
        let effect = self.before("StopContainer", &name, &self.pod_of(&id)).await?;
        {
            let world = self.inner.world.lock();
            if let Some(container) = world.containers.get(&id) {
                world.show(&Deed::Stop { container, grace: timeout });
            }
        }

        // The container may have ended by itself meanwhile; `exit` then changes nothing.
        if let Some((wait, true)) = self.stop_wait(&id) {
            if wait.is_some_and(|wait| wait <= grace) && !grace.is_zero() {
                exit_code = 143;
            }
            tokio::time::sleep(wait.unwrap_or(grace).min(grace)).await;
        }

        let now = self.now();
        self.inner.world.lock().exit(&id, exit_code, "Error", now);
        self.after(effect, Ok(v1::StopContainerResponse {})).await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let name = self.container_name(&id);
        let pod = self.pod_of(&id);

        self.serve_for("RemoveContainer", &name, &pod, |world, now| {
            if let Some(container) = world.containers.get(&id) {
                world.show(&Deed::Remove(container));
            }
            world.remove_container(&id, now);
            Ok(v1::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.serve("ListContainers", "", |world, _| {
            let found = world
                .containers
                .values()
                .filter(|container| is_listed_container(container, &filter));
            Ok(v1::ListContainersResponse { containers: found.map(listed_container).collect() })
        })
        .await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let name = self.container_name(&id);
        self.serve("ContainerStatus", &name, |world, _| {
            let status = world.container_status(&id).ok_or_else(|| Self::no_such_container(&id))?;
            Ok(v1::ContainerStatusResponse { status: Some(status), info: HashMap::new() })
        })
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let v1::UpdateContainerResourcesRequest { container_id: id, linux, .. } =
            request.into_inner();
        let name = self.container_name(&id);
        self.serve("UpdateContainerResources", &name, |world, _| {
            let container =
                world.containers.get_mut(&id).ok_or_else(|| Self::no_such_container(&id))?;
            container.config.linux.get_or_insert_default().resources = linux;
            Ok(v1::UpdateContainerResourcesResponse {})
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        let name = self.container_name(&request.into_inner().container_id);
        self.serve("ReopenContainerLog", &name, |_, _| Ok(v1::ReopenContainerLogResponse {})).await
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        let message = request.into_inner();
        let name = self.container_name(&message.container_id);
        let exec = self.inner.exec.lock().clone();

        self.serve("ExecSync", &name, |world, _| {
            let container = world.containers.get(&message.container_id);
            if container
                .is_none_or(|container| container.state != v1::ContainerState::ContainerRunning)
            {
                return Err(Self::no_such_container(&message.container_id));
            }
            Ok(exec(&message))
        })
        .await
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        self.serve("UpdateRuntimeConfig", "", |_, _| Ok(v1::UpdateRuntimeConfigResponse {})).await
    }

    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let receiver = self
            .serve("GetContainerEvents", "", |world, _| Ok(world.subscribe()))
            .await?
            .into_inner();
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    unknown! {
        exec: ExecRequest -> ExecResponse;
        attach: AttachRequest -> AttachResponse;
        port_forward: PortForwardRequest -> PortForwardResponse;
        container_stats: ContainerStatsRequest -> ContainerStatsResponse;
        list_container_stats: ListContainerStatsRequest -> ListContainerStatsResponse;
        pod_sandbox_stats: PodSandboxStatsRequest -> PodSandboxStatsResponse;
        list_pod_sandbox_stats: ListPodSandboxStatsRequest -> ListPodSandboxStatsResponse;
        checkpoint_container: CheckpointContainerRequest -> CheckpointContainerResponse;
        list_metric_descriptors: ListMetricDescriptorsRequest -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics: ListPodSandboxMetricsRequest -> ListPodSandboxMetricsResponse;
        update_pod_sandbox_resources:
            UpdatePodSandboxResourcesRequest -> UpdatePodSandboxResourcesResponse;
    }
    unknown_streams! {
        stream_pod_sandboxes:
            StreamPodSandboxesRequest -> StreamPodSandboxesStream of StreamPodSandboxesResponse;
        stream_containers:
            StreamContainersRequest -> StreamContainersStream of StreamContainersResponse;
        stream_container_stats: StreamContainerStatsRequest -> StreamContainerStatsStream
            of StreamContainerStatsResponse;
        stream_pod_sandbox_stats: StreamPodSandboxStatsRequest -> StreamPodSandboxStatsStream
            of StreamPodSandboxStatsResponse;
        stream_pod_sandbox_metrics: StreamPodSandboxMetricsRequest -> StreamPodSandboxMetricsStream
            of StreamPodSandboxMetricsResponse;
    }
}

fn reference(image: Option<&v1::ImageSpec>) -> String {
    image.map(|image| image.image.clone()).unwrap_or_default()
}

#[tonic::async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        self.serve("ListImages", "", |world: &mut World, _| {
            Ok(v1::ListImagesResponse {
                images: world.images.values().map(super::FakeImage::to_api).collect(),
            })
        })
        .await
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let image = reference(request.into_inner().image.as_ref());
        self.serve("ImageStatus", &image, |world, _| {
            let found = world.image(&image).map(super::FakeImage::to_api);
            Ok(v1::ImageStatusResponse { image: found, info: HashMap::new() })
        })
        .await
    }

    async fn pull_image(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Answer<v1::PullImageResponse> {
        let image = reference(request.into_inner().image.as_ref());
        self.serve("PullImage", &image, |world, _| {
            Ok(v1::PullImageResponse { image_ref: world.pull(&image)? })
        })
        .await
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let image = reference(request.into_inner().image.as_ref());
        self.serve("RemoveImage", &image, |world, _| {
            world.images.retain(|reference, found| *reference != image && found.id != image);
            Ok(v1::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(
        &self,
        _: Request<v1::ImageFsInfoRequest>,
    ) -> Answer<v1::ImageFsInfoResponse> {
        self.serve("ImageFsInfo", "", |_, _| Ok(v1::ImageFsInfoResponse::default())).await
    }

    unknown_streams! {
        stream_images: StreamImagesRequest -> StreamImagesStream of StreamImagesResponse;
    }
}
