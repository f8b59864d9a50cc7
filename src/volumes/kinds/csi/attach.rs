//! Waits until a volume is attached to this node.
//!
//! In: the Node object's watch, the VolumeAttachment by GET. The attach/detach controller attaches
//! a volume that the Node's status has in use; a driver's attacher says when.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::request::{attachment_name, unique_name};
use super::{Volume, WAIT_FOR_ATTACH};
use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::Context;

/// Waits for the attachment; returns what the attacher hands to the driver. The caller cancels.
pub(super) async fn wait<M, T>(
    volume: &Volume,
    context: &Context<M, T>,
) -> Result<BTreeMap<String, String>, SetUpError> {
    let csi = &context.tools.csi;
    let (driver, handle) = (&volume.wanted.driver, &volume.wanted.handle);
    let unique = unique_name(driver, handle);
    csi.stages.want(&context.uid, &volume.name, &unique);

    if let Some(mut node) = csi.objects.node() {
        let attached = |node: &Node| is_attached(node, &unique);
        let seen = node.wait_for(|view| view.node.as_deref().is_some_and(attached)).await;
        // The end of the watch is the end of the process.
        seen.map_err(|_closed| SetUpError::Cancelled)?;
    }

    let name = attachment_name(handle, driver, &csi.node_name);
    let attachment = csi.objects.attachment(&name).await.map_err(|error| {
        let what = format!("volume {handle} has GET error for volume attachment {name}: {error}");
        volume.failed(WAIT_FOR_ATTACH, what)
    })?;
    metadata(attachment, handle).map_err(|error| volume.failed(WAIT_FOR_ATTACH, error.to_string()))
}

/// Returns true if the Node's status has a volume in use and attached.
fn is_attached(node: &Node, unique: &str) -> bool {
    let Some(status) = &node.status else { return false };
    let mut in_use = status.volumes_in_use.iter().flatten();
    let mut attached = status.volumes_attached.iter().flatten();
    in_use.any(|name| name == unique) && attached.any(|volume| volume.name == unique)
}

/// The reasons why an attachment is not complete. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error("volume attachment is being deleted")]
    Leaving,
    /// The attacher's own text.
    #[error("{0}")]
    Failed(String),
    #[error("volume {handle} is not attached for volume attachment {name}")]
    Open { handle: String, name: String },
}

/// Returns the metadata of a completed attachment.
fn metadata(
    attachment: VolumeAttachment,
    handle: &str,
) -> Result<BTreeMap<String, String>, AttachError> {
    if attachment.metadata.deletion_timestamp.is_some() {
        return Err(AttachError::Leaving);
    }
    let status = attachment.status.unwrap_or_default();
    if status.attached {
        return Ok(status.attachment_metadata.unwrap_or_default());
    }
    Err(match status.attach_error.and_then(|error| error.message) {
        Some(message) => AttachError::Failed(message),
        None => AttachError::Open {
            handle: handle.to_owned(),
            name: attachment.metadata.name.unwrap_or_default(),
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{is_attached, metadata};

    #[test]
    fn a_volume_is_attached_when_the_node_says_both() {
        let check = |status: &serde_json::Value| {
            let node = serde_json::from_value(json!({"metadata": {}, "status": status}));
            is_attached(&node.expect("a node"), "v")
        };
        let attached = json!([{"name": "v", "devicePath": ""}]);
        assert!(check(&json!({"volumesInUse": ["v"], "volumesAttached": attached})));
        assert!(!check(&json!({"volumesInUse": ["other"], "volumesAttached": attached})));
        assert!(!check(&json!({"volumesInUse": ["v"]})));
    }

    #[test]
    fn an_attachment_gives_its_metadata_or_its_problem() {
        let check = |meta: &serde_json::Value, status: &serde_json::Value| {
            let spec = json!({"attacher": "d.io", "nodeName": "n", "source": {}});
            let object = json!({"metadata": meta, "spec": spec, "status": status});
            metadata(serde_json::from_value(object).expect("an attachment"), "h")
        };
        let name = json!({"name": "csi-1"});
        let done = json!({"attached": true, "attachmentMetadata": {"lun": "3"}});
        let given = check(&name, &done).expect("attached");
        assert_eq!(given, [("lun".to_owned(), "3".to_owned())].into());
        let problem = |meta: &serde_json::Value, status: &serde_json::Value| {
            check(meta, status).expect_err("not attached").to_string()
        };
        assert_eq!(
            problem(&name, &json!({"attached": false})),
            "volume h is not attached for volume attachment csi-1"
        );
        let failed = json!({"attached": false, "attachError": {"message": "no disk"}});
        assert_eq!(problem(&name, &failed), "no disk");
        let leaving = json!({"name": "csi-1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(problem(&leaving, &done), "volume attachment is being deleted");
    }
}
