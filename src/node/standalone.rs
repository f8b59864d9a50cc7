//! The addresses of a node without an API server: no Node object has them, yet pods on the host's
//! network need them.
//!
//! The rule is the Node's own ([`addresses::choose`]). Read once before the first pod is started,
//! then again and again, for an address may come late or change (DHCP).

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::NodeConfig;
use super::addresses::{self, Wanted};
use crate::watch::set_if_changed;

/// The pause between two reads once there is an address, and while there is none.
const PERIOD: Duration = Duration::from_secs(60);
const PERIOD_WITHOUT: Duration = Duration::from_secs(10);

/// Reads the addresses, and makes the task that keeps them up to date.
pub async fn host_ips(
    config: NodeConfig,
) -> (watch::Receiver<Vec<IpAddr>>, impl Future<Output = ()> + Send + 'static) {
    let first = find(&config).await;
    if let Err(problem) = &first {
        warn!(error = problem, "no address of this node was found; give --node-ip");
    }
    let first = first.unwrap_or_else(|_| specified(&config.node_ips));
    let (sender, receiver) = watch::channel(first);

    let task = async move {
        loop {
            let is_missing = sender.borrow().is_empty();
            tokio::time::sleep(if is_missing { PERIOD_WITHOUT } else { PERIOD }).await;
            // Without an answer the last addresses stay.
            let Ok(found) = find(&config).await else { continue };

            if set_if_changed(&sender, found) {
                info!(addresses = ?*sender.borrow(), "the node's addresses have changed");
            }
        }
    };
    (receiver, task)
}

/// Returns those of `--node-ip` that name an address and not only a family.
pub fn specified(node_ips: &[IpAddr]) -> Vec<IpAddr> {
    node_ips.iter().copied().filter(|address| !address.is_unspecified()).collect()
}

/// Finds the addresses as the Node's status has them.
async fn find(config: &NodeConfig) -> Result<Vec<IpAddr>, String> {
    let network = addresses::read().await?;
    // No cloud provider can say anything without an API server.
    let wanted = Wanted { external_cloud_provider: false, ..config.wanted() };
    let looked_up = if wanted.needs_look_up() {
        addresses::look_up(&config.hostname).await
    } else {
        Vec::new()
    };
    let chosen = addresses::choose(wanted, &network, &looked_up, &[]);
    chosen.map(|found| addresses::host_ips(&found)).map_err(|error| error.to_string())
}
