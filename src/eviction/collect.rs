//! The collection of containers that have ended, as far as it needs the view of all pods, and the
//! event that none can be collected.
//!
//! [`super::garbage`] decides which go. What a pod's planner removes by itself is not looked at.

use std::time::Duration;

use tokio::sync::watch;

use super::garbage::{self, Dead, Policy};
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::cri::RuntimeCondition;
use crate::dispatch::{PodView, PodsHandle};
use crate::model::EventType;
use crate::model::reason::event;

/// The time between two rounds; upstream's.
const EVERY: Duration = Duration::from_secs(60);

/// Has containers removed that are too many. Runs until it is dropped.
pub async fn run(policy: Policy, pods: PodsHandle, clock: Clock) {
    if policy.is_default() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        let dead = pods.views().iter().flat_map(dead).collect();
        let excess = garbage::excess(&policy, dead, clock.now().wall);
        if !excess.is_empty() && !pods.collect(excess).await {
            return;
        }
    }
}

fn dead(view: &PodView) -> Vec<Dead> {
    let ended = view.observed.containers.iter().filter(|container| !container.state.is_running());
    ended
        .map(|container| Dead {
            pod: view.uid.clone(),
            name: container.name.clone(),
            id: container.id.clone(),
            created: container.created_at,
        })
        .collect()
}

/// Says on the node, once a minute, that no container can be collected while the runtime does not
/// answer. Runs until it is dropped.
pub async fn report_failures(
    mut runtime: watch::Receiver<RuntimeCondition>,
    node_name: String,
    recorder: Recorder,
) {
    loop {
        // An error: the runtime's task has ended.
        if runtime.wait_for(|condition| condition.last_error.is_some()).await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(EVERY).await;
        let error = runtime.borrow().last_error.as_ref().map(ToString::to_string);
        if let Some(error) = error {
            recorder.node(&node_name, EventType::Warning, event::CONTAINER_GC_FAILED, error);
        }
    }
}
