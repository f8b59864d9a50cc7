//! The sweep of cgroups of pods that are not known any more. It never decides which pods are known.

use tracing::warn;

use super::PodCgroups;
use crate::model::PodUid;

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
