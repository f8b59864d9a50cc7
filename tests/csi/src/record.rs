//! Requests as JSON, field by field: what a test compares.

use serde_json::{Value, json};

use crate::v1;
use crate::v1::volume_capability::AccessType;

fn capability(capability: Option<&v1::VolumeCapability>) -> Value {
    let Some(capability) = capability else { return Value::Null };
    let mode = capability.access_mode.as_ref().map(|mode| mode.mode().as_str_name());
    let access = match &capability.access_type {
        None => Value::Null,
        Some(AccessType::Block(_)) => json!("block"),
        Some(AccessType::Mount(mount)) => json!({
            "fs_type": mount.fs_type,
            "mount_flags": mount.mount_flags,
            "volume_mount_group": mount.volume_mount_group,
        }),
    };
    json!({"access_mode": mode, "access": access})
}

pub(crate) fn stage(request: &v1::NodeStageVolumeRequest) -> Value {
    json!({
        "volume_id": request.volume_id,
        "publish_context": request.publish_context,
        "staging_target_path": request.staging_target_path,
        "volume_capability": capability(request.volume_capability.as_ref()),
        "secrets": request.secrets,
        "volume_context": request.volume_context,
    })
}

pub(crate) fn publish(request: &v1::NodePublishVolumeRequest) -> Value {
    json!({
        "volume_id": request.volume_id,
        "publish_context": request.publish_context,
        "staging_target_path": request.staging_target_path,
        "target_path": request.target_path,
        "volume_capability": capability(request.volume_capability.as_ref()),
        "readonly": request.readonly,
        "secrets": request.secrets,
        "volume_context": request.volume_context,
    })
}
