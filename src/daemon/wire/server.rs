//! The kubelet's own servers: the HTTPS API, the read-only port, health.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::node::NodeParts;
use crate::apiserver::identity::Rotated;
use crate::config::KubeletConfiguration;
use crate::cri::condition::CgroupDriver;
use crate::daemon::Core;
use crate::daemon::tasks::Tasks;
use crate::dispatch::PodsHandle;
use crate::stats::StatsHandle;
use crate::{certs, desired, server};

/// What the serving certificate comes from.
pub(in crate::daemon) struct CertificateParts {
    /// The certificate that is requested from the API server, if it is.
    pub(in crate::daemon) requested: Option<Rotated>,
    /// The addresses that a self-signed certificate names.
    pub(in crate::daemon) host_ips: Vec<IpAddr>,
}

impl Core {
    /// Starts the requests for a serving certificate, if it is to be requested. Without a Node none
    /// is requested and none is served, as upstream.
    pub(in crate::daemon) fn start_serving_certificate(
        &self,
        tasks: &mut Tasks,
        node: &NodeParts,
    ) -> anyhow::Result<Option<Rotated>> {
        let name = &self.identity.name;
        let Some(settings) = certs::ServingSettings::from_loaded(&self.loaded, name) else {
            return Ok(None);
        };
        let Some((clients, node)) = self.clients.as_ref().zip(node.node.as_ref()) else {
            return Ok(Some(watch::channel(None).1));
        };

        let deps = certs::ServingDeps {
            clients,
            node: node.described(),
            clock: self.clock,
            registry: &self.metrics,
        };
        let (requested, task) = certs::serving(settings, deps)?;
        tasks.run("serving certificate", task);
        Ok(Some(requested))
    }

    /// Starts the socket of the tools. Without it the kubelet does all its work.
    async fn start_local_socket(&self, tasks: &mut Tasks, state: server::State) {
        let root_dir = PathBuf::from(&self.loaded.flags.root_dir);
        match server::bind_local(&root_dir).await {
            Ok(listener) => {
                let router = server::local_router(state);
                let stop = self.shutdown.clone();
                let served = server::serve_local(listener, root_dir, router, stop);
                tasks.run_to_end("local socket", served);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "`rkubelet pods` and `rkubelet timeline` will not work");
            }
        }
    }

    /// Starts the servers that are configured.
    pub(in crate::daemon) async fn start_server(
        &self,
        tasks: &mut Tasks,
        (pods, desired, usage): (PodsHandle, desired::Handle, StatsHandle),
        driver: Option<CgroupDriver>,
        certificate: CertificateParts,
    ) -> anyhow::Result<()> {
        let config = &self.loaded.config;
        let tls = config.enable_server.then(|| {
            let now = self.clock.now().wall;
            let CertificateParts { requested, host_ips } = certificate;
            let host = &self.identity.host;
            server::TlsSettings::from_loaded(&self.loaded, host, &host_ips, now, requested)
        });
        let tls = tls.transpose()?;
        let addresses = server::Addresses::from_loaded(&self.loaded)?;
        let shown = shown(config, tls.as_ref(), driver);
        let state = server::State {
            pods,
            desired,
            stats: usage,
            metrics: self.metrics.clone(),
            probe_metrics: self.probe_metrics.clone(),
            checks: server::Checks::new(),
            configz: shown.configz().to_string().into(),
            unhealthy: self.health.subscribe(),
            clock: self.clock,
            debugging_handlers: config.enable_debugging_handlers,
            diagnostics: Arc::new(server::Diagnostics::from_loaded(
                &self.loaded,
                self.clock.now().wall,
            )),
        };

        self.start_local_socket(tasks, state.clone()).await;
        if let Some(address) = addresses.health {
            let router = server::health_router(state.clone());
            let stop = self.shutdown.clone();
            let served = server::serve_when_free(address.clone(), router, stop);
            tasks.run_to_end("health server", served);
            info!(?address, "serving health");
        }
        let Some((tls, address)) = tls.zip(addresses.secure) else { return Ok(()) };

        if let Some(address) = addresses.read_only {
            let listener = server::bind(address).await?;
            let router = server::read_only_router(state.clone());
            let stop = self.shutdown.clone();
            tasks.run_to_end("read-only server", server::serve(listener, router, None, stop));
            info!(%address, "serving read-only");
        }

        let tls = server::TlsSource::load(tls)?;
        let listener = server::bind(address).await?;
        let client = self.clients.as_ref().map(|clients| clients.writes.clone());
        let authentication = server::AuthenticationConfig::from(&self.loaded);
        let client_ca = tls.client_ca();
        let authenticator =
            server::Authenticator::new(authentication, client_ca, client.clone(), self.clock);
        let mode = server::AuthorizationMode::from(&self.loaded);
        let name = &self.identity.name;
        let authorizer = server::Authorizer::new(mode, name, client, self.clock);

        let router = server::secure_router(state, authenticator, authorizer);
        let stop = self.shutdown.clone();
        let tls = Some(Arc::new(tls));
        tasks.run_to_end("server", server::serve(listener, router, tls, stop));
        info!(%address, "serving the kubelet's API");
        Ok(())
    }
}

/// The configuration that `/configz` shows: the certificate that is served and the cgroup driver
/// that the runtime has chosen, whatever the file says.
fn shown(
    config: &KubeletConfiguration,
    tls: Option<&server::TlsSettings>,
    driver: Option<CgroupDriver>,
) -> KubeletConfiguration {
    let mut shown = config.clone();
    if let Some(tls) = tls.filter(|tls| tls.requested.is_none()) {
        shown.tls_cert_file = tls.cert_file.path.display().to_string();
        shown.tls_private_key_file = tls.key_file.path.display().to_string();
    }
    if let Some(driver) = driver {
        let name = match driver {
            CgroupDriver::Systemd => "systemd",
            CgroupDriver::Cgroupfs => "cgroupfs",
        };
        name.clone_into(&mut shown.cgroup_driver);
    }
    shown
}
