//! The features that pods may ask this node for, from the kubelet's configuration. Pure.

use super::Features;
use crate::config::{Gate, Loaded};

/// The features that upstream's kubelet declares and that are carried out here, each with its gate;
/// in upstream's order of names.
const DECLARED: [(&str, Gate); 4] = [
    ("ExtendWebSocketsToKubelet", Gate::EXTEND_WEB_SOCKETS_TO_KUBELET),
    (
        "InPlacePodLevelResourcesVerticalScaling",
        Gate::IN_PLACE_POD_LEVEL_RESOURCES_VERTICAL_SCALING,
    ),
    (
        "InPlacePodVerticalScalingInitContainers",
        Gate::IN_PLACE_POD_VERTICAL_SCALING_INIT_CONTAINERS,
    ),
    ("RestartAllContainersOnContainerExits", Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS),
];

impl From<&Loaded> for Features {
    fn from(loaded: &Loaded) -> Self {
        let gates = &loaded.gates;
        let declared = || {
            let is_on = |(name, gate): &(&'static str, Gate)| gates.enabled(*gate).then_some(*name);
            DECLARED.iter().filter_map(is_on).collect()
        };
        Self {
            pod_level_resources: gates.enabled(Gate::POD_LEVEL_RESOURCES),
            declared: gates.enabled(Gate::NODE_DECLARED_FEATURES).then(declared),
        }
    }
}
