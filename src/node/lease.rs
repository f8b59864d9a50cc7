//! Renews the node's lease: the sign of life by which the control plane knows that the node works.
//!
//! The lease is renewed every quarter of its duration, on connections of its own. When a renewal
//! has no answer after [`HEDGE_AFTER`], it is also sent over a second connection, which may end at
//! another API server. The first success counts. Nothing that happens to pods reaches this task.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use super::{Deps, NodeConfig};
use crate::apiserver::failure::{self, FailureKind};
use crate::apiserver::nodes::NodeView;
use crate::apiserver::random;
use crate::clock::Clock;

const NAMESPACE: &str = "kube-node-lease";
/// The wait for an answer before a renewal is also sent over the second connection.
const HEDGE_AFTER: Duration = Duration::from_secs(2);
/// The first wait after a failure; it doubles up to [`LONGEST_RETRY`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait after a failure. An API server that comes back then hears of this node before
/// the control plane takes the node for dead.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// The longest wait while there is no Node object yet; upstream's.
const LONGEST_WAIT: Duration = Duration::from_secs(7);

pub(super) struct Lease {
    node_name: Arc<str>,
    duration: Duration,
    first: Api<coordination::Lease>,
    second: Api<coordination::Lease>,
    view: watch::Receiver<NodeView>,
    clock: Clock,
    owned: bool,
    said: String,
}

impl Lease {
    pub(super) fn new(config: &NodeConfig, deps: &Deps) -> Self {
        Self {
            node_name: config.node_name.as_str().into(),
            duration: config.lease_duration,
            first: Api::namespaced(deps.clients.lease.clone(), NAMESPACE),
            second: Api::namespaced(deps.clients.lease_hedge.clone(), NAMESPACE),
            view: deps.view.clone(),
            clock: deps.clock,
            owned: false,
            said: String::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let interval = self.duration / 4;
        let mut failures = 0_u32;

        loop {
            let wait = match self.renew_or_create().await {
                Ok(true) => {
                    failures = 0;
                    self.said.clear();
                    random::jitter(interval, 0.04)
                }
                // There is no Node object yet that could own the lease.
                Ok(false) => self.wait_for_node().await,
                Err(error) => {
                    let problem = failure::text(&error);
                    if self.said != problem {
                        tracing::warn!(node = %self.node_name, error = problem, "cannot renew the node's lease");
                        self.said = problem;
                    }
                    failures = failures.saturating_add(1);
                    random::jitter(
                        LONGEST_RETRY.min(FIRST_WAIT.saturating_mul(1 << failures.min(6))),
                        0.5,
                    )
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits for a Node object, but not for ever: it may exist while the watch of it fails.
    async fn wait_for_node(&mut self) -> Duration {
        drop(
            tokio::time::timeout(LONGEST_WAIT, self.view.wait_for(|view| view.node.is_some()))
                .await,
        );
        FIRST_WAIT
    }

    /// Renews the lease, or creates it. Returns false if that has to wait for the Node object.
    async fn renew_or_create(&mut self) -> Result<bool, kube::Error> {
        let owner = self.owner();
        match self.renew(owner.as_ref().filter(|_| !self.owned)).await {
            Ok(lease) => {
                let owners =
                    lease.metadata.owner_references.is_some_and(|owners| !owners.is_empty());
                self.owned = owners || owner.is_none();
                return Ok(true);
            }
            Err(error) if failure::kind(&error) == FailureKind::NotFound => {}
            Err(error) => return Err(error),
        }

        let Some(owner) = owner else { return Ok(false) };
        let lease = coordination::Lease {
            metadata: ObjectMeta {
                name: Some(self.node_name.to_string()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(coordination::LeaseSpec {
                holder_identity: Some(self.node_name.to_string()),
                lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
                renew_time: Some(MicroTime(self.clock.now().wall)),
                ..coordination::LeaseSpec::default()
            }),
        };
        self.first.create(&PostParams::default(), &lease).await?;
        self.owned = true;
        Ok(true)
    }

    /// Writes the lease with a new time of renewal.
    async fn renew(
        &self,
        owner: Option<&OwnerReference>,
    ) -> Result<coordination::Lease, kube::Error> {
        let mut patch = json!({"spec": {
            "holderIdentity": &*self.node_name,
            "leaseDurationSeconds": self.duration.as_secs(),
            "renewTime": MicroTime(self.clock.now().wall),
        }});
        if let Some(owner) = owner {
            patch["metadata"] = json!({"ownerReferences": [owner]});
        }

        let params = PatchParams::default();
        let patch = Patch::Merge(&patch);
        let first = self.first.patch(&self.node_name, &params, &patch);
        let second = async {
            tokio::time::sleep(HEDGE_AFTER).await;
            self.second.patch(&self.node_name, &params, &patch).await
        };

        hedge(first, second).await
    }

    /// Returns the Node object as the owner of the lease.
    fn owner(&self) -> Option<OwnerReference> {
        let view = self.view.borrow();
        let uid = view.node.as_ref()?.metadata.uid.clone()?;
        Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node_name.to_string(),
            uid,
            ..OwnerReference::default()
        })
    }
}

/// Returns the first success of two requests. An answer of the server counts as a success. If both
/// fail, the first one's failure is returned.
async fn hedge<T>(
    first: impl Future<Output = Result<T, kube::Error>>,
    second: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let settled = |result: &Result<T, kube::Error>| match result {
        Ok(_) => true,
        Err(error) => !matches!(failure::kind(error), FailureKind::Unknown | FailureKind::Busy),
    };
    let first = std::pin::pin!(first);
    let second = std::pin::pin!(second);

    match futures::future::select(first, second).await {
        futures::future::Either::Left((result, second)) => {
            if settled(&result) {
                return result;
            }
            // A quick failure of the first is tried over the other connection when its time has
            // come.
            let other = second.await;
            if settled(&other) { other } else { result }
        }
        futures::future::Either::Right((result, first)) => {
            if settled(&result) {
                result
            } else {
                first.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::hedge;

    async fn after(millis: u64, result: Result<u8, ()>) -> Result<u8, kube::Error> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        result.map_err(|()| kube::Error::Service("lost".into()))
    }

    #[track_caller]
    fn check(first: (u64, Result<u8, ()>), second: (u64, Result<u8, ()>), expected: Option<u8>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let result = runtime
            .expect("a runtime")
            .block_on(hedge(after(first.0, first.1), after(second.0, second.1)));
        assert_eq!(result.ok(), expected);
    }

    #[test]
    fn the_first_success_counts() {
        check((1, Ok(1)), (2000, Ok(2)), Some(1));
        check((9000, Ok(1)), (2000, Ok(2)), Some(2));
        check((1, Err(())), (2000, Ok(2)), Some(2));
        check((9000, Ok(1)), (2000, Err(())), Some(1));
        check((1, Err(())), (2, Err(())), None);
    }
}
