//! The three calls that the writer makes, and the classes of their failures. [`KubeStatusApi`] is
//! the real implementation.
//!
//! It never retries a call: [`super::queue`] decides what follows a failure.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::Value;

/// The object that a write is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID in the API: for a static pod that of its mirror.
    pub uid: String,
}

/// The failures of a call, by the reaction that they require.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The object does not exist.
    #[error("pod {namespace}/{name} is not in the API", namespace = target.namespace, name = target.name)]
    NotFound {
        /// The object.
        target: Target,
    },
    /// The object is another one, or has changed meanwhile: it must be read.
    #[error("pod {namespace}/{name} in the API is not what was expected", namespace = target.namespace, name = target.name)]
    Conflict {
        /// The object.
        target: Target,
        /// The server's answer.
        #[source]
        source: kube::Error,
    },
    /// The server refused the call, and nothing has changed.
    #[error("the API server refused the status of pod {namespace}/{name}", namespace = target.namespace, name = target.name)]
    Refused {
        /// The object.
        target: Target,
        /// The server's answer.
        #[source]
        source: kube::Error,
    },
    /// The fate of the call is not known.
    #[error("no answer from the API server about pod {namespace}/{name}", namespace = target.namespace, name = target.name)]
    Unknown {
        /// The object.
        target: Target,
        /// The error; none if the deadline passed.
        #[source]
        source: Option<kube::Error>,
    },
}

impl Failure {
    /// Returns true if the present object is not known: it has to be read.
    pub(super) fn leaves_doubt(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Conflict { .. } => true,
            Self::NotFound { .. } | Self::Refused { .. } => false,
        }
    }
}

/// The part of the API server that the writer needs. Every call ends within a deadline.
pub trait StatusApi: Send + Sync + 'static {
    /// PATCHes the status. Returns the object as it is then.
    fn patch_status(
        &self,
        target: &Target,
        patch: &Value,
    ) -> impl Future<Output = Result<api::Pod, Failure>> + Send;

    /// Reads the object.
    fn get(&self, target: &Target) -> impl Future<Output = Result<api::Pod, Failure>> + Send;

    /// Deletes the object at once, if it still has this UID.
    fn delete(&self, target: &Target) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The deadline of one call. The transport notices dead connections sooner; this is for servers
/// that are merely silent.
const DEADLINE: Duration = Duration::from_secs(30);

/// Calls the API server through a client.
#[derive(Clone)]
pub struct KubeStatusApi {
    client: kube::Client,
}

impl std::fmt::Debug for KubeStatusApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeStatusApi").finish_non_exhaustive()
    }
}

impl KubeStatusApi {
    /// Returns the calls through `client`: the one for writes.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    fn pods(&self, target: &Target) -> kube::Api<api::Pod> {
        kube::Api::namespaced(self.client.clone(), &target.namespace)
    }
}

impl StatusApi for KubeStatusApi {
    async fn patch_status(&self, target: &Target, patch: &Value) -> Result<api::Pod, Failure> {
        let pods = self.pods(target);
        let params = PatchParams::default();
        let patch = Patch::Strategic(patch);
        in_time(target, pods.patch_status(&target.name, &params, &patch)).await
    }

    async fn get(&self, target: &Target) -> Result<api::Pod, Failure> {
        let pods = self.pods(target);
        in_time(target, pods.get(&target.name)).await
    }

    async fn delete(&self, target: &Target) -> Result<(), Failure> {
        let pods = self.pods(target);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(target.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };

        in_time(target, pods.delete(&target.name, &params)).await.map(|_| ())
    }
}

async fn in_time<T>(
    target: &Target,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(|error| classify(target, error)),
        Err(_) => Err(Failure::Unknown { target: target.clone(), source: None }),
    }
}

fn classify(target: &Target, source: kube::Error) -> Failure {
    let target = target.clone();
    let code = if let kube::Error::Api(status) = &source { Some(status.code) } else { None };
    match code {
        Some(404) => Failure::NotFound { target },
        Some(409) => Failure::Conflict { target, source },
        Some(400..=499) => Failure::Refused { target, source },
        Some(_) | None => Failure::Unknown { target, source: Some(source) },
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::{Failure, Target, classify};

    fn of(code: u16) -> Failure {
        let target = Target { namespace: "default".into(), name: "web".into(), uid: "u".into() };
        classify(&target, kube::Error::Api(Status::failure("no", "No").with_code(code).boxed()))
    }

    #[test]
    fn failures_by_what_to_do() {
        assert!(matches!(of(404), Failure::NotFound { .. }));
        assert!(matches!(of(409), Failure::Conflict { .. }));
        for code in [400, 403, 422, 429] {
            assert!(matches!(of(code), Failure::Refused { .. }), "{code}");
        }
        for code in [500, 503, 504] {
            assert!(matches!(of(code), Failure::Unknown { .. }), "{code}");
        }
        assert_eq!(of(404).to_string(), "pod default/web is not in the API");
    }
}
