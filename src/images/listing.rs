//! Lists the node's images for its status, after each pull and every minute, since others remove
//! images too.
//!
//! Fed by [`Handle::list`]. A read that fails keeps the last list. It never decides which images
//! stay.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::debug;

use super::{Handle, NodeImage};

/// The longest time between two reads.
const PERIOD: Duration = Duration::from_secs(60);

/// Returns the list, and the task that keeps it. `limit` is `nodeStatusMaxImages`, negative for
/// all.
pub fn listing(
    images: Handle,
    limit: i32,
) -> (watch::Receiver<Arc<Vec<NodeImage>>>, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(Arc::default());
    let task = async move {
        let mut pulls = images.pulled();
        loop {
            match images.list(limit).await {
                Ok(found) => {
                    sender.send_replace(Arc::new(found));
                }
                Err(error) => {
                    debug!(%error, "images could not be listed; the node's status keeps the last list");
                }
            }

            // Cancel-safe: a timeout loses no change.
            if let Ok(Err(_)) = tokio::time::timeout(PERIOD, pulls.changed()).await {
                return;
            }
        }
    };
    (receiver, task)
}
