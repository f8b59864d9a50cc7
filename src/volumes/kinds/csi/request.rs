//! Computes the requests to a driver from the objects of the API, by upstream's rules. Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::storage::v1::CSIDriver;

use crate::csi::Capabilities;
use crate::csi::v1::volume_capability::access_mode::Mode;
use crate::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::csi::v1::{NodePublishVolumeRequest, NodeStageVolumeRequest, VolumeCapability};
use crate::model::{Pod, PodUid, pod};

/// The access mode of a volume that names none.
const READ_WRITE_ONCE: &str = "ReadWriteOnce";

/// How long a volume lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    /// Behind a claim.
    Persistent,
    /// As long as the pod.
    Ephemeral,
}

impl Lifecycle {
    /// Returns the name in the API.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "Persistent",
            Self::Ephemeral => "Ephemeral",
        }
    }
}

/// A volume of a driver, as both requests need it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The driver's name.
    pub(super) driver: String,
    /// The driver's name of the volume.
    pub(super) handle: String,
    /// The file system; empty: the driver's choice.
    pub(super) fs_type: String,
    /// `volumeAttributes` of the volume.
    pub(super) attributes: BTreeMap<String, String>,
    /// Mount options of the persistent volume.
    pub(super) mount_options: Vec<String>,
    /// Access modes of the persistent volume.
    pub(super) access_modes: Vec<String>,
    /// True for `volumeMode: Block`.
    pub(super) block: bool,
    /// True if the pod may only read.
    pub(super) read_only: bool,
    pub(super) lifecycle: Lifecycle,
}

/// The reasons why a CSIDriver object does not allow a volume. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PolicyError {
    #[error("volume mode {mode:?} not supported by driver {driver} (no CSIDriver object)")]
    NoObject { mode: &'static str, driver: String },
    #[error("volume mode {mode:?} not supported by driver {driver} (only supports {})", quoted(.supported))]
    Lifecycle { mode: &'static str, driver: String, supported: Vec<String> },
}

/// Words a list as Go's `%q` does: `["a" "b"]`.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Checks that a driver serves volumes of this lifecycle.
pub(super) fn check_lifecycle(
    wanted: &Wanted,
    object: Option<&CSIDriver>,
) -> Result<(), PolicyError> {
    let (mode, driver) = (wanted.lifecycle.as_str(), wanted.driver.clone());
    match (object, wanted.lifecycle) {
        (None, Lifecycle::Persistent) => Ok(()),
        (None, Lifecycle::Ephemeral) => Err(PolicyError::NoObject { mode, driver }),
        (Some(object), _) => {
            let supported = object.spec.volume_lifecycle_modes.clone().unwrap_or_default();
            if supported.iter().any(|known| known == mode) {
                Ok(())
            } else {
                Err(PolicyError::Lifecycle { mode, driver, supported })
            }
        }
    }
}

/// Returns true if volumes of a driver are attached before they are mounted; a driver without an
/// object needs that.
pub(super) fn is_attached_first(object: Option<&CSIDriver>) -> bool {
    object.is_none_or(|object| object.spec.attach_required != Some(false))
}

/// Returns the group to give a published volume to; `None` if it stays as it is. A driver that
/// takes the group itself is not helped.
pub(super) fn group_to_give(
    wanted: &Wanted,
    object: Option<&CSIDriver>,
    capabilities: Capabilities,
    group: Option<u32>,
) -> Option<u32> {
    let group =
        group.filter(|_| !capabilities.mount_group && !wanted.read_only && !wanted.block)?;
    let policy = object.and_then(|object| object.spec.fs_group_policy.as_deref());
    let writes_alone = || {
        wanted.lifecycle == Lifecycle::Ephemeral
            || wanted
                .access_modes
                .iter()
                .any(|mode| matches!(mode.as_str(), READ_WRITE_ONCE | "ReadWriteOncePod"))
    };
    let gives = match policy.unwrap_or("ReadWriteOnceWithFSType") {
        "None" => false,
        "File" => true,
        _ => !wanted.fs_type.is_empty() && writes_alone(),
    };
    gives.then_some(group)
}

/// Returns the pod's attributes for a driver that wants them.
pub(super) fn pod_attributes(of: &Pod, lifecycle: Lifecycle) -> BTreeMap<String, String> {
    let key = pod::key(of);
    let account = of.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let ephemeral = lifecycle == Lifecycle::Ephemeral;
    [
        ("csi.storage.k8s.io/pod.name", key.name.to_string()),
        ("csi.storage.k8s.io/pod.namespace", key.namespace.to_string()),
        ("csi.storage.k8s.io/pod.uid", pod::uid(of).to_string()),
        ("csi.storage.k8s.io/serviceAccount.name", account.unwrap_or_default()),
        ("csi.storage.k8s.io/ephemeral", ephemeral.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Returns the name of an ephemeral volume for its driver: `csi-SHA256`.
pub(super) fn ephemeral_handle(uid: &PodUid, volume: &str) -> String {
    format!("csi-{}", super::data::sha256(&format!("{uid}{volume}")))
}

/// Returns the name of the VolumeAttachment of a volume and this node: `csi-SHA256`.
pub(super) fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", super::data::sha256(&format!("{handle}{driver}{node}")))
}

/// Returns the volume's name in the Node's status: `kubernetes.io/csi/DRIVER^HANDLE`.
pub(super) fn unique_name(driver: &str, handle: &str) -> String {
    format!("{}/{driver}^{handle}", super::PLUGIN)
}

fn access_mode(wanted: &Wanted, capabilities: Capabilities) -> Mode {
    let several = capabilities.single_node_multi_writer;
    match wanted.access_modes.first().map_or(READ_WRITE_ONCE, String::as_str) {
        READ_WRITE_ONCE if several => Mode::SingleNodeMultiWriter,
        READ_WRITE_ONCE => Mode::SingleNodeWriter,
        "ReadWriteOncePod" if several => Mode::SingleNodeSingleWriter,
        "ReadWriteOncePod" => Mode::SingleNodeWriter,
        "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
        "ReadWriteMany" => Mode::MultiNodeMultiWriter,
        _ => Mode::Unknown,
    }
}

/// Returns the capability that a volume is staged, published or grown with.
pub(super) fn capability(
    wanted: &Wanted,
    capabilities: Capabilities,
    group: Option<u32>,
) -> VolumeCapability {
    let mode = AccessMode { mode: access_mode(wanted, capabilities).into() };
    let access = if wanted.block {
        AccessType::Block(BlockVolume {})
    } else {
        let group = group.filter(|_| capabilities.mount_group);
        AccessType::Mount(MountVolume {
            fs_type: wanted.fs_type.clone(),
            mount_flags: wanted.mount_options.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        })
    };
    VolumeCapability { access_mode: Some(mode), access_type: Some(access) }
}

/// Returns the request that stages a volume.
pub(super) fn stage(
    wanted: &Wanted,
    capability: VolumeCapability,
    stage: &str,
    publish_context: BTreeMap<String, String>,
    secrets: HashMap<String, String>,
) -> NodeStageVolumeRequest {
    NodeStageVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context: publish_context.into_iter().collect(),
        staging_target_path: stage.to_owned(),
        volume_capability: Some(capability),
        secrets,
        volume_context: wanted.attributes.clone().into_iter().collect(),
    }
}

/// What a publication needs besides the volume.
#[derive(Default)]
pub(super) struct Publication {
    /// Where the volume is staged; empty: it is not.
    pub(super) stage: String,
    pub(super) target: String,
    pub(super) publish_context: BTreeMap<String, String>,
    pub(super) secrets: HashMap<String, String>,
    /// The volume's attributes with those of the pod.
    pub(super) attributes: BTreeMap<String, String>,
}

/// Returns the request that publishes a volume to a pod.
pub(super) fn publish(
    wanted: &Wanted,
    capability: VolumeCapability,
    with: Publication,
) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context: with.publish_context.into_iter().collect(),
        staging_target_path: with.stage,
        target_path: with.target,
        volume_capability: Some(capability),
        readonly: wanted.read_only,
        secrets: with.secrets,
        volume_context: with.attributes.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::CSIDriver;
    use serde_json::json;

    use super::{
        Lifecycle, Wanted, attachment_name, capability, check_lifecycle, ephemeral_handle,
        group_to_give, is_attached_first, pod_attributes, unique_name,
    };
    use crate::csi::Capabilities;
    use crate::csi::v1::volume_capability::AccessType;
    use crate::csi::v1::volume_capability::access_mode::Mode;
    use crate::model::PodUid;

    fn wanted(change: impl FnOnce(&mut Wanted)) -> Wanted {
        let mut wanted = Wanted {
            driver: "d.io".to_owned(),
            handle: "h".to_owned(),
            fs_type: "ext4".to_owned(),
            attributes: [].into(),
            mount_options: vec!["noatime".to_owned()],
            access_modes: vec!["ReadWriteOnce".to_owned()],
            block: false,
            read_only: false,
            lifecycle: Lifecycle::Persistent,
        };
        change(&mut wanted);
        wanted
    }

    fn object(spec: &serde_json::Value) -> CSIDriver {
        serde_json::from_value(json!({"metadata": {"name": "d.io"}, "spec": spec})).expect("one")
    }

    #[test]
    fn a_driver_serves_the_lifecycles_that_its_object_names() {
        let ephemeral = wanted(|wanted| wanted.lifecycle = Lifecycle::Ephemeral);
        let text = |object: Option<&CSIDriver>| {
            check_lifecycle(&ephemeral, object).map_err(|error| error.to_string())
        };
        assert_eq!(
            text(None),
            Err("volume mode \"Ephemeral\" not supported by driver d.io (no CSIDriver object)"
                .to_owned())
        );
        assert_eq!(
            text(Some(&object(&json!({"volumeLifecycleModes": ["Persistent"]})))),
            Err("volume mode \"Ephemeral\" not supported by driver d.io (only supports [\"Persistent\"])"
                .to_owned())
        );
        assert_eq!(text(Some(&object(&json!({"volumeLifecycleModes": ["Ephemeral"]})))), Ok(()));
        assert_eq!(check_lifecycle(&wanted(|_| {}), None), Ok(()));
    }

    #[test]
    fn only_a_driver_that_says_so_needs_no_attachment() {
        assert!(is_attached_first(None));
        assert!(is_attached_first(Some(&object(&json!({})))));
        assert!(!is_attached_first(Some(&object(&json!({"attachRequired": false})))));
    }

    #[test]
    fn the_group_is_given_by_policy() {
        let none = Capabilities::default();
        let give = |wanted: &Wanted, policy: Option<&str>, capabilities| {
            let object = policy.map(|policy| object(&json!({"fsGroupPolicy": policy})));
            group_to_give(wanted, object.as_ref(), capabilities, Some(7))
        };
        let many = wanted(|wanted| wanted.access_modes = vec!["ReadWriteMany".to_owned()]);
        let plain = wanted(|_| {});
        assert_eq!(give(&plain, None, none), Some(7));
        assert_eq!(give(&many, None, none), None);
        assert_eq!(give(&many, Some("File"), none), Some(7));
        assert_eq!(give(&plain, Some("None"), none), None);
        assert_eq!(give(&wanted(|wanted| wanted.fs_type.clear()), None, none), None);
        assert_eq!(give(&wanted(|wanted| wanted.read_only = true), Some("File"), none), None);
        let itself = Capabilities { mount_group: true, ..none };
        assert_eq!(give(&plain, None, itself), None);
        let inline = wanted(|wanted| {
            wanted.lifecycle = Lifecycle::Ephemeral;
            wanted.access_modes.clear();
        });
        assert_eq!(give(&inline, None, none), Some(7));
    }

    #[test]
    fn access_modes_and_the_group_go_to_drivers_that_know_them() {
        let mode = |name: &str, capabilities| {
            let wanted = wanted(|wanted| wanted.access_modes = vec![name.to_owned()]);
            capability(&wanted, capabilities, Some(7)).access_mode.expect("a mode").mode()
        };
        let none = Capabilities::default();
        let several = Capabilities { single_node_multi_writer: true, ..none };
        assert_eq!(mode("ReadWriteOnce", none), Mode::SingleNodeWriter);
        assert_eq!(mode("ReadWriteOnce", several), Mode::SingleNodeMultiWriter);
        assert_eq!(mode("ReadWriteOncePod", none), Mode::SingleNodeWriter);
        assert_eq!(mode("ReadWriteOncePod", several), Mode::SingleNodeSingleWriter);
        assert_eq!(mode("ReadOnlyMany", none), Mode::MultiNodeReaderOnly);
        assert_eq!(mode("ReadWriteMany", several), Mode::MultiNodeMultiWriter);

        let group =
            |capabilities| match capability(&wanted(|_| {}), capabilities, Some(7)).access_type {
                Some(AccessType::Mount(mount)) => mount.volume_mount_group,
                other => panic!("{other:?}"),
            };
        assert_eq!(group(none), "");
        assert_eq!(group(Capabilities { mount_group: true, ..none }), "7");
    }

    #[test]
    fn names_are_upstreams() {
        assert_eq!(unique_name("d.io", "h"), "kubernetes.io/csi/d.io^h");
        assert!(attachment_name("h", "d.io", "n").starts_with("csi-"));
        let handle = ephemeral_handle(&PodUid::from("u1"), "v");
        assert_eq!(handle.len(), 4 + 64);
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u1"},
            "spec": {"containers": [], "serviceAccountName": "sa"},
        }));
        let attributes = pod_attributes(&pod.expect("a pod"), Lifecycle::Ephemeral);
        assert_eq!(
            json!(attributes),
            json!({
                "csi.storage.k8s.io/pod.name": "web",
                "csi.storage.k8s.io/pod.namespace": "ns",
                "csi.storage.k8s.io/pod.uid": "u1",
                "csi.storage.k8s.io/serviceAccount.name": "sa",
                "csi.storage.k8s.io/ephemeral": "true",
            })
        );
    }
}
