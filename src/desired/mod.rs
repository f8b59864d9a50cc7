//! Desired pods: the merged view of all sources, and the mirror pods of static ones.
//!
//! One task merges the sources' sets and hands the differences on; a second one keeps the mirror pods. Fed by `sources`;
//! read through [`Handle`]; it never decides whether or how a pod runs.
//!
//! ```text
//!  sources ──(watch)──► merge ──► View ──► Handle (pods, by_key, mirror_of, sources_ready)
//!                         │        └─────► mirror_task ──► API server
//!                         └──(mpsc)──► Change::{Upsert, Gone} ──► pods
//! ```

pub mod index;
pub mod mirror;
mod mirror_task;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use index::Change;

use crate::apiserver::Clients;
use crate::apiserver::events::Recorder;
use crate::apiserver::nodes::NodeView;
use crate::clock::Clock;
use crate::model::{EventType, Pod, PodKey, PodUid, pod, reason};
use crate::sources::{Source, SourceKind};
use index::{Duplicate, Index};
use mirror_task::MirrorTask;

/// Changes that may wait for the receiver; when it is full the merge waits, and then hands on what is true by then.
const QUEUE: usize = 64;

/// The merged view as everybody reads it.
#[derive(Debug, Default)]
struct View {
    index: Index,
    api_ready: bool,
    all_ready: bool,
    /// Static pods that are gone from their source but may still be stopping.
    held: BTreeMap<PodUid, PodKey>,
}

/// Where mirror pods are kept.
#[derive(Clone, Debug)]
pub struct MirrorSetup {
    /// The clients.
    pub clients: Clients,
    /// This node's object: its UID owns the mirrors.
    pub node: watch::Receiver<NodeView>,
}

/// Reads the desired pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    view: Arc<watch::Sender<View>>,
}

/// Starts merging `sources`. The receiver gets every difference, removals first; a slow receiver gets fewer, later ones.
/// Without `mirrors` (standalone) static pods have no mirrors.
pub fn start(
    sources: Vec<Source>,
    mirrors: Option<MirrorSetup>,
    recorder: Recorder,
    clock: Clock,
    tasks: &mut JoinSet<()>,
    cancel: &CancellationToken,
) -> (Handle, mpsc::Receiver<Change>) {
    let (changes, receiver) = mpsc::channel(QUEUE);
    let view = Arc::new(watch::Sender::new(View::default()));
    if let Some(setup) = mirrors {
        let task = MirrorTask { clients: setup.clients, node: setup.node, view: view.subscribe(), clock };
        let cancel = cancel.clone();
        tasks.spawn(async move {
            cancel.run_until_cancelled(task.run()).await;
        });
    }
    let merge = Merge { sources, view: Arc::clone(&view), changes, recorder };
    let cancel = cancel.clone();
    tasks.spawn(async move {
        cancel.run_until_cancelled(merge.run()).await;
    });
    (Handle { view }, receiver)
}

struct Merge {
    sources: Vec<Source>,
    view: Arc<watch::Sender<View>>,
    changes: mpsc::Sender<Change>,
    recorder: Recorder,
}

impl Merge {
    async fn run(mut self) {
        loop {
            for change in self.merge() {
                if self.changes.send(change).await.is_err() {
                    return;
                }
            }
            if self.sources.is_empty() {
                std::future::pending::<()>().await;
            }
            // Cancel-safe: a change that is seen by none of the dropped futures is seen by the next merge.
            let changed = self.sources.iter_mut().map(|source| Box::pin(source.state.changed()));
            let (result, ..) = futures::future::select_all(changed).await;
            if result.is_err() {
                // A source's task has ended, which only happens at shutdown: what it had stays.
                std::future::pending::<()>().await;
            }
        }
    }

    fn merge(&mut self) -> Vec<Change> {
        let states: Vec<_> =
            self.sources.iter_mut().map(|source| (source.kind, source.state.borrow_and_update())).collect();
        let mut step = index::Step::default();
        self.view.send_modify(|view| {
            let before: BTreeMap<PodUid, PodKey> =
                view.index.pods().filter(|pod| pod::is_static(pod)).map(|pod| (pod::uid(pod), pod::key(pod))).collect();
            step = view.index.update(states.iter().map(|(kind, state)| (*kind, &state.pods)));
            for change in &step.changes {
                match change {
                    Change::Gone(uid) => {
                        if let Some(key) = before.get(uid) {
                            view.held.insert(uid.clone(), key.clone());
                        }
                    }
                    // The same file content as before is the same pod again.
                    Change::Upsert(pod) => {
                        view.held.remove(&pod::uid(pod));
                    }
                }
            }
            view.all_ready = states.iter().all(|(_, state)| state.ready);
            view.api_ready = states.iter().any(|(kind, state)| *kind == SourceKind::Api && state.ready);
        });
        drop(states);
        for duplicate in &step.duplicates {
            self.report(duplicate);
        }
        step.changes
    }

    fn report(&self, duplicate: &Duplicate) {
        let pod = &duplicate.pod;
        let (key, source) = (pod::key(pod), duplicate.source.as_str());
        tracing::warn!(pod = %key, source, "A second pod of this name is ignored");
        let message = format!(
            "Error validating pod {}_{}({}) from {source} due to duplicate pod name {:?}, ignoring",
            key.name,
            key.namespace,
            pod::uid(pod),
            &*key.name
        );
        self.recorder.pod(pod, None, EventType::Warning, reason::event::FAILED_VALIDATION, message);
    }
}

impl Handle {
    /// All desired pods; mirror pods are not among them.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.view.borrow().index.pods().cloned().collect()
    }

    /// The pod with that UID.
    pub fn get(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.view.borrow().index.get(uid).cloned()
    }

    /// The pod with that namespace and name; of a static pod its own object, not the mirror.
    pub fn by_key(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.view.borrow().index.by_key(&PodKey::new(namespace, name)).cloned()
    }

    /// The API object that shows a static pod, if there is one for exactly this generation.
    pub fn mirror_of(&self, uid: &PodUid) -> Option<Arc<Pod>> {
        self.view.borrow().index.mirror_of(uid).cloned()
    }

    /// Whether every source has been seen completely: before that nothing may be taken for an orphan.
    pub fn sources_ready(&self) -> bool {
        self.view.borrow().all_ready
    }

    /// Waits for [`Handle::sources_ready`]. Cancel-safe.
    pub async fn wait_sources_ready(&self) {
        // Never an error: this handle holds the sender.
        drop(self.view.subscribe().wait_for(|view| view.all_ready).await);
    }

    /// Waits until anything changes: pods, mirrors or readiness. Cancel-safe, but changes between two calls are not told.
    pub async fn changed(&self) {
        drop(self.view.subscribe().changed().await);
    }

    /// Says that nothing of a removed static pod is left on this node: its mirror may go, and the next generation under
    /// its name may have one. Must be called when the task of a static pod ends after [`Change::Gone`].
    pub fn release(&self, uid: &PodUid) {
        self.view.send_if_modified(|view| view.held.remove(uid).is_some());
    }
}
