//! Taints that end pods keep new ones away, unless these tolerate them. Static pods are taken all
//! the same.

use k8s_openapi::api::core::v1 as api;

use super::{AdmitInput, Misfit};
use crate::model::pod;

const NO_EXECUTE: &str = "NoExecute";

pub(super) fn check(input: &AdmitInput<'_>) -> Option<Misfit> {
    if pod::is_static(input.pod) {
        return None;
    }
    let mut taints = input.node.taints.iter().filter(|taint| taint.effect == NO_EXECUTE);
    let untolerated = taints.any(|taint| {
        !tolerates(input.pod, &taint.key, taint.value.as_deref().unwrap_or_default(), &taint.effect)
    });
    untolerated.then_some(Misfit::Predicate {
        name: "TaintToleration",
        description: "node(s) had taints that the pod didn't tolerate",
    })
}

/// Whether any of the pod's tolerations is for this taint.
pub(super) fn tolerates(pod: &api::Pod, key: &str, value: &str, effect: &str) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| {
        let of = |text: &Option<String>, other: &str| {
            let text = text.as_deref().unwrap_or_default();
            text.is_empty() || text == other
        };
        let values = match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => toleration.value.as_deref().unwrap_or_default() == value,
            "Exists" => true,
            _ => false,
        };
        of(&toleration.effect, effect) && of(&toleration.key, key) && values
    })
}
