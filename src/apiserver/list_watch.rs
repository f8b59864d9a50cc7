//! Follows a collection or one object of the API: first everything, then every change, for ever.
//!
//! A wrapper around `kube`'s watcher that streams the initial list where the server can (one
//! request instead of two), falls back to list and watch where it cannot, waits between failures,
//! and reduces each object as soon as it is decoded.

use std::ops::ControlFlow;
use std::time::Duration;

use futures::StreamExt as _;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

use super::connectivity::Connectivity;
use super::failure;
use super::random;
use super::watched::Watched;

/// The first wait after a failure; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The first wait after a refusal: nearly always the node authorizer's, which learns of the pod
/// that refers to the object a few milliseconds after us. The pod waits for it.
const FIRST_WAIT_REFUSED: Duration = Duration::from_millis(5);
/// The longest wait between two attempts, as client-go's reflector.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What has happened to the collection.
#[derive(Debug)]
pub enum Change<T> {
    /// This is everything there is.
    Reset(Vec<T>),
    /// One was added or changed.
    Applied(T),
    /// One was deleted; its last state.
    Deleted(T),
    /// The attempt failed and will be made again; the text is for people.
    Failed(String),
}

/// Follows `api` (all, or those that `fields` selects), giving each change to `sink`, until `sink`
/// breaks. `reduce` is applied to each object at once, so that only what it keeps is held. When
/// `reach` tells that the server is back, it is tried at once. Cancel-safe: dropping it ends the
/// watch.
pub async fn follow<K, T>(
    (api, reach): (Api<Watched<K>>, &Connectivity),
    fields: Option<&str>,
    reduce: impl Fn(K) -> T,
    mut sink: impl FnMut(Change<T>) -> ControlFlow<()>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + 'static,
{
    let mut streaming = true;
    let mut failures = 0_u32;
    let mut refused = false;
    let mut returns = reach.listen();
    loop {
        let mut config = watcher::Config::default().any_semantic();
        if let Some(fields) = fields {
            config = config.fields(fields);
        }
        if streaming {
            config = config.streaming_lists();
        }
        let mut events = watcher::watcher(api.clone(), config).boxed();
        let mut buffer = Vec::new();
        // Ends only to start over with the other way of listing.
        while let Some(event) = events.next().await {
            let change = match event {
                Ok(Event::Init) => {
                    buffer = Vec::new();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    buffer.push(reduce(object.0));
                    continue;
                }
                Ok(Event::InitDone) => Change::Reset(std::mem::take(&mut buffer)),
                Ok(Event::Apply(object)) => Change::Applied(reduce(object.0)),
                Ok(Event::Delete(object)) => Change::Deleted(reduce(object.0)),
                Err(error) => {
                    if streaming && is_unsupported(&error) {
                        streaming = false;
                        break;
                    }
                    if is_expired(&error) {
                        continue;
                    }
                    // A server that is back and does not know us yet: the long waits were for
                    // another reason.
                    if is_refused(&error) != std::mem::replace(&mut refused, is_refused(&error)) {
                        failures = 0;
                    }
                    failures = failures.saturating_add(1);
                    Change::Failed(describe(&error))
                }
            };
            let failed = matches!(change, Change::Failed(_));
            if sink(change).is_break() {
                return;
            }
            if failed {
                returns.pause(random::jitter(wait_after(failures, refused), 0.5)).await;
            } else {
                failures = 0;
            }
        }
    }
}

fn wait_after(failures: u32, refused: bool) -> Duration {
    let first = if refused { FIRST_WAIT_REFUSED } else { FIRST_WAIT };
    let doublings = failures.saturating_sub(1).min(14);
    LONGEST_WAIT.min(first.saturating_mul(1 << doublings))
}

/// Whether the server does not know how to stream a list.
fn is_unsupported(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(error) => {
            failure::kind(error) == failure::FailureKind::Invalid
        }
        watcher::Error::WatchError(status) => matches!(status.code, 400 | 422),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// Whether the server knows us but does not let us see the object (yet).
fn is_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            failure::kind(error) == failure::FailureKind::Forbidden
        }
        watcher::Error::WatchError(status) => status.code == 403,
        watcher::Error::NoResourceVersion => false,
    }
}

/// Whether the watch merely has to begin anew because the server has forgotten the past.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => failure::text(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::{Change, LONGEST_WAIT, follow, wait_after};
    use crate::apiserver::fake::FakeApi;
    use crate::clock::Clock;
    use crate::model::Wall;

    /// How long it takes, after an outage of `away`, from the moment when somebody else is answered
    /// to the list, if the first `refusals` requests are refused.
    async fn listed_after(away: Duration, refusals: u32) -> Duration {
        let fake = FakeApi::new(Clock::starting_at(Wall::UNIX_EPOCH));
        fake.set_down(true);
        let clients = fake.clients("n");
        let reach = clients.reach.clone();
        let (sender, mut listed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let api = Api::all(clients.watches.clone());
            let note = |change: Change<Pod>| {
                sender.send_modify(|listed| *listed |= matches!(change, Change::Reset(_)));
                ControlFlow::Continue(())
            };
            follow((api, &clients.reach), None, |pod: Pod| pod, note).await;
        });
        tokio::time::sleep(away).await;
        fake.set_down(false);
        fake.fail("GET", "pods", 403, refusals);
        reach.lost();
        reach.answered(http::StatusCode::OK);
        let began = now();
        listed.wait_for(|listed| *listed).await.expect("it goes on");
        began.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "tests look at the paused clock")]
    fn now() -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_ends_when_the_server_is_back() {
        for away in 60..70 {
            for refusals in [0, 4] {
                let took = listed_after(Duration::from_secs(away), refusals).await;
                assert!(
                    took < Duration::from_secs(1),
                    "{away} s away, {refusals} refusals: {took:?}"
                );
            }
        }
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        assert_eq!(wait_after(1, false), Duration::from_millis(200));
        assert_eq!(wait_after(3, false), Duration::from_millis(800));
        assert_eq!(wait_after(1, true), Duration::from_millis(5));
        assert_eq!(wait_after(4, true), Duration::from_millis(40));
        for refused in [false, true] {
            assert_eq!(wait_after(u32::MAX, refused), LONGEST_WAIT);
        }
    }
}
