//! Limits and requests → what the runtime writes into cgroups.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::cri::v1::{HugepageLimit, LinuxContainerResources};
use crate::model::Pod;
use crate::model::quantity::Amount;
use crate::resources::list::{self, Column};
use crate::resources::swap;

use super::{Settings, SpecError, Swap};

/// Fewest and most CPU shares of a cgroup.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
/// Shares of one CPU.
const SHARES_PER_CPU: i64 = 1024;
/// Shortest quota that the kernel takes, in microseconds.
const MIN_QUOTA: i64 = 1000;

/// Requests and limits of a whole pod, without its overhead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodTotals {
    /// The CPU request; `None` when no container has one.
    pub cpu_request: Option<Amount>,
    /// The CPU limit; zero for none.
    pub cpu_limit: Amount,
    /// The memory limit; zero for none.
    pub memory_limit: Amount,
}

impl PodTotals {
    /// The totals of a pod: pod-level resources where it has them, else what its containers add up
    /// to.
    pub fn of(pod: &Pod) -> Self {
        let own = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let of = |which, name: &str| {
            let pod_level = list::amounts(list::column(own, which)).get(name).copied();
            pod_level.or_else(|| list::container_sum(pod, which).get(name).copied())
        };
        Self {
            cpu_request: of(Column::Requests, list::CPU),
            cpu_limit: of(Column::Limits, list::CPU).unwrap_or_default(),
            memory_limit: of(Column::Limits, list::MEMORY).unwrap_or_default(),
        }
    }
}

/// The resources of a sandbox.
pub(super) fn sandbox_resources(
    totals: &PodTotals,
    settings: &Settings,
) -> LinuxContainerResources {
    base(totals.cpu_request, totals.cpu_limit, totals.memory_limit, settings)
}

/// The overhead of a pod's RuntimeClass: requests and limits alike.
pub(super) fn overhead(
    pod: &Pod,
    settings: &Settings,
) -> Result<LinuxContainerResources, SpecError> {
    let Some(overhead) = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()) else {
        return Ok(LinuxContainerResources::default());
    };
    let cpu = amount(Some(overhead), "cpu")?;
    let memory = amount(Some(overhead), "memory")?;
    Ok(base(Some(cpu), cpu, memory, settings))
}

/// The resources of a container: for its creation and for a later update.
pub fn linux_resources(
    pod: &Pod,
    container: &api::Container,
    oom_score_adj: i64,
    settings: &Settings,
) -> Result<LinuxContainerResources, SpecError> {
    let own = container.resources.as_ref();
    let limits = own.and_then(|resources| resources.limits.as_ref());
    let requests = own.and_then(|resources| resources.requests.as_ref());
    let pod_limits = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|all| all.limits.as_ref());

    let limit = |name: &str| match amount(limits, name)? {
        zero if zero.is_zero() => amount(pod_limits, name),
        limit => Ok(limit),
    };
    let cpu_request = match requests.and_then(|requests| requests.get("cpu")) {
        Some(quantity) => Some(parse(quantity)?),
        None => None,
    };
    let mut resources = base(cpu_request, limit("cpu")?, limit("memory")?, settings);
    resources.oom_score_adj = oom_score_adj;
    resources.hugepage_limits = huge_pages(pod_limits, limits, settings)?;
    if settings.swap_controller {
        if settings.cgroup_v2 {
            let swap = swap_share(pod, container, settings)?;
            resources.unified.insert("memory.swap.max".to_owned(), swap.to_string());
        } else {
            // Memory and swap together: no more than memory alone. Swap on cgroup v1 is not
            // supported otherwise.
            resources.memory_swap_limit_in_bytes = resources.memory_limit_in_bytes;
        }
    }
    Ok(resources)
}

/// How much swap a container may use, in bytes: with `LimitedSwap` its request's share of the
/// machine's memory, for containers that may use more than they request, in pods that are not
/// critical.
fn swap_share(
    pod: &Pod,
    container: &api::Container,
    settings: &Settings,
) -> Result<i64, SpecError> {
    let Some(Swap { memory, swap: all }) = settings.limited_swap else { return Ok(0) };
    let own = container.resources.as_ref();
    let request = amount(own.and_then(|own| own.requests.as_ref()), "memory")?;
    if !swap::may_swap(pod, container) {
        return Ok(0);
    }
    if memory <= 0 || request.units() > memory {
        return Ok(0);
    }
    // In floating point, as upstream: the kernel rounds to pages anyway.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a share of less than 2^53 bytes"
    )]
    let share = (request.units() as f64 / memory as f64 * all as f64) as i64;
    Ok(share)
}

fn base(
    cpu_request: Option<Amount>,
    cpu_limit: Amount,
    memory_limit: Amount,
    settings: &Settings,
) -> LinuxContainerResources {
    let mut resources = LinuxContainerResources {
        cpu_shares: shares(cpu_request.unwrap_or(cpu_limit).milli()),
        memory_limit_in_bytes: memory_limit.units(),
        ..LinuxContainerResources::default()
    };
    if settings.cpu_cfs_quota {
        let period = i64::try_from(settings.cpu_cfs_quota_period.as_micros()).unwrap_or(i64::MAX);
        resources.cpu_period = period;
        resources.cpu_quota = quota(cpu_limit.milli(), period);
    }
    if settings.cgroup_v2 && !settings.single_process_oom_kill {
        resources.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    resources
}

fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(*SHARES.start(), *SHARES.end())
}

fn quota(milli: i64, period: i64) -> i64 {
    if milli == 0 { 0 } else { (milli.saturating_mul(period) / 1000).max(MIN_QUOTA) }
}

/// A limit for each page size of the kernel; zero unless the container, else the pod, has one.
fn huge_pages(
    pod: Option<&BTreeMap<String, Quantity>>,
    container: Option<&BTreeMap<String, Quantity>>,
    settings: &Settings,
) -> Result<Vec<HugepageLimit>, SpecError> {
    let mut wanted = BTreeMap::new();
    for (name, quantity) in pod.into_iter().flatten().chain(container.into_iter().flatten()) {
        let Some(size) = name.strip_prefix("hugepages-") else { continue };
        let Some(page) = Amount::parse(size).ok().and_then(|size| page_size(size.units())) else {
            continue;
        };
        wanted.insert(page, u64::try_from(parse(quantity)?.units()).unwrap_or(0));
    }
    let sizes = settings.huge_page_sizes.iter();
    Ok(sizes
        .map(|size| HugepageLimit {
            page_size: size.clone(),
            limit: wanted.get(size).copied().unwrap_or(0),
        })
        .collect())
}

/// `2097152` → `2MB`: how cgroup files and runtimes name a page size.
fn page_size(bytes: i64) -> Option<String> {
    const UNITS: [&str; 6] = ["B", "KB", "MB", "GB", "TB", "PB"];
    let mut size = bytes;
    let mut unit = 0;
    while size > 0 && size % 1024 == 0 && unit + 1 < UNITS.len() {
        size /= 1024;
        unit += 1;
    }
    (size > 0).then(|| format!("{size}{}", UNITS[unit]))
}

fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Result<Amount, SpecError> {
    list.and_then(|list| list.get(name)).map_or(Ok(Amount::ZERO), parse)
}

fn parse(quantity: &Quantity) -> Result<Amount, SpecError> {
    Amount::parse(&quantity.0).map_err(|error| SpecError::container(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::needless_pass_by_value,
        reason = "JSON reads better at the calls without a borrow"
    )]

    use super::*;
    use crate::pods::request::testing;
    use serde_json::json;

    fn made(resources: serde_json::Value, settings: &Settings) -> LinuxContainerResources {
        let pod = testing::pod(json!({"containers": [{"name": "c", "resources": resources}]}));
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        linux_resources(&pod, container, 999, settings).expect("resources")
    }

    #[track_caller]
    fn check(resources: serde_json::Value, shares: i64, quota: i64, memory: i64) {
        let found = made(resources, &Settings::default());
        assert_eq!(
            (found.cpu_shares, found.cpu_quota, found.memory_limit_in_bytes),
            (shares, quota, memory)
        );
        assert_eq!((found.cpu_period, found.oom_score_adj), (100_000, 999));
        assert_eq!(found.unified.get("memory.oom.group").map(String::as_str), Some("1"));
    }

    #[test]
    fn converts_cpu_and_memory() {
        check(json!({}), 2, 0, 0);
        check(
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "64Mi"}}),
            102,
            20_000,
            67_108_864,
        );
        check(json!({"limits": {"cpu": "2"}}), 2048, 200_000, 0);
        check(json!({"requests": {"cpu": "0"}, "limits": {"cpu": "1m"}}), 2, 1000, 0);
        check(json!({"requests": {"cpu": "1000"}}), 262_144, 0, 0);
    }

    #[test]
    fn takes_the_pods_limits_where_the_container_has_none() {
        let pod = testing::pod(
            json!({"containers": [{"name": "c"}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}),
        );
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let found = linux_resources(&pod, container, 0, &Settings::default()).expect("resources");
        assert_eq!(
            (found.cpu_quota, found.memory_limit_in_bytes, found.cpu_shares),
            (100_000, 1 << 30, 1024)
        );
    }

    #[test]
    fn adds_a_pod_up() {
        let limits =
            |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "1Mi"}, "requests": {"cpu": cpu}});
        let containers = json!([{"name": "a", "resources": limits("1")}, {"name": "b", "resources": limits("2")}]);
        let totals = PodTotals::of(&testing::pod(
            json!({"containers": containers, "overhead": {"cpu": "5"}}),
        ));
        assert_eq!(
            (totals.cpu_request, totals.cpu_limit),
            (Some(Amount::from_units(3)), Amount::from_units(3))
        );
        assert_eq!(totals.memory_limit.units(), 2 << 20);
        let own = json!({"limits": {"cpu": "8"}});
        let totals =
            PodTotals::of(&testing::pod(json!({"containers": containers, "resources": own})));
        assert_eq!((totals.cpu_limit.units(), totals.memory_limit.units()), (8, 2 << 20));
        assert_eq!(PodTotals::of(&testing::pod(json!({"containers": []}))), PodTotals::default());
    }

    #[test]
    fn shares_swap_out_to_those_that_may_use_more_than_they_request() {
        let swap = Some(Swap { memory: 8 << 30, swap: 4 << 30 });
        let settings =
            Settings { swap_controller: true, limited_swap: swap, ..Settings::default() };
        let check = |resources, expected: &str| {
            assert_eq!(
                made(resources, &settings).unified.get("memory.swap.max").map(String::as_str),
                Some(expected)
            );
        };
        check(json!({"requests": {"memory": "1Gi"}}), "536870912");
        check(json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}), "536870912");
        check(json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}), "0");
        check(json!({"requests": {"cpu": "1"}}), "0");
        check(json!({}), "0");
        check(json!({"requests": {"memory": "9Gi"}}), "0");
    }

    #[test]
    fn honours_the_nodes_settings() {
        let v1 = Settings {
            cgroup_v2: false,
            cpu_cfs_quota: false,
            swap_controller: true,
            ..Settings::default()
        };
        let found = made(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), &v1);
        assert_eq!(
            (found.cpu_quota, found.cpu_period, found.memory_swap_limit_in_bytes),
            (0, 0, 1 << 30)
        );
        assert!(found.unified.is_empty());
        let single = Settings {
            single_process_oom_kill: true,
            swap_controller: true,
            ..Settings::default()
        };
        let found = made(json!({}), &single);
        assert_eq!(
            found.unified.into_iter().collect::<Vec<_>>(),
            [("memory.swap.max".to_owned(), "0".to_owned())]
        );
        let pages =
            Settings { huge_page_sizes: vec!["2MB".into(), "1GB".into()], ..Settings::default() };
        let found = made(json!({"limits": {"hugepages-2Mi": "8Mi"}}), &pages);
        let limits: Vec<_> = found
            .hugepage_limits
            .iter()
            .map(|page| (page.page_size.as_str(), page.limit))
            .collect();
        assert_eq!(limits, [("2MB", 8 << 20), ("1GB", 0)]);
    }
}
