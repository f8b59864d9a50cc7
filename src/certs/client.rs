//! The client certificate: how it is found at the start, and with which credentials the next one is
//! requested.
//!
//! Fed by the kubeconfig, the bootstrap kubeconfig and the store. The clients of the API server are
//! made here, so that they show what the manager publishes.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tracing::{error, warn};

use super::bootstrap::{self, Origin};
use super::config::Settings;
use super::manager::{Deps, Manager, Start, publish, start};
use super::metrics::Metrics;
use super::pair::Pair;
use super::request::{Purpose, Request};
use super::signer::{self, Sign, SignError};
use super::store::{self, Store};
use super::template::Template;
use crate::apiserver::kubeconfig::{self, Identity};
use crate::apiserver::{ClientConfig, Clients};
use crate::clock::Clock;
use crate::linux::stamp::Stamp;
use crate::model::Wall;
use crate::telemetry::metrics::Registry;

/// How long one request may wait for its certificate; upstream's time.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often the files of credentials are looked at while a request has failed.
const LOOK: Duration = Duration::from_secs(2);

/// Prepares the client certificate that is rotated. Returns the clients of the API server and the
/// manager's task. Blocks on files; asks nobody.
pub fn client(
    settings: Settings,
    clock: Clock,
    registry: &Registry,
) -> anyhow::Result<(Clients, impl Future<Output = ()> + Send + use<>)> {
    let now = clock.now().wall;
    let Origin { mut cluster, identity } = bootstrap::prepare(&settings, now)?;
    let configured = identity.as_ref().and_then(|identity| identity.files.clone());
    let store = Store::open(bootstrap::PREFIX, &settings.directory, configured)
        .context("failed to initialize client certificate store")?;

    let start = first(&store, identity, now);
    let (publisher, rotated) = publish(&start);
    cluster.rotated = Some(rotated);
    let clients = Clients::with_access(&settings.client, cluster, clock)?;

    let template = Template::client(&settings.client.node_name);
    // Its sender goes: the names of the node do not change.
    let (_, template) = watch::channel(Some(template));
    let metrics = Metrics::new(registry, Purpose::Client, clock);
    let signer = ClientSigner::new(clients.clone(), settings, store.clone(), clock);
    let deps = Deps { signer, store, template, metrics, clock };
    let manager = Manager::new(Purpose::Client, start, deps, publisher);
    Ok((clients, manager.run()))
}

/// Chooses the first pair: a valid one of the store, else that of the kubeconfig itself, which is
/// replaced at once, else one that has expired.
fn first(store: &Store, identity: Option<Identity>, now: Wall) -> Start {
    let found = store.current().unwrap_or_else(|error| {
        let error: &dyn std::error::Error = &error;
        // Upstream's process ends here, at each start.
        error!(error, "the stored client certificate cannot be used; another one is requested");
        None
    });
    if found.as_ref().is_some_and(|pair| pair.is_valid(now)) {
        return start(found, now);
    }

    let inline = identity.filter(|identity| identity.files.is_none());
    let inline = inline.and_then(|identity| Pair::new(identity).ok());
    let Some(pair) = inline.filter(|pair| pair.is_valid(now)) else { return start(found, now) };
    let (certificate, key) = pair.to_pem();
    if let Err(error) = store.update(certificate.as_bytes(), &key, now) {
        let error: &dyn std::error::Error = &error;
        error!(error, "unable to set the cert/key pair to the bootstrap certificate");
    }
    Start { pair: Some(pair), is_forced: true }
}

/// Requests client certificates: with the present one while it is valid, else with the bootstrap
/// kubeconfig, else with what the kubeconfig has.
struct ClientSigner {
    own: Clients,
    settings: Settings,
    store: Store,
    clock: Clock,
    seen: [Stamp; 3],
}

impl ClientSigner {
    fn new(own: Clients, settings: Settings, store: Store, clock: Clock) -> Self {
        let mut signer = Self { own, settings, store, clock, seen: [Stamp::of(Path::new("")); 3] };
        signer.seen = signer.stamps();
        signer
    }

    /// The files that credentials may come from.
    fn stamps(&self) -> [Stamp; 3] {
        let bootstrap = self.settings.bootstrap.as_deref().unwrap_or(Path::new(""));
        let stored = self.store.current_path();
        [bootstrap, self.settings.client.kubeconfig.as_path(), stored.as_path()].map(Stamp::of)
    }

    /// Clients with other credentials than the certificate.
    fn others(&self) -> Result<Clients, SignError> {
        if let Some(path) = &self.settings.bootstrap {
            let config = ClientConfig { kubeconfig: path.clone(), ..self.settings.client.clone() };
            match Clients::new(&config, self.clock) {
                Ok(clients) => return Ok(clients),
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(error, "the bootstrap kubeconfig cannot be used");
                }
            }
        }
        Ok(Clients::new(&self.settings.client, self.clock)?)
    }
}

impl Sign for ClientSigner {
    async fn sign(
        &mut self,
        request: &Request,
        current: Option<&Pair>,
    ) -> Result<Vec<u8>, SignError> {
        self.seen = self.stamps();
        let now = self.clock.now().wall;
        if current.is_some_and(|pair| pair.is_valid(now)) {
            return Box::pin(signer::sign(&self.own, request, now, PATIENCE)).await;
        }

        let others = self.others()?;
        Box::pin(signer::sign(&others, request, now, PATIENCE)).await
    }

    fn found(&mut self, now: Wall) -> Option<Pair> {
        let kubeconfig = kubeconfig::load(&self.settings.client.kubeconfig).ok();
        let identity = kubeconfig.and_then(|access| access.identity);
        let stored = self.store.current().ok().flatten();
        let configured = identity.as_ref().and_then(|identity| identity.files.as_ref());
        let configured = configured.and_then(|files| store::read(files).ok());
        let inline = identity.and_then(|identity| Pair::new(identity).ok());
        [stored, configured, inline].into_iter().flatten().find(|pair| pair.is_valid(now))
    }

    async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let stamps = self.stamps();
            if stamps != self.seen {
                self.seen = stamps;
                return;
            }
        }
    }
}
