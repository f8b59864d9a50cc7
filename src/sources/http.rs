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
use crate::apiserver::credentials;
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
        let pods = read.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}"))).and_then(
            |text| {
                static_pod::read(
                    &text,
                    Origin::Url(&config.url),
                    &config.node_name,
                    config.references,
                )
                .map_err(|error| error.to_string())
            },
        );
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

async fn fetch(config: &Config) -> Result<Vec<u8>, String> {
    let tls = credentials::anonymous_tls().map_err(|error| error.to_string())?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .build();
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let mut request = http::Request::get(config.url.as_str())
        .body(Empty::new())
        .map_err(|error| format!("parse {:?}: {error}", config.url))?;
    request.headers_mut().extend(config.headers.clone());
    let answer = client.request(request).await.map_err(|error| error.to_string())?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("the server answered {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_SIZE)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    let text = body.to_bytes().to_vec();
    if text.is_empty() { Err("the answer is empty".to_owned()) } else { Ok(text) }
}
