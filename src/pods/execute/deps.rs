//! What the executors of all pods share: handles of the subsystems, grouped by the party that an
//! action asks, and the settings of the node.
//!
//! `daemon` makes it once. It decides nothing and holds no state of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::watch;

use super::image_users::ImageUsers;
use super::permits::SandboxPermits;
use crate::apiserver::events::Recorder;
use crate::apiserver::{objects, runtime_classes, services, tokens};
use crate::clock::Clock;
use crate::cri::{Runtime, RuntimeCondition};
use crate::model::ContainerKind;
use crate::pods::request;
use crate::pods::user_namespaces::UserNamespaces;
use crate::probes::Exec;
use crate::resources::{self, manager};
use crate::{images, pleg, volumes};

/// The handles and settings that every executor uses.
#[derive(Debug)]
pub struct Deps {
    /// The clocks.
    pub clock: Clock,
    /// The container runtime: every action that starts or stops something.
    pub runtime: RuntimeDeps,
    /// The API server: objects that a start refers to, and events.
    pub api: ApiDeps,
    /// Images of containers and of volumes.
    pub images: images::Handle,
    /// Volumes of pods and the directories of pods.
    pub volumes: volumes::Handle,
    /// Shares of the node that a pod holds from its preparation to its clean-up.
    pub resources: ResourceDeps,
    /// The node as pods see it.
    pub node: NodeDeps,
    /// Counters.
    pub metrics: Metrics,
    /// Settings of the node.
    pub settings: Settings,
}

/// The container runtime and the order in which it is asked.
#[derive(Debug)]
pub struct RuntimeDeps {
    /// The runtime's client.
    pub cri: Runtime,
    /// The observations of what runs; each mutation is announced there.
    pub pleg: pleg::Handle,
    /// The runtime's condition: its handlers and their features.
    pub condition: watch::Receiver<RuntimeCondition>,
    /// The users of images that were started before.
    pub image_users: ImageUsers,
    /// The runner of the hooks' commands.
    pub exec: Arc<dyn Exec>,
    /// The limits on concurrent starts and stops of sandboxes.
    pub permits: SandboxPermits,
}

/// What comes from the API server and goes there.
#[derive(Debug)]
pub struct ApiDeps {
    /// ConfigMaps and Secrets; `None` without an API server.
    pub objects: Option<objects::Handle>,
    /// Services, for environment variables.
    pub services: services::Handle,
    /// RuntimeClasses.
    pub runtime_classes: runtime_classes::Handle,
    /// Tokens of service accounts; `None` without an API server.
    pub tokens: Option<tokens::Handle>,
    /// Events.
    pub recorder: Recorder,
}

/// The owners of what the node shares out among pods.
#[derive(Debug)]
pub struct ResourceDeps {
    /// Cgroups of pods; `None` when `cgroupsPerQOS` is off.
    pub cgroups: Option<resources::PodCgroups>,
    /// Devices and claims.
    pub manager: manager::Handle,
    /// User and group ids of pods with a user namespace of their own.
    pub user_namespaces: UserNamespaces,
}

/// Facts of the node that pods are given.
#[derive(Debug)]
pub struct NodeDeps {
    /// The node's allocatable resources, for the downward API.
    pub allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
    /// The node's own addresses, preferred first. Pods on the host's network have them.
    pub host_ips: watch::Receiver<Vec<IpAddr>>,
}

/// Settings of the node that actions need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name.
    pub node_name: String,
    /// The node's directories.
    pub paths: volumes::paths::Paths,
    /// `/var/log/containers`.
    pub container_logs_dir: PathBuf,
    /// `resolvConf`; empty: none.
    pub resolv_conf: PathBuf,
    /// Memory of the machine in bytes, for OOM scores.
    pub memory_capacity: i64,
    /// Whether images belong to a runtime handler (feature gate `RuntimeClassInImageCriApi`).
    pub images_by_handler: bool,
    /// Settings that shape requests to the runtime.
    pub spec: request::Settings,
}

/// One change of a counter.
#[derive(Clone, Copy, Debug)]
pub enum Count<'a> {
    /// A sandbox is about to be created.
    Pod {
        /// Whether the pod has a user namespace of its own.
        own_users: bool,
    },
    /// A sandbox could not be created.
    PodFailed {
        /// Whether the pod has a user namespace of its own.
        own_users: bool,
    },
    /// The runtime has answered a request for a sandbox.
    Sandbox {
        /// The runtime's handler, empty for its default.
        handler: &'a str,
        /// How long it took.
        took: Duration,
        /// Whether there is none.
        failed: bool,
    },
    /// A pod with a user namespace of its own failed after its sandbox was made.
    OwnUsersFailed,
    /// A container is about to be created.
    Container(ContainerKind),
    /// A container could not be created or started.
    ContainerFailed {
        /// The container's kind.
        kind: ContainerKind,
        /// The container's waiting reason.
        reason: &'a str,
    },
    /// A resize in place was carried out, or was not.
    Resized {
        /// How long that took.
        took: Duration,
        /// Whether all of it was done.
        success: bool,
    },
    /// True: the resolver configuration of one more pod is cut. False: of one less.
    DnsCut(bool),
}

/// Counters of what pods do.
#[derive(Clone)]
pub struct Metrics {
    /// Takes each change.
    pub count: Arc<dyn Fn(Count<'_>) + Send + Sync>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(super) fn count(&self, count: Count<'_>) {
        (self.count)(count);
    }
}
