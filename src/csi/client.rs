//! Calls a CSI driver's node service: one typed method per call.
//!
//! Each call has a deadline, is counted, and fails as a [`CsiError`]. A call opens a connection of
//! its own, as upstream's client does: drivers are restarted and move. It never retries a call, and
//! requests are never logged, because they hold secrets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Channel;

use super::error::CsiError;
use super::v1::node_client::NodeClient;
use super::v1::node_service_capability::Type;
use super::v1::node_service_capability::rpc::Type as RpcType;
use super::v1::{self, node_service_capability};
use crate::clock::Clock;
use crate::cri::CriError;
use crate::cri::error::DialError;

/// The deadline of each call; upstream's.
const DEADLINE: Duration = Duration::from_secs(120);

/// Observes every call that has ended: the driver, the method, its duration, its error.
pub type Observer = Arc<dyn Fn(&str, &str, Duration, Option<&CsiError>) + Send + Sync>;

/// The optional abilities of a driver's node service that change what the kubelet does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Volumes are staged once per node before they are published to pods.
    pub stage: bool,
    /// The driver tells one writing pod from several.
    pub single_node_multi_writer: bool,
    /// The driver gives volumes to a group itself.
    pub mount_group: bool,
}

impl Capabilities {
    fn of(capabilities: &[v1::NodeServiceCapability]) -> Self {
        let has = |wanted: RpcType| {
            capabilities.iter().any(|capability| match &capability.r#type {
                Some(Type::Rpc(node_service_capability::Rpc { r#type })) => {
                    *r#type == i32::from(wanted)
                }
                None => false,
            })
        };
        Self {
            stage: has(RpcType::StageUnstageVolume),
            single_node_multi_writer: has(RpcType::SingleNodeMultiWriter),
            mount_group: has(RpcType::VolumeMountGroup),
        }
    }
}

/// A driver's node service. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    driver: String,
    socket: PathBuf,
    clock: Clock,
    observer: Observer,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("driver", &self.driver)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Returns a channel to a socket, which connects with the first call.
pub(crate) fn channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move {
            let connected = UnixStream::connect(&path).await;
            let failed = |source| DialError { path: path.display().to_string(), source };
            connected.map(TokioIo::new).map_err(failed)
        }
    });

    // Upstream's client sends this authority: some servers check it.
    tonic::transport::Endpoint::from_static("http://localhost")
        .origin(http::Uri::from_static("http://localhost"))
        .connect_with_connector_lazy(connector)
}

/// Declares calls: documentation, name, RPC method, request, answer.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($method:ident, $call:literal)
        : $request:ident -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// Cancel-safe: dropping the future cancels the call.
                pub async fn $name(
                    &self,
                    message: v1::$request,
                ) -> Result<v1::$answer, CsiError> {
                    let mut client = NodeClient::new(channel(&self.socket));
                    let mut request = tonic::Request::new(message);
                    request.set_timeout(DEADLINE);
                    // Boxed: tonic's futures hold the message several times over.
                    self.call($call, Box::pin(client.$method(request))).await
                }
            )*
        }
    };
}

calls! {
    /// Returns the driver's name of this node, its limit of volumes and its topology.
    node_info(node_get_info, "NodeGetInfo"): NodeGetInfoRequest -> NodeGetInfoResponse;
    /// Returns the abilities of the node service.
    node_capabilities(node_get_capabilities, "NodeGetCapabilities")
        : NodeGetCapabilitiesRequest -> NodeGetCapabilitiesResponse;
    /// Makes a volume known to the node. Idempotent.
    stage(node_stage_volume, "NodeStageVolume"): NodeStageVolumeRequest -> NodeStageVolumeResponse;
    /// Reverses [`Client::stage`]. Idempotent.
    unstage(node_unstage_volume, "NodeUnstageVolume")
        : NodeUnstageVolumeRequest -> NodeUnstageVolumeResponse;
    /// Gives a volume to a pod. Idempotent.
    publish(node_publish_volume, "NodePublishVolume")
        : NodePublishVolumeRequest -> NodePublishVolumeResponse;
    /// Reverses [`Client::publish`]. Idempotent.
    unpublish(node_unpublish_volume, "NodeUnpublishVolume")
        : NodeUnpublishVolumeRequest -> NodeUnpublishVolumeResponse;
    /// Returns the usage of a volume.
    stats(node_get_volume_stats, "NodeGetVolumeStats")
        : NodeGetVolumeStatsRequest -> NodeGetVolumeStatsResponse;
    /// Grows a volume. Idempotent.
    expand(node_expand_volume, "NodeExpandVolume")
        : NodeExpandVolumeRequest -> NodeExpandVolumeResponse;
}

impl Client {
    pub(super) fn new(driver: &str, socket: PathBuf, clock: Clock, observer: Observer) -> Self {
        Self { driver: driver.to_owned(), socket, clock, observer }
    }

    /// Returns the abilities that matter to the kubelet. Cancel-safe.
    pub async fn capabilities(&self) -> Result<Capabilities, CsiError> {
        let answer = self.node_capabilities(v1::NodeGetCapabilitiesRequest {}).await?;
        Ok(Capabilities::of(&answer.capabilities))
    }

    async fn call<T>(
        &self,
        method: &'static str,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CsiError> {
        let began = self.clock.now().mono;
        let outcome = match tokio::time::timeout(DEADLINE, answer).await {
            Ok(answer) => answer.map_err(|status| CriError::from_status(method, &status)),
            Err(_) => Err(CriError::deadline(method)),
        };
        let outcome = outcome.map(tonic::Response::into_inner).map_err(CsiError::Call);

        let name = format!("/csi.v1.Node/{method}");
        let took = self.clock.now().mono.since(began);
        (self.observer)(&self.driver, &name, took, outcome.as_ref().err());
        outcome
    }
}
