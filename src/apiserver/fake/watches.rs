//! Watches of the API server in memory: the initial list, then every change, until they are
//! dropped.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Answer, Shared, Target, answer, failure, matches, selected};

/// What a watch has still to say.
struct Watcher {
    shared: Arc<Shared>,
    target: Target,
    selector: Option<String>,
    seen: u64,
    drops: u64,
    ready: Vec<Value>,
    changed: watch::Receiver<u64>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.store.lock().open_watches -= 1;
    }
}

pub(super) fn watch_answer(
    shared: &Arc<Shared>,
    target: Target,
    query: &BTreeMap<String, String>,
) -> Answer {
    let selector = query.get("fieldSelector").cloned();
    let streaming = query.get("sendInitialEvents").is_some_and(|value| value == "true");
    let mut store = shared.store.lock();
    if streaming && store.no_streaming {
        return failure(
            422,
            "Invalid",
            "sendInitialEvents: Forbidden: the WatchList feature gate is not enabled",
        );
    }
    let mut ready = Vec::new();
    let mut seen =
        query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    if streaming {
        seen = store.version;
        ready.push(json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": "v1", "metadata": {
            "resourceVersion": seen.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}));
        let witness = shared.witness.lock().clone();
        let objects: Vec<Value> = selected(&store, &target, selector.as_ref())
            .map(|(_, object)| {
                if let Some(witness) = &witness {
                    witness.told("ADDED", object);
                }
                json!({"type": "ADDED", "object": object})
            })
            .collect();
        ready.extend(objects.into_iter().rev());
    } else if seen < store.oldest {
        seen = store.version;
        ready.push(json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": 410, "reason": "Expired", "message": "too old resource version", "metadata": {}}}));
    }
    store.open_watches += 1;
    let drops = store.drops;
    let changed = shared.changed.subscribe();
    let watcher =
        Watcher { shared: Arc::clone(shared), target, selector, seen, drops, ready, changed };
    let frames = stream::unfold(watcher, |mut watcher| async move {
        loop {
            if let Some(event) = watcher.ready.pop() {
                let line = Bytes::from(format!("{event}\n"));
                return Some((Ok::<_, Infallible>(Frame::data(line)), watcher));
            }
            watcher.changed.mark_unchanged();
            {
                let store = watcher.shared.store.lock();
                if store.down || store.drops > watcher.drops {
                    return None;
                }
                if !store.stalled {
                    let witness = watcher.shared.witness.lock().clone();
                    let from = store.log.partition_point(|change| change.version <= watcher.seen);
                    for change in &store.log[from..] {
                        if matches(
                            &change.key,
                            &change.object,
                            &watcher.target,
                            watcher.selector.as_ref(),
                        ) {
                            if let Some(witness) = &witness {
                                witness.told(change.kind, &change.object);
                            }
                            watcher
                                .ready
                                .push(json!({"type": change.kind, "object": change.object}));
                        }
                    }
                    watcher.ready.reverse();
                    watcher.seen = store.version;
                }
            }
            if watcher.ready.is_empty() && watcher.changed.changed().await.is_err() {
                return None;
            }
        }
    });
    answer(200, StreamBody::new(frames).boxed_unsync())
}
