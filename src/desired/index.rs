//! The merged view of all sources: which pods this node should know, which objects are mirrors,
//! what has changed.
//!
//! Pure. It takes the present sets and answers the difference to the sets before; the same sets
//! give no difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Pod, PodKey, PodUid, pod};
use crate::sources::SourceKind;

/// A change of one desired pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The pod is new, or its object has changed in any way (status included).
    Upsert(Arc<Pod>),
    /// No source has the pod any more.
    Gone(PodUid),
}

/// A pod that is left out because another one of the same source has its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Duplicate {
    /// The pod that is left out.
    pub pod: Arc<Pod>,
    /// Its source.
    pub source: SourceKind,
}

/// What one update has changed. Removals come first, then the pods in the order of their creation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// For the pods' tasks.
    pub changes: Vec<Change>,
    /// Pods that are newly left out.
    pub duplicates: Vec<Duplicate>,
}

/// The merged view.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pods: BTreeMap<PodUid, Arc<Pod>>,
    by_key: BTreeMap<PodKey, PodUid>,
    mirrors: BTreeMap<PodKey, Arc<Pod>>,
    left_out: BTreeMap<PodUid, Arc<Pod>>,
}

impl Index {
    /// Puts the present sets in the place of the former ones and answers the difference.
    pub fn update<'a>(
        &mut self,
        sources: impl IntoIterator<Item = (SourceKind, &'a BTreeMap<PodUid, Arc<Pod>>)>,
    ) -> Step {
        let mut next = Self::default();
        let mut duplicates = Vec::new();
        for (source, pods) in sources {
            next.add_source(source, pods, self, &mut duplicates);
        }
        let gone =
            self.pods.keys().filter(|uid| !next.pods.contains_key(*uid)).cloned().map(Change::Gone);
        let mut newer: Vec<&Arc<Pod>> = next
            .pods
            .iter()
            .filter(|(uid, pod)| self.pods.get(*uid).is_none_or(|old| !Arc::ptr_eq(old, pod)))
            .map(|(_, pod)| pod)
            .collect();
        // Admission goes in this order: what came first keeps its place. Stable, so that static
        // pods, which have no time, stay in the order of their UIDs.
        newer.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let upserts = newer.into_iter().map(|pod| Change::Upsert(Arc::clone(pod)));
        let changes = gone.chain(upserts).collect();
        *self = next;
        Step { changes, duplicates }
    }

    fn add_source(
        &mut self,
        source: SourceKind,
        pods: &BTreeMap<PodUid, Arc<Pod>>,
        before: &Self,
        duplicates: &mut Vec<Duplicate>,
    ) {
        let mut names: BTreeMap<PodKey, PodUid> = BTreeMap::new();
        // The one that has the name already keeps it.
        let (known, new): (Vec<_>, Vec<_>) =
            pods.iter().partition(|(uid, _)| before.pods.contains_key(*uid));
        for (uid, pod) in known.into_iter().chain(new) {
            let key = pod::key(pod);
            if source == SourceKind::Api && pod::is_mirror(pod) {
                self.mirrors.insert(key, Arc::clone(pod));
                continue;
            }
            // An object deleted and made again within one update of the API's set is no duplicate:
            // both are real there.
            if source != SourceKind::Api && names.contains_key(&key) {
                if !before.left_out.contains_key(uid) {
                    duplicates.push(Duplicate { pod: Arc::clone(pod), source });
                }
                self.left_out.insert(uid.clone(), Arc::clone(pod));
                continue;
            }
            names.insert(key.clone(), uid.clone());
            self.pods.insert(uid.clone(), Arc::clone(pod));
            // Static pods come first and keep their name; among API pods the one that is not being
            // deleted has it.
            let displaced = match self.by_key.get(&key).and_then(|holder| self.pods.get(holder)) {
                None => true,
                Some(holder) => {
                    !pod::is_static(holder) && holder.metadata.deletion_timestamp.is_some()
                }
            };
            if displaced {
                self.by_key.insert(key, uid.clone());
            }
        }
    }

    /// The pods, by UID; mirror pods are not among them.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// The pod with that UID.
    pub fn get(&self, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }

    /// The pod with that name.
    pub fn by_key(&self, key: &PodKey) -> Option<&Arc<Pod>> {
        self.by_key.get(key).and_then(|uid| self.pods.get(uid))
    }

    /// The API's mirror pods, by name.
    pub fn mirrors(&self) -> &BTreeMap<PodKey, Arc<Pod>> {
        &self.mirrors
    }

    /// The mirror of a static pod, if the API has one that belongs to exactly this generation of
    /// it.
    pub fn mirror_of(&self, uid: &PodUid) -> Option<&Arc<Pod>> {
        let pod = self.pods.get(uid).filter(|pod| pod::is_static(pod))?;
        self.mirrors.get(&pod::key(pod)).filter(|mirror| super::mirror::is_mirror_of(mirror, pod))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{Change, Index};
    use crate::model::{Pod, PodKey, PodUid, pod};
    use crate::sources::SourceKind;

    fn make(name: &str, uid: &str, annotations: &[(&str, &str)]) -> Arc<Pod> {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let value = serde_json::json!({
            "metadata": {"name": name, "namespace": "d", "uid": uid, "annotations": annotations}
        });
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn set(pods: &[&Arc<Pod>]) -> BTreeMap<PodUid, Arc<Pod>> {
        pods.iter().map(|pod| (pod::uid(pod), Arc::clone(pod))).collect()
    }

    fn static_pod(name: &str, uid: &str) -> Arc<Pod> {
        make(name, uid, &[(pod::CONFIG_SOURCE, "file"), (pod::CONFIG_HASH, uid)])
    }

    #[test]
    fn answers_differences_only() {
        let mut index = Index::default();
        let (a, b) = (make("a", "1", &[]), make("b", "2", &[]));
        let step = index.update([(SourceKind::Api, &set(&[&a, &b]))]);
        assert_eq!(step.changes, [Change::Upsert(Arc::clone(&a)), Change::Upsert(Arc::clone(&b))]);
        assert_eq!(index.update([(SourceKind::Api, &set(&[&a, &b]))]).changes, []);
        let changed = make("a", "1", &[("x", "y")]);
        let step = index.update([(SourceKind::Api, &set(&[&changed]))]);
        assert_eq!(step.changes, [Change::Gone("2".into()), Change::Upsert(Arc::clone(&changed))]);
    }

    #[test]
    fn the_pods_of_one_update_come_in_the_order_of_their_creation() {
        let created = |uid: &str, second: i64| {
            let mut pod = (*make(uid, uid, &[])).clone();
            let at = jiff::Timestamp::from_second(second).expect("a time");
            pod.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
            Arc::new(pod)
        };
        let pods = [created("a", 3), created("b", 1), created("c", 2), static_pod("s", "s")];
        let mut index = Index::default();
        let step = index.update([(SourceKind::Api, &set(&pods.iter().collect::<Vec<_>>()))]);
        let order: Vec<String> = step
            .changes
            .iter()
            .map(|change| match change {
                Change::Upsert(pod) => pod::uid(pod).to_string(),
                Change::Gone(uid) => uid.to_string(),
            })
            .collect();
        assert_eq!(order, ["s", "b", "c", "a"]);
    }

    #[test]
    fn an_edited_static_pod_is_another_pod() {
        let mut index = Index::default();
        let (old, new) = (static_pod("etcd-n", "h1"), static_pod("etcd-n", "h2"));
        index.update([(SourceKind::File, &set(&[&old]))]);
        let step = index.update([(SourceKind::File, &set(&[&new]))]);
        assert_eq!(step.changes, [Change::Gone("h1".into()), Change::Upsert(Arc::clone(&new))]);
    }

    #[test]
    fn mirrors_are_not_run_and_belong_to_one_generation() {
        let mut index = Index::default();
        let pod = static_pod("etcd-n", "h1");
        let mirror =
            make("etcd-n", "m1", &[(pod::CONFIG_MIRROR, "h1"), (pod::CONFIG_SOURCE, "api")]);
        let step =
            index.update([(SourceKind::File, &set(&[&pod])), (SourceKind::Api, &set(&[&mirror]))]);
        assert_eq!(step.changes, [Change::Upsert(Arc::clone(&pod))]);
        assert_eq!(index.mirror_of(&"h1".into()), Some(&mirror));
        let edited = static_pod("etcd-n", "h2");
        index.update([(SourceKind::File, &set(&[&edited])), (SourceKind::Api, &set(&[&mirror]))]);
        assert_eq!(index.mirror_of(&"h2".into()), None);
    }

    #[test]
    fn of_two_files_with_one_name_the_first_seen_stays() {
        let mut index = Index::default();
        let (first, second) = (static_pod("web-n", "z"), static_pod("web-n", "a"));
        index.update([(SourceKind::File, &set(&[&first]))]);
        let step = index.update([(SourceKind::File, &set(&[&first, &second]))]);
        assert_eq!(step.changes, []);
        assert_eq!(step.duplicates.len(), 1);
        assert_eq!(step.duplicates[0].pod, second);
        assert!(
            index.update([(SourceKind::File, &set(&[&first, &second]))]).duplicates.is_empty(),
            "told once"
        );
        let step = index.update([(SourceKind::File, &set(&[&second]))]);
        assert_eq!(step.changes, [Change::Gone("z".into()), Change::Upsert(Arc::clone(&second))]);
        assert_eq!(index.by_key(&PodKey::new("d", "web-n")), Some(&second));
    }
}
