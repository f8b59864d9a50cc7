//! The sandbox of a pod: create it (limited, with a reserved name waited for), stop it, remove it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::permits::Turn;
use super::scope::Scope;
use super::users::user_ids;
use super::warnings::Warnings;
use super::{ActionError, Count, Effect, Outcome};
use crate::clock::Clock;
use crate::cri::{CriError, Runtime, v1};
use crate::linux::fs::go_text;
use crate::model::reason::event;
use crate::model::{EventType, SandboxId, pod};

/// How long a reserved name is waited for: the runtime still makes or undoes an earlier attempt
/// (invariant 7).
const RESERVED_FOR: Duration = Duration::from_secs(60);

/// How often a reserved name is tried.
const RESERVED_EVERY: Duration = Duration::from_millis(500);

/// The creation of one sandbox. Its methods are the steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct SandboxCreation<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) warnings: &'a Warnings,
    pub(super) attempt: u32,
}

impl SandboxCreation<'_> {
    /// Creates the sandbox.
    pub(super) async fn run(self) -> Effect {
        let Self { scope, .. } = self;
        let pod = &scope.context.pod;
        scope.deps.metrics.count(Count::Pod { own_users: self.has_own_users() });
        if let Err(error) = self.prepare_claims().await {
            return Effect::unchanged(Err(error));
        }

        let request = match self.request().await {
            Ok(request) => request,
            Err(error) => {
                self.report_failure(&error.message);
                return Effect::unchanged(Err(error));
            }
        };

        // Pods that others depend on wait for no turn.
        let turn = if pod::is_critical(pod) || pod::is_host_network(pod) {
            None
        } else {
            let start = scope.deps.runtime.permits.start();
            scope.context.stop.run_until_cancelled(start).await
        };
        if scope.is_stopping() {
            return Effect::unchanged(Ok(Outcome::Done));
        }

        let made = self.create(request, turn).await;
        Effect::mutated(made.map(|()| Outcome::Done))
    }

    /// Prepares the pod's resource claims (DRA). Without them the pod gets no sandbox.
    async fn prepare_claims(self) -> Result<(), ActionError> {
        let Self { scope, .. } = self;
        let prepare = scope.deps.resources.manager.prepare(&scope.context.pod);
        let prepared = scope.context.stop.run_until_cancelled(prepare);
        let Some(Err(problem)) = prepared.await else { return Ok(()) };
        warn!(%problem, "preparing the pod's claims failed");
        let reason = event::FAILED_PREPARE_DYNAMIC_RESOURCES;
        let message = format!("Failed to prepare dynamic resources: {problem}");
        scope.event(EventType::Warning, reason, message.clone());
        Err(ActionError::new(reason, message))
    }

    /// Makes the request, emits its warnings, and makes the pod's log directory.
    async fn request(self) -> Result<v1::RunPodSandboxRequest, ActionError> {
        let Self { scope, warnings: emitted, attempt } = self;
        let user_ids = user_ids(scope).await?;
        let made = scope.sandbox_request(attempt, user_ids)?;
        let runtime_handler = scope.runtime_handler()?;
        emitted.emit(scope, made.warnings);

        let config = made.config;
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            let message = format!("mkdir {}: {}", config.log_directory, go_text(&error));
            return Err(ActionError::new("CreatePodSandbox", message));
        }
        Ok(v1::RunPodSandboxRequest { config: Some(config), runtime_handler })
    }

    async fn create(
        self,
        request: v1::RunPodSandboxRequest,
        turn: Option<Turn>,
    ) -> Result<(), ActionError> {
        let Self { scope, .. } = self;
        let deps = scope.deps;
        let mutation = scope.begin_mutation();
        let stop = &scope.context.stop;
        let handler = request.runtime_handler.clone();
        let began = deps.clock.now().mono;
        let (made, mut mutation) =
            run_until_name_is_free(&deps.runtime.cri, deps.clock, request, mutation, stop).await;
        drop(turn);
        let took = deps.clock.now().mono.since(began);
        deps.metrics.count(Count::Sandbox { handler: &handler, took, failed: made.is_err() });
        if let Ok(id) = &made {
            mutation.touched_sandbox(id);
        }
        mutation.end();

        match made {
            Ok(id) => {
                debug!(sandbox = %id, "made a sandbox");
                Ok(())
            }
            Err(error) => {
                let message = error.to_string();
                // A pod that is being deleted while its sandbox is made has no failure to report
                // (upstream agrees).
                if !scope.is_stopping() {
                    self.report_failure(&message);
                }
                Err(ActionError::new("CreatePodSandboxError", message))
            }
        }
    }

    fn has_own_users(self) -> bool {
        let spec = self.scope.context.pod.spec.as_ref();
        spec.and_then(|spec| spec.host_users) == Some(false)
    }

    fn report_failure(self, message: &str) {
        warn!(message, "making a sandbox failed");
        let text = format!("Failed to create pod sandbox: {message}");
        self.scope.event(EventType::Warning, event::FAILED_CREATE_POD_SANDBOX, text);
        let own_users = self.has_own_users();
        self.scope.deps.metrics.count(Count::PodFailed { own_users });
    }
}

/// Stops a sandbox: whatever is left in it is killed, its network is torn down.
pub(super) async fn stop_sandbox(scope: Scope<'_>, id: SandboxId) -> Effect {
    let runtime = &scope.deps.runtime;
    let turn = runtime.permits.stop().await;
    let mut mutation = scope.begin_mutation();
    mutation.touched_sandbox(&id);
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.as_str().to_owned() };
    let stopped = runtime.cri.stop_pod_sandbox(request).await;
    drop(turn);
    mutation.end();

    let outcome = match stopped {
        Ok(_) => Ok(Outcome::SandboxStopped { id }),
        Err(error) if error.is_not_found() => Ok(Outcome::SandboxStopped { id }),
        Err(error) => {
            let message = format!(
                "error killing pod: failed to \"KillPodSandbox\" for \"{}\" with KillPodSandboxError: \"{error}\"",
                scope.uid
            );
            scope.event(EventType::Warning, event::FAILED_KILL_POD, message);
            Err(ActionError::new("KillPodSandboxError", error.to_string()))
        }
    };
    Effect::mutated(outcome)
}

/// Removes a stopped sandbox.
pub(super) async fn remove_sandbox(scope: Scope<'_>, id: SandboxId) -> Effect {
    let mut mutation = scope.begin_mutation();
    mutation.touched_sandbox(&id);
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.as_str().to_owned() };
    let removed = scope.deps.runtime.cri.remove_pod_sandbox(request).await;
    mutation.end();

    let outcome = match removed {
        Ok(_) => {
            debug!(sandbox = %id, "removed a sandbox");
            Ok(Outcome::Done)
        }
        Err(error) if error.is_not_found() => Ok(Outcome::Done),
        Err(error) => Err(ActionError::new("RemovePodSandboxError", error.to_string())),
    };
    Effect::mutated(outcome)
}

/// Runs the sandbox; while its name is reserved by an attempt that the runtime has not ended, tries
/// again until the pod stops.
async fn run_until_name_is_free<K: Send + 'static>(
    cri: &Runtime,
    clock: Clock,
    request: v1::RunPodSandboxRequest,
    hold: K,
    stop: &CancellationToken,
) -> (Result<SandboxId, CriError>, K) {
    let give_up = clock.now().mono.after(RESERVED_FOR);
    let mut hold = hold;
    loop {
        let (made, back) = cri.run_pod_sandbox(request.clone(), hold).await;
        hold = back;
        match made {
            Err(error) if error.is_name_reserved() && clock.now().mono < give_up => {
                if stop.run_until_cancelled(tokio::time::sleep(RESERVED_EVERY)).await.is_none() {
                    return (Err(error), hold);
                }
            }
            made => return (made, hold),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::run_until_name_is_free;
    use crate::clock::Clock;
    use crate::cri::fake::{Effect, FakeRuntime};
    use crate::cri::v1;

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_stops_waits_for_no_name() {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let fake = FakeRuntime::new(clock);
        let reserved = tonic::Status::unknown(
            "failed to reserve sandbox name \"p\": name \"p\" is reserved for \"1f\"",
        );
        fake.script("RunPodSandbox", None, 1000, Effect::Fail(reserved));
        let stop = CancellationToken::new();
        let (cri, request) = (fake.client(), v1::RunPodSandboxRequest::default());
        let run = run_until_name_is_free(&cri, clock, request, (), &stop);
        tokio::pin!(run);
        tokio::time::timeout(Duration::from_secs(30), &mut run)
            .await
            .expect_err("the name stays reserved");
        stop.cancel();
        let (made, ()) = tokio::time::timeout(Duration::from_millis(600), run)
            .await
            .expect("it gives up at once");
        assert!(made.expect_err("there is no sandbox").is_name_reserved());
    }
}
