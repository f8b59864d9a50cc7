//! The Node object of this node: one watch of one object, without its managedFields.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::sync::watch;

use super::client::Clients;
use super::list_watch::{self, Change};
use super::watched::Watched;

/// The Node object as the watch has it.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Whether the API server has answered once.
    pub synced: bool,
    /// The object, if it exists.
    pub node: Option<Arc<Node>>,
}

/// How long one read of the object may take.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// Reads the object past the watch, which may be behind. `None`: there was no answer in time, or
/// there is no object.
pub fn read(clients: &Clients) -> impl Future<Output = Option<Arc<Node>>> + Send + 'static {
    let api: Api<Node> = Api::all(clients.writes.clone());
    let name = clients.node_name.clone();
    async move {
        match tokio::time::timeout(READ_DEADLINE, api.get(&name)).await {
            Ok(Ok(node)) => Some(Arc::new(node)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read this node's object");
                None
            }
            Err(_) => {
                tracing::warn!("cannot read this node's object: no answer in time");
                None
            }
        }
    }
}

/// Makes the latest view and the task that watches the object.
pub fn new(
    clients: &Clients,
) -> (watch::Receiver<NodeView>, impl Future<Output = ()> + Send + use<>) {
    let (sender, receiver) = watch::channel(NodeView::default());
    let api: Api<Watched<Node>> = Api::all(clients.watches.clone());
    let fields = format!("metadata.name={}", clients.node_name);
    let reach = clients.reach.clone();
    let task = async move {
        let reduce = |mut node: Node| {
            node.metadata.managed_fields = None;
            Arc::new(node)
        };
        list_watch::follow((api, &reach), Some(&fields), reduce, |change| {
            let view = match change {
                Change::Reset(mut nodes) => NodeView { synced: true, node: nodes.pop() },
                Change::Applied(node) => NodeView { synced: true, node: Some(node) },
                Change::Deleted(_) => NodeView { synced: true, node: None },
                Change::Failed(problem) => {
                    tracing::debug!(error = problem, "cannot watch this node's object");
                    return ControlFlow::Continue(());
                }
            };
            sender.send_replace(view);
            ControlFlow::Continue(())
        })
        .await;
    };
    (receiver, task)
}
