//! What users are told of a resize: two conditions, and an event at each step.

use k8s_openapi::api::core::v1 as api;
use serde::Serialize;

use super::super::execute::Execute;
use super::super::plan::types::{Key, Notice, Plan};
use super::Worker;
use crate::dispatch::Resize;
use crate::model::reason::event;
use crate::model::{EventType, Pod, pod};
use crate::status::{ResizeCondition, ResizeState};

/// The reason of a resize that has failed and is tried again.
const ERROR: &str = "Error";

impl<E: Execute> Worker<E> {
    /// Takes over what was said of a resize before this process.
    pub(super) fn adopt_resize(&mut self) {
        self.resize = ResizeState::recorded(self.pod.status.as_ref());
    }

    /// Takes in what was decided about a resize.
    pub(super) fn obey_resize(&mut self, resize: &Resize) {
        let generation = |pod: &Pod| pod.metadata.generation;
        let pending = resize.pending.as_ref().map(|pending| ResizeCondition {
            reason: pending.reason.to_owned(),
            message: pending.message.clone(),
            generation: generation(&pending.wanted),
        });
        let told = |condition: &Option<ResizeCondition>| {
            condition.as_ref().map(|condition| (condition.reason.clone(), condition.generation))
        };
        if let Some(waits) =
            resize.pending.as_ref().filter(|_| told(&pending) != told(&self.resize.pending))
        {
            let reason = if waits.reason == "Infeasible" {
                event::RESIZE_INFEASIBLE
            } else {
                event::RESIZE_DEFERRED
            };
            let text = text(&format!("Pod resize {}", waits.reason), &waits.wanted, &waits.message);
            self.tell_resize(EventType::Warning, reason, text);
        }
        self.resize.pending = pending;
        if resize.granted.is_some() && self.granted != resize.granted {
            self.granted = resize.granted;
            self.inputs.failures.remove(&Key::Resize);
            self.resize.in_progress = Some(ResizeCondition {
                generation: generation(&self.pod),
                ..ResizeCondition::default()
            });
            self.tell_resize(
                EventType::Normal,
                event::RESIZE_STARTED,
                text("Pod resize started", &self.pod, ""),
            );
        }
    }

    /// Follows a resize by what the plan says of it.
    pub(super) fn follow_resize(&mut self, plan: &Plan) {
        if !plan.resizing {
            if self.resize.in_progress.take().is_some() {
                let text = text("Pod resize completed", &self.pod, "");
                self.tell_resize(EventType::Normal, event::RESIZE_COMPLETED, text);
            }
            return;
        }
        let generation = self.pod.metadata.generation;
        let new = || ResizeCondition { generation, ..ResizeCondition::default() };
        let progress = self.resize.in_progress.get_or_insert_with(new);
        let Some(failure) = self.inputs.failures.get(&Key::Resize) else { return };
        if (progress.reason.as_str(), &progress.message) != (ERROR, &failure.message) {
            (progress.reason, progress.message) = (ERROR.to_owned(), failure.message.clone());
            let text = text("Pod resize error", &self.pod, &failure.message.clone());
            self.tell_resize(EventType::Warning, event::RESIZE_ERROR, text);
        }
    }

    fn tell_resize(&self, event_type: EventType, reason: &'static str, message: String) {
        let notice = Notice { dedup: String::new(), container: None, event_type, reason, message };
        self.executor.notice(&self.pod, &notice);
    }
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

fn text(prefix: &str, pod: &Pod, error: &str) -> String {
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
        generation: pod.metadata.generation.unwrap_or_default(),
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

    use super::text;

    #[test]
    fn events_carry_the_resources_as_upstream_writes_them() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}}))
        .expect("a pod");
        let resources = r#"{"containers":[{"name":"c","resources":{"limits":{"memory":"64Mi"},"requests":{"cpu":"250m"}}}],"generation":2"#;
        assert_eq!(
            text("Pod resize started", &pod, ""),
            format!("Pod resize started: {resources}}}")
        );
        assert_eq!(
            text("Pod resize error", &pod, "no"),
            format!("Pod resize error: {resources},\"error\":\"no\"}}")
        );
    }
}
