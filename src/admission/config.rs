//! The features that pods may ask this node for, from the kubelet's configuration. Pure.

use super::Features;
use crate::config::{Gate, Loaded};

const POD_RESIZE: &str = "InPlacePodLevelResourcesVerticalScaling";
const INIT_RESIZE: &str = "InPlacePodVerticalScalingInitContainers";
const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";

impl From<&Loaded> for Features<'static> {
    /// Of the features that upstream's kubelet declares, those that are carried out here.
    fn from(loaded: &Loaded) -> Self {
        let gates = &loaded.gates;
        let resizes_init = gates.enabled(Gate::IN_PLACE_POD_VERTICAL_SCALING_INIT_CONTAINERS);
        let restarts_all = gates.enabled(Gate::RESTART_ALL_CONTAINERS_ON_CONTAINER_EXITS);
        let resizes_pods = gates.enabled(Gate::IN_PLACE_POD_LEVEL_RESOURCES_VERTICAL_SCALING);
        let declared: &[&str] = match (resizes_pods, resizes_init, restarts_all) {
            (true, true, true) => &[POD_RESIZE, INIT_RESIZE, RESTART_ALL],
            (true, true, false) => &[POD_RESIZE, INIT_RESIZE],
            (true, false, true) => &[POD_RESIZE, RESTART_ALL],
            (true, false, false) => &[POD_RESIZE],
            (false, true, true) => &[INIT_RESIZE, RESTART_ALL],
            (false, true, false) => &[INIT_RESIZE],
            (false, false, true) => &[RESTART_ALL],
            (false, false, false) => &[],
        };
        Self {
            pod_level_resources: gates.enabled(Gate::POD_LEVEL_RESOURCES),
            declared: gates.enabled(Gate::NODE_DECLARED_FEATURES).then_some(declared),
        }
    }
}
