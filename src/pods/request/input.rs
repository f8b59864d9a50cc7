//! Inputs of a container's request: the container itself, and its environment. Pure.
//!
//! The executor fetches and mounts what they hold; `container` and `env` make the request of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{IdRange, Settings};
use crate::apiserver::objects::ObjectError;
use crate::apiserver::services::Service;
use crate::model::{ContainerId, Pod};
use crate::resources::devices::DeviceOptions;

/// Where a volume of the pod is, as the volume subsystem says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory or file on the node.
    Path {
        /// The path.
        path: String,
        /// Whether the volume itself is read-only (secrets, projected tokens, …).
        read_only: bool,
        /// Whether the runtime is to relabel it for SELinux: managed, relabelable and not labelled
        /// by its mount.
        relabel: bool,
    },
    /// A device of the node.
    Device {
        /// The path, or that of a link to it.
        path: String,
        /// Whether it may only be read.
        read_only: bool,
    },
    /// An image that the runtime mounts itself.
    Image {
        /// The reference of the pulled image.
        image_ref: String,
        /// The reference in the spec.
        image: String,
        /// The pod's runtime handler, which some runtimes keep images by.
        runtime_handler: String,
    },
}

/// The user that an image was built to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// A number; 0 when the image says nothing.
    Uid(i64),
    /// A name, which only the runtime can look up inside the image.
    Name(String),
}

/// What a container is made from.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container, of any kind.
    pub container: &'a api::Container,
    /// How often it has been started before.
    pub restart_count: u32,
    /// The reference of the pulled image.
    pub image_ref: &'a str,
    /// The user in the image.
    pub image_user: &'a ImageUser,
    /// The environment, from [`super::environment`].
    pub env: &'a [EnvVar],
    /// What comes with the devices of plugins.
    pub devices: &'a DeviceOptions,
    /// Where the pod's volumes are, by name.
    pub volumes: &'a BTreeMap<String, VolumeSource>,
    /// The prepared paths of mounts with a `subPath`, by index in `volumeMounts`.
    pub sub_paths: &'a BTreeMap<usize, String>,
    /// The managed `/etc/hosts` on the node; `None` while the pod has no address and is not on the
    /// node's network.
    pub etc_hosts: Option<&'a str>,
    /// The file for the termination message on the node, already made.
    pub termination_log: Option<&'a str>,
    /// The container whose process namespace an ephemeral container joins.
    pub pid_target: Option<&'a ContainerId>,
    /// From `resources::oom`.
    pub oom_score_adj: i64,
    /// Groups that come with the pod's volumes.
    pub extra_groups: &'a [i64],
    /// The ids of the pod's user namespace; `None` where it shares the node's.
    pub user_ids: Option<IdRange>,
    /// Whether the pod's runtime handler can mount recursively read-only.
    pub recursive_read_only: bool,
    /// The node's settings.
    pub settings: &'a Settings,
}

/// One variable. Its value may be a secret: it is not in the `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

impl EnvVar {
    /// A variable.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// What the environment of one container is made from.
#[derive(Clone, Copy, Debug)]
pub struct EnvInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container, of any kind.
    pub container: &'a api::Container,
    /// The pod's addresses, the node's preferred family first; the node's for a hostNetwork pod.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// The node's allocatable resources, for containers without limits.
    pub allocatable: &'a BTreeMap<String, Quantity>,
    /// The services of the pod's namespace and of `default`; `None` while they have never been
    /// read. A static pod does not wait for that.
    pub services: Option<&'a [Arc<Service>]>,
    /// The ConfigMaps of the pod's namespace that [`super::references()`] named.
    pub config_maps: &'a BTreeMap<String, Result<Arc<api::ConfigMap>, ObjectError>>,
    /// The Secrets of the pod's namespace that [`super::references()`] named.
    pub secrets: &'a BTreeMap<String, Result<Arc<api::Secret>, ObjectError>>,
    /// The files that [`super::references()`] named, by volume and path; none of a volume that is
    /// not there.
    pub files: &'a BTreeMap<(String, String), EnvFile>,
}

/// A file of variables. Its content may be a secret: it is not in the `Debug` output.
#[derive(Clone)]
pub struct EnvFile {
    /// Where it is on the node; upstream tells it to the user.
    pub path: String,
    /// What it says; an error says why it cannot be read.
    pub content: Result<String, String>,
}

impl fmt::Debug for EnvFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvFile").field("path", &self.path).finish_non_exhaustive()
    }
}
