//! `kubelet_internal_checkpoint`: which container has which device, in upstream's format with
//! upstream's checksum, so that either kubelet can take over. Pure: text in, text out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::inventory::{Grant, PodGrants};
use super::v1beta1::ContainerAllocateResponse;
use crate::model::PodUid;

/// Stands for a device that is near to no NUMA node.
const NO_NODE: i64 = -1;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<DeviceEntry>>,
    registered_devices: BTreeMap<String, Option<Vec<String>>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeviceEntry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: Nodes,
    alloc_resp: String,
}

/// Devices by NUMA node.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Nodes(BTreeMap<String, Vec<String>>);

/// What the file says.
#[derive(Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// What containers have.
    pub pods: BTreeMap<PodUid, PodGrants>,
    /// The healthy devices of each resource.
    pub registered: BTreeMap<String, Vec<String>>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is no such file.
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    /// It has been changed by something else, or was written in part.
    #[error("checkpoint is corrupted: the checksum is {found}, {wanted} was expected")]
    Checksum {
        /// Of the content.
        found: u32,
        /// In the file.
        wanted: u32,
    },
}

/// The file's text.
pub fn encode(
    pods: &BTreeMap<PodUid, PodGrants>,
    registered: &BTreeMap<String, Vec<String>>,
) -> String {
    let mut entries = Vec::new();
    for (uid, containers) in pods {
        for (container, resources) in containers {
            for (resource, allocation) in resources {
                let Some(response) = &allocation.response else { continue };
                entries.push(DeviceEntry {
                    pod_uid: uid.as_str().to_owned(),
                    container_name: container.clone(),
                    resource_name: resource.clone(),
                    device_ids: Nodes::of(allocation),
                    alloc_resp: BASE64.encode(response.encode_to_vec()),
                });
            }
        }
    }

    let data = Data {
        pod_device_entries: (!entries.is_empty()).then_some(entries),
        registered_devices: registered
            .iter()
            .map(|(name, ids)| (name.clone(), Some(ids.clone())))
            .collect(),
    };

    let checksum = fnv32a(&data.dump());
    serde_json::to_string(&File { data, checksum }).expect("maps with text keys are JSON")
}

/// Reads the file's text.
pub fn decode(text: &str) -> Result<Checkpoint, CheckpointError> {
    let file: File = serde_json::from_str(text)?;
    let found = fnv32a(&file.data.dump());
    if found != file.checksum {
        return Err(CheckpointError::Checksum { found, wanted: file.checksum });
    }
    let mut pods: BTreeMap<PodUid, PodGrants> = BTreeMap::new();
    for entry in file.data.pod_device_entries.into_iter().flatten() {
        let bytes = BASE64.decode(&entry.alloc_resp).unwrap_or_default();
        let Ok(response) = ContainerAllocateResponse::decode(bytes.as_slice()) else { continue };
        let allocation = Grant { devices: entry.device_ids.devices(), response: Some(response) };
        let pod = pods.entry(PodUid::new(entry.pod_uid)).or_default();
        pod.entry(entry.container_name).or_default().insert(entry.resource_name, allocation);
    }
    let registered = file.data.registered_devices;
    let registered =
        registered.into_iter().map(|(name, ids)| (name, ids.unwrap_or_default())).collect();
    Ok(Checkpoint { pods, registered })
}

impl Nodes {
    fn of(allocation: &Grant) -> Self {
        let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, near) in &allocation.devices {
            let near = if near.is_empty() { &[NO_NODE][..] } else { near };
            for node in near {
                nodes.entry(node.to_string()).or_default().push(id.clone());
            }
        }
        Self(nodes)
    }

    fn devices(&self) -> BTreeMap<String, Vec<i64>> {
        let mut devices: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
        for (node, ids) in &self.0 {
            for id in ids {
                let near = devices.entry(id.clone()).or_default();
                near.extend(node.parse::<i64>().ok().filter(|node| *node != NO_NODE));
            }
        }
        devices.into_iter().map(|(id, near)| (id, near.into_iter().collect())).collect()
    }
}

impl Data {
    /// The content as Go's dump of it prints it: upstream's checksum is made from that text.
    fn dump(&self) -> String {
        let mut out = String::from(
            "(checkpoint.checkpointData){PodDeviceEntries:([]checkpoint.PodDevicesEntry)",
        );
        match &self.pod_device_entries {
            None => out.push_str("<nil>"),
            Some(entries) => bracketed(&mut out, entries, |out, entry| entry.dump(out)),
        }
        out.push_str(" RegisteredDevices:(map[string][]string)map");
        bracketed(&mut out, &self.registered_devices, |out, (name, ids)| {
            out.push_str(name);
            out.push(':');
            match ids {
                None => out.push_str("<nil>"),
                Some(ids) => texts(out, ids),
            }
        });
        out + "}"
    }
}

impl DeviceEntry {
    fn dump(&self, out: &mut String) {
        let (uid, container, resource) = (&self.pod_uid, &self.container_name, &self.resource_name);
        // Writing to a string does not fail.
        let _ = write!(
            out,
            "{{PodUID:(string){uid} ContainerName:(string){container} ResourceName:(string){resource}"
        );
        out.push_str(" DeviceIDs:(checkpoint.DevicesPerNUMA)map");
        let mut nodes: Vec<(i64, &Vec<String>)> = self
            .device_ids
            .0
            .iter()
            .map(|(node, ids)| (node.parse().unwrap_or(NO_NODE), ids))
            .collect();
        nodes.sort_by_key(|(node, _)| *node);
        bracketed(out, nodes, |out, (node, ids)| {
            let _ = write!(out, "{node}:");
            texts(out, ids);
        });
        out.push_str(" AllocResp:([]uint8)");
        let bytes = BASE64.decode(&self.alloc_resp).unwrap_or_default();
        bracketed(out, bytes, |out, byte| {
            let _ = write!(out, "{byte}");
        });
        out.push('}');
    }
}

fn bracketed<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut print: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        print(out, item);
    }
    out.push(']');
}

fn texts(out: &mut String, texts: &[String]) {
    bracketed(out, texts, |out, text| out.push_str(text));
}

fn fnv32a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by upstream's code; the response is no message that it would write.
    const UPSTREAM: &str = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"r","DeviceIDs":{"-1":["dev1","dev2"],"1":["dev3"]},"AllocResp":"AQL6"}],"RegisteredDevices":{"b":null,"r":["dev1","dev2"]}},"Checksum":2783547598}"#;

    #[test]
    fn agrees_with_upstream_about_the_checksum() {
        let file: File = serde_json::from_str(UPSTREAM).expect("a checkpoint");
        assert_eq!(fnv32a(&file.data.dump()), file.checksum);
        assert_eq!(serde_json::to_string(&file).expect("JSON"), UPSTREAM);
        assert!(matches!(
            decode(&UPSTREAM.replace("dev3", "dev4")),
            Err(CheckpointError::Checksum { .. })
        ));
    }

    #[test]
    fn reads_what_it_wrote() {
        let response = ContainerAllocateResponse {
            envs: [("A".to_owned(), "b".to_owned())].into(),
            ..Default::default()
        };
        let devices = [("d1".to_owned(), vec![]), ("d2".to_owned(), vec![0, 1])].into();
        let given = Grant { devices, response: Some(response) };
        let asked = Grant { devices: [("d3".to_owned(), vec![])].into(), response: None };
        let pods: BTreeMap<PodUid, PodGrants> = [
            (PodUid::new("u"), [("c".to_owned(), [("r".to_owned(), given)].into())].into()),
            (PodUid::new("v"), [("c".to_owned(), [("r".to_owned(), asked)].into())].into()),
        ]
        .into();
        let registered = [("r".to_owned(), vec!["d1".to_owned()])].into();
        let read = decode(&encode(&pods, &registered)).expect("a checkpoint");
        assert_eq!(read.registered, registered);
        assert_eq!(read.pods.len(), 1, "what no plugin has answered is not kept");
        assert_eq!(read.pods[&PodUid::new("u")], pods[&PodUid::new("u")]);
        assert_eq!(
            decode(&encode(&BTreeMap::new(), &BTreeMap::new())).expect("empty"),
            Checkpoint::default()
        );
    }
}
