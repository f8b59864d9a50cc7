//! Starts what describes the node: the Node object, and for pods its addresses and its network.

use std::net::IpAddr;

use tokio::sync::watch;

use super::{ApiParts, CsiParts, RuntimeParts};
use crate::cni::{self, NetworkProblem};
use crate::daemon::Core;
use crate::daemon::tasks::Tasks;
use crate::linux::iptables;
use crate::model::Pressure;
use crate::volumes::mounter::Mounter;
use crate::{images, node};

/// The node as pods need it.
pub(in crate::daemon) struct NodeParts {
    /// The Node object; `None` where none is kept.
    pub(in crate::daemon) node: Option<node::Handle>,
    /// The node's own addresses, preferred first.
    pub(in crate::daemon) host_ips: watch::Receiver<Vec<IpAddr>>,
    /// The reason why no sandbox can be made, if there is one.
    pub(in crate::daemon) network_not_ready: watch::Receiver<Option<NetworkProblem>>,
}

impl<M: Mounter> Core<M> {
    /// Starts what describes the node.
    pub(in crate::daemon) async fn start_node(
        &self,
        tasks: &mut Tasks,
        runtime: &RuntimeParts,
        api: &ApiParts,
        (csi, pressure, shutdown): (
            &CsiParts,
            watch::Receiver<Pressure>,
            watch::Receiver<Option<node::Shutdown>>,
        ),
    ) -> NodeParts {
        let condition = runtime.condition.clone();
        let (network_not_ready, task) = cni::problem(condition, cni::Places::default());
        tasks.run("network", task);

        let mut config = self.identity.node_config(&self.loaded);
        config.resets_extended_resources = !runtime.manager.found_record();
        if !self.machine.describes_node {
            let host_ips = self.machine.host_ips.clone();
            return NodeParts { node: None, host_ips, network_not_ready };
        }
        if self.loaded.config.make_iptables_util_chains {
            let stop = self.shutdown.clone();
            tasks.run("packet filter", async move {
                node::packet_filter::keep(iptables::System).await;
                // Without iptables, or after a failure, there is nothing to keep.
                stop.cancelled().await;
            });
        }
        let Some(clients) = &self.clients else {
            let (host_ips, task) = node::standalone::host_ips(config).await;
            tasks.run("host addresses", task);
            return NodeParts { node: None, host_ips, network_not_ready };
        };

        let deps = node::Deps {
            clients: clients.clone(),
            view: api.node.clone(),
            sources: self.node_sources(tasks, runtime, csi, (pressure, shutdown)),
            recorder: self.recorder.clone(),
            startup: node::Startup::register(&self.metrics, self.clock),
            clock: self.clock,
        };
        let (node, task) = node::new(config, deps);
        tasks.run("node", task);
        NodeParts { host_ips: node.host_ips(), node: Some(node), network_not_ready }
    }

    /// Gathers the receivers that the Node's status is made from.
    fn node_sources(
        &self,
        tasks: &mut Tasks,
        runtime: &RuntimeParts,
        csi: &CsiParts,
        (pressure, shutdown): (watch::Receiver<Pressure>, watch::Receiver<Option<node::Shutdown>>),
    ) -> node::Sources {
        let limit = self.loaded.config.node_status_max_images;
        let (images, task) = images::listing(runtime.images.clone(), limit);
        tasks.run("image list", task);

        node::Sources {
            runtime: runtime.condition.clone(),
            pleg: runtime.pleg.clone(),
            images,
            devices: runtime.manager.figures(),
            pressure,
            storage: csi.storage.clone(),
            shutdown,
            volumes_in_use: csi.csi.in_use(),
        }
    }
}
