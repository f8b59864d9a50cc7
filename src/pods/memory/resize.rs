//! What users see of a resize in place: two conditions, and an event at each step. Pure.
//!
//! Dispatch decides on a resize; the planner says whether it is still going on.

use k8s_openapi::api::core::v1 as api;
use serde::Serialize;

use super::known::Failure;
use crate::dispatch::Resize;
use crate::model::reason::event;
use crate::model::{EventType, Pod, pod};
use crate::pods::plan::types::{Notice, Resizing};
use crate::status::{PendingResize, ResizeInProgress, ResizeState};

/// The progress of a pod's resize.
#[derive(Clone, Debug)]
pub(super) struct ResizeProgress {
    /// The two conditions.
    pub(super) state: ResizeState,
    /// The generation of the resize that was granted last.
    granted: Option<i64>,
}

impl ResizeProgress {
    /// Takes over the conditions that were recorded before this process.
    pub(super) fn recorded(pod: &Pod) -> Self {
        Self { state: ResizeState::recorded(pod.status.as_ref()), granted: None }
    }

    /// Applies what was decided about a resize. Returns true if one was granted.
    pub(super) fn decide(&mut self, resize: &Resize, pod: &Pod, notices: &mut Vec<Notice>) -> bool {
        let pending = resize.pending.as_ref().map(|pending| PendingResize {
            verdict: pending.verdict.clone(),
            generation: pending.wanted.metadata.generation,
        });
        let subject = |pending: &Option<PendingResize>| {
            pending.as_ref().map(|pending| (pending.verdict.reason(), pending.generation))
        };

        if let Some(waits) = &resize.pending
            && subject(&pending) != subject(&self.state.pending)
        {
            let verdict = &waits.verdict;
            let prefix = format!("Pod resize {}", verdict.reason());
            let generation = waits.wanted.metadata.generation;
            let text = text(&prefix, &waits.wanted, generation, verdict.message());
            notices.push(notice(EventType::Warning, verdict.event(), text));
        }
        self.state.pending = pending;

        if resize.granted.is_none() || self.granted == resize.granted {
            return false;
        }
        self.granted = resize.granted;
        let generation = pod.metadata.generation;
        self.state.in_progress = Some(ResizeInProgress { error: None, generation });
        let text = text("Pod resize started", pod, generation, "");
        notices.push(notice(EventType::Normal, event::RESIZE_STARTED, text));
        true
    }

    /// Follows a resize by what the plan says of it.
    pub(super) fn follow(
        &mut self,
        resizing: Resizing,
        failure: Option<&Failure>,
        pod: &Pod,
        notices: &mut Vec<Notice>,
    ) {
        if resizing == Resizing::Over {
            if let Some(ResizeInProgress { generation, .. }) = self.state.in_progress.take() {
                let text = text("Pod resize completed", pod, generation, "");
                notices.push(notice(EventType::Normal, event::RESIZE_COMPLETED, text));
            }
            return;
        }

        if resizing == Resizing::Restarting && self.state.in_progress.is_none() {
            return;
        }
        let generation = pod.metadata.generation;
        let new = || ResizeInProgress { error: None, generation };
        let progress = self.state.in_progress.get_or_insert_with(new);
        let Some(failure) = failure else { return };
        if progress.error.as_ref() == Some(&failure.message) {
            return;
        }
        progress.error = Some(failure.message.clone());
        let text = text("Pod resize error", pod, progress.generation, &failure.message);
        notices.push(notice(EventType::Warning, event::RESIZE_ERROR, text));
    }
}

fn notice(event_type: EventType, reason: &'static str, message: String) -> Notice {
    Notice { dedup: String::new(), container: None, event_type, reason, message }
}

/// The resources of a pod as events of a resize write them.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(rename = "initContainers", skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Named<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Named<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    resources: api::ResourceRequirements,
}

/// The text of an event. `generation` is the one of the condition: the pod's own may be newer, by
/// a change that is none of its resources.
fn text(prefix: &str, pod: &Pod, generation: Option<i64>, error: &str) -> String {
    fn named(containers: &[api::Container]) -> Vec<Named<'_>> {
        containers
            .iter()
            .map(|container| Named {
                name: &container.name,
                resources: container.resources.clone().unwrap_or_default(),
            })
            .collect()
    }
    let summary = Summary {
        init_containers: named(pod::init_containers(pod)),
        containers: named(pod::main_containers(pod)),
        generation: generation.unwrap_or_default(),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(json) => format!("{prefix}: {json}"),
        Err(_) => prefix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Failure, Pod, Resize, ResizeProgress, Resizing, text};
    use crate::model::{Mono, Now, Wall};

    #[test]
    fn the_end_of_a_resize_has_the_generation_of_its_start() {
        let of = |generation: i64| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": generation},
                "spec": {"containers": [{"name": "c"}]}}))
            .expect("a pod")
        };
        let mut progress = ResizeProgress::recorded(&of(1));
        let mut notices = Vec::new();
        let granted = Resize { granted: Some(2), pending: None };
        assert!(progress.decide(&granted, &of(2), &mut notices));
        // An ephemeral container was added meanwhile.
        let failure = Failure {
            count: 1,
            at: Now { mono: Mono::default(), wall: Wall::UNIX_EPOCH },
            reason: "Error".to_owned(),
            message: "no".to_owned(),
        };
        progress.follow(Resizing::Wanted, Some(&failure), &of(3), &mut notices);
        progress.follow(Resizing::Over, None, &of(3), &mut notices);
        assert_eq!(notices.len(), 3);
        assert!(notices.iter().all(|notice| notice.message.contains(r#""generation":2"#)));
    }

    #[test]
    fn events_carry_the_resources_as_upstream_writes_them() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}}))
        .expect("a pod");
        let resources = r#"{"containers":[{"name":"c","resources":{"limits":{"memory":"64Mi"},"requests":{"cpu":"250m"}}}],"generation":2"#;
        assert_eq!(
            text("Pod resize started", &pod, Some(2), ""),
            format!("Pod resize started: {resources}}}")
        );
        assert_eq!(
            text("Pod resize error", &pod, Some(2), "no"),
            format!("Pod resize error: {resources},\"error\":\"no\"}}")
        );
    }
}
