//! The API's object that a status is written to, as last known, and the status that it should have.
//! Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::api::Target;
use crate::model::{Pod, pod};

/// The status that an object should have.
#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) version: u64,
    pub(super) status: Arc<api::PodStatus>,
    pub(super) is_failing: bool,
}

/// The API's object as last known.
#[derive(Clone, Debug)]
pub(super) enum Base {
    /// The object that the watch has shown.
    Watched(Arc<Pod>),
    /// The object in the answer to our own write; the watch lags behind.
    Answered(Arc<Answer>),
}

/// The parts of an answer that a later write needs.
#[derive(Debug)]
pub(super) struct Answer {
    target: Target,
    version: Option<u64>,
    deleting: bool,
    mirror: bool,
    status: api::PodStatus,
}

impl Base {
    pub(super) fn answered(pod: Pod) -> Self {
        Self::Answered(Arc::new(Answer {
            target: target_of(&pod),
            version: resource_version(&pod),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            mirror: pod::is_mirror(&pod),
            status: pod.status.unwrap_or_default(),
        }))
    }

    pub(super) fn target(&self) -> Target {
        match self {
            Self::Watched(pod) => target_of(pod),
            Self::Answered(answer) => answer.target.clone(),
        }
    }

    pub(super) fn uid(&self) -> &str {
        match self {
            Self::Watched(pod) => pod.metadata.uid.as_deref().unwrap_or_default(),
            Self::Answered(answer) => &answer.target.uid,
        }
    }

    pub(super) fn version(&self) -> Option<u64> {
        match self {
            Self::Watched(pod) => resource_version(pod),
            Self::Answered(answer) => answer.version,
        }
    }

    pub(super) fn status(&self) -> Option<&api::PodStatus> {
        match self {
            Self::Watched(pod) => pod.status.as_ref(),
            Self::Answered(answer) => Some(&answer.status),
        }
    }

    /// Returns true if the object may be deleted: it has a deletion timestamp and is not a mirror.
    pub(super) fn is_deletable(&self) -> bool {
        match self {
            Self::Watched(pod) => pod.metadata.deletion_timestamp.is_some() && !pod::is_mirror(pod),
            Self::Answered(answer) => answer.deleting && !answer.mirror,
        }
    }
}

fn target_of(pod: &Pod) -> Target {
    Target {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// The version of the object: the resource versions of the API are numbers that grow.
pub(super) fn resource_version(pod: &Pod) -> Option<u64> {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}
