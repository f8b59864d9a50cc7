//! What is written into the cgroups of pods, of the QoS tiers and of the node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::list::{self, Amounts, CPU, Column, MEMORY, PIDS};
use super::qos::{self, QosClass};
use super::{cpu, list::Quantities};
pub use crate::linux::cgroup::{CgroupSettings, HugePages, Reading};

/// What the node's configuration says about pods' cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodCgroupPolicy {
    /// `cpuCFSQuota`: whether CPU limits are enforced.
    pub enforce_cpu_limits: bool,
    /// `cpuCFSQuotaPeriod` in microseconds.
    pub cpu_period: u64,
    /// `podPidsLimit`; not set when zero or below.
    pub pids_limit: i64,
}

impl Default for PodCgroupPolicy {
    fn default() -> Self {
        Self { enforce_cpu_limits: true, cpu_period: cpu::QUOTA_PERIOD, pids_limit: -1 }
    }
}

/// CPU and memory of a pod's cgroup: the part of its settings that a resize changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// CPU shares on the scale of cgroup v1.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds per period; -1: none.
    pub cpu_quota: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit in bytes; `None`: there is none.
    pub memory: Option<i64>,
}

impl Figures {
    /// The figures that the pod's cgroup should have. A value that is `None` is left as it is.
    pub fn wanted(pod: &api::Pod, policy: &PodCgroupPolicy) -> Self {
        Self::from(&self::pod(pod, policy))
    }

    /// Returns true if a cgroup with these figures has to be changed to have those of `wanted`.
    pub fn differ_from(self, wanted: Self) -> bool {
        fn is_other<T: PartialEq + Copy>(has: Option<T>, wanted: Option<T>) -> bool {
            wanted.is_some() && has != wanted
        }
        is_other(self.cpu_shares, wanted.cpu_shares)
            || is_other(self.cpu_quota, wanted.cpu_quota)
            || is_other(self.cpu_period, wanted.cpu_period)
            || is_other(self.memory, wanted.memory)
    }

    /// The figures after `wanted` was written.
    #[must_use]
    pub fn changed_to(self, wanted: Self) -> Self {
        Self {
            cpu_shares: wanted.cpu_shares.or(self.cpu_shares),
            cpu_quota: wanted.cpu_quota.or(self.cpu_quota),
            cpu_period: wanted.cpu_period.or(self.cpu_period),
            memory: wanted.memory.or(self.memory),
        }
    }

    /// The values of `wanted` that are larger than these: what is written before containers are
    /// resized, since they may not exceed their pod.
    #[must_use]
    pub fn growth_to(self, wanted: Self) -> Self {
        let limit = |value: Option<i64>| value.filter(|value| *value > 0).unwrap_or(i64::MAX);
        let cpu_quota =
            wanted.cpu_quota.filter(|_| limit(wanted.cpu_quota) > limit(self.cpu_quota));
        Self {
            cpu_shares: wanted.cpu_shares.filter(|_| wanted.cpu_shares > self.cpu_shares),
            cpu_quota,
            cpu_period: wanted.cpu_period.filter(|_| cpu_quota.is_some()),
            memory: wanted.memory.filter(|_| limit(wanted.memory) > limit(self.memory)),
        }
    }

    /// Settings that change these figures and nothing else.
    pub fn settings(self) -> CgroupSettings {
        let Self { cpu_shares, cpu_quota, cpu_period, memory } = self;
        CgroupSettings { cpu_shares, cpu_quota, cpu_period, memory, ..CgroupSettings::default() }
    }
}

impl From<&CgroupSettings> for Figures {
    fn from(settings: &CgroupSettings) -> Self {
        Self {
            cpu_shares: settings.cpu_shares,
            // Zero leaves a limit as it is.
            cpu_quota: settings.cpu_quota.filter(|quota| *quota != 0),
            cpu_period: settings.cpu_period,
            memory: settings.memory.filter(|limit| *limit != 0),
        }
    }
}

impl From<Reading> for Figures {
    fn from(reading: Reading) -> Self {
        let Reading { cpu_shares, cpu_quota, cpu_period, memory, memory_usage: _ } = reading;
        Self { cpu_shares, cpu_quota, cpu_period, memory }
    }
}

/// A pod's cgroup: shares by its requests; limits only where every container has one or the pod as
/// a whole has.
pub fn pod(pod: &api::Pod, policy: &PodCgroupPolicy) -> CgroupSettings {
    let requests = list::pod_requests(pod);
    let limits = list::pod_limits(pod);
    let milli = |list: &Amounts| list.get(CPU).map(|amount| amount.milli()).unwrap_or_default();
    let shares = cpu::shares(milli(&requests));
    let quota =
        if policy.enforce_cpu_limits { cpu::quota(milli(&limits), policy.cpu_period) } else { -1 };
    let memory = limits.get(MEMORY).map(|amount| amount.units()).unwrap_or_default();
    let mut settings = CgroupSettings {
        huge_pages: Some(HugePages::Limits(huge_page_limits(&requests))),
        pids: (policy.pids_limit > 0).then_some(policy.pids_limit),
        ..CgroupSettings::default()
    };
    match qos::of(pod) {
        QosClass::Guaranteed => {
            settings.cpu_shares = Some(shares);
            settings.cpu_quota = Some(quota);
            settings.cpu_period = Some(policy.cpu_period);
            settings.memory = Some(memory);
        }
        QosClass::Burstable => {
            settings.cpu_shares = Some(shares);
            if is_limited(pod, CPU) {
                settings.cpu_quota = Some(quota);
                settings.cpu_period = Some(policy.cpu_period);
            }
            settings.memory = is_limited(pod, MEMORY).then_some(memory);
        }
        QosClass::BestEffort => settings.cpu_shares = Some(cpu::MIN_SHARES),
    }
    settings
}

/// A QoS tier that holds these pods: burstable pods share what they ask for together, best-effort
/// ones the least there is. Huge pages are not limited there.
pub fn tier<'a>(class: QosClass, pods: impl IntoIterator<Item = &'a api::Pod>) -> CgroupSettings {
    let cpu_shares = match class {
        QosClass::Guaranteed => None,
        QosClass::BestEffort => Some(cpu::MIN_SHARES),
        QosClass::Burstable => {
            let burstable = pods.into_iter().filter(|pod| qos::of(pod) == QosClass::Burstable);
            let milli = burstable
                .map(|pod| list::pod_requests(pod).get(CPU).map_or(0, |amount| amount.milli()));
            Some(cpu::shares(milli.fold(0, i64::saturating_add)))
        }
    };
    CgroupSettings {
        cpu_shares,
        huge_pages: Some(HugePages::Unlimited),
        ..CgroupSettings::default()
    }
}

/// The cgroup of all pods, or of the reserved daemons: what they may use together.
/// `compressible_only` leaves out what cannot be given back (memory, processes, huge pages).
pub fn node(amounts: &Amounts, compressible_only: bool) -> CgroupSettings {
    let mut settings = CgroupSettings {
        cpu_shares: amounts.get(CPU).map(|amount| cpu::shares(amount.milli())),
        ..CgroupSettings::default()
    };
    if !compressible_only {
        settings.memory = amounts.get(MEMORY).map(|amount| amount.units());
        settings.pids = amounts.get(PIDS).map(|amount| amount.units());
        settings.huge_pages = Some(HugePages::Limits(huge_page_limits(amounts)));
    }
    settings
}

/// Whether the pod's use of the resource is limited as a whole: every container is, or the
/// pod-level limit says so.
fn is_limited(pod: &api::Pod, name: &str) -> bool {
    let whole = |list: &Quantities| list.get(name).is_some_and(|text| !list::parse(text).is_zero());
    list::all_containers_limited(pod, name)
        || list::pod_level(pod, Column::Limits).is_some_and(whole)
}

fn huge_page_limits(amounts: &Amounts) -> BTreeMap<i64, i64> {
    let mut limits = BTreeMap::new();
    for (name, amount) in amounts {
        if let Some(size) = list::huge_page_size(name) {
            let limit: &mut i64 = limits.entry(size).or_default();
            *limit = limit.saturating_add(amount.units());
        }
    }
    limits
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests {
    use serde_json::{Value, json};

    use super::{Figures, HugePages, PodCgroupPolicy, node, pod, tier};
    use crate::resources::list::amounts;
    use crate::resources::qos::QosClass;
    use crate::resources::qos::tests::pod as make;

    /// (shares, quota, period, memory)
    type Written = (Option<u64>, Option<i64>, Option<u64>, Option<i64>);

    #[track_caller]
    fn check(spec: Value, enforce_cpu_limits: bool, expected: Written) {
        let policy = PodCgroupPolicy { enforce_cpu_limits, ..PodCgroupPolicy::default() };
        let settings = pod(&make(spec), &policy);
        assert_eq!(
            (settings.cpu_shares, settings.cpu_quota, settings.cpu_period, settings.memory),
            expected
        );
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn limits_only_where_all_containers_are_limited() {
        let full = json!({"cpu": "100m", "memory": "100Mi"});
        let double = json!({"cpu": "200m", "memory": "200Mi"});
        let none = json!({});
        let of = |list: Value| json!({"containers": list});
        check(
            of(json!([container(none.clone(), none.clone())])),
            true,
            (Some(2), None, None, None),
        );
        check(
            of(json!([container(full.clone(), none.clone())])),
            true,
            (Some(102), None, None, None),
        );
        check(
            of(json!([container(full.clone(), double.clone())])),
            true,
            (Some(102), Some(20_000), Some(100_000), Some(209_715_200)),
        );
        check(
            of(json!([
                container(full.clone(), double.clone()),
                container(full.clone(), none.clone())
            ])),
            true,
            (Some(204), None, None, None),
        );
        check(
            of(json!([container(full.clone(), full.clone())])),
            true,
            (Some(102), Some(10_000), Some(100_000), Some(104_857_600)),
        );
        check(
            of(json!([container(full.clone(), full.clone())])),
            false,
            (Some(102), Some(-1), Some(100_000), Some(104_857_600)),
        );
        check(
            json!({"resources": {"limits": double}, "containers": [container(full, none)]}),
            true,
            (Some(102), Some(20_000), Some(100_000), Some(209_715_200)),
        );
    }

    #[test]
    fn figures_grow_first_and_shrink_last() {
        let small = Figures {
            cpu_shares: Some(102),
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
        };
        let mixed = Figures { cpu_quota: Some(30_000), memory: Some(1 << 10), ..small };
        let growth = small.growth_to(mixed);
        assert_eq!((growth.cpu_quota, growth.memory), (Some(30_000), None));
        assert!(small.differ_from(mixed));
        assert_eq!(small.changed_to(mixed), mixed);

        let open = Figures { cpu_quota: Some(-1), memory: None, ..small };
        let growth = open.growth_to(small);
        assert_eq!((growth.cpu_quota, growth.memory), (None, None), "no limit is the largest");
        let unset = Figures { cpu_shares: Some(102), ..Figures::default() };
        assert!(!small.differ_from(unset), "a limit that is not asked for any more stays");
    }

    #[test]
    fn init_containers_without_limits_count() {
        let full = json!({"cpu": "100m", "memory": "100Mi"});
        check(
            json!({"containers": [container(full.clone(), full)], "initContainers": [{"name": "i"}]}),
            true,
            (Some(102), None, None, None),
        );
    }

    #[test]
    fn huge_pages_and_processes() {
        let pod_object = make(
            json!({"containers": [container(json!({"hugepages-2Mi": "4Mi", "cpu": "1"}), json!({"hugepages-2Mi": "4Mi"}))]}),
        );
        let settings =
            pod(&pod_object, &PodCgroupPolicy { pids_limit: 100, ..PodCgroupPolicy::default() });
        assert_eq!(settings.huge_pages, Some(HugePages::Limits([(2 << 20, 4 << 20)].into())));
        assert_eq!(settings.pids, Some(100));
    }

    #[test]
    fn tiers_share_what_their_pods_ask_for() {
        let pods: Vec<_> = ["100m", "400m"]
            .iter()
            .map(|cpu| make(json!({"containers": [container(json!({"cpu": cpu}), json!({}))]})))
            .chain([make(json!({"containers": [{"name": "c"}]}))])
            .collect();
        assert_eq!(tier(QosClass::Burstable, &pods).cpu_shares, Some(512));
        assert_eq!(tier(QosClass::Burstable, []).cpu_shares, Some(2));
        assert_eq!(tier(QosClass::BestEffort, &pods).cpu_shares, Some(2));
        assert_eq!(tier(QosClass::Burstable, []).huge_pages, Some(HugePages::Unlimited));
    }

    #[test]
    fn the_nodes_cgroup_has_what_pods_may_use() {
        let list = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi", "pid": "1000"}))
            .expect("a list");
        let all = node(&amounts(Some(&list)), false);
        assert_eq!((all.cpu_shares, all.memory, all.pids), (Some(2048), Some(1 << 30), Some(1000)));
        let some = node(&amounts(Some(&list)), true);
        assert_eq!(
            (some.cpu_shares, some.memory, some.pids, some.huge_pages),
            (Some(2048), None, None, None)
        );
    }
}
