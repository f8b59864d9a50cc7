//! The commands of a scenario: what happens to the pod and its world, one line each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::builders::{ContainerBuilder, PodBuilder, add_ephemeral, mark_deleted, set_resource};
use super::world::World;
use crate::model::waiting::ProbeOutcome;
use crate::model::{
    ContainerId, ContainerState, Phase, SandboxId, SandboxState, TerminationCause, VolumesState,
};
use crate::pods::memory::facts::{NetworkProblem, Removal, Source};
use crate::pods::plan::types::Key;

/// A scenario that is being played.
#[derive(Debug, Default)]
pub(super) struct Script {
    builder: Option<PodBuilder>,
    world: Option<World>,
    /// Keys whose actions stay in flight until `done` or `fail`.
    held: BTreeSet<Key>,
    /// Keys whose actions fail, with reason and message.
    broken: BTreeMap<Key, (String, String)>,
}

/// What a command asks the runner to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Read the next command.
    Continue,
    /// Plan once; let nothing end.
    Step,
    /// Let time pass, waking up when the plan says so.
    Advance(Duration),
}

impl Script {
    /// Carries out one command.
    pub(super) fn command(&mut self, line: &str) -> Result<Then, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        self.dispatch(verb, &rest).map_err(|problem| format!("{line:?}: {problem}"))
    }

    /// The world; made from the pod at its first use.
    pub(super) fn world(&mut self) -> Result<&mut World, String> {
        if let Some(builder) = self.builder.take() {
            self.world = Some(World::new(builder.build()));
        }
        self.world.as_mut().ok_or_else(|| "a scenario begins with `pod NAME`".to_owned())
    }

    /// Ends every action in flight that is not held; false when there was none.
    pub(super) fn settle(&mut self) -> Result<bool, String> {
        let keys: Vec<Key> = self.world()?.in_flight().keys().cloned().collect();
        let mut any = false;
        for key in keys {
            if self.held.contains(&key) {
                continue;
            }
            any = true;
            let broken = self.broken.get(&key).cloned();
            let world = self.world()?;
            match broken {
                Some((reason, message)) => world.fail(&key, &reason, &message),
                None => world.complete(&key),
            };
        }
        Ok(any)
    }

    fn dispatch(&mut self, verb: &str, rest: &[&str]) -> Result<Then, String> {
        match (verb, rest) {
            ("pod", [name, options @ ..]) => {
                self.builder = Some(pod_options(PodBuilder::new(name), options)?);
                Ok(Then::Continue)
            }
            ("container" | "init" | "sidecar", [name, options @ ..]) => {
                let container = container_options(ContainerBuilder::new(name), options)?;
                let builder = self.builder.take().ok_or("the pod has begun already")?;
                self.builder = Some(match verb {
                    "init" => builder.init(container),
                    "sidecar" => builder.sidecar(container),
                    _ => builder.container(container),
                });
                Ok(Then::Continue)
            }
            ("step", []) => Ok(Then::Step),
            ("advance", [time]) => Ok(Then::Advance(duration(time)?)),
            ("hold", keys) => {
                for key in keys {
                    self.held.insert(key_of(key)?);
                }
                Ok(Then::Continue)
            }
            ("done", keys) => {
                for key in keys {
                    let key = key_of(key)?;
                    self.held.remove(&key);
                    if !self.world()?.complete(&key) {
                        return Err("nothing is in flight for it".into());
                    }
                }
                Ok(Then::Continue)
            }
            ("breaks", [key, reason, message @ ..]) => {
                self.broken.insert(key_of(key)?, ((*reason).to_owned(), message.join(" ")));
                Ok(Then::Continue)
            }
            ("heals", [key]) => {
                self.broken.remove(&key_of(key)?);
                Ok(Then::Continue)
            }
            (_, _) => {
                happen(self.world()?, verb, rest)?;
                Ok(Then::Continue)
            }
        }
    }
}

/// What happens to the pod, its object, its runtime or its node.
#[expect(clippy::too_many_lines, reason = "a flat match: one arm per command")]
fn happen(world: &mut World, verb: &str, rest: &[&str]) -> Result<(), String> {
    match (verb, rest) {
        ("exit" | "killed" | "unknown" | "never-started", [name, options @ ..]) => {
            change_container(world, verb, name, options)
        }
        ("stops-with", [name, code]) => {
            world.stop_codes.insert((*name).to_owned(), number(code)?);
            Ok(())
        }
        ("runtime-loses", [name]) => {
            let id = latest(world, name)?;
            world.remove_container(&id);
            Ok(())
        }
        ("runtime-shows", [name, count, sandbox]) => {
            let started_at = world.now.wall;
            let sandbox = SandboxId::from(*sandbox);
            world.add_container(
                name,
                number(count)?,
                &sandbox,
                ContainerState::Running { started_at },
            );
            Ok(())
        }
        ("sandbox", [what]) => change_sandbox(world, what),
        ("probe", [name, verdicts @ ..]) => set_probes(world, name, verdicts),
        ("delete", options) => {
            let grace = options
                .first()
                .map_or(Ok(30), |grace| number(grace.trim_start_matches("grace=")))?;
            let now = world.now.wall;
            mark_deleted(&mut world.pod, now, grace);
            Ok(())
        }
        // The remains of the pod may be removed at once …
        ("gone", []) => {
            world.remove_object();
            world.facts_mut().source = Source::Gone(Removal::Due);
            Ok(())
        }
        // … or after the delay that the pod's task makes.
        ("gone", ["delayed"]) => {
            world.remove_object();
            Ok(())
        }
        ("acked", []) => {
            world.accept_status(true);
            Ok(())
        }
        ("room", names) => {
            world.facts_mut().preemption_victims =
                names.iter().map(|name| format!("pod {name}")).collect();
            Ok(())
        }
        ("resize", [name, amounts @ ..]) => {
            let spec = world.pod.spec.as_mut().ok_or("the pod has no spec")?;
            let mut containers =
                spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
            let container = containers.find(|container| container.name == *name);
            set_resources(container.ok_or("there is no such container")?, amounts)
        }
        ("diagnosis", text) => {
            let problem = world.facts_mut().network.as_mut().ok_or("the network is ready")?;
            problem.diagnosis = Some(text.join(" "));
            Ok(())
        }
        ("network", ["ready"]) => {
            world.facts_mut().network = None;
            Ok(())
        }
        ("network", text) => {
            let message = text.join(" ");
            world.facts_mut().network = Some(NetworkProblem { message, diagnosis: None });
            Ok(())
        }
        ("volumes", ["ready"]) => {
            world.facts_mut().volumes = VolumesState::Ready;
            Ok(())
        }
        ("volume", [name, "comes"]) => {
            let missing = vec![((*name).to_owned(), String::new())];
            world.facts_mut().volumes =
                VolumesState::Pending { missing, next_try: None, on_their_way: true };
            Ok(())
        }
        ("volume", [name, error @ ..]) => {
            let missing = vec![((*name).to_owned(), error.join(" "))];
            world.facts_mut().volumes =
                VolumesState::Pending { missing, next_try: None, on_their_way: false };
            Ok(())
        }
        ("tearing-down", error) => {
            world.facts_mut().volumes = VolumesState::TearingDown { last_error: error.join(" ") };
            Ok(())
        }
        ("edit", [name, image]) => edit_image(world, name, image),
        ("debug", [name]) => {
            add_ephemeral(&mut world.pod, name);
            Ok(())
        }
        ("evict", [grace]) => {
            let cause = TerminationCause::Evicted {
                reason: "Evicted".into(),
                message: "The node was low on resource: memory.".into(),
            };
            world.evict(cause, duration(grace)?);
            Ok(())
        }
        ("node-collects", []) => {
            world.collect_dead();
            Ok(())
        }
        ("dead-kept", [count]) => {
            world.facts_mut().config.dead_kept = number(count)?;
            Ok(())
        }
        ("max-backoff", [time]) => {
            world.facts_mut().config.max_backoff = duration(time)?;
            Ok(())
        }
        ("kubelet-restarts", []) => {
            world.restart_kubelet();
            Ok(())
        }
        ("recorded", ["phase", phase]) => {
            world.facts_mut().recorded.terminal_phase = Phase::parse(phase);
            Ok(())
        }
        ("recorded", ["init-done", names @ ..]) => {
            world.facts_mut().recorded.init_done =
                names.iter().map(|name| (*name).to_owned()).collect();
            Ok(())
        }
        (_, _) => Err("not a command of scenarios".into()),
    }
}

fn change_container(
    world: &mut World,
    verb: &str,
    name: &str,
    options: &[&str],
) -> Result<(), String> {
    let id = latest(world, name)?;
    match verb {
        "exit" => {
            let (mut code, mut reason) = (0, None);
            for option in options {
                match option.split_once('=') {
                    Some(("code", value)) => code = number(value)?,
                    Some(("reason", value)) => reason = Some(value),
                    Some(_) | None => return Err(format!("{option:?} is not known")),
                }
            }
            world.exit(&id, code, reason.unwrap_or(if code == 0 { "Completed" } else { "Error" }));
        }
        "killed" => world.exit(&id, 137, "OOMKilled"),
        _ => {
            if let Some(container) = world.container_mut(&id) {
                container.state = if verb == "unknown" {
                    ContainerState::Unknown
                } else {
                    ContainerState::Created
                };
            }
        }
    }
    Ok(())
}

fn change_sandbox(world: &mut World, what: &str) -> Result<(), String> {
    let started = world.now.wall;
    let sandbox = world.observed.sandboxes.first_mut().ok_or("there is no sandbox")?;
    match what {
        "dies" => {
            sandbox.state = SandboxState::NotReady;
            let id = sandbox.id.clone();
            let inside =
                world.observed.containers.iter().filter(|container| container.sandbox == id);
            let running = inside.filter(|container| container.state.is_running());
            for container in running.map(|container| container.id.clone()).collect::<Vec<_>>() {
                world.exit(&container, 137, "Error");
            }
        }
        "breaks" => sandbox.state = SandboxState::NotReady,
        "loses-address" => sandbox.ips.clear(),
        "doubles" => {
            let mut twin = sandbox.clone();
            twin.id = SandboxId::new(format!("{}-twin", sandbox.id));
            twin.attempt += 1;
            twin.created_at = started;
            world.observed.sandboxes.insert(0, twin);
        }
        _ => return Err(format!("a sandbox cannot {what:?}")),
    }
    Ok(())
}

fn set_probes(world: &mut World, name: &str, verdicts: &[&str]) -> Result<(), String> {
    let id = latest(world, name)?;
    let entry = world.verdict_mut(id);
    for verdict in verdicts {
        let (probe, outcome) = verdict.split_once('=').ok_or("PROBE=OUTCOME is wanted")?;
        let outcome = match outcome {
            "success" => Some(ProbeOutcome::Success),
            "failure" => Some(ProbeOutcome::Failure),
            _ => return Err(format!("{outcome:?} is not an outcome")),
        };
        match probe {
            "startup" => entry.startup = outcome,
            "liveness" => entry.liveness = outcome,
            "readiness" => entry.readiness = outcome,
            _ => return Err(format!("{probe:?} is not a probe")),
        }
    }
    Ok(())
}

fn edit_image(world: &mut World, name: &str, image: &str) -> Result<(), String> {
    let spec = world.pod.spec.as_mut().ok_or("the pod has no spec")?;
    let init = spec.init_containers.iter_mut().flatten();
    let container = spec.containers.iter_mut().chain(init).find(|container| container.name == name);
    container.ok_or("there is no such container")?.image = Some(image.to_owned());
    Ok(())
}

fn set_resources(
    container: &mut k8s_openapi::api::core::v1::Container,
    amounts: &[&str],
) -> Result<(), String> {
    for amount in amounts {
        if !set_resource(container, amount) {
            return Err(format!("{amount:?} is neither cpu=… nor memory=…"));
        }
    }
    Ok(())
}

fn latest(world: &World, name: &str) -> Result<ContainerId, String> {
    let found = world.observed.latest(name).map(|container| container.id.clone());
    found.ok_or_else(|| format!("the runtime has no container {name:?}"))
}

fn pod_options(mut builder: PodBuilder, options: &[&str]) -> Result<PodBuilder, String> {
    for option in options {
        builder = match option.split_once('=').unwrap_or((option, "")) {
            ("restart", policy) => builder.restart_policy(policy),
            ("grace", seconds) => builder.grace(number(seconds)?),
            ("deadline", seconds) => builder.active_deadline(number(seconds)?),
            ("host-network", "") => builder.host_network(),
            ("version", version) => builder.version(version),
            ("static", "") => builder.annotation(crate::model::pod::CONFIG_SOURCE, "file"),
            (_, _) => return Err(format!("a pod has no option {option:?}")),
        };
    }
    Ok(builder)
}

fn container_options(
    mut builder: ContainerBuilder,
    options: &[&str],
) -> Result<ContainerBuilder, String> {
    for option in options {
        builder = match option.split_once('=').unwrap_or((option, "")) {
            ("image", image) => builder.image(image),
            ("pull", policy) => builder.pull_policy(policy),
            ("restart", policy) => builder.restart_policy(policy),
            ("post-start", "") => builder.post_start(),
            ("pre-stop", "") => builder.pre_stop(),
            ("cpu" | "memory", _) => builder.resource(option),
            ("resize", resource) => builder.restart_on_resize(resource),
            ("startup", "") => builder.startup_probe(None),
            ("startup", grace) => builder.startup_probe(Some(number(grace)?)),
            ("liveness", "") => builder.liveness_probe(None),
            ("liveness", grace) => builder.liveness_probe(Some(number(grace)?)),
            ("rule", rule) => {
                let mut parts = rule.split(':');
                let (action, operator) =
                    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let codes = parts
                    .next()
                    .unwrap_or_default()
                    .split(',')
                    .map(number)
                    .collect::<Result<Vec<i32>, _>>()?;
                builder.restart_rule(action, operator, &codes)
            }
            (_, _) => return Err(format!("a container has no option {option:?}")),
        };
    }
    Ok(builder)
}

/// The key that a scenario calls `volumes`, `image:app`, `container:app#0`, …
fn key_of(text: &str) -> Result<Key, String> {
    let (what, of) = text.split_once(':').unwrap_or((text, ""));
    Ok(match what {
        "prepare" => Key::Prepare,
        "volumes" => Key::Volumes,
        "new-sandbox" => Key::NewSandbox,
        "clean-up" => Key::CleanUp,
        "resize" => Key::Resize,
        "sandbox" => Key::Sandbox(SandboxId::from(of)),
        "image" => Key::Image(of.to_owned()),
        "start" => Key::Start(of.to_owned()),
        "container" => Key::Container(ContainerId::from(of)),
        "post-start" => Key::PostStart(ContainerId::from(of)),
        "pre-stop" => Key::PreStop(ContainerId::from(of)),
        _ => return Err(format!("{text:?} is not a key")),
    })
}

/// How a scenario writes a key.
pub(super) fn key_text(key: &Key) -> String {
    match key {
        Key::Prepare => "prepare".into(),
        Key::Volumes => "volumes".into(),
        Key::NewSandbox => "new-sandbox".into(),
        Key::CleanUp => "clean-up".into(),
        Key::Resize => "resize".into(),
        Key::Sandbox(id) => format!("sandbox:{id}"),
        Key::Image(name) => format!("image:{name}"),
        Key::Start(name) => format!("start:{name}"),
        Key::Container(id) => format!("container:{id}"),
        Key::PostStart(id) => format!("post-start:{id}"),
        Key::PreStop(id) => format!("pre-stop:{id}"),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Reads `90s`, `1500ms` or `10m`.
fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim_start_matches("grace=");
    if let Some(milliseconds) = text.strip_suffix("ms") {
        return number(milliseconds).map(Duration::from_millis);
    }
    if let Some(seconds) = text.strip_suffix('s') {
        return number(seconds).map(Duration::from_secs);
    }
    let minutes = text.strip_suffix('m').ok_or_else(|| format!("{text:?} is not a duration"))?;
    number::<u64>(minutes).map(|minutes| Duration::from_secs(minutes * 60))
}
