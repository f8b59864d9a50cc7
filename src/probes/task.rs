//! Probes one pod.
//!
//! In: the running containers and whether the pod stops (`watch`). Out: verdicts (`watch`), events,
//! the observer. The task ends when its handle is dropped.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::model::waiting::{ContainerVerdict, ProbeOutcome};
use crate::model::{EventType, Mono, Pod, ProbeVerdicts, pod, reason};
use crate::watch::set_if_changed;

use super::check::check;
use super::schedule::{self, Due, Timing, Turn};
use super::verdict::{Attempt, Thresholds, Verdict};
use super::{CheckResult, Counted, ProbeDeps, ProbeKind, ProbeTarget};

/// The probes of one pod. Dropping it stops them.
#[derive(Debug)]
pub struct PodProbes {
    wanted: watch::Sender<Wanted>,
    verdicts: watch::Receiver<Arc<ProbeVerdicts>>,
    /// Holds the task; empty for a pod without probes.
    _task: JoinSet<()>,
}

/// The containers to probe: a level, not a list of changes.
#[derive(Clone, Debug, Default)]
struct Wanted {
    targets: Arc<Vec<ProbeTarget>>,
    terminating: bool,
}

impl PodProbes {
    /// Starts the probes of a pod. None runs before [`PodProbes::running`]. A pod without probes
    /// costs no task. Needs a tokio runtime.
    pub fn start(deps: ProbeDeps, pod: &Pod) -> Self {
        let (wanted, inbox) = watch::channel(Wanted::default());
        let (outbox, verdicts) = watch::channel(Arc::default());
        let mut task = JoinSet::new();
        let probers = probers(pod);
        if !probers.is_empty() {
            let state = State { deps, pod: Arc::new(probed(pod)), probers, terminating: false };
            task.spawn(run(state, inbox, outbox));
        }
        Self { wanted, verdicts, _task: task }
    }

    /// Sets all containers that run now. A missing container is no longer probed and loses its
    /// verdicts.
    pub fn running(&self, targets: Vec<ProbeTarget>) {
        self.wanted.send_if_modified(|wanted| {
            if *wanted.targets == targets {
                return false;
            }
            wanted.targets = Arc::new(targets);
            true
        });
    }

    /// Marks the pod as stopping: liveness and startup probes end, readiness goes on until its
    /// container ends.
    pub fn terminating(&self) {
        self.wanted.send_if_modified(|wanted| !std::mem::replace(&mut wanted.terminating, true));
    }

    /// Returns the verdicts, as they change.
    pub fn verdicts(&self) -> watch::Receiver<Arc<ProbeVerdicts>> {
        self.verdicts.clone()
    }
}

/// One probe of the spec, and the container that it probes at present.
struct Prober {
    container: String,
    kind: ProbeKind,
    timing: Timing,
    thresholds: Thresholds,
    phase: Duration,
    gated: bool,
    active: Option<Active>,
}

/// The state of a probe of one container.
struct Active {
    target: ProbeTarget,
    verdict: Verdict,
    due: Option<Due>,
    in_flight: bool,
    settled: bool,
}

/// Returns the probes of main containers and sidecars, with the API's defaults.
fn probers(pod: &Pod) -> Vec<Prober> {
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let mut all = Vec::new();

    for container in pod::main_containers(pod).iter().chain(sidecars) {
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            let Some(probe) = kind.of(container) else { continue };
            let seconds = |value: Option<i32>, default: u64| {
                Duration::from_secs(
                    value
                        .and_then(|value| u64::try_from(value).ok())
                        .filter(|n| *n > 0)
                        .unwrap_or(default),
                )
            };
            let count = |value: Option<i32>, default: u32| {
                value
                    .and_then(|value| u32::try_from(value).ok())
                    .filter(|count| *count > 0)
                    .unwrap_or(default)
            };
            let period = seconds(probe.period_seconds, 10);
            all.push(Prober {
                container: container.name.clone(),
                kind,
                timing: Timing {
                    initial_delay: seconds(probe.initial_delay_seconds, 0),
                    period,
                    timeout: seconds(probe.timeout_seconds, 1),
                },
                thresholds: Thresholds {
                    success: count(probe.success_threshold, 1),
                    failure: count(probe.failure_threshold, 3),
                },
                phase: schedule::phase(period, uid, &container.name, kind),
                gated: kind != ProbeKind::Startup && container.startup_probe.is_some(),
                active: None,
            });
        }
    }

    all
}

/// Returns the part of a pod that probes need: its identity, and the names, ports, environment
/// and probes of its containers. The whole object would stay in memory beside each newer one.
fn probed(pod: &Pod) -> Pod {
    let slim = |container: &api::Container| api::Container {
        name: container.name.clone(),
        ports: container.ports.clone(),
        env: container.env.clone(),
        restart_policy: container.restart_policy.clone(),
        liveness_probe: container.liveness_probe.clone(),
        readiness_probe: container.readiness_probe.clone(),
        startup_probe: container.startup_probe.clone(),
        ..api::Container::default()
    };
    let init = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(api::PodSpec {
            init_containers: Some(init.map(slim).collect()),
            containers: pod::main_containers(pod).iter().map(slim).collect(),
            ..api::PodSpec::default()
        }),
        status: None,
    }
}

struct State {
    deps: ProbeDeps,
    /// The part of the pod that probes need.
    pod: Arc<Pod>,
    probers: Vec<Prober>,
    terminating: bool,
}

/// An attempt that has ended.
struct Done {
    prober: usize,
    id: crate::model::ContainerId,
    due: Due,
    began: Mono,
    ended: Mono,
    result: CheckResult,
    /// True if this process timed the end. The end of a command is timed by the runtime.
    own_timer: bool,
}

type Attempts = FuturesUnordered<BoxFuture<'static, Done>>;

async fn run(
    mut state: State,
    mut inbox: watch::Receiver<Wanted>,
    outbox: watch::Sender<Arc<ProbeVerdicts>>,
) {
    let mut attempts = Attempts::new();
    loop {
        let next = state.next_due();
        let clock = state.deps.clock;

        // Cancel-safe: `changed` and `next` lose nothing when another branch is taken, and a
        // dropped sleep is made anew.
        tokio::select! {
            changed = inbox.changed() => match changed {
                Ok(()) => {
                    let wanted = inbox.borrow_and_update().clone();
                    state.apply(&wanted);
                }
                Err(_) => return,
            },
            Some(done) = attempts.next(), if !attempts.is_empty() => state.finish(&done),
            () = clock.sleep_until_some(next), if next.is_some() => {}
        }
        state.launch(&mut attempts);
        let verdicts = state.verdicts();
        set_if_changed(&outbox, Arc::new(verdicts));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.deps.observer.ended(&self.pod);
    }
}

impl State {
    /// Takes the containers that run now.
    fn apply(&mut self, wanted: &Wanted) {
        for prober in &mut self.probers {
            let target = wanted.targets.iter().find(|target| target.container == prober.container);
            match (&mut prober.active, target) {
                (Some(active), Some(target)) if active.target.id == target.id => {
                    active.target = target.clone();
                }
                (_, Some(target)) => {
                    let verdict = Verdict::new(prober.kind, prober.thresholds, target.recorded);
                    let target = target.clone();
                    prober.active = Some(Active {
                        target,
                        verdict,
                        due: None,
                        in_flight: false,
                        settled: false,
                    });
                }
                (_, None) => prober.active = None,
            }
        }

        self.terminating |= wanted.terminating;
        if self.terminating {
            for active in self.probers.iter_mut().filter_map(|prober| prober.active.as_mut()) {
                active.verdict.terminate();
            }
        }

        self.arm();
    }

    /// Sets the first time of every probe that may run and has none.
    fn arm(&mut self) {
        let now = self.deps.clock.now();
        let started: Vec<String> = self
            .probers
            .iter()
            .filter(|prober| prober.kind == ProbeKind::Startup)
            .filter(|prober| {
                let outcome = prober.active.as_ref().and_then(|active| active.verdict.outcome());
                outcome == Some(ProbeOutcome::Success)
            })
            .map(|prober| prober.container.clone())
            .collect();

        for prober in &mut self.probers {
            let open = !prober.gated || started.contains(&prober.container);
            let Some(active) = &mut prober.active else { continue };

            if active.verdict.on_hold() || !open || active.target.pod_ip.is_none() {
                active.due = None;
            } else if active.due.is_none() && !active.in_flight {
                let recorded = active.target.recorded;
                let settled = recorded.is_some_and(|recorded| recorded.is_settled(prober.kind));
                let started_at = active.target.started_at;
                active.due = Some(schedule::first(
                    &prober.timing,
                    prober.kind,
                    prober.phase,
                    started_at,
                    settled,
                    now,
                ));
            }
        }
    }

    /// Returns the time of the next attempt.
    fn next_due(&self) -> Option<Mono> {
        let waiting = self.probers.iter().filter_map(|prober| prober.active.as_ref());
        waiting
            .filter(|active| !active.in_flight)
            .filter_map(|active| active.due)
            .map(|due| due.at)
            .min()
    }

    /// Begins every attempt that is due.
    fn launch(&mut self, attempts: &mut Attempts) {
        let now = self.deps.clock.now().mono;
        for (index, prober) in self.probers.iter_mut().enumerate() {
            let Some(active) = &mut prober.active else { continue };
            let Some(due) = active.due.filter(|due| due.at <= now && !active.in_flight) else {
                continue;
            };

            active.in_flight = true;
            attempts.push(attempt(
                &self.deps,
                &self.pod,
                index,
                prober.kind,
                &active.target,
                due,
                prober.timing,
            ));
        }
    }

    /// Records an attempt and schedules the next one.
    fn finish(&mut self, done: &Done) {
        let now = self.deps.clock.now();
        let Some(prober) = self.probers.get_mut(done.prober) else { return };
        let kind = prober.kind;
        let timing = prober.timing;
        let phase = prober.phase;

        // The attempt may be about a container that is gone.
        let Some(active) = prober.active.as_mut().filter(|active| active.target.id == done.id)
        else {
            return;
        };

        active.in_flight = false;
        if active.verdict.on_hold() {
            active.due = None;
            return;
        }

        let late = is_late(done, &timing);
        let attempt = judge(&done.result, done.due.turn.is_ahead(), late);
        let was = active.verdict.outcome();
        let decided = active.verdict.record(attempt);
        let outcome = active.verdict.outcome();

        let next = if decided && attempt == Attempt::Success && !active.settled {
            active.settled = true;
            schedule::settled(&timing, phase, done.began)
        } else {
            match done.due.turn {
                Turn::Ahead { of, again } if attempt != Attempt::Success => {
                    schedule::after_look(done.due.at, of, again, now)
                }
                Turn::Ahead { .. } | Turn::Own => schedule::next(&timing, done.began, now),
            }
        };
        active.due = Some(next);

        let container = active.target.container.clone();
        let container_kind = active.target.kind;
        if was != outcome {
            tracing::debug!(
                container,
                probe = kind.as_str(),
                ?outcome,
                "a probe changed its verdict"
            );
        }

        if attempt != Attempt::Nothing || !done.due.turn.is_ahead() {
            self.tell(done, kind, (container_kind, &container), late);
        }

        self.arm();
    }

    /// Records events and metrics as upstream does.
    fn tell(
        &self,
        done: &Done,
        kind: ProbeKind,
        container: (crate::model::ContainerKind, &str),
        late: bool,
    ) {
        let name = kind.as_str();
        let warn = |reason, message| {
            self.deps.recorder.pod(&self.pod, Some(container), EventType::Warning, reason, message);
        };
        let counted = match &done.result {
            CheckResult::Success => Counted::Successful,
            CheckResult::Warning(output) => {
                warn(reason::event::PROBE_WARNING, format!("{name} probe warning: {output}"));
                Counted::Successful
            }
            CheckResult::Failure(output) if late => {
                tracing::warn!(
                    container = container.1,
                    probe = name,
                    output,
                    "a probe failed and was late by our own fault; it does not count"
                );
                Counted::Unknown
            }
            CheckResult::Failure(output) => {
                warn(reason::event::UNHEALTHY, format!("{name} probe failed: {output}"));
                Counted::Failed
            }
            CheckResult::Error { state, problem } => {
                let message =
                    format!("{name} probe errored and resulted in {state} state: {problem}");
                warn(reason::event::UNHEALTHY, message);
                return;
            }
        };

        let took = done.ended.since(done.began);
        self.deps.observer.attempted(&self.pod, container.1, kind, counted, took);
    }

    fn verdicts(&self) -> ProbeVerdicts {
        let mut all = ProbeVerdicts::default();
        for prober in &self.probers {
            let Some(active) = &prober.active else { continue };
            let of: &mut ContainerVerdict =
                all.containers.entry(active.target.id.clone()).or_default();
            let outcome = active.verdict.outcome();
            match prober.kind {
                ProbeKind::Liveness => of.liveness = outcome,
                ProbeKind::Readiness => of.readiness = outcome,
                ProbeKind::Startup => of.startup = outcome,
            }
        }

        all
    }
}

/// Returns true if this process was so late that a failure says nothing about the container: the
/// attempt began late, or its own timer for the end fired late.
fn is_late(done: &Done, timing: &Timing) -> bool {
    /// The inaccuracy of timers and scheduling that is tolerated.
    const SLACK: Duration = Duration::from_millis(500);
    let began_late = done.began.since(done.due.at);
    let ended_late = match &done.result {
        CheckResult::Failure(_) => done.ended.since(done.began),
        CheckResult::Success | CheckResult::Warning(_) | CheckResult::Error { .. } => {
            Duration::ZERO
        }
    };

    began_late > timing.timeout || (done.own_timer && ended_late > timing.timeout * 2 + SLACK)
}

/// Decides what an attempt counts as. A failure that came ahead of its turn, or was late, counts as
/// nothing.
fn judge(result: &CheckResult, ahead: bool, late: bool) -> Attempt {
    match result {
        CheckResult::Success | CheckResult::Warning(_) => Attempt::Success,
        CheckResult::Failure(_) if ahead || late => Attempt::Nothing,
        CheckResult::Failure(_) => Attempt::Failure,
        CheckResult::Error { .. } => Attempt::Nothing,
    }
}

fn attempt(
    deps: &ProbeDeps,
    pod: &Arc<Pod>,
    prober: usize,
    kind: ProbeKind,
    target: &ProbeTarget,
    due: Due,
    timing: Timing,
) -> BoxFuture<'static, Done> {
    let deps = deps.clone();
    let pod = Arc::clone(pod);
    let target = target.clone();
    Box::pin(async move {
        let id = target.id.clone();
        let found = pod::find_container(&pod, &target.container);
        let (Some((_, container)), Some(pod_ip)) = (found, target.pod_ip) else {
            let now = deps.clock.now().mono;
            let result = CheckResult::unknown("the container or its pod's address is gone");
            return Done { prober, id, due, began: now, ended: now, result, own_timer: false };
        };

        let probe = kind.of(&container).expect("only probes of the spec are due");
        let began = deps.clock.now().mono;
        let result =
            check(probe, &container, &target.id, pod_ip, timing.timeout, &*deps.exec).await;

        Done {
            prober,
            id,
            due,
            began,
            ended: deps.clock.now().mono,
            result,
            own_timer: probe.exec.is_none(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::events::{Event, Recorder};
    use crate::clock::Clock;
    use crate::model::{ContainerId, ContainerKind, Now, Wall};
    use crate::probes::testing::FakeExec;
    use crate::probes::{ProbeObserver, Recorded};
    use parking_lot::Mutex;
    use serde_json::json;
    use tokio::sync::mpsc;

    #[derive(Default)]
    struct Counts(Mutex<Vec<String>>);

    impl ProbeObserver for Counts {
        fn attempted(
            &self,
            _: &Pod,
            container: &str,
            kind: ProbeKind,
            result: Counted,
            _: Duration,
        ) {
            self.0.lock().push(format!("{container} {} {}", kind.as_str(), result.as_str()));
        }

        fn ended(&self, _: &Pod) {
            self.0.lock().push("ended".into());
        }
    }

    struct World {
        probes: PodProbes,
        exec: Arc<FakeExec>,
        events: mpsc::Receiver<Event>,
        counts: Arc<Counts>,
        clock: Clock,
    }

    fn probe(extra: &serde_json::Value) -> serde_json::Value {
        let mut probe =
            json!({"exec": {"command": ["ok"]}, "periodSeconds": 10, "failureThreshold": 2});
        for (key, value) in extra.as_object().expect("an object") {
            probe[key] = value.clone();
        }
        probe
    }

    fn world(container: &serde_json::Value, codes: &[i32]) -> World {
        let mut container = container.clone();
        container["name"] = json!("c");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "prod", "uid": "u1"}, "spec": {"containers": [container]},
        }))
        .expect("a pod");
        let (recorder, events) = Recorder::channel();
        let exec = Arc::new(FakeExec::exiting(codes));
        let counts = Arc::new(Counts::default());
        let clock = Clock::starting_at(Wall::from_second(1_000_000).expect("a time"));
        let deps = ProbeDeps { exec: exec.clone(), recorder, clock, observer: counts.clone() };
        World { probes: PodProbes::start(deps, &pod), exec, events, counts, clock }
    }

    impl World {
        fn target(&self, id: &str, recorded: Option<Recorded>) -> ProbeTarget {
            ProbeTarget {
                container: "c".into(),
                kind: ContainerKind::Main,
                id: ContainerId::from(id),
                pod_ip: Some("10.0.0.5".parse().expect("ip")),
                started_at: self.now().wall,
                recorded,
            }
        }

        fn now(&self) -> Now {
            self.clock.now()
        }

        fn run(&self, id: &str) {
            self.probes.running(vec![self.target(id, None)]);
        }

        /// Lets time pass and answers `startup readiness liveness` of a container, and how often
        /// was asked.
        async fn after(&self, id: &str, seconds: u64) -> String {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let verdicts = self.probes.verdicts();
            let verdicts = verdicts.borrow();
            let Some(verdict) = verdicts.containers.get(&ContainerId::from(id)) else {
                return "none".into();
            };
            let sign = |outcome: Option<ProbeOutcome>| match outcome {
                None => '.',
                Some(ProbeOutcome::Success) => '+',
                Some(ProbeOutcome::Failure) => '-',
            };
            let signs: String =
                [verdict.startup, verdict.readiness, verdict.liveness].map(sign).iter().collect();
            format!("{signs} {}", self.exec.commands().len())
        }

        fn texts(&mut self) -> Vec<String> {
            let mut texts = Vec::new();
            while let Ok(event) = self.events.try_recv() {
                texts.push(format!(
                    "{} {} {}",
                    event.object.field_path, event.reason, event.message
                ));
            }
            texts
        }
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_asked_at_once_and_then_in_its_time() {
        let mut world = world(&json!({"readinessProbe": probe(&json!({}))}), &[0, 0, 1, 1]);
        world.run("a");
        assert_eq!(world.after("a", 1).await, ".+. 1");
        assert_eq!(world.after("a", 13).await, ".+. 2");
        assert_eq!(world.after("a", 10).await, ".+. 3");
        assert_eq!(world.after("a", 10).await, ".-. 4");
        let failed = "spec.containers{c} Unhealthy Readiness probe failed: exit 1";
        assert_eq!(world.texts(), [failed, failed]);
        let count = |result| format!("c Readiness {result}");
        let expected = [count("successful"), count("successful"), count("failed"), count("failed")];
        assert_eq!(*world.counts.0.lock(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_ahead_that_fails_is_silent() {
        let mut world =
            world(&json!({"readinessProbe": probe(&json!({"failureThreshold": 1}))}), &[1, 0]);
        world.run("a");
        assert_eq!(world.after("a", 1).await, ".+. 2");
        assert!(world.texts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn not_ready_until_asked() {
        let world = world(&json!({"readinessProbe": probe(&json!({}))}), &[]);
        world.run("a");
        assert_eq!(world.after("a", 1).await, ".-. 1");
    }

    #[tokio::test(start_paused = true)]
    async fn startup_holds_the_others_back() {
        let startup = probe(&json!({"failureThreshold": 3}));
        let readiness = probe(&json!({"exec": {"command": ["ready"]}}));
        let other = json!({"startupProbe": startup, "readinessProbe": readiness});
        let ready = world(&other, &[1, 1, 0, 0]);
        ready.run("a");
        // Startup succeeds when it is looked at for the third time, and readiness is asked right
        // behind it.
        assert_eq!(ready.after("a", 1).await, "++. 4");
        let commands: Vec<String> = ready.exec.commands().into_iter().flatten().collect();
        assert_eq!(commands, ["ok", "ok", "ok", "ready"]);

        let other = json!({"startupProbe": startup, "livenessProbe": probe(&json!({"failureThreshold": 1}))});
        let dying = world(&other, &[1, 1, 0, 1]);
        dying.run("a");
        assert_eq!(dying.after("a", 32).await, "+.- 4");
        assert_eq!(dying.after("a", 100).await, "+.- 4");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_startup_probe_is_asked_no_more() {
        let period = Duration::from_secs(10);
        let phase = schedule::phase(period, "u1", "c", ProbeKind::Startup);
        let looks =
            (0..8).filter(|look| Duration::from_millis(250 * (2_u64.pow(*look) - 1)) < phase);
        let counted_too = looks.count() + 2;
        let world = world(&json!({"startupProbe": probe(&json!({}))}), &[1; 16]);
        world.run("a");
        assert_eq!(world.after("a", 100).await, format!("-.. {counted_too}"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_liveness_probe_waits_for_the_next_container() {
        let mut world =
            world(&json!({"livenessProbe": probe(&json!({"initialDelaySeconds": 5}))}), &[1, 1]);
        world.run("a");
        assert_eq!(world.after("a", 5).await, "... 0");
        assert_eq!(world.after("a", 100).await, "..- 2");
        world.exec.push(0);
        world.run("b");
        assert_eq!(world.after("b", 16).await, "..+ 3");
        assert_eq!(world.after("a", 0).await, "none");
        assert_eq!(world.texts().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn adopted_containers_keep_their_state() {
        let container =
            json!({"startupProbe": probe(&json!({})), "readinessProbe": probe(&json!({}))});
        let world = world(&container, &[0]);
        let recorded = Some(Recorded { started: true, ready: true });
        world.probes.running(vec![world.target("a", recorded)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(world.after("a", 0).await, "++. 0");
        assert_eq!(world.after("a", 10).await, "++. 1");
    }

    #[tokio::test(start_paused = true)]
    async fn an_adopted_container_that_was_not_ready_is_looked_at_at_once() {
        let container =
            json!({"startupProbe": probe(&json!({})), "readinessProbe": probe(&json!({}))});
        let world = world(&container, &[0, 0]);
        let recorded = Some(Recorded { started: false, ready: false });
        world.probes.running(vec![world.target("a", recorded)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(world.after("a", 0).await, "++. 2");
    }

    #[tokio::test(start_paused = true)]
    async fn termination_stops_liveness_but_not_readiness() {
        let container = json!({"livenessProbe": probe(&json!({})), "readinessProbe": probe(&json!({"failureThreshold": 1}))});
        let world = world(&container, &[0, 1, 1, 1, 1]);
        world.run("a");
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.probes.terminating();
        assert_eq!(world.after("a", 60).await.chars().take(3).collect::<String>(), ".-+");
        let counts = Arc::clone(&world.counts);
        assert!(counts.0.lock().iter().all(|line| !line.contains("Liveness")));
        drop(world);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(counts.0.lock().last().map(String::as_str), Some("ended"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_probe_waits_for_that_of_another_pod() {
        let exec = Arc::new(FakeExec::default());
        let (recorder, _events) = Recorder::channel();
        let deps = ProbeDeps {
            exec: exec.clone(),
            recorder,
            clock: Clock::starting_at(Wall::from_second(1_000_000).expect("a time")),
            observer: Arc::new(Counts::default()),
        };
        // Each command hangs: nothing is left to answer.
        let all: Vec<PodProbes> = (0..100)
            .map(|number| {
                let pod = json!({
                    "metadata": {"name": "web", "namespace": "prod", "uid": format!("u{number}")},
                    "spec": {"containers": [{"name": "c", "readinessProbe": probe(&json!({}))}]},
                });
                let pod = Arc::new(serde_json::from_value(pod).expect("a pod"));
                let probes = PodProbes::start(deps.clone(), &pod);
                probes.running(vec![ProbeTarget {
                    container: "c".into(),
                    kind: ContainerKind::Main,
                    id: ContainerId::from(format!("id{number}").as_str()),
                    pod_ip: Some("10.0.0.5".parse().expect("ip")),
                    started_at: deps.clock.now().wall,
                    recorded: None,
                }]);
                probes
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(exec.commands().len(), all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_without_probes_costs_no_task() {
        let world = world(&json!({}), &[]);
        world.run("a");
        assert_eq!(world.after("a", 100).await, "none");
        assert!(world.counts.0.lock().is_empty());
    }

    #[test]
    fn our_own_lateness_does_not_count() {
        let second = Duration::from_secs(1);
        let timing = Timing { initial_delay: Duration::ZERO, period: 10 * second, timeout: second };
        let done = |late_millis, took_millis, own_timer| Done {
            prober: 0,
            id: ContainerId::from("a"),
            due: Due { at: Mono(second), turn: Turn::Own },
            began: Mono(second + Duration::from_millis(late_millis)),
            ended: Mono(second + Duration::from_millis(late_millis + took_millis)),
            result: CheckResult::Failure("no".to_owned()),
            own_timer,
        };
        assert!(!is_late(&done(900, 1100, true), &timing));
        assert!(is_late(&done(1100, 10, true), &timing));
        assert!(is_late(&done(1100, 10, false), &timing));
        assert!(is_late(&done(0, 2600, true), &timing));
        assert!(
            !is_late(&done(0, 60_000, false), &timing),
            "a command whose child holds its output ends late"
        );
        let failed = CheckResult::Failure(String::new());
        assert_eq!(judge(&failed, false, false), Attempt::Failure);
        assert_eq!(judge(&failed, false, true), Attempt::Nothing);
        assert_eq!(judge(&failed, true, false), Attempt::Nothing);
        assert_eq!(judge(&CheckResult::unknown("x"), false, false), Attempt::Nothing);
        assert_eq!(judge(&CheckResult::Success, true, true), Attempt::Success);
    }
}
