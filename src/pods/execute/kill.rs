//! The stop of one container: event, preStop hook within the deadline, StopContainer with the rest
//! of the grace. All of it ends sooner when the deadline shrinks meanwhile.

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::annotated::annotated;
use super::scope::Scope;
use super::{ActionError, Effect, Outcome};
use crate::cri::{CriError, v1};
use crate::model::reason::event;
use crate::model::{ContainerId, ContainerKind, EventType, Mono, pod};
use crate::pods::hooks;
use crate::pods::plan::kill_message;
use crate::pods::plan::types::KillReason;

/// Even with no grace left, a container gets this long (upstream's `minimumGracePeriodInSeconds`).
const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// A kill as it was planned.
#[derive(Debug)]
pub(super) struct Kill {
    pub(super) id: ContainerId,
    pub(super) container: String,
    pub(super) why: KillReason,
    pub(super) deadline: Mono,
    pub(super) pre_stop: bool,
}

/// A container on its way to its end.
#[derive(Debug)]
struct Stopping<'a> {
    scope: Scope<'a>,
    id: &'a ContainerId,
    /// The moment at which the container is killed without mercy. It may only shrink.
    deadline: watch::Receiver<Mono>,
}

/// Kills a container.
pub(super) async fn kill(scope: Scope<'_>, kill: Kill) -> Effect {
    let Kill { id, container, why, deadline, pre_stop } = kill;
    let message = kill_message(&scope.context.pod, &container, &why);
    scope.container_event(&container, EventType::Normal, event::KILLING, message);

    let deadline = scope.context.hurry.clone().unwrap_or_else(|| fixed(deadline));
    let mut stopping = Stopping { scope, id: &id, deadline };
    let annotated = annotated(scope, &id, &container).await;
    if let Some(grace) = annotated.as_ref().and_then(|annotated| annotated.grace) {
        stopping.deadline = fixed(scope.deps.clock.now().mono.after(grace));
    }
    let hook = match annotated {
        Some(annotated) => Some((ContainerKind::Main, Cow::Owned(annotated.container))),
        None if pre_stop => pod::find_container(&scope.context.pod, &container),
        None => None,
    };
    if let Some((kind, spec)) = hook {
        stopping.pre_stop(kind, &spec).await;
    }

    let mut mutation = scope.begin_mutation();
    if let Some(observed) = scope.context.observed.container(&id) {
        mutation.touched_container(&id, &observed.sandbox);
    }
    let stopped = stopping.stop().await;
    mutation.end();

    let outcome = match stopped {
        Ok(()) => Ok(Outcome::Killed { id, why }),
        Err(error) if error.is_not_found() => Ok(Outcome::Killed { id, why }),
        Err(error) => {
            warn!(container, %error, "stopping a container failed");
            let message = format!(
                "error killing pod: failed to \"KillContainer\" for \"{container}\" with KillContainerError: \"{error}\""
            );
            scope.event(EventType::Warning, event::FAILED_KILL_POD, message);
            Err(ActionError::new("KillContainerError", error.to_string()))
        }
    };
    Effect::mutated(outcome)
}

/// Runs a sidecar's preStop hook ahead of the sidecar's turn to stop.
pub(super) async fn pre_stop_ahead(
    scope: Scope<'_>,
    id: ContainerId,
    container: String,
    deadline: Mono,
) -> Effect {
    if let Some((kind, spec)) = pod::find_container(&scope.context.pod, &container) {
        let mut stopping = Stopping { scope, id: &id, deadline: fixed(deadline) };
        stopping.pre_stop(kind, &spec).await;
    }
    Effect::unchanged(Ok(Outcome::PreStopped { id }))
}

/// A deadline that never changes.
fn fixed(deadline: Mono) -> watch::Receiver<Mono> {
    watch::channel(deadline).1
}

impl Stopping<'_> {
    /// Runs the preStop hook until it ends or the deadline is reached.
    async fn pre_stop(&mut self, kind: ContainerKind, spec: &api::Container) {
        let scope = self.scope;
        let mut may_hurry = true;
        // The hook looks at one deadline, and reports when it has passed; a shorter one ends the
        // hook from outside.
        let own = *self.deadline.borrow();
        let target = scope.hook_target(kind, spec, self.id);
        // Boxed: a hook's future is large, and most containers have none.
        let mut hook = Box::pin(hooks::pre_stop(target, &scope.deps.clock, own));

        loop {
            let until = *self.deadline.borrow_and_update();
            // Cancel-safe: the hook lives outside, `changed` and `sleep_until` lose nothing
            // when dropped.
            tokio::select! {
                ended = &mut hook => {
                    debug!(container = spec.name, ?ended, "preStop hook ended");
                    return;
                }
                () = scope.deps.clock.sleep_until(until), if until < own => {
                    debug!(container = spec.name, "preStop hook not completed in grace period");
                    return;
                }
                changed = self.deadline.changed(), if may_hurry => may_hurry = changed.is_ok(),
            }
        }
    }

    /// Asks the runtime to stop the container with the rest of the grace, and again each time the
    /// deadline shrinks.
    async fn stop(&mut self) -> Result<(), CriError> {
        let deps = self.scope.deps;
        let mut may_hurry = true;
        loop {
            let until = *self.deadline.borrow_and_update();
            let left = until.since(deps.clock.now().mono).max(MINIMUM_GRACE);
            let timeout = i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
            let container_id = self.id.as_str().to_owned();
            let request = v1::StopContainerRequest { container_id, timeout };

            // Cancel-safe: dropping StopContainer leaves the stop signal sent; it is asked for
            // again with less grace.
            tokio::select! {
                stopped = deps.runtime.cri.stop_container(request) => return stopped.map(|_| ()),
                changed = self.deadline.changed(), if may_hurry => may_hurry = changed.is_ok(),
            }
        }
    }
}
