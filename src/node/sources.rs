//! Gathers the inputs of the Node's status: one receiver for each fact of another subsystem, and
//! [`Facts`], one snapshot of them all.
//!
//! Each subsystem owns its sender. A new condition is one receiver here and one line in
//! `conditions`. This file never calls the runtime and never looks at pods.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::cri::RuntimeCondition;
use crate::images::NodeImage;
use crate::model::{Mono, Pressure};
use crate::pleg;
use crate::resources::devices::Figures;

/// A shutdown of the machine that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// The moment at which the machine announced the shutdown.
    pub since: Mono,
}

/// The receivers that the Node's status is made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The runtime and its network.
    pub runtime: watch::Receiver<RuntimeCondition>,
    /// The observations of PLEG, and whether they can be trusted; `None`: a backend without it.
    pub pleg: Option<pleg::Handle>,
    /// The images on the node.
    pub images: watch::Receiver<Arc<Vec<NodeImage>>>,
    /// Extended resources of device plugins.
    pub devices: watch::Receiver<Figures>,
    /// The resources that the node is short of.
    pub pressure: watch::Receiver<Pressure>,
    /// The problem of storage, if any, e.g. `CSINode is not yet initialized`.
    pub storage: watch::Receiver<Option<String>>,
    /// The shutdown that is under way.
    pub shutdown: watch::Receiver<Option<Shutdown>>,
    /// Attachable volumes in use; `None` while they are not known: the object keeps its list.
    pub volumes_in_use: watch::Receiver<Option<Vec<String>>>,
}

/// The latest value of every source.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The runtime and its network.
    pub runtime: RuntimeCondition,
    /// PLEG's health, or upstream's `PLEG is not healthy: …`.
    pub pleg: Result<(), pleg::Unhealthy>,
    /// The images on the node.
    pub images: Arc<Vec<NodeImage>>,
    /// Extended resources of device plugins.
    pub devices: Figures,
    /// The resources that the node is short of.
    pub pressure: Pressure,
    /// The problem of storage, if any.
    pub storage: Option<String>,
    /// The shutdown that is under way.
    pub shutdown: Option<Shutdown>,
    /// Attachable volumes in use; `None` while they are not known.
    pub volumes_in_use: Option<Vec<String>>,
}

impl Sources {
    /// Reads every source and marks it as seen.
    pub fn read(&mut self, now: Mono) -> Facts {
        Facts {
            runtime: self.runtime.borrow_and_update().clone(),
            pleg: self.pleg.as_ref().map_or(Ok(()), |pleg| pleg.healthy(now)),
            images: self.images.borrow_and_update().clone(),
            devices: self.devices.borrow_and_update().clone(),
            pressure: *self.pressure.borrow_and_update(),
            storage: self.storage.borrow_and_update().clone(),
            shutdown: *self.shutdown.borrow_and_update(),
            volumes_in_use: self.volumes_in_use.borrow_and_update().clone(),
        }
    }

    /// Waits until a source has changed since the last [`Self::read`], or until the silence of the
    /// runtime or of PLEG becomes a problem or ends. Cancel-safe.
    pub async fn changed(&mut self, clock: Clock) {
        let now = clock.now().mono;
        // The time of the runtime's last answer moves on without a notification.
        let silent = self.runtime.borrow().silent_at().filter(|moment| *moment > now);
        let stale = self.pleg.as_ref().and_then(pleg::Handle::unhealthy_at);
        let stale = stale.filter(|moment| *moment > now);
        let silence = clock.sleep_until_some(Mono::earliest(silent, stale));
        let waits_for = self.pleg.as_ref().filter(|_| stale.is_none());
        let waits_for = waits_for.map(|pleg| (pleg, pleg.last_relist()));
        let relisted = async {
            match waits_for {
                None => std::future::pending().await,
                Some((pleg, last)) => pleg.relisted_since(last).await,
            }
        };

        // Every branch only waits: dropping it loses nothing.
        tokio::select! {
            () = news(&mut self.runtime) => {}
            () = news(&mut self.images) => {}
            () = news(&mut self.devices) => {}
            () = news(&mut self.pressure) => {}
            () = news(&mut self.storage) => {}
            () = news(&mut self.shutdown) => {}
            () = news(&mut self.volumes_in_use) => {}
            () = relisted => {}
            () = silence => {}
        }
    }
}

/// Waits for a change. Waits for ever if the source no longer has a sender.
async fn news<T>(source: &mut watch::Receiver<T>) {
    if source.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
