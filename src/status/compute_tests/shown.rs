//! Tests of what a status shows of a container besides its state, behind its gates.

use serde_json::json;

use super::*;

#[test]
fn the_health_of_devices_is_shown_of_main_containers() {
    let mut world = World::new(json!({"initContainers": [{"name": "i"}]}))
        .runs(vec![running("c", "id-c"), exited("i", "id-i", 0, 0)]);
    let unhealthy: api::ResourceStatus = serde_json::from_value(json!({"name": "a/b",
        "resources": [{"resourceID": "1", "health": "Unhealthy"}]}))
    .expect("a resource");
    let of = |name: &str| (name.to_owned(), vec![unhealthy.clone()]);
    world.devices = Some([of("c"), of("i")].into());
    let status = world.settled();
    let main = &status.container_statuses.expect("statuses")[0];
    assert_eq!(main.allocated_resources_status, Some(vec![unhealthy.clone()]));
    let init = &status.init_container_statuses.expect("statuses")[0];
    assert_eq!(init.allocated_resources_status, None);
}

#[test]
fn the_stop_signal_is_shown_where_its_gate_is_on() {
    let mut container = running("c", "id-c");
    container.stop_signal = Some("SIGUSR1".to_owned());
    let mut world = World::new(json!({})).runs(vec![container]);
    let signal = |world: &World| {
        world.compute().container_statuses.expect("statuses")[0].stop_signal.clone()
    };

    assert_eq!(signal(&world), None);
    world.node.shows_stop_signals = true;
    assert_eq!(signal(&world).as_deref(), Some("SIGUSR1"));
}

#[test]
fn the_gate_hides_the_condition_of_sandboxes() {
    let mut world = World::new(json!({}));
    assert!(conditions(&world.compute())[0].starts_with("PodReadyToStartContainers"));
    world.node.hides_ready_to_start = true;
    assert_eq!(conditions(&world.compute())[0], "Initialized True -");
}
