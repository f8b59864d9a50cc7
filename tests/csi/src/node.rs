//! The node service: bind mounts of folders, with faults.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount, umount};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status};

use crate::v1::node_service_capability::rpc::Type as RpcType;
use crate::v1::node_service_capability::{Rpc, Type};
use crate::{Options, faults, record, v1};

/// The driver. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Driver(Arc<State>);

#[derive(Debug)]
struct State {
    options: Options,
    calls: Mutex<BTreeMap<&'static str, u32>>,
}

impl Driver {
    pub(crate) fn new(options: Options) -> Self {
        Self(Arc::new(State { options, calls: Mutex::default() }))
    }

    /// Appends a line to the record.
    pub(crate) fn record(&self, call: &str, request: &Value) {
        // One write: requests come side by side.
        let line = format!("{}\n", json!({"call": call, "request": request}));
        let file = self.0.options.folder.join("requests");
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
            eprintln!("csi-driver: the record: {error}");
        }
    }

    /// Records a call, lets its fault happen, and does its work.
    async fn call(
        &self,
        call: &'static str,
        volume: &str,
        request: Value,
        work: impl FnOnce(&Options) -> std::io::Result<()>,
    ) -> Result<(), Status> {
        let number = {
            let mut calls = self.0.calls.lock();
            let number = calls.entry(call).or_default();
            *number += 1;
            *number
        };
        self.record(call, &request);
        let options = &self.0.options;
        let work = || work(options).map_err(|error| Status::internal(error.to_string()));
        let Some(fault) = faults::of(&options.folder, call, volume, number) else { return work() };

        tokio::time::sleep(Duration::from_millis(fault.slow_millis)).await;
        if fault.hangs {
            std::future::pending::<()>().await;
        }
        if fault.code == 0 || fault.works {
            work()?;
        }
        if fault.code == 0 {
            Ok(())
        } else {
            Err(Status::new(Code::from(fault.code), fault.message))
        }
    }

    fn has(&self, capability: &str) -> bool {
        self.0.options.capabilities.iter().any(|known| known == capability)
    }
}

impl Options {
    /// The folder that is a volume.
    fn volume(&self, id: &str) -> PathBuf {
        self.folder.join("volumes").join(id)
    }
}

/// True if both are one folder: the process may be in another PID namespace than its `/proc`, so
/// the list of mounts cannot be read.
fn is_same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (one, other) = (std::fs::metadata(one)?, std::fs::metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    if is_same(source, target)? {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND, none)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, target, none, flags, none)?;
    }
    Ok(())
}

fn unbind(target: &Path) -> std::io::Result<()> {
    loop {
        match umount(target) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[tonic::async_trait]
impl v1::node_server::Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<v1::NodeStageVolumeRequest>,
    ) -> Result<Response<v1::NodeStageVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        self.call("NodeStageVolume", &id, record::stage(&request), |options| {
            std::fs::create_dir_all(options.volume(&id))?;
            bind(&options.volume(&id), Path::new(&request.staging_target_path), false)
        })
        .await?;
        Ok(Response::new(v1::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<v1::NodeUnstageVolumeRequest>,
    ) -> Result<Response<v1::NodeUnstageVolumeResponse>, Status> {
        let request = request.into_inner();
        let path = request.staging_target_path;
        let fields = json!({"volume_id": request.volume_id, "staging_target_path": path});
        self.call("NodeUnstageVolume", &request.volume_id, fields, |_| unbind(Path::new(&path)))
            .await?;
        Ok(Response::new(v1::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Result<Response<v1::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        self.call("NodePublishVolume", &id, record::publish(&request), |options| {
            let source = if request.staging_target_path.is_empty() {
                options.volume(&id)
            } else {
                PathBuf::from(&request.staging_target_path)
            };
            std::fs::create_dir_all(&source)?;
            bind(&source, Path::new(&request.target_path), request.readonly)
        })
        .await?;
        Ok(Response::new(v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<v1::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let path = request.target_path;
        let fields = json!({"volume_id": request.volume_id, "target_path": path});
        self.call("NodeUnpublishVolume", &request.volume_id, fields, |_| {
            unbind(Path::new(&path))?;
            match std::fs::remove_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await?;
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<v1::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let fields = json!({"volume_id": request.volume_id, "volume_path": request.volume_path});
        self.call("NodeGetVolumeStats", &request.volume_id, fields, |_| Ok(())).await?;
        let bytes = v1::VolumeUsage { available: 60, total: 100, used: 40, unit: 1 };
        let inodes = v1::VolumeUsage { available: 7, total: 10, used: 3, unit: 2 };
        let usage = vec![bytes, inodes];
        Ok(Response::new(v1::NodeGetVolumeStatsResponse { usage, volume_condition: None }))
    }

    async fn node_expand_volume(
        &self,
        request: Request<v1::NodeExpandVolumeRequest>,
    ) -> Result<Response<v1::NodeExpandVolumeResponse>, Status> {
        let request = request.into_inner();
        let bytes = request.capacity_range.as_ref().map_or(0, |range| range.required_bytes);
        let fields = json!({
            "volume_id": request.volume_id,
            "volume_path": request.volume_path,
            "required_bytes": bytes,
        });
        self.call("NodeExpandVolume", &request.volume_id, fields, |_| Ok(())).await?;
        Ok(Response::new(v1::NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<v1::NodeGetCapabilitiesResponse>, Status> {
        self.call("NodeGetCapabilities", "", json!({}), |_| Ok(())).await?;
        let all = [
            ("stage", RpcType::StageUnstageVolume),
            ("stats", RpcType::GetVolumeStats),
            ("expand", RpcType::ExpandVolume),
            ("several", RpcType::SingleNodeMultiWriter),
            ("group", RpcType::VolumeMountGroup),
        ];
        let capabilities = all.into_iter().filter(|(name, _)| self.has(name)).map(|(_, rpc)| {
            let rpc = Rpc { r#type: rpc.into() };
            v1::NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) }
        });
        let capabilities = capabilities.collect();
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _request: Request<v1::NodeGetInfoRequest>,
    ) -> Result<Response<v1::NodeGetInfoResponse>, Status> {
        self.call("NodeGetInfo", "", json!({}), |_| Ok(())).await?;
        let options = &self.0.options;
        let segments = options.topology.clone().into_iter().collect::<HashMap<_, _>>();
        let topology = (!segments.is_empty()).then_some(v1::Topology { segments });
        Ok(Response::new(v1::NodeGetInfoResponse {
            node_id: options.node_id.clone(),
            max_volumes_per_node: options.limit,
            accessible_topology: topology,
        }))
    }
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Driver {
    async fn get_plugin_info(
        &self,
        _request: Request<v1::GetPluginInfoRequest>,
    ) -> Result<Response<v1::GetPluginInfoResponse>, Status> {
        Ok(Response::new(v1::GetPluginInfoResponse {
            name: self.0.options.name.clone(),
            vendor_version: "0".to_owned(),
            manifest: HashMap::new(),
        }))
    }

    async fn probe(
        &self,
        _request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        Ok(Response::new(v1::ProbeResponse {}))
    }
}
