//! PersistentVolumeClaims and PersistentVolumes, by GET: what the node authorizer lets a node read
//! of them, one at a time.
//!
//! Nothing is cached: a pod's volumes ask once on their way to being mounted. Asked by `volumes`;
//! writes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use tokio::sync::watch;

use super::client::Clients;
use super::failure::{self, FailureKind};
use super::nodes::NodeView;

/// How long a refusal is waited out: the node authorizer learns of a pod, and of its claim's
/// volume, a little after us.
const REFUSED: Duration = Duration::from_secs(5);
/// The first wait after a refusal; it is doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// How long this node's own object may take to be seen for the first time.
const NODE_DEADLINE: Duration = Duration::from_secs(5);

/// Why an object cannot be had: the server's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClaimError(pub String);

/// This node, as far as a volume's node affinity cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Reads claims and volumes. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    client: kube::Client,
    node: watch::Receiver<NodeView>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("claims::Handle").finish_non_exhaustive()
    }
}

/// Makes the reader. It has no task.
pub fn new(clients: &Clients, node: watch::Receiver<NodeView>) -> Handle {
    Handle { client: clients.writes.clone(), node }
}

impl Handle {
    /// A claim. Cancel-safe.
    pub async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PersistentVolumeClaim, ClaimError> {
        get(&Api::namespaced(self.client.clone(), namespace), name).await
    }

    /// A volume. Cancel-safe.
    pub async fn volume(&self, name: &str) -> Result<PersistentVolume, ClaimError> {
        get(&Api::all(self.client.clone()), name).await
    }

    /// This node; waits a little for its first version. Cancel-safe.
    pub async fn node(&self) -> Result<Node, ClaimError> {
        let mut view = self.node.clone();
        let known = view.wait_for(|view| view.node.is_some());
        match tokio::time::timeout(NODE_DEADLINE, known).await {
            Ok(Ok(view)) => {
                let meta = view.node.as_ref().map(|node| node.metadata.clone()).unwrap_or_default();
                Ok(Node {
                    name: meta.name.unwrap_or_default(),
                    labels: meta.labels.unwrap_or_default(),
                })
            }
            Ok(Err(_)) | Err(_) => {
                Err(ClaimError("error retrieving node: it has not been seen yet".to_owned()))
            }
        }
    }
}

pub(super) async fn get<T>(api: &Api<T>, name: &str) -> Result<T, ClaimError>
where
    T: Clone + serde::de::DeserializeOwned + fmt::Debug,
{
    let mut wait = FIRST_WAIT;
    let mut waited = Duration::ZERO;
    loop {
        match api.get(name).await {
            Ok(object) => return Ok(object),
            Err(error) if failure::kind(&error) == FailureKind::Forbidden && waited < REFUSED => {
                tokio::time::sleep(wait).await;
                waited += wait;
                wait = wait.saturating_mul(2);
            }
            Err(error) => return Err(ClaimError(failure::text(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::watch;

    use super::new;
    use crate::apiserver::fake::FakeApi;
    use crate::apiserver::nodes::NodeView;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_waited_out_and_an_absence_is_told() {
        let fake = FakeApi::new(Clock::starting_at(jiff::Timestamp::UNIX_EPOCH));
        fake.put(
            "api/v1/persistentvolumeclaims",
            json!({"metadata": {"name": "c", "namespace": "d"}}),
        );
        fake.fail("GET", "persistentvolumeclaims", 403, 3);
        let claims = new(&fake.clients("n"), watch::channel(NodeView::default()).1);
        claims.claim("d", "c").await.expect("the node authorizer has learnt of the pod");
        let missing = claims.claim("d", "other").await.expect_err("it is not there");
        assert!(missing.to_string().contains("not found"), "{missing}");
        fake.fail("GET", "persistentvolumeclaims", 403, 1000);
        assert!(claims.claim("d", "c").await.is_err(), "a refusal that lasts is told");
        assert!(claims.node().await.is_err(), "the node was never seen");
    }
}
