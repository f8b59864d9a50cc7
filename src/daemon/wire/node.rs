//! Starts what describes the node: the Node object, and for pods its addresses and its network.

use std::net::IpAddr;

use tokio::sync::watch;

use super::{ApiParts, CsiParts, RuntimeParts};
use crate::cni::{self, NetworkProblem};
use crate::daemon::tasks::Tasks;
use crate::daemon::{Core, Kubelet};
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
}

impl Core {
    /// Starts what describes the node. `sources` makes the receivers of its status, where a Node
    /// object is kept.
    pub(in crate::daemon) async fn describe_node(
        &self,
        tasks: &mut Tasks,
        api: &ApiParts,
        config: node::NodeConfig,
        sources: impl FnOnce(&mut Tasks) -> node::Sources,
    ) -> NodeParts {
        if !self.describes_node {
            return NodeParts { node: None, host_ips: self.host_ips.clone() };
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
            return NodeParts { node: None, host_ips };
        };

        let deps = node::Deps {
            clients: clients.clone(),
            view: api.node.clone(),
            sources: sources(tasks),
            recorder: self.recorder.clone(),
            startup: node::Startup::register(&self.metrics, self.clock),
            clock: self.clock,
        };
        let (node, task) = node::new(config, deps);
        tasks.run("node", task);
        NodeParts { host_ips: node.host_ips(), node: Some(node) }
    }
}

impl<M: Mounter> Kubelet<M> {
    /// Starts what describes the node, and what says why no sandbox can be made, if none can.
    pub(in crate::daemon) async fn start_node(
        &self,
        tasks: &mut Tasks,
        runtime: &RuntimeParts,
        api: &ApiParts,
        (csi, changing): (
            &CsiParts,
            (watch::Receiver<Pressure>, watch::Receiver<Option<node::Shutdown>>),
        ),
    ) -> (NodeParts, watch::Receiver<Option<NetworkProblem>>) {
        let condition = runtime.condition.clone();
        let (network_not_ready, task) = cni::problem(condition, cni::Places::default());
        tasks.run("network", task);

        let mut config = self.core.identity.node_config(&self.core.loaded);
        config.resets_extended_resources = !runtime.manager.found_record();
        let sources = |tasks: &mut Tasks| self.node_sources(tasks, runtime, csi, changing);
        let node = self.core.describe_node(tasks, api, config, sources).await;
        (node, network_not_ready)
    }

    /// Gathers the receivers that the Node's status is made from.
    fn node_sources(
        &self,
        tasks: &mut Tasks,
        runtime: &RuntimeParts,
        csi: &CsiParts,
        (pressure, shutdown): (watch::Receiver<Pressure>, watch::Receiver<Option<node::Shutdown>>),
    ) -> node::Sources {
        let limit = self.core.loaded.config.node_status_max_images;
        let (images, task) = images::listing(runtime.images.clone(), limit);
        tasks.run("image list", task);

        node::Sources {
            runtime: runtime.condition.clone(),
            pleg: Some(runtime.pleg.clone()),
            images,
            devices: runtime.manager.figures(),
            pressure,
            storage: csi.storage.clone(),
            shutdown,
            volumes_in_use: csi.csi.in_use(),
        }
    }
}
