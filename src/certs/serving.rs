//! The serving certificate that is requested from the API server (`serverTLSBootstrap`).
//!
//! Fed by the Node as this kubelet describes it: the certificate names the node's addresses, and is
//! requested again when they change. Until it is approved there is none, and handshakes fail.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tracing::error;

use super::config::ServingSettings;
use super::manager::{Deps, Manager, publish, start};
use super::metrics::Metrics;
use super::pair::Pair;
use super::request::{Purpose, Request};
use super::signer::{self, Sign, SignError};
use super::store::Store;
use super::template::Template;
use crate::apiserver::Clients;
use crate::apiserver::identity::Rotated;
use crate::clock::Clock;
use crate::model::Wall;
use crate::telemetry::metrics::Registry;
use crate::watch::set_if_changed;

/// How long one request may wait for its certificate; upstream's time.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What the serving certificate is made with.
#[derive(Debug)]
pub struct ServingDeps<'a> {
    /// The clients of the API server.
    pub clients: &'a Clients,
    /// The Node as this kubelet describes it.
    pub node: watch::Receiver<Option<Arc<Node>>>,
    /// The time.
    pub clock: Clock,
    /// The registry of `/metrics`.
    pub registry: &'a Registry,
}

/// Prepares the serving certificate. Returns the certificate in use, and the manager's task. Blocks
/// on files.
pub fn serving(
    settings: ServingSettings,
    deps: ServingDeps<'_>,
) -> anyhow::Result<(Rotated, impl Future<Output = ()> + Send + use<>)> {
    let ServingDeps { clients, node, clock, registry } = deps;
    let store = Store::open("kubelet-server", &settings.directory, settings.configured.clone())
        .context("failed to initialize server certificate store")?;
    let found = store.current().unwrap_or_else(|error| {
        let error: &dyn std::error::Error = &error;
        error!(error, "the stored serving certificate cannot be used; another one is requested");
        None
    });

    let start = start(found, clock.now().wall);
    let (publisher, rotated) = publish(&start);
    let (sender, template) = watch::channel(None);
    let metrics = Metrics::new(registry, Purpose::Serving, clock);
    let signer = ServingSigner { clients: clients.clone(), clock };
    let deps = Deps { signer, store, template, metrics, clock };
    let manager = Manager::new(Purpose::Serving, start, deps, publisher);
    let task = async move {
        tokio::join!(manager.run(), follow(settings, node, sender));
    };
    Ok((rotated, task))
}

/// Keeps the template up to date.
async fn follow(
    settings: ServingSettings,
    mut node: watch::Receiver<Option<Arc<Node>>>,
    template: watch::Sender<Option<Template>>,
) {
    loop {
        let wanted = {
            let node = node.borrow_and_update();
            let status = node.as_ref().and_then(|node| node.status.as_ref());
            let addresses = status.and_then(|status| status.addresses.as_deref());
            let addresses = addresses.unwrap_or_default();
            Template::serving(&settings.node_name, addresses, settings.dns_only)
        };
        set_if_changed(&template, wanted);
        if node.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Requests serving certificates as the node.
struct ServingSigner {
    clients: Clients,
    clock: Clock,
}

impl Sign for ServingSigner {
    async fn sign(&mut self, request: &Request, _: Option<&Pair>) -> Result<Vec<u8>, SignError> {
        let now = self.clock.now().wall;
        Box::pin(signer::sign(&self.clients, request, now, PATIENCE)).await
    }

    fn found(&mut self, _: Wall) -> Option<Pair> {
        None
    }

    async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }
}
