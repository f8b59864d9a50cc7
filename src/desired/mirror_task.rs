//! Makes the API's mirror pods what [`super::mirror::plan`] says: at most one request per name at a
//! time, failures tried again with a growing wait, successes trusted until the watch shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::View;
use super::mirror::{self, MirrorAction, MirrorInput};
use crate::apiserver::nodes::NodeView;
use crate::apiserver::{Clients, failure, random};
use crate::clock::Clock;
use crate::model::{Mono, Pod, PodKey};

/// How long after a success the watch is given to show it.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What the task needs.
pub(super) struct MirrorTask {
    pub(super) clients: Clients,
    pub(super) node: watch::Receiver<NodeView>,
    pub(super) view: watch::Receiver<View>,
    pub(super) clock: Clock,
}

/// Why a name is left alone for a while.
struct Pause {
    action: MirrorAction,
    until: Mono,
    failures: u32,
    said: String,
}

type Outcome = (PodKey, MirrorAction, Result<(), kube::Error>);

impl MirrorTask {
    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut running: JoinSet<Outcome> = JoinSet::new();
        let mut busy: BTreeSet<PodKey> = BTreeSet::new();
        let mut pauses: BTreeMap<PodKey, Pause> = BTreeMap::new();
        loop {
            let now = self.clock.now().mono;
            let actions = self.actions();
            pauses.retain(|_, pause| actions.contains(&pause.action));
            let node_uid = self
                .node
                .borrow_and_update()
                .node
                .as_ref()
                .and_then(|node| node.metadata.uid.clone());
            for action in actions {
                let key = action.key();
                let waits = pauses.get(&key).is_some_and(|pause| pause.until > now);
                // Without the node's UID NodeRestriction refuses the mirror.
                if let Some(node_uid) = node_uid.clone()
                    && !waits
                    && busy.insert(key.clone())
                {
                    running.spawn(carry_out(self.clients.clone(), key, action, node_uid));
                }
            }
            let wake = pauses
                .iter()
                .filter(|(key, _)| !busy.contains(*key))
                .map(|(_, pause)| pause.until)
                .min();
            // Cancel-safe: `changed`, `join_next` and sleeping lose nothing.
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                changed = self.node.changed() => if changed.is_err() { return },
                Some(outcome) = running.join_next() => {
                    if let Ok((key, action, result)) = outcome {
                        busy.remove(&key);
                        self.settle(&mut pauses, key, action, result);
                    } else {
                        // A panic: the names are tried again rather than left out for ever.
                        busy.clear();
                    }
                }
                () = self.clock.sleep_until_some(wake), if wake.is_some() => {}
            }
        }
    }

    fn actions(&mut self) -> Vec<MirrorAction> {
        let view = self.view.borrow_and_update();
        let held = view.held.values().cloned().collect();
        let input = MirrorInput {
            mirrors: view.index.mirrors(),
            held: &held,
            api_ready: view.api_ready,
            all_ready: view.all_ready,
        };
        mirror::plan(view.index.pods(), input)
    }

    fn settle(
        &self,
        pauses: &mut BTreeMap<PodKey, Pause>,
        key: PodKey,
        action: MirrorAction,
        result: Result<(), kube::Error>,
    ) {
        let now = self.clock.now().mono;
        let before = pauses.remove(&key);
        let pause = match result {
            Ok(()) => {
                Pause { action, until: now.after(PATIENCE), failures: 0, said: String::new() }
            }
            Err(error) => {
                let problem = failure::text(&error);
                let failures = before.as_ref().map_or(1, |pause| pause.failures.saturating_add(1));
                if before.is_none_or(|pause| pause.said != problem) {
                    tracing::warn!(pod = %key, error = problem, "Could not bring the mirror pod up to date");
                }
                let wait = LONGEST_WAIT.min(FIRST_WAIT.saturating_mul(1 << failures.min(10)));
                Pause {
                    action,
                    until: now.after(random::jitter(wait, 0.2)),
                    failures,
                    said: problem,
                }
            }
        };
        pauses.insert(key, pause);
    }
}

async fn carry_out(
    clients: Clients,
    key: PodKey,
    action: MirrorAction,
    node_uid: String,
) -> Outcome {
    let api: Api<Pod> = Api::namespaced(clients.writes.clone(), &key.namespace);
    let result = match &action {
        MirrorAction::Create(pod) => create(&api, pod, &clients.node_name, &node_uid).await,
        MirrorAction::Delete { uid, .. } => delete(&api, &key, uid.as_str()).await,
    };
    (key, action, result)
}

async fn create(
    api: &Api<Pod>,
    pod: &Arc<Pod>,
    node_name: &str,
    node_uid: &str,
) -> Result<(), kube::Error> {
    let object = mirror::mirror_object(pod, node_name, node_uid);
    // A request whose answer was lost may have made it: the watch will show whose it is.
    api.create(&PostParams::default(), &object).await.map(drop)
}

async fn delete(api: &Api<Pod>, key: &PodKey, uid: &str) -> Result<(), kube::Error> {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Ok(_) => Ok(()),
        Err(error) => match failure::kind(&error) {
            // It is gone, or another object has its name: the watch will show it.
            failure::FailureKind::NotFound | failure::FailureKind::Conflict => Ok(()),
            failure::FailureKind::AlreadyExists
            | failure::FailureKind::Forbidden
            | failure::FailureKind::Gone
            | failure::FailureKind::Invalid
            | failure::FailureKind::Busy
            | failure::FailureKind::Unknown => Err(error),
        },
    }
}
