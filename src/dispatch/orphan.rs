//! Pods that the runtime has and no source knows: rebuilt as far as is needed to stop them
//! properly.
//!
//! Upstream stops them with a grace of one second; the sandbox's annotations keep the pod's real
//! grace period, and that is used here (the object may merely have been deleted while this process
//! was away).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{Pod, PodKey, PodUid};

/// A pod as the runtime describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimePod {
    /// Its UID, from the labels.
    pub uid: PodUid,
    /// Its namespace and name, from the labels.
    pub key: PodKey,
    /// The names of its containers.
    pub containers: Vec<String>,
    /// Its grace period, from the annotations.
    pub grace: Duration,
}

/// A pod object that names what the runtime has. It has no source and no API object.
pub fn pod(runtime_pod: &RuntimePod) -> Arc<Pod> {
    let containers = runtime_pod
        .containers
        .iter()
        .map(|name| Container { name: name.clone(), ..Container::default() })
        .collect();
    Arc::new(Pod {
        metadata: ObjectMeta {
            name: Some(runtime_pod.key.name.to_string()),
            namespace: Some(runtime_pod.key.namespace.to_string()),
            uid: Some(runtime_pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers,
            termination_grace_period_seconds: i64::try_from(runtime_pod.grace.as_secs()).ok(),
            ..PodSpec::default()
        }),
        status: None,
    })
}
