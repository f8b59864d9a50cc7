//! Sandboxes: making one (limited, with a busy name waited for), stopping, removing.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::super::plan::types::Key;
use super::super::request;
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Count, Outcome};
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

impl PodExecutor {
    /// Makes a sandbox.
    pub(super) async fn create_sandbox(
        &self,
        key: Key,
        attempt: u32,
        context: Context,
    ) -> Completion {
        let own_users = context.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
        self.deps.metrics.count(Count::Pod { own_users });
        let prepared = self.user_ids(&context.pod).await.and_then(|user_ids| {
            let request = self.sandbox_request(&context, attempt, user_ids)?;
            Ok((request, self.runtime_handler(&context.pod)?))
        });
        let (request::SandboxRequest { config, warnings }, handler) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.sandbox_failed(&context, &error.message);
                return Completion { key, outcome: Err(error), mutated: false };
            }
        };
        self.warn_once(&context, warnings);
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            let message = format!("mkdir {}: {}", config.log_directory, go_text(&error));
            self.sandbox_failed(&context, &message);
            return Completion {
                key,
                outcome: Err(ActionError::new("CreatePodSandbox", message)),
                mutated: false,
            };
        }
        let turn = if pod::is_critical(&context.pod) || pod::is_host_network(&context.pod) {
            None
        } else {
            context.stop.run_until_cancelled(self.deps.permits.start()).await
        };
        if context.stop.is_cancelled() {
            return Completion { key, outcome: Ok(Outcome::Done), mutated: false };
        }
        let mutation = self.deps.pleg.begin(&self.uid);
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        let (made, mut mutation) = run_until_name_is_free(
            &self.deps.cri,
            self.deps.clock,
            request,
            mutation,
            &context.stop,
        )
        .await;
        drop(turn);
        if let Ok(id) = &made {
            mutation.touched_sandbox(id);
        }
        mutation.end();
        let outcome = match made {
            Ok(id) => {
                debug!(sandbox = %id, "sandbox made");
                Ok(Outcome::Done)
            }
            Err(error) => {
                let message = format!("{error}");
                // A pod that is being deleted while its sandbox is made has no failure to report
                // (upstream agrees).
                if !context.stop.is_cancelled() {
                    self.sandbox_failed(&context, &message);
                }
                Err(ActionError::new("CreatePodSandboxError", message))
            }
        };
        Completion { key, outcome, mutated: true }
    }

    /// Tells what of the request is not as the pod wishes, once for each generation of the pod:
    /// upstream repeats it at every look at the pod.
    fn warn_once(&self, context: &Context, warnings: Vec<request::Warning>) {
        let dns_cut = warnings.iter().any(|warning| warning.reason == event::DNS_CONFIG_FORMING);
        let generation = context.pod.metadata.generation.unwrap_or_default();
        let was_cut = {
            let mut warned = self.warned.lock();
            if warned.generation != generation {
                warned.told.clear();
                warned.generation = generation;
            }
            std::mem::replace(&mut warned.dns_cut, dns_cut)
        };
        if was_cut != dns_cut {
            self.deps.metrics.count(Count::DnsCut(dns_cut));
        }
        for warning in warnings {
            let text = format!("{:?} {} {}", warning.target, warning.reason, warning.message);
            if !self.warned.lock().told.insert(text) {
                continue;
            }
            match warning.target {
                request::WarningTarget::Pod => {
                    self.pod_event(
                        &context.pod,
                        EventType::Warning,
                        warning.reason,
                        warning.message,
                    );
                }
                request::WarningTarget::Node => {
                    let node = &self.deps.settings.node_name;
                    self.deps.recorder.node(
                        node,
                        EventType::Warning,
                        warning.reason,
                        warning.message,
                    );
                }
            }
        }
    }

    /// The request for a sandbox and what to tell about it. Reads the node's `resolv.conf`, which
    /// may change any time.
    pub(super) fn sandbox_request(
        &self,
        context: &Context,
        attempt: u32,
        user_ids: Option<request::IdRange>,
    ) -> Result<request::SandboxRequest, ActionError> {
        let pod = &context.pod;
        let resolv_conf = self.resolv_conf()?;
        let cgroup_parent = self
            .deps
            .cgroups
            .as_ref()
            .map(|cgroups| cgroups.cgroup_parent(pod))
            .unwrap_or_default();
        request::sandbox_config(&request::SandboxInput {
            pod,
            attempt,
            cgroup_parent: &cgroup_parent,
            resolv_conf: &resolv_conf,
            totals: request::PodTotals::of(pod),
            extra_groups: &self.deps.volumes.groups(&self.uid),
            user_ids,
            settings: &self.deps.settings.spec,
        })
        .map_err(|error| ActionError::new(error.reason, error.message))
    }

    fn resolv_conf(&self) -> Result<request::ResolvConf, ActionError> {
        let path = &self.deps.settings.resolv_conf;
        if path.as_os_str().is_empty() {
            return Ok(request::ResolvConf::default());
        }
        let failed = |problem: String| ActionError::new(event::FAILED_CREATE_POD_SANDBOX, problem);
        let text = std::fs::read_to_string(path)
            .map_err(|error| failed(format!("open {}: {}", path.display(), go_text(&error))))?;
        request::ResolvConf::parse(&text).map_err(failed)
    }

    fn sandbox_failed(&self, context: &Context, message: &str) {
        warn!(message, "making a sandbox failed");
        self.pod_event(
            &context.pod,
            EventType::Warning,
            event::FAILED_CREATE_POD_SANDBOX,
            format!("Failed to create pod sandbox: {message}"),
        );
        let own_users = context.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false);
        self.deps.metrics.count(Count::PodFailed { own_users });
    }

    /// Stops a sandbox: whatever is left in it is killed, its network is torn down.
    pub(super) async fn stop_sandbox(
        &self,
        key: Key,
        id: SandboxId,
        context: Context,
    ) -> Completion {
        let turn = self.deps.permits.stop().await;
        let mut mutation = self.deps.pleg.begin(&self.uid);
        mutation.touched_sandbox(&id);
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.as_str().to_owned() };
        let stopped = self.deps.cri.stop_pod_sandbox(request).await;
        drop(turn);
        mutation.end();
        let outcome = match stopped {
            Ok(_) => Ok(Outcome::SandboxStopped { id }),
            Err(error) if error.is_not_found() => Ok(Outcome::SandboxStopped { id }),
            Err(error) => {
                self.pod_event(
                    &context.pod,
                    EventType::Warning,
                    event::FAILED_KILL_POD,
                    format!("error killing pod: failed to \"KillPodSandbox\" for \"{}\" with KillPodSandboxError: \"{error}\"", self.uid),
                );
                Err(ActionError::new("KillPodSandboxError", error.to_string()))
            }
        };
        Completion { key, outcome, mutated: true }
    }

    /// Removes a stopped sandbox.
    pub(super) async fn remove_sandbox(&self, key: Key, id: SandboxId) -> Completion {
        let mut mutation = self.deps.pleg.begin(&self.uid);
        mutation.touched_sandbox(&id);
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.as_str().to_owned() };
        let removed = self.deps.cri.remove_pod_sandbox(request).await;
        mutation.end();
        let outcome = match removed {
            Ok(_) => {
                info!(sandbox = %id, "sandbox removed");
                Ok(Outcome::Done)
            }
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            Err(error) => Err(ActionError::new("RemovePodSandboxError", error.to_string())),
        };
        Completion { key, outcome, mutated: true }
    }
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
