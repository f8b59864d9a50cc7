//! Device plugins: the first provider of the manager ([`super::manager`]).
//!
//! ```text
//!  plugin ── Register ──► server ──┐
//!  plugin ── ListAndWatch ─────────┴─ News ──► the manager's task ──► inventory* ──► figures
//! ```
//!
//! [`inventory`] decides who gets which device, [`checkpoint`] is upstream's file, `plugin` calls
//! plugins and `server` takes them on, over sockets in `device-plugins` below the kubelet's
//! directory; `registry` takes on those that announce themselves in `plugins_registry`. No state
//! lives here: the manager's task owns it.

pub mod checkpoint;
pub mod error;
pub mod inventory;
mod plugin;
mod registry;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::oneshot;

use self::error::DeviceError;
use self::inventory::Device;
pub use self::plugin::{Connection, follow};
pub use self::registry::RegistryHandler;
pub use self::server::serve;
use self::v1beta1::ContainerAllocateResponse;
use super::manager::provider::Ask;
use crate::model::quantity::Amount;
use crate::model::{Pod, PodUid, pod};
use crate::resources::list;

/// The device plugin API as generated from `proto/deviceplugin/api.proto`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    let_underscore_drop,
    reason = "generated code"
)]
pub mod v1beta1 {
    include!("../../../proto/gen/v1beta1.rs");
}

/// How many lists and registrations of plugins may wait.
pub const NEWS: usize = 64;

/// Capacity and allocatable by resource.
pub type Figures = BTreeMap<String, (i64, i64)>;

/// The health of the devices that containers have, as statuses show it: by pod, then by container.
pub type Health = BTreeMap<PodUid, Arc<PodHealth>>;

/// The health of the devices of one pod, by container: the resources by name, the devices by id.
pub type PodHealth = BTreeMap<String, Vec<api::ResourceStatus>>;

/// What plugins tell the manager's task.
#[derive(Debug)]
pub enum News {
    /// A plugin has been taken on.
    Connected {
        /// Its resource.
        resource: String,
        /// The way to it.
        connection: Connection,
        /// Answered when its list is followed.
        reply: oneshot::Sender<()>,
    },
    /// A plugin's list of devices.
    Listed {
        /// Its resource.
        resource: String,
        /// Which plugin of that resource.
        generation: u64,
        /// The devices by id.
        devices: BTreeMap<String, Device>,
    },
    /// A plugin has gone.
    Ended {
        /// Its resource.
        resource: String,
        /// Which plugin of that resource.
        generation: u64,
    },
}

/// A call to a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Which devices would it choose?
    Prefer {
        /// The resource.
        resource: String,
        /// Those that it may choose from.
        available: BTreeSet<String>,
        /// Those that must be among them.
        included: BTreeSet<String>,
        /// How many.
        count: usize,
    },
    /// What does a container need besides these devices?
    Allocate {
        /// The resource.
        resource: String,
        /// The devices.
        devices: BTreeSet<String>,
    },
}

impl Call {
    /// The plugin's resource.
    pub fn resource(&self) -> &str {
        match self {
            Self::Prefer { resource, .. } | Self::Allocate { resource, .. } => resource,
        }
    }
}

/// The answer to a [`Call`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// The plugin would choose these; none: it has no choice.
    Preferred {
        /// The resource.
        resource: String,
        /// The devices.
        devices: BTreeSet<String>,
    },
    /// The plugin gives the devices that were set aside.
    Allocated {
        /// The resource.
        resource: String,
        /// What the container needs besides.
        response: ContainerAllocateResponse,
    },
    /// The call failed.
    Refused {
        /// The resource.
        resource: String,
        /// Why.
        problem: DeviceError,
    },
}

/// Whether the pod's container asks for anything that a plugin could offer.
pub fn asks_for_any(pod: &Pod, container: &api::Container) -> bool {
    !wanted(pod, container).is_empty()
}

/// A container's way to devices.
#[derive(Clone, Debug)]
pub struct Request {
    uid: PodUid,
    container: String,
    /// Whether it runs already.
    running: bool,
    /// How many of which resource.
    wanted: BTreeMap<String, usize>,
    /// Containers whose devices it may have as well: init containers, which are over by then.
    reusable: Vec<String>,
    /// Every other container of the pod.
    others: Vec<String>,
}

impl Request {
    fn new(ask: &Ask) -> Self {
        let over = |candidate: &&api::Container| !pod::is_sidecar(candidate);
        let name = |container: &api::Container| container.name.clone();
        let reusable: Vec<String> =
            pod::init_containers(&ask.pod).iter().filter(over).map(name).collect();
        let others = pod::init_containers(&ask.pod)
            .iter()
            .chain(pod::main_containers(&ask.pod))
            .map(name)
            .filter(|other| *other != ask.container.name && !reusable.contains(other))
            .collect();
        Self {
            uid: ask.uid(),
            container: ask.container.name.clone(),
            running: ask.running,
            wanted: wanted(&ask.pod, &ask.container),
            reusable,
            others,
        }
    }
}

/// How many of which resource: by the limits, for extended resources cannot be overcommitted. Those
/// that a claim stands for are no plugin's.
fn wanted(pod: &Pod, container: &api::Container) -> BTreeMap<String, usize> {
    let claim =
        pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let claimed = |resource: &str| {
        claim.into_iter().flat_map(|claim| &claim.request_mappings).any(|mapping| {
            mapping.container_name == container.name && mapping.resource_name == resource
        })
    };
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let amount = |text: &str| {
        Amount::parse(text).map_or(0, |amount| usize::try_from(amount.units()).unwrap_or(0))
    };
    limits
        .into_iter()
        .flatten()
        .filter(|(name, _)| list::is_extended(name) && !claimed(name))
        .map(|(name, quantity)| (name.clone(), amount(&quantity.0)))
        .filter(|(_, count)| *count > 0)
        .collect()
}
