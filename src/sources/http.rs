//! Static pods from a URL (`staticPodURL`): a Pod or a PodList, read every `httpCheckFrequency`.
//!
//! A failure keeps what was read last. Static pods from a URL get no toleration of their own, as
//! upstream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;

use super::static_pod::{self, Origin, References};
use super::{Source, SourceKind, SourceState, stamp};
use crate::apiserver::credentials::{self, CredentialsError};
use crate::clock::Clock;
use crate::model::{Pod, PodUid, pod};

/// How long one read may take, as upstream.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer.
const MAX_SIZE: usize = 10 << 20;

/// What to read and how often.
#[derive(Clone, Debug)]
pub struct Config {
    /// `staticPodURL`; what is no URL fails at each read.
    pub url: String,
    /// `staticPodURLHeader`.
    pub headers: http::HeaderMap,
    /// `httpCheckFrequency`.
    pub check_frequency: Duration,
    /// This node's name.
    pub node_name: String,
    /// Whether static pods may refer to objects of the API.
    pub references: References,
}

/// Makes the source, and the task that reads it. The task runs until it is dropped.
pub fn new(config: Config, clock: Clock) -> (Source, impl Future<Output = ()> + Send + 'static) {
    let (sender, state) = watch::channel(SourceState::default());
    (Source { kind: SourceKind::Http, state }, run(config, clock, sender))
}

async fn run(config: Config, clock: Clock, sender: watch::Sender<SourceState>) {
    let mut said = String::new();
    loop {
        let read = tokio::time::timeout(DEADLINE, fetch(&config)).await;
        let read = read.unwrap_or(Err(FetchError::Deadline)).map_err(|error| error.to_string());
        let pods = read.and_then(|text| {
            static_pod::read(&text, Origin::Url(&config.url), &config.node_name, config.references)
                .map_err(|error| error.to_string())
        });
        match pods {
            Ok(pods) => {
                said.clear();
                let now = clock.now().wall;
                sender.send_if_modified(|state| {
                    let mut next: BTreeMap<PodUid, Arc<Pod>> = BTreeMap::new();
                    for mut pod in pods {
                        let uid = pod::uid(&pod);
                        let kept = state.pods.get(&uid).cloned().unwrap_or_else(|| {
                            stamp(&mut pod, SourceKind::Http, None, now);
                            Arc::new(pod)
                        });
                        next.insert(uid, kept);
                    }
                    let same = state.ready && state.pods.keys().eq(next.keys());
                    state.pods = next;
                    state.ready = true;
                    !same
                });
            }
            Err(problem) if problem != said => {
                tracing::warn!(url = %config.url, error = problem, "Cannot read static pods from the URL");
                said = problem;
            }
            Err(_) => {}
        }
        tokio::time::sleep(config.check_frequency).await;
    }
}

/// Why the URL cannot be read.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    /// The URL is none.
    #[error("parse {url:?}: {source}")]
    Url {
        /// As configured.
        url: String,
        /// Why.
        source: http::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] CredentialsError),
    /// There is no answer.
    #[error(transparent)]
    Request(#[from] hyper_util::client::legacy::Error),
    /// There is no answer in time.
    #[error("no answer within {DEADLINE:?}")]
    Deadline,
    /// The answer is no success.
    #[error("the server answered {0}")]
    Status(http::StatusCode),
    /// The answer breaks off or is too long.
    #[error(transparent)]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The answer is empty.
    #[error("the answer is empty")]
    Empty,
}

async fn fetch(config: &Config) -> Result<Vec<u8>, FetchError> {
    let tls = credentials::anonymous_tls()?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let mut request = http::Request::get(config.url.as_str())
        .body(Empty::new())
        .map_err(|source| FetchError::Url { url: config.url.clone(), source })?;
    request.headers_mut().extend(config.headers.clone());
    let answer = client.request(request).await?;
    if answer.status() != http::StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let body =
        Limited::new(answer.into_body(), MAX_SIZE).collect().await.map_err(FetchError::Body)?;
    let text = body.to_bytes().to_vec();
    if text.is_empty() { Err(FetchError::Empty) } else { Ok(text) }
}
