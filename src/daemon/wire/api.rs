//! Starts what talks to the API server: watches, tokens, the writer of statuses.

use anyhow::bail;
use tokio::sync::watch;

use crate::apiserver::nodes::{self, NodeView};
use crate::apiserver::objects::ChangeDetection;
use crate::apiserver::{Clients, csi_objects, objects, runtime_classes, services, tokens};
use crate::certs;
use crate::clock::Clock;
use crate::config::Loaded;
use crate::daemon::Core;
use crate::daemon::identity::Identity;
use crate::daemon::tasks::Tasks;
use crate::status;
use crate::telemetry::metrics::Registry;

/// Makes the clients of the API server; `None` without `--kubeconfig`. Starts the rotation of the
/// client certificate. Without rotation the first certificate is waited for, an hour at most.
pub(in crate::daemon) async fn clients(
    loaded: &Loaded,
    identity: &Identity,
    clock: Clock,
    metrics: &Registry,
    tasks: &mut Tasks,
) -> anyhow::Result<Option<Clients>> {
    let Some(settings) = certs::Settings::from_loaded(loaded, &identity.name) else {
        if !loaded.flags.bootstrap_kubeconfig.is_empty() {
            bail!("--bootstrap-kubeconfig needs --kubeconfig: the file that is to be written");
        }
        return Ok(None);
    };
    if settings.is_rotated {
        let (clients, task) = certs::client(settings, clock, metrics)?;
        tasks.run("client certificate", task);
        clients.measure(metrics, clock);
        return Ok(Some(clients));
    }

    Box::pin(certs::load_client_cert(&settings, clock)).await?;
    let clients = Clients::new(&settings.client, clock)?;
    clients.measure(metrics, clock);
    Ok(Some(clients))
}

/// The handles of the subsystems that talk to the API server.
pub(in crate::daemon) struct ApiParts {
    pub(in crate::daemon) objects: Option<objects::Handle>,
    pub(in crate::daemon) services: services::Handle,
    pub(in crate::daemon) runtime_classes: runtime_classes::Handle,
    pub(in crate::daemon) tokens: Option<tokens::Handle>,
    pub(in crate::daemon) csi_objects: Option<csi_objects::Handle>,
    pub(in crate::daemon) node: watch::Receiver<NodeView>,
}

impl Core {
    /// Starts what reads the API server. Without a kubeconfig every part stands alone.
    pub(in crate::daemon) fn start_api(&self, tasks: &mut Tasks) -> ApiParts {
        let Some(clients) = &self.clients else {
            return ApiParts {
                objects: None,
                services: services::Handle::standalone(),
                runtime_classes: runtime_classes::Handle::standalone(),
                tokens: None,
                csi_objects: None,
                node: watch::channel(NodeView::default()).1,
            };
        };

        let (node, task) = nodes::new(clients);
        tasks.run("own node", task);
        let (services, task) = services::new(clients);
        tasks.run("services", task);
        let (runtime_classes, task) = runtime_classes::new(clients);
        tasks.run("runtime classes", task);

        let (csi_objects, task) = csi_objects::new(clients, node.clone());
        tasks.run("csi drivers", task);

        let detection = ChangeDetection::from_loaded(&self.loaded, node.clone());
        let (objects, task) = objects::new(clients, detection);
        tasks.run("objects", task);
        let tokens = tokens::new(clients, self.clock);
        ApiParts {
            objects: Some(objects),
            services,
            runtime_classes,
            tokens: Some(tokens),
            csi_objects: Some(csi_objects),
            node,
        }
    }

    /// Starts the writer of statuses.
    pub(in crate::daemon) fn start_status(&self, tasks: &mut Tasks) -> status::Handle {
        let Some(clients) = &self.clients else {
            // Nothing is sent: no pod has an object in the API.
            return status::Handle::standalone();
        };
        let api = status::KubeStatusApi::new(clients.writes.clone());
        let backlog = self.backlog.clone();
        let (handle, writer) = status::Writer::new(api, self.clock, backlog, &clients.reach);
        // It finishes the writes in flight.
        tasks.run_to_end("statuses", writer.run(self.shutdown.clone()));
        handle
    }
}
