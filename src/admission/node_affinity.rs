//! `nodeSelector` and the required node affinity.

use super::{AdmitInput, Misfit};
use crate::model::node_selector;

pub(super) const NAME: &str = "NodeAffinity";

pub(super) fn check(input: &AdmitInput<'_>) -> Option<Misfit> {
    let matches = input.pod.spec.as_ref().is_none_or(|spec| {
        let selector = spec.node_selector.iter().flatten();
        let required = spec.affinity.as_ref().and_then(|affinity| {
            affinity
                .node_affinity
                .as_ref()?
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        selector.into_iter().all(|(key, value)| input.node.labels.get(key) == Some(value))
            && required.is_none_or(|selector| {
                node_selector::matches(selector, input.node.name, input.node.labels)
            })
    });
    (!matches).then_some(Misfit::Predicate {
        name: NAME,
        description: "node(s) didn't match Pod's node affinity/selector",
    })
}
