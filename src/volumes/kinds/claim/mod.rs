//! persistentVolumeClaim and generic ephemeral volumes.
//!
//! 1. The claim and its persistent volume are read from the API server, and checked (`bound`).
//! 2. The persistent volume's own kind sets it up.
//!
//! Nothing here is torn down: the directory on disk names the kind of the persistent volume.

pub mod bound;

use std::sync::Arc;

pub use bound::Reference;

use super::context::{Context, Done};
use super::local;
use crate::model::pod;
use crate::volumes::error::SetUpError;
use crate::volumes::mounter::Mounter;
use bound::{Bound, Source, bound, name, processing, volume_of};

/// Reads the claim and its persistent volume, then sets that up.
pub(super) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    reference: Reference<'_>,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let bound = resolve(reference, context).await?;
    match bound.source.clone() {
        Source::Local(path) => local::set_up(bound, path, context).await,
        Source::HostPath(source) => local::set_up_host_path(bound, source, context).await,
        Source::Csi(driver) => Err(without_driver(&bound, &driver)),
    }
}

/// Makes upstream's error for a driver that is not on the node.
pub(super) fn without_driver(bound: &Bound, driver: &str) -> SetUpError {
    bound.failed(
        "MountVolume.MountDevice",
        format!(
            "kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: \
             driver name {driver} not found in the list of registered CSI drivers"
        ),
    )
}

/// Reads the claim, then its persistent volume. Each request has the client's deadline.
async fn resolve<M, T>(
    reference: Reference<'_>,
    context: &Context<M, T>,
) -> Result<Bound, SetUpError> {
    let Some(volume) = context.volume() else { return Err(SetUpError::Cancelled) };
    let claims = &context.tools.claims;
    let namespace = pod::key(&context.pod).namespace;
    let name = name(&context.pod, &volume.name, reference);
    let wrong = |problem: String| processing(&namespace, &name, &problem);

    let claim = claims.claim(&namespace, &name).await;
    let claim =
        claim.map_err(|error| wrong(format!("failed to fetch PVC from API server: {error}")))?;
    let volume_name = volume_of(&context.pod, reference, &claim)?;
    let found = claims.volume(&volume_name).await;
    let found = found.map_err(|error| {
        wrong(format!("failed to fetch PV {volume_name} from API server: {error}"))
    })?;

    let bound = bound(&context.pod, volume, reference, &claim, &found)?;
    if bound.affinity.is_some() {
        let node = claims.node().await;
        let node = node
            .map_err(|error| bound.failed("MountVolume.NodeAffinity check", error.to_string()))?;
        bound.check_node(&node.name, &node.labels)?;
    }
    bound.check_use(context.used_elsewhere.contains(&bound.name))?;
    Ok(bound)
}
