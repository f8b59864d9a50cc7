//! Tables of `compute`: a pod, what is observed of it and where it is in its life, against what
//! users see.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::compute::compute;
use super::input::{ComputeInput, NodeFacts, PendingResize, ResizeInProgress, ResizeState};
use crate::model::observed::{AppliedResources, Exit, Remembered};
use crate::model::waiting::{ContainerVerdict, ProbeOutcome};
use crate::model::{
    ContainerId, ContainerState, Lifecycle, Mono, Now, ObservedContainer, ObservedPod,
    ObservedSandbox, Pod, ProbeVerdicts, ResizeVerdict, SandboxState, Terminating,
    TerminationCause, Waiting, Wall,
};
use crate::resources::devices::PodHealth;

mod endings;
mod shown;

fn at(second: i64) -> Wall {
    Wall::from_second(1_700_000_000 + second).expect("a time")
}

fn now() -> Now {
    Now { mono: Mono::default(), wall: at(1000) }
}

/// Everything that a table varies.
struct World {
    pod: Pod,
    lifecycle: Lifecycle,
    observed: ObservedPod,
    previous: Option<api::PodStatus>,
    waiting: BTreeMap<String, Waiting>,
    replaced: BTreeSet<ContainerId>,
    resize: ResizeState,
    probes: ProbeVerdicts,
    remembered: BTreeMap<String, Remembered>,
    node: NodeFacts,
    devices: Option<PodHealth>,
}

impl World {
    fn new(spec: Value) -> Self {
        Self {
            pod: pod(spec),
            lifecycle: Lifecycle::Syncing,
            observed: ObservedPod::default(),
            previous: None,
            waiting: BTreeMap::new(),
            replaced: BTreeSet::new(),
            resize: ResizeState::default(),
            probes: ProbeVerdicts::default(),
            remembered: BTreeMap::new(),
            node: NodeFacts {
                host_ips: vec!["192.168.0.1".parse().expect("an address")],
                prefers_ipv6: false,
                runtime: "containerd".into(),
                recursive_read_only: BTreeSet::new(),
                shows_stop_signals: false,
                hides_ready_to_start: false,
            },
            devices: None,
        }
    }

    fn runs(mut self, containers: Vec<ObservedContainer>) -> Self {
        self.observed = ObservedPod { sandboxes: vec![sandbox(SandboxState::Ready)], containers };
        self
    }

    fn stopped(mut self, containers: Vec<ObservedContainer>) -> Self {
        self.observed =
            ObservedPod { sandboxes: vec![sandbox(SandboxState::NotReady)], containers };
        self
    }

    fn recorded(mut self, status: Value) -> Self {
        self.pod.status = Some(serde_json::from_value(status).expect("a status"));
        self
    }

    fn waits(mut self, container: &str, reason: &str, message: &str) -> Self {
        let why = Waiting { reason: reason.into(), message: message.into() };
        self.waiting.insert(container.to_owned(), why);
        self
    }

    fn terminating(mut self, cause: TerminationCause) -> Self {
        self.lifecycle = Lifecycle::Terminating(Terminating {
            cause,
            since: now(),
            grace: Duration::from_secs(30),
        });
        self
    }

    fn terminated(mut self, cause: TerminationCause) -> Self {
        self.lifecycle = Lifecycle::Terminated(Terminating {
            cause,
            since: now(),
            grace: Duration::from_secs(30),
        });
        self
    }

    fn compute(&self) -> api::PodStatus {
        compute(&ComputeInput {
            pod: &self.pod,
            lifecycle: &self.lifecycle,
            observed: &self.observed,
            previous: self.previous.as_ref(),
            recorded: None,
            waiting: &self.waiting,
            replaced: &self.replaced,
            resize: &self.resize,
            cgroup: None,
            devices: self.devices.as_ref(),
            probes: &self.probes,
            remembered: &self.remembered,
            node: &self.node,
            now: now(),
        })
    }

    /// Computes again from what was computed before: nothing may change by itself.
    #[track_caller]
    fn settled(mut self) -> api::PodStatus {
        let first = self.compute();
        self.previous = Some(first.clone());
        assert_eq!(self.compute(), first, "a second look must see the same");
        first
    }
}

fn pod(spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1", "generation": 3}, "spec": {"containers": []}}))
    .expect("a pod");
    let mut spec = spec;
    spec.as_object_mut()
        .expect("an object")
        .entry("containers")
        .or_insert_with(|| json!([{"name": "c", "image": "img"}]));
    pod.spec = Some(serde_json::from_value(spec).expect("a spec"));
    pod
}

fn sandbox(state: SandboxState) -> ObservedSandbox {
    ObservedSandbox {
        id: "box".into(),
        attempt: 0,
        state,
        created_at: at(0),
        ips: if state == SandboxState::Ready {
            vec!["10.0.0.9".parse().expect("an address")]
        } else {
            vec![]
        },
        host_network: false,
        runtime_handler: String::new(),
        is_static: false,
    }
}

fn container(name: &str, id: &str, restart_count: u32, state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        id: id.into(),
        name: name.into(),
        sandbox: "box".into(),
        restart_count,
        hash: 0,
        image: "img".into(),
        image_ref: "sha256:1".into(),
        created_at: at(i64::from(restart_count)),
        state,
        user: None,
        resources: None,
        mounts: Vec::new(),
        log_path: String::new(),
        stop_signal: None,
    }
}

fn running(name: &str, id: &str) -> ObservedContainer {
    container(name, id, 0, ContainerState::Running { started_at: at(5) })
}

fn exit(code: i32) -> Exit {
    let reason = if code == 0 { "Completed" } else { "Error" };
    Exit {
        started_at: Some(at(5)),
        finished_at: at(50),
        exit_code: code,
        reason: reason.into(),
        message: String::new(),
    }
}

fn exited(name: &str, id: &str, restart_count: u32, code: i32) -> ObservedContainer {
    container(name, id, restart_count, ContainerState::Exited(exit(code)))
}

/// `name state reason/exit code ready started restarts [last]` of each container, in the order of
/// the status.
fn brief(list: Option<&Vec<api::ContainerStatus>>) -> Vec<String> {
    let state = |state: Option<&api::ContainerState>| -> String {
        let Some(state) = state else { return "absent".into() };
        if state.running.is_some() {
            return "running".into();
        }
        if let Some(end) = &state.terminated {
            return format!(
                "terminated {} {}",
                end.reason.as_deref().unwrap_or("-"),
                end.exit_code
            );
        }
        match &state.waiting {
            Some(waiting) => format!("waiting {}", waiting.reason.as_deref().unwrap_or("-")),
            None => "-".into(),
        }
    };
    let one = |status: &api::ContainerStatus| {
        format!(
            "{}: {}, ready {}, started {}, restarts {}, last {}",
            status.name,
            state(status.state.as_ref()),
            status.ready,
            status.started.map_or("-".to_owned(), |started| started.to_string()),
            status.restart_count,
            state(status.last_state.as_ref())
        )
    };
    list.into_iter().flatten().map(one).collect()
}

fn conditions(status: &api::PodStatus) -> Vec<String> {
    let text = |condition: &api::PodCondition| {
        let reason = condition.reason.as_deref().unwrap_or("-");
        format!("{} {} {reason}", condition.type_, condition.status)
    };
    status.conditions.iter().flatten().map(text).collect()
}

#[track_caller]
fn check(world: World, phase: &str, containers: &[&str]) -> api::PodStatus {
    let status = world.settled();
    assert_eq!(status.phase.as_deref(), Some(phase));
    let init = brief(status.init_container_statuses.as_ref());
    let all: Vec<String> =
        init.into_iter().chain(brief(status.container_statuses.as_ref())).collect();
    assert_eq!(all, containers);
    status
}

#[test]
fn a_pod_that_has_just_come() {
    let status = check(
        World::new(json!({})),
        "Pending",
        &["c: waiting ContainerCreating, ready false, started false, restarts 0, last -"],
    );
    assert_eq!(
        conditions(&status),
        [
            "PodReadyToStartContainers False -",
            "Initialized True -",
            "Ready False ContainersNotReady",
            "ContainersReady False ContainersNotReady",
            "PodScheduled True -"
        ]
    );
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    assert_eq!((status.pod_ip, status.qos_class.as_deref()), (None, Some("BestEffort")));
    assert_eq!(status.start_time.map(|time| time.0), Some(at(1000)));
    assert_eq!(status.observed_generation, Some(3));
    let condition = &status.conditions.expect("conditions")[2];
    assert_eq!(condition.message.as_deref(), Some("containers with unready status: [c]"));
    assert_eq!((condition.observed_generation, condition.last_probe_time.clone()), (Some(3), None));
}

#[test]
fn a_pod_that_runs() {
    let status = check(
        World::new(json!({})).runs(vec![running("c", "id-1")]),
        "Running",
        &["c: running, ready true, started true, restarts 0, last -"],
    );
    assert_eq!(
        conditions(&status),
        [
            "PodReadyToStartContainers True -",
            "Initialized True -",
            "Ready True -",
            "ContainersReady True -",
            "PodScheduled True -"
        ]
    );
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
    let one = &status.container_statuses.expect("statuses")[0];
    assert_eq!(one.container_id.as_deref(), Some("containerd://id-1"));
    assert_eq!((one.image.as_str(), one.image_id.as_str()), ("img", "sha256:1"));
}

#[test]
fn the_planner_says_why_containers_wait() {
    let creating =
        "c: waiting CreateContainerConfigError, ready false, started false, restarts 0, last -";
    let world = World::new(json!({})).waits(
        "c",
        "CreateContainerConfigError",
        "configmap \"web\" not found",
    );
    let status = check(world, "Pending", &[creating]);
    let state = status.container_statuses.expect("statuses")[0].state.clone().expect("a state");
    let message = state.waiting.and_then(|waiting| waiting.message);
    assert_eq!(message.as_deref(), Some("configmap \"web\" not found"));

    let crashed = World::new(json!({})).runs(vec![exited("c", "id-1", 2, 1)]);
    check(
        crashed,
        "Running",
        &["c: terminated Error 1, ready false, started false, restarts 2, last -"],
    );
    let crashed = World::new(json!({})).runs(vec![exited("c", "id-1", 2, 1)]);
    check(
        crashed.waits("c", "CrashLoopBackOff", "back-off 20s"),
        "Running",
        &[
            "c: waiting CrashLoopBackOff, ready false, started false, restarts 2, last terminated Error 1",
        ],
    );
    let crashed = World::new(json!({})).runs(vec![exited("c", "id-1", 2, 1)]);
    check(
        crashed.waits("c", "ContainerCreating", ""),
        "Running",
        &["c: terminated Error 1, ready false, started false, restarts 2, last -"],
    );
    let finished =
        World::new(json!({"restartPolicy": "Never"})).runs(vec![exited("c", "id-1", 0, 1)]);
    check(
        finished.waits("c", "CrashLoopBackOff", ""),
        "Pending",
        &["c: terminated Error 1, ready false, started false, restarts 0, last -"],
    );
}

/// The API server lets no container run again whose end it has been told and by its policy is
/// final.
#[test]
fn the_end_of_one_that_is_replaced_is_not_told_before_its_successor_runs() {
    let was = &recorded(&json!({"running": {"startedAt": "2023-11-14T22:13:25Z"}}), &json!({}));
    let ended = || {
        let containers = vec![exited("c", "id-1", 1, 0)];
        let mut world = World::new(json!({"restartPolicy": "OnFailure"}))
            .runs(containers)
            .recorded(was.clone());
        world.replaced.insert("id-1".into());
        world
    };
    check(ended(), "Running", &["c: running, ready true, started true, restarts 1, last -"]);
    check(
        ended().waits("c", "ErrImagePull", "no"),
        "Running",
        &[
            "c: waiting ErrImagePull, ready false, started false, restarts 1, last terminated Completed 0",
        ],
    );
    // The pod's phase follows once nothing of it could run.
    let mut over = ended();
    over.replaced.clear();
    check(
        over,
        "Running",
        &["c: terminated Completed 0, ready false, started false, restarts 1, last -"],
    );
}

#[test]
fn the_container_before_gives_the_last_state() {
    let now = container("c", "id-2", 1, ContainerState::Running { started_at: at(60) });
    check(
        World::new(json!({})).runs(vec![now.clone(), exited("c", "id-1", 0, 3)]),
        "Running",
        &["c: running, ready true, started true, restarts 1, last terminated Error 3"],
    );
    let mut removed = World::new(json!({})).runs(vec![now]);
    removed.remembered.insert("c".into(), Remembered { restart_count: 0, exit: Some(exit(3)) });
    check(
        removed,
        "Running",
        &["c: running, ready true, started true, restarts 1, last terminated Error 3"],
    );
}

/// Killed between the creation and the start of a restart, the kubelet removes what it made and
/// makes it anew: one restart.
#[test]
fn a_successor_that_never_started_is_not_counted() {
    let world = |old: Value| World::new(json!({})).recorded(old);
    let made = json!({"waiting": {"reason": "ContainerCreating"}});
    let removed = world(recorded(&made, &json!({}))).runs(vec![exited("c", "id-0", 0, 3)]);
    check(
        removed,
        "Running",
        &["c: terminated Error 3, ready false, started false, restarts 1, last -"],
    );
    let shown = recorded(
        &json!({"terminated": {"exitCode": 3}}),
        &json!({"containerID": "containerd://id-0"}),
    );
    let again = container("c", "id-2", 1, ContainerState::Running { started_at: at(60) });
    check(
        world(shown).runs(vec![again, exited("c", "id-0", 0, 3)]),
        "Running",
        &["c: running, ready true, started true, restarts 1, last terminated Error 3"],
    );
}

fn recorded(state: &Value, extra: &Value) -> Value {
    let mut status = json!({"name": "c", "image": "img", "imageID": "", "ready": true, "started": true, "restartCount": 1,
        "containerID": "containerd://id-1", "state": state, "lastState": {}});
    status
        .as_object_mut()
        .expect("an object")
        .extend(extra.as_object().cloned().unwrap_or_default());
    json!({"phase": "Running", "containerStatuses": [status]})
}

#[test]
fn a_container_that_nobody_can_find() {
    let was_running =
        || World::new(json!({})).recorded(recorded(&json!({"running": {}}), &json!({})));
    check(
        was_running(),
        "Running",
        &[
            "c: waiting ContainerCreating, ready false, started false, restarts 2, last terminated ContainerStatusUnknown 137",
        ],
    );
    let mut known = was_running();
    known.remembered.insert("c".into(), Remembered { restart_count: 1, exit: Some(exit(0)) });
    check(
        known,
        "Running",
        &["c: terminated Completed 0, ready false, started false, restarts 1, last -"],
    );
    let ended = recorded(
        &json!({"terminated": {"exitCode": 7, "reason": "Error"}}),
        &json!({"ready": false}),
    );
    check(
        World::new(json!({})).recorded(ended),
        "Running",
        &["c: terminated Error 7, ready false, started false, restarts 1, last -"],
    );
}

#[test]
fn an_unknown_state_counts_as_an_end_once_it_ran() {
    let unknown = || vec![container("c", "id-1", 1, ContainerState::Unknown)];
    let ran = World::new(json!({}))
        .recorded(recorded(&json!({"running": {}}), &json!({})))
        .runs(unknown());
    let status = ran.compute();
    assert_eq!(
        brief(status.container_statuses.as_ref()),
        [
            "c: terminated ContainerStatusUnknown 137, ready false, started false, restarts 2, last -"
        ]
    );
    check(
        World::new(json!({})).runs(unknown()),
        "Pending",
        &["c: waiting -, ready false, started false, restarts 1, last -"],
    );
}

fn verdict(startup: Option<ProbeOutcome>, readiness: Option<ProbeOutcome>) -> ProbeVerdicts {
    let verdict = ContainerVerdict { startup, readiness, liveness: None };
    ProbeVerdicts { containers: BTreeMap::from([(ContainerId::from("id-1"), verdict)]) }
}

#[test]
fn probes_decide_on_readiness() {
    let probed = || {
        let spec = json!({"containers": [{"name": "c", "startupProbe": {}, "readinessProbe": {}}]});
        World::new(spec).runs(vec![running("c", "id-1")])
    };
    let with = |verdicts| World { probes: verdicts, ..probed() };
    let (yes, no) = (Some(ProbeOutcome::Success), Some(ProbeOutcome::Failure));
    let unstarted = "c: running, ready false, started false, restarts 0, last -";
    let unready = "c: running, ready false, started true, restarts 0, last -";
    let ready = "c: running, ready true, started true, restarts 0, last -";
    check(probed(), "Running", &[unstarted]);
    check(with(verdict(no, None)), "Running", &[unstarted]);
    check(with(verdict(yes, None)), "Running", &[unready]);
    check(with(verdict(yes, no)), "Running", &[unready]);
    check(with(verdict(yes, yes)), "Running", &[ready]);
}

#[test]
fn a_restart_of_the_node_agent_changes_no_readiness() {
    let spec = || json!({"containers": [{"name": "c", "startupProbe": {}, "readinessProbe": {}}]});
    let adopted = |ready: bool, started: bool| {
        let mut container = running("c", "id-1");
        container.restart_count = 1;
        World::new(spec())
            .recorded(recorded(
                &json!({"running": {}}),
                &json!({"ready": ready, "started": started}),
            ))
            .runs(vec![container])
    };
    check(
        adopted(true, true),
        "Running",
        &["c: running, ready true, started true, restarts 1, last -"],
    );
    check(
        adopted(false, true),
        "Running",
        &["c: running, ready false, started true, restarts 1, last -"],
    );
    check(
        adopted(false, false),
        "Running",
        &["c: running, ready false, started false, restarts 1, last -"],
    );
    let mut first_verdict = adopted(true, true);
    first_verdict.probes = verdict(None, Some(ProbeOutcome::Failure));
    check(first_verdict, "Running", &["c: running, ready false, started true, restarts 1, last -"]);
    let mut another = adopted(true, true);
    another.observed.containers[0].id = "id-2".into();
    check(another, "Running", &["c: running, ready false, started false, restarts 1, last -"]);
}

#[test]
fn init_containers_run_first() {
    let spec = || json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    let waiting = |name: &str| {
        format!("{name}: waiting PodInitializing, ready false, started false, restarts 0, last -")
    };
    let status = check(
        World::new(spec()).runs(vec![running("i", "id-i")]),
        "Pending",
        &[
            "i: running, ready false, started true, restarts 0, last -",
            &waiting("s"),
            &waiting("c"),
        ],
    );
    assert_eq!(conditions(&status)[1], "Initialized False ContainersNotInitialized");
    let message = status.conditions.expect("conditions")[1].message.clone();
    assert_eq!(message.as_deref(), Some("containers with incomplete status: [i s]"));

    let done = "i: terminated Completed 0, ready true, started false, restarts 0, last -";
    let status = check(
        World::new(spec()).runs(vec![running("s", "id-s"), exited("i", "id-i", 0, 0)]),
        "Pending",
        &[done, "s: running, ready true, started true, restarts 0, last -", &waiting("c")],
    );
    assert_eq!(conditions(&status)[1], "Initialized True -");
    check(
        World::new(spec()).runs(vec![
            running("c", "id-c"),
            running("s", "id-s"),
            exited("i", "id-i", 0, 0),
        ]),
        "Running",
        &[
            done,
            "s: running, ready true, started true, restarts 0, last -",
            "c: running, ready true, started true, restarts 0, last -",
        ],
    );
    let status = check(
        World::new(spec()).runs(vec![running("c", "id-c"), running("s", "id-s")]),
        "Running",
        &[
            done,
            "s: running, ready true, started true, restarts 0, last -",
            "c: running, ready true, started true, restarts 0, last -",
        ],
    );
    assert_eq!(conditions(&status)[1], "Initialized True -");
}

#[test]
fn readiness_gates() {
    let spec = || json!({"readinessGates": [{"conditionType": "a/b"}]});
    let ready = |world: World| {
        let status = world.runs(vec![running("c", "id-1")]).settled();
        let own = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "Ready")
            .cloned();
        let own = own.expect("a condition");
        (own.status, own.reason, own.message)
    };
    let gate = |status: &str| json!({"conditions": [{"type": "a/b", "status": status}]});
    assert_eq!(ready(World::new(spec()).recorded(gate("True"))).0, "True");
    assert_eq!(
        ready(World::new(spec())),
        (
            "False".into(),
            Some("ReadinessGatesNotReady".into()),
            Some("corresponding condition of pod readiness gate \"a/b\" does not exist.".into())
        )
    );
    assert_eq!(
        ready(World::new(spec()).recorded(gate("False"))).2.as_deref(),
        Some("the status of pod readiness gate \"a/b\" is not \"True\", but False")
    );
}

#[test]
fn transition_times_change_with_the_status_only() {
    let old = json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2023-01-01T00:00:00Z"},
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": "2023-01-01T00:00:00Z"}]});
    let status = World::new(json!({})).recorded(old).runs(vec![running("c", "id-1")]).settled();
    let since = |name: &str| {
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == name);
        found.and_then(|condition| condition.last_transition_time.clone()).map(|time| time.0)
    };
    assert_eq!(since("Ready"), "2023-01-01T00:00:00Z".parse().ok());
    assert_eq!(since("ContainersReady"), Some(at(1000)));
}

#[test]
fn addresses() {
    let mut world = World::new(json!({"hostNetwork": true})).runs(vec![running("c", "id-1")]);
    world.observed.sandboxes[0].ips.clear();
    world.observed.sandboxes[0].host_network = true;
    world.node.host_ips.push("fd00::5".parse().expect("an address"));
    let status = world.settled();
    let ips: Vec<_> = status.pod_ips.into_iter().flatten().map(|ip| ip.ip).collect();
    assert_eq!(ips, ["192.168.0.1", "fd00::5"]);
    assert_eq!(status.host_ips.map(|ips| ips.len()), Some(2));
}

#[test]
fn mounts_and_resources() {
    let spec = json!({"containers": [{"name": "c",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}},
        "volumeMounts": [
            {"name": "v", "mountPath": "/rw"},
            {"name": "v", "mountPath": "/ro", "readOnly": true},
            {"name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "IfPossible"}]}]});
    let mut container = running("c", "id-1");
    container.resources = Some(AppliedResources {
        cpu_shares: Some(204),
        cpu_quota: Some(30_000),
        cpu_period: Some(100_000),
        memory_limit: Some(1 << 30),
    });
    let mut world = World::new(spec).runs(vec![container]);
    world.node.recursive_read_only.insert(String::new());
    let status = world.settled();
    let one = serde_json::to_value(&status.container_statuses.expect("statuses")[0]).expect("JSON");
    assert_eq!(
        one["volumeMounts"],
        json!([{"name": "v", "mountPath": "/rw"},
            {"name": "v", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "v", "mountPath": "/rro", "readOnly": true, "recursiveReadOnly": "Enabled"}])
    );
    assert_eq!(one["allocatedResources"], json!({"cpu": "100m", "memory": "64Mi"}));
    assert_eq!(
        one["resources"],
        json!({"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"cpu": "300m", "memory": "1Gi"}})
    );
}

#[test]
fn ephemeral_containers_have_no_probes() {
    let spec = json!({"ephemeralContainers": [{"name": "b"}, {"name": "a"}]});
    let status = World::new(spec).runs(vec![running("b", "id-b"), running("c", "id-c")]).settled();
    assert_eq!(
        brief(status.ephemeral_container_statuses.as_ref()),
        [
            "a: waiting ContainerCreating, ready false, started -, restarts 0, last -",
            "b: running, ready false, started -, restarts 0, last -"
        ]
    );
}

#[test]
fn a_pod_that_is_started_again_in_place() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never", "restartPolicyRules": [
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]}]});
    let world = World::new(spec).recorded(recorded(&json!({"running": {}}), &json!({})));
    let ended = world.runs(vec![exited("c", "id-1", 1, 88)]);
    let first = ended.compute();
    assert_eq!(
        conditions(&first).last().map(String::as_str),
        Some("AllContainersRestarting True RestartAllContainersStarted")
    );
    assert_eq!(first.phase.as_deref(), Some("Running"));
    let removed = World { previous: Some(first), ..ended }.runs(Vec::new());
    let second = removed.compute();
    assert_eq!(second.phase.as_deref(), Some("Running"));
    assert_eq!(
        brief(second.container_statuses.as_ref()),
        [
            "c: waiting RestartingAllContainers, ready false, started false, restarts 2, last terminated RestartingAllContainers 137"
        ]
    );
    assert_eq!(
        conditions(&second).last().map(String::as_str),
        Some("AllContainersRestarting False -")
    );
}

#[test]
fn an_init_container_that_will_run_again_with_all_counts_once() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [
        {"name": "c", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]}]});
    let mut world = World::new(spec).runs(vec![exited("i", "id-i", 0, 0), running("c", "id-c")]);
    world.previous = Some(world.compute());
    // It is removed before the container that asked.
    world = world.runs(vec![exited("c", "id-c", 0, 88)]);
    for _ in 0..3 {
        let status = world.compute();
        let told = brief(status.init_container_statuses.as_ref()).concat();
        assert!(told.starts_with("i: waiting "), "{told}");
        assert!(
            told.ends_with("restarts 1, last terminated RestartingAllContainers 137"),
            "{told}"
        );
        world.previous = Some(status);
    }
}

#[test]
fn a_resize_is_told_in_two_conditions() {
    let generation = Some(3);
    let verdict = ResizeVerdict::Deferred("m".into());
    let pending = Some(PendingResize { verdict, generation });
    let in_progress = |error: Option<&str>| {
        Some(ResizeInProgress { error: error.map(str::to_owned), generation })
    };
    let mut world = World::new(json!({})).runs(vec![running("c", "id-c")]);
    world.resize = ResizeState { pending: pending.clone(), in_progress: in_progress(None) };
    let first = world.compute();
    assert_eq!(
        conditions(&first)[..2],
        ["PodResizePending True Deferred", "PodResizeInProgress True -"]
    );
    assert_eq!(ResizeState::recorded(Some(&first)), world.resize);
    world.resize = ResizeState { pending, in_progress: in_progress(Some("m")) };
    let failed = world.compute();
    assert_eq!(conditions(&failed)[1], "PodResizeInProgress True Error");
    assert_eq!(ResizeState::recorded(Some(&failed)), world.resize);
    world.resize = ResizeState::default();
    let second = World { previous: Some(first), ..world }.compute();
    assert!(!conditions(&second).iter().any(|condition| condition.starts_with("PodResize")));
}

#[test]
fn a_memory_request_is_shown_once_its_resize_is_carried_out() {
    let asks = |memory: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"memory": memory}}}]});
    let request = |world: &World| {
        let status = world.compute();
        let one = &status.container_statuses.as_ref().expect("statuses")[0];
        serde_json::to_value(&one.resources).expect("JSON")["requests"]["memory"].clone()
    };
    let mut world = World::new(asks("32Mi")).runs(vec![running("c", "id-c")]);
    world.previous = Some(world.compute());
    world.pod = pod(asks("64Mi"));

    world.resize.in_progress = Some(ResizeInProgress::default());
    assert_eq!(request(&world), "32Mi", "the container has not been given it yet");
    world.resize.in_progress = None;
    assert_eq!(request(&world), "64Mi");
}
