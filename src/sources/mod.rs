//! Where pods come from: the API server's watch, static manifests in a directory, a URL.
//!
//! Each source is a task that publishes its complete present set on a `watch` channel (level, not
//! edge) together with whether it has seen everything once. `desired` merges the sets. A source
//! never decides what to do with a pod.

pub mod apiserver;
mod compact;
pub mod config;
pub mod defaults;
pub mod http;
pub mod manifests;
pub mod references;
pub mod static_pod;
mod uid;
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::pod::{self, CONFIG_SEEN, CONFIG_SOURCE};
use crate::model::{Pod, PodUid, Wall};

/// The kinds of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// Files on this node.
    File,
    /// A URL.
    Http,
    /// The API server.
    Api,
}

impl SourceKind {
    /// The value of the annotation `kubernetes.io/config.source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Http => "http",
            Self::Api => "api",
        }
    }
}

/// What a source has at present.
#[derive(Debug, Default)]
pub struct SourceState {
    /// Whether the set is complete: before that a missing pod means nothing.
    pub ready: bool,
    /// The pods, annotated with their source and when this node first saw them.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
}

/// One source as `desired` reads it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its kind.
    pub kind: SourceKind,
    /// Its present set.
    pub state: watch::Receiver<SourceState>,
}

/// Annotates a pod with its source and when this node first saw it: the moment that `known`, the
/// same pod as it was before, carries, else `now`. Users see both annotations (downward API), as
/// upstream's.
fn stamp(pod: &mut Pod, kind: SourceKind, known: Option<&Pod>, now: Wall) {
    let seen = known
        .and_then(|known| pod::annotation(known, CONFIG_SEEN))
        .map_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(), str::to_owned);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), kind.as_str().to_owned());
    annotations.insert(CONFIG_SEEN.to_owned(), seen);
}

/// Returns a static pod with its stamp: the `known` one, if it has the same UID and nothing else
/// has changed. A manifest may give its pod a UID, which then stays when the rest changes.
fn adopted(mut pod: Pod, kind: SourceKind, known: Option<&Arc<Pod>>, now: Wall) -> Arc<Pod> {
    let known = known.filter(|known| known.metadata.uid == pod.metadata.uid);
    stamp(&mut pod, kind, known.map(Arc::as_ref), now);
    match known {
        Some(known) if **known == pod => Arc::clone(known),
        Some(_) | None => Arc::new(pod),
    }
}

/// Returns the message of a pod that is left out because another one of its source has its name.
pub fn duplicate_message(pod: &Pod, source: SourceKind) -> String {
    let key = pod::key(pod);
    format!(
        "Error validating pod {}_{}({}) from {} due to duplicate pod name {:?}, ignoring",
        key.name,
        key.namespace,
        pod::uid(pod),
        source.as_str(),
        &*key.name
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{SourceKind, adopted, stamp};
    use crate::model::Pod;
    use crate::model::pod::{self, CONFIG_SEEN, CONFIG_SOURCE};

    #[test]
    fn a_change_under_the_same_uid_is_a_change() {
        let pod = |image: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"},
                "spec": {"containers": [{"name": "c", "image": image}]}}))
            .expect("a pod")
        };
        let kind = SourceKind::File;
        let first = adopted(pod("a"), kind, None, jiff::Timestamp::UNIX_EPOCH);
        let same = adopted(pod("a"), kind, Some(&first), jiff::Timestamp::MAX);
        assert!(Arc::ptr_eq(&first, &same));
        let other = adopted(pod("b"), kind, Some(&first), jiff::Timestamp::MAX);
        assert_ne!(other.spec, first.spec);
        assert_eq!(other.metadata, first.metadata, "first seen when the first was");
    }

    #[test]
    fn first_seen_stays() {
        let mut first = Pod::default();
        stamp(&mut first, SourceKind::Api, None, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(pod::annotation(&first, CONFIG_SEEN), Some("1970-01-01T00:00:00.000000000Z"));
        assert_eq!(pod::annotation(&first, CONFIG_SOURCE), Some("api"));
        let mut second = Pod::default();
        stamp(&mut second, SourceKind::Api, Some(&first), jiff::Timestamp::MAX);
        assert_eq!(pod::annotation(&second, CONFIG_SEEN), Some("1970-01-01T00:00:00.000000000Z"));
    }
}
