//! A container's way to what it asks for: the task decides each step, the plugins are called here.

use super::provider::{Ask, Step};
use super::task::Command;
use super::{Allocation, Handle, ManagerError};
use crate::resources::devices::error::DeviceError;
use crate::resources::devices::{Answer, Call, Connection};

/// Sets aside all that the container asks for.
pub(super) async fn allocate(handle: &Handle, ask: &Ask) -> Result<(), ManagerError> {
    let mut answer = None;
    loop {
        let next = |reply| Command::Next { ask: ask.clone(), answer: answer.take(), reply };
        let (step, plugin) = handle.ask(next).await??;
        match step {
            Step::Done => return Ok(()),
            Step::Call(call) => answer = Some(make(call, plugin).await),
        }
    }
}

/// Calls a plugin. What it refuses is an answer, too: the ledger takes back what it had set aside.
async fn make(call: Call, plugin: Option<Connection>) -> Answer {
    let resource = call.resource().to_owned();
    let Some(mut plugin) = plugin else {
        let problem = DeviceError::NoPlugin(resource.clone());
        return Answer::Refused { resource, problem };
    };
    match plugin.make(call).await {
        Ok(answer) => answer,
        Err(error) => Answer::Refused { resource, problem: error.into() },
    }
}

/// Has plugins prepare what the container has, and reads it.
pub(super) async fn start(handle: &Handle, ask: Ask) -> Result<Allocation, ManagerError> {
    let held = handle.ask(|reply| Command::Held { ask: ask.clone(), reply }).await??;
    if held.is_short {
        allocate(handle, &ask).await?;
    }
    let held = handle.ask(|reply| Command::Held { ask: ask.clone(), reply }).await??;
    for (devices, plugin) in held.devices {
        if let Some(mut plugin) = plugin {
            plugin.before_start(&devices).await.map_err(DeviceError::from)?;
        }
    }
    handle.ask(|reply| Command::Read { ask, reply }).await
}
