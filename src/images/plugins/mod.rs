//! Credential provider plug-ins: programs of the node that have credentials for registries.
//!
//! [`Plugins::keyring`] asks every plug-in that covers an image, first what it gave before, then
//! its program. A plug-in with `tokenAttributes` is given the pod's service account: its token and
//! some of its annotations. What such a plug-in gives belongs to that account.
//!
//! A plug-in that fails gives nothing; the failure is logged, as upstream does. Tokens and
//! passwords never reach logs, errors or `Debug`.

mod accounts;
mod cache;
mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, WeakShared};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::credentials::{AccountName, Credential, Keyring, Source, covers};
use crate::clock::Clock;
use crate::config::credential_providers::{CredentialProviders, Provider, TokenAttributes};
use crate::config::types::GoDuration;
use crate::model::{Pod, PodUid};

pub use accounts::{AccountError, Accounts, ApiAccounts, NoAccounts, ServiceAccount, TokenOf};
use cache::{AccountKey, Cache};
use run::{Answer, Question, RunError, Runner};

/// Observes every run of a program: the plug-in's name, how long it ran, whether it failed.
pub type PluginObserver = Arc<dyn Fn(&str, Duration, bool) + Send + Sync>;

/// The plug-ins of the node; by default there are none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Plugins {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    plugins: Vec<Plugin>,
    accounts: Box<dyn Accounts>,
}

struct Plugin {
    provider: Provider,
    runner: Arc<Runner>,
    cache: Mutex<Cache>,
    /// The runs that are under way. Two questions of one key are one run.
    flights: Mutex<HashMap<FlightKey, Flight>>,
    clock: Clock,
}

/// A run that several pulls may wait for. The program is ended when none waits any more.
type Flight = WeakShared<BoxFuture<'static, Outcome>>;

/// How a run ended.
type Outcome = Result<Arc<Answer>, Arc<RunError>>;

/// The image, the hash of the token, the annotations.
type FlightKey = (String, String, BTreeMap<String, String>);

/// What a plug-in gives: credentials by registry and path, and whom they belong to.
type Given = (BTreeMap<String, Credential>, Source);

/// Why a plug-in gives nothing. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum ProvideError {
    #[error("failed to get service account: {0}")]
    Account(#[source] AccountError),
    #[error("failed to get service account token: {0}")]
    Token(#[source] AccountError),
    #[error("failed to get credential from external registry credential provider: {0}")]
    Run(#[source] Arc<RunError>),
    #[error(
        "credential provider plugin returned the service account token as the password which is \
         not allowed when service account cache type is not set to 'Token'"
    )]
    EchoedToken,
    #[error("credential provider plugin did not return a valid cacheKeyType: {0}")]
    CacheKeyType(String),
}

/// The parts of the pod's service account that the plug-in is given.
struct Identity {
    token: Arc<str>,
    key: AccountKey,
    name: AccountName,
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.plugins().map(|plugin| plugin.provider.name.as_str());
        f.debug_list().entries(names).finish()
    }
}

impl Plugins {
    /// The plug-ins of the configuration, which has been checked.
    pub fn new(
        configured: &CredentialProviders,
        accounts: Box<dyn Accounts>,
        clock: Clock,
        observer: &PluginObserver,
    ) -> Self {
        let plugin = |provider: &Provider| Plugin {
            runner: Arc::new(Runner::new(
                provider,
                &configured.bin_dir,
                Arc::clone(observer),
                clock,
            )),
            provider: provider.clone(),
            cache: Mutex::new(Cache::new(clock.now().mono)),
            flights: Mutex::default(),
            clock,
        };
        let plugins = configured.providers.iter().map(plugin).collect();
        Self { inner: Some(Arc::new(Inner { plugins, accounts })) }
    }

    fn plugins(&self) -> impl Iterator<Item = &Plugin> {
        self.inner.iter().flat_map(|inner| &inner.plugins)
    }

    /// Returns the plug-ins' credentials for a repository (`docker.io/library/nginx`) and a pod.
    /// Cancel-safe: a program that no pull waits for any more is ended.
    pub async fn keyring(&self, repository: &str, pod: &Pod) -> Keyring {
        let mut keyring = Keyring::default();
        let Some(inner) = &self.inner else { return keyring };
        for plugin in &inner.plugins {
            match plugin.provide(repository, pod, &*inner.accounts).await {
                Ok(Some((found, source))) => keyring.add(found, &source),
                Ok(None) => {}
                Err(error) => tracing::error!(
                    provider = plugin.provider.name,
                    image = repository,
                    pod = pod.metadata.name,
                    namespace = pod.metadata.namespace,
                    %error,
                    "Failed to provide credentials for image"
                ),
            }
        }
        keyring
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, pod: &PodUid) {
        if let Some(inner) = &self.inner {
            inner.accounts.forget(pod);
        }
    }
}

impl Plugin {
    /// The credentials for a repository; `None`: the plug-in is not asked for this image or pod.
    async fn provide(
        &self,
        image: &str,
        pod: &Pod,
        accounts: &dyn Accounts,
    ) -> Result<Option<Given>, ProvideError> {
        if !self.provider.match_images.iter().any(|pattern| covers(pattern, image)) {
            return Ok(None);
        }
        let identity = match self.identity(pod, accounts).await? {
            Identified::Refused => return Ok(None),
            Identified::Anonymous => None,
            Identified::As(identity) => Some(identity),
        };
        let source = identity
            .as_ref()
            .map_or(Source::Node, |identity| Source::ServiceAccount(identity.name.clone()));

        let key = identity.as_ref().map(|identity| &identity.key);
        let now = self.clock.now().mono;
        if let Some(known) = self.cache.lock().get(image, key, now) {
            return Ok(Some((known, source)));
        }
        let given = self.run(image, identity.as_deref()).await.map_err(ProvideError::Run)?;
        self.check_echo(&given, identity.as_deref())?;

        let base = match given.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => cache::registry(image),
            "Global" => cache::GLOBAL,
            other => return Err(ProvideError::CacheKeyType(other.to_owned())),
        };
        let default = self.provider.default_cache_duration;
        let kept = given.cache_duration.or(default).unwrap_or_default();
        if kept != GoDuration::ZERO {
            let until = self.clock.now().mono.after(kept.to_std());
            self.cache.lock().add(base, key, given.credentials.clone(), until);
        }
        Ok(Some((given.credentials.clone(), source)))
    }

    /// Whom the plug-in is asked for.
    async fn identity(
        &self,
        pod: &Pod,
        accounts: &dyn Accounts,
    ) -> Result<Identified, ProvideError> {
        let Some(attributes) = &self.provider.token_attributes else {
            return Ok(Identified::Anonymous);
        };
        let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let name = name.unwrap_or_default();
        if name.is_empty() {
            let required = attributes.require_service_account.unwrap_or_default();
            return Ok(if required { Identified::Refused } else { Identified::Anonymous });
        }

        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = accounts.account(namespace, name).await.map_err(ProvideError::Account)?;
        let mut annotations = BTreeMap::new();
        for key in &attributes.required_service_account_annotation_keys {
            let Some(value) = account.annotations.get(key) else {
                tracing::debug!(
                    provider = self.provider.name,
                    namespace,
                    service_account = name,
                    "required annotation {key} not found"
                );
                return Ok(Identified::Refused);
            };
            annotations.insert(key.clone(), value.clone());
        }
        for key in &attributes.optional_service_account_annotation_keys {
            if let Some(value) = account.annotations.get(key) {
                annotations.insert(key.clone(), value.clone());
            }
        }

        let name = AccountName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: account.uid,
        };
        let wanted = TokenOf {
            account: name.clone(),
            pod_name: pod.metadata.name.clone().unwrap_or_default(),
            pod_uid: PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default()),
            audience: attributes.service_account_token_audience.clone(),
        };
        let token = accounts.token(&wanted).await.map_err(ProvideError::Token)?;
        let by_token = attributes.is_cached_by_token();
        let token_hash = if by_token { hash(&token) } else { String::new() };
        let key = AccountKey { account: name.clone(), annotations, token_hash };
        Ok(Identified::As(Box::new(Identity { token, key, name })))
    }

    /// Runs the program, or joins a run of the same question.
    async fn run(&self, image: &str, identity: Option<&Identity>) -> Outcome {
        let question = Question {
            image: image.to_owned(),
            token: identity.map(|identity| Arc::clone(&identity.token)),
            annotations: identity.map(|one| one.key.annotations.clone()).unwrap_or_default(),
        };
        let token_hash = question.token.as_deref().map(hash).unwrap_or_default();
        let key = (question.image.clone(), token_hash, question.annotations.clone());
        let run = {
            let mut flights = self.flights.lock();
            flights.retain(|_, flight| flight.upgrade().is_some());
            if let Some(run) = flights.get(&key).and_then(WeakShared::upgrade) {
                run
            } else {
                let runner = Arc::clone(&self.runner);
                let run = async move { runner.run(&question).await };
                let run = run.map(|ended| ended.map(Arc::new).map_err(Arc::new));
                let run = run.boxed().shared();
                if let Some(flight) = run.downgrade() {
                    flights.insert(key, flight);
                }
                run
            }
        };
        run.await
    }

    /// A token of the account as the password belongs to that token, and must not be kept longer.
    fn check_echo(&self, given: &Answer, identity: Option<&Identity>) -> Result<(), ProvideError> {
        let attributes = self.provider.token_attributes.as_ref();
        let by_token = attributes.is_some_and(TokenAttributes::is_cached_by_token);
        let Some(identity) = identity.filter(|_| !by_token) else { return Ok(()) };
        let mut passwords = given.credentials.values().map(|credential| &credential.password);
        if passwords.any(|password| **password == *identity.token) {
            return Err(ProvideError::EchoedToken);
        }
        Ok(())
    }
}

/// Whether and for whom a plug-in is asked.
enum Identified {
    /// It is not asked for this pod.
    Refused,
    /// Without a service account.
    Anonymous,
    /// For a service account.
    As(Box<Identity>),
}

fn hash(token: &str) -> String {
    let hex: Vec<String> = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}
