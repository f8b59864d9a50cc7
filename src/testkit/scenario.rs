//! Scenarios: a script of what happens to a pod, and the transcript of what the planner makes of
//! it.
//!
//! ```text
//! # crash-loop: the first restart is immediate, the second waits ten seconds
//! pod web
//! container app
//! ----
//! +0s Prepare
//! …
//! state: s0 ready; app#0 running
//!
//! exit app code=1
//! ----
//! …
//! ```
//!
//! A block is commands, `----`, and the transcript up to the next empty line. At the end of a block
//! every planned action succeeds at once and the pod is planned again until nothing happens any
//! more, except for what the script holds (`hold KEY` … `done KEY`) or breaks (`breaks KEY REASON
//! MESSAGE` … `heals KEY`). `advance 60s` lets time pass and wakes up when the plan says so; `step`
//! plans once and lets nothing end. The commands are listed in `script`.

use std::fmt::Write as _;
use std::time::Duration;

use super::script::{Script, Then, key_text};
use super::world::{Round, World};
use crate::model::{ContainerState, Mono, SandboxState};
use crate::pods::plan::types::{Action, KillReason, Transition};

/// More rounds than this within one block are a loop.
const ROUNDS: usize = 60;

/// Plays a scenario's scripts and returns its text with the transcripts as they are now.
pub fn replay(text: &str) -> Result<String, String> {
    let mut script = Script::default();
    let mut output = String::new();
    for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
        let (commands, _) = block.split_once("\n----").unwrap_or((block, ""));
        let transcript = play(&mut script, commands)?;
        if !output.is_empty() {
            output.push('\n');
        }
        let _ = write!(output, "{}\n----\n{transcript}", commands.trim_matches('\n'));
    }
    Ok(output)
}

fn play(script: &mut Script, commands: &str) -> Result<String, String> {
    let mut output = String::new();
    let mut stepped = false;
    for line in
        commands.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match script.command(line)? {
            Then::Continue => {}
            Then::Step => {
                stepped = true;
                let round = script.world()?.round();
                tell_round(&mut output, script.world()?, &round);
            }
            Then::Advance(time) => advance(script, time, &mut output)?,
        }
    }
    if !stepped {
        run(script, &mut output)?;
    }
    tell_state(&mut output, script.world()?);
    Ok(output)
}

/// Plans and lets everything end until nothing happens any more.
fn run(script: &mut Script, output: &mut String) -> Result<(), String> {
    for _ in 0..ROUNDS {
        let round = script.world()?.round();
        tell_round(output, script.world()?, &round);
        if !script.settle()? {
            return Ok(());
        }
    }
    Err(format!("it does not come to rest:\n{output}"))
}

fn advance(script: &mut Script, time: Duration, output: &mut String) -> Result<(), String> {
    let end = script.world()?.now.mono.after(time);
    for _ in 0..ROUNDS {
        run(script, output)?;
        let world = script.world()?;
        let next = world.plan().wake_at.map_or(end, |wake| wake.min(end));
        let by = next.since(world.now.mono);
        world.advance(by);
        if next == end {
            return Ok(());
        }
    }
    Err(format!("it wakes up too often:\n{output}"))
}

fn tell_round(output: &mut String, world: &World, round: &Round) {
    let at = time_text(world.now.mono);
    for transition in &round.transitions {
        let _ = writeln!(output, "{at} => {}", transition_text(transition));
    }
    for event in &round.events {
        let subject =
            event.container.as_deref().map(|name| format!(" {name}:")).unwrap_or_default();
        let _ = writeln!(output, "{at} event {}{subject} {}", event.reason, event.message);
    }
    if !round.actions.is_empty() {
        let actions: Vec<String> =
            round.actions.iter().map(|action| action_text(action, world)).collect();
        let _ = writeln!(output, "{at} {}", actions.join(", "));
    }
}

/// What the world looks like at the end of a block.
fn tell_state(output: &mut String, world: &mut World) {
    let plan = world.plan();
    let sandboxes = world.observed.sandboxes.iter().map(|sandbox| {
        let state = match sandbox.state {
            SandboxState::Ready => "ready",
            SandboxState::NotReady => "not ready",
        };
        format!("{} {state}", sandbox.id)
    });
    let containers = world.observed.containers.iter().map(|container| {
        let state = match &container.state {
            ContainerState::Created => "created".to_owned(),
            ContainerState::Running { .. } => "running".to_owned(),
            ContainerState::Exited(exit) => format!("exited({})", exit.exit_code),
            ContainerState::Unknown => "unknown".to_owned(),
        };
        format!("{} {state}", container.id)
    });
    let state: Vec<String> = sandboxes.chain(containers).collect();
    let _ = writeln!(
        output,
        "state: {}",
        if state.is_empty() { "nothing".to_owned() } else { state.join("; ") }
    );
    if !world.in_flight().is_empty() {
        let keys: Vec<String> = world.in_flight().keys().map(key_text).collect();
        let _ = writeln!(output, "doing: {}", keys.join(" "));
    }
    for (name, waiting) in &plan.waiting {
        let message = if waiting.message.is_empty() {
            String::new()
        } else {
            format!(": {}", waiting.message)
        };
        let _ = writeln!(output, "waiting: {name} {}{message}", waiting.reason);
    }
    if let Some(blocked) = &plan.blocked {
        let error =
            blocked.last_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
        let next = blocked
            .next_try
            .map(|next| format!(", next try {}", time_text(next)))
            .unwrap_or_default();
        let _ = writeln!(output, "blocked: {} on {}{error}{next}", blocked.stage, blocked.on);
    }
    if let Some(wake) = plan.wake_at {
        let _ = writeln!(output, "wake: {}", time_text(wake));
    }
    if world.is_finished() {
        let _ = writeln!(output, "finished");
    }
}

fn transition_text(transition: &Transition) -> String {
    match transition {
        Transition::Terminate { cause, grace } => format!("Terminate {cause:?} within {grace:?}"),
        Transition::Shorten { grace } => format!("Shorten to {grace:?}"),
        Transition::Terminated => "Terminated".to_owned(),
        Transition::Finished => "Finished".to_owned(),
    }
}

fn action_text(action: &Action, world: &World) -> String {
    let within = |deadline: &Mono| format!("{:?}", deadline.since(world.now.mono));
    match action {
        Action::Prepare => "Prepare".into(),
        Action::MountVolumes => "MountVolumes".into(),
        Action::CreateSandbox { attempt } => format!("CreateSandbox({attempt})"),
        Action::EnsureImage { container, silent: true } => {
            format!("EnsureImage({container}, silent)")
        }
        Action::EnsureImage { container, silent: false } => format!("EnsureImage({container})"),
        Action::StartContainer { container, restart_count, sandbox, .. } => {
            format!("Start({container}#{restart_count} in {sandbox})")
        }
        Action::Resize { .. } => "Resize".into(),
        Action::PostStart { id, .. } => format!("PostStart({id})"),
        Action::PreStop { id, deadline, .. } => {
            format!("PreStop({id} within {})", within(deadline))
        }
        Action::KillContainer { id, why, deadline, pre_stop, .. } => {
            let hook = if *pre_stop { ", preStop" } else { "" };
            format!("Kill({id} within {}, {}{hook})", within(deadline), why_text(why))
        }
        Action::HurryKill { id, deadline } => format!("Hurry({id} within {})", within(deadline)),
        Action::RemoveContainer { id, reset: false } => format!("Remove({id})"),
        Action::RemoveContainer { id, reset: true } => format!("Reset({id})"),
        Action::StopSandbox { id } => format!("StopSandbox({id})"),
        Action::RemoveSandbox { id } => format!("RemoveSandbox({id})"),
        Action::UnmountVolumes => "UnmountVolumes".into(),
        Action::CleanUp => "CleanUp".into(),
    }
}

fn why_text(why: &KillReason) -> String {
    match why {
        KillReason::PostStart { message } => format!("PostStart: {message}"),
        KillReason::PodStopping
        | KillReason::SandboxChanged
        | KillReason::DefinitionChanged
        | KillReason::Liveness
        | KillReason::Startup
        | KillReason::Unknown
        | KillReason::Resize
        | KillReason::NotWanted
        | KillReason::RestartAll => format!("{why:?}"),
    }
}

/// Time since the scenario began.
fn time_text(moment: Mono) -> String {
    let passed = moment.since(World::BEGINNING);
    if passed.is_zero() { "+0s".to_owned() } else { format!("+{passed:?}") }
}
