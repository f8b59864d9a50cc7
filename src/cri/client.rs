//! Calls the container runtime: one typed method per CRI call.
//!
//! Each call has its own deadline, is counted, and fails as a [`CriError`]. The client connects
//! with the first call, and again when the connection breaks.
//!
//! Three calls cannot be taken back (invariant 7): RunPodSandbox, CreateContainer and
//! StartContainer run detached, to their deadline, even when the caller's future is dropped. They
//! hold a value of the caller (the epoch guard of `pleg`) until they have ended.
//!
//! Used by every room that talks to the runtime. It never retries a call and never interprets an
//! answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt as _};

use super::endpoint::{Endpoint, EndpointError};
use super::error::{CriError, DialError};
use super::v1;
use super::v1::image_service_client::ImageServiceClient;
use super::v1::runtime_service_client::RuntimeServiceClient;
use crate::clock::Clock;
use crate::model::time::{self, seconds};
use crate::model::{ContainerId, SandboxId};

/// The largest answer that is accepted; upstream's limit. A node with many containers lists
/// megabytes.
const MAX_MESSAGE: usize = 16 << 20;
/// The shortest deadline of RunPodSandbox: the network plugin works within it.
const RUN_POD_SANDBOX: Duration = Duration::from_secs(240);
/// The shortest deadline of CreateContainer and StartContainer.
const CREATE_OR_START: Duration = Duration::from_secs(120);
/// The stream window for large lists: with HTTP/2's 64 KiB a list of megabytes needs dozens of
/// round trips.
const STREAM_WINDOW: u32 = 1 << 20;
/// The window of the connection, for several such lists.
const CONNECTION_WINDOW: u32 = 4 << 20;

type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, TransportError>;

/// A failure below gRPC. A type of its own, because the compiler cannot prove a future with a boxed
/// error `Send`.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the container runtime failed")]
struct TransportError(#[source] BoxError);

impl TransportError {
    fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

/// Observes every call that has ended: the call, its duration, its error.
pub type Observer = Arc<dyn Fn(Operation, Duration, Option<&CriError>) + Send + Sync>;

/// A stream of container events.
pub type EventStream = tonic::Streaming<v1::ContainerEventResponse>;

/// The two names of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The RPC, e.g. `RunPodSandbox`.
    pub call: &'static str,
    /// The `operation_type` of upstream's metrics, e.g. `run_podsandbox`.
    pub metric: &'static str,
}

/// The addresses of the runtime and the ordinary deadline.
#[derive(Clone, Debug)]
pub struct Config {
    /// `containerRuntimeEndpoint`.
    pub runtime_endpoint: String,
    /// `imageServiceEndpoint`; `None` or empty for the runtime's.
    pub image_endpoint: Option<String>,
    /// `runtimeRequestTimeout`.
    pub request_timeout: Duration,
}

/// The result of a command in a container.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// The command's standard output.
    pub stdout: Vec<u8>,
    /// The command's standard error.
    pub stderr: Vec<u8>,
    /// The command's exit code.
    pub exit_code: i32,
}

impl fmt::Debug for ExecOutput {
    /// Leaves the output out: it may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecOutput").field("exit_code", &self.exit_code).finish_non_exhaustive()
    }
}

/// The container runtime. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Transport>,
    images: ImageServiceClient<Transport>,
    request_timeout: Duration,
    clock: Clock,
    observer: Observer,
    /// The calls that run detached from their callers.
    detached: TaskTracker,
    connection: watch::Receiver<Connection>,
}

/// The connections to the runtime. Each change is a reason to read the runtime again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Connections that are open.
    pub open: u32,
    /// The connections that have been opened so far.
    pub opened: u64,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("connection", &*self.connection.borrow())
            .finish_non_exhaustive()
    }
}

impl Runtime {
    /// Returns a client of the runtime that `settings` name. It connects with the first call. Needs
    /// a tokio runtime.
    pub fn new(settings: &Config, clock: Clock, observer: Observer) -> Result<Self, EndpointError> {
        const RUNTIME: &str = "containerRuntimeEndpoint (--container-runtime-endpoint)";
        const IMAGES: &str = "imageServiceEndpoint (--image-service-endpoint)";

        let runtime_endpoint = Endpoint::parse(RUNTIME, &settings.runtime_endpoint)?;
        let image_endpoint =
            match settings.image_endpoint.as_deref().filter(|text| !text.trim().is_empty()) {
                Some(text) => Endpoint::parse(IMAGES, text)?,
                None => runtime_endpoint.clone(),
            };
        let (state, connection) = watch::channel(Connection::default());
        let runtime = channel(&runtime_endpoint, Some(state));
        let images = if image_endpoint == runtime_endpoint {
            runtime.clone()
        } else {
            channel(&image_endpoint, None)
        };

        Ok(Self::assemble(runtime, images, settings.request_timeout, clock, observer, connection))
    }

    /// Returns a client of services in this process: tests and simulations use a fake without a
    /// socket.
    pub fn in_process<R, I>(
        runtime: R,
        images: I,
        request_timeout: Duration,
        clock: Clock,
        observer: Observer,
    ) -> Self
    where
        R: Service<http::Request<Body>, Response = http::Response<Body>>
            + Clone
            + Send
            + Sync
            + 'static,
        R::Error: Into<BoxError>,
        R::Future: Send + 'static,
        I: Service<http::Request<Body>, Response = http::Response<Body>>
            + Clone
            + Send
            + Sync
            + 'static,
        I::Error: Into<BoxError>,
        I::Future: Send + 'static,
    {
        let (_, connection) = watch::channel(Connection { open: 1, opened: 1 });
        let runtime = BoxCloneSyncService::new(runtime.map_err(TransportError::new));
        let images = BoxCloneSyncService::new(images.map_err(TransportError::new));
        Self::assemble(runtime, images, request_timeout, clock, observer, connection)
    }

    fn assemble(
        runtime: Transport,
        images: Transport,
        request_timeout: Duration,
        clock: Clock,
        observer: Observer,
        connection: watch::Receiver<Connection>,
    ) -> Self {
        let runtime = RuntimeServiceClient::new(runtime)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let images = ImageServiceClient::new(images)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Self {
            runtime,
            images,
            request_timeout,
            clock,
            observer,
            detached: TaskTracker::new(),
            connection,
        }
    }

    /// Returns the connections, which change when one to the runtime is opened or lost.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Waits until no detached call is left; for a drain with a deadline. Cancel-safe.
    pub async fn drained(&self) {
        self.detached.close();
        self.detached.wait().await;
    }

    /// Runs `work` to its end even if the returned future is dropped; for a sequence of calls that
    /// belong together.
    pub async fn detach<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.detached.spawn(work).await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // These tasks are never aborted while this process runs: it is ending, and this
                // future will not be polled again.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Makes a call within `limit` and reports it to the observer.
    async fn call<T>(
        &self,
        operation: Operation,
        limit: Option<Duration>,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        let began = self.clock.now().mono;
        let answer =
            async { answer.await.map_err(|status| CriError::from_status(operation.call, &status)) };
        let outcome = match limit {
            Some(limit) => tokio::time::timeout(limit, answer)
                .await
                .unwrap_or_else(|_| Err(CriError::deadline(operation.call))),
            None => answer.await,
        };
        (self.observer)(operation, self.clock.now().mono.since(began), outcome.as_ref().err());

        outcome.map(tonic::Response::into_inner)
    }
}

/// Builds a request that carries its deadline to the runtime.
fn request<T>(message: T, limit: Option<Duration>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(limit) = limit {
        // The header's format has eight digits; tonic panics on a longer number.
        request.set_timeout(limit.min(time::LONGEST));
    }
    request
}

/// Declares calls: documentation, name, RPC method, request, answer, metric, deadline, service.
macro_rules! calls {
    ($($(#[$doc:meta])*
        $name:ident($service:ident.$method:ident, $call:literal, $metric:literal, $limit:expr)
        : $request:ident -> $answer:ident;)*) => {
        impl Runtime {
            $(
                $(#[$doc])*
                ///
                /// Cancel-safe: dropping the future cancels the call.
                pub async fn $name(&self, message: v1::$request) -> Result<v1::$answer, CriError> {
                    let limit: fn(&Self, &v1::$request) -> Option<Duration> = $limit;
                    let limit = limit(self, &message);
                    let mut client = self.$service.clone();
                    let operation = Operation { call: $call, metric: $metric };
                    // Boxed: tonic's futures hold the message several times over.
                    let answer = client.$method(request(message, limit));
                    self.call(operation, limit, Box::pin(answer)).await
                }
            )*
        }
    };
}

/// The default deadline: `runtimeRequestTimeout`.
macro_rules! ordinary {
    () => {
        |this, _| Some(this.request_timeout)
    };
}

calls! {
    /// Returns the runtime's name and version.
    version(runtime.version, "Version", "version", ordinary!()): VersionRequest -> VersionResponse;
    /// Returns the conditions of the runtime and its network, its handlers and features.
    status(runtime.status, "Status", "status", ordinary!()): StatusRequest -> StatusResponse;
    /// Returns the configuration that the runtime wants of a kubelet: its cgroup driver.
    runtime_config(runtime.runtime_config, "RuntimeConfig", "runtime_config", ordinary!())
        : RuntimeConfigRequest -> RuntimeConfigResponse;
    /// Passes the pod CIDR to the runtime.
    update_runtime_config(runtime.update_runtime_config, "UpdateRuntimeConfig", "update_runtime_config", ordinary!())
        : UpdateRuntimeConfigRequest -> UpdateRuntimeConfigResponse;
    /// Stops a sandbox: kills its containers and tears its network down. Idempotent.
    stop_pod_sandbox(runtime.stop_pod_sandbox, "StopPodSandbox", "stop_podsandbox", ordinary!())
        : StopPodSandboxRequest -> StopPodSandboxResponse;
    /// Removes a sandbox and every container in it. Idempotent.
    remove_pod_sandbox(runtime.remove_pod_sandbox, "RemovePodSandbox", "remove_podsandbox", ordinary!())
        : RemovePodSandboxRequest -> RemovePodSandboxResponse;
    /// Returns the status of one sandbox.
    pod_sandbox_status(runtime.pod_sandbox_status, "PodSandboxStatus", "podsandbox_status", ordinary!())
        : PodSandboxStatusRequest -> PodSandboxStatusResponse;
    /// Lists the sandboxes that match a filter.
    list_pod_sandbox(runtime.list_pod_sandbox, "ListPodSandbox", "list_podsandbox", ordinary!())
        : ListPodSandboxRequest -> ListPodSandboxResponse;
    /// Stops a container: its stop signal, after `timeout` seconds SIGKILL. Idempotent; another
    /// call with less grace shortens the wait.
    stop_container(runtime.stop_container, "StopContainer", "stop_container",
        |this, message| Some(this.request_timeout + seconds(message.timeout)))
        : StopContainerRequest -> StopContainerResponse;
    /// Removes a container, by force if it runs. Idempotent.
    remove_container(runtime.remove_container, "RemoveContainer", "remove_container", ordinary!())
        : RemoveContainerRequest -> RemoveContainerResponse;
    /// Lists the containers that match a filter.
    list_containers(runtime.list_containers, "ListContainers", "list_containers", ordinary!())
        : ListContainersRequest -> ListContainersResponse;
    /// Returns the status of one container.
    container_status(runtime.container_status, "ContainerStatus", "container_status", ordinary!())
        : ContainerStatusRequest -> ContainerStatusResponse;
    /// Changes the resources of a container.
    update_container_resources(runtime.update_container_resources, "UpdateContainerResources", "update_container",
        ordinary!()): UpdateContainerResourcesRequest -> UpdateContainerResourcesResponse;
    /// Changes the resources of a sandbox.
    update_pod_sandbox_resources(runtime.update_pod_sandbox_resources, "UpdatePodSandboxResources",
        "update_podsandbox_resources", ordinary!()): UpdatePodSandboxResourcesRequest -> UpdatePodSandboxResourcesResponse;
    /// Makes the runtime reopen a container's log after a rotation.
    reopen_container_log(runtime.reopen_container_log, "ReopenContainerLog", "reopen_container_log", ordinary!())
        : ReopenContainerLogRequest -> ReopenContainerLogResponse;
    /// Runs a command. A `timeout` of zero means no limit, here as in the runtime; otherwise two
    /// minutes are added for the runtime to clean up.
    exec_sync_raw(runtime.exec_sync, "ExecSync", "exec_sync",
        |this, message| (message.timeout > 0)
            .then(|| this.request_timeout + seconds(message.timeout)))
        : ExecSyncRequest -> ExecSyncResponse;
    /// Prepares a streaming `exec` and returns its URL.
    exec(runtime.exec, "Exec", "exec", ordinary!()): ExecRequest -> ExecResponse;
    /// Prepares a streaming `attach` and returns its URL.
    attach(runtime.attach, "Attach", "attach", ordinary!()): AttachRequest -> AttachResponse;
    /// Prepares a port forward and returns its URL.
    port_forward(runtime.port_forward, "PortForward", "port_forward", ordinary!())
        : PortForwardRequest -> PortForwardResponse;
    /// Returns the resource usage of one container.
    container_stats(runtime.container_stats, "ContainerStats", "container_stats", ordinary!())
        : ContainerStatsRequest -> ContainerStatsResponse;
    /// Returns the resource usage of containers that match a filter.
    list_container_stats(runtime.list_container_stats, "ListContainerStats", "list_container_stats", ordinary!())
        : ListContainerStatsRequest -> ListContainerStatsResponse;
    /// Returns the resource usage of one sandbox.
    pod_sandbox_stats(runtime.pod_sandbox_stats, "PodSandboxStats", "podsandbox_stats", ordinary!())
        : PodSandboxStatsRequest -> PodSandboxStatsResponse;
    /// Returns the resource usage of sandboxes that match a filter.
    list_pod_sandbox_stats(runtime.list_pod_sandbox_stats, "ListPodSandboxStats", "list_podsandbox_stats", ordinary!())
        : ListPodSandboxStatsRequest -> ListPodSandboxStatsResponse;
    /// Lists the images on the node.
    list_images(images.list_images, "ListImages", "list_images", ordinary!()): ListImagesRequest -> ListImagesResponse;
    /// Returns one image; its `image` is unset if it is not on the node.
    image_status(images.image_status, "ImageStatus", "image_status", ordinary!())
        : ImageStatusRequest -> ImageStatusResponse;
    /// Pulls an image. No deadline: the runtime has its own on progress.
    pull_image_raw(images.pull_image, "PullImage", "pull_image", |_, _| None): PullImageRequest -> PullImageResponse;
    /// Removes an image. Idempotent.
    remove_image(images.remove_image, "RemoveImage", "remove_image", ordinary!())
        : RemoveImageRequest -> RemoveImageResponse;
    /// Returns the usage of the file system that holds images.
    image_fs_info(images.image_fs_info, "ImageFsInfo", "image_fs_info", ordinary!())
        : ImageFsInfoRequest -> ImageFsInfoResponse;
}

impl Runtime {
    /// Creates and starts a sandbox. Cannot be taken back: the call runs to its deadline (4 min)
    /// even if the future is dropped, and `hold` is kept until it has ended.
    pub async fn run_pod_sandbox<K: Send + 'static>(
        &self,
        message: v1::RunPodSandboxRequest,
        hold: K,
    ) -> (Result<SandboxId, CriError>, K) {
        const OPERATION: Operation = Operation { call: "RunPodSandbox", metric: "run_podsandbox" };
        let limit = Some(RUN_POD_SANDBOX.max(self.request_timeout * 2));
        let name =
            message.config.as_ref().and_then(|config| config.metadata.clone()).unwrap_or_default();
        let mut client = self.runtime.clone();
        let this = self.clone();

        self.detach(async move {
            let call = Box::pin(client.run_pod_sandbox(request(message, limit)));
            let outcome = this.call(OPERATION, limit, call).await.and_then(|answer| {
                if answer.pod_sandbox_id.is_empty() {
                    let problem = format!("PodSandboxId is not set for sandbox {:?}", name.name);
                    return Err(CriError::unusable_answer(OPERATION.call, problem));
                }
                Ok(SandboxId::new(answer.pod_sandbox_id))
            });
            (outcome, hold)
        })
        .await
    }

    /// Creates a container. Cannot be taken back: the call runs to its deadline (2 min) even if the
    /// future is dropped, and `hold` is kept until it has ended.
    pub async fn create_container<K: Send + 'static>(
        &self,
        message: v1::CreateContainerRequest,
        hold: K,
    ) -> (Result<ContainerId, CriError>, K) {
        const OPERATION: Operation =
            Operation { call: "CreateContainer", metric: "create_container" };
        let limit = Some(CREATE_OR_START.max(self.request_timeout));
        let mut client = self.runtime.clone();
        let this = self.clone();

        self.detach(async move {
            let call = Box::pin(client.create_container(request(message, limit)));
            let outcome = this.call(OPERATION, limit, call).await.and_then(|answer| {
                if answer.container_id.is_empty() {
                    return Err(CriError::unusable_answer(
                        OPERATION.call,
                        "ContainerId is not set for container",
                    ));
                }
                Ok(ContainerId::new(answer.container_id))
            });

            (outcome, hold)
        })
        .await
    }

    /// Starts a container. Cannot be taken back: the call runs to its deadline (2 min) even if the
    /// future is dropped, and `hold` is kept until it has ended.
    pub async fn start_container<K: Send + 'static>(
        &self,
        id: &ContainerId,
        hold: K,
    ) -> (Result<(), CriError>, K) {
        const OPERATION: Operation =
            Operation { call: "StartContainer", metric: "start_container" };
        let limit = Some(CREATE_OR_START.max(self.request_timeout));
        let message = v1::StartContainerRequest { container_id: id.as_str().to_owned() };
        let mut client = self.runtime.clone();
        let this = self.clone();

        self.detach(async move {
            let outcome =
                this.call(OPERATION, limit, client.start_container(request(message, limit))).await;
            (outcome.map(|_| ()), hold)
        })
        .await
    }

    /// Runs a command in a container. `timeout` is rounded up to whole seconds; zero means none. An
    /// expired one is [`CriError::is_deadline`]. Cancel-safe: dropping the future cancels the call
    /// and kills the command.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, CriError> {
        let whole = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let timeout = if timeout.subsec_nanos() > 0 { whole.saturating_add(1) } else { whole };
        let message =
            v1::ExecSyncRequest { container_id: id.as_str().to_owned(), cmd: command, timeout };
        let v1::ExecSyncResponse { stdout, stderr, exit_code } =
            self.exec_sync_raw(message).await?;
        Ok(ExecOutput { stdout, stderr, exit_code })
    }

    /// Pulls an image and returns its reference. Cancel-safe: dropping the future cancels the pull.
    pub async fn pull_image(&self, message: v1::PullImageRequest) -> Result<String, CriError> {
        let image = message.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let answer = self.pull_image_raw(message).await?;
        if answer.image_ref.is_empty() {
            return Err(CriError::unusable_answer(
                "PullImage",
                format!("imageRef of image {image:?} is not set"),
            ));
        }
        Ok(answer.image_ref)
    }

    /// Opens the stream of container events. It may not answer before the first event, so no other
    /// work may wait for it.
    pub async fn container_events(&self) -> Result<EventStream, CriError> {
        const OPERATION: Operation =
            Operation { call: "GetContainerEvents", metric: "get_container_events" };
        let mut client = self.runtime.clone();
        self.call(OPERATION, None, client.get_container_events(v1::GetEventsRequest {})).await
    }
}

/// Builds the channel to a socket. With `state`, its connections are counted.
fn channel(endpoint: &Endpoint, state: Option<watch::Sender<Connection>>) -> Transport {
    let path = endpoint.path().to_owned();
    let state = state.map(Arc::new);
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        let state = state.clone();
        async move {
            match UnixStream::connect(&path).await {
                Ok(stream) => Ok(TokioIo::new(Tracked { stream, _open: state.map(Open::new) })),
                Err(source) => Err(DialError { path: path.display().to_string(), source }),
            }
        }
    });

    // Upstream's client sends this authority: some runtimes log or check it.
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .origin(http::Uri::from_static("http://localhost"))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(connector);

    BoxCloneSyncService::new(channel.map_err(TransportError::new))
}

/// Counts a connection while it is open.
struct Open(Arc<watch::Sender<Connection>>);

impl Open {
    fn new(state: Arc<watch::Sender<Connection>>) -> Self {
        state.send_modify(|connection| {
            connection.open += 1;
            connection.opened += 1;
        });
        Self(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|connection| connection.open = connection.open.saturating_sub(1));
    }
}

/// A connection that is counted until it ends.
struct Tracked {
    stream: UnixStream,
    _open: Option<Open>,
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{request, seconds};

    #[test]
    fn no_limit_is_too_long_for_the_header() {
        for limit in [seconds(400_000_000_000) + Duration::from_secs(120), Duration::MAX] {
            assert!(request((), Some(limit)).metadata().contains_key("grpc-timeout"), "{limit:?}");
        }
    }
}
