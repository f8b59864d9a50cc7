//! Runs the command of a probe in its container.
//!
//! The runtime has the deadline, and kills the command at its end. It never runs anything on the
//! node itself.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1 as api;

use crate::cri::client::ExecOutput;
use crate::cri::{CriError, Runtime};
use crate::model::ContainerId;
use crate::model::expansion::expand;
use crate::model::quote::go_quote;

use super::{CheckResult, go_duration};

/// The bytes of the output that are kept, at most.
const MAX_OUTPUT: usize = 10 << 10;

/// Runs commands in containers: the only part of the runtime that probes and hooks need.
pub trait Exec: Send + Sync + fmt::Debug {
    /// Runs `command` and waits for its end. A `timeout` of zero means none. An expired one is
    /// [`CriError::is_deadline`]. Dropping the future cancels the call.
    fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ExecOutput, CriError>>;
}

impl Exec for Runtime {
    fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ExecOutput, CriError>> {
        let runtime = self.clone();
        let id = id.clone();
        Box::pin(async move { Runtime::exec_sync(&runtime, &id, command, timeout).await })
    }
}

/// Runs the command of a probe. Exit code 0 is success; a missed deadline is failure.
pub(super) async fn check(
    exec: &dyn Exec,
    id: &ContainerId,
    action: &api::ExecAction,
    container: &api::Container,
    timeout: Duration,
) -> CheckResult {
    let command = static_command(action.command.as_deref().unwrap_or_default(), container);
    let shown = command.join(" ");

    match exec.exec_sync(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => CheckResult::Success,
        Ok(output) => CheckResult::Failure(combined(&output)),
        Err(error) if error.is_deadline() => {
            let after = go_duration(timeout);
            let shown = go_quote(&shown);
            CheckResult::Failure(format!("command timed out: {shown} timed out after {after}"))
        }
        Err(error) => CheckResult::unknown(error.to_string()),
    }
}

/// Joins the output of a command, stderr last, up to the limit.
pub(crate) fn combined(output: &ExecOutput) -> String {
    let mut bytes = Vec::with_capacity((output.stdout.len() + output.stderr.len()).min(MAX_OUTPUT));
    bytes.extend(output.stdout.iter().chain(&output.stderr).take(MAX_OUTPUT));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Expands the variables whose values are literals in the spec: a probe has no other environment at
/// hand.
fn static_command(command: &[String], container: &api::Container) -> Vec<String> {
    let value = |name: &str| {
        let var = container.env.iter().flatten().rev().find(|var| var.name == name)?;
        Some(var.value.as_deref().unwrap_or_default())
    };
    command.iter().map(|word| expand(word, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::testing::FakeExec;

    fn container() -> api::Container {
        serde_json::from_value(serde_json::json!({
            "name": "c", "env": [{"name": "A", "value": "one"}, {"name": "B", "valueFrom": {}}],
        }))
        .expect("a container")
    }

    async fn check(answer: Result<ExecOutput, CriError>, expected: &CheckResult) {
        let exec = FakeExec::answering([answer]);
        let action =
            api::ExecAction { command: Some(vec!["cat".into(), "$(A)".into(), "$(C)".into()]) };
        let found = super::check(
            &exec,
            &ContainerId::from("id"),
            &action,
            &container(),
            Duration::from_secs(1),
        )
        .await;
        assert_eq!(&found, expected);
        assert_eq!(exec.commands(), [vec!["cat".to_owned(), "one".to_owned(), "$(C)".to_owned()]]);
    }

    #[tokio::test]
    async fn judges_by_exit_code_and_time() {
        let output =
            |exit_code| ExecOutput { stdout: b"out ".to_vec(), stderr: b"err".to_vec(), exit_code };
        check(Ok(output(0)), &CheckResult::Success).await;
        check(Ok(output(1)), &CheckResult::Failure("out err".into())).await;
        check(
            Err(CriError::deadline("ExecSync")),
            &CheckResult::Failure("command timed out: \"cat one $(C)\" timed out after 1s".into()),
        )
        .await;
    }

    #[test]
    fn keeps_ten_kibibytes() {
        let output = ExecOutput { stdout: vec![b'x'; 20_000], stderr: Vec::new(), exit_code: 1 };
        assert_eq!(combined(&output).len(), 10_240);
    }
}
