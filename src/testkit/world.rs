//! A world of one pod: what the runtime shows, what the worker would keep, and the effect of every
//! action. It carries plans out as a worker does, at the moments that the test chooses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::model::observed::Exit;
use crate::model::{
    ContainerId, ContainerState, Lifecycle, Mono, Now, ObservedContainer, ObservedPod,
    ObservedSandbox, Pod, SandboxId, SandboxState, Terminating, VolumesState, Wall, pod,
};
use crate::pods::plan::plan;
use crate::pods::plan::types::{
    Action, Doing, Failure, HookState, ImageState, InFlight, Inputs, Key, Notice, Plan, PlanInput,
    Recorded, Remembered, Transition,
};
use crate::resources::allocation::requirements;

/// How many changes of lifecycle one round may make; more is a loop in the planner.
const TRANSITIONS: usize = 6;

/// One pod, its runtime and its worker's memory.
#[derive(Clone, Debug)]
pub struct World {
    /// The object.
    pub pod: Pod,
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// What the runtime shows.
    pub observed: ObservedPod,
    /// What the worker knows.
    pub inputs: Inputs,
    /// What is being carried out.
    pub in_flight: InFlight,
    /// The time.
    pub now: Now,
    /// Whether `Finished` was reached.
    pub finished: bool,
    /// The exit codes of containers that are stopped, by name; 143 without an entry.
    pub stop_codes: BTreeMap<String, i32>,
    actions: BTreeMap<Key, Action>,
    notices: BTreeMap<String, String>,
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
    /// The plan, with its actions.
    pub plan: Plan,
}

impl World {
    /// When every world begins.
    pub const BEGINNING: Mono = Mono(Duration::from_secs(10_000));

    /// A world in which the pod has just arrived.
    pub fn new(pod: Pod) -> Self {
        let start = Wall::from_second(1_767_225_600).unwrap_or_default();
        let inputs = Inputs {
            recorded: Recorded { start_time: Some(start), ..Recorded::default() },
            ..Inputs::default()
        };
        let inputs = Inputs { restart_all: true, ..inputs };
        let mut world = Self {
            pod,
            lifecycle: Lifecycle::Syncing,
            observed: ObservedPod::default(),
            inputs,
            in_flight: InFlight::new(),
            now: Now { mono: Self::BEGINNING, wall: start },
            finished: false,
            stop_codes: BTreeMap::new(),
            actions: BTreeMap::new(),
            notices: BTreeMap::new(),
        };
        world.expect_hashes();
        world
    }

    /// The plan for the world as it is.
    pub fn plan(&self) -> Plan {
        plan(&PlanInput {
            pod: &self.pod,
            lifecycle: &self.lifecycle,
            observed: &self.observed,
            inputs: &self.inputs,
            in_flight: &self.in_flight,
            now: self.now,
        })
    }

    /// Plans and begins what was planned, changes of lifecycle included.
    pub fn round(&mut self) -> Round {
        let mut round = Round::default();
        for _ in 0..TRANSITIONS {
            let plan = self.plan();
            round.events.extend(self.new_events(&plan));
            match plan.transition.clone() {
                Some(transition) if self.transit(&transition) => round.transitions.push(transition),
                Some(_) | None => {
                    round.actions = self.begin(&plan);
                    round.plan = plan;
                    break;
                }
            }
        }
        round
    }

    /// Applies a change of lifecycle; false when it changes nothing.
    pub fn transit(&mut self, transition: &Transition) -> bool {
        let next = match (transition, &self.lifecycle) {
            (Transition::Terminate { cause, grace }, Lifecycle::Syncing) => {
                Lifecycle::Terminating(Terminating {
                    cause: cause.clone(),
                    since: self.now,
                    grace: *grace,
                })
            }
            (Transition::Shorten { grace }, Lifecycle::Terminating(before))
                if *grace < before.grace =>
            {
                Lifecycle::Terminating(Terminating { grace: *grace, ..before.clone() })
            }
            (Transition::Terminated, Lifecycle::Terminating(before)) => {
                Lifecycle::Terminated(before.clone())
            }
            (Transition::Finished, Lifecycle::Terminated(_)) if !self.finished => {
                self.finished = true;
                return true;
            }
            (_, _) => return false,
        };
        self.lifecycle = next;
        true
    }

    /// Begins the actions of a plan and stores its back-offs.
    pub fn begin(&mut self, plan: &Plan) -> Vec<Action> {
        self.inputs.backoff.append(&mut plan.backoff.clone());
        for action in &plan.actions {
            let key = action.key();
            let since = self.now;
            let doing = match action {
                Action::KillContainer { id, deadline, why, .. } => {
                    self.inputs.killing.insert(id.clone(), why.clone());
                    Doing::Kill { since, deadline: *deadline }
                }
                Action::HurryKill { deadline, .. } => Doing::Kill { since, deadline: *deadline },
                Action::EnsureImage { silent, .. } => Doing::Busy { since, silent: *silent },
                Action::StartContainer { container, .. } => {
                    self.inputs.images.remove(container);
                    self.inputs.warmed.remove(container);
                    Doing::Busy { since, silent: false }
                }
                Action::Prepare
                | Action::MountVolumes
                | Action::CreateSandbox { .. }
                | Action::Resize { .. }
                | Action::PostStart { .. }
                | Action::PreStop { .. }
                | Action::RemoveContainer { .. }
                | Action::StopSandbox { .. }
                | Action::RemoveSandbox { .. }
                | Action::UnmountVolumes
                | Action::CleanUp => Doing::Busy { since, silent: false },
            };
            self.in_flight.insert(key.clone(), doing);
            if !matches!(action, Action::HurryKill { .. }) {
                self.actions.insert(key, action.clone());
            }
        }
        plan.actions.clone()
    }

    /// Ends an action with success; false when nothing is in flight for the key.
    pub fn complete(&mut self, key: &Key) -> bool {
        self.in_flight.remove(key);
        let Some(action) = self.actions.remove(key) else { return false };
        self.inputs.failures.remove(key);
        self.take_effect(action);
        true
    }

    /// Ends an action with a failure; false when nothing is in flight for the key.
    pub fn fail(&mut self, key: &Key, reason: &str, message: &str) -> bool {
        self.in_flight.remove(key);
        let Some(action) = self.actions.remove(key) else { return false };
        let (reason, message) = (reason.to_owned(), message.to_owned());
        match action {
            Action::EnsureImage { container, silent: true } => {
                self.inputs.warmed.insert(container);
            }
            Action::EnsureImage { container, silent: false } => {
                let failed = self.inputs.images.get(&container);
                let since = match failed {
                    Some(ImageState::Failed { since, .. }) => *since,
                    Some(ImageState::Present { .. }) | None => self.now,
                };
                let retry_at = Some(self.now.mono.after(Duration::from_secs(10)));
                self.inputs
                    .images
                    .insert(container, ImageState::Failed { reason, message, retry_at, since });
            }
            Action::PostStart { id, .. } => {
                self.inputs.post_start.insert(id, HookState::Failed { message });
            }
            Action::PreStop { id, .. } => {
                self.inputs.pre_stopped.insert(id);
            }
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
            | Action::CleanUp => {
                let count = self.inputs.failures.get(key).map_or(1, |failure| failure.count + 1);
                if let Key::Container(id) = &key {
                    self.inputs.killing.remove(id);
                }
                self.inputs
                    .failures
                    .insert(key.clone(), Failure { count, at: self.now, reason, message });
            }
        }
        true
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
        let old = std::mem::take(&mut self.inputs);
        self.inputs = Inputs {
            prepared: old.prepared,
            volumes: old.volumes,
            network_not_ready: old.network_not_ready,
            max_backoff: old.max_backoff,
            expected_hash: old.expected_hash,
            remembered: old.remembered,
            recorded: Recorded {
                sandbox: self.observed.latest_sandbox().map(|sandbox| sandbox.id.clone()),
                ..old.recorded
            },
            gone_from_source: old.gone_from_source,
            restart_all: old.restart_all,
            ..Inputs::default()
        };
        let running =
            self.observed.containers.iter().filter(|container| container.state.is_running());
        self.inputs.post_start =
            running.map(|container| (container.id.clone(), HookState::Done)).collect();
        self.lifecycle = Lifecycle::Syncing;
        self.in_flight.clear();
        self.actions.clear();
        self.notices.clear();
        self.finished = false;
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

    /// The actions in flight.
    pub fn actions(&self) -> &BTreeMap<Key, Action> {
        &self.actions
    }

    /// Takes the hashes of the spec as they are now.
    pub fn expect_hashes(&mut self) {
        let containers =
            pod::init_containers(&self.pod).iter().chain(pod::main_containers(&self.pod));
        let hash = |container: &k8s_openapi::api::core::v1::Container| {
            let image = container.image.as_deref().unwrap_or_default();
            (container.name.clone(), hash_of(image))
        };
        self.inputs.expected_hash = containers.map(hash).collect();
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
        let image = pod::find_container(&self.pod, name)
            .and_then(|(_, spec)| spec.image.clone())
            .unwrap_or_default();
        self.observed.containers.insert(
            0,
            ObservedContainer {
                id: ContainerId::new(id),
                name: name.to_owned(),
                sandbox: sandbox.clone(),
                restart_count,
                hash: hash_of(&image),
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

    fn new_events(&mut self, plan: &Plan) -> Vec<Notice> {
        let mut events = Vec::new();
        for notice in &plan.notices {
            let subject =
                format!("{}/{}", notice.reason, notice.container.as_deref().unwrap_or_default());
            if self.notices.insert(subject, notice.dedup.clone()).as_ref() != Some(&notice.dedup) {
                events.push(notice.clone());
            }
        }
        events
    }

    fn take_effect(&mut self, action: Action) {
        match action {
            Action::Prepare => {
                self.inputs.prepared = true;
                self.inputs.cgroup_given = requirements(&self.pod);
            }
            Action::Resize { .. } => {
                self.inputs.cgroup_given = requirements(&self.pod);
                for container in
                    self.observed.containers.iter().filter(|container| container.state.is_running())
                {
                    if let Some(given) = self.inputs.cgroup_given.get(&container.name) {
                        self.inputs.actuated.insert(container.id.clone(), *given);
                    }
                }
            }
            Action::MountVolumes => self.inputs.volumes = VolumesState::Ready,
            Action::UnmountVolumes => self.inputs.volumes = VolumesState::Absent,
            Action::CleanUp => self.inputs.prepared = false,
            Action::CreateSandbox { attempt } => self.add_sandbox(attempt),
            Action::EnsureImage { container, silent: true } => {
                self.inputs.warmed.insert(container);
            }
            Action::EnsureImage { container, silent: false } => {
                let image_ref = format!("ref of {container}");
                self.inputs.images.insert(container, ImageState::Present { image_ref });
            }
            Action::StartContainer { container, restart_count, sandbox, .. } => {
                let started_at = self.now.wall;
                self.add_container(
                    &container,
                    restart_count,
                    &sandbox,
                    ContainerState::Running { started_at },
                );
                let given = requirements(&self.pod).remove(&container);
                let id = self.observed.latest(&container).map(|container| container.id.clone());
                self.inputs.actuated.extend(id.zip(given));
            }
            Action::PostStart { id, .. } => {
                self.inputs.post_start.insert(id, HookState::Done);
            }
            Action::PreStop { id, .. } => {
                self.inputs.pre_stopped.insert(id);
            }
            Action::KillContainer { id, container, why, .. } => {
                let code = self.stop_codes.get(&container).copied().unwrap_or(143);
                self.exit(&id, code, if code == 0 { "Completed" } else { "Error" });
                self.inputs.killing.remove(&id);
                self.inputs.killed.insert(id, why);
            }
            Action::HurryKill { .. } => {}
            Action::RemoveContainer { id, reset } => {
                self.remove_container(&id);
                if reset {
                    self.inputs.recorded.init_done.clear();
                    self.inputs.remembered.values_mut().for_each(|seen| seen.exit = None);
                }
            }
            Action::StopSandbox { id } => {
                let inside: Vec<_> =
                    self.observed.containers.iter().filter(|c| c.sandbox == id).collect();
                let ids: Vec<_> = inside
                    .into_iter()
                    .filter(|c| c.state.is_running())
                    .map(|c| c.id.clone())
                    .collect();
                for container in ids {
                    self.exit(&container, 137, "Error");
                }
                for sandbox in self.observed.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id)
                {
                    sandbox.state = SandboxState::NotReady;
                }
                self.inputs.stopped.insert(id);
            }
            Action::RemoveSandbox { id } => {
                self.observed.sandboxes.retain(|sandbox| sandbox.id != id);
                self.inputs.stopped.remove(&id);
            }
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
            },
        );
    }

    /// The runtime forgets a container; the worker remembers its count and exit.
    pub fn remove_container(&mut self, id: &ContainerId) {
        let Some(place) = self.observed.containers.iter().position(|container| &container.id == id)
        else {
            return;
        };
        let old = self.observed.containers.remove(place);
        // Only what has run is remembered.
        if old.state != ContainerState::Created {
            let seen = Remembered { restart_count: old.restart_count, exit: None };
            let remembered = self.inputs.remembered.entry(old.name).or_insert(seen);
            if old.restart_count >= remembered.restart_count {
                remembered.restart_count = old.restart_count;
                if let Some(exit) = old.state.exit() {
                    remembered.exit = Some(exit.clone());
                }
            }
        }
        self.inputs.killed.remove(id);
        self.inputs.pre_stopped.remove(id);
        self.inputs.post_start.remove(id);
        self.inputs.failures.remove(&Key::Container(id.clone()));
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

/// A stand-in for the hash of a container's definition (FNV-1a of the image); never zero.
fn hash_of(image: &str) -> u64 {
    image.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }) | 1
}
