//! The image of one container: fetch the pull secrets and hand the need to the image subsystem,
//! which pulls, waits and backs off.

use tracing::debug;

use super::scope::Scope;
use super::{ActionError, Effect, Outcome};
use crate::images;
use crate::model::pod;
use crate::pods::memory::slot::ImageState;

/// Has the image of a container ready. A silent pull is ahead of the container's turn.
pub(super) async fn ensure_image(scope: Scope<'_>, container: String, silent: bool) -> Effect {
    let pod = &scope.context.pod;
    let Some((kind, spec)) = pod::find_container(pod, &container) else {
        let problem = format!("container {container} is not in the pod's spec");
        return Effect::unchanged(Err(ActionError::internal(problem)));
    };

    let secrets = scope.pull_secrets(silent).await;
    let image = spec.image.clone().unwrap_or_default();
    let request = images::EnsureImage {
        pod: pod.clone(),
        kind,
        container: container.clone(),
        policy: images::PullPolicy::of(spec.image_pull_policy.as_deref(), &image),
        image,
        of_volume: false,
        secrets,
        silent,
        runtime_handler: scope.image_handler(),
        sandbox: scope.sandbox_for_pull(),
    };
    let answer = scope.deps.images.ensure(request).await;

    let outcome = match (answer, silent) {
        (Ok(_), true) => Outcome::PulledAhead { container },
        (Err(error), true) => {
            debug!(container, %error, "silent pull failed; it is tried again in its turn");
            Outcome::PulledAhead { container }
        }
        (Ok(present), false) => Outcome::Image {
            container,
            state: ImageState::Present { image_ref: present.image_ref },
        },
        (Err(error), false) => {
            let images::ImageError { reason, message, retry_at } = error;
            let since = scope.deps.clock.now();
            Outcome::Image {
                container,
                state: ImageState::Failed { reason, message, retry_at, since },
            }
        }
    };
    Effect::unchanged(Ok(outcome))
}
