//! Computes the resources in a pod's status: those of its containers and of the pod as a whole, as
//! far as the runtime reports them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::phase::is_terminal;
use crate::model::quantity::Amount;
use crate::model::{ObservedContainer, Phase};
use crate::resources::cpu;
use crate::resources::list::{self, CPU, Column, MEMORY, Quantities, binary_text};
use crate::resources::{Figures, PodCgroupPolicy};

/// Computes `resources` of a container's status.
///
/// - A container that does not run shows the resources of its spec.
/// - A running container shows those that the runtime reports. Where the runtime is silent, it
///   shows `same`: the last status of the same container.
/// - The memory request is in no file of a cgroup. It is the spec's, once a resize is carried out;
///   until then (`is_resizing`) it is that of `same`.
pub(super) fn container(
    spec: &api::Container,
    observed: &ObservedContainer,
    same: Option<&api::ContainerStatus>,
    is_resizing: bool,
) -> api::ResourceRequirements {
    let mut resources = spec.resources.clone().unwrap_or_default();
    resources.limits = canonical(resources.limits);
    resources.requests = canonical(resources.requests);
    if !observed.state.is_running() {
        return resources;
    }

    let same = same.and_then(|same| same.resources.as_ref());
    let applied = observed.resources.clone().unwrap_or_default();

    if let Some(limits) = &mut resources.limits {
        let before = same.and_then(|old| old.limits.as_ref());
        let milli = applied
            .cpu_period
            .zip(applied.cpu_quota)
            .map(|(period, quota)| cpu::milli_of_quota(quota, period));
        set_cpu(limits, milli, cpu::MIN_LIMIT_MILLI, before);

        match applied.memory_limit.filter(|limit| *limit > 0) {
            Some(limit) => set(limits, MEMORY, Amount::from_units(limit), binary_text(limit)),
            None => keep(limits, MEMORY, before),
        }
    }

    if let Some(requests) = &mut resources.requests {
        let before = same.and_then(|old| old.requests.as_ref());
        set_cpu(requests, applied.cpu_shares.map(cpu::milli_of_shares), 2, before);
        if is_resizing {
            keep(requests, MEMORY, before);
        }
    }

    resources
}

/// Returns the requests of a container's spec.
pub(super) fn requests(spec: &api::Container) -> Option<Quantities> {
    spec.resources.as_ref()?.requests.clone()
}

/// Spells a list as the API server does: a manifest on disk may say `1000m` for `1`, and that must
/// not look like a change.
pub(super) fn canonical(list: Option<Quantities>) -> Option<Quantities> {
    let list = list?;
    Some(list.into_iter().map(|(name, text)| (name, canonical_quantity(text))).collect())
}

/// The input of the resources of a pod as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole<'a> {
    pub(super) pod: &'a api::Pod,
    /// CPU and memory of its cgroup; `None`: taken for what they should be.
    pub(super) cgroup: Option<Figures>,
    /// The last status, while a resize is carried out.
    pub(super) resized_from: Option<&'a api::PodStatus>,
}

/// Computes `resources` and `allocatedResources` of the pod as a whole.
pub(super) fn pod_level(whole: Whole<'_>, status: &mut api::PodStatus) {
    let pod = whole.pod;
    let requests = list::pod_requests(pod);
    let text = |(name, amount): (&String, &Amount)| {
        (name.clone(), Quantity(amount_text(pod, name, *amount)))
    };
    let allocated: Quantities = requests.iter().map(text).collect();

    let mut resources =
        pod.spec.as_ref().and_then(|spec| spec.resources.clone()).unwrap_or_default();
    if Phase::of(status) == Some(Phase::Running) {
        running(whole, &allocated, &mut resources);
    } else if is_terminal(status) {
        // Upstream reads the values from the pod's cgroup, which is gone; a memory request is in no
        // cgroup.
        let memory = allocated.iter().filter(|(name, _)| *name == MEMORY);
        resources.requests =
            some_list(memory.map(|(name, amount)| (name.clone(), amount.clone())).collect());
        resources.limits = None;
    } else {
        let limits: Quantities = list::pod_limits(pod).iter().map(text).collect();
        resources.requests = some_list(allocated.clone());
        resources.limits = some_list(limits);
    }

    status.resources = Some(resources);
    status.allocated_resources = some_list(allocated);
}

/// Sets the resources of a running pod: those of its cgroup. The memory request is in no cgroup: it
/// is the spec's, and the one before while a resize is carried out.
fn running(whole: Whole<'_>, allocated: &Quantities, resources: &mut api::ResourceRequirements) {
    let wanted = || Figures::wanted(whole.pod, &PodCgroupPolicy::default());
    let config = whole.cgroup.unwrap_or_else(wanted);
    let mut requests = canonical(resources.requests.take()).unwrap_or_default();
    let mut limits = canonical(resources.limits.take()).unwrap_or_default();
    let shares = config.cpu_shares.and_then(|shares| i64::try_from(shares).ok());
    set_cpu(&mut requests, shares.map(cpu::milli_of_shares), 2, None);
    if let Some(memory) = allocated.get(MEMORY) {
        requests.entry(MEMORY.to_owned()).or_insert_with(|| memory.clone());
    }
    let before = whole.resized_from.and_then(|status| status.resources.as_ref());
    keep(&mut requests, MEMORY, before.and_then(|before| before.requests.as_ref()));

    let period = config.cpu_period.and_then(|period| i64::try_from(period).ok());
    let milli =
        config.cpu_quota.zip(period).map(|(quota, period)| cpu::milli_of_quota(quota, period));
    set_cpu(&mut limits, milli, cpu::MIN_LIMIT_MILLI, None);
    if let Some(limit) = config.memory.filter(|limit| *limit > 0) {
        set(&mut limits, MEMORY, Amount::from_units(limit), binary_text(limit));
    }

    resources.requests = some_list(requests);
    resources.limits = some_list(limits);
}

/// Sets the CPU. If both the spec and the kernel are at the kernel's minimum, the spec's value
/// stays: they mean the same.
fn set_cpu(list: &mut Quantities, milli: Option<i64>, minimum: i64, before: Option<&Quantities>) {
    let Some(milli) = milli.filter(|milli| *milli > 0) else { return keep(list, CPU, before) };
    let own = list.get(CPU).map(list::parse).unwrap_or_default().milli();
    if milli > minimum || own > minimum {
        let amount = Amount::from_milli(milli);
        set(list, CPU, amount, amount.to_string());
    }
}

/// Sets a value; an equal one keeps its spelling.
fn set(list: &mut Quantities, name: &str, amount: Amount, text: String) {
    if list.get(name).map(list::parse) != Some(amount) {
        list.insert(name.to_owned(), Quantity(text));
    }
}

fn keep(list: &mut Quantities, name: &str, before: Option<&Quantities>) {
    if let Some(text) = before.and_then(|before| before.get(name)) {
        list.insert(name.to_owned(), text.clone());
    }
}

/// Formats a sum in the spelling of its parts: in powers of 1024 if any part is written so.
fn amount_text(pod: &api::Pod, name: &str, amount: Amount) -> String {
    let spec = pod.spec.as_ref();
    let containers = spec
        .into_iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let own = containers.filter_map(|container| container.resources.as_ref());
    let whole = spec.and_then(|spec| spec.resources.as_ref());
    let lists = own.chain(whole).flat_map(|resources| {
        [Column::Requests, Column::Limits].map(|c| list::column(Some(resources), c))
    });
    let overhead = spec.and_then(|spec| spec.overhead.as_ref());
    let is_binary = lists
        .chain([overhead])
        .flatten()
        .filter_map(|list| list.get(name))
        .any(|Quantity(text)| text.ends_with('i'));

    if is_binary && Amount::from_units(amount.units()) == amount {
        binary_text(amount.units())
    } else {
        amount.to_string()
    }
}

fn canonical_quantity(Quantity(text): Quantity) -> Quantity {
    let Ok(amount) = Amount::parse(&text) else { return Quantity(text) };
    if text.contains(['e', 'E']) {
        return Quantity(text);
    }

    let is_whole = Amount::from_units(amount.units()) == amount;
    Quantity(if text.ends_with('i') && is_whole {
        binary_text(amount.units())
    } else {
        amount.to_string()
    })
}

fn some_list(list: Quantities) -> Option<BTreeMap<String, Quantity>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests {
    use serde_json::{Value, json};

    use super::{Figures, PodCgroupPolicy, Whole, canonical, pod_level};
    use crate::model::Pod;

    #[track_caller]
    fn check(spec: Value, phase: &str, resources: Value, allocated: Value) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
        let mut status: k8s_openapi::api::core::v1::PodStatus =
            serde_json::from_value(json!({"phase": phase})).expect("a status");
        pod_level(Whole { pod: &pod, cgroup: None, resized_from: None }, &mut status);
        let written = serde_json::to_value(&status).expect("JSON");
        assert_eq!(
            (&written["resources"], &written["allocatedResources"]),
            (&resources, &allocated)
        );
    }

    #[test]
    fn a_pod_that_asks_for_nothing() {
        let spec = json!({"containers": [{"name": "c"}]});
        check(spec.clone(), "Pending", json!({}), Value::Null);
        check(spec, "Running", json!({}), Value::Null);
    }

    #[test]
    fn a_running_pod_has_what_its_cgroup_has() {
        let container = |resources: Value| json!({"name": "c", "resources": resources});
        let spec = json!({"containers": [
            container(json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}})),
            container(json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi", "cpu": "1"}}))]});
        let allocated = json!({"cpu": "200m", "memory": "128Mi"});
        check(
            spec.clone(),
            "Pending",
            json!({"requests": {"cpu": "200m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}),
            allocated.clone(),
        );
        check(
            spec,
            "Running",
            json!({"requests": {"cpu": "200m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}),
            allocated,
        );
    }

    #[test]
    fn a_pod_that_is_being_resized_has_what_it_had() {
        let of = |cpu: &str, memory: &str| {
            let list = json!({"cpu": cpu, "memory": memory});
            let container = json!({"name": "c"});
            serde_json::from_value::<Pod>(json!({"spec": {
                "resources": {"requests": list, "limits": list}, "containers": [container]}}))
            .expect("a pod")
        };
        let mut before = serde_json::from_value(json!({"phase": "Running"})).expect("a status");
        let old = of("500m", "64Mi");
        pod_level(Whole { pod: &old, cgroup: None, resized_from: None }, &mut before);

        let new = of("1", "128Mi");
        let mut status = before.clone();
        let cgroup = Some(Figures::wanted(&old, &PodCgroupPolicy::default()));
        let whole = Whole { pod: &new, cgroup, resized_from: Some(&before) };
        pod_level(whole, &mut status);
        assert_eq!(status.resources, before.resources, "until it is carried out");
        let allocated = serde_json::to_value(&status.allocated_resources).expect("JSON");
        assert_eq!(allocated, json!({"cpu": "1", "memory": "128Mi"}));

        pod_level(Whole { pod: &new, cgroup: None, resized_from: None }, &mut status);
        let resources = serde_json::to_value(&status.resources).expect("JSON");
        let all = json!({"cpu": "1", "memory": "128Mi"});
        assert_eq!(resources, json!({"requests": all, "limits": all}));
    }

    #[test]
    fn quantities_are_spelled_as_the_api_server_does() {
        for (from, to) in [
            ("1000m", "1"),
            ("0.5Gi", "512Mi"),
            ("1024Mi", "1Gi"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1e3", "1e3"),
        ] {
            let list = serde_json::from_value(json!({"x": from})).expect("a list");
            assert_eq!(
                serde_json::to_value(canonical(Some(list))).expect("JSON"),
                json!({"x": to}),
                "{from}"
            );
        }
    }
}
