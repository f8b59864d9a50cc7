//! The Services of the cluster, for the environment variables of containers: one watch, only the
//! fields that are needed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use kube::Api;
use tokio::sync::watch;

use super::client::Clients;
use super::list_watch::{self, Change};
use super::watched::Watched;

/// What is kept of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its address; empty or `None` for a headless one, which gets no variables.
    pub cluster_ip: String,
    /// `ClusterIP`, `NodePort`, …
    pub service_type: String,
    /// Its ports in order.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Whether it has an address of its own: only such services get environment variables.
    pub fn has_address(&self) -> bool {
        !self.cluster_ip.is_empty() && self.cluster_ip != "None"
    }
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; may be empty.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

type Key = (Arc<str>, Arc<str>);

/// All services by namespace and name.
#[derive(Debug, Default)]
struct State {
    synced: bool,
    services: BTreeMap<Key, Arc<Service>>,
}

/// Reads the services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    state: watch::Receiver<State>,
}

/// Makes the handle and the task that watches the services.
pub fn new(clients: &Clients) -> (Handle, impl Future<Output = ()> + Send + use<>) {
    let (sender, state) = watch::channel(State::default());
    let api: Api<Watched<api::Service>> = Api::all(clients.watches.clone());
    let reach = clients.reach.clone();
    let task = async move {
        let mut problem = String::new();
        list_watch::follow((api, &reach), None, reduce, |change| {
            if let Change::Failed(text) = &change
                && *text != problem
            {
                tracing::warn!(
                    error = text,
                    "cannot watch services; environment variables of services may be missing"
                );
                problem.clone_from(text);
            }
            sender.send_if_modified(|state| apply(state, change));
            ControlFlow::Continue(())
        })
        .await;
    };
    (Handle { state }, task)
}

impl Handle {
    /// Services without a watch, as a kubelet without an API server has: synced and empty.
    pub fn standalone() -> Self {
        Self::fixed([])
    }

    /// Services that never change, for tests and standalone nodes.
    pub fn fixed(services: impl IntoIterator<Item = Service>) -> Self {
        let services = services
            .into_iter()
            .map(|service| {
                ((Arc::clone(&service.namespace), Arc::clone(&service.name)), Arc::new(service))
            })
            .collect();
        Self { state: watch::channel(State { synced: true, services }).1 }
    }

    /// Whether the services have been listed once.
    pub fn synced(&self) -> bool {
        self.state.borrow().synced
    }

    /// Waits until the services have been listed once. Cancel-safe; never returns after a shutdown.
    pub async fn wait_synced(&self) {
        if self.state.clone().wait_for(|state| state.synced).await.is_err() && !self.synced() {
            std::future::pending::<()>().await;
        }
    }

    /// The services that have an address in one of the namespaces, ordered by namespace and name.
    pub fn in_namespaces(&self, namespaces: &[&str]) -> Vec<Arc<Service>> {
        let state = self.state.borrow();
        state
            .services
            .values()
            .filter(|service| service.has_address() && namespaces.contains(&&*service.namespace))
            .cloned()
            .collect()
    }
}

fn apply(state: &mut State, change: Change<Service>) -> bool {
    let keyed = |service: Service| {
        ((Arc::clone(&service.namespace), Arc::clone(&service.name)), Arc::new(service))
    };
    match change {
        Change::Reset(services) => {
            state.services = services.into_iter().map(keyed).collect();
            state.synced = true;
        }
        Change::Applied(service) => {
            let (key, service) = keyed(service);
            state.services.insert(key, service);
        }
        Change::Deleted(service) => {
            state.services.remove(&keyed(service).0);
        }
        Change::Failed(_) => return false,
    }
    true
}

fn reduce(service: api::Service) -> Service {
    let spec = service.spec.unwrap_or_default();
    Service {
        namespace: service.metadata.namespace.unwrap_or_default().into(),
        name: service.metadata.name.unwrap_or_default().into(),
        cluster_ip: spec.cluster_ip.unwrap_or_default(),
        service_type: spec.type_.unwrap_or_else(|| "ClusterIP".to_owned()),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(|port| ServicePort {
                name: port.name.unwrap_or_default(),
                protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
                port: port.port,
            })
            .collect(),
    }
}
