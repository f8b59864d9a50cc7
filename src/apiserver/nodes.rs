//! This node's own object: one watch of one Node, without managedFields.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::Clients;
use super::list_watch::{self, Change};
use super::watched::Watched;

/// What is known of this node's object.
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

/// Starts the watch; the receiver always holds the latest view.
pub fn start(
    clients: &Clients,
    tasks: &mut JoinSet<()>,
    cancel: CancellationToken,
) -> watch::Receiver<NodeView> {
    let (sender, receiver) = watch::channel(NodeView::default());
    let api: Api<Watched<Node>> = Api::all(clients.watches.clone());
    let fields = format!("metadata.name={}", clients.node_name);
    let reach = clients.reach.clone();
    tasks.spawn(async move {
        let reduce = |mut node: Node| {
            node.metadata.managed_fields = None;
            Arc::new(node)
        };
        let follow = list_watch::follow((api, &reach), Some(&fields), reduce, |change| {
            let view = match change {
                Change::Reset(mut nodes) => NodeView { synced: true, node: nodes.pop() },
                Change::Applied(node) => NodeView { synced: true, node: Some(node) },
                Change::Deleted(_) => NodeView { synced: true, node: None },
                Change::Failed(problem) => {
                    tracing::debug!(error = problem, "Cannot watch this node's object");
                    return ControlFlow::Continue(());
                }
            };
            sender.send_replace(view);
            ControlFlow::Continue(())
        });
        cancel.run_until_cancelled(follow).await;
    });
    receiver
}
