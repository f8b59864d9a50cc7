//! CSI drivers: the registration of plugins, and what volumes and the Node need of drivers.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ApiParts, RuntimeParts};
use crate::daemon::Kubelet;
use crate::daemon::tasks::Tasks;
use crate::node::csi_node;
use crate::volumes::mounter::Mounter;
use crate::{csi, plugins, volumes};

/// The node's CSI drivers.
pub(in crate::daemon) struct CsiParts {
    /// The way of volumes to drivers.
    pub(in crate::daemon) csi: volumes::Csi,
    /// The problem of storage that keeps the node from being ready.
    pub(in crate::daemon) storage: watch::Receiver<Option<String>>,
}

impl<M: Mounter> Kubelet<M> {
    /// Starts the registration of plugins: CSI drivers and device plugins.
    pub(in crate::daemon) fn start_csi(
        &self,
        tasks: &mut Tasks,
        runtime: &RuntimeParts,
        api: &ApiParts,
    ) -> CsiParts {
        let drivers =
            csi::Drivers::new(self.core.clock, csi::metrics::observer(&self.core.metrics));
        let objects = Arc::new(api.csi_objects.clone());
        let csi = volumes::Csi::new(drivers.clone(), objects, &self.core.identity.name);
        if !self.core.describes_node {
            return CsiParts { csi, storage: watch::channel(None).1 };
        }

        let (registrar, storage, task) =
            csi_node::new(self.core.clients.as_ref(), api.node.clone(), drivers);
        tasks.run("csi node", task);
        let devices = runtime.manager.plugin_handler();
        let handlers: plugins::Handlers = [
            (plugins::CSI_PLUGIN, Arc::new(registrar) as Arc<dyn plugins::Handler>),
            (plugins::DEVICE_PLUGIN, Arc::new(devices)),
        ]
        .into();
        let folder = volumes::Paths::from(&self.core.loaded).plugins_registry();
        tasks.run("plugins", plugins::new(folder, handlers, self.core.clock));
        CsiParts { csi, storage }
    }
}
