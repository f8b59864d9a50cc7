//! Calls to a device plugin: taking it on, following its list, asking it for a container's devices.
//! Every call but the list has a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use super::inventory::{Device, Need};
use super::task::{Command, Event};
use super::v1beta1::device_plugin_client::DevicePluginClient;
use super::v1beta1::{self, DevicePluginOptions};
use super::{DeviceOptions, Handle, Request};

/// How long a plugin may take to accept the connection and to say its options; upstream's limit of
/// the first.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to prepare devices. Upstream limits only the call before each start, with
/// the same time.
const PREPARE: Duration = Duration::from_secs(30);

/// A plugin that has been taken on. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    client: DevicePluginClient<Channel>,
    options: DevicePluginOptions,
}

/// Connects to the plugin's socket and asks what it wants to be called for. The error is for the
/// plugin.
pub(super) async fn connect(socket: &Path) -> Result<Connection, String> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path: PathBuf = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = bounded(CONNECT, endpoint.connect_with_connector(connector))
        .await
        .map_err(|problem| format!("failed to dial device plugin: {problem}"))?;
    let mut client = DevicePluginClient::new(channel);
    let options = bounded(CONNECT, client.get_device_plugin_options(v1beta1::Empty {}))
        .await
        .map_err(|problem| format!("failed to get device plugin options: {problem}"))?;
    Ok(Connection { client, options: options.into_inner() })
}

/// Tells the task each list of the plugin, and its end.
pub(super) async fn follow(
    mut connection: Connection,
    resource: String,
    generation: u64,
    events: mpsc::Sender<Event>,
) {
    if let Ok(lists) = connection.client.list_and_watch(v1beta1::Empty {}).await {
        let mut lists = lists.into_inner();
        while let Ok(Some(list)) = lists.message().await {
            let event = Event::Listed {
                resource: resource.clone(),
                generation,
                devices: list.devices.into_iter().map(device).collect(),
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
    events.send(Event::Ended { resource, generation }).await.ok();
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

/// Gets a container its devices, resource by resource.
pub(super) async fn allocate(handle: &Handle, request: Request) -> Result<DeviceOptions, String> {
    for (resource, &count) in &request.wanted {
        let ask = |reply| Command::Need {
            request: request.clone(),
            resource: resource.clone(),
            count,
            reply,
        };
        let (need, connection) = handle.ask(ask).await??;
        let devices = match need {
            Need::None => continue,
            Need::Has(devices) => devices,
            Need::Some { available, first } => {
                let Some(mut plugin) = connection.clone() else {
                    return Err(format!(
                        "endpoint not found in cache for a registered resource: {resource}"
                    ));
                };
                let preferred = plugin.preferred(&available, &first, count).await?;
                let ask = |reply| Command::Reserve {
                    request: request.clone(),
                    resource: resource.clone(),
                    count,
                    preferred,
                    reply,
                };
                let devices = handle.ask(ask).await??;
                let answer = plugin.allocate(&devices).await;
                let (response, problem) = match answer {
                    Ok(response) => (Some(response), None),
                    Err(problem) => (None, Some(problem)),
                };
                let ask = |reply| Command::Answered {
                    request: request.clone(),
                    resource: resource.clone(),
                    response,
                    reply,
                };
                handle.ask(ask).await?;
                if let Some(problem) = problem {
                    return Err(problem);
                }
                devices
            }
        };
        if let Some(mut plugin) = connection {
            plugin.before_start(&devices).await?;
        }
    }
    handle.ask(|reply| Command::Options { request, reply }).await
}

impl Connection {
    /// Which of the available devices the plugin would choose; nothing if it does not want to be
    /// asked or has no choice.
    async fn preferred(
        &mut self,
        available: &BTreeSet<String>,
        first: &BTreeSet<String>,
        count: usize,
    ) -> Result<BTreeSet<String>, String> {
        if !self.options.get_preferred_allocation_available || available.len() <= count {
            return Ok(BTreeSet::new());
        }
        let request = v1beta1::PreferredAllocationRequest {
            container_requests: vec![v1beta1::ContainerPreferredAllocationRequest {
                available_device_i_ds: available.iter().cloned().collect(),
                must_include_device_i_ds: first.iter().take(count).cloned().collect(),
                allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
            }],
        };
        let answer = bounded(PREPARE, self.client.get_preferred_allocation(request))
            .await
            .map_err(|problem| {
                format!("device plugin GetPreferredAllocation rpc failed with err: {problem}")
            })?;
        let first = answer.into_inner().container_responses.into_iter().next();
        Ok(first.into_iter().flat_map(|answer| answer.device_i_ds).collect())
    }

    async fn allocate(
        &mut self,
        devices: &BTreeSet<String>,
    ) -> Result<v1beta1::ContainerAllocateResponse, String> {
        let request = v1beta1::AllocateRequest {
            container_requests: vec![v1beta1::ContainerAllocateRequest {
                devices_ids: devices.iter().cloned().collect(),
            }],
        };
        let answer = bounded(PREPARE, self.client.allocate(request)).await?.into_inner();
        let first = answer.container_responses.into_iter().next();
        first.ok_or_else(|| "no containers return in allocation response {}".to_owned())
    }

    async fn before_start(&mut self, devices: &BTreeSet<String>) -> Result<(), String> {
        if !self.options.pre_start_required {
            return Ok(());
        }
        let request =
            v1beta1::PreStartContainerRequest { devices_ids: devices.iter().cloned().collect() };
        let answer = bounded(PREPARE, self.client.pre_start_container(request)).await;
        answer.map(drop).map_err(|problem| {
            format!("device plugin PreStartContainer rpc failed with err: {problem}")
        })
    }
}

/// A call with a deadline; the error as a Go client prints it.
async fn bounded<T, E: Into<Failure>>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| error.into().0),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

struct Failure(String);

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
    }
}

impl From<tonic::transport::Error> for Failure {
    fn from(error: tonic::transport::Error) -> Self {
        Self(
            std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string),
        )
    }
}

/// The list of a plugin, by id.
pub(super) type Devices = BTreeMap<String, Device>;
