//! Reports a change of group that takes long: events at upstream's moments and in its words.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::PLUGIN;
use crate::linux::ownership::Progress;
use crate::model::EventType;
use crate::model::reason::event::VOLUME_PERMISSION_CHANGE_IN_PROGRESS;
use crate::volumes::kinds::context::Context;

/// Delay before the first "Setting volume ownership is taking longer than expected" event, as in
/// upstream.
const FIRST_EVENT: Duration = Duration::from_secs(30);
/// Interval between further events, as in upstream.
const NEXT_EVENT: Duration = Duration::from_secs(60);

/// Reports the progress of a change of group, and cancels it when the pod goes away. Never returns.
pub(super) fn report<M, T>(
    context: &Context<M, T>,
    volume: &str,
    progress: Arc<Progress>,
) -> impl Future<Output = Infallible> + Send + use<M, T> {
    let (pod, cancel) = (Arc::clone(&context.pod), context.cancel.clone());
    let (recorder, clock) = (context.tools.recorder.clone(), context.tools.clock);
    let place = context.paths.plugin_volume(&context.uid, PLUGIN, volume);
    // As upstream shows it: from the pod's UID on.
    let place = place.strip_prefix(context.paths.pods()).unwrap_or(&place).display().to_string();

    async move {
        let mut next = clock.now().mono.after(FIRST_EVENT);
        let mut is_first = true;
        loop {
            if cancel.run_until_cancelled(clock.sleep_until(next)).await.is_none() {
                progress.cancel.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            }
            next = next.after(NEXT_EVENT);
            if !progress.walking.load(Ordering::Relaxed) {
                continue;
            }

            let message = if is_first {
                format!(
                    "Setting volume ownership for {place} is taking longer than expected, consider using \
                     OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/\
                     #configure-volume-permission-and-ownership-change-policy-for-pods"
                )
            } else {
                let seen = progress.seen.load(Ordering::Relaxed);
                format!("Setting volume ownership for {place}, processed {seen} files.")
            };
            is_first = false;
            let reason = VOLUME_PERMISSION_CHANGE_IN_PROGRESS;
            recorder.pod(&pod, None, EventType::Warning, reason, message);
        }
    }
}
