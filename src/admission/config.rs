//! The features that pods may ask this node for, from the kubelet's configuration. Pure.

use super::Features;
use crate::config::{Gate, Loaded};

/// The features that upstream's kubelet declares, and that are carried out here.
const DECLARED: &[&str] = &["RestartAllContainersOnContainerExits"];

impl From<&Loaded> for Features<'static> {
    fn from(loaded: &Loaded) -> Self {
        let gates = &loaded.gates;
        let all = if gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS) {
            DECLARED
        } else {
            &[]
        };
        Self {
            pod_level_resources: gates.enabled(Gate::POD_LEVEL_RESOURCES),
            declared: gates.enabled(Gate::NODE_DECLARED_FEATURES).then_some(all),
        }
    }
}
