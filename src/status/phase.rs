//! Computes the phase of a pod from the statuses of its containers. Pure.

use k8s_openapi::api::core::v1 as api;

use super::restart;
use crate::model::{Phase, pod};

/// The reason of containers that were removed to start the whole pod again in place.
pub const RESTARTING_ALL: &str = "RestartingAllContainers";

/// The phase that is reported and the one that conditions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseDecision {
    /// The phase of the status.
    pub reported: Phase,
    /// The phase that follows from the containers' states. It runs ahead of `reported` while
    /// something of the pod could still run.
    pub natural: Phase,
    /// True if the pod is over and nothing of it can run: a disruption is shown only then.
    pub over: bool,
}

/// The meaning of one container's status for the phase.
#[derive(Clone, Copy)]
enum Stand<'a> {
    /// The container has no status.
    Missing,
    Running {
        started: bool,
    },
    /// The container has ended, and may be about to be started again.
    Ended(&'a api::ContainerStateTerminated),
    /// The container has never run.
    Waiting,
    /// The status has no state.
    Nothing,
}

fn stand<'a>(statuses: Option<&'a Vec<api::ContainerStatus>>, name: &str) -> Stand<'a> {
    let Some(status) = statuses.into_iter().flatten().find(|status| status.name == name) else {
        return Stand::Missing;
    };

    let Some(state) = &status.state else { return Stand::Nothing };
    if state.running.is_some() {
        return Stand::Running { started: status.started == Some(true) };
    }
    if let Some(terminated) = &state.terminated {
        return Stand::Ended(terminated);
    }
    if state.waiting.is_none() {
        return Stand::Nothing;
    }

    match status.last_state.as_ref().and_then(|last| last.terminated.as_ref()) {
        Some(terminated) => Stand::Ended(terminated),
        None => Stand::Waiting,
    }
}

fn is_restartable(
    pod: &api::Pod,
    container: &api::Container,
    end: &api::ContainerStateTerminated,
) -> bool {
    end.reason.as_deref() == Some(RESTARTING_ALL)
        || restart::rules(pod, container).restarts(end.exit_code)
}

#[derive(Default)]
struct Tally {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// Computes the phase. `is_over`: the pod's end has come, nothing is started again.
/// `was_initialized`: a main container of its present sandbox exists, so restarting sidecars do not
/// make it pending again.
pub fn of(pod: &api::Pod, status: &api::PodStatus, is_over: bool, was_initialized: bool) -> Phase {
    let mut pending_init = 0_usize;
    let mut pending_sidecars = 0_usize;
    let mut tally = Tally::default();

    for container in pod::init_containers(pod) {
        let stand = stand(status.init_container_statuses.as_ref(), &container.name);
        if pod::is_sidecar(container) {
            match stand {
                Stand::Missing => tally.unknown += 1,
                Stand::Running { started } => {
                    pending_sidecars += usize::from(!started);
                    tally.running += 1;
                }
                // Sidecars that have ended do not count.
                Stand::Ended(_) => {}
                Stand::Waiting => {
                    pending_sidecars += 1;
                    tally.waiting += 1;
                }
                Stand::Nothing => {
                    pending_sidecars += 1;
                    tally.unknown += 1;
                }
            }
            continue;
        }

        match stand {
            Stand::Ended(end) if end.exit_code != 0 => {
                if !is_restartable(pod, container, end) {
                    return Phase::Failed;
                }
            }
            Stand::Ended(_) => {}
            Stand::Missing | Stand::Running { .. } | Stand::Waiting | Stand::Nothing => {
                pending_init += 1;
            }
        }
    }

    for container in pod::main_containers(pod) {
        match stand(status.container_statuses.as_ref(), &container.name) {
            Stand::Missing | Stand::Nothing => tally.unknown += 1,
            Stand::Running { .. } => tally.running += 1,
            Stand::Waiting => tally.waiting += 1,
            Stand::Ended(end) => {
                tally.stopped += 1;
                tally.stopped_for_good += usize::from(!is_restartable(pod, container, end));
                let is_waiting = ended_and_waiting(status, &container.name);
                tally.succeeded += usize::from(end.exit_code == 0 && !is_waiting);
            }
        }
    }

    if pending_init > 0 || (pending_sidecars > 0 && !was_initialized) || tally.waiting > 0 {
        return Phase::Pending;
    }

    by_tally(pod, &tally, is_over)
}

fn by_tally(pod: &api::Pod, tally: &Tally, is_over: bool) -> Phase {
    if tally.unknown > 0 {
        return Phase::Pending;
    }
    if tally.running > 0 {
        return Phase::Running;
    }
    if tally.stopped == 0 {
        return Phase::Pending;
    }

    let by_exit_codes =
        if tally.stopped == tally.succeeded { Phase::Succeeded } else { Phase::Failed };
    if is_over && !pod::is_static(pod) {
        return by_exit_codes;
    }

    if tally.stopped == tally.stopped_for_good { by_exit_codes } else { Phase::Running }
}

/// Returns true if a container that has ended waits to be started again: it has not succeeded,
/// whatever its exit code.
fn ended_and_waiting(status: &api::PodStatus, name: &str) -> bool {
    let mut statuses = status.container_statuses.iter().flatten();
    statuses.any(|status| {
        status.name == name && status.state.as_ref().is_some_and(|state| state.waiting.is_some())
    })
}

#[cfg(test)]
#[expect(clippy::needless_pass_by_value, reason = "tables read better with values")]
mod tests {
    use serde_json::{Value, json};

    use super::of;
    use crate::model::Phase::{self, Failed, Pending, Running, Succeeded};
    use crate::model::Pod;

    fn run(name: &str) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "started": true, "state": {"running": {}}})
    }

    fn run_unstarted(name: &str) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "started": false, "state": {"running": {}}})
    }

    fn end(name: &str, code: i32) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}})
    }

    fn wait(name: &str) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {}}})
    }

    fn wait_again(name: &str, code: i32) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": {"waiting": {}},
            "lastState": {"terminated": {"exitCode": code}}})
    }

    struct Case {
        policy: &'static str,
        init: Value,
        main: &'static [&'static str],
        init_statuses: Vec<Value>,
        statuses: Vec<Value>,
        is_over: bool,
        was_initialized: bool,
    }

    impl Default for Case {
        fn default() -> Self {
            Self {
                policy: "Always",
                init: json!([]),
                main: &["a", "b"],
                init_statuses: vec![],
                statuses: vec![],
                is_over: false,
                was_initialized: false,
            }
        }
    }

    #[track_caller]
    fn check(case: Case, expected: Phase) {
        let main: Vec<Value> = case.main.iter().map(|name| json!({"name": name})).collect();
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"restartPolicy": case.policy, "initContainers": case.init, "containers": main},
            "status": {"containerStatuses": case.statuses, "initContainerStatuses": case.init_statuses}}))
        .expect("a pod");
        let status = pod.status.clone().expect("a status");
        assert_eq!(of(&pod, &status, case.is_over, case.was_initialized), expected);
    }

    fn main_only(policy: &'static str, statuses: Vec<Value>, expected: Phase) {
        check(Case { policy, statuses, ..Case::default() }, expected);
    }

    #[test]
    fn restarted_always() {
        main_only("Always", vec![], Pending);
        main_only("Always", vec![run("a"), run("b")], Running);
        main_only("Always", vec![end("a", 0), end("b", 0)], Running);
        main_only("Always", vec![end("a", 1), end("b", 1)], Running);
        main_only("Always", vec![run("a"), end("b", 0)], Running);
        main_only("Always", vec![run("a")], Pending);
        main_only("Always", vec![run("a"), wait("b")], Pending);
        main_only("Always", vec![run("a"), wait_again("b", 1)], Running);
    }

    #[test]
    fn restarted_never() {
        main_only("Never", vec![run("a"), run("b")], Running);
        main_only("Never", vec![end("a", 0), end("b", 0)], Succeeded);
        main_only("Never", vec![end("a", 1), end("b", 0)], Failed);
        main_only("Never", vec![run("a"), end("b", 1)], Running);
        main_only("Never", vec![end("a", 0), wait("b")], Pending);
    }

    #[test]
    fn restarted_on_failure() {
        main_only("OnFailure", vec![end("a", 0), end("b", 0)], Succeeded);
        main_only("OnFailure", vec![end("a", 1), end("b", 0)], Running);
        main_only("OnFailure", vec![end("a", 0), wait_again("b", 1)], Running);
    }

    #[test]
    fn at_its_end_exit_codes_decide() {
        for policy in ["Always", "OnFailure", "Never"] {
            let over = |statuses| Case { policy, statuses, is_over: true, ..Case::default() };
            check(over(vec![end("a", 0), end("b", 0)]), Succeeded);
            check(over(vec![end("a", 0), end("b", 3)]), Failed);
            check(over(vec![run("a"), end("b", 3)]), Running);
            check(over(vec![end("a", 0), wait("b")]), Pending);
        }
    }

    #[test]
    fn init_containers_come_first() {
        let init = json!([{"name": "i"}]);
        let case = |policy, init_statuses, statuses| Case {
            policy,
            init: init.clone(),
            init_statuses,
            statuses,
            ..Case::default()
        };
        check(case("Always", vec![], vec![]), Pending);
        check(case("Always", vec![run("i")], vec![wait("a"), wait("b")]), Pending);
        check(case("Always", vec![end("i", 1)], vec![wait("a"), wait("b")]), Pending);
        check(case("Never", vec![end("i", 1)], vec![wait("a"), wait("b")]), Failed);
        check(case("OnFailure", vec![wait_again("i", 1)], vec![wait("a"), wait("b")]), Pending);
        check(case("Never", vec![end("i", 0)], vec![end("a", 0), end("b", 0)]), Succeeded);
        check(case("Always", vec![end("i", 0)], vec![run("a"), run("b")]), Running);
    }

    #[test]
    fn sidecars_count_until_they_end() {
        let init = json!([{"name": "s", "restartPolicy": "Always"}]);
        let case = |policy, init_statuses, statuses| Case {
            policy,
            init: init.clone(),
            init_statuses,
            statuses,
            ..Case::default()
        };
        check(case("Always", vec![run_unstarted("s")], vec![wait("a"), wait("b")]), Pending);
        check(case("Always", vec![run("s")], vec![run("a"), run("b")]), Running);
        check(case("Never", vec![run("s")], vec![end("a", 0), end("b", 0)]), Running);
        check(case("Never", vec![end("s", 137)], vec![end("a", 0), end("b", 0)]), Succeeded);
        check(case("Never", vec![end("s", 0)], vec![end("a", 1), end("b", 0)]), Failed);
        check(case("Always", vec![run_unstarted("s")], vec![run("a"), run("b")]), Pending);
        check(
            Case {
                was_initialized: true,
                ..case("Always", vec![run_unstarted("s")], vec![run("a"), run("b")])
            },
            Running,
        );
    }

    #[test]
    fn a_rule_keeps_a_pod_alive() {
        let rules = json!([{"name": "i", "restartPolicy": "Never", "restartPolicyRules":
            [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]);
        let case = |code| Case {
            policy: "Never",
            init: rules.clone(),
            init_statuses: vec![end("i", code)],
            statuses: vec![wait("a"), wait("b")],
            ..Case::default()
        };
        check(case(42), Pending);
        check(case(1), Failed);
    }
}
