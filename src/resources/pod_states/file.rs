//! The text of `allocated_pods_state` and of `actuated_pods_state`: the resources of pods, in
//! upstream's format with upstream's checksum, so that either kubelet can take over. Pure: text in,
//! text out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};

use crate::model::PodUid;
use crate::resources::allocation::Allocation;
use crate::resources::devices::checkpoint::fnv32a;

/// What a file says: resources by pod.
pub type Entries = BTreeMap<PodUid, Arc<Allocation>>;

/// The file: its content as a text, and the checksum of that text.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    data: String,
    checksum: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Data {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, Entry>,
}

/// The resources of one pod.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    container_resources: Option<BTreeMap<String, ResourceRequirements>>,
    pod_level_resources: Option<ResourceRequirements>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It is no such file.
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    /// It has been changed by something else, or was written in part.
    #[error("checkpoint is corrupted")]
    Checksum,
}

/// Returns the text of a file.
pub(super) fn encode(entries: &Entries) -> String {
    let entry = |allocation: &Allocation| Entry {
        container_resources: Some(allocation.containers.clone()),
        pod_level_resources: allocation.whole.clone(),
    };
    let entries =
        entries.iter().map(|(uid, allocation)| (uid.as_str().to_owned(), entry(allocation)));
    let data = Data { entries: entries.collect() };
    let data = serde_json::to_string(&data).expect("maps with text keys are JSON");
    let checksum = checksum(&data);
    serde_json::to_string(&File { data, checksum }).expect("a text and a number are JSON")
}

/// Reads the text of a file.
pub(super) fn decode(text: &str) -> Result<Entries, FormatError> {
    let file: File = serde_json::from_str(text)?;
    if checksum(&file.data) != file.checksum {
        return Err(FormatError::Checksum);
    }
    let data: Data = serde_json::from_str(&file.data)?;
    let allocation = |entry: Entry| Allocation {
        whole: entry.pod_level_resources,
        containers: entry.container_resources.unwrap_or_default(),
    };
    let entries = data.entries.into_iter();
    Ok(entries.map(|(uid, entry)| (PodUid::new(uid), Arc::new(allocation(entry)))).collect())
}

/// Upstream's checksum: of Go's dump of the text.
fn checksum(data: &str) -> u32 {
    fnv32a(&format!("(string){data}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// From upstream's own tests.
    const UPSTREAM: &str = r#"{"data":"{\"entries\":{\"pod1\":{\"ContainerResources\":{\"container1\":{\"requests\":{\"cpu\":\"1Ki\",\"memory\":\"1Ki\"}}}}}}","checksum":1178570812}"#;

    #[test]
    fn agrees_with_upstream_about_the_checksum() {
        let entries = decode(UPSTREAM).expect("a file");
        let pod = &entries[&PodUid::new("pod1")];
        let requests = pod.containers["container1"].requests.as_ref().expect("requests");
        assert_eq!(requests["memory"].0, "1Ki");
        assert_eq!(pod.whole, None);
        let changed = UPSTREAM.replace("1Ki", "2Ki");
        assert!(matches!(decode(&changed), Err(FormatError::Checksum)));
        assert!(matches!(decode(""), Err(FormatError::Json(_))));
    }

    #[test]
    fn reads_what_it_wrote() {
        let resources = serde_json::from_value(json!({"limits": {"cpu": "1"}})).expect("resources");
        let pod = Allocation {
            whole: Some(resources),
            containers: [("c".to_owned(), ResourceRequirements::default())].into(),
        };
        let entries = [(PodUid::new("u"), Arc::new(pod))].into();
        let text = encode(&entries);
        assert_eq!(decode(&text).expect("a file"), entries);
        let data = r#"{\"entries\":{\"u\":{\"ContainerResources\":{\"c\":{}},\"PodLevelResources\":{\"limits\":{\"cpu\":\"1\"}}}}}"#;
        assert!(text.starts_with(&format!("{{\"data\":\"{data}\",\"checksum\":")), "{text}");
        assert!(decode(&encode(&Entries::new())).expect("a file").is_empty());
    }
}
