//! ResourceClaims, by GET: what the node authorizer lets a node read of them, one at a time.
//!
//! Nothing is cached: a pod with claims asks on its way to a sandbox. Asked by
//! `resources::claims`; writes nothing.

use std::fmt;

use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;

use super::claims::{ClaimError, get};
use super::client::Clients;

/// Reads ResourceClaims. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    client: kube::Client,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("resource_claims::Handle").finish_non_exhaustive()
    }
}

/// Makes the reader. It has no task.
pub fn new(clients: &Clients) -> Handle {
    Handle { client: clients.writes.clone() }
}

impl Handle {
    /// A claim. Cancel-safe.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<ResourceClaim, ClaimError> {
        get(&Api::namespaced(self.client.clone(), namespace), name).await
    }
}
