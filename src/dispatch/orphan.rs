//! Pods on the node that no source has: rebuilt as far as stopping them properly needs.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::backend::FoundPod;
use crate::model::{Pod, PodUid};

/// A pod object that names what was found. It has no source and no API object.
pub(super) fn pod(uid: &PodUid, found: &FoundPod) -> Arc<Pod> {
    let containers = found
        .containers
        .iter()
        .map(|name| Container { name: name.clone(), ..Container::default() })
        .collect();
    Arc::new(Pod {
        metadata: ObjectMeta {
            name: Some(found.key.name.to_string()),
            namespace: Some(found.key.namespace.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers,
            termination_grace_period_seconds: i64::try_from(found.grace.as_secs()).ok(),
            ..PodSpec::default()
        }),
        status: None,
    })
}
