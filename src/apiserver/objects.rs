//! ConfigMaps and Secrets that pods on this node refer to: one watch per object, shared by all pods
//! that use it.
//!
//! Who needs an object holds a [`Subscription`]; the watch lives as long as one is held.
//!
//! An immutable object is watched only until it is seen. It may still be deleted and made again
//! under its name, so a later subscriber does not share that value: the object is read once more
//! for it. Earlier subscribers keep what they have, as Kubernetes' documentation promises to pods
//! that run. If the object is gone, or cannot be read soon, the later subscriber is given the
//! earlier value, as by upstream.
//!
//! The cache is one of the two places that hold a lock (the map of entries), never across an await.
//! Values are never logged.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::GetParams;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::client::Clients;
use super::connectivity::Connectivity;
use super::failure::{self, FailureKind};
use super::list_watch::{self, Change};
use super::nodes::NodeView;
use super::watched::Watched;

/// How long upstream's `Cache` takes an object for fresh where the node's annotation says nothing.
const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// The node's annotation that says how long, in seconds; a controller sets it by the cluster's
/// size.
const TTL: &str = "node.alpha.kubernetes.io/ttl";

/// How long [`Subscription::get`] waits for an object of which an earlier, immutable value is
/// known: a container restarts within this time while the API server is away.
const EARLIER_AFTER: Duration = Duration::from_secs(2);

/// `configMapAndSecretChangeDetectionStrategy`.
#[derive(Clone, Debug)]
pub enum ChangeDetection {
    /// One watch per object.
    Watch,
    /// A GET for each new subscription, and one as often as upstream looks at a pod again
    /// (`syncFrequency`).
    Get(Duration),
    /// The same, but not before the object's time to live is over; what the API server has cached
    /// is enough then.
    Cache {
        /// `syncFrequency`.
        sync: Duration,
        /// This node, whose annotation says how long an object lives.
        node: watch::Receiver<NodeView>,
    },
}

impl ChangeDetection {
    /// How long to wait until an object is read again.
    fn period(&self) -> Duration {
        match self {
            Self::Watch => Duration::MAX,
            Self::Get(sync) => *sync,
            Self::Cache { sync, node } => {
                let node = node.borrow().node.clone();
                let annotation =
                    node.as_ref().and_then(|node| node.metadata.annotations.as_ref()?.get(TTL));
                let seconds = annotation.and_then(|text| text.parse().ok());
                seconds.map_or(DEFAULT_TTL, Duration::from_secs).max(*sync)
            }
        }
    }
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub enum ObjectState<T> {
    /// Nothing yet.
    Pending,
    /// It is there.
    Found(Arc<T>),
    /// It is not there.
    Missing,
    /// It cannot be read (text for people); it is tried again. A value that was known stays the
    /// value instead.
    Failed(String),
}

/// Why an object cannot be had. The texts are upstream's where upstream has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It does not exist.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server refuses or cannot be reached.
    #[error("failed to fetch {kind} {namespace}/{name}: {problem}")]
    Failed {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The server's text.
        problem: String,
    },
    /// No answer in time.
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    Timeout {
        /// `configmap` or `secret`.
        kind: &'static str,
    },
}

impl ObjectError {
    /// Whether it does not exist (what `optional: true` tolerates).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// The two kinds of objects of this cache.
pub trait Kind:
    kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + fmt::Debug
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What error texts call it.
    const NAME: &'static str;
    /// Whether it can never change.
    fn is_immutable(&self) -> bool;
    /// Drops the fields that are never read.
    fn strip(&mut self);
}

impl Kind for ConfigMap {
    const NAME: &'static str = "configmap";

    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    fn strip(&mut self) {
        self.metadata.managed_fields = None;
        self.metadata.annotations = None;
    }
}

impl Kind for Secret {
    const NAME: &'static str = "secret";

    fn is_immutable(&self) -> bool {
        self.immutable == Some(true)
    }

    fn strip(&mut self) {
        self.metadata.managed_fields = None;
        self.metadata.annotations = None;
    }
}

type Key = (Arc<str>, Arc<str>);

/// One object's state and the life of its watch.
struct CachedObject<T> {
    state: watch::Receiver<ObjectState<T>>,
    refresh: Arc<tokio::sync::Notify>,
    /// Set when an immutable object has been seen: the state changes no more.
    is_final: Arc<AtomicBool>,
    /// The value of an immutable object of the same name that others used before.
    earlier: Option<Arc<T>>,
    _stop: DropGuard,
}

impl<T> CachedObject<T> {
    /// The immutable object that this entry ended with, if it did.
    fn final_object(&self) -> Option<Arc<T>> {
        if !self.is_final.load(Ordering::Acquire) {
            return None;
        }
        match &*self.state.borrow() {
            ObjectState::Found(object) => Some(Arc::clone(object)),
            ObjectState::Pending | ObjectState::Missing | ObjectState::Failed(_) => None,
        }
    }
}

struct Cache<T> {
    /// The entries of each object, the newest last: more than one only of an object that was
    /// immutable when the older ones saw it.
    entries: Mutex<HashMap<Key, Vec<Weak<CachedObject<T>>>>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

struct Shared {
    client: kube::Client,
    reach: Connectivity,
    detection: ChangeDetection,
    tasks: TaskTracker,
    cancel: CancellationToken,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
}

/// The cache. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("objects::Handle")
            .field("config_maps", &self.shared.config_maps.entries.lock().len())
            .field("secrets", &self.shared.secrets.entries.lock().len())
            .finish_non_exhaustive()
    }
}

/// The cache, and the task that its watches live as long as. Each object's watch is a task of its
/// own, which ends with its last subscription, or when the cache's task is dropped.
pub fn new(
    clients: &Clients,
    detection: ChangeDetection,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let cancel = CancellationToken::new();
    let stop = cancel.clone().drop_guard();
    let task = async move {
        let _stop = stop;
        std::future::pending::<()>().await;
    };
    let client = match detection {
        ChangeDetection::Watch => clients.watches.clone(),
        ChangeDetection::Get(_) | ChangeDetection::Cache { .. } => clients.writes.clone(),
    };
    let shared = Shared {
        client,
        reach: clients.reach.clone(),
        detection,
        tasks: TaskTracker::new(),
        cancel,
        config_maps: Cache::default(),
        secrets: Cache::default(),
    };
    (Handle { shared: Arc::new(shared) }, task)
}

impl Handle {
    /// Subscribes to a ConfigMap. Returns at once; the first subscription starts the watch.
    pub fn config_map(&self, namespace: &str, name: &str) -> Subscription<ConfigMap> {
        self.subscribe(&self.shared.config_maps, namespace, name)
    }

    /// Subscribes to a Secret. Returns at once; the first subscription starts the watch.
    pub fn secret(&self, namespace: &str, name: &str) -> Subscription<Secret> {
        self.subscribe(&self.shared.secrets, namespace, name)
    }

    fn subscribe<T: Kind>(&self, cache: &Cache<T>, namespace: &str, name: &str) -> Subscription<T> {
        let key: Key = (namespace.into(), name.into());
        let mut entries = cache.entries.lock();
        let present = entries.get(&key).and_then(|list| list.iter().rev().find_map(Weak::upgrade));
        let earlier = present.as_ref().and_then(|entry| entry.final_object());
        let entry = if let Some(entry) = present.filter(|_| earlier.is_none()) {
            // A new user of a polled object must not read a value from before its pod was made.
            entry.refresh.notify_one();
            entry
        } else {
            entries.retain(|_, list| {
                list.retain(|entry| entry.strong_count() > 0);
                !list.is_empty()
            });
            let entry = Arc::new(self.open::<T>(&key, earlier));
            entries.entry(key.clone()).or_default().push(Arc::downgrade(&entry));
            entry
        };
        Subscription { state: entry.state.clone(), entry, key }
    }

    /// Begins to follow an object. `earlier` is the value of an immutable object of that name that
    /// others use: it stands in for one that is gone or cannot be read.
    fn open<T: Kind>(&self, key: &Key, earlier: Option<Arc<T>>) -> CachedObject<T> {
        let (sender, state) = watch::channel(ObjectState::Pending);
        let publisher = Publisher { sender, earlier: earlier.clone() };
        let refresh = Arc::new(tokio::sync::Notify::new());
        let is_final = Arc::new(AtomicBool::new(false));
        let cancel = self.shared.cancel.child_token();
        let api: Api<T> = Api::namespaced(self.shared.client.clone(), &key.0);
        let watched: Api<Watched<T>> = Api::namespaced(self.shared.client.clone(), &key.0);
        let (name, detection, wake) =
            (Arc::clone(&key.1), self.shared.detection.clone(), Arc::clone(&refresh));
        let (token, reach) = (cancel.clone(), self.shared.reach.clone());
        let ended = Arc::clone(&is_final);
        self.shared.tasks.spawn(async move {
            let work = async {
                let mut publisher = publisher;
                match detection {
                    ChangeDetection::Watch => {
                        watch_one((watched, &reach), &name, &mut publisher).await;
                    }
                    ChangeDetection::Get(_) | ChangeDetection::Cache { .. } => {
                        poll_one(&api, &name, &mut publisher, &detection, &wake).await;
                    }
                }
                ended.store(true, Ordering::Release);
                // An immutable object needs no watch any more; the value stays for as long as
                // somebody holds it.
                std::future::pending::<()>().await;
            };
            token.run_until_cancelled(work).await;
        });
        CachedObject { state, refresh, is_final, earlier, _stop: cancel.drop_guard() }
    }
}

async fn watch_one<T: Kind>(
    api: (Api<Watched<T>>, &Connectivity),
    name: &str,
    publisher: &mut Publisher<T>,
) {
    let fields = format!("metadata.name={name}");
    let reduce = |mut object: T| {
        object.strip();
        object
    };
    list_watch::follow(api, Some(&fields), reduce, |change| {
        let state = match change {
            Change::Reset(mut objects) => {
                objects.pop().map_or(ObjectState::Missing, |object| found(object))
            }
            Change::Applied(object) => found(object),
            Change::Deleted(_) => ObjectState::Missing,
            Change::Failed(problem) => ObjectState::Failed(problem),
        };
        publisher.publish(state)
    })
    .await;
}

async fn poll_one<T: Kind>(
    api: &Api<T>,
    name: &str,
    publisher: &mut Publisher<T>,
    detection: &ChangeDetection,
    wake: &tokio::sync::Notify,
) {
    let mut failures = 0_u32;
    // Whether the next read is a mere refresh, for which a cached answer is good enough.
    let mut is_refresh = false;
    loop {
        let read = match detection {
            ChangeDetection::Cache { .. } if is_refresh => {
                api.get_with(name, &GetParams::any()).await
            }
            ChangeDetection::Cache { .. } | ChangeDetection::Get(_) | ChangeDetection::Watch => {
                api.get(name).await
            }
        };

        let state = match read {
            Ok(mut object) => {
                object.strip();
                found(object)
            }
            Err(error) if failure::kind(&error) == FailureKind::NotFound => ObjectState::Missing,
            Err(error) => ObjectState::Failed(failure::text(&error)),
        };

        failures =
            if matches!(state, ObjectState::Failed(_)) { failures.saturating_add(1) } else { 0 };
        if publisher.publish(state).is_break() {
            return;
        }

        let period = detection.period();
        let wait = if failures == 0 {
            period
        } else {
            period.min(Duration::from_millis(200 << failures.min(8)))
        };

        // Either way the object is read again: losing the notification loses nothing.
        let is_asked = tokio::time::timeout(wait, wake.notified()).await.is_ok();
        is_refresh = failures == 0 && !is_asked;
    }
}

fn found<T>(object: T) -> ObjectState<T> {
    ObjectState::Found(Arc::new(object))
}

/// Publishes the states of one object.
struct Publisher<T> {
    sender: watch::Sender<ObjectState<T>>,
    /// Stands in for an object that is missing, until it has been seen.
    earlier: Option<Arc<T>>,
}

impl<T: Kind> Publisher<T> {
    /// Publishes a state. Breaks if nothing can follow: the object is there and immutable.
    fn publish(&mut self, state: ObjectState<T>) -> ControlFlow<()> {
        match (&state, &self.earlier) {
            (ObjectState::Missing, Some(earlier)) => {
                // Not the end: the object may be made again.
                let stand_in = ObjectState::Found(Arc::clone(earlier));
                let _may_follow = publish(&self.sender, stand_in);
                ControlFlow::Continue(())
            }
            (ObjectState::Missing, None)
            | (ObjectState::Failed(_) | ObjectState::Pending, Some(_) | None) => {
                publish(&self.sender, state)
            }
            (ObjectState::Found(_), Some(_) | None) => {
                self.earlier = None;
                publish(&self.sender, state)
            }
        }
    }
}

/// Publishes a state if it differs. Breaks if nothing can follow.
fn publish<T: Kind>(
    sender: &watch::Sender<ObjectState<T>>,
    state: ObjectState<T>,
) -> ControlFlow<()> {
    let last = matches!(&state, ObjectState::Found(object) if object.is_immutable());
    sender.send_if_modified(|present| {
        let keep = match (&*present, &state) {
            (ObjectState::Found(_), ObjectState::Failed(_))
            | (ObjectState::Missing, ObjectState::Missing) => true,
            (ObjectState::Found(old), ObjectState::Found(new)) => {
                old.meta().resource_version == new.meta().resource_version
                    && old.meta().uid == new.meta().uid
            }
            (ObjectState::Failed(old), ObjectState::Failed(new)) => old == new,
            (
                ObjectState::Pending
                | ObjectState::Found(_)
                | ObjectState::Missing
                | ObjectState::Failed(_),
                ObjectState::Pending
                | ObjectState::Found(_)
                | ObjectState::Missing
                | ObjectState::Failed(_),
            ) => false,
        };
        if !keep {
            *present = state;
        }
        !keep
    });
    if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// A share in the watch of one object.
pub struct Subscription<T> {
    state: watch::Receiver<ObjectState<T>>,
    entry: Arc<CachedObject<T>>,
    key: Key,
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may be a secret.
        f.debug_struct("Subscription")
            .field("namespace", &self.key.0)
            .field("name", &self.key.1)
            .finish_non_exhaustive()
    }
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), entry: Arc::clone(&self.entry), key: self.key.clone() }
    }
}

impl<T: Kind> Subscription<T> {
    /// What is known now; never waits.
    pub fn state(&self) -> ObjectState<T> {
        self.state.borrow().clone()
    }

    /// What is known now, as a result; `None` while nothing is known.
    pub fn latest(&self) -> Option<Result<Arc<T>, ObjectError>> {
        self.answer(&self.state.borrow())
    }

    /// The object, waiting up to `deadline` for the first answer. A refusal is waited out too (the
    /// node authorizer learns of a new pod a little after us) and reported when the deadline
    /// passes. Cancel-safe.
    pub async fn get(&mut self, deadline: Duration) -> Result<Arc<T>, ObjectError> {
        let known = |state: &ObjectState<T>| match state {
            ObjectState::Found(_) | ObjectState::Missing => true,
            ObjectState::Pending | ObjectState::Failed(_) => false,
        };
        let earlier = self.entry.earlier.as_ref();
        let patience = earlier.map_or(deadline, |_| deadline.min(EARLIER_AFTER));
        // The task may only end at shutdown; what is known then is the answer.
        drop(tokio::time::timeout(patience, self.state.wait_for(known)).await);

        let state = self.state.borrow();
        if let Some(earlier) = earlier.filter(|_| !known(&state)) {
            return Ok(Arc::clone(earlier));
        }
        self.answer(&state).unwrap_or(Err(ObjectError::Timeout { kind: T::NAME }))
    }

    /// Waits for a change since the last call of this or of [`Subscription::get`]. Cancel-safe.
    /// Never returns once the cache has been shut down.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn answer(&self, state: &ObjectState<T>) -> Option<Result<Arc<T>, ObjectError>> {
        match state {
            ObjectState::Pending => None,
            ObjectState::Found(object) => Some(Ok(Arc::clone(object))),
            ObjectState::Missing => {
                Some(Err(ObjectError::NotFound { kind: T::NAME, name: self.key.1.to_string() }))
            }
            ObjectState::Failed(problem) => Some(Err(ObjectError::Failed {
                kind: T::NAME,
                namespace: self.key.0.to_string(),
                name: self.key.1.to_string(),
                problem: problem.clone(),
            })),
        }
    }
}
