//! The parts that the services of all pods share: made once by the agent, read by [`Services`] and
//! [`Reporter`](super::Reporter).
//!
//! [`Services`]: super::Services

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apiserver::events::Recorder;
use crate::apiserver::{objects, services};
use crate::clock::Clock;
use crate::cri::RuntimeCondition;
use crate::probes::ProbeObserver;
use crate::{desired, status};

/// The parts that the services of all pods share.
pub(super) struct Shared {
    pub(super) status: status::Handle,
    pub(super) desired: desired::Handle,
    pub(super) objects: Option<objects::Handle>,
    pub(super) services: services::Handle,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
    pub(super) observer: Arc<dyn ProbeObserver>,
    /// The node's own addresses, preferred first.
    pub(super) host_ips: watch::Receiver<Vec<IpAddr>>,
    pub(super) allocatable: watch::Receiver<BTreeMap<String, Quantity>>,
    pub(super) condition: watch::Sender<RuntimeCondition>,
    /// The scheme of container ids.
    pub(super) runtime: String,
    pub(super) shows_stop_signals: bool,
    pub(super) hides_ready_to_start: bool,
    pub(super) shutdown: CancellationToken,
}
