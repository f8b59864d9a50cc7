//! Which pods end together at a shutdown, in which order, and with which grace. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::config::types::ShutdownGracePeriodByPodPriority;
use crate::model::Pod;

/// The least priority of critical pods.
const CRITICAL: i32 = 2_000_000_000;

/// The grace of the pods from one priority up to the next group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The least priority of its pods; of the first group's pods also any lower one.
    pub priority: i32,
    /// The longest time that its pods have to end.
    pub grace: Duration,
}

/// Returns the groups of a configuration, from low to high priority. `listed` are those that are
/// configured; without them there are two, of `whole` without `critical` and of `critical`.
pub fn from_config(
    listed: &[ShutdownGracePeriodByPodPriority],
    whole: Duration,
    critical: Duration,
) -> Vec<Group> {
    // Upstream's fields are of whole seconds.
    let whole_seconds = |time: Duration| Duration::from_secs(time.as_secs());
    let mut groups: Vec<Group> = listed
        .iter()
        .map(|one| Group {
            priority: one.priority,
            grace: Duration::from_secs(
                u64::try_from(one.shutdown_grace_period_seconds).unwrap_or_default(),
            ),
        })
        .collect();
    if groups.is_empty() && !whole.is_zero() && critical <= whole {
        groups.push(Group { priority: 0, grace: whole_seconds(whole.saturating_sub(critical)) });
        groups.push(Group { priority: CRITICAL, grace: whole_seconds(critical) });
    }

    groups.sort_by_key(|group| group.priority);
    groups
}

/// Returns the time that a shutdown takes at most.
pub fn longest(groups: &[Group]) -> Duration {
    groups.iter().map(|group| group.grace).sum()
}

/// Returns each group with its pods, in the order in which they end. A group without pods is left
/// out: nothing waits for it.
pub fn plan(groups: &[Group], pods: &[Arc<Pod>]) -> Vec<(Group, Vec<Arc<Pod>>)> {
    let mut planned: Vec<(Group, Vec<Arc<Pod>>)> =
        groups.iter().map(|group| (*group, Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default();
        let above = groups.partition_point(|group| group.priority <= priority);
        if let Some((_, own)) = planned.get_mut(above.saturating_sub(1)) {
            own.push(Arc::clone(pod));
        }
    }

    planned.retain(|(_, own)| !own.is_empty());
    planned
}

/// Returns the grace of a pod of `group`: its own, if that is shorter.
pub fn grace(group: Group, one: &Pod) -> Duration {
    let own = one.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    own.map_or(group.grace, |own| {
        Duration::from_secs(u64::try_from(own).unwrap_or_default()).min(group.grace)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;
    use crate::model::pod;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn group(priority: i32, grace: u64) -> Group {
        Group { priority, grace: seconds(grace) }
    }

    fn listed(priority: i32, grace: i64) -> ShutdownGracePeriodByPodPriority {
        ShutdownGracePeriodByPodPriority { priority, shutdown_grace_period_seconds: grace }
    }

    fn with_priority(name: &str, priority: Option<i32>, grace: Option<i64>) -> Arc<Pod> {
        let mut made = Pod::default();
        made.metadata.name = Some(name.to_owned());
        made.spec = Some(PodSpec {
            priority,
            termination_grace_period_seconds: grace,
            ..PodSpec::default()
        });
        Arc::new(made)
    }

    #[test]
    fn two_periods_are_two_groups() {
        assert_eq!(from_config(&[], seconds(30), seconds(10)), [group(0, 20), group(CRITICAL, 10)]);
        assert_eq!(from_config(&[], seconds(30), seconds(0)), [group(0, 30), group(CRITICAL, 0)]);
        assert_eq!(from_config(&[], seconds(0), seconds(0)), []);
    }

    #[test]
    fn what_is_listed_counts_alone_and_is_sorted() {
        let groups = from_config(&[listed(100, 5), listed(-10, 1)], seconds(30), seconds(10));
        assert_eq!(groups, [group(-10, 1), group(100, 5)]);
        assert_eq!(longest(&groups), seconds(6));
    }

    #[test]
    fn a_pod_belongs_to_the_highest_group_that_is_not_above_it() {
        let groups = [group(10, 1), group(100, 2), group(1000, 3)];
        let pods = [
            with_priority("none", None, None),
            with_priority("below", Some(-5), None),
            with_priority("on", Some(100), None),
            with_priority("between", Some(999), None),
            with_priority("above", Some(5000), None),
        ];
        let planned: Vec<(i32, Vec<String>)> = plan(&groups, &pods)
            .into_iter()
            .map(|(group, own)| {
                (group.priority, own.iter().map(|pod| pod::key(pod).name.to_string()).collect())
            })
            .collect();
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            planned,
            [
                (10, names(&["none", "below"])),
                (100, names(&["on", "between"])),
                (1000, names(&["above"]))
            ]
        );
        assert_eq!(plan(&groups, &pods[4..]).len(), 1);
    }

    #[test]
    fn the_shorter_grace_counts() {
        let own = |seconds| with_priority("a", None, seconds);
        assert_eq!(grace(group(0, 20), &own(Some(5))), seconds(5));
        assert_eq!(grace(group(0, 20), &own(Some(30))), seconds(20));
        assert_eq!(grace(group(0, 20), &own(None)), seconds(20));
    }
}
