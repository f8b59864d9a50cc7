//! The service accounts that plug-ins are given: read from the API server, or faked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1 as api;
use kube::Api;

use crate::apiserver::{Clients, failure, tokens};
use crate::images::credentials::AccountName;
use crate::model::PodUid;

/// How long a token lives: the API's default, which upstream leaves to the API server.
const TOKEN_SECONDS: i64 = 3600;

/// The parts of a service account that plug-ins may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its UID.
    pub uid: String,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Which token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOf {
    /// The service account.
    pub account: AccountName,
    /// The pod that the token is bound to.
    pub pod_name: String,
    /// Its UID.
    pub pod_uid: PodUid,
    /// Who the token is for.
    pub audience: String,
}

/// Why a service account or its token cannot be had: the API server's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AccountError(pub String);

/// Service accounts and their tokens.
pub trait Accounts: Send + Sync {
    /// A service account.
    fn account<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<ServiceAccount, AccountError>>;

    /// A token of a service account.
    fn token<'a>(&'a self, wanted: &'a TokenOf) -> BoxFuture<'a, Result<Arc<str>, AccountError>>;

    /// Forgets the tokens of a pod that is gone.
    fn forget(&self, pod: &PodUid);
}

/// The service accounts of the API server.
pub struct ApiAccounts {
    client: kube::Client,
    tokens: tokens::Handle,
}

impl fmt::Debug for ApiAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiAccounts").finish_non_exhaustive()
    }
}

impl ApiAccounts {
    /// Asks by `clients`, and keeps tokens in `tokens`.
    pub fn new(clients: &Clients, tokens: tokens::Handle) -> Self {
        Self { client: clients.writes.clone(), tokens }
    }
}

impl Accounts for ApiAccounts {
    fn account<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
        let api: Api<api::ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        async move {
            let found = api.get(name).await.map_err(|error| AccountError(failure::text(&error)))?;
            Ok(ServiceAccount {
                uid: found.metadata.uid.unwrap_or_default(),
                annotations: found.metadata.annotations.unwrap_or_default(),
            })
        }
        .boxed()
    }

    fn token<'a>(&'a self, wanted: &'a TokenOf) -> BoxFuture<'a, Result<Arc<str>, AccountError>> {
        let request = tokens::Request {
            namespace: wanted.account.namespace.clone(),
            service_account: wanted.account.name.clone(),
            service_account_uid: wanted.account.uid.clone(),
            pod_name: wanted.pod_name.clone(),
            pod_uid: wanted.pod_uid.clone(),
            audiences: vec![wanted.audience.clone()],
            expiration_seconds: TOKEN_SECONDS,
        };
        async move {
            let token = self.tokens.token(&request).await;
            token.map(|token| token.secret).map_err(|error| AccountError(error.to_string()))
        }
        .boxed()
    }

    fn forget(&self, pod: &PodUid) {
        self.tokens.forget(pod);
    }
}

/// A node without an API server.
#[derive(Clone, Copy, Debug)]
pub struct NoAccounts;

impl Accounts for NoAccounts {
    fn account<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<ServiceAccount, AccountError>> {
        let text = "cannot get ServiceAccounts when kubelet is in standalone mode";
        std::future::ready(Err(AccountError(text.to_owned()))).boxed()
    }

    fn token<'a>(&'a self, _: &'a TokenOf) -> BoxFuture<'a, Result<Arc<str>, AccountError>> {
        let text = "cannot use TokenManager when kubelet is in standalone mode";
        std::future::ready(Err(AccountError(text.to_owned()))).boxed()
    }

    fn forget(&self, _: &PodUid) {}
}
