//! The wishes of a container for its end when no source knows its pod any more: its grace period
//! and its preStop hook, read from its annotations. Upstream's kubelet and this one write them at
//! creation, so this works for containers of both.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use tracing::warn;

use super::scope::Scope;
use crate::cri::{labels, v1};
use crate::model::{ContainerId, pod, time};

/// What is needed to stop an orphan's container as its pod wished.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Annotated {
    /// The pod's grace period.
    pub(super) grace: Option<Duration>,
    /// The container's name, ports and preStop hook.
    pub(super) container: api::Container,
}

/// Reads what is left of a container's spec. `None` where the pod is known (only an orphan has
/// neither a version nor a source) or the runtime does not say.
pub(super) async fn annotated(scope: Scope<'_>, id: &ContainerId, name: &str) -> Option<Annotated> {
    let pod = &scope.context.pod;
    if pod.metadata.resource_version.is_some() || pod::is_static(pod) {
        return None;
    }

    let request =
        v1::ContainerStatusRequest { container_id: id.as_str().to_owned(), verbose: false };
    match scope.deps.runtime.cri.container_status(request).await {
        Ok(answer) => answer.status.map(|status| parse(name, &status.annotations)),
        Err(error) => {
            warn!(container = name, %error, "what an orphan's container wishes for its end cannot be read");
            None
        }
    }
}

fn parse(name: &str, annotations: &HashMap<String, String>) -> Annotated {
    let seconds = |label: &str| {
        let seconds = annotations.get(label).and_then(|text| text.parse().ok());
        seconds.map(|seconds| Duration::from_secs(seconds).min(time::LONGEST))
    };
    let pre_stop = annotations
        .get(labels::CONTAINER_PRE_STOP_HANDLER)
        .and_then(|text| serde_json::from_str::<api::LifecycleHandler>(text).ok());

    Annotated {
        grace: seconds(labels::POD_DELETION_GRACE_PERIOD)
            .or_else(|| seconds(labels::POD_TERMINATION_GRACE_PERIOD)),
        container: api::Container {
            name: name.to_owned(),
            ports: annotations
                .get(labels::CONTAINER_PORTS)
                .and_then(|text| serde_json::from_str(text).ok()),
            lifecycle: pre_stop
                .map(|hook| api::Lifecycle { pre_stop: Some(hook), ..api::Lifecycle::default() }),
            ..api::Container::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;
    use crate::cri::labels;

    #[test]
    fn what_was_written_is_read_back() {
        let annotations = [
            (labels::POD_TERMINATION_GRACE_PERIOD, "90"),
            (labels::CONTAINER_PRE_STOP_HANDLER, r#"{"exec":{"command":["sleep","1"]}}"#),
            (labels::CONTAINER_PORTS, r#"[{"name":"web","containerPort":80}]"#),
        ];
        let annotations = annotations
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let annotated = parse("app", &annotations);
        assert_eq!(annotated.grace, Some(Duration::from_secs(90)));
        assert_eq!(annotated.container.ports.expect("ports")[0].container_port, 80);
        let hook =
            annotated.container.lifecycle.and_then(|lifecycle| lifecycle.pre_stop).expect("a hook");
        assert_eq!(
            hook.exec.and_then(|exec| exec.command),
            Some(vec!["sleep".to_owned(), "1".to_owned()])
        );
    }

    #[test]
    fn a_grace_that_nothing_can_count_is_cut() {
        let annotations = [(labels::POD_TERMINATION_GRACE_PERIOD, "400000000000000")];
        let annotations = annotations
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(parse("app", &annotations).grace, Some(crate::model::time::LONGEST));
    }

    #[test]
    fn nothing_written_is_nothing_wished() {
        let annotated = parse("app", &std::collections::HashMap::new());
        assert_eq!((annotated.grace, annotated.container.lifecycle), (None, None));
    }
}
