//! The laws (architecture, section 4; `src/lib.rs`, Invariants), checked at every call and every
//! change: by looking on at the runtime and at the API server, where a kubelet cannot talk its way
//! out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rkubelet::internals::apiserver::fake::{ApiEffect, ApiWitness};
use rkubelet::internals::clock::Clock;
use rkubelet::internals::cri::fake::{
    Attempt, Deed, Delivery, Effect, FakeContainer, FakeRuntime, Scene, Witness,
};
use rkubelet::internals::cri::v1::ContainerState;
use rkubelet::internals::model::Mono;
use rkubelet::internals::volumes::mounter::fake::FakeMounter;
use serde_json::Value;
use tokio::sync::Notify;

use super::faults::Chaos;
use super::pods::{Kind, PodPlan};

/// What may be under way when the kubelet is told of something.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// The judge. Outlives the kubelet's lives.
pub(super) struct Judge {
    state: Mutex<State>,
    pub(super) chaos: Mutex<Chaos>,
    pub(super) crash: Notify,
    runtime: FakeRuntime,
    mounter: FakeMounter,
    root: PathBuf,
}

#[derive(Default)]
struct State {
    clock: Option<Clock>,
    /// When this life of the kubelet began, in the time of the whole simulation.
    life: u32,
    violations: Vec<String>,
    trace: Vec<String>,
    /// Pods that the kubelet knows to be ending, and since when.
    ending: BTreeMap<String, (u32, Mono)>,
    /// Pods something has happened to for which their containers may be stopped.
    disturbed: BTreeSet<String>,
    /// Init containers that ended well, sidecars that were started, by sandbox.
    came_through: BTreeSet<(String, String)>,
    /// Sandboxes in which a main container was made.
    initialized: BTreeSet<String>,
    patches: BTreeMap<String, u32>,
    statuses: BTreeMap<String, Value>,
    /// Until when a container that is being stopped may run.
    graces: BTreeMap<String, (u32, Mono)>,
    plans: BTreeMap<String, PodPlan>,
    starts: u64,
}

impl Judge {
    pub(super) fn new(
        runtime: FakeRuntime,
        mounter: FakeMounter,
        root: PathBuf,
        chaos: Chaos,
    ) -> Arc<Self> {
        let chaos = Mutex::new(chaos);
        Arc::new(Self {
            state: Mutex::default(),
            chaos,
            crash: Notify::new(),
            runtime,
            mounter,
            root,
        })
    }

    /// The kubelet starts.
    pub(super) fn begin_life(&self, clock: Clock) {
        let mut state = self.state.lock();
        state.life += 1;
        state.clock = Some(clock);
    }

    pub(super) fn know(&self, plan: &PodPlan) {
        self.state.lock().plans.insert(plan.name.clone(), plan.clone());
    }

    pub(super) fn disturb(&self, uid: &str) {
        self.state.lock().disturbed.insert(uid.to_owned());
    }

    /// Returns true if the kubelet has asked in this life for the end of a container.
    pub(super) fn is_being_stopped(&self, container: &FakeContainer) -> bool {
        let state = self.state.lock();
        state.graces.get(&container.id).is_some_and(|(life, _)| *life == state.life)
    }

    pub(super) fn note(&self, text: &str) {
        self.state.lock().note(text);
    }

    pub(super) fn violate(&self, text: String) {
        self.state.lock().violate(text);
    }

    /// An init container ended with success.
    pub(super) fn came_through(&self, container: &FakeContainer) {
        self.state
            .lock()
            .came_through
            .insert((container.sandbox.clone(), container.name().to_owned()));
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone()
    }

    /// How many containers were started so far.
    pub(super) fn starts(&self) -> u64 {
        self.state.lock().starts
    }
}

/// The UID of a container's pod.
pub(super) fn pod_uid(container: &FakeContainer) -> &str {
    container.config.labels.get("io.kubernetes.pod.uid").map(String::as_str).unwrap_or_default()
}

/// Whose status a PATCH writes: a pod of the same name that came after another is another pod.
fn write_key(path: &str, body: &Value) -> String {
    format!("{path} {}", body["metadata"]["uid"].as_str().unwrap_or_default())
}

fn is_running(container: &FakeContainer) -> bool {
    container.state == ContainerState::ContainerRunning
}

impl State {
    fn now(&self) -> Mono {
        self.clock.map(|clock| clock.now().mono).unwrap_or_default()
    }

    fn note(&mut self, text: &str) {
        let now = self.now();
        self.trace.push(format!("{}.{:>9.3?} {text}", self.life, now.0));
    }

    fn violate(&mut self, text: String) {
        self.note(&format!("VIOLATION: {text}"));
        self.violations.push(text);
    }

    /// Whether the kubelet knows for long enough that the pod is ending.
    fn is_ending(&self, uid: &str) -> bool {
        let now = self.now();
        self.ending
            .get(uid)
            .is_some_and(|(life, since)| *life == self.life && now.since(*since) > UNDER_WAY)
    }

    fn ends(&mut self, uid: &str) {
        let (life, now) = (self.life, self.now());
        if self.ending.get(uid).is_none_or(|(known, _)| *known != life) {
            self.ending.insert(uid.to_owned(), (life, now));
        }
    }

    fn check_start(&mut self, container: &FakeContainer, scene: &Scene<'_>) {
        let (uid, name) = (pod_uid(container), container.name());
        let twin = scene.containers.values().find(|other| {
            other.id != container.id
                && pod_uid(other) == uid
                && other.name() == name
                && is_running(other)
        });
        if let Some(twin) = twin {
            self.violate(format!(
                "two containers {uid}/{name} run: {} and {}",
                twin.id, container.id
            ));
        }
        self.check_order(&container.sandbox, uid, name);
        if self.kind(uid, name) == Some(Kind::Sidecar) {
            self.came_through.insert((container.sandbox.clone(), name.to_owned()));
        }
        self.starts += 1;
    }

    fn kind(&self, uid: &str, name: &str) -> Option<Kind> {
        self.plan(uid)?
            .containers
            .iter()
            .find(|container| container.name == name)
            .map(|container| container.kind)
    }

    /// The plan of a pod; static pods have UIDs of their own making.
    fn plan(&self, uid: &str) -> Option<&PodPlan> {
        self.plans
            .values()
            .find(|plan| plan.uid == uid || (plan.is_static && !uid.starts_with("uid-")))
    }

    /// Whatever stands before a container has come through in its sandbox.
    fn check_order(&mut self, sandbox: &str, uid: &str, name: &str) {
        if self.initialized.contains(sandbox) {
            return;
        }
        let Some(plan) = self.plan(uid) else { return };
        let before = plan.containers.iter().take_while(|container| container.name != name);
        let missing: Vec<String> = before
            .filter(|container| container.kind != Kind::Main)
            .filter(|container| {
                !self.came_through.contains(&(sandbox.to_owned(), container.name.clone()))
            })
            .map(|container| container.name.clone())
            .collect();
        if !missing.is_empty() && !plan.is_static {
            self.violate(format!("{uid}/{name} comes before {missing:?}"));
        }
    }

    fn check_stop(&mut self, container: &FakeContainer, grace: i64) {
        let (uid, name) = (pod_uid(container), container.name());
        let deadline =
            self.now().after(Duration::from_secs(u64::try_from(grace).unwrap_or_default()));
        let life = self.life;

        // A call that hung past its grace is made again, with the least grace or, as upstream does
        // it, with the whole one. Calls are delayed by up to four seconds.
        if let Some((known, before)) = self.graces.get(&container.id)
            && *known == life
            && self.now() < *before
            && deadline > before.after(Duration::from_secs(5))
        {
            self.violate(format!("the grace of {uid}/{name} grows to {grace} s"));
        }
        self.graces.insert(container.id.clone(), (life, deadline));
        let may_stop = self.ending.contains_key(uid)
            || self.disturbed.contains(uid)
            || !uid.starts_with("uid-")
            || self.plan(uid).is_none_or(|plan| plan.policy != "Always")
            || self.kind(uid, name) == Some(Kind::Init);
        if is_running(container) && !may_stop {
            self.violate(format!("{uid}/{name} is stopped and nothing asks for it"));
        }
    }

    fn check_status(&mut self, object: &Value) {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let (before, after) =
            (self.statuses.get(&uid).cloned().unwrap_or_default(), object["status"].clone());
        let phase = |status: &Value| status["phase"].as_str().unwrap_or_default().to_owned();
        if matches!(phase(&before).as_str(), "Succeeded" | "Failed") {
            if phase(&after) != phase(&before) {
                self.violate(format!("{uid} was {} and is {}", phase(&before), phase(&after)));
            }
        } else if matches!(phase(&after).as_str(), "Succeeded" | "Failed") {
            self.ends(&uid);
        }
        if !before["startTime"].is_null() && before["startTime"] != after["startTime"] {
            self.violate(format!("the start time of {uid} changes"));
        }
        for list in ["initContainerStatuses", "containerStatuses"] {
            for known in before[list].as_array().into_iter().flatten() {
                let same = |status: &&Value| status["name"] == known["name"];
                let Some(now) = after[list].as_array().into_iter().flatten().find(same) else {
                    self.violate(format!("{uid}: the status of {} is lost", known["name"]));
                    continue;
                };
                let count = |status: &Value| status["restartCount"].as_i64().unwrap_or_default();
                if count(now) < count(known) {
                    self.violate(format!(
                        "{uid}/{}: {} restarts after {}",
                        known["name"],
                        count(now),
                        count(known)
                    ));
                }
                let has_ended = !known["state"]["terminated"].is_null();
                if has_ended
                    && known["containerID"] == now["containerID"]
                    && !now["state"]["running"].is_null()
                {
                    self.violate(format!(
                        "{uid}/{}: an older status over a newer one",
                        known["name"]
                    ));
                }
            }
        }
        for known in before["conditions"].as_array().into_iter().flatten() {
            let same = |condition: &&Value| condition["type"] == known["type"];
            let now = after["conditions"].as_array().into_iter().flatten().find(same);
            let time = |condition: &Value| {
                condition["lastTransitionTime"].as_str().unwrap_or_default().to_owned()
            };
            if now.is_some_and(|now| time(now) < time(known)) {
                self.violate(format!("{uid}: the condition {} goes back in time", known["type"]));
            }
        }
        self.statuses.insert(uid, after);
    }
}

impl Witness for Judge {
    fn call(&self, attempt: &Attempt<'_>) -> Option<Effect> {
        let Attempt { call, target, pod } = *attempt;
        let mutates = !pod.is_empty();
        let effect = self.chaos.lock().call(call, mutates, &self.crash);
        let mut state = self.state.lock();
        if mutates {
            let text = effect.as_ref().map(|effect| format!(" ({effect:?})")).unwrap_or_default();
            state.note(&format!("{call} {target} of {pod}{text}"));
            if matches!(call, "RunPodSandbox" | "CreateContainer" | "StartContainer")
                && state.is_ending(pod)
            {
                state.violate(format!("{call} {target} of {pod}, which is ending"));
            }
        }
        if effect.is_some() && call == "ExecSync" {
            // Whose it is is not known here, and a hook that fails ends its container.
            let all: Vec<String> = state.plans.values().map(|plan| plan.uid.clone()).collect();
            state.disturbed.extend(all);
        }
        effect
    }

    fn deed(&self, deed: &Deed<'_>, scene: &Scene<'_>) {
        let mut state = self.state.lock();
        match *deed {
            Deed::RunSandbox(_) => {}
            Deed::Create { sandbox, config } => {
                let name = config
                    .metadata
                    .as_ref()
                    .map(|metadata| metadata.name.as_str())
                    .unwrap_or_default();
                let uid = config
                    .labels
                    .get("io.kubernetes.pod.uid")
                    .map(String::as_str)
                    .unwrap_or_default();
                state.check_order(sandbox, uid, name);
                if state.kind(uid, name) == Some(Kind::Main) {
                    state.initialized.insert(sandbox.to_owned());
                }
            }
            Deed::Start(container) => state.check_start(container, scene),
            Deed::Stop { container, grace } => state.check_stop(container, grace),
            Deed::Remove(container) => {
                if is_running(container) {
                    state.violate(format!("{} is removed while it runs", container.name()));
                }
            }
            Deed::StopSandbox(sandbox) => {
                let inside = scene
                    .containers
                    .values()
                    .find(|found| found.sandbox == sandbox.id && is_running(found));
                if let Some(inside) = inside {
                    let text = format!(
                        "the sandbox of {} is stopped while {} runs",
                        pod_uid(inside),
                        inside.name()
                    );
                    state.violate(text);
                }
            }
            Deed::RemoveSandbox(sandbox) => {
                let inside = scene.containers.values().any(|found| found.sandbox == sandbox.id);
                if sandbox.ready || inside {
                    state.violate(format!(
                        "sandbox {} is removed before it is stopped and empty",
                        sandbox.id
                    ));
                }
            }
        }
    }

    fn event(&self) -> Delivery {
        self.chaos.lock().event()
    }
}

impl ApiWitness for Judge {
    fn request(&self, method: &str, path: &str, body: &Value) -> Option<ApiEffect> {
        let effect = self.chaos.lock().request(method, path, &self.crash);
        let mut state = self.state.lock();
        if method != "GET" && !path.contains("/events") {
            let text = effect.as_ref().map(|effect| format!(" ({effect:?})")).unwrap_or_default();
            state.note(&format!("{method} {path}{text}"));
        }
        if method == "PATCH" && path.ends_with("/status") {
            let count = state.patches.entry(write_key(path, body)).or_default();
            *count += 1;
            // Two generations of a static pod are two pods, and their mirrors have one name.
            if *count > 1 && !path.contains("/pods/static-") {
                state.violate(format!("two status writes in flight: {path}"));
            }
        }
        effect
    }

    fn write(&self, method: &str, path: &str, body: &Value, before: Option<&Value>) {
        let (true, Some(object)) = (method == "DELETE" && path.contains("/pods/"), before) else {
            return;
        };
        if object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
            return;
        }
        let mut state = self.state.lock();
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let wanted = &body["preconditions"]["uid"];
        if wanted != uid {
            if wanted.is_null() {
                state.violate(format!("{uid} is deleted without its UID as a precondition"));
            }
            return;
        }
        let mut left = Vec::new();
        left.extend(
            self.runtime
                .containers()
                .iter()
                .filter(|found| pod_uid(found) == uid && is_running(found))
                .map(|found| format!("{} runs", found.name())),
        );
        let of_pod = |uid: &str, config: &rkubelet::internals::cri::v1::PodSandboxConfig| {
            config.metadata.as_ref().is_some_and(|metadata| metadata.uid == uid)
        };
        left.extend(
            self.runtime
                .sandboxes()
                .iter()
                .filter(|sandbox| sandbox.ready && of_pod(uid, &sandbox.config))
                .map(|sandbox| format!("sandbox {} is ready", sandbox.id)),
        );
        let dir = PodPlan::volume_dir(&self.root, uid);
        left.extend(
            self.mounter
                .mounts()
                .keys()
                .filter(|path| path.starts_with(&dir))
                .map(|path| path.display().to_string()),
        );
        if dir.exists() {
            left.push(format!("{} exists", dir.display()));
        }
        for list in ["initContainerStatuses", "containerStatuses"] {
            let statuses = object["status"][list].as_array().into_iter().flatten();
            left.extend(
                statuses
                    .filter(|status| !status["state"]["running"].is_null())
                    .map(|status| format!("{} is told to run", status["name"])),
            );
        }
        if !left.is_empty() {
            state.violate(format!("{uid} is deleted from the API, but {}", left.join(", ")));
        }
    }

    fn written(&self, method: &str, path: &str, object: &Value) {
        if method == "PATCH" && path.contains("/pods/") {
            let mut state = self.state.lock();
            state.note(&format!(
                "status of {} is {}",
                object["metadata"]["name"],
                brief(&object["status"])
            ));
            state.check_status(object);
        }
    }

    fn told(&self, kind: &str, object: &Value) {
        if object["spec"]["containers"].is_null() {
            return;
        }
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        // Only who writes statuses reads a single pod, and tells nobody what it has seen.
        let is_news = kind != "READ";
        if is_news && (kind == "DELETED" || object["metadata"]["deletionTimestamp"].is_string()) {
            self.state.lock().ends(uid);
        }
    }

    fn ended(&self, method: &str, path: &str, body: &Value) {
        if method == "PATCH" && path.ends_with("/status") {
            let mut state = self.state.lock();
            let count = state.patches.entry(write_key(path, body)).or_default();
            *count = count.saturating_sub(1);
        }
    }
}

/// A status in a line.
pub(super) fn brief(status: &Value) -> String {
    let mut text = status["phase"].as_str().unwrap_or_default().to_owned();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in status[list].as_array().into_iter().flatten() {
            let state = container["state"].as_object().and_then(|state| {
                let (kind, what) = state.iter().next()?;
                Some(format!(
                    "{kind}({}{})",
                    what["reason"].as_str().unwrap_or_default(),
                    what["exitCode"]
                ))
            });
            let name = container["name"].as_str().unwrap_or_default();
            let state = state.unwrap_or_default();
            write!(text, " {name}#{} {state}", container["restartCount"])
                .expect("a String takes everything");
        }
    }
    text
}
