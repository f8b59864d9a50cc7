//! The start of one container: make the request (`container_request`), create, start, link the log.
//! The pod's stop ends it between two steps, never within a call to the runtime (invariant 7).

use std::path::Path;

use k8s_openapi::api::core::v1 as api;
use tracing::{debug, warn};

use super::scope::Scope;
use super::{ActionError, Count, Effect, Outcome};
use crate::cri::v1;
use crate::model::reason::{container as reason, event};
use crate::model::{ContainerId, ContainerKind, EventType, SandboxId, pod};

/// Reasons of an image that cannot be had. The pull of an image volume has emitted its event
/// already.
const IMAGE_REASONS: [&str; 6] = [
    reason::ERR_IMAGE_PULL,
    reason::IMAGE_PULL_BACK_OFF,
    reason::ERR_IMAGE_NEVER_PULL,
    reason::INVALID_IMAGE_NAME,
    reason::IMAGE_INSPECT_ERROR,
    reason::REGISTRY_UNAVAILABLE,
];

/// A start as it was planned.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) container: String,
    pub(super) kind: ContainerKind,
    pub(super) restart_count: u32,
    pub(super) sandbox: SandboxId,
    pub(super) image_ref: String,
}

/// The start of one container. Its methods are the steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContainerStart<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) start: &'a Start,
    /// The container in the spec, of any kind.
    pub(super) container: &'a api::Container,
}

/// Creates and starts a container.
pub(super) async fn start(scope: Scope<'_>, start: Start) -> Effect {
    let Some((_, container)) = pod::find_container(&scope.context.pod, &start.container) else {
        let problem = format!("container {} is not in the pod's spec", start.container);
        return Effect::unchanged(Err(ActionError::internal(problem)));
    };

    ContainerStart { scope, start: &start, container: &container }.run().await
}

impl ContainerStart<'_> {
    async fn run(self) -> Effect {
        let kind = self.start.kind;
        let metrics = &self.scope.deps.metrics;
        // Files that the container is given by subPath stay from before they are looked up until
        // the container has them, even if they change: a removed one cannot be mounted.
        let guard = self.scope.deps.volumes.starting(self.scope.uid);
        metrics.count(Count::Container(kind));

        let request = match self.request().await {
            // The pod has begun to stop meanwhile: the waits were given up, nothing was created.
            Ok(_) | Err(_) if self.scope.is_stopping() => {
                return Effect::unchanged(Ok(Outcome::Done));
            }
            Ok(request) => request,
            Err(error) => {
                if !IMAGE_REASONS.contains(&error.reason.as_str()) {
                    self.report_failure(&error.message);
                }
                metrics.count(Count::ContainerFailed { kind, reason: &error.reason });
                return Effect::unchanged(Err(error));
            }
        };

        let outcome = self.create_and_start(request).await;
        drop(guard);
        if let Err(error) = &outcome {
            metrics.count(Count::ContainerFailed { kind, reason: &error.reason });
        }
        Effect::mutated(outcome)
    }

    async fn create_and_start(
        self,
        request: v1::CreateContainerRequest,
    ) -> Result<Outcome, ActionError> {
        let runtime = &self.scope.deps.runtime;
        let log_path = request.config.as_ref().map(|config| config.log_path.clone());
        let log_directory =
            request.sandbox_config.as_ref().map(|config| config.log_directory.clone());
        if self.scope.is_stopping() {
            return Ok(Outcome::Done);
        }

        let turn = runtime.permits.container();
        let mutation = self.scope.begin_mutation();
        let (created, mut mutation) = runtime.cri.create_container(request, mutation).await;
        let id = match created {
            Ok(id) => id,
            Err(error) => {
                mutation.end();
                let message = error.message.clone();
                self.report_failure(&message);
                return Err(ActionError::new(reason::CREATE_CONTAINER_ERROR, message));
            }
        };
        mutation.touched_container(&id, &self.start.sandbox);
        self.event(event::CREATED, "Container created");

        if self.scope.is_stopping() {
            // The stop came during the creation: the container is removed with the rest.
            mutation.end();
            return Ok(Outcome::Done);
        }
        let (started, mutation) = runtime.cri.start_container(&id, mutation).await;
        mutation.end();
        drop(turn);
        if let Err(error) = started {
            let message = error.message.clone();
            // Ids differ each time: events that name them could not be counted as one.
            self.report_failure(&message.replace(id.as_str(), &self.start.container));
            return Err(ActionError::new(reason::RUN_CONTAINER_ERROR, message));
        }
        self.event(event::STARTED, "Container started");

        let log = Path::new(&log_directory.unwrap_or_default()).join(log_path.unwrap_or_default());
        self.link_log(&id, &log);
        let lifecycle = self.container.lifecycle.as_ref();
        let has_post_start = lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some());
        Ok(Outcome::Started { id, has_post_start })
    }

    fn event(self, reason: &str, message: &str) {
        self.scope.container_event(&self.start.container, EventType::Normal, reason, message);
    }

    fn report_failure(self, message: &str) {
        let container = &self.start.container;
        debug!(container, message, "starting a container failed");
        let text = format!("Error: {message}");
        self.scope.container_event(container, EventType::Warning, event::FAILED, text);
    }

    /// Links the log where node agents look for it.
    fn link_log(self, id: &ContainerId, log: &Path) {
        let link = self.scope.log_link(&self.start.container, id);
        if !log.exists() {
            return;
        }
        if let Err(error) = std::os::unix::fs::symlink(log, &link) {
            warn!(link = %link.display(), %error, "linking a container's log failed");
        }
    }
}
