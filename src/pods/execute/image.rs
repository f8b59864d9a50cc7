//! Images: handing a container's need to the image subsystem, with the pull secrets fetched.

use std::time::Duration;

use tracing::debug;

use super::super::memory::slot::ImageState;
use super::super::plan::types::Key;
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Outcome};
use crate::images;
use crate::model::reason::event;
use crate::model::{EventType, pod};

/// How long a pull secret may take to arrive before the pull is tried without it (upstream reads
/// its cache).
const SECRET_DEADLINE: Duration = Duration::from_secs(10);

impl PodExecutor {
    /// Has the image of a container ready.
    pub(super) async fn ensure_image(
        &self,
        key: Key,
        container: String,
        silent: bool,
        context: Context,
    ) -> Completion {
        let Some((kind, spec)) = pod::find_container(&context.pod, &container) else {
            let error =
                ActionError::internal(format!("container {container} is not in the pod's spec"));
            return Completion { key, outcome: Err(error), mutated: false };
        };
        let secrets = self.pull_secrets(&context, silent).await;
        let image = spec.image.clone().unwrap_or_default();
        let request = images::EnsureImage {
            pod: context.pod.clone(),
            kind,
            container: container.clone(),
            policy: images::PullPolicy::of(spec.image_pull_policy.as_deref(), &image),
            image,
            of_volume: false,
            secrets,
            silent,
            runtime_handler: String::new(),
            sandbox: self.sandbox_for_pull(&context),
        };
        let answer = self.deps.images.ensure(request).await;
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
                let state =
                    ImageState::Failed { reason, message, retry_at, since: self.deps.clock.now() };
                Outcome::Image { container, state }
            }
        };
        Completion { key, outcome: Ok(outcome), mutated: false }
    }

    /// The pod's pull secrets; those that cannot be had are named in one event and left out, as
    /// upstream does.
    pub(super) async fn pull_secrets(
        &self,
        context: &Context,
        silent: bool,
    ) -> Vec<images::PullSecret> {
        let references =
            context.pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref());
        let namespace = pod::key(&context.pod).namespace;
        let (mut found, mut failed) = (Vec::new(), Vec::new());
        for reference in references.unwrap_or_default() {
            if reference.name.is_empty() {
                continue;
            }
            let Some(objects) = &self.deps.objects else {
                failed.push(reference.name.clone());
                continue;
            };
            match objects.secret(&namespace, &reference.name).get(SECRET_DEADLINE).await {
                Ok(secret) => found.extend(images::PullSecret::from_secret(&secret)),
                Err(_) => failed.push(reference.name.clone()),
            }
        }
        if !failed.is_empty() && !silent {
            self.pod_event(
                &context.pod,
                EventType::Warning,
                event::FAILED_TO_RETRIEVE_IMAGE_PULL_SECRET,
                format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    failed.join(", ")
                ),
            );
        }
        found
    }
}
