//! Whether what the pod asks for is left on the node.

use super::{AdmitInput, Misfit};
use crate::model::quantity::Amount;
use crate::model::{Pod, pod};
use crate::resources::Amounts;
use crate::resources::list::{self, CPU, EPHEMERAL_STORAGE, MEMORY, PODS};

/// All that there is too little of: pods, CPU (in thousandths), memory, ephemeral storage, then the
/// others by name.
pub(super) fn check(input: &AdmitInput<'_>) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let count = i64::try_from(input.others.len()).unwrap_or(i64::MAX);
    let slots = input.allocatable.get(PODS).copied().unwrap_or_default().units();
    if count.saturating_add(1) > slots {
        misfits.push(Misfit::Resource {
            name: PODS.to_owned(),
            requested: 1,
            used: count,
            capacity: slots,
        });
    }
    let wanted = wanted(input.pod, input.allocatable);
    let mut used = Amounts::new();
    for other in input.others {
        list::add(&mut used, &list::pod_requests(other));
    }
    let first = [CPU, MEMORY, EPHEMERAL_STORAGE];
    let scalars =
        wanted.keys().map(String::as_str).filter(|name| !first.contains(name) && is_scalar(name));
    for name in first.into_iter().chain(scalars) {
        let of = |amounts: &Amounts| number(name, amounts.get(name).copied().unwrap_or_default());
        let (requested, used, capacity) = (of(&wanted), of(&used), of(input.allocatable));
        if requested > 0 && requested > capacity.saturating_sub(used) {
            misfits.push(Misfit::Resource { name: name.to_owned(), requested, used, capacity });
        }
    }
    misfits
}

/// The number that messages and comparisons use: thousandths of a CPU, whole units of everything
/// else.
pub(super) fn number(name: &str, amount: Amount) -> i64 {
    if name == CPU { amount.milli() } else { amount.units() }
}

/// The pod's requests without the extended resources that the node does not know (the cluster hands
/// those out) and without those that claims provide.
fn wanted(pod: &Pod, allocatable: &Amounts) -> Amounts {
    let mut wanted = list::pod_requests(pod);
    let claimed =
        pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    wanted.retain(|name, _| {
        let is_claimed = claimed.is_some_and(|claim| {
            claim.request_mappings.iter().any(|mapping| &mapping.resource_name == name)
        });
        !list::is_extended(name) || (allocatable.contains_key(name) && !is_claimed)
    });
    wanted
}

/// What the scheduler counts besides the four: extended resources, huge pages, native ones with a
/// prefix.
fn is_scalar(name: &str) -> bool {
    list::is_extended(name)
        || name.starts_with(list::HUGE_PAGES_PREFIX)
        || name.contains("kubernetes.io/")
        || name.starts_with("attachable-volumes-")
}

/// What a pod counts for when it is evicted to make room.
pub(super) fn freed(pod: &Pod, name: &str) -> i64 {
    if name == PODS {
        return 1;
    }
    number(name, list::pod_requests(pod).get(name).copied().unwrap_or_default())
}

/// Whether the one may push the other out.
pub(super) fn may_preempt(pod: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    if pod::is_critical(pod) && !pod::is_critical(other) {
        return true;
    }
    priority(pod).zip(priority(other)).is_some_and(|(own, other)| own > other)
}
