//! The state of the fake runtime, and the changes that calls make to it. It never waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;

use super::super::v1;
use super::witness::{Deed, Delivery, Scene, Witness};

/// The unread events at which a subscriber is dropped.
const SUBSCRIBER_QUEUE: usize = 1024;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeImage {
    /// The image's id.
    pub id: String,
    /// The image's size in bytes.
    pub size: u64,
    /// The reference by which the image was pulled.
    pub reference: String,
}

impl FakeImage {
    pub(super) fn new(reference: &str, size: u64) -> Self {
        let hash = reference.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { id: format!("sha256:{hash:064x}"), size, reference: reference.to_owned() }
    }

    pub(super) fn to_api(&self) -> v1::Image {
        v1::Image {
            id: self.id.clone(),
            repo_tags: vec![self.reference.clone()],
            size: self.size,
            spec: Some(v1::ImageSpec { image: self.id.clone(), ..Default::default() }),
            ..Default::default()
        }
    }
}

/// A sandbox.
#[derive(Clone, Debug)]
pub struct FakeSandbox {
    /// The sandbox's id.
    pub id: String,
    /// The configuration from the request.
    pub config: v1::PodSandboxConfig,
    /// The runtime handler.
    pub handler: String,
    /// True while the sandbox is ready.
    pub ready: bool,
    /// The sandbox's address; empty in the node's network.
    pub ip: String,
    pub(super) created_at: i64,
}

/// A container.
#[derive(Clone, Debug)]
pub struct FakeContainer {
    /// The container's id.
    pub id: String,
    /// The sandbox that the container lives in.
    pub sandbox: String,
    /// The configuration from the request.
    pub config: v1::ContainerConfig,
    /// The container's state.
    pub state: v1::ContainerState,
    /// The container's exit code.
    pub exit_code: i32,
    /// The runtime's reason for the container's end.
    pub reason: String,
    pub(super) message: String,
    pub(super) log_path: String,
    pub(super) created_at: i64,
    pub(super) started_at: i64,
    pub(super) finished_at: i64,
}

impl FakeContainer {
    /// Returns the time of the start, in nanoseconds since 1970.
    pub fn started_at(&self) -> i64 {
        self.started_at
    }

    /// Returns the container's name in the pod.
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default()
    }
}

pub(super) type Subscriber = mpsc::Sender<Result<v1::ContainerEventResponse, Status>>;

pub(super) struct World {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) runtime_ready: bool,
    pub(super) network_ready: bool,
    pub(super) sandboxes: BTreeMap<String, FakeSandbox>,
    pub(super) containers: BTreeMap<String, FakeContainer>,
    pub(super) images: BTreeMap<String, FakeImage>,
    pub(super) registry: BTreeMap<String, FakeImage>,
    pub(super) stop_times: HashMap<String, Option<Duration>>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) events_on: bool,
    pub(super) witness: Option<Arc<dyn Witness>>,
    /// Events that are held back.
    late: Vec<v1::ContainerEventResponse>,
    /// The reserved names, with the ids of their holders.
    names: BTreeMap<String, String>,
    made: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            name: "containerd".to_owned(),
            version: "2.3.7".to_owned(),
            runtime_ready: true,
            network_ready: true,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            registry: BTreeMap::new(),
            stop_times: HashMap::new(),
            subscribers: Vec::new(),
            events_on: true,
            witness: None,
            late: Vec::new(),
            names: BTreeMap::new(),
            made: 0,
        }
    }
}

/// Returns `name_namespace_uid_attempt`, as containerd names sandboxes.
pub(super) fn sandbox_name(config: &v1::PodSandboxConfig) -> String {
    let v1::PodSandboxMetadata { name, uid, namespace, attempt } =
        config.metadata.clone().unwrap_or_default();
    format!("{name}_{namespace}_{uid}_{attempt}")
}

impl World {
    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("{:064x}", self.made)
    }

    /// Reserves a name.
    pub(super) fn reserve(&mut self, name: &str) -> Result<String, Status> {
        if let Some(holder) = self.names.get(name) {
            return Err(Status::unknown(format!(
                "failed to reserve sandbox name {name:?}: name {name:?} is reserved for {holder:?}"
            )));
        }
        let id = self.next_id();
        self.names.insert(name.to_owned(), id.clone());
        Ok(id)
    }

    /// Releases a name.
    pub(super) fn release(&mut self, name: &str) {
        self.names.remove(name);
    }

    pub(super) fn add_sandbox(
        &mut self,
        id: &str,
        config: v1::PodSandboxConfig,
        handler: String,
        now: i64,
    ) {
        let options = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = options.and_then(|context| context.namespace_options.as_ref());
        let host_network =
            options.is_some_and(|options| options.network() == v1::NamespaceMode::Node);
        let ip = if host_network {
            String::new()
        } else {
            format!("10.88.{}.{}", self.made / 250, 1 + self.made % 250)
        };

        let sandbox =
            FakeSandbox { id: id.to_owned(), config, handler, ready: true, ip, created_at: now };
        self.sandboxes.insert(id.to_owned(), sandbox);
        self.emit(id, v1::ContainerEventType::ContainerCreatedEvent, now);
        self.emit(id, v1::ContainerEventType::ContainerStartedEvent, now);
    }

    pub(super) fn create(
        &mut self,
        message: v1::CreateContainerRequest,
        now: i64,
    ) -> Result<String, Status> {
        let v1::CreateContainerRequest { pod_sandbox_id, config, sandbox_config: _ } = message;
        let config = config.unwrap_or_default();
        let Some(sandbox) = self.sandboxes.get(&pod_sandbox_id).filter(|sandbox| sandbox.ready)
        else {
            return Err(Status::not_found(format!(
                "failed to find sandbox id {pod_sandbox_id:?}: not found"
            )));
        };

        let metadata = config.metadata.clone().unwrap_or_default();
        let name =
            format!("{}_{}_{}", metadata.name, sandbox_name(&sandbox.config), metadata.attempt);
        let log_path = format!("{}/{}", sandbox.config.log_directory, config.log_path);
        let image = config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
        if self.image(image).is_none() {
            return Err(Status::not_found(format!("failed to resolve image {image:?}: not found")));
        }

        let id = self.reserve(&name).map_err(|status| {
            Status::unknown(
                status
                    .message()
                    .replace("failed to reserve sandbox name", "failed to reserve container name"),
            )
        })?;
        let container = FakeContainer {
            id: id.clone(),
            sandbox: pod_sandbox_id,
            config,
            state: v1::ContainerState::ContainerCreated,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            log_path,
            created_at: now,
            started_at: 0,
            finished_at: 0,
        };
        self.containers.insert(id.clone(), container);
        self.emit(&id, v1::ContainerEventType::ContainerCreatedEvent, now);

        Ok(id)
    }

    pub(super) fn start(&mut self, id: &str, now: i64) -> Result<(), Status> {
        let Some(container) = self.containers.get_mut(id) else {
            return Err(Status::not_found(format!(
                "an error occurred when try to find container {id:?}: not found"
            )));
        };

        if container.state != v1::ContainerState::ContainerCreated {
            return Err(Status::failed_precondition(format!(
                "container {id:?} is not in created state"
            )));
        }

        container.state = v1::ContainerState::ContainerRunning;
        container.started_at = now;
        self.emit(id, v1::ContainerEventType::ContainerStartedEvent, now);

        Ok(())
    }

    pub(super) fn exit(&mut self, id: &str, exit_code: i32, reason: &str, now: i64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.state != v1::ContainerState::ContainerRunning {
            return;
        }
        container.state = v1::ContainerState::ContainerExited;
        container.exit_code = exit_code;
        reason.clone_into(&mut container.reason);
        container.finished_at = now;
        self.emit(id, v1::ContainerEventType::ContainerStoppedEvent, now);
    }

    pub(super) fn remove_container(&mut self, id: &str, now: i64) {
        self.exit(id, 137, "Error", now);
        let Some(container) = self.containers.remove(id) else { return };
        self.names.retain(|_, holder| *holder != container.id);
        self.emit(id, v1::ContainerEventType::ContainerDeletedEvent, now);
    }

    pub(super) fn stop_sandbox(&mut self, id: &str, now: i64) {
        let inside: Vec<String> = self
            .containers
            .values()
            .filter(|container| container.sandbox == id)
            .map(|found| found.id.clone())
            .collect();
        for container in inside {
            self.exit(&container, 137, "Error", now);
        }

        let Some(sandbox) = self.sandboxes.get_mut(id).filter(|sandbox| sandbox.ready) else {
            return;
        };

        sandbox.ready = false;
        self.emit(id, v1::ContainerEventType::ContainerStoppedEvent, now);
    }

    pub(super) fn remove_sandbox(&mut self, id: &str, now: i64) {
        self.stop_sandbox(id, now);
        let inside: Vec<String> = self
            .containers
            .values()
            .filter(|container| container.sandbox == id)
            .map(|found| found.id.clone())
            .collect();
        for container in inside {
            self.remove_container(&container, now);
        }

        if self.sandboxes.remove(id).is_some() {
            self.names.retain(|_, holder| holder != id);
            self.emit(id, v1::ContainerEventType::ContainerDeletedEvent, now);
        }
    }

    pub(super) fn image(&self, reference: &str) -> Option<&FakeImage> {
        self.images
            .get(reference)
            .or_else(|| self.images.values().find(|image| image.id == reference))
    }

    pub(super) fn add_image(&mut self, reference: &str, image: FakeImage) {
        self.images.insert(reference.to_owned(), image);
    }

    pub(super) fn pull(&mut self, reference: &str) -> Result<String, Status> {
        let Some(image) = self.registry.get(reference).cloned() else {
            return Err(Status::not_found(format!(
                "failed to pull and unpack image {reference:?}: failed to resolve reference {reference:?}: {reference}: not found"
            )));
        };
        let id = image.id.clone();
        self.add_image(reference, image);
        Ok(id)
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Option<v1::PodSandboxStatus> {
        let sandbox = self.sandboxes.get(id)?;
        let options =
            sandbox.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = options.and_then(|context| context.namespace_options.clone());

        Some(v1::PodSandboxStatus {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox_state(sandbox).into(),
            created_at: sandbox.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: sandbox.ip.clone(),
                additional_ips: Vec::new(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        })
    }

    pub(super) fn container_status(&self, id: &str) -> Option<v1::ContainerStatus> {
        let container = self.containers.get(id)?;
        let image = container.config.image.clone().unwrap_or_default();
        let id = self.image(&image.image).map(|image| image.id.clone()).unwrap_or_default();

        Some(v1::ContainerStatus {
            id: container.id.clone(),
            metadata: container.config.metadata.clone(),
            state: container.state.into(),
            created_at: container.created_at,
            started_at: container.started_at,
            finished_at: container.finished_at,
            exit_code: container.exit_code,
            image: Some(image),
            image_ref: id.clone(),
            image_id: id,
            reason: container.reason.clone(),
            message: container.message.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            mounts: container.config.mounts.clone(),
            log_path: container.log_path.clone(),
            ..Default::default()
        })
    }

    /// Opens an event stream.
    pub(super) fn subscribe(
        &mut self,
    ) -> mpsc::Receiver<Result<v1::ContainerEventResponse, Status>> {
        let (sender, receiver) = mpsc::channel(SUBSCRIBER_QUEUE);
        self.subscribers.push(sender);
        receiver
    }

    fn emit(&mut self, id: &str, kind: v1::ContainerEventType, now: i64) {
        if !self.events_on {
            return;
        }

        let sandbox =
            self.containers.get(id).map_or(id, |container| container.sandbox.as_str()).to_owned();
        let inside = self.containers.values().filter(|container| container.sandbox == sandbox);
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now,
            pod_sandbox_status: self.sandbox_status(&sandbox),
            containers_statuses: inside
                .filter_map(|container| self.container_status(&container.id))
                .collect(),
        };

        match self.witness.as_ref().map_or(Delivery::Once, |witness| witness.event()) {
            Delivery::Once => {}
            Delivery::Twice => self.deliver(&event),
            Delivery::Never => return,
            Delivery::Late => {
                self.late.push(event);
                return;
            }
        }

        self.deliver(&event);
    }

    fn deliver(&mut self, event: &v1::ContainerEventResponse) {
        self.subscribers.retain(|subscriber| subscriber.try_send(Ok(event.clone())).is_ok());
    }

    /// Delivers the events that were held back.
    pub(super) fn deliver_late(&mut self) {
        for event in std::mem::take(&mut self.late) {
            self.deliver(&event);
        }
    }

    /// Shows a change to the witness.
    pub(super) fn show(&self, deed: &Deed<'_>) {
        if let Some(witness) = &self.witness {
            witness.deed(deed, &Scene { sandboxes: &self.sandboxes, containers: &self.containers });
        }
    }

    /// Returns the UID of the pod of a sandbox, or of a container.
    pub(super) fn pod_of(&self, id: &str) -> String {
        let sandbox = self.containers.get(id).map_or(id, |container| container.sandbox.as_str());
        let metadata =
            self.sandboxes.get(sandbox).and_then(|sandbox| sandbox.config.metadata.as_ref());
        metadata.map(|metadata| metadata.uid.clone()).unwrap_or_default()
    }
}

pub(super) fn sandbox_state(sandbox: &FakeSandbox) -> v1::PodSandboxState {
    if sandbox.ready {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    }
}
