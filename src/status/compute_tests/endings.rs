//! Tests of the statuses of pods that end: by themselves, evicted, rejected, past their deadline.

use serde_json::json;

use super::*;

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let world = World::new(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}),
    );
    let status = world
        .stopped(vec![exited("i", "id-i", 0, 1)])
        .terminated(TerminationCause::Finished)
        .settled();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        brief(status.container_statuses.as_ref()),
        ["c: waiting PodInitializing, ready false, started false, restarts 0, last -"]
    );
}

#[test]
fn the_end_is_told_when_nothing_can_run_any_more() {
    let spec = json!({"restartPolicy": "Never"});
    let finished = || exited("c", "id-1", 0, 0);
    let line = "c: terminated Completed 0, ready false, started false, restarts 0, last -";
    let recorded = json!({"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]});
    let world = || World::new(spec.clone()).recorded(recorded.clone());
    let status = check(world().runs(vec![finished()]), "Running", &[line]);
    assert_eq!(conditions(&status)[2], "Ready False PodCompleted");
    check(
        world().runs(vec![finished()]).terminating(TerminationCause::Finished),
        "Running",
        &[line],
    );
    let status = check(
        world().stopped(vec![finished()]).terminating(TerminationCause::Finished),
        "Succeeded",
        &[line],
    );
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"), "the address is kept");
    let status = check(
        world().stopped(vec![finished()]).terminated(TerminationCause::Finished),
        "Succeeded",
        &[line],
    );
    assert_eq!(
        conditions(&status),
        [
            "PodReadyToStartContainers False -",
            "Initialized True PodCompleted",
            "Ready False PodCompleted",
            "ContainersReady False PodCompleted",
            "PodScheduled True -"
        ]
    );
}

#[test]
fn a_deleted_pod_that_never_ran_has_failed() {
    let status = World::new(json!({})).terminated(TerminationCause::Deleted).settled();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        brief(status.container_statuses.as_ref()),
        [
            "c: terminated ContainerStatusUnknown 137, ready false, started false, restarts 0, last -"
        ]
    );
    let with_init =
        json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]});
    let status = World::new(with_init).terminated(TerminationCause::Deleted).settled();
    assert_eq!(
        brief(status.init_container_statuses.as_ref()),
        [
            "i: terminated ContainerStatusUnknown 137, ready false, started false, restarts 0, last -",
            "j: waiting PodInitializing, ready false, started false, restarts 0, last -"
        ]
    );
    assert_eq!(
        brief(status.container_statuses.as_ref()),
        ["c: waiting PodInitializing, ready false, started false, restarts 0, last -"]
    );
}

#[test]
fn an_evicted_pod_fails_unless_it_ends_well() {
    let evicted = || TerminationCause::Evicted {
        reason: "Evicted".into(),
        message: "The node was low".into(),
    };
    let world = || World::new(json!({})).recorded(json!({"phase": "Running"}));
    let status = check(
        world().runs(vec![running("c", "id-1")]).terminating(evicted()),
        "Running",
        &["c: running, ready true, started true, restarts 0, last -"],
    );
    assert_eq!((status.reason.clone(), status.message.clone()), (None, None));
    assert!(!conditions(&status).iter().any(|line| line.starts_with("DisruptionTarget")));

    let status = check(
        world().stopped(vec![exited("c", "id-1", 0, 143)]).terminated(evicted()),
        "Failed",
        &["c: terminated Error 143, ready false, started false, restarts 0, last -"],
    );
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some("The node was low"));
    assert_eq!(conditions(&status)[0], "DisruptionTarget True TerminationByKubelet");
    assert_eq!(conditions(&status)[3], "Ready False PodFailed");

    // As upstream's CriticalPod specs want it of a preempted pod.
    let status = check(
        world().stopped(vec![exited("c", "id-1", 0, 0)]).terminated(evicted()),
        "Succeeded",
        &["c: terminated Completed 0, ready false, started false, restarts 0, last -"],
    );
    assert_eq!((status.reason.clone(), status.message.clone()), (None, None));
    assert_eq!(conditions(&status)[0], "DisruptionTarget True TerminationByKubelet");
    assert_eq!(conditions(&status)[3], "Ready False PodCompleted");
}

#[test]
fn a_pod_past_its_deadline() {
    let status = World::new(json!({}))
        .recorded(json!({"phase": "Running"}))
        .stopped(vec![exited("c", "id-1", 0, 0)])
        .terminated(TerminationCause::DeadlineExceeded)
        .settled();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(status.message.as_deref(), Some(message));
    assert!(!conditions(&status).iter().any(|line| line.starts_with("DisruptionTarget")));
}

#[test]
fn a_rejected_pod() {
    let cause =
        TerminationCause::Rejected { reason: "OutOfcpu".into(), message: "too little".into() };
    let gate = json!({"type": "example.com/gate", "status": "True"});
    let scheduled = json!({"type": "PodScheduled", "status": "True"});
    let status = World::new(json!({}))
        .recorded(json!({"phase": "Pending", "conditions": [gate, scheduled]}))
        .terminated(cause)
        .settled();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("OutOfcpu"))
    );
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: too little"));
    assert_eq!(conditions(&status), ["example.com/gate True -"]);
    assert!(status.container_statuses.is_none() && status.start_time.is_some());
}

#[test]
fn nothing_is_added_to_a_rejection() {
    let recorded = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: too little",
        "qosClass": "Burstable", "startTime": "1970-01-01T00:00:00Z"});
    let cause =
        TerminationCause::Rejected { reason: "OutOfcpu".into(), message: "too little".into() };
    for world in [World::new(json!({})), World::new(json!({})).terminated(cause)] {
        let status = world.recorded(recorded.clone()).settled();
        assert!(
            status.container_statuses.is_none()
                && status.host_ip.is_none()
                && status.host_ips.is_none()
        );
        assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    }
}

#[test]
fn a_terminal_phase_is_never_left() {
    let recorded = json!({"phase": "Failed", "reason": "Evicted", "message": "m"});
    let status =
        World::new(json!({})).recorded(recorded).runs(vec![running("c", "id-1")]).settled();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    assert_eq!(conditions(&status)[2], "Ready False PodFailed");
}

#[test]
fn a_static_pod_does_not_inherit_its_mirrors_end() {
    let mut world =
        World::new(json!({})).runs(vec![running("c", "id-1")]).recorded(json!({"phase": "Failed"}));
    let annotations = [("kubernetes.io/config.source".to_owned(), "file".to_owned())];
    world.pod.metadata.annotations = Some(annotations.into());
    assert_eq!(world.compute().phase.as_deref(), Some("Running"));

    let rejected = json!({"phase": "Failed", "reason": "OutOfcpu",
        "message": "Pod was rejected: Node didn't have enough resource: cpu"});
    let status = world.recorded(rejected).compute();
    assert_eq!(
        (status.phase.as_deref(), status.reason, status.message),
        (Some("Running"), None, None),
        "there is room for it now"
    );
}

#[test]
fn a_static_pods_containers_are_as_the_runtime_says() {
    let probe = json!({"tcpSocket": {"port": 1}});
    let main = json!({"name": "c", "startupProbe": probe, "readinessProbe": probe});
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [main]});
    let mut mirror = recorded(&json!({"running": {}}), &json!({"restartCount": 7}));
    mirror["initContainerStatuses"] = json!([{"name": "i", "image": "img", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
    let mut world = World::new(spec).runs(vec![running("c", "id-1")]).recorded(mirror);
    let end = |status: api::PodStatus| {
        status.init_container_statuses?.remove(0).state?.terminated?.message
    };
    assert_eq!(end(world.compute()), None, "what the API knows of an API pod stays");
    let annotations = [("kubernetes.io/config.source".to_owned(), "file".to_owned())];
    world.pod.metadata.annotations = Some(annotations.into());
    let main = brief(world.compute().container_statuses.as_ref());
    assert_eq!(
        main,
        ["c: running, ready true, started true, restarts 0, last -"],
        "what the probes found stays"
    );
    assert_eq!(end(world.compute()).as_deref(), Some(crate::status::containers::INIT_ASSUMED_DONE));
}
