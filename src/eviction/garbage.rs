//! Which containers that have ended are too many on the node. Pure.
//!
//! The planner of each pod already removes those beyond the newest of their name. What is here
//! needs the view of all pods: the limit of the node, and a limit of none for each name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{ContainerId, PodUid, Wall};

/// How many containers that have ended are kept (`--maximum-dead-containers…`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `--minimum-container-ttl-duration`: one that was created later stays.
    pub min_age: Duration,
    /// `--maximum-dead-containers-per-container`; `None`: no limit.
    pub per_container: Option<usize>,
    /// `--maximum-dead-containers`; `None`: no limit.
    pub total: Option<usize>,
}

impl Policy {
    /// Returns true if the planners of pods do all that there is to do.
    pub fn is_default(&self) -> bool {
        self.total.is_none() && self.per_container != Some(0)
    }

    /// Returns how many the planner of a pod keeps of each name. As upstream, one at least: its
    /// exit is the container's last state.
    pub fn kept_by_plan(&self) -> usize {
        self.per_container.unwrap_or(1).max(1)
    }
}

/// A container that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its pod.
    pub pod: PodUid,
    /// Its name in the pod.
    pub name: String,
    /// The runtime's id.
    pub id: ContainerId,
    /// The time at which the runtime created it.
    pub created: Wall,
}

/// Returns the containers that are to be removed, by pod: the oldest of each name beyond the limit
/// of a name, then as many of every name as the limit of the node wants, then the oldest of all.
pub fn excess(
    policy: &Policy,
    dead: Vec<Dead>,
    now: Wall,
) -> BTreeMap<PodUid, BTreeSet<ContainerId>> {
    let is_old = |dead: &Dead| {
        let age = Duration::try_from(now.duration_since(dead.created)).unwrap_or_default();
        age >= policy.min_age
    };
    let mut units: BTreeMap<(PodUid, String), Vec<Dead>> = BTreeMap::new();
    for dead in dead.into_iter().filter(is_old) {
        units.entry((dead.pod.clone(), dead.name.clone())).or_default().push(dead);
    }
    for unit in units.values_mut() {
        // The newest first.
        unit.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
    }

    let mut removed = Vec::new();
    if let Some(most) = policy.per_container {
        keep_of_each(&mut units, most, &mut removed);
    }
    if let Some(most) = policy.total {
        if count(&units) > most {
            let share = most.checked_div(units.len()).unwrap_or_default().max(1);
            keep_of_each(&mut units, share, &mut removed);
        }
        let too_many = count(&units).saturating_sub(most);
        let mut left: Vec<Dead> = units.into_values().flatten().collect();
        left.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
        removed.extend(left.into_iter().take(too_many));
    }

    let mut by_pod: BTreeMap<PodUid, BTreeSet<ContainerId>> = BTreeMap::new();
    for dead in removed {
        by_pod.entry(dead.pod).or_default().insert(dead.id);
    }
    by_pod
}

fn keep_of_each(
    units: &mut BTreeMap<(PodUid, String), Vec<Dead>>,
    most: usize,
    removed: &mut Vec<Dead>,
) {
    for unit in units.values_mut() {
        removed.extend(unit.drain(most.min(unit.len())..));
    }
    units.retain(|_, unit| !unit.is_empty());
}

fn count(units: &BTreeMap<(PodUid, String), Vec<Dead>>) -> usize {
    units.values().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Dead, Policy, excess};
    use crate::model::{ContainerId, PodUid, Wall};

    fn at(second: i64) -> Wall {
        Wall::from_second(second).expect("a time")
    }

    /// Containers `pod/name@created`.
    fn dead(list: &[&str]) -> Vec<Dead> {
        let parse = |text: &&str| {
            let (pod, rest) = text.split_once('/').expect("a pod");
            let (name, created) = rest.split_once('@').expect("a time");
            Dead {
                pod: PodUid::new(pod),
                name: name.to_owned(),
                id: ContainerId::from(*text),
                created: at(created.parse().expect("a number")),
            }
        };
        list.iter().map(parse).collect()
    }

    #[track_caller]
    fn check(policy: (u64, i32, i32), list: &[&str], removed: &[&str]) {
        let (min_age, per_container, total) = policy;
        let policy = Policy {
            min_age: Duration::from_secs(min_age),
            per_container: usize::try_from(per_container).ok(),
            total: usize::try_from(total).ok(),
        };
        let gone = excess(&policy, dead(list), at(100));
        let gone: Vec<String> = gone.into_values().flatten().map(|id| id.to_string()).collect();
        assert_eq!(gone, removed);
    }

    /// The cases of upstream's `TestGarbageCollect`.
    #[test]
    fn the_oldest_go_first() {
        check((0, 2, 6), &["foo/x@0", "foo/x@1", "foo/x@2"], &["foo/x@0"]);
        check((0, 1, -1), &["foo/x@0", "foo/x@1", "bar/y@0"], &["foo/x@0"]);
        check((0, -1, -1), &["foo/x@0", "foo/x@1", "foo/x@2"], &[]);
        check((0, 0, -1), &["foo/x@0", "foo/x@1"], &["foo/x@0", "foo/x@1"]);
    }

    #[test]
    fn the_nodes_limit_takes_an_equal_share_of_each_name_and_then_the_oldest() {
        let list = ["a/x@0", "a/x@1", "a/x@2", "b/y@3", "b/y@4", "c/z@5", "d/w@6", "e/v@7"];
        check((0, -1, 6), &list, &["a/x@0", "a/x@1", "b/y@3"]);
        check((0, -1, 3), &list, &["a/x@0", "a/x@1", "a/x@2", "b/y@3", "b/y@4"]);
    }

    #[test]
    fn a_young_one_stays() {
        check((60, 0, -1), &["a/x@10", "a/x@50"], &["a/x@10"]);
    }

    #[test]
    fn the_plan_keeps_one_at_least() {
        assert_eq!(Policy { per_container: Some(0), ..Policy::default() }.kept_by_plan(), 1);
        assert_eq!(Policy { per_container: Some(3), ..Policy::default() }.kept_by_plan(), 3);
        assert_eq!(Policy::default().kept_by_plan(), 1);
    }
}
