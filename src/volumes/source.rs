//! Provides the content of volumes: ConfigMaps and Secrets by subscription, tokens and claims by
//! request.
//!
//! The traits are implemented by the API server's caches and by fakes for tests.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use tokio::sync::watch;

use crate::apiserver::claims::{self, ClaimError, Node};
use crate::apiserver::csi_objects;
use crate::apiserver::nodes::NodeView;
use crate::apiserver::objects::{self, ObjectError};
use crate::apiserver::tokens::{self, TokenError};
use crate::model::PodUid;

/// Provides ConfigMaps and Secrets. An object is watched while a subscription to it exists.
pub trait ObjectSource: Send + Sync + 'static {
    /// A subscription to a ConfigMap.
    type ConfigMaps: Subscription<ConfigMap>;
    /// A subscription to a Secret.
    type Secrets: Subscription<Secret>;
    /// Subscribes to a ConfigMap. Never waits.
    fn config_map(&self, namespace: &str, name: &str) -> Self::ConfigMaps;
    /// Subscribes to a Secret. Never waits.
    fn secret(&self, namespace: &str, name: &str) -> Self::Secrets;
}

/// A subscription to one object.
pub trait Subscription<T>: Clone + Send + Sync + 'static {
    /// Returns the present state; `None` while it is not known.
    fn latest(&self) -> Option<Result<Arc<T>, ObjectError>>;
    /// Waits for a change since the last call, or since the subscription was made. It may return
    /// without a change. Cancel-safe.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Provides service-account tokens.
pub trait TokenSource: Clone + Send + Sync + 'static {
    /// Returns the token, from a cache while it is fresh. Cancel-safe.
    fn token(
        &self,
        request: tokens::Request,
    ) -> impl Future<Output = Result<tokens::Token, TokenError>> + Send;
    /// Forgets the tokens of a pod that is gone.
    fn forget(&self, pod: &PodUid);
}

/// Provides claims and persistent volumes. The futures are cancel-safe and have deadlines.
pub trait ClaimSource: Send + Sync + std::fmt::Debug + 'static {
    /// Reads a claim.
    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<PersistentVolumeClaim, ClaimError>>;
    /// Reads a persistent volume.
    fn volume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<PersistentVolume, ClaimError>>;
    /// Reads this node's object.
    fn node(&self) -> BoxFuture<'_, Result<Node, ClaimError>>;
}

/// Provides what volumes of CSI drivers need of the API. The futures are cancel-safe and have
/// deadlines.
pub trait DriverSource: Send + Sync + std::fmt::Debug + 'static {
    /// Returns a driver's object; `None` if it has none.
    fn driver<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, ClaimError>>;
    /// Reads a VolumeAttachment.
    fn attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<VolumeAttachment, ClaimError>>;
    /// Reads a Secret.
    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Secret, ClaimError>>;
    /// Returns this node's object; `None` where there is none.
    fn node(&self) -> Option<watch::Receiver<NodeView>>;
}

/// The error of a node without an API server for every object that only the API server has.
const STANDALONE: &str = "this node has no API server";

// The API server's cache, or nothing on a node without one.
impl ObjectSource for Option<objects::Handle> {
    type ConfigMaps = Known<ConfigMap>;
    type Secrets = Known<Secret>;

    fn config_map(&self, namespace: &str, name: &str) -> Known<ConfigMap> {
        let subscription = self.as_ref().map(|objects| objects.config_map(namespace, name));
        Known { subscription, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn secret(&self, namespace: &str, name: &str) -> Known<Secret> {
        let subscription = self.as_ref().map(|objects| objects.secret(namespace, name));
        Known { subscription, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// A subscription to the API server's cache.
#[derive(Clone, Debug)]
pub struct Known<T: objects::Kind> {
    subscription: Option<objects::Subscription<T>>,
    namespace: String,
    name: String,
}

impl<T: objects::Kind> Subscription<T> for Known<T> {
    fn latest(&self) -> Option<Result<Arc<T>, ObjectError>> {
        let absent = || {
            Some(Err(ObjectError::Failed {
                kind: T::NAME,
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                problem: STANDALONE.to_owned(),
            }))
        };
        self.subscription.as_ref().map_or_else(absent, objects::Subscription::latest)
    }

    async fn changed(&mut self) {
        match &mut self.subscription {
            Some(subscription) => subscription.changed().await,
            None => std::future::pending().await,
        }
    }
}

// The API server's tokens, or nothing on a node without one.
impl TokenSource for Option<tokens::Handle> {
    async fn token(&self, request: tokens::Request) -> Result<tokens::Token, TokenError> {
        match self {
            Some(tokens) => tokens.token(&request).await,
            None => Err(TokenError { problem: STANDALONE.to_owned() }),
        }
    }

    fn forget(&self, pod: &PodUid) {
        if let Some(tokens) = self {
            tokens.forget(pod);
        }
    }
}

// The API server's claims, or nothing on a node without one.
impl ClaimSource for Option<claims::Handle> {
    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<PersistentVolumeClaim, ClaimError>> {
        match self {
            Some(claims) => Box::pin(claims.claim(namespace, name)),
            None => standalone(),
        }
    }

    fn volume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<PersistentVolume, ClaimError>> {
        match self {
            Some(claims) => Box::pin(claims.volume(name)),
            None => standalone(),
        }
    }

    fn node(&self) -> BoxFuture<'_, Result<Node, ClaimError>> {
        match self {
            Some(claims) => Box::pin(claims.node()),
            None => standalone(),
        }
    }
}

// The API server's objects, or nothing on a node without one.
impl DriverSource for Option<csi_objects::Handle> {
    fn driver<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, ClaimError>> {
        match self {
            Some(objects) => Box::pin(objects.driver(name)),
            None => standalone(),
        }
    }

    fn attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<VolumeAttachment, ClaimError>> {
        match self {
            Some(objects) => Box::pin(objects.attachment(name)),
            None => standalone(),
        }
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Secret, ClaimError>> {
        match self {
            Some(objects) => Box::pin(objects.secret(namespace, name)),
            None => standalone(),
        }
    }

    fn node(&self) -> Option<watch::Receiver<NodeView>> {
        self.as_ref().map(csi_objects::Handle::node)
    }
}

fn standalone<T: Send + 'static>() -> BoxFuture<'static, Result<T, ClaimError>> {
    Box::pin(std::future::ready(Err(ClaimError(STANDALONE.to_owned()))))
}

#[cfg(test)]
pub(crate) mod fake {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret};
    use parking_lot::Mutex;
    use tokio::sync::watch;

    use super::{ClaimSource, ObjectSource, Subscription, TokenSource};
    use crate::apiserver::claims::{ClaimError, Node};
    use crate::apiserver::objects::ObjectError;
    use crate::apiserver::tokens::{Request, Token, TokenError};
    use crate::model::PodUid;

    type State<T> = Option<Result<Arc<T>, ObjectError>>;

    /// ConfigMaps and Secrets that a test sets.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct FakeObjects {
        config_maps: Arc<Mutex<BTreeMap<String, watch::Sender<State<ConfigMap>>>>>,
        secrets: Arc<Mutex<BTreeMap<String, watch::Sender<State<Secret>>>>>,
    }

    impl FakeObjects {
        /// Sets a ConfigMap's data at a version.
        pub(crate) fn set_config_map(&self, name: &str, version: u32, data: &[(&str, &str)]) {
            let mut object = ConfigMap::default();
            object.metadata.resource_version = Some(version.to_string());
            object.data = Some(
                data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            );
            entry(&self.config_maps, name).send_replace(Some(Ok(Arc::new(object))));
        }

        /// Makes a ConfigMap fail with this error.
        pub(crate) fn fail_config_map(&self, name: &str, error: ObjectError) {
            entry(&self.config_maps, name).send_replace(Some(Err(error)));
        }

        /// Counts the subscriptions to a ConfigMap.
        pub(crate) fn subscribers(&self, name: &str) -> usize {
            entry(&self.config_maps, name).receiver_count()
        }
    }

    fn entry<T>(
        map: &Mutex<BTreeMap<String, watch::Sender<State<T>>>>,
        name: &str,
    ) -> watch::Sender<State<T>> {
        map.lock().entry(name.to_owned()).or_insert_with(|| watch::Sender::new(None)).clone()
    }

    /// A subscription to a fake object.
    #[derive(Debug)]
    pub(crate) struct FakeSubscription<T>(watch::Receiver<State<T>>);

    impl<T> Clone for FakeSubscription<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T: Send + Sync + 'static> Subscription<T> for FakeSubscription<T> {
        fn latest(&self) -> State<T> {
            self.0.borrow().clone()
        }

        async fn changed(&mut self) {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    impl ObjectSource for FakeObjects {
        type ConfigMaps = FakeSubscription<ConfigMap>;
        type Secrets = FakeSubscription<Secret>;

        fn config_map(&self, _namespace: &str, name: &str) -> Self::ConfigMaps {
            FakeSubscription(entry(&self.config_maps, name).subscribe())
        }

        fn secret(&self, _namespace: &str, name: &str) -> Self::Secrets {
            FakeSubscription(entry(&self.secrets, name).subscribe())
        }
    }

    /// Tokens that a test scripts; the last answer stays.
    #[derive(Clone, Debug)]
    pub(crate) struct FakeTokens {
        pub(crate) answer: Arc<Mutex<Result<Token, TokenError>>>,
        pub(crate) asked: Arc<Mutex<Vec<Request>>>,
        pub(crate) forgotten: Arc<Mutex<Vec<PodUid>>>,
    }

    impl Default for FakeTokens {
        fn default() -> Self {
            let error = TokenError { problem: "no token is scripted".to_owned() };
            Self {
                answer: Arc::new(Mutex::new(Err(error))),
                asked: Arc::default(),
                forgotten: Arc::default(),
            }
        }
    }

    impl TokenSource for FakeTokens {
        async fn token(&self, request: Request) -> Result<Token, TokenError> {
            self.asked.lock().push(request);
            self.answer.lock().clone()
        }

        fn forget(&self, pod: &PodUid) {
            self.forgotten.lock().push(pod.clone());
        }
    }

    /// Claims and volumes that a test sets, by name.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct FakeClaims {
        pub(crate) claims: Arc<Mutex<BTreeMap<String, PersistentVolumeClaim>>>,
        pub(crate) volumes: Arc<Mutex<BTreeMap<String, PersistentVolume>>>,
    }

    impl FakeClaims {
        /// Binds a claim to a volume that is the directory `path`.
        pub(crate) fn bind(&self, claim: &str, volume: &str, path: &str) {
            let meta = serde_json::json!({"name": claim, "namespace": "ns", "uid": format!("uid-{claim}")});
            let object = serde_json::json!({"metadata": meta, "spec": {"volumeName": volume}, "status": {"phase": "Bound"}});
            self.claims
                .lock()
                .insert(claim.to_owned(), serde_json::from_value(object).expect("a claim"));
            let spec = serde_json::json!({"claimRef": {"uid": format!("uid-{claim}")}, "local": {"path": path}});
            let object = serde_json::json!({"metadata": {"name": volume}, "spec": spec});
            self.volumes
                .lock()
                .insert(volume.to_owned(), serde_json::from_value(object).expect("a volume"));
        }
    }

    impl ClaimSource for FakeClaims {
        fn claim<'a>(
            &'a self,
            _namespace: &'a str,
            name: &'a str,
        ) -> BoxFuture<'a, Result<PersistentVolumeClaim, ClaimError>> {
            let found = self.claims.lock().get(name).cloned();
            let missing = || ClaimError(format!("persistentvolumeclaims {name:?} not found"));
            Box::pin(std::future::ready(found.ok_or_else(missing)))
        }

        fn volume<'a>(
            &'a self,
            name: &'a str,
        ) -> BoxFuture<'a, Result<PersistentVolume, ClaimError>> {
            let found = self.volumes.lock().get(name).cloned();
            let missing = || ClaimError(format!("persistentvolumes {name:?} not found"));
            Box::pin(std::future::ready(found.ok_or_else(missing)))
        }

        fn node(&self) -> BoxFuture<'_, Result<Node, ClaimError>> {
            Box::pin(std::future::ready(Ok(Node::default())))
        }
    }
}
