//! What volumes of CSI drivers need of the API: CSIDrivers by one watch; VolumeAttachments and
//! Secrets by GET, which is how the node authorizer lets a node read them.
//!
//! Asked by `volumes`; writes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::Api;
use tokio::sync::watch;

use super::claims::{self, ClaimError};
use super::client::Clients;
use super::list_watch::{self, Change};
use super::nodes::NodeView;
use super::watched::Watched;

/// How long the first list of CSIDrivers may take before a volume's set-up is tried again.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    synced: bool,
    drivers: BTreeMap<String, Arc<CSIDriver>>,
}

/// Reads the objects. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    state: watch::Receiver<State>,
    client: kube::Client,
    node: watch::Receiver<NodeView>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("csi_objects::Handle").finish_non_exhaustive()
    }
}

/// Makes the handle and the task that watches the CSIDrivers.
pub fn new(
    clients: &Clients,
    node: watch::Receiver<NodeView>,
) -> (Handle, impl Future<Output = ()> + Send + use<>) {
    let (sender, state) = watch::channel(State::default());
    let api: Api<Watched<CSIDriver>> = Api::all(clients.watches.clone());
    let reach = clients.reach.clone();
    let task = async move {
        let reduce = |mut driver: CSIDriver| {
            driver.metadata.managed_fields = None;
            (driver.metadata.name.clone().unwrap_or_default(), Arc::new(driver))
        };
        list_watch::follow((api, &reach), None, reduce, |change| {
            sender.send_if_modified(|state| {
                match change {
                    Change::Reset(drivers) => {
                        state.drivers = drivers.into_iter().collect();
                        state.synced = true;
                    }
                    Change::Applied((name, driver)) => {
                        state.drivers.insert(name, driver);
                    }
                    Change::Deleted((name, _)) => {
                        state.drivers.remove(&name);
                    }
                    Change::Failed(_) => return false,
                }
                true
            });
            ControlFlow::Continue(())
        })
        .await;
    };
    (Handle { state, client: clients.writes.clone(), node }, task)
}

impl Handle {
    /// Returns a CSIDriver; `None` if there is none of this name. Waits for the first list.
    /// Cancel-safe.
    pub async fn driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ClaimError> {
        let mut state = self.state.clone();
        let synced = state.wait_for(|state| state.synced);
        match tokio::time::timeout(SYNC_DEADLINE, synced).await {
            Ok(Ok(state)) => Ok(state.drivers.get(name).cloned()),
            Ok(Err(_)) | Err(_) => {
                Err(ClaimError("the CSIDrivers have not been listed yet".to_owned()))
            }
        }
    }

    /// Reads a VolumeAttachment. Cancel-safe.
    pub async fn attachment(&self, name: &str) -> Result<VolumeAttachment, ClaimError> {
        claims::get(&Api::all(self.client.clone()), name).await
    }

    /// Reads a Secret that a persistent volume refers to. Cancel-safe.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, ClaimError> {
        claims::get(&Api::namespaced(self.client.clone(), namespace), name).await
    }

    /// Returns the watched Node object, which says what is attached.
    pub fn node(&self) -> watch::Receiver<NodeView> {
        self.node.clone()
    }
}
