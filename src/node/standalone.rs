//! Finds the addresses of a node without an API server: pods on the host's network need them, and
//! there is no Node object that has them.
//!
//! The rule is the Node's own ([`addresses::choose`]). The addresses are read once before the first
//! pod is started, and then regularly: an address may come late or change (DHCP).
//!
//! It never makes a Node object.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::NodeConfig;
use super::addresses::{self, AddressError, NetworkError, Wanted};
use crate::watch::set_if_changed;

/// The time between two reads once there is an address.
const PERIOD: Duration = Duration::from_secs(60);
/// The time between two reads while there is no address.
const PERIOD_WITHOUT: Duration = Duration::from_secs(10);

/// Reads the addresses, and returns the task that keeps them up to date.
pub async fn host_ips(
    config: NodeConfig,
) -> (watch::Receiver<Vec<IpAddr>>, impl Future<Output = ()> + Send + 'static) {
    let first = find(&config).await;
    if let Err(problem) = &first {
        warn!(error = %problem, "no address of this node was found; give --node-ip");
    }
    let first = first.unwrap_or_else(|_| specified(&config.node_ips));
    let (sender, receiver) = watch::channel(first);

    let task = async move {
        loop {
            let is_missing = sender.borrow().is_empty();
            tokio::time::sleep(if is_missing { PERIOD_WITHOUT } else { PERIOD }).await;
            // After a failure the last addresses stay.
            let Ok(found) = find(&config).await else { continue };

            if set_if_changed(&sender, found) {
                info!(addresses = ?*sender.borrow(), "the node's addresses have changed");
            }
        }
    };
    (receiver, task)
}

/// Returns the values of `--node-ip` that are an address, not only a family.
pub fn specified(node_ips: &[IpAddr]) -> Vec<IpAddr> {
    node_ips.iter().copied().filter(|address| !address.is_unspecified()).collect()
}

/// The reasons why the addresses are not found.
#[derive(Debug, thiserror::Error)]
enum FindError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Choice(#[from] AddressError),
}

/// Finds the addresses that the Node's status would have.
async fn find(config: &NodeConfig) -> Result<Vec<IpAddr>, FindError> {
    let network = addresses::read().await?;
    // Without an API server a cloud provider cannot set anything.
    let wanted = Wanted { external_cloud_provider: false, ..config.wanted() };
    let looked_up = if wanted.needs_look_up() {
        addresses::look_up(&config.hostname).await
    } else {
        Vec::new()
    };

    let chosen = addresses::choose(wanted, &network, &looked_up, &[])?;
    Ok(addresses::host_ips(&chosen))
}
