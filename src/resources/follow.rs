//! What follows from the pods of the node as a whole: the shares of the burstable tier, and cgroups
//! of pods that are not known any more.
//!
//! Fed by what dispatch publishes; it never decides which pods are known.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::warn;

use super::PodCgroups;
use crate::model::{Pod, PodUid};

/// Keeps the CPU shares of the burstable tier at what the pods that count ask for together. Ends
/// with the sender.
pub async fn keep_tiers(cgroups: PodCgroups, mut active: watch::Receiver<Vec<Arc<Pod>>>) {
    while active.changed().await.is_ok() {
        let pods = active.borrow_and_update().clone();
        if let Err(error) = cgroups.update_tiers(pods.iter().map(AsRef::as_ref)).await {
            warn!(%error, "the CPU shares of the burstable tier could not be brought up to date");
        }
    }
}

/// Removes the cgroups of pods that are not known. `is_known` is asked after the cgroups have been
/// listed, so that a pod that comes meanwhile keeps its own.
pub async fn sweep(cgroups: &PodCgroups, is_known: impl Fn(&PodUid) -> bool) {
    let found = match cgroups.list().await {
        Ok(found) => found,
        Err(error) => {
            warn!(%error, "listing the cgroups of pods failed");
            return;
        }
    };
    for uid in found.into_iter().filter(|uid| !is_known(uid)) {
        if let Err(error) = cgroups.remove(&uid).await {
            warn!(%uid, %error, "removing the cgroup of a pod that is not known failed");
        }
    }
}
