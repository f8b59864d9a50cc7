//! Why a container does not get devices, and why a plugin is not taken on. The texts are
//! upstream's.

use std::sync::Arc;

/// Why a container does not get the devices of a resource.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceError {
    /// The plugin is not there.
    #[error("endpoint not found in cache for a registered resource: {0}")]
    NoPlugin(String),
    /// The container has devices, and asks for another number of them.
    #[error(
        "pod {uid:?} container {container:?} changed request for resource {resource:?} from {has} to {asks}"
    )]
    Changed {
        /// The pod.
        uid: String,
        /// The container.
        container: String,
        /// The resource.
        resource: String,
        /// The number that it has.
        has: usize,
        /// The number that it asks for.
        asks: usize,
    },
    /// Pods have devices of the resource, but its plugin has gone for good.
    #[error("cannot allocate unregistered device {0}")]
    Unregistered(String),
    /// No device is healthy.
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    /// The container's own devices are not healthy any more.
    #[error(
        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}"
    )]
    NoLongerHealthy(String),
    /// Too few devices are free.
    #[error(
        "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {free}"
    )]
    TooFew {
        /// The resource.
        resource: String,
        /// The number that the container lacks.
        needed: usize,
        /// The number that is free.
        free: usize,
    },
    /// The plugin refused, or could not be asked.
    #[error(transparent)]
    Plugin(Arc<PluginError>),
}

impl From<PluginError> for DeviceError {
    fn from(error: PluginError) -> Self {
        Self::Plugin(Arc::new(error))
    }
}

/// Why a call to a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Its socket does not answer.
    #[error("failed to dial device plugin: {0}")]
    Dial(#[source] CallError),
    /// It does not say its options.
    #[error("failed to get device plugin options: {0}")]
    Options(#[source] CallError),
    /// It does not say what it prefers.
    #[error("device plugin GetPreferredAllocation rpc failed with err: {0}")]
    Prefer(#[source] CallError),
    /// It does not allocate.
    #[error(transparent)]
    Allocate(CallError),
    /// Its answer to an allocation is empty.
    #[error("no containers return in allocation response {{}}")]
    NoContainers,
    /// It does not prepare the container's start.
    #[error("device plugin PreStartContainer rpc failed with err: {0}")]
    PreStart(#[source] CallError),
}

/// Why a call has no answer, as a Go client prints it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time.
    #[error("context deadline exceeded")]
    Deadline,
    /// The plugin answered with an error.
    #[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    /// There is no connection.
    #[error("{}", innermost(.0))]
    Transport(#[source] tonic::transport::Error),
}

/// The text of the cause, without tonic's own words before it.
fn innermost(error: &tonic::transport::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<tonic::transport::Error> for CallError {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Transport(error)
    }
}

/// The error that a plugin gets whose registration is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    /// It speaks another version.
    #[error(
        "requested API version {asked:?} is not supported by kubelet. Supported version is [{ours:?}]"
    )]
    Version {
        /// The plugin's.
        asked: String,
        /// The one that is supported.
        ours: &'static str,
    },
    /// Its resource has no name of an extended resource.
    #[error("the ResourceName {0:?} is invalid")]
    Resource(String),
    /// It cannot be called.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The process ends.
    #[error("the kubelet is ending")]
    Ending,
}
