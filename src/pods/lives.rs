//! Measures the lives of pods on the node for `/metrics`: their starts and ends, and the work in
//! between. The names are upstream's.
//!
//! A pod's reporter feeds its [`Life`] at each step of the pod's task. Nothing here decides
//! anything, and nothing waits.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, Volume};

use crate::clock::Clock;
use crate::model::{Mono, Now, Phase, Pod, phase, pod};
use crate::status::Acked;
use crate::telemetry::metrics::{Counter, DEFAULT_BUCKETS, Family, Gauge, Histogram, Registry};

/// Upstream's buckets of starts, in seconds.
const START_BUCKETS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Upstream's buckets of writes of statuses, in seconds.
const STATUS_BUCKETS: &[f64] =
    &[0.010, 0.050, 0.100, 0.500, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
/// Upstream's buckets of containers.
const CONTAINER_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];

/// The kinds of work on a pod, as upstream's pod workers name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Create,
    Update,
    Sync,
    Kill,
}

impl Work {
    fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Sync => "sync",
            Self::Kill => "kill",
        }
    }
}

/// What the actions of a pod do at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Something is under way.
    pub working: bool,
    /// An image is being fetched.
    pub pulling: bool,
}

/// The metrics of the lives of all pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lives(Arc<Families>);

#[derive(Debug)]
struct Families {
    clock: Clock,
    containers: Histogram,
    worker_start: Histogram,
    worker: Family<Histogram>,
    start: Histogram,
    start_sli: Histogram,
    start_total: Histogram,
    first_network: Gauge,
    status_sync: Histogram,
    terminated: Family<Counter>,
}

impl Lives {
    /// Registers the metrics.
    #[rustfmt::skip]
    pub fn register(registry: &Registry, clock: Clock) -> Self {
        Self(Arc::new(Families {
            clock,
            containers: registry.histogram("kubelet_containers_per_pod_count", "[ALPHA] The number of containers per pod.", CONTAINER_BUCKETS),
            worker_start: registry.histogram("kubelet_pod_worker_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.", DEFAULT_BUCKETS),
            worker: registry.histograms("kubelet_pod_worker_duration_seconds", "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", &["operation_type"], DEFAULT_BUCKETS),
            start: registry.histogram("kubelet_pod_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", START_BUCKETS),
            start_sli: registry.histogram("kubelet_pod_start_sli_duration_seconds", "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", START_BUCKETS),
            start_total: registry.histogram("kubelet_pod_start_total_duration_seconds", "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", START_BUCKETS),
            first_network: registry.gauge("kubelet_first_network_pod_start_sli_duration_seconds", "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch"),
            status_sync: registry.histogram("kubelet_pod_status_sync_duration_seconds", "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.", STATUS_BUCKETS),
            terminated: registry.counters("kubelet_terminated_containers_total", "[ALPHA] Cumulative number of container terminations.", &["container_type", "exit_code", "reason"]),
        }))
    }

    /// Begins the life of a pod that the node has seen for the first time. `recorded` is the status
    /// that the API has of it.
    pub(super) fn begin(&self, pod: &Pod, recorded: Option<&PodStatus>) -> Life {
        let is_new = recorded.is_none_or(|status| status.start_time.is_none());
        let is_tracked = is_new && !pod::is_static(pod) && !is_unschedulable(recorded);
        Life {
            families: Arc::clone(&self.0),
            seen: self.0.clock.now().mono,
            has_begun: false,
            was_pending: false,
            work: None,
            generation: pod.metadata.generation,
            pulling_since: None,
            pulled: Duration::ZERO,
            unwritten: None,
            version: None,
            start: if is_tracked { Start::Awaited } else { Start::Over },
        }
    }
}

/// How far the start of a pod is, for the indicators of its latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// A container has not started yet.
    Awaited,
    /// All have; the status that says so has this version.
    Reported(u64),
    /// It was measured, or is none to be measured.
    Over,
}

/// What one step of a pod's task has come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached<'a> {
    pub(super) pod: &'a Pod,
    pub(super) before: Option<&'a PodStatus>,
    pub(super) status: &'a PodStatus,
    /// The version of the status; `None`: there is no object to write it to.
    pub(super) version: Option<u64>,
    /// What the API server has accepted.
    pub(super) acked: Acked,
    pub(super) is_stopping: bool,
    pub(super) busy: Busy,
    pub(super) now: Now,
}

/// The life of one pod.
#[derive(Debug)]
pub(super) struct Life {
    families: Arc<Families>,
    /// When the node saw the pod first.
    seen: Mono,
    has_begun: bool,
    was_pending: bool,
    /// The work that is under way, and since when.
    work: Option<(Work, Mono)>,
    generation: Option<i64>,
    pulling_since: Option<Mono>,
    /// How long images were fetched.
    pulled: Duration,
    /// The time of the first status that is not written yet.
    unwritten: Option<Mono>,
    version: Option<u64>,
    start: Start,
}

impl Life {
    /// Takes a step in.
    pub(super) fn reached(&mut self, reached: &Reached<'_>) {
        let now = reached.now.mono;
        let is_first = !self.has_begun;
        if is_first {
            self.has_begun = true;
            self.families.worker_start.observe_duration(now.since(self.seen));
            let containers = pod::main_containers(reached.pod).len();
            let containers = u32::try_from(containers).unwrap_or(u32::MAX);
            self.families.containers.observe(f64::from(containers));
        }
        self.work(reached, is_first);
        self.pulls(reached.busy.pulling, now);
        self.phase(reached.status, now);
        self.ends(reached);
        self.writes(reached.version, reached.acked, now);
        self.starts(reached);
    }

    /// Takes in that the pod is over.
    pub(super) fn finished(&mut self) {
        let took = self.work.take().map(|(_, since)| self.families.clock.now().mono.since(since));
        let worker = self.families.worker.with(&["terminated"]);
        worker.observe_duration(took.unwrap_or_default());
    }

    /// Work lasts from the step that begins an action to the step that finds none under way.
    fn work(&mut self, reached: &Reached<'_>, is_first: bool) {
        let now = reached.now.mono;
        let generation = reached.pod.metadata.generation;
        let is_changed = std::mem::replace(&mut self.generation, generation) != generation;
        let kind = if reached.is_stopping {
            Work::Kill
        } else if is_first {
            Work::Create
        } else if is_changed {
            Work::Update
        } else {
            Work::Sync
        };
        let (kind, since) = *self.work.get_or_insert((kind, now));
        if !reached.busy.working {
            self.work = None;
            self.families.worker.with(&[kind.label()]).observe_duration(now.since(since));
        }
    }

    fn pulls(&mut self, is_pulling: bool, now: Mono) {
        if let Some(since) = self.pulling_since.take() {
            self.pulled += now.since(since);
        }
        self.pulling_since = is_pulling.then_some(now);
    }

    fn phase(&mut self, status: &PodStatus, now: Mono) {
        match status.phase.as_deref() {
            Some(phase) if phase == Phase::Pending.as_str() => self.was_pending = true,
            Some(phase) if phase == Phase::Running.as_str() => {
                if std::mem::take(&mut self.was_pending) {
                    self.families.start.observe_duration(now.since(self.seen));
                }
            }
            Some(_) | None => {}
        }
    }

    /// Counts the containers that have ended since the status before.
    fn ends(&self, reached: &Reached<'_>) {
        type Statuses = fn(&PodStatus) -> Option<&Vec<ContainerStatus>>;
        let kinds: [(&str, Statuses); 3] = [
            ("init_container", |status| status.init_container_statuses.as_ref()),
            ("container", |status| status.container_statuses.as_ref()),
            ("ephemeral_container", |status| status.ephemeral_container_statuses.as_ref()),
        ];
        // What had ended before this process was counted by another one.
        let Some(before) = reached.before else { return };
        for (kind, statuses) in kinds {
            let before = statuses(before).map(Vec::as_slice).unwrap_or_default();
            for container in statuses(reached.status).into_iter().flatten() {
                let ended = |container: &ContainerStatus| {
                    container.state.as_ref().and_then(|state| state.terminated.clone())
                };
                let was = before.iter().find(|before| before.name == container.name);
                let Some(end) = ended(container).filter(|_| was.and_then(ended).is_none()) else {
                    continue;
                };
                let code = end.exit_code.to_string();
                let reason = end.reason.unwrap_or_default();
                self.families.terminated.with(&[kind, &code, &reason]).inc();
            }
        }
    }

    /// A status is written once the API server has accepted it or a newer one.
    fn writes(&mut self, version: Option<u64>, acked: Acked, now: Mono) {
        let Some(version) = version else { return };
        if self.version != Some(version) {
            self.version = Some(version);
            self.unwritten.get_or_insert(now);
        }
        if acked.version >= version
            && let Some(since) = self.unwritten.take()
        {
            self.families.status_sync.observe_duration(now.since(since));
        }
    }

    /// The start lasts from the pod's creation until the API server has accepted that all
    /// containers have started.
    fn starts(&mut self, reached: &Reached<'_>) {
        if phase::is_terminal(reached.status) || reached.is_stopping {
            self.start = Start::Over;
        }
        if self.start == Start::Awaited
            && let Some(version) = reached.version
            && have_started(reached.status)
        {
            self.start = Start::Reported(version);
        }
        let Start::Reported(version) = self.start else { return };
        if reached.acked.version < version {
            return;
        }
        self.start = Start::Over;
        let Some(created) = &reached.pod.metadata.creation_timestamp else { return };
        let total = reached.now.wall.duration_since(created.0);
        let total = Duration::try_from(total).unwrap_or_default();
        self.families.start_total.observe_duration(total);
        if is_stateful(reached.pod) {
            return;
        }
        let init = init_time(reached.status);
        let own = total.saturating_sub(self.pulled).saturating_sub(init);
        self.families.start_sli.observe_duration(own);
        // Zero: none yet.
        if !pod::is_host_network(reached.pod) && self.families.first_network.get() <= 0.0 {
            self.families.first_network.set(own.as_secs_f64());
        }
    }
}

/// Returns true if every container has been started and runs.
fn have_started(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let runs = |container: &ContainerStatus| {
        let running = container.state.as_ref().and_then(|state| state.running.as_ref());
        running.is_some_and(|running| running.started_at.is_some())
    };
    !containers.is_empty() && containers.iter().all(runs)
}

/// Returns how long the init containers that have ended took together.
fn init_time(status: &PodStatus) -> Duration {
    let all = status.init_container_statuses.iter().flatten();
    let ends = all.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    let took = ends.filter_map(|end| {
        let (from, to) = end.started_at.as_ref().zip(end.finished_at.as_ref())?;
        Duration::try_from(to.0.duration_since(from.0)).ok()
    });
    took.sum()
}

/// Returns true if a volume of the pod outlives it: its start depends on more than this node.
fn is_stateful(pod: &Pod) -> bool {
    let is_ephemeral = |volume: &Volume| {
        volume.secret.is_some()
            || volume.config_map.is_some()
            || volume.downward_api.is_some()
            || volume.empty_dir.is_some()
            || volume.projected.is_some()
    };
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    !volumes.iter().all(is_ephemeral)
}

/// Returns true if the pod had to wait for a node: its start says nothing about this one.
fn is_unschedulable(status: Option<&PodStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{Busy, Life, Lives, Reached};
    use crate::clock::Clock;
    use crate::model::{Mono, Now, Pod, Wall};
    use crate::status::Acked;
    use crate::telemetry::metrics::Registry;

    const IDLE: Busy = Busy { working: false, pulling: false };
    const WORKS: Busy = Busy { working: true, pulling: false };
    const PULLS: Busy = Busy { working: true, pulling: true };

    fn test_pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u",
                "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "main"}]},
            "status": status,
        }))
        .expect("a pod")
    }

    /// A pod with this status at each of the seconds.
    fn step(life: &mut Life, before: &Value, status: &Value, second: i64, busy: Busy, acked: u64) {
        let pod = test_pod(status);
        let before = test_pod(before).status;
        let seconds = u64::try_from(second).expect("a time");
        life.reached(&Reached {
            pod: &pod,
            before: before.as_ref(),
            status: pod.status.as_ref().expect("a status"),
            version: Some(2),
            acked: Acked { version: acked, ..Acked::default() },
            is_stopping: false,
            busy,
            now: Now {
                mono: Mono(life.seen.0 + Duration::from_secs(seconds)),
                wall: Wall::from_second(second).expect("a time"),
            },
        });
    }

    fn shows(registry: &Registry, lines: &[&str]) {
        let page = registry.encode();
        for line in lines {
            assert!(page.lines().any(|shown| shown == *line), "{line} in {page}");
        }
    }

    #[test]
    fn a_start_is_measured_without_its_pull_once_the_api_server_knows_of_it() {
        let registry = Registry::new();
        let lives = Lives::register(&registry, Clock::starting_at(Wall::UNIX_EPOCH));
        let pending = json!({"phase": "Pending"});
        let running = json!({"phase": "Running", "containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "1970-01-01T00:00:09Z"}}}]});
        let mut life = lives.begin(&test_pod(&json!({})), None);
        step(&mut life, &pending, &pending, 1, PULLS, 0);
        step(&mut life, &pending, &pending, 7, WORKS, 0);
        step(&mut life, &pending, &running, 9, IDLE, 1);
        shows(&registry, &["kubelet_pod_start_total_duration_seconds_count 0"]);
        step(&mut life, &running, &running, 10, IDLE, 2);
        step(&mut life, &running, &running, 11, IDLE, 2);
        shows(
            &registry,
            &[
                "kubelet_pod_start_total_duration_seconds_sum 10",
                "kubelet_pod_start_total_duration_seconds_count 1",
                "kubelet_pod_start_sli_duration_seconds_sum 4",
                "kubelet_first_network_pod_start_sli_duration_seconds 4",
                "kubelet_pod_start_duration_seconds_sum 9",
                "kubelet_pod_worker_start_duration_seconds_sum 1",
                "kubelet_pod_worker_duration_seconds_sum{operation_type=\"create\"} 8",
                "kubelet_pod_worker_duration_seconds_count{operation_type=\"sync\"} 2",
                "kubelet_pod_status_sync_duration_seconds_sum 9",
                "kubelet_pod_status_sync_duration_seconds_count 1",
                "kubelet_containers_per_pod_count_sum 1",
            ],
        );
    }

    #[test]
    fn an_end_counts_once_and_not_if_it_was_before_this_process() {
        let registry = Registry::new();
        let lives = Lives::register(&registry, Clock::starting_at(Wall::UNIX_EPOCH));
        let ended = json!({"phase": "Running", "containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]});
        let mut life = lives.begin(&test_pod(&json!({})), None);
        let running = json!({"phase": "Running"});
        step(&mut life, &running, &ended, 1, IDLE, 0);
        step(&mut life, &ended, &ended, 2, IDLE, 0);
        life.finished();
        shows(
            &registry,
            &[
                "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"3\",reason=\"Error\"} 1",
                "kubelet_pod_worker_duration_seconds_count{operation_type=\"terminated\"} 1",
            ],
        );
    }
}
