//! Lists of resources: what a pod asks for and may use, summed as the scheduler sums it.
//!
//! Main containers add up, sidecars add up with them, an init container needs what the sidecars
//! before it have plus its own; pod-level resources override; the overhead comes on top. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::pod;
use crate::model::quantity::Amount;

/// CPU, in cores.
pub const CPU: &str = "cpu";
/// Memory, in bytes.
pub const MEMORY: &str = "memory";
/// Local ephemeral storage, in bytes.
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// How many pods.
pub const PODS: &str = "pods";
/// How many processes: only in reservations and in cgroups, never in the API.
pub const PIDS: &str = "pid";
/// The prefix of huge pages, followed by the page size: `hugepages-2Mi`.
pub const HUGE_PAGES_PREFIX: &str = "hugepages-";

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Amount>;

/// The API's form of a resource list.
pub type Quantities = BTreeMap<String, Quantity>;

/// Which column of `resources` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// `requests`
    Requests,
    /// `limits`
    Limits,
}

/// Parses an API list. What is no quantity counts as nothing: the API server has validated pods,
/// and a node must not stumble over one that got past it.
pub fn amounts(list: Option<&Quantities>) -> Amounts {
    list.into_iter().flatten().map(|(name, text)| (name.clone(), parse(text))).collect()
}

/// One column of a `resources` block.
pub fn column(
    resources: Option<&api::ResourceRequirements>,
    column: Column,
) -> Option<&Quantities> {
    let resources = resources?;
    match column {
        Column::Requests => resources.requests.as_ref(),
        Column::Limits => resources.limits.as_ref(),
    }
}

/// What one container asks for (or may use at most) of one resource; zero when it does not say.
pub fn container_amount(container: &api::Container, which: Column, name: &str) -> Amount {
    amount(container.resources.as_ref(), which, name)
}

/// One amount of a list; zero where it is missing.
pub fn amount(resources: Option<&api::ResourceRequirements>, which: Column, name: &str) -> Amount {
    column(resources, which).and_then(|list| list.get(name)).map_or(Amount::ZERO, parse)
}

/// What the pod asks for, with pod-level requests and the overhead.
pub fn pod_requests(pod: &api::Pod) -> Amounts {
    let mut sum = container_sum(pod, Column::Requests);
    let Some(spec) = &pod.spec else { return sum };
    for (name, text) in column(spec.resources.as_ref(), Column::Requests).into_iter().flatten() {
        if is_pod_level(name) {
            sum.insert(name.clone(), parse(text));
        }
    }
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// What the pod may use at most, as far as it says so, with pod-level limits; the overhead is added
/// to limits that exist.
pub fn pod_limits(pod: &api::Pod) -> Amounts {
    let mut sum = container_sum(pod, Column::Limits);
    let Some(spec) = &pod.spec else { return sum };
    for (name, text) in column(spec.resources.as_ref(), Column::Limits).into_iter().flatten() {
        if is_pod_level(name) {
            sum.insert(name.clone(), parse(text));
        }
    }
    for (name, extra) in amounts(spec.overhead.as_ref()) {
        if let Some(limit) = sum.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = *limit + extra;
        }
    }
    sum
}

/// The sum over the containers alone, by the rule of KEP-753 (sidecars).
pub fn container_sum(pod: &api::Pod, which: Column) -> Amounts {
    let mut sum = Amounts::new();
    for container in pod::main_containers(pod) {
        add(&mut sum, &amounts(column(container.resources.as_ref(), which)));
    }
    let mut peak = Amounts::new();
    for_each_init(pod, which, |container, own, needed| {
        if pod::is_sidecar(container) {
            add(&mut sum, own);
        }
        raise(&mut peak, needed);
    });
    raise(&mut sum, &peak);
    sum
}

/// Whether every container declares a limit for the resource: init containers count with the
/// sidecars before them, as upstream counts. An absent pod-level limit is not looked at here.
pub fn all_containers_limited(pod: &api::Pod, name: &str) -> bool {
    let limited = |list: &Amounts| list.get(name).is_some_and(|amount| !amount.is_zero());
    let mut all = pod::main_containers(pod)
        .iter()
        .all(|container| !container_amount(container, Column::Limits, name).is_zero());
    for_each_init(pod, Column::Limits, |_, _, needed| all &= limited(needed));
    all
}

/// Whether a resource may be set for the pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    name == CPU || name == MEMORY || name.starts_with(HUGE_PAGES_PREFIX)
}

/// Whether the pod sets requests for itself as a whole.
pub fn has_pod_level_requests(pod: &api::Pod) -> bool {
    pod_level(pod, Column::Requests).is_some_and(|list| list.keys().any(|name| is_pod_level(name)))
}

/// The pod-level column, if the pod has one.
pub fn pod_level(pod: &api::Pod, which: Column) -> Option<&Quantities> {
    column(pod.spec.as_ref()?.resources.as_ref(), which)
}

/// Adds one list to another.
pub fn add(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = sum.entry(name.clone()).or_default();
        *entry = *entry + *amount;
    }
}

/// The size in bytes of the huge pages that a resource name is about.
pub fn huge_page_size(name: &str) -> Option<i64> {
    Some(Amount::parse(name.strip_prefix(HUGE_PAGES_PREFIX)?).ok()?.units())
}

/// Whether the resource is extended: a name with a domain of its own that no part of Kubernetes has
/// claimed.
pub fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.")
}

/// An API quantity as an amount; nothing when it is malformed.
pub fn parse(text: &Quantity) -> Amount {
    Amount::parse(&text.0).unwrap_or(Amount::ZERO)
}

/// The canonical text of an amount of bytes, in powers of 1024 where those divide it.
pub fn binary_text(bytes: i64) -> String {
    const STEPS: [(u32, &str); 6] =
        [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    if bytes == 0 {
        return "0".to_owned();
    }
    match STEPS.iter().find(|(shift, _)| bytes % (1_i64 << shift) == 0) {
        Some((shift, suffix)) => format!("{}{suffix}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Calls `f` with each init container, its own list, and what it needs together with the sidecars
/// before it.
fn for_each_init(
    pod: &api::Pod,
    which: Column,
    mut f: impl FnMut(&api::Container, &Amounts, &Amounts),
) {
    let mut sidecars = Amounts::new();
    for container in pod::init_containers(pod) {
        let own = amounts(column(container.resources.as_ref(), which));
        if pod::is_sidecar(container) {
            add(&mut sidecars, &own);
            f(container, &own, &sidecars);
        } else {
            let mut needed = own.clone();
            add(&mut needed, &sidecars);
            f(container, &own, &needed);
        }
    }
}

fn raise(peak: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        peak.entry(name.clone()).and_modify(|old| *old = (*old).max(*amount)).or_insert(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Column, all_containers_limited, binary_text, is_extended, pod_limits, pod_requests,
    };
    use crate::resources::qos::tests::pod;

    #[track_caller]
    fn check(spec: serde_json::Value, cpu_milli: i64, memory: i64) {
        let pod = pod(spec);
        let requests = pod_requests(&pod);
        let of = |name: &str| requests.get(name).copied().unwrap_or_default();
        assert_eq!((of("cpu").milli(), of("memory").units()), (cpu_milli, memory));
    }

    fn wants(cpu: &str, memory: &str) -> serde_json::Value {
        serde_json::json!({"requests": {"cpu": cpu, "memory": memory}})
    }

    #[test]
    fn sums_main_containers() {
        check(
            serde_json::json!({"containers": [{"name": "a", "resources": wants("100m", "1Ki")},
                {"name": "b", "resources": wants("200m", "1Ki")}, {"name": "c"}]}),
            300,
            2048,
        );
    }

    #[test]
    fn an_init_container_counts_only_where_it_needs_more() {
        check(
            serde_json::json!({"containers": [{"name": "a", "resources": wants("100m", "4Ki")}],
                "initContainers": [{"name": "i", "resources": wants("1", "1Ki")}]}),
            1000,
            4096,
        );
    }

    #[test]
    fn sidecars_add_to_what_comes_after_them() {
        check(
            serde_json::json!({"containers": [{"name": "a", "resources": wants("100m", "1Ki")}],
                "initContainers": [
                    {"name": "before", "resources": wants("650m", "1Ki")},
                    {"name": "side", "restartPolicy": "Always", "resources": wants("500m", "1Ki")},
                    {"name": "after", "resources": wants("200m", "1Ki")}]}),
            700,
            2048,
        );
    }

    #[test]
    fn pod_level_overrides_and_the_overhead_is_added() {
        check(
            serde_json::json!({"resources": wants("2", "1Mi"), "overhead": {"cpu": "250m"},
                "containers": [{"name": "a", "resources": wants("100m", "4Ki")}]}),
            2250,
            1 << 20,
        );
    }

    #[test]
    fn overhead_does_not_make_a_limit() {
        let pod = pod(serde_json::json!({"overhead": {"cpu": "250m", "memory": "1"},
            "containers": [{"name": "a", "resources": {"limits": {"memory": "9"}}}]}));
        let limits = pod_limits(&pod);
        assert_eq!(limits.get("memory").map(|amount| amount.units()), Some(10));
        assert!(!limits.contains_key("cpu"));
        assert!(all_containers_limited(&pod, "memory"));
        assert!(!all_containers_limited(&pod, "cpu"));
        assert_eq!(super::container_sum(&pod, Column::Requests).len(), 0);
    }

    #[test]
    fn tells_extended_resources() {
        for (name, extended) in [
            ("cpu", false),
            ("hugepages-2Mi", false),
            ("example.com/gpu", true),
            ("node.kubernetes.io/x", false),
            ("requests.example.com/x", false),
        ] {
            assert_eq!(is_extended(name), extended, "{name}");
        }
    }

    #[test]
    fn writes_bytes_in_powers_of_1024() {
        for (bytes, text) in
            [(0, "0"), (1000, "1000"), (1024, "1Ki"), (1536, "1536"), (134_217_728, "128Mi")]
        {
            assert_eq!(binary_text(bytes), text);
        }
    }
}
