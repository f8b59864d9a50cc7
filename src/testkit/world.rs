//! A world of one pod: its object, its runtime and its node, around the real memory of its task
//! ([`Memory`]). Plans are carried out as a worker does, at the moments that the test chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::dispatch::{Resize, Stop};
use crate::model::observed::Exit;
use crate::model::{
    ContainerId, ContainerState, ContainerVerdict, Lifecycle, Mono, Now, ObservedContainer,
    ObservedPod, ObservedSandbox, Pod, SandboxId, SandboxState, TerminationCause, VolumesState,
    Wall, pod,
};
use crate::pods::memory::container::HookState;
use crate::pods::memory::facts::{Config, Facts, Recorded};
use crate::pods::memory::known::{Known, Preparation};
use crate::pods::memory::outcome::{ActionError, Completion, Outcome};
use crate::pods::memory::slot::ImageState;
use crate::pods::memory::{Event, Memory, Order, Start};
use crate::pods::plan::types::{Action, InFlight, Key, Notice, Plan, Transition};
use crate::pods::request::container_hash;
use crate::resources::allocation::{needs_restart, requirements};
use crate::resources::{Figures, PodCgroupPolicy};
use crate::status::Acked;

/// One pod, its runtime and its task's memory.
#[derive(Clone, Debug)]
pub struct World {
    /// The object.
    pub pod: Pod,
    /// What the runtime shows.
    pub observed: ObservedPod,
    /// The time.
    pub now: Now,
    /// The exit codes of containers that are stopped, by name; 143 without an entry.
    pub stop_codes: BTreeMap<String, i32>,
    /// What the pod's task knows.
    memory: Memory,
    /// The object as the task has it.
    sent: Arc<Pod>,
    /// Whether the object is gone from its source.
    is_gone: bool,
    stop: Option<Stop>,
    /// CPU and memory of the pod's cgroup, which outlives the kubelet.
    cgroup: Option<Figures>,
    /// The containers that the node wants removed.
    collect: BTreeSet<ContainerId>,
    /// The actions in flight, each with the object that it was begun with.
    actions: BTreeMap<Key, (Action, Arc<Pod>)>,
}

/// What one round of planning did.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The changes of lifecycle.
    pub transitions: Vec<Transition>,
    /// The events that were new.
    pub events: Vec<Notice>,
    /// The actions that were begun.
    pub actions: Vec<Action>,
}

impl World {
    /// When every world begins.
    pub const BEGINNING: Mono = Mono(Duration::from_secs(10_000));

    /// A world in which the pod has just arrived.
    pub fn new(pod: Pod) -> Self {
        let start = Wall::from_second(1_767_225_600).unwrap_or_default();
        let now = Now { mono: Self::BEGINNING, wall: start };
        let sent = Arc::new(pod.clone());
        let memory = Start {
            pod: sent.clone(),
            lifecycle: Lifecycle::Syncing,
            config: Config { restart_all: true, ..Config::default() },
            recorded: Recorded { start_time: Some(start), ..Recorded::default() },
            remembered: BTreeMap::new(),
            preparation: Preparation::Absent,
            kept: None,
        };
        let mut world = Self {
            pod,
            observed: ObservedPod::default(),
            now,
            stop_codes: BTreeMap::new(),
            memory: Memory::new(memory, Arc::default()),
            sent,
            is_gone: false,
            stop: None,
            cgroup: None,
            collect: BTreeSet::new(),
            actions: BTreeMap::new(),
        };
        world.publish();
        world
    }

    /// Where the pod is in its life.
    pub fn lifecycle(&self) -> &Lifecycle {
        self.memory.lifecycle()
    }

    /// What others say of the pod.
    pub fn facts(&self) -> &Facts {
        self.memory.facts()
    }

    /// What others say of the pod, to be set at will.
    pub fn facts_mut(&mut self) -> &mut Facts {
        self.memory.facts_mut()
    }

    /// What the pod's task did.
    pub fn known(&self) -> &Known {
        self.memory.known()
    }

    /// What is being carried out.
    pub fn in_flight(&self) -> &InFlight {
        self.memory.in_flight()
    }

    /// Returns true once everything is cleaned up.
    pub fn is_finished(&self) -> bool {
        self.memory.is_finished()
    }

    /// The verdicts about a container, to be set at will.
    pub fn verdict_mut(&mut self, id: ContainerId) -> &mut ContainerVerdict {
        let probes = Arc::make_mut(&mut self.memory.facts_mut().probes);
        probes.containers.entry(id).or_default()
    }

    /// The plan for the world as it is.
    pub fn plan(&self) -> Plan {
        let mut world = self.clone();
        world.deliver();
        world.memory.plan(self.now)
    }

    /// Plans and begins what was planned, changes of lifecycle included.
    pub fn round(&mut self) -> Round {
        self.deliver();
        let step = self.memory.step(self.now);
        for key in step.cancel {
            self.actions.remove(&key);
            self.memory.take(Event::Cancelled(key), self.now);
        }
        for action in &step.begin {
            if !matches!(action, Action::HurryKill { .. }) {
                self.actions.insert(action.key(), (action.clone(), self.sent.clone()));
            }
        }
        Round { transitions: step.transitions, events: step.notices, actions: step.begin }
    }

    /// Applies the change of lifecycle that is due; false when there is none.
    pub fn turn(&mut self) -> bool {
        self.deliver();
        self.memory.turn(self.now)
    }

    /// The pod's task reads its feeds.
    fn deliver(&mut self) {
        if *self.sent != self.pod {
            self.sent = Arc::new(self.pod.clone());
        }
        let observed = Arc::new(self.observed.clone());
        self.memory.take(Event::Observed(observed), self.now);
        let order = Order {
            pod: self.sent.clone(),
            gone: self.is_gone,
            stop: self.stop.clone(),
            resize: Resize::default(),
            collect: self.collect.clone(),
        };
        self.memory.take(Event::Ordered(order), self.now);
        self.memory.refresh(self.now);
    }

    /// The pod's status is handed to the writer.
    fn publish(&mut self) {
        let published = Event::Published { version: Some(1), start_time: None };
        self.memory.take(published, self.now);
    }

    /// The API server has the newest status, or has not.
    pub fn accept_status(&mut self, is_accepted: bool) {
        let accepted = Acked { version: u64::from(is_accepted), ..Acked::default() };
        self.memory.take(Event::Accepted(accepted), self.now);
        self.memory.refresh(self.now);
    }

    /// The object goes from its source.
    pub fn remove_object(&mut self) {
        self.is_gone = true;
        self.deliver();
    }

    /// The node stops the pod.
    pub fn evict(&mut self, cause: TerminationCause, grace: Duration) {
        self.stop = Some(Stop { cause, grace });
        self.deliver();
    }

    /// The node wants everything of the pod removed that has ended by now.
    pub fn collect_dead(&mut self) {
        let dead =
            self.observed.containers.iter().filter(|container| !container.state.is_running());
        self.collect = dead.map(|container| container.id.clone()).collect();
        self.deliver();
    }

    /// Ends an action with success; false when nothing is in flight for the key.
    pub fn complete(&mut self, key: &Key) -> bool {
        self.deliver();
        let Some((action, pod)) = self.actions.remove(key) else { return false };
        let outcome = self.take_effect(action, &pod);
        self.end(key, Ok(outcome));
        true
    }

    /// Ends an action with a failure; false when nothing is in flight for the key.
    pub fn fail(&mut self, key: &Key, reason: &str, message: &str) -> bool {
        self.deliver();
        let Some((action, _)) = self.actions.remove(key) else { return false };
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let outcome = match action {
            Action::EnsureImage { container, silent: true } => {
                Ok(Outcome::PulledAhead { container })
            }
            Action::EnsureImage { container, silent: false } => {
                let retry_at = Some(self.now.mono.after(Duration::from_secs(10)));
                let state = ImageState::Failed { reason, message, retry_at, since: self.now };
                Ok(Outcome::Image { container, state })
            }
            Action::PostStart { id, .. } => {
                Ok(Outcome::Hook { id, state: HookState::Failed { message } })
            }
            Action::PreStop { id, .. } => Ok(Outcome::PreStopped { id }),
            Action::Prepare
            | Action::MountVolumes
            | Action::CreateSandbox { .. }
            | Action::StartContainer { .. }
            | Action::Resize { .. }
            | Action::KillContainer { .. }
            | Action::HurryKill { .. }
            | Action::RemoveContainer { .. }
            | Action::StopSandbox { .. }
            | Action::RemoveSandbox { .. }
            | Action::UnmountVolumes
            | Action::CleanUp => Err(ActionError { reason, message }),
        };
        self.end(key, outcome);
        true
    }

    /// An action ends, and the runtime is read after it.
    fn end(&mut self, key: &Key, outcome: Result<Outcome, ActionError>) {
        let completion = Completion { key: key.clone(), outcome, mutated: true };
        self.memory.take(Event::Completed(completion), self.now);
        self.deliver();
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now.mono = self.now.mono.after(by);
        let by = jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX);
        self.now.wall = self.now.wall.saturating_add(by).unwrap_or(self.now.wall);
    }

    /// The kubelet is restarted: what was in flight is lost, what was kept in memory only is
    /// forgotten.
    pub fn restart_kubelet(&mut self) {
        self.deliver();
        let facts = self.memory.facts().clone();
        let preparation = match self.memory.known().preparation {
            Preparation::Absent => Preparation::Absent,
            Preparation::LeftBehind | Preparation::Prepared => Preparation::LeftBehind,
        };
        let start = Start {
            pod: self.sent.clone(),
            lifecycle: Lifecycle::Syncing,
            config: facts.config,
            recorded: facts.recorded,
            remembered: self.memory.remembered(),
            preparation,
            kept: None,
        };
        self.memory = Memory::new(start, Arc::new(self.observed.clone()));
        self.memory.take(Event::Volumes(facts.volumes), self.now);
        self.memory.take(Event::Network(facts.network), self.now);
        self.publish();
        self.stop = None;
        self.actions.clear();
    }

    /// A container ends by itself.
    pub fn exit(&mut self, id: &ContainerId, code: i32, reason: &str) {
        let now = self.now.wall;
        if let Some(container) = self.container_mut(id) {
            container.state = exited(&container.state, now, code, reason);
        }
    }

    /// The container with that id, to be changed at will.
    pub fn container_mut(&mut self, id: &ContainerId) -> Option<&mut ObservedContainer> {
        self.observed.containers.iter_mut().find(|container| &container.id == id)
    }

    /// The runtime forgets a container.
    pub fn remove_container(&mut self, id: &ContainerId) {
        self.observed.containers.retain(|container| &container.id != id);
    }

    /// Puts a container into the runtime, in front of its predecessors.
    pub fn add_container(
        &mut self,
        name: &str,
        restart_count: u32,
        sandbox: &SandboxId,
        state: ContainerState,
    ) {
        let mut id = format!("{name}#{restart_count}");
        while self.observed.container(&ContainerId::from(id.as_str())).is_some() {
            id.push('+');
        }
        let spec = pod::find_container(&self.pod, name).map(|(_, spec)| spec);
        let image = spec.as_ref().and_then(|spec| spec.image.clone()).unwrap_or_default();
        self.observed.containers.insert(
            0,
            ObservedContainer {
                id: ContainerId::new(id),
                name: name.to_owned(),
                sandbox: sandbox.clone(),
                restart_count,
                hash: spec.map_or(0, |spec| container_hash(&spec)),
                image_ref: format!("sha256:{image}"),
                image,
                created_at: self.now.wall,
                state,
                user: None,
                resources: None,
                mounts: Vec::new(),
                log_path: String::new(),
                stop_signal: None,
            },
        );
    }

    /// Changes the world as an action does that succeeds. `begun_with`: the object that it was
    /// begun with.
    fn take_effect(&mut self, action: Action, begun_with: &Pod) -> Outcome {
        match action {
            Action::Prepare => {
                // One that exists is left as it is.
                let wanted = Figures::wanted(begun_with, &PodCgroupPolicy::default());
                let cgroup = Some(*self.cgroup.get_or_insert(wanted));
                Outcome::Prepared { logged_restarts: BTreeMap::new(), cgroup }
            }
            // As the executor: what runs still and needs no restart.
            Action::Resize { given, .. } => {
                let pod = requirements(begun_with);
                let running = self.observed.containers.iter();
                let running = running.filter(|container| container.state.is_running());
                let containers = running.filter_map(|container| {
                    let has = *given.get(&container.id)?;
                    let wants = *pod.get(&container.name)?;
                    let (_, spec) = pod::find_container(begun_with, &container.name)?;
                    let policies = spec.resize_policy.as_deref().unwrap_or_default();
                    let is_resized = has != wants && !needs_restart(policies, has, wants);
                    is_resized.then(|| (container.id.clone(), wants))
                });
                let wanted = Figures::wanted(begun_with, &PodCgroupPolicy::default());
                let cgroup = self.cgroup.map(|has| has.changed_to(wanted));
                self.cgroup = cgroup;
                Outcome::Resized { containers: containers.collect(), cgroup }
            }
            Action::MountVolumes => {
                self.memory.take(Event::Volumes(VolumesState::Ready), self.now);
                Outcome::Done
            }
            Action::UnmountVolumes => {
                self.memory.take(Event::Volumes(VolumesState::Absent), self.now);
                Outcome::Done
            }
            Action::CleanUp => {
                self.cgroup = None;
                Outcome::CleanedUp
            }
            Action::CreateSandbox { attempt } => {
                self.add_sandbox(attempt);
                Outcome::Done
            }
            Action::EnsureImage { container, silent: true } => Outcome::PulledAhead { container },
            Action::EnsureImage { container, silent: false } => {
                let image_ref = format!("ref of {container}");
                Outcome::Image { container, state: ImageState::Present { image_ref } }
            }
            Action::StartContainer { container, restart_count, sandbox, .. } => {
                self.start_container(&container, restart_count, &sandbox)
            }
            Action::PostStart { id, .. } => Outcome::Hook { id, state: HookState::Done },
            Action::PreStop { id, .. } => Outcome::PreStopped { id },
            Action::KillContainer { id, container, why, .. } => {
                let code = self.stop_codes.get(&container).copied().unwrap_or(143);
                self.exit(&id, code, if code == 0 { "Completed" } else { "Error" });
                Outcome::Killed { id, why }
            }
            Action::HurryKill { .. } => Outcome::Done,
            Action::RemoveContainer { id, reset } => {
                self.remove_container(&id);
                if reset { Outcome::Reset { id } } else { Outcome::Done }
            }
            Action::StopSandbox { id } => {
                self.stop_sandbox(&id);
                Outcome::SandboxStopped { id }
            }
            Action::RemoveSandbox { id } => {
                self.observed.sandboxes.retain(|sandbox| sandbox.id != id);
                Outcome::Done
            }
        }
    }

    fn start_container(&mut self, name: &str, restart_count: u32, sandbox: &SandboxId) -> Outcome {
        let started_at = self.now.wall;
        let running = ContainerState::Running { started_at };
        self.add_container(name, restart_count, sandbox, running);
        let hook = pod::find_container(&self.pod, name)
            .and_then(|(_, spec)| spec.lifecycle.as_ref()?.post_start.clone());
        match self.observed.latest(name) {
            Some(made) => Outcome::Started { id: made.id.clone(), has_post_start: hook.is_some() },
            None => Outcome::Done,
        }
    }

    fn stop_sandbox(&mut self, id: &SandboxId) {
        let inside = self.observed.containers.iter().filter(|container| &container.sandbox == id);
        let running: Vec<ContainerId> = inside
            .filter(|container| container.state.is_running())
            .map(|container| container.id.clone())
            .collect();
        for container in running {
            self.exit(&container, 137, "Error");
        }
        for sandbox in self.observed.sandboxes.iter_mut().filter(|sandbox| &sandbox.id == id) {
            sandbox.state = SandboxState::NotReady;
        }
    }

    fn add_sandbox(&mut self, attempt: u32) {
        let host_network = pod::is_host_network(&self.pod);
        let mut id = format!("s{attempt}");
        while self.observed.sandboxes.iter().any(|sandbox| sandbox.id.as_str() == id) {
            id.push('+');
        }
        let last = u8::try_from(attempt % 200).unwrap_or(0) + 2;
        let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        self.observed.sandboxes.insert(
            0,
            ObservedSandbox {
                id: SandboxId::new(id),
                attempt,
                state: SandboxState::Ready,
                created_at: self.now.wall,
                ips: if host_network { Vec::new() } else { vec![ip] },
                host_network,
                runtime_handler: String::new(),
                is_static: false,
            },
        );
    }
}

/// The exited state of a container that was in `state`.
pub fn exited(state: &ContainerState, now: Wall, exit_code: i32, reason: &str) -> ContainerState {
    let started_at = match state {
        ContainerState::Running { started_at } => Some(*started_at),
        ContainerState::Exited(exit) => return ContainerState::Exited(exit.clone()),
        ContainerState::Created | ContainerState::Unknown => None,
    };
    ContainerState::Exited(Exit {
        started_at,
        finished_at: now,
        exit_code,
        reason: reason.to_owned(),
        message: String::new(),
    })
}
