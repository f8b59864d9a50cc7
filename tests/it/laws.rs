//! The planner's laws, tried on random pods, worlds and histories: invariants 3 to 7 of the crate,
//! and that a healthy world comes to rest.
//!
//! A history is a list of steps: planning, ends of actions, and whatever can happen to a pod on a
//! node. Every plan on the way is checked; at the end the world heals and must come to rest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rkubelet::internals::model::waiting::ProbeOutcome;
use rkubelet::internals::model::{
    ContainerId, ContainerKind, ContainerState, Lifecycle, Pod, RestartPolicy, SandboxId,
    SandboxState, TerminationCause, VolumesState, pod,
};
use rkubelet::internals::pods::memory::facts::NetworkProblem;
use rkubelet::internals::pods::memory::slot::ImageState;
use rkubelet::internals::pods::plan::types::{Action, InFlightAction, Key, Plan, Transition};
use rkubelet::internals::testkit::builders::{add_ephemeral, mark_deleted};
use rkubelet::internals::testkit::{ContainerBuilder, PodBuilder, World};

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("LAWS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_obeys_the_laws_and_a_healed_world_comes_to_rest(
        pod in pods(),
        steps in prop::collection::vec((0_u8..60, any::<u8>(), any::<u8>()), 0..80),
    ) {
        let mut history = History::new(pod);
        for step in steps {
            history.step(step)?;
        }
        history.heal()?;
    }
}

fn pods() -> impl Strategy<Value = Pod> {
    let container = (any::<bool>(), any::<u8>());
    let policy = prop::sample::select(vec!["Always", "OnFailure", "Never"]);
    let inits = prop::collection::vec(container, 0..4);
    (policy, inits, prop::collection::vec(container, 1..4), any::<u8>()).prop_map(
        |(policy, inits, mains, flags)| {
            let mut builder =
                PodBuilder::new("random").restart_policy(policy).grace(i64::from(flags % 40));
            if flags & 0x80 != 0 {
                builder = builder.host_network();
            }
            if flags & 0x60 == 0x60 {
                builder = builder.active_deadline(120);
            }
            for (place, (is_sidecar, flags)) in inits.into_iter().enumerate() {
                let container = container_with(
                    ContainerBuilder::new(&format!("init{place}")),
                    flags,
                    is_sidecar,
                );
                builder =
                    if is_sidecar { builder.sidecar(container) } else { builder.init(container) };
            }
            for (place, (_, flags)) in mains.into_iter().enumerate() {
                let container =
                    container_with(ContainerBuilder::new(&format!("main{place}")), flags, true);
                let container = match flags >> 5 {
                    0 => container.restart_policy("Never"),
                    1 => container.restart_policy("Never").restart_rule("Restart", "In", &[3]),
                    2 => container.restart_policy("OnFailure"),
                    _ => container,
                };
                builder = builder.container(container);
            }
            builder.build()
        },
    )
}

fn container_with(
    mut container: ContainerBuilder,
    flags: u8,
    may_have_hooks: bool,
) -> ContainerBuilder {
    if flags & 1 != 0 {
        container = container.pull_policy("Always");
    }
    if !may_have_hooks {
        return container;
    }
    if flags & 2 != 0 {
        container = container.post_start();
    }
    if flags & 4 != 0 {
        container = container.pre_stop();
    }
    if flags & 8 != 0 {
        container = container.startup_probe(Some(7));
    }
    if flags & 16 != 0 {
        container = container.liveness_probe(None);
    }
    container
}

/// A world, and what is known to have truly happened in it.
struct History {
    world: World,
    /// Init containers that ended with success, sidecars that ran, by the sandbox they did it in.
    came_through: BTreeSet<(SandboxId, String)>,
    /// Sandboxes in which a main container was created.
    initialized: BTreeSet<SandboxId>,
}

impl History {
    fn new(pod: Pod) -> Self {
        let world = World::new(pod);
        Self { world, came_through: BTreeSet::new(), initialized: BTreeSet::new() }
    }

    fn step(&mut self, (what, which, how): (u8, u8, u8)) -> Result<(), TestCaseError> {
        match what {
            0..=3 => {
                self.round()?;
                while !self.world.in_flight().is_empty() {
                    self.end_one(which, true);
                    self.note();
                }
            }
            4..=19 => self.round()?,
            20..=36 => self.end_one(which, true),
            37..=39 => self.end_one(which, false),
            _ => self.happen(what, which, how),
        }
        self.note();
        Ok(())
    }

    /// Plans, checks the plan, begins it.
    fn round(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..6 {
            let plan = self.world.plan();
            self.check(&plan)?;
            let before = self.world.lifecycle().clone();
            let moved = self.world.turn();
            check_lifecycle(&before, self.world.lifecycle())?;
            if !moved {
                self.world.round();
                return Ok(());
            }
        }
        Err(TestCaseError::fail("the lifecycle changes for ever"))
    }

    /// Ends one of the actions in flight.
    fn end_one(&mut self, which: u8, well: bool) {
        let keys: Vec<Key> = self.world.in_flight().keys().cloned().collect();
        if let Some(key) = pick(&keys, which) {
            if well {
                self.world.complete(key);
            } else {
                self.world.fail(key, "CreateContainerError", "it did not work");
            }
        }
    }

    fn happen(&mut self, what: u8, which: u8, how: u8) {
        let world = &mut self.world;
        let ids: Vec<ContainerId> =
            world.observed.containers.iter().map(|container| container.id.clone()).collect();
        let id = pick(&ids, which).cloned();
        let seconds = Duration::from_secs(u64::from(how));
        match (what, id) {
            (40..=43, Some(id)) => {
                if world
                    .observed
                    .container(&id)
                    .is_some_and(|container| container.state.is_running())
                {
                    world.exit(&id, [0, 0, 1, 3][usize::from(how % 4)], "");
                }
            }
            (44 | 45, _) => world.advance(seconds),
            (46, Some(id)) => set_state(world, &id, ContainerState::Unknown),
            (47, Some(id)) => set_probe(world, id, how),
            (48, Some(id)) if how < 60 => world.remove_container(&id),
            (49, _) if how < 80 => break_sandbox(world, how),
            (50, _) => {
                let problem = NetworkProblem { message: "no plugin".to_owned(), diagnosis: None };
                world.facts_mut().network = how.is_multiple_of(2).then_some(problem);
            }
            (51, _) if world.facts().volumes == VolumesState::Ready => {
                let missing = vec![("data".to_owned(), "gone".to_owned())];
                world.facts_mut().volumes =
                    VolumesState::Pending { missing, next_try: None, on_their_way: false };
            }
            (52, _) if how < 40 => {
                let now = world.now.wall;
                mark_deleted(&mut world.pod, now, i64::from(which % 40));
            }
            (53, _) if how < 20 => world.remove_object(),
            (54, _) => world.accept_status(how.is_multiple_of(2)),
            (55, _) if how < 40 => {
                let cause =
                    TerminationCause::Evicted { reason: "Evicted".into(), message: String::new() };
                world.evict(cause, Duration::from_secs(u64::from(which % 20)));
            }
            (56, _) if how < 60 => world.restart_kubelet(),
            (57, _) if how < 60 => change_image(world, which, how),
            (58, _) if how < 60 => add_ephemeral(&mut world.pod, &format!("debug{}", which % 3)),
            (59, Some(id)) if how < 150 => self.conjure_twin(&id),
            (_, _) => {}
        }
    }

    /// The runtime shows a second running container of the same name, as after a lost answer.
    fn conjure_twin(&mut self, id: &ContainerId) {
        let Some(original) = self.world.observed.container(id).cloned() else { return };
        let started_at = self.world.now.wall;
        let running = ContainerState::Running { started_at };
        self.world.add_container(
            &original.name,
            original.restart_count,
            &original.sandbox,
            running,
        );
    }

    /// Notes what has truly happened.
    fn note(&mut self) {
        for container in &self.world.observed.containers {
            let mark = (container.sandbox.clone(), container.name.clone());
            match pod::find_container(&self.world.pod, &container.name).map(|(kind, _)| kind) {
                Some(ContainerKind::Main) => {
                    self.initialized.insert(container.sandbox.clone());
                }
                Some(ContainerKind::Init) => {
                    if container.state.exit().is_some_and(|exit| exit.exit_code == 0) {
                        self.came_through.insert(mark);
                    }
                }
                Some(ContainerKind::Sidecar) => {
                    if container.state.is_running() {
                        self.came_through.insert(mark);
                    }
                }
                Some(ContainerKind::Ephemeral) | None => {}
            }
        }
    }

    fn check(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let world = &self.world;
        prop_assert_eq!(plan, &world.plan(), "same inputs, same plan");
        let mut keys = BTreeSet::new();
        let mut adds = false;
        for action in &plan.actions {
            let key = action.key();
            prop_assert!(keys.insert(key.clone()), "one action per key: {:?}", action);
            match (action, world.in_flight().get(&key)) {
                (
                    Action::HurryKill { deadline, .. },
                    Some(InFlightAction::Kill { deadline: running, .. }),
                ) => {
                    prop_assert!(deadline < running, "a stop is only ever hurried");
                }
                (Action::HurryKill { .. }, _) => {
                    prop_assert!(false, "nothing to hurry: {:?}", action);
                }
                (_, in_flight) => {
                    prop_assert!(in_flight.is_none(), "in flight already: {:?}", action);
                }
            }
            adds |= is_start(action);
            prop_assert_eq!(is_start(action), adds, "removal precedes addition: {:?}", action);
            if world.lifecycle().is_stopping() {
                prop_assert!(!is_start(action), "nothing starts any more: {:?}", action);
            }
            self.check_ids(action)?;
            self.check_removal(action)?;
            self.check_start(action)?;
        }
        if let Some(wake) = plan.wake_at {
            prop_assert!(wake > world.now.mono, "a wake-up lies ahead");
        }
        self.check_transition(plan)
    }

    fn check_ids(&self, action: &Action) -> Result<(), TestCaseError> {
        let observed = &self.world.observed;
        match action {
            Action::PostStart { id, .. }
            | Action::PreStop { id, .. }
            | Action::KillContainer { id, .. }
            | Action::HurryKill { id, .. }
            | Action::RemoveContainer { id, .. } => {
                prop_assert!(observed.container(id).is_some(), "not observed: {:?}", action);
            }
            Action::StopSandbox { id }
            | Action::RemoveSandbox { id }
            | Action::Resize { sandbox: Some(id), .. }
            | Action::StartContainer { sandbox: id, .. } => {
                let known = observed.sandboxes.iter().any(|sandbox| &sandbox.id == id);
                prop_assert!(known, "not observed: {:?}", action);
            }
            Action::Prepare
            | Action::MountVolumes
            | Action::CreateSandbox { .. }
            | Action::EnsureImage { .. }
            | Action::Resize { sandbox: None, .. }
            | Action::UnmountVolumes
            | Action::CleanUp => {}
        }
        Ok(())
    }

    fn check_removal(&self, action: &Action) -> Result<(), TestCaseError> {
        let world = &self.world;
        let may_run =
            |container: &&rkubelet::internals::model::ObservedContainer| match container.state {
                ContainerState::Running { .. } => true,
                ContainerState::Unknown => world.known().killed(&container.id).is_none(),
                ContainerState::Created | ContainerState::Exited(_) => false,
            };
        match action {
            Action::RemoveContainer { id, .. } => {
                let container = world.observed.container(id);
                prop_assert!(
                    !container.as_ref().is_some_and(may_run),
                    "stopped before removed: {:?}",
                    action
                );
            }
            Action::StopSandbox { id } => {
                let mut inside =
                    world.observed.containers.iter().filter(|container| &container.sandbox == id);
                prop_assert!(
                    !inside.any(|container| may_run(&container)),
                    "containers before sandbox: {:?}",
                    action
                );
            }
            Action::RemoveSandbox { id } => {
                let mut inside =
                    world.observed.containers.iter().filter(|container| &container.sandbox == id);
                prop_assert!(inside.next().is_none(), "emptied before removed: {:?}", action);
                prop_assert!(
                    world.known().stopped.contains(id),
                    "stopped before removed: {:?}",
                    action
                );
            }
            Action::UnmountVolumes | Action::CleanUp => {
                prop_assert!(
                    !world.observed.containers.iter().any(|container| may_run(&container)),
                    "{:?}",
                    action
                );
            }
            Action::Prepare
            | Action::MountVolumes
            | Action::CreateSandbox { .. }
            | Action::EnsureImage { .. }
            | Action::Resize { .. }
            | Action::StartContainer { .. }
            | Action::PostStart { .. }
            | Action::PreStop { .. }
            | Action::KillContainer { .. }
            | Action::HurryKill { .. } => {}
        }
        Ok(())
    }

    fn check_start(&self, action: &Action) -> Result<(), TestCaseError> {
        let world = &self.world;
        if let Action::CreateSandbox { .. } = action {
            let none_ready = world
                .observed
                .sandboxes
                .iter()
                .all(|sandbox| sandbox.state == SandboxState::NotReady);
            prop_assert!(none_ready, "one ready sandbox at a time");
            let come = matches!(
                world.facts().volumes,
                VolumesState::Ready | VolumesState::Pending { on_their_way: true, .. }
            );
            prop_assert!(world.known().is_prepared() && come, "volumes are there or come");
        }
        let Action::StartContainer { container, kind, restart_count, sandbox, .. } = action else {
            return Ok(());
        };
        let twins: Vec<_> =
            world.observed.containers.iter().filter(|twin| &twin.name == container).collect();
        for twin in &twins {
            let killed = world.known().killed(&twin.id).is_some();
            let stopped = match twin.state {
                ContainerState::Created | ContainerState::Exited(_) => true,
                ContainerState::Unknown => killed,
                ContainerState::Running { .. } => false,
            };
            prop_assert!(stopped, "two containers of one name never both run: {:?}", action);
            prop_assert!(twin.restart_count < *restart_count, "restart counts grow: {:?}", action);
        }
        prop_assert!(
            world.known().is_prepared() && world.facts().volumes == VolumesState::Ready,
            "volumes come first"
        );
        let image = world.known().image(container);
        prop_assert!(matches!(image, Some(ImageState::Present { .. })), "the image comes first");
        let latest = world.observed.latest_sandbox();
        prop_assert!(
            latest
                .is_some_and(|latest| &latest.id == sandbox && latest.state == SandboxState::Ready)
        );
        self.check_order(container, *kind, sandbox)
    }

    /// Init order: whatever stands before a container has come through in this sandbox.
    fn check_order(
        &self,
        container: &str,
        kind: ContainerKind,
        sandbox: &SandboxId,
    ) -> Result<(), TestCaseError> {
        if kind == ContainerKind::Ephemeral || self.initialized.contains(sandbox) {
            return Ok(());
        }
        for before in pod::init_containers(&self.world.pod) {
            if before.name == container {
                break;
            }
            let mark = (sandbox.clone(), before.name.clone());
            prop_assert!(self.came_through.contains(&mark), "{} before {container}", before.name);
        }
        Ok(())
    }

    fn check_transition(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let world = &self.world;
        match &plan.transition {
            Some(Transition::Terminated) => {
                let running =
                    world.observed.containers.iter().any(|container| container.state.is_running());
                let starting = world
                    .in_flight()
                    .keys()
                    .any(|key| matches!(key, Key::Start(_) | Key::NewSandbox));
                prop_assert!(
                    !running && !starting,
                    "terminated means that nothing runs or is about to"
                );
            }
            Some(Transition::Finished) => {
                prop_assert!(
                    !world.known().is_prepared() && world.facts().volumes == VolumesState::Absent
                );
                prop_assert!(world.facts().status_accepted || world.facts().is_gone());
            }
            Some(Transition::Terminate { .. } | Transition::Shorten { .. }) | None => {}
        }
        Ok(())
    }

    /// From here on everything works: the pod must come to rest, and be what it should be.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        self.world.facts_mut().network = None;
        self.world.facts_mut().probes = Arc::default();
        let lost_volumes = matches!(self.world.facts().volumes, VolumesState::Pending { .. });
        if lost_volumes
            && !self.world.in_flight().contains_key(&Key::Volumes)
            && !self.world.lifecycle().is_stopping()
        {
            self.world.facts_mut().volumes = VolumesState::Ready;
        }
        for _ in 0..400 {
            self.note();
            self.round()?;
            let keys: Vec<Key> = self.world.in_flight().keys().cloned().collect();
            for key in &keys {
                self.world.complete(key);
                self.note();
            }
            let worked = self.work();
            if !keys.is_empty() || worked {
                continue;
            }
            match self.world.plan().wake_at {
                Some(wake) => {
                    let by = wake.since(self.world.now.mono);
                    self.world.advance(by);
                    if self.world.plan().wake_at == Some(wake) {
                        return Err(TestCaseError::fail("it wakes up for nothing"));
                    }
                }
                None if self.world.lifecycle().is_stopping() && !self.world.facts().is_gone() => {
                    self.world.accept_status(true);
                    self.world.remove_object();
                }
                None => return self.check_rest(),
            }
        }
        Err(TestCaseError::fail(format!("it does not come to rest: {:?}", self.world.plan())))
    }

    /// What a healthy pod does by itself: init containers end, startup probes succeed.
    fn work(&mut self) -> bool {
        let world = &mut self.world;
        let mut worked = false;
        for container in world.observed.containers.clone() {
            if !container.state.is_running() {
                continue;
            }
            let kind = pod::find_container(&world.pod, &container.name).map(|(kind, _)| kind);
            if kind == Some(ContainerKind::Init) {
                world.exit(&container.id, 0, "Completed");
                worked = true;
            }
            let verdict = world.verdict_mut(container.id);
            if verdict.startup != Some(ProbeOutcome::Success) {
                verdict.startup = Some(ProbeOutcome::Success);
                worked = true;
            }
        }
        worked
    }

    fn check_rest(&self) -> Result<(), TestCaseError> {
        let world = &self.world;
        let plan = world.plan();
        prop_assert!(plan.actions.is_empty() && world.in_flight().is_empty());
        if world.lifecycle().is_stopping() {
            prop_assert!(
                world.is_finished(),
                "a pod that stops is finished in the end: {:?}",
                plan.blocked
            );
            prop_assert!(world.observed.is_empty(), "nothing is left: {:?}", world.observed);
            return Ok(());
        }
        prop_assert_eq!(&plan.blocked, &None, "a healthy pod waits for nothing");
        for container in pod::main_containers(&world.pod) {
            let running = world
                .observed
                .latest(&container.name)
                .is_some_and(|found| found.state.is_running());
            let remembered =
                world.known().remembered(&container.name).and_then(|seen| seen.exit.as_ref());
            let observed = world.observed.latest(&container.name).map(|found| found.state.exit());
            let exit = observed.unwrap_or(remembered);
            let is_done =
                exit.is_some_and(|exit| !comes_back(&world.pod, container, exit.exit_code));
            prop_assert!(running || is_done, "{} neither runs nor is done", container.name);
        }
        for name in world.observed.containers.iter().map(|container| &container.name) {
            let running = world
                .observed
                .containers
                .iter()
                .filter(|c| &c.name == name && c.state.is_running());
            prop_assert!(running.count() <= 1, "{} runs twice", name);
        }
        Ok(())
    }
}

/// Whether the policies ask for another start: the law in its shortest form.
fn comes_back(
    pod: &Pod,
    container: &k8s_openapi::api::core::v1::Container,
    exit_code: i32,
) -> bool {
    let by_rule = container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.exit_codes
            .as_ref()
            .and_then(|codes| codes.values.as_ref())
            .is_some_and(|codes| codes.contains(&exit_code))
    });
    let own = container.restart_policy.as_deref().and_then(RestartPolicy::parse);
    match own.unwrap_or(pod::restart_policy(pod)) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => by_rule,
    }
}

fn check_lifecycle(before: &Lifecycle, after: &Lifecycle) -> Result<(), TestCaseError> {
    let rank = |lifecycle: &Lifecycle| match lifecycle {
        Lifecycle::Syncing => 0,
        Lifecycle::Terminating(_) => 1,
        Lifecycle::Terminated(_) => 2,
    };
    prop_assert!(rank(after) >= rank(before), "terminating is one-way");
    if let (Some(before), Some(after)) = (before.terminating(), after.terminating()) {
        prop_assert!(after.grace <= before.grace, "grace only shrinks");
        prop_assert_eq!(&after.cause, &before.cause);
    }
    Ok(())
}

fn is_start(action: &Action) -> bool {
    match action {
        Action::Prepare
        | Action::MountVolumes
        | Action::CreateSandbox { .. }
        | Action::EnsureImage { .. }
        | Action::StartContainer { .. }
        | Action::Resize { .. }
        | Action::PostStart { .. } => true,
        Action::PreStop { .. }
        | Action::KillContainer { .. }
        | Action::HurryKill { .. }
        | Action::RemoveContainer { .. }
        | Action::StopSandbox { .. }
        | Action::RemoveSandbox { .. }
        | Action::UnmountVolumes
        | Action::CleanUp => false,
    }
}

fn pick<T>(among: &[T], which: u8) -> Option<&T> {
    if among.is_empty() { None } else { among.get(usize::from(which) % among.len()) }
}

fn set_state(world: &mut World, id: &ContainerId, state: ContainerState) {
    if let Some(container) =
        world.container_mut(id).filter(|container| container.state.is_running())
    {
        container.state = state;
    }
}

fn set_probe(world: &mut World, id: ContainerId, how: u8) {
    let verdict = world.verdict_mut(id);
    match how % 4 {
        0 => verdict.liveness = Some(ProbeOutcome::Failure),
        1 => verdict.startup = Some(ProbeOutcome::Failure),
        _ => verdict.startup = Some(ProbeOutcome::Success),
    }
}

fn break_sandbox(world: &mut World, how: u8) {
    let Some(sandbox) = world.observed.sandboxes.first_mut() else { return };
    match how % 4 {
        0 => sandbox.state = SandboxState::NotReady,
        1 => sandbox.ips.clear(),
        2 => {
            let mut twin = sandbox.clone();
            twin.id = SandboxId::new(format!("{}+", sandbox.id));
            twin.attempt += 1;
            world.observed.sandboxes.insert(0, twin);
        }
        _ => {
            sandbox.state = SandboxState::NotReady;
            let id = sandbox.id.clone();
            let inside =
                world.observed.containers.iter().filter(|container| container.sandbox == id);
            let running = inside.filter(|container| container.state.is_running());
            for container in running.map(|container| container.id.clone()).collect::<Vec<_>>() {
                world.exit(&container, 137, "Error");
            }
        }
    }
}

fn change_image(world: &mut World, which: u8, how: u8) {
    let Some(spec) = world.pod.spec.as_mut() else { return };
    let place = usize::from(which) % spec.containers.len();
    spec.containers[place].image = Some(format!("new:{}", how % 3));
}
