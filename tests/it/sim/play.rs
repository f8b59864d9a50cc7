//! Plays a scenario: lives of a kubelet, one after the other, in a world that outlives them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rkubelet::internals::apiserver::fake::FakeApi;
use rkubelet::internals::clock::Clock;
use rkubelet::internals::config::{Host, Loaded, load_on};
use rkubelet::internals::cri::fake::{FakeContainer, FakeRuntime};
use rkubelet::internals::cri::v1;
use rkubelet::internals::daemon::simulated;
use rkubelet::internals::volumes::mounter::fake::FakeMounter;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::faults::Chaos;
use super::laws::{Judge, pod_uid};
use super::pods::{CONFIG_MAPS, IMAGES, Kind, PodPlan};
use super::random::Random;
use super::rest;
use super::scenario::{Scenario, Step};

pub(super) const PODS: &str = "api/v1/pods";
const NODE: &str = "n1";
const NODE_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

/// How often the world looks whether something in it ends.
const TICK: Duration = Duration::from_millis(500);
/// The same while it heals: nothing hurries any more.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// Within which a healed world must have come to rest: hung calls take their deadline (4 min), then
/// the longest crash back-off (5 min) may lie ahead.
const REST_WITHIN: Duration = Duration::from_secs(1_500);
/// How long it must stay so.
const REST_FOR: Duration = Duration::from_secs(20);

/// The world.
pub(super) struct World {
    pub(super) api: FakeApi,
    pub(super) runtime: FakeRuntime,
    pub(super) mounter: FakeMounter,
    pub(super) judge: Arc<Judge>,
    pub(super) home: PathBuf,
    /// What was put there and is wanted, by name.
    pub(super) wanted: BTreeMap<String, PodPlan>,
    /// Probes that fail: kind and pod.
    failing: Arc<Mutex<BTreeSet<(String, String)>>>,
    plans: BTreeMap<String, PodPlan>,
    loaded: Loaded,
    cores: usize,
}

/// How a life ends.
enum End {
    Crash(Duration),
    Restart(Duration),
    Over,
}

/// What is still to happen.
struct Progress {
    /// Since the beginning of the simulation, over all lives.
    now: Duration,
    next: usize,
    crash_down: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Storm,
    /// Since when the world heals, since when it is at rest, and how many containers had been
    /// started by then.
    Heals {
        since: Duration,
        rests: Option<(Duration, u64)>,
    },
    /// Since when everything is to go.
    Clears {
        since: Duration,
        rests: Option<Duration>,
    },
    Over,
}

/// Plays it, in a directory of its own. Answers what happened.
pub(super) fn play(scenario: &Scenario, home: &Path) -> Vec<String> {
    let mut world = World::new(scenario, home);
    let mut progress =
        Progress { now: Duration::ZERO, next: 0, crash_down: Duration::ZERO, phase: Phase::Storm };
    while progress.phase != Phase::Over && world.judge.violations().is_empty() {
        world.live(scenario, &mut progress);
    }
    world.judge.trace()
}

impl World {
    fn new(scenario: &Scenario, home: &Path) -> Self {
        let mut random = Random::new(scenario.seed ^ 0x0C0E);
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let (api, runtime, mounter) =
            (FakeApi::new(clock), FakeRuntime::new(clock), FakeMounter::default());
        for folder in ["root", "manifests", "logs", "links"] {
            std::fs::create_dir_all(home.join(folder)).expect("a folder");
        }
        let chaos = Chaos::new(scenario.seed, scenario.faults);
        let judge = Judge::new(runtime.clone(), mounter.clone(), home.join("root"), chaos);
        runtime.set_version("containerd", scenario.runtime_version);
        for image in IMAGES {
            runtime.add_to_registry(image, 1 << 20);
            if random.percent(60) {
                runtime.add_image(image, 1 << 20);
            }
        }
        for name in ["main0", "main1", "init0", "init1"] {
            let stops = *random.pick(&[Some(0), Some(0), Some(900), Some(5_000), None]);
            runtime.set_stop_time(name, stops.map(Duration::from_millis));
        }
        let failing: Arc<Mutex<BTreeSet<(String, String)>>> = Arc::default();
        let fails = failing.clone();
        runtime.on_exec(move |request| {
            let word = |place: usize| request.cmd.get(place).cloned().unwrap_or_default();
            let pod = word(1).split('/').next().unwrap_or_default().to_owned();
            let exit_code = i32::from(fails.lock().contains(&(word(0), pod)));
            v1::ExecSyncResponse { exit_code, ..Default::default() }
        });
        api.put("api/v1/nodes", json!({"metadata": {"name": NODE, "uid": "node-uid"}}));
        let world = Self {
            api,
            runtime,
            mounter,
            judge,
            home: home.to_owned(),
            wanted: BTreeMap::new(),
            failing,
            plans: BTreeMap::new(),
            loaded: configuration(home),
            cores: 1 + usize::try_from(random.below(2)).unwrap_or_default(),
        };
        for name in CONFIG_MAPS {
            if random.percent(70) {
                world.put_config_map(name, 0);
            }
        }
        if random.percent(70) {
            world.put_secret();
        }
        world.runtime.set_witness(world.judge.clone());
        world.api.set_witness(world.judge.clone());
        world
    }

    fn put_config_map(&self, name: &str, value: u64) {
        let data = json!({"k": format!("v{value}")});
        self.api.put(
            "api/v1/configmaps",
            json!({"metadata": {"name": name, "namespace": "d"}, "data": data}),
        );
    }

    fn put_secret(&self) {
        self.api.put(
            "api/v1/secrets",
            json!({"metadata": {"name": "s0", "namespace": "d"}, "data": {"k": "dg=="}}),
        );
    }

    /// One life of the kubelet: from its start to its end, its crash or the end of everything.
    fn live(&mut self, scenario: &Scenario, progress: &mut Progress) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime of tokio");
        let end = runtime.block_on(async {
            let wall = jiff::SignedDuration::try_from(progress.now).expect("a time");
            let clock = Clock::starting_at(
                jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(1) + wall,
            );
            self.api.set_clock(clock);
            self.runtime.set_clock(clock);
            self.judge.begin_life(clock);
            self.judge.chaos.lock().begin_life();
            let shutdown = CancellationToken::new();
            let parts = simulated::Parts {
                clock,
                runtime: self.runtime.clone(),
                clients: self.api.clients(NODE),
                mounter: self.mounter.clone(),
                container_logs_dir: self.home.join("links"),
                device_plugins_dir: self.home.join("device-plugins"),
                host_ips: watch::channel(vec![NODE_IP]).1,
                cores: self.cores,
            };
            let kubelet =
                tokio::spawn(simulated::run(self.loaded.clone(), parts, shutdown.clone()));
            let end = self.drive(scenario, progress, clock, &kubelet).await;
            if !matches!(end, End::Crash(_)) {
                shutdown.cancel();
                match tokio::time::timeout(Duration::from_secs(30), kubelet).await {
                    Ok(Ok(Ok(()))) => {}
                    ended => self.judge.violate(format!("the kubelet ended badly: {ended:?}")),
                }
            }
            progress.now += clock.now().mono.0;
            end
        });
        // What is left of the process goes with it, wherever it stands.
        drop(runtime);
        if let End::Crash(down) | End::Restart(down) = end {
            progress.now += down;
        }
    }

    async fn drive(
        &mut self,
        scenario: &Scenario,
        progress: &mut Progress,
        clock: Clock,
        kubelet: &tokio::task::JoinHandle<anyhow::Result<()>>,
    ) -> End {
        let begun = progress.now;
        loop {
            let now = begun + clock.now().mono.0;
            if kubelet.is_finished() {
                self.judge.violate("the kubelet ended by itself".to_owned());
            }
            if !self.judge.violations().is_empty() {
                return End::Over;
            }
            while let Some((_, step)) =
                scenario.steps.get(progress.next).filter(|(at, _)| *at <= now)
            {
                progress.next += 1;
                self.judge.note(&format!("* {}", Short(step)));
                match step {
                    Step::Crash { turns, down } => {
                        for _ in 0..*turns {
                            tokio::task::yield_now().await;
                        }
                        return End::Crash(*down);
                    }
                    Step::Restart { down } => return End::Restart(*down),
                    Step::CrashAt { calls, after, down } => {
                        progress.crash_down = *down;
                        self.judge.chaos.lock().crash_at(*calls, *after);
                    }
                    step => self.apply(step),
                }
            }
            self.tick();
            self.advance(scenario, progress, now);
            if progress.phase == Phase::Over {
                return End::Over;
            }
            let next = match scenario.steps.get(progress.next) {
                Some((at, _)) => at.saturating_sub(now).min(TICK),
                None => SLOW_TICK,
            };
            // Cancel-safe: nothing is lost with a sleep.
            tokio::select! {
                biased;
                () = self.judge.crash.notified() => return End::Crash(progress.crash_down),
                () = tokio::time::sleep(next.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// Heals the world when the storm is over, clears it when it has come to rest.
    fn advance(&mut self, scenario: &Scenario, progress: &mut Progress, now: Duration) {
        progress.phase = match progress.phase {
            Phase::Storm if progress.next < scenario.steps.len() => Phase::Storm,
            Phase::Storm => {
                self.judge.note("* the world heals");
                self.heal();
                Phase::Heals { since: now, rests: None }
            }
            Phase::Heals { since, rests } => match (rest::is_settled(self), rests) {
                (Ok(()), None) => Phase::Heals { since, rests: Some((now, self.judge.starts())) },
                (Ok(()), Some((from, starts))) if now - from >= REST_FOR => {
                    if self.judge.starts() != starts {
                        self.judge.violate("containers are started though all is well".to_owned());
                    }
                    self.judge.note("* everything is deleted");
                    self.clear();
                    Phase::Clears { since: now, rests: None }
                }
                (Ok(()), Some(rests)) => Phase::Heals { since, rests: Some(rests) },
                (Err(why), _) => {
                    self.unless_late(now - since, &why, Phase::Heals { since, rests: None })
                }
            },
            Phase::Clears { since, rests } => match (rest::is_empty(self), rests) {
                (Ok(()), None) => Phase::Clears { since, rests: Some(now) },
                (Ok(()), Some(from)) if now - from >= REST_FOR => Phase::Over,
                (Ok(()), Some(from)) => Phase::Clears { since, rests: Some(from) },
                (Err(why), _) => {
                    self.unless_late(now - since, &why, Phase::Clears { since, rests: None })
                }
            },
            Phase::Over => Phase::Over,
        };
    }

    fn unless_late(&self, waited: Duration, why: &str, phase: Phase) -> Phase {
        if waited > REST_WITHIN {
            self.judge.violate(format!("the healed world does not come to rest: {why}"));
        }
        phase
    }

    /// From here on everything works.
    fn heal(&mut self) {
        self.judge.chaos.lock().heal();
        self.failing.lock().clear();
        self.runtime.set_ready(true, true);
        self.runtime.set_events(true);
        self.runtime.deliver_late_events();
        self.api.set_down(false);
        self.api.stall_watches(false);
        for name in CONFIG_MAPS {
            if self.api.get("api/v1/configmaps", "d", name).is_none() {
                self.put_config_map(name, 1);
            }
        }
        self.put_secret();
    }

    /// Deletes everything.
    fn clear(&mut self) {
        for name in std::mem::take(&mut self.wanted).into_keys() {
            self.remove(&name);
        }
    }

    fn remove(&self, name: &str) {
        match self.plans.get(name) {
            Some(plan) if plan.is_static => {
                std::fs::remove_file(self.home.join("manifests").join(format!("{name}.json"))).ok();
            }
            plan => {
                self.api.delete(PODS, "d", name);
                // Without grace it is gone at once: a kubelet that is not there hears of no
                // deletion, and finds no pod.
                let is_gone = self.api.get(PODS, "d", name).is_none();
                if let Some(plan) = plan.filter(|_| is_gone) {
                    self.judge.disturb(&plan.uid);
                }
            }
        }
    }

    /// What containers do by themselves.
    fn tick(&mut self) {
        let now = self.runtime.now();
        for container in self.runtime.containers() {
            if container.state != v1::ContainerState::ContainerRunning {
                continue;
            }
            let Some(plan) = self.plan_of(&container) else { continue };
            let Some(own) = plan.containers.iter().find(|own| own.name == container.name()) else {
                continue;
            };
            let ran = Duration::from_nanos(
                u64::try_from(now - container.started_at()).unwrap_or_default(),
            );
            if own.runs_ms.is_some_and(|runs| ran >= Duration::from_millis(runs)) {
                let attempt =
                    container.config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
                self.exit(&container, i32::from(attempt < own.fails));
            }
        }
    }

    fn exit(&self, container: &FakeContainer, code: i32) {
        self.judge.note(&format!(
            "{} of {} ends with {code}",
            container.name(),
            pod_uid(container)
        ));
        if code == 0 {
            self.judge.came_through(container);
        }
        let reason = if code == 0 { "Completed" } else { "Error" };
        self.runtime.exit_container(&container.id.as_str().into(), code, reason);
    }

    /// The plan of a container's pod, by the pod's name.
    fn plan_of(&self, container: &FakeContainer) -> Option<&PodPlan> {
        let name = container.config.labels.get("io.kubernetes.pod.name")?;
        self.plans.get(name.strip_suffix("-n1").unwrap_or(name))
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(plan) => {
                // A name is free once its pod is gone; the scenario does not know when that is.
                if self.api.get(PODS, "d", &plan.name).is_none() {
                    self.want(plan);
                    self.api.put(PODS, plan.object(None));
                }
            }
            Step::Manifest(plan) => {
                self.want(plan);
                let text = plan.manifest().to_string();
                std::fs::write(
                    self.home.join("manifests").join(format!("{}.json", plan.name)),
                    text,
                )
                .expect("written");
            }
            Step::Edit { pod, image } => {
                if let (Some(plan), Some(mut object)) =
                    (self.wanted.get(pod), self.api.get(PODS, "d", pod))
                {
                    self.judge.disturb(&plan.uid);
                    object["spec"]["containers"][0]["image"] = json!(image);
                    self.api.put(PODS, object);
                }
            }
            Step::Delete { pod } | Step::RemoveManifest { pod } => {
                self.wanted.remove(pod);
                self.remove(pod);
            }
            Step::ForceDelete { pod } => {
                if let Some(plan) = self.wanted.remove(pod) {
                    self.judge.disturb(&plan.uid);
                    self.api.remove(PODS, "d", pod);
                }
            }
            Step::Exit { pod, which, code } => {
                let running: Vec<FakeContainer> = self.containers_of(pod);
                if !running.is_empty() {
                    let index = usize::try_from(*which).unwrap_or_default() % running.len();
                    self.exit(&running[index], *code);
                }
            }
            Step::KillSandbox { pod } => {
                if let Some(plan) = self.plans.get(pod) {
                    self.judge.disturb(&plan.uid);
                    for sandbox in self.runtime.sandboxes() {
                        if sandbox
                            .config
                            .metadata
                            .as_ref()
                            .is_some_and(|metadata| metadata.uid == plan.uid)
                        {
                            self.runtime.kill_sandbox(&sandbox.id.as_str().into());
                        }
                    }
                }
            }
            Step::ConfigMap { name, value } => self.put_config_map(name, *value),
            Step::Probe { pod, kind, well } => self.set_probe(pod, kind, *well),
            Step::DropWatches { forget } => self.api.drop_watches(*forget),
            Step::StallWatches { on } => self.api.stall_watches(*on),
            Step::ApiDown { on } => self.api.set_down(*on),
            Step::DropStreams => self.runtime.drop_streams(),
            Step::EventsLost { on } => self.runtime.set_events(!on),
            Step::LateEvents => self.runtime.deliver_late_events(),
            Step::NetworkReady { on } => self.runtime.set_ready(true, *on),
            Step::Crash { .. } | Step::CrashAt { .. } | Step::Restart { .. } => {}
        }
    }

    fn want(&mut self, plan: &PodPlan) {
        self.judge.know(plan);
        // Probes fail by the pod's name: those of its next bearer, too.
        if self.failing.lock().iter().any(|(_, pod)| *pod == plan.name) {
            self.judge.disturb(&plan.uid);
        }
        self.plans.insert(plan.name.clone(), plan.clone());
        self.wanted.insert(plan.name.clone(), plan.clone());
    }

    fn set_probe(&self, pod: &str, kind: &str, well: bool) {
        if let Some(plan) = self.plans.get(pod) {
            self.judge.disturb(&plan.uid);
        }
        let what = (kind.to_owned(), pod.to_owned());
        if well {
            self.failing.lock().remove(&what)
        } else {
            self.failing.lock().insert(what)
        };
    }

    fn containers_of(&self, pod: &str) -> Vec<FakeContainer> {
        let is_meant = |container: &FakeContainer| {
            container.state == v1::ContainerState::ContainerRunning
                && self.plan_of(container).is_some_and(|plan| plan.name == pod)
        };
        self.runtime.containers().into_iter().filter(is_meant).collect()
    }

    /// Whether a container is one of those that a pod is for.
    pub(super) fn is_main(plan: &PodPlan, name: &str) -> bool {
        plan.containers.iter().any(|own| own.name == name && own.kind == Kind::Main)
    }
}

/// A step without the details of a pod.
struct Short<'a>(&'a Step);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Step::Create(plan) | Step::Manifest(plan) => write!(f, "create {plan}"),
            step => write!(f, "{step:?}"),
        }
    }
}

/// A kubelet's configuration without what needs root.
fn configuration(home: &Path) -> Loaded {
    let path = |name: &str| home.join(name).display().to_string();
    let text = format!(
        "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\ncgroupsPerQOS: false\n\
         enforceNodeAllocatable: []\nenableServer: false\nhealthzPort: 0\nregisterNode: false\nresolvConf: \"\"\n\
         failCgroupV1: false\nfailSwapOn: false\nauthentication: {{webhook: {{enabled: false}}}}\n\
         authorization: {{mode: AlwaysAllow}}\nstaticPodPath: {}\npodLogsDir: {}\n",
        path("manifests"),
        path("logs")
    );
    let file = home.join("config.yaml");
    std::fs::write(&file, text).expect("written");
    let root = path("root");
    let args = [
        format!("--config={}", file.display()),
        format!("--root-dir={root}"),
        format!("--hostname-override={NODE}"),
        format!("--node-ip={NODE_IP}"),
    ];
    load_on(&args, Host { cgroup_v2: true }).expect("a configuration")
}
