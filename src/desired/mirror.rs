//! Mirror pods: the API's image of each static pod, so that users and controllers see it.
//!
//! Pure: [`plan`] compares what files want with what the API has and answers what to do;
//! `mirror_task` does it. A mirror belongs to one generation of a static pod (its hash); nothing of
//! a static pod is ever changed in place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::model::pod::{self, CONFIG_HASH, CONFIG_MIRROR};
use crate::model::{Pod, PodKey, PodUid};

/// What to do about one mirror pod.
#[derive(Clone, Debug, PartialEq)]
pub enum MirrorAction {
    /// Make it.
    Create(Arc<Pod>),
    /// Delete it at once, if it is still the object with this UID.
    Delete {
        /// Its name.
        key: PodKey,
        /// Its UID in the API.
        uid: PodUid,
    },
}

impl MirrorAction {
    /// The name that it is about.
    pub fn key(&self) -> PodKey {
        match self {
            Self::Create(pod) => pod::key(pod),
            Self::Delete { key, .. } => key.clone(),
        }
    }
}

/// What [`plan`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct MirrorInput<'a> {
    /// The API's mirror pods.
    pub mirrors: &'a BTreeMap<PodKey, Arc<Pod>>,
    /// Names under which a former generation still stops: its mirror stays until it has.
    pub held: &'a BTreeSet<PodKey>,
    /// Whether the API's pods have all been seen.
    pub api_ready: bool,
    /// Whether every source has been seen completely: before that no mirror is an orphan.
    pub all_ready: bool,
}

/// What is to be done now. At most one action per name; a mirror that is to be replaced is first
/// deleted.
pub fn plan<'a>(
    pods: impl Iterator<Item = &'a Arc<Pod>>,
    input: MirrorInput<'_>,
) -> Vec<MirrorAction> {
    if !input.api_ready {
        return Vec::new();
    }
    let statics: BTreeMap<PodKey, &Arc<Pod>> =
        pods.filter(|pod| pod::is_static(pod)).map(|pod| (pod::key(pod), pod)).collect();
    let wanted =
        statics.iter().filter(|(key, _)| !input.held.contains(*key)).filter_map(|(key, pod)| {
            match input.mirrors.get(key) {
                None => Some(MirrorAction::Create(Arc::clone(pod))),
                Some(mirror)
                    if mirror.metadata.deletion_timestamp.is_none()
                        && is_mirror_of(mirror, pod) =>
                {
                    None
                }
                Some(mirror) => Some(delete(key, mirror)),
            }
        });
    let orphans = input
        .mirrors
        .iter()
        .filter(|(key, _)| {
            input.all_ready && !statics.contains_key(*key) && !input.held.contains(*key)
        })
        .map(|(key, mirror)| delete(key, mirror));
    orphans.chain(wanted).collect()
}

/// Whether `mirror` shows exactly this generation of the static pod.
pub fn is_mirror_of(mirror: &Pod, pod: &Pod) -> bool {
    mirror.metadata.name == pod.metadata.name
        && mirror.metadata.namespace == pod.metadata.namespace
        && pod::annotation(mirror, CONFIG_MIRROR)
            .is_some_and(|hash| pod::annotation(pod, CONFIG_HASH) == Some(hash))
}

/// The object to create for a static pod. NodeRestriction asks for the owner reference and the
/// annotation.
pub fn mirror_object(pod: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let hash = annotations.get(CONFIG_HASH).cloned().unwrap_or_default();
    annotations.insert(CONFIG_MIRROR.to_owned(), hash);
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node_name.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            finalizers: pod.metadata.finalizers.clone(),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    }
}

fn delete(key: &PodKey, mirror: &Pod) -> MirrorAction {
    MirrorAction::Delete { key: key.clone(), uid: pod::uid(mirror) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::{MirrorAction, MirrorInput, mirror_object, plan};
    use crate::model::{Pod, PodKey, pod};

    fn make(name: &str, uid: &str, annotations: &[(&str, &str)], deleted: bool) -> Arc<Pod> {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let deletion = deleted.then_some("2026-01-01T00:00:00Z");
        let value = serde_json::json!({"metadata": {"name": name, "namespace": "d", "uid": uid,
            "annotations": annotations, "deletionTimestamp": deletion}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn file(name: &str, hash: &str) -> Arc<Pod> {
        make(name, hash, &[(pod::CONFIG_SOURCE, "file"), (pod::CONFIG_HASH, hash)], false)
    }

    fn mirror(name: &str, uid: &str, hash: &str, deleted: bool) -> Arc<Pod> {
        make(name, uid, &[(pod::CONFIG_SOURCE, "api"), (pod::CONFIG_MIRROR, hash)], deleted)
    }

    #[track_caller]
    fn check(
        pods: &[Arc<Pod>],
        mirrors: &[Arc<Pod>],
        held: &[&str],
        ready: (bool, bool),
        expected: &[&str],
    ) {
        let mirrors = mirrors.iter().map(|mirror| (pod::key(mirror), Arc::clone(mirror))).collect();
        let held: BTreeSet<PodKey> = held.iter().map(|name| PodKey::new("d", *name)).collect();
        let input =
            MirrorInput { mirrors: &mirrors, held: &held, api_ready: ready.0, all_ready: ready.1 };
        let actions: Vec<String> = plan(pods.iter(), input)
            .into_iter()
            .map(|action| match action {
                MirrorAction::Create(pod) => format!("create {}", pod::uid(&pod)),
                MirrorAction::Delete { uid, .. } => format!("delete {uid}"),
            })
            .collect();
        assert_eq!(actions, expected);
    }

    #[test]
    fn decides() {
        let all = (true, true);
        check(&[file("a", "h1")], &[], &[], all, &["create h1"]);
        check(&[file("a", "h1")], &[mirror("a", "m", "h1", false)], &[], all, &[]);
        check(&[file("a", "h2")], &[mirror("a", "m", "h1", false)], &[], all, &["delete m"]);
        check(&[file("a", "h1")], &[mirror("a", "m", "h1", true)], &[], all, &["delete m"]);
        check(&[], &[mirror("a", "m", "h1", false)], &[], all, &["delete m"]);
    }

    #[test]
    fn waits_for_what_it_does_not_know() {
        check(&[file("a", "h1")], &[], &[], (false, false), &[]);
        check(&[file("a", "h1")], &[], &[], (true, false), &["create h1"]);
        check(&[], &[mirror("a", "m", "h1", false)], &[], (true, false), &[]);
    }

    #[test]
    fn a_generation_that_still_stops_keeps_its_mirror() {
        check(&[], &[mirror("a", "m", "h1", false)], &["a"], (true, true), &[]);
        check(&[file("a", "h2")], &[mirror("a", "m", "h1", false)], &["a"], (true, true), &[]);
    }

    #[test]
    fn the_object_is_owned_by_the_node_and_carries_the_hash() {
        let object = mirror_object(&file("a", "h1"), "n", "nu");
        assert_eq!(pod::annotation(&object, pod::CONFIG_MIRROR), Some("h1"));
        assert_eq!(object.metadata.uid, None);
        let owner = &object.metadata.owner_references.expect("an owner")[0];
        assert_eq!(
            (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
            ("Node", "nu", Some(true))
        );
    }
}
