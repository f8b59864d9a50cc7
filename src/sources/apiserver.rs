//! The API server's pods of this node: one watch, selected by `spec.nodeName`.
//!
//! Each object is made compact as soon as it is decoded. It starts when this node's object has been
//! looked for once, so that pods are admitted with it; at once on a node that does not register.

use std::ops::ControlFlow;
use std::sync::Arc;

use kube::Api;
use tokio::sync::watch;

use super::compact::compact;
use super::{Source, SourceKind, SourceState, stamp};
use crate::apiserver::list_watch::{self, Change};
use crate::apiserver::nodes::NodeView;
use crate::apiserver::{Clients, Watched};
use crate::clock::Clock;
use crate::model::{Pod, Wall, pod};

/// Makes the source, and the task that watches it. The task runs until it is dropped; it waits for
/// `node` first, if given.
pub fn new(
    clients: &Clients,
    node: Option<watch::Receiver<NodeView>>,
    clock: Clock,
) -> (Source, impl Future<Output = ()> + Send + use<>) {
    let (sender, state) = watch::channel(SourceState::default());
    let api: Api<Watched<Pod>> = Api::all(clients.watches.clone());
    let fields = format!("spec.nodeName={}", clients.node_name);
    let reach = clients.reach.clone();
    let task = async move {
        if let Some(mut node) = node {
            // An error means that the node's task has ended: the process is being shut down.
            drop(node.wait_for(|view| view.synced).await);
        }
        let mut problem = String::new();
        list_watch::follow((api, &reach), Some(&fields), compact, |change| {
            report(&change, &mut problem);
            sender.send_if_modified(|state| apply(state, change, clock.now().wall));
            ControlFlow::Continue(())
        })
        .await;
    };
    (Source { kind: SourceKind::Api, state }, task)
}

/// Logs a failure once, not at every attempt.
fn report(change: &Change<Pod>, problem: &mut String) {
    match change {
        Change::Failed(text) if text != problem => {
            tracing::warn!(error = text, "Cannot watch the pods of this node");
            problem.clone_from(text);
        }
        Change::Failed(_) => {}
        Change::Reset(_) | Change::Applied(_) | Change::Deleted(_) => problem.clear(),
    }
}

/// Applies a change; says whether anything is different now.
fn apply(state: &mut SourceState, change: Change<Pod>, now: Wall) -> bool {
    match change {
        Change::Reset(pods) => {
            let mut old = std::mem::take(&mut state.pods);
            for mut pod in pods {
                let uid = pod::uid(&pod);
                let known = old.remove(&uid);
                let pod = match known {
                    Some(known)
                        if known.metadata.resource_version == pod.metadata.resource_version =>
                    {
                        known
                    }
                    known => {
                        stamp(&mut pod, SourceKind::Api, known.as_deref(), now);
                        Arc::new(pod)
                    }
                };
                state.pods.insert(uid, pod);
            }
            state.ready = true;
            true
        }
        Change::Applied(mut pod) => {
            let uid = pod::uid(&pod);
            if uid.as_str().is_empty() {
                return false;
            }
            stamp(&mut pod, SourceKind::Api, state.pods.get(&uid).map(Arc::as_ref), now);
            state.pods.insert(uid, Arc::new(pod));
            true
        }
        Change::Deleted(pod) => state.pods.remove(&pod::uid(&pod)).is_some(),
        Change::Failed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{SourceState, apply};
    use crate::apiserver::list_watch::Change;
    use crate::model::{Pod, PodUid};

    fn pod(uid: &str, version: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": uid, "namespace": "d", "uid": uid, "resourceVersion": version,
                "managedFields": [{"manager": "x"}]}
        }))
        .expect("a pod")
    }

    #[test]
    fn keeps_what_a_resync_does_not_change() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut state = SourceState::default();
        assert!(apply(&mut state, Change::Reset(vec![pod("a", "1"), pod("b", "1")]), now));
        assert!(state.ready);
        let before = Arc::clone(&state.pods[&PodUid::from("a")]);
        assert!(apply(&mut state, Change::Reset(vec![pod("a", "1"), pod("c", "3")]), now));
        assert!(Arc::ptr_eq(&before, &state.pods[&PodUid::from("a")]));
        assert!(!state.pods.contains_key(&PodUid::from("b")));
        assert!(apply(&mut state, Change::Applied(pod("a", "4")), now));
        assert!(!Arc::ptr_eq(&before, &state.pods[&PodUid::from("a")]));
        assert!(apply(&mut state, Change::Deleted(pod("a", "5")), now));
        assert!(!apply(&mut state, Change::Deleted(pod("a", "5")), now));
        assert!(!apply(&mut state, Change::Failed("no".to_owned()), now));
    }
}
