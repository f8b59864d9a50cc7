//! What a pod needs next: a container to start, a wait, or nothing any more. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use rkubelet::backend::{ContainerState, ObservedPod, Pod, Waiting, Wall};

/// The first pause before a container is started again; it doubles. The first restart has none.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What is to be done for a pod that should run.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Containers to start, with the number of the attempt.
    pub(crate) start: Vec<(String, u32)>,
    /// Why others do not run.
    pub(crate) waiting: BTreeMap<String, Waiting>,
    /// Nothing of the pod will run any more.
    pub(crate) is_finished: bool,
}

/// What one container needs.
#[derive(PartialEq, Eq)]
enum Need {
    Nothing,
    Start(u32),
    Pause(Duration),
    /// It has ended for good.
    Ended {
        well: bool,
    },
}

/// Decides. Init containers run one after the other, the others side by side.
pub(crate) fn plan(pod: &Pod, observed: &ObservedPod, now: Wall) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");

    // The end of an init container that did well is its end whatever the policy.
    let policy_of_init = if policy == "Never" { "Never" } else { "OnFailure" };
    for container in spec.init_containers.iter().flatten() {
        let need = need(container, policy_of_init, observed, now);
        if need == (Need::Ended { well: true }) {
            continue;
        }
        plan.is_finished = need == (Need::Ended { well: false });
        plan.take(pod, container, &need);
        return plan;
    }

    let mut ended = 0;
    for container in &spec.containers {
        let need = need(container, policy, observed, now);
        ended += usize::from(matches!(need, Need::Ended { .. }));
        plan.take(pod, container, &need);
    }
    plan.is_finished = ended == spec.containers.len();
    plan
}

impl Plan {
    fn take(&mut self, pod: &Pod, container: &Container, need: &Need) {
        match *need {
            Need::Start(attempt) => self.start.push((container.name.clone(), attempt)),
            Need::Pause(pause) => {
                let metadata = &pod.metadata;
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_duration(pause),
                    container.name,
                    text(&metadata.name),
                    text(&metadata.namespace),
                    text(&metadata.uid),
                );
                let waiting = Waiting { reason: "CrashLoopBackOff".to_owned(), message };
                self.waiting.insert(container.name.clone(), waiting);
            }
            Need::Nothing | Need::Ended { .. } => {}
        }
    }
}

fn need(container: &Container, policy: &str, observed: &ObservedPod, now: Wall) -> Need {
    let Some(newest) = observed.latest(&container.name) else { return Need::Start(0) };
    let exit = match &newest.state {
        ContainerState::Created | ContainerState::Running { .. } | ContainerState::Unknown => {
            return Need::Nothing;
        }
        ContainerState::Exited(exit) => exit,
    };
    let well = exit.exit_code == 0;
    if policy == "Never" || (policy == "OnFailure" && well) {
        return Need::Ended { well };
    }

    let pause = pause(newest.restart_count);
    let since = now.duration_since(exit.finished_at);
    let is_over = Duration::try_from(since).is_ok_and(|since| since >= pause);
    if is_over { Need::Start(newest.restart_count + 1) } else { Need::Pause(pause) }
}

fn pause(restarts: u32) -> Duration {
    let Some(doubled) = restarts.checked_sub(1) else { return Duration::ZERO };
    FIRST_PAUSE.saturating_mul(1 << doubled.min(10)).min(LONGEST_PAUSE)
}

/// The duration as Go writes it: `10s`, `2m40s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}
