//! Volumes that only a remote system or a driver provides. Pure.
//!
//! A static pod cannot have most of them mounted; the API refuses a mirror pod whose volumes break
//! these rules all the same. The paths and texts have upstream's inconsistencies.

use k8s_openapi::api::core::v1::{
    AWSElasticBlockStoreVolumeSource, AzureDiskVolumeSource, AzureFileVolumeSource,
    CSIVolumeSource, CephFSVolumeSource, CinderVolumeSource, FCVolumeSource, FlexVolumeSource,
    FlockerVolumeSource, GCEPersistentDiskVolumeSource, GitRepoVolumeSource, GlusterfsVolumeSource,
    ISCSIVolumeSource, LocalObjectReference, PhotonPersistentDiskVolumeSource,
    PortworxVolumeSource, QuobyteVolumeSource, RBDVolumeSource, ScaleIOVolumeSource,
    StorageOSVolumeSource, VsphereVirtualDiskVolumeSource,
};

use super::names;
use super::problems::Problems;

/// The largest number of a unit on a SCSI target.
const LAST_UNIT: i32 = 255;
/// The longest name of a CSI driver.
const LONGEST_DRIVER: usize = 63;
/// The longest tenant of Quobyte.
const LONGEST_TENANT: usize = 64;
/// The longest name and portal of an iSCSI volume together.
const LONGEST_TARGET: usize = 64;

/// Requires each field to have a value.
fn required(problems: &mut Problems, path: &str, fields: &[(&str, &str)]) {
    for (field, _) in fields.iter().filter(|(_, value)| value.is_empty()) {
        problems.required(format!("{path}.{field}"));
    }
}

/// Requires the name of a secret if one is referred to.
fn secret(problems: &mut Problems, path: &str, secret: Option<&LocalObjectReference>) {
    if secret.is_some_and(|secret| secret.name.is_empty()) {
        problems.required(format!("{path}.secretRef.name"));
    }
}

fn partition(problems: &mut Problems, path: &str, partition: Option<i32>) {
    if let Some(partition) = partition.filter(|partition| !(0..=255).contains(partition)) {
        let why = "must be between 1 and 255, inclusive";
        problems.invalid(format!("{path}.partition"), partition, why);
    }
}

pub(super) fn git_repo(problems: &mut Problems, path: &str, source: &GitRepoVolumeSource) {
    required(problems, path, &[("repository", &source.repository)]);
    let directory = source.directory.as_deref().unwrap_or_default();
    problems.descending(format!("{path}.directory"), directory);
}

pub(super) fn gce(problems: &mut Problems, path: &str, source: &GCEPersistentDiskVolumeSource) {
    required(problems, path, &[("pdName", &source.pd_name)]);
    partition(problems, path, source.partition);
}

pub(super) fn aws(problems: &mut Problems, path: &str, source: &AWSElasticBlockStoreVolumeSource) {
    required(problems, path, &[("volumeID", &source.volume_id)]);
    partition(problems, path, source.partition);
}

pub(super) fn iscsi(problems: &mut Problems, path: &str, source: &ISCSIVolumeSource) {
    required(problems, path, &[("targetPortal", &source.target_portal), ("iqn", &source.iqn)]);
    if !source.iqn.is_empty() {
        iscsi_name(problems, &format!("{path}.iqn"), &source.iqn);
    }
    unit(problems, path, source.lun);
    let authenticates =
        [source.chap_auth_discovery, source.chap_auth_session].contains(&Some(true));
    if authenticates && source.secret_ref.is_none() {
        problems.required(format!("{path}.secretRef"));
    }
    if let Some(name) = &source.initiator_name {
        iscsi_name(problems, &format!("{path}.initiatorname"), name);
    }
}

/// Checks that an iSCSI volume with an initiator of its own leaves room for what is made of names.
pub(super) fn iscsi_target(
    problems: &mut Problems,
    path: &str,
    volume: &str,
    source: &ISCSIVolumeSource,
) {
    let length = volume.len() + 1 + source.target_portal.len();
    if source.initiator_name.is_some() && length > LONGEST_TARGET {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters \
                   if iscsi.initiatorName is specified.";
        problems.invalid(format!("{path}.name"), volume, why);
    }
}

fn unit(problems: &mut Problems, path: &str, unit: i32) {
    if !(0..=LAST_UNIT).contains(&unit) {
        let why = format!("must be between 0 and {LAST_UNIT}, inclusive");
        problems.invalid(format!("{path}.lun"), unit, why);
    }
}

/// Checks the name of an iSCSI node, e.g. `iqn.2001-04.com.example:storage`.
fn iscsi_name(problems: &mut Problems, path: &str, name: &str) {
    let is_right = match name.get(..3) {
        Some("iqn") => has_qualified_name(name),
        Some("eui") => is_numbered(name, 16),
        Some("naa") => is_numbered(name, 32),
        Some(_) | None => {
            let why = "must be valid format starting with iqn, eui, or naa";
            return problems.invalid(path, name, why);
        }
    };
    if !is_right {
        problems.invalid(path, name, "must be valid format");
    }
}

/// Returns true if a text ends with `iqn.YYYY-MM.DOMAIN:NAME`.
fn has_qualified_name(text: &str) -> bool {
    let is_date = |date: &str| {
        let bytes = date.as_bytes();
        bytes.len() == 8
            && bytes.iter().enumerate().all(|(index, byte)| match index {
                4 => *byte == b'-',
                7 => *byte == b'.',
                _ => byte.is_ascii_digit(),
            })
    };
    let is_rest = |rest: &str| {
        rest.match_indices(':').any(|(index, _)| {
            let (domain, name) = (&rest[..index], &rest[index + 1..]);
            let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            let in_name = |found: char| {
                !matches!(found, ',' | ';' | '*' | '&' | '$' | '|') && !found.is_ascii_whitespace()
            };
            !domain.is_empty()
                && domain.bytes().all(in_domain)
                && !name.is_empty()
                && name.chars().all(in_name)
        })
    };
    text.match_indices("iqn.").any(|(index, prefix)| {
        let after = &text[index + prefix.len()..];
        after.get(..8).is_some_and(is_date) && after.get(8..).is_some_and(is_rest)
    })
}

/// Returns true if a text has three letters, one more, and `count` letters or digits.
fn is_numbered(text: &str, count: usize) -> bool {
    let mut characters = text.chars().skip(3);
    let separator = characters.next();
    separator.is_some_and(|found| found != '\n')
        && characters.clone().count() == count
        && characters.all(|found| found.is_ascii_alphanumeric())
}

pub(super) fn glusterfs(problems: &mut Problems, path: &str, source: &GlusterfsVolumeSource) {
    required(problems, path, &[("endpoints", &source.endpoints), ("path", &source.path)]);
}

pub(super) fn flocker(problems: &mut Problems, path: &str, source: &FlockerVolumeSource) {
    let name = source.dataset_name.as_deref().unwrap_or_default();
    let uuid = source.dataset_uuid.as_deref().unwrap_or_default();
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => {
            problems.required_for(path, "one of datasetName and datasetUUID is required");
        }
        (false, false) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            problems.invalid(path, "resource", why);
        }
        (true, false) | (false, true) => {}
    }
    if name.contains('/') {
        problems.invalid(format!("{path}.datasetName"), name, "must not contain '/'");
    }
}

pub(super) fn rbd(problems: &mut Problems, path: &str, source: &RBDVolumeSource) {
    if source.monitors.is_empty() {
        problems.required(format!("{path}.monitors"));
    }
    required(problems, path, &[("image", &source.image)]);
}

pub(super) fn cinder(problems: &mut Problems, path: &str, source: &CinderVolumeSource) {
    required(problems, path, &[("volumeID", &source.volume_id)]);
    secret(problems, path, source.secret_ref.as_ref());
}

pub(super) fn cephfs(problems: &mut Problems, path: &str, source: &CephFSVolumeSource) {
    if source.monitors.is_empty() {
        problems.required(format!("{path}.monitors"));
    }
}

pub(super) fn quobyte(problems: &mut Problems, path: &str, source: &QuobyteVolumeSource) {
    let form = "must be a host:port pair or multiple pairs separated by commas";
    let registry = format!("{path}.registry");
    if source.registry.is_empty() {
        problems.required_for(&registry, form);
    } else if source.tenant.as_ref().is_some_and(|tenant| tenant.len() > LONGEST_TENANT) {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        problems.required_for(format!("{path}.tenant"), why);
    } else {
        for _ in source.registry.split(',').filter(|pair| !has_port(pair)) {
            problems.invalid(&registry, &source.registry, form);
        }
    }
    required(problems, path, &[("volume", &source.volume)]);
}

/// Returns true if Go can split a text into a host and a port.
fn has_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = match host.strip_prefix('[') {
        Some(inner) => match inner.strip_suffix(']') {
            Some(inner) => inner,
            None => return false,
        },
        None if host.contains(':') => return false,
        None => host,
    };
    !format!("{host}{port}").contains(['[', ']'])
}

pub(super) fn fc(problems: &mut Problems, path: &str, source: &FCVolumeSource) {
    let targets = source.target_wwns.as_deref().unwrap_or_default();
    let has_ids = source.wwids.as_ref().is_some_and(|ids| !ids.is_empty());
    let targets_path = format!("{path}.targetWWNs");
    if targets.is_empty() {
        if !has_ids {
            let why = "must specify either targetWWNs or wwids, but not both";
            problems.required_for(targets_path, why);
        }
        return;
    }
    if has_ids {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        problems.invalid_json(targets_path, &targets, why);
    }
    match source.lun {
        None => {
            let why = "lun is required if targetWWNs is specified";
            problems.required_for(format!("{path}.lun"), why);
        }
        Some(lun) => unit(problems, path, lun),
    }
}

pub(super) fn flex(problems: &mut Problems, path: &str, source: &FlexVolumeSource) {
    required(problems, path, &[("driver", &source.driver)]);
    for key in source.options.iter().flatten().map(|(key, _)| key) {
        let domain = key.split_once('/').map_or(key.as_str(), |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            problems.invalid(format!("{path}.options[{key}]"), key, why);
        }
    }
}

pub(super) fn azure_file(problems: &mut Problems, path: &str, source: &AzureFileVolumeSource) {
    let fields = [("secretName", &*source.secret_name), ("shareName", &source.share_name)];
    required(problems, path, &fields);
}

pub(super) fn azure_disk(problems: &mut Problems, path: &str, source: &AzureDiskVolumeSource) {
    const MANAGED: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/\
                           microsoft.compute/disks/{disk-id}";
    const BLOB: &str =
        "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

    let uri = source.disk_uri.as_str();
    required(problems, path, &[("diskName", &source.disk_name), ("diskURI", uri)]);
    let caching = source.caching_mode.as_deref();
    problems.one_of(format!("{path}.cachingMode"), caching, &["None", "ReadOnly", "ReadWrite"]);
    let kind = source.kind.as_deref();
    problems.one_of(format!("{path}.kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let form = match kind {
        Some("Managed") if !uri.starts_with("/subscriptions/") => MANAGED,
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => BLOB,
        Some(_) | None => return,
    };
    problems.one_of(format!("{path}.diskURI"), Some(uri), &[form]);
}

pub(super) fn vsphere(problems: &mut Problems, path: &str, found: &VsphereVirtualDiskVolumeSource) {
    required(problems, path, &[("volumePath", &found.volume_path)]);
}

pub(super) fn photon(
    problems: &mut Problems,
    path: &str,
    found: &PhotonPersistentDiskVolumeSource,
) {
    required(problems, path, &[("pdID", &found.pd_id)]);
}

pub(super) fn portworx(problems: &mut Problems, path: &str, source: &PortworxVolumeSource) {
    required(problems, path, &[("volumeID", &source.volume_id)]);
}

pub(super) fn storage_os(problems: &mut Problems, path: &str, source: &StorageOSVolumeSource) {
    let name = source.volume_name.as_deref().unwrap_or_default();
    let namespace = source.volume_namespace.as_deref().unwrap_or_default();
    required(problems, path, &[("volumeName", name)]);
    for (field, value) in [("volumeName", name), ("volumeNamespace", namespace)] {
        if !value.is_empty() {
            problems.name(format!("{path}.{field}"), value, names::label);
        }
    }
    secret(problems, path, source.secret_ref.as_ref());
}

pub(super) fn scale_io(problems: &mut Problems, path: &str, source: &ScaleIOVolumeSource) {
    let volume = source.volume_name.as_deref().unwrap_or_default();
    let fields =
        [("gateway", &*source.gateway), ("system", &source.system), ("volumeName", volume)];
    required(problems, path, &fields);
}

pub(super) fn csi(problems: &mut Problems, path: &str, source: &CSIVolumeSource) {
    let driver_path = format!("{path}.driver");
    let driver = source.driver.as_str();
    if driver.is_empty() {
        problems.required(driver_path);
    } else {
        if driver.len() > LONGEST_DRIVER {
            problems.too_long(&driver_path, LONGEST_DRIVER);
        }
        for why in names::subdomain(&driver.to_lowercase()) {
            problems.invalid(&driver_path, driver, why);
        }
    }
    match source.node_publish_secret_ref.as_ref().map(|secret| secret.name.as_str()) {
        Some("") => problems.required(format!("{path}.nodePublishSecretRef.name")),
        Some(name) => problems.name(format!("{path}.name"), name, names::subdomain),
        None => {}
    }
}
