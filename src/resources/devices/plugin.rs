//! Calls to a device plugin: taking it on, following its list, making the calls that the inventory
//! decides. Every call but the list has a deadline.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::error::{CallError, PluginError};
use super::inventory::Device;
use super::v1beta1::device_plugin_client::DevicePluginClient;
use super::v1beta1::{self, DevicePluginOptions};
use super::{Answer, Call, News};

/// How long a plugin may take to accept the connection and to say its options; upstream's limit of
/// the first.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to prepare devices. Upstream limits only the call before each start, with
/// the same time.
const PREPARE: Duration = Duration::from_secs(30);

/// A plugin that has been taken on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    client: DevicePluginClient<Channel>,
    options: DevicePluginOptions,
}

/// Connects to the plugin's socket and asks what it wants to be called for. The error is for the
/// plugin.
pub(super) async fn connect(socket: &Path) -> Result<Connection, PluginError> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path: PathBuf = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = bounded(CONNECT, endpoint.connect_with_connector(connector))
        .await
        .map_err(PluginError::Dial)?;
    let mut client = DevicePluginClient::new(channel);
    let options = bounded(CONNECT, client.get_device_plugin_options(v1beta1::Empty {}))
        .await
        .map_err(PluginError::Options)?;
    Ok(Connection { client, options: options.into_inner() })
}

/// Tells of each list of the plugin, and of its end.
pub async fn follow(
    mut connection: Connection,
    resource: String,
    generation: u64,
    news: mpsc::Sender<News>,
) {
    if let Ok(lists) = connection.client.list_and_watch(v1beta1::Empty {}).await {
        let mut lists = lists.into_inner();
        while let Ok(Some(list)) = lists.message().await {
            let list = News::Listed {
                resource: resource.clone(),
                generation,
                devices: list.devices.into_iter().map(device).collect(),
            };
            if news.send(list).await.is_err() {
                return;
            }
        }
    }
    news.send(News::Ended { resource, generation }).await.ok();
}

fn device(device: v1beta1::Device) -> (String, Device) {
    let nodes = device
        .topology
        .into_iter()
        .flat_map(|topology| topology.nodes)
        .map(|node| node.id)
        .collect();
    (device.id, Device { healthy: device.health == "Healthy", nodes })
}

impl Connection {
    /// Makes a call.
    pub async fn make(&mut self, call: Call) -> Result<Answer, PluginError> {
        match call {
            Call::Prefer { resource, available, included, count } => {
                let devices = self.prefer(available, included, count).await?;
                Ok(Answer::Preferred { resource, devices })
            }
            Call::Allocate { resource, devices } => {
                let response = self.allocate(devices).await?;
                Ok(Answer::Allocated { resource, response })
            }
        }
    }

    /// The devices that the plugin would choose; none if it does not want to be asked.
    async fn prefer(
        &mut self,
        available: BTreeSet<String>,
        included: BTreeSet<String>,
        count: usize,
    ) -> Result<BTreeSet<String>, PluginError> {
        if !self.options.get_preferred_allocation_available {
            return Ok(BTreeSet::new());
        }
        let request = v1beta1::PreferredAllocationRequest {
            container_requests: vec![v1beta1::ContainerPreferredAllocationRequest {
                available_device_i_ds: available.into_iter().collect(),
                must_include_device_i_ds: included.into_iter().collect(),
                allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
            }],
        };
        let answer = bounded(PREPARE, self.client.get_preferred_allocation(request))
            .await
            .map_err(PluginError::Prefer)?;
        let first = answer.into_inner().container_responses.into_iter().next();
        Ok(first.into_iter().flat_map(|answer| answer.device_i_ds).collect())
    }

    async fn allocate(
        &mut self,
        devices: BTreeSet<String>,
    ) -> Result<v1beta1::ContainerAllocateResponse, PluginError> {
        let request = v1beta1::AllocateRequest {
            container_requests: vec![v1beta1::ContainerAllocateRequest {
                devices_ids: devices.into_iter().collect(),
            }],
        };
        let answer = bounded(PREPARE, self.client.allocate(request)).await;
        let answer = answer.map_err(PluginError::Allocate)?.into_inner();
        let first = answer.container_responses.into_iter().next();
        first.ok_or(PluginError::NoContainers)
    }

    /// Has the plugin prepare a container's devices if it wants to be asked before each start.
    pub async fn before_start(&mut self, devices: &BTreeSet<String>) -> Result<(), PluginError> {
        if !self.options.pre_start_required {
            return Ok(());
        }
        let request =
            v1beta1::PreStartContainerRequest { devices_ids: devices.iter().cloned().collect() };
        let answer = bounded(PREPARE, self.client.pre_start_container(request)).await;
        answer.map(drop).map_err(PluginError::PreStart)
    }
}

/// A call with a deadline.
async fn bounded<T, E: Into<CallError>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(CallError::Deadline),
    }
}
