//! Desired pods: the merged view of all sources, and the mirror pods of static ones.
//!
//! One task merges the sources' sets and hands the differences on; a second one keeps the mirror
//! pods. Fed by `sources`; read through [`Handle`]; it never decides whether or how a pod runs.
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

use futures::future::OptionFuture;
use tokio::sync::{mpsc, watch};

pub use index::Change;

use crate::apiserver::Clients;
use crate::apiserver::events::Recorder;
use crate::apiserver::nodes::NodeView;
use crate::clock::Clock;
use crate::model::{EventType, Pod, PodKey, PodUid, pod, reason};
use crate::sources::{Source, SourceKind, duplicate_message};
use index::{Duplicate, Index};
use mirror_task::MirrorTask;

/// Changes that may wait for the receiver; when it is full the merge waits, and then hands on what
/// is true by then.
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

/// The connections of the merged view.
#[derive(Debug)]
pub struct Deps {
    /// Where pods come from.
    pub sources: Vec<Source>,
    /// Where mirror pods are kept; `None` without an API server: static pods have no mirrors then.
    pub mirrors: Option<MirrorSetup>,
    /// Events.
    pub recorder: Recorder,
    /// The clocks.
    pub clock: Clock,
}

/// The merged view: its handle, its differences, and its task, which runs until it is dropped.
///
/// The receiver gets every difference, removals first; a slow receiver gets fewer, later ones.
pub fn new(
    deps: Deps,
) -> (Handle, mpsc::Receiver<Change>, impl Future<Output = ()> + Send + 'static) {
    let Deps { sources, mirrors, recorder, clock } = deps;
    let (changes, receiver) = mpsc::channel(QUEUE);
    let view = Arc::new(watch::Sender::new(View::default()));
    let mirrors = mirrors.map(|setup| {
        let view = view.subscribe();
        MirrorTask { clients: setup.clients, node: setup.node, view, clock }.run()
    });
    let merge = Merge { sources, view: Arc::clone(&view), changes, recorder }.run();
    let task = async move {
        tokio::join!(merge, OptionFuture::from(mirrors));
    };
    (Handle { view }, receiver, task)
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
            // Cancel-safe: a change that is seen by none of the dropped futures is seen by the next
            // merge.
            let changed = self.sources.iter_mut().map(|source| Box::pin(source.state.changed()));
            let (result, ..) = futures::future::select_all(changed).await;
            if result.is_err() {
                // A source's task has ended, which only happens at shutdown: what it had stays.
                std::future::pending::<()>().await;
            }
        }
    }

    fn merge(&mut self) -> Vec<Change> {
        let states: Vec<_> = self
            .sources
            .iter_mut()
            .map(|source| (source.kind, source.state.borrow_and_update()))
            .collect();

        let mut step = index::Step::default();
        self.view.send_modify(|view| {
            let before: BTreeMap<PodUid, PodKey> = view
                .index
                .pods()
                .filter(|pod| pod::is_static(pod))
                .map(|pod| (pod::uid(pod), pod::key(pod)))
                .collect();
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
            view.api_ready =
                states.iter().any(|(kind, state)| *kind == SourceKind::Api && state.ready);
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
        let message = duplicate_message(pod, duplicate.source);
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

    /// Whether every source has been seen completely: before that nothing may be taken for an
    /// orphan.
    pub fn sources_ready(&self) -> bool {
        self.view.borrow().all_ready
    }

    /// Waits for [`Handle::sources_ready`]. Cancel-safe.
    pub async fn wait_sources_ready(&self) {
        // Never an error: this handle holds the sender.
        drop(self.view.subscribe().wait_for(|view| view.all_ready).await);
    }

    /// Waits until anything changes: pods, mirrors or readiness. Cancel-safe. A change between two
    /// calls is missed.
    pub async fn changed(&self) {
        drop(self.view.subscribe().changed().await);
    }

    /// Waits until the mirror of a static pod is another object than `known` (`None`: there was
    /// none). Looks at what is, so that a change between two calls is not lost. Cancel-safe.
    pub async fn mirror_changed(&self, uid: &PodUid, known: Option<PodUid>) {
        let differs =
            |view: &View| view.index.mirror_of(uid).map(|mirror| pod::uid(mirror)) != known;
        // Never an error: this handle holds the sender.
        drop(self.view.subscribe().wait_for(differs).await);
    }

    /// Says that nothing of a removed static pod is left on this node: its mirror may go, and the
    /// next generation under its name may have one. Must be called when the task of a static pod
    /// ends after [`Change::Gone`].
    pub fn release(&self, uid: &PodUid) {
        self.view.send_if_modified(|view| view.held.remove(uid).is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::{Change, Deps, Handle, MirrorSetup, new};
    use crate::apiserver::events::Recorder;
    use crate::apiserver::fake::FakeApi;
    use crate::apiserver::nodes;
    use crate::clock::Clock;
    use crate::model::{Pod, PodUid, pod};
    use crate::sources::{Source, SourceKind, SourceState, apiserver};

    struct World {
        fake: FakeApi,
        file: watch::Sender<SourceState>,
        desired: Handle,
        changes: tokio::sync::mpsc::Receiver<Change>,
        _tasks: JoinSet<()>,
    }

    fn world() -> World {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let fake = FakeApi::new(clock);
        let mut tasks = JoinSet::new();
        fake.put("api/v1/nodes", json!({"metadata": {"name": "n", "uid": "node-uid"}}));
        let clients = fake.clients("n");
        let (node, watching) = nodes::new(&clients);
        tasks.spawn(watching);
        let (api, watching) = apiserver::new(&clients, Some(node.clone()), clock);
        tasks.spawn(watching);
        let (file, state) = watch::channel(SourceState::default());
        let sources = vec![Source { kind: SourceKind::File, state }, api];
        let (recorder, _) = Recorder::channel();
        let mirrors = Some(MirrorSetup { clients, node });
        let (desired, changes, merging) = new(Deps { sources, mirrors, recorder, clock });
        tasks.spawn(merging);
        World { fake, file, desired, changes, _tasks: tasks }
    }

    fn static_pod(hash: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "etcd-n", "namespace": "k", "uid": hash,
            "annotations": {"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": hash}},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}]}}))
        .expect("a pod")
    }

    impl World {
        fn files(&self, pods: &[Pod]) {
            self.file.send_modify(|state| {
                state.ready = true;
                state.pods =
                    pods.iter().map(|pod| (pod::uid(pod), Arc::new(pod.clone()))).collect();
            });
        }

        async fn mirror(&self, hash: &str) -> Value {
            let has = |pod: &&Value| {
                pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] == hash
            };
            self.fake.wait_for("api/v1/pods", |pods| pods.iter().find(has).cloned()).await
        }

        async fn next(&mut self) -> String {
            match self.changes.recv().await.expect("the task lives") {
                Change::Upsert(pod) => format!("upsert {}", pod::uid(&pod)),
                Change::Gone(uid) => format!("gone {uid}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_static_pod_is_mirrored_through_its_life() {
        let mut world = world();
        world.files(&[static_pod("h1")]);
        assert_eq!(world.next().await, "upsert h1");
        let first = world.mirror("h1").await;
        assert_eq!(first["metadata"]["ownerReferences"][0]["uid"], "node-uid");
        let uid = PodUid::from("h1");
        while world.desired.mirror_of(&uid).is_none() {
            world.desired.changed().await;
        }
        assert!(world.desired.sources_ready());
        // Somebody deletes the mirror: it comes back as another object.
        world.fake.remove("api/v1/pods", "k", "etcd-n");
        let second = world.mirror("h1").await;
        assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
        // The file is edited: the old mirror stays until the old pod has stopped.
        world.files(&[static_pod("h2")]);
        assert_eq!(
            (world.next().await, world.next().await),
            ("gone h1".to_owned(), "upsert h2".to_owned())
        );
        tokio::time::sleep(std::time::Duration::from_secs(30)).await;
        assert_eq!(world.mirror("h1").await["metadata"]["uid"], second["metadata"]["uid"]);
        world.desired.release(&uid);
        world.mirror("h2").await;
        // The file is removed, and the pod has stopped: so does the mirror.
        world.files(&[]);
        assert_eq!(world.next().await, "gone h2");
        world.desired.release(&"h2".into());
        world.fake.wait_for("api/v1/pods", |pods| pods.is_empty().then_some(())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_an_orphan_before_every_source_is_ready() {
        let world = world();
        let orphan = json!({"metadata": {"name": "old-n", "namespace": "k",
            "annotations": {"kubernetes.io/config.mirror": "h"}}, "spec": {"nodeName": "n", "containers": []}});
        world.fake.put("api/v1/pods", orphan);
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(!world.desired.sources_ready());
        world.mirror("h").await;
        world.files(&[]);
        world.fake.wait_for("api/v1/pods", |pods| pods.is_empty().then_some(())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn api_pods_come_and_go() {
        let mut world = world();
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u1"}, "spec": {"nodeName": "n", "containers": []}});
        world.fake.put("api/v1/pods", pod.clone());
        let mut other = pod;
        other["metadata"] = json!({"name": "q", "namespace": "d", "uid": "u2"});
        other["spec"]["nodeName"] = json!("other");
        world.fake.put("api/v1/pods", other);
        assert_eq!(world.next().await, "upsert u1");
        let known = world.desired.by_key("d", "p").expect("known");
        assert_eq!(pod::annotation(&known, pod::CONFIG_SOURCE), Some("api"));
        world.fake.fail("POST", "pods", 500, 3);
        world.fake.remove("api/v1/pods", "d", "p");
        assert_eq!(world.next().await, "gone u1");
        assert!(world.desired.by_key("d", "p").is_none());
    }
}
