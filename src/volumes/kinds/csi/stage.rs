//! Stages a persistent volume: once per node, whatever the number of its pods.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::SecretReference;

use super::data::{self, Data};
use super::{MOUNT_DEVICE, Volume, request, secrets};
use crate::csi::{Capabilities, Client};
use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::Context;
use crate::volumes::kinds::payload::fs_group;
use crate::volumes::mounter::Mounter;
use crate::volumes::source::TokenSource;

/// What staging needs besides the volume.
pub(super) struct Request<'a> {
    /// The directory to stage at.
    pub(super) stage: &'a Path,
    pub(super) publish_context: &'a BTreeMap<String, String>,
    pub(super) secret: Option<&'a SecretReference>,
    pub(super) capabilities: Capabilities,
}

/// Stages a volume unless this process has. The pod's end lets go of the wait for another job, but
/// not of a call: the driver would be left in the middle of it.
pub(super) async fn stage<M: Mounter, T: TokenSource>(
    volume: &Volume,
    client: &Client,
    request: Request<'_>,
    context: &Arc<Context<M, T>>,
) -> Result<(), SetUpError> {
    let csi = &context.tools.csi;
    let stage = request.stage.to_owned();
    let turn = csi.locks.of(stage.clone()).lock_owned();
    let _turn = context.cancel.run_until_cancelled(turn).await.ok_or(SetUpError::Cancelled)?;
    if csi.stages.is_staged(&stage) {
        return Ok(());
    }

    let failed = |text: String| volume.failed(MOUNT_DEVICE, text);
    let secrets = secrets(request.secret, "NodeStageSecretRef", context).await;
    let secrets = secrets.map_err(|error| failed(error.to_string()))?;
    let fields: Data = [
        (data::HANDLE.to_owned(), volume.wanted.handle.clone()),
        (data::DRIVER.to_owned(), volume.wanted.driver.clone()),
    ]
    .into();
    let place = stage.clone();
    let made = volume.io(MOUNT_DEVICE, "attacher.MountDevice failed to create dir", &stage);
    let saved = volume.io(MOUNT_DEVICE, "failed to save volume info data", &stage);
    let prepare = move |_: &Context<M, T>| {
        data::make_dir(&place).map_err(made)?;
        data::write(place.parent().unwrap_or(&place), &fields).map_err(saved)
    };
    context.blocking(prepare).await?;

    let group = fs_group(&context.pod);
    let capability = request::capability(&volume.wanted, request.capabilities, group);
    let message = request::stage(
        &volume.wanted,
        capability,
        &stage.display().to_string(),
        request.publish_context.clone(),
        secrets,
    );
    match client.stage(message).await {
        Ok(_) => {
            tracing::info!(driver = volume.wanted.driver, volume = volume.name, "volume staged");
            csi.stages.staged(stage);
            Ok(())
        }
        Err(error) => {
            if error.is_final() {
                let remove = move |context: &Context<M, T>| {
                    // The first error is the one to report; what stays is found by the next try.
                    drop(data::remove_mount_dir(&context.tools.mounter, &stage));
                    Ok(())
                };
                context.blocking(remove).await?;
            }
            Err(failed(error.to_string()))
        }
    }
}
