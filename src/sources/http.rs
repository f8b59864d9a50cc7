//! Static pods from a URL (`staticPodURL`): a Pod or a PodList, read every `httpCheckFrequency`.
//!
//! A failure keeps what was read last; an empty answer holds no pods. The proxies of the
//! environment are used. Static pods from a URL get no toleration of their own, as upstream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tower::BoxError;

use super::static_pod::{self, Origin, References};
use super::{Source, SourceKind, SourceState, adopted};
use crate::apiserver::credentials;
use crate::apiserver::proxy::{self, Connector, Proxy};
use crate::clock::Clock;
use crate::config::Proxies;
use crate::model::{Pod, PodUid, Wall, error_chain, pod};

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
    /// The proxies of the environment.
    pub proxies: Proxies,
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
        let read = read.unwrap_or(Err(FetchError::Deadline));
        if let Err(FetchError::Empty) = &read {
            // As upstream: a problem, and yet an answer that there are no pods.
            publish(&sender, Vec::new(), clock.now().wall);
        }
        let pods = read.map_err(|error| error_chain(&error)).and_then(|text| {
            static_pod::read(&text, Origin::Url(&config.url), &config.node_name, config.references)
                .map_err(|error| error.to_string())
        });
        match pods {
            Ok(pods) => {
                said.clear();
                publish(&sender, pods, clock.now().wall);
            }
            Err(problem) if problem != said => {
                let url = without_user(&config.url);
                tracing::warn!(url, error = problem, "Cannot read static pods from the URL");
                said = problem;
            }
            Err(_) => {}
        }
        tokio::time::sleep(config.check_frequency).await;
    }
}

/// Publishes the pods that the URL has now.
fn publish(sender: &watch::Sender<SourceState>, pods: Vec<Pod>, now: Wall) {
    sender.send_if_modified(|state| {
        let mut next: BTreeMap<PodUid, Arc<Pod>> = BTreeMap::new();
        for pod in pods {
            let uid = pod::uid(&pod);
            let known = state.pods.get(&uid);
            next.insert(uid, adopted(pod, SourceKind::Http, known, now));
        }
        let is_same = state.ready
            && state.pods.len() == next.len()
            && state.pods.values().zip(next.values()).all(|(old, new)| Arc::ptr_eq(old, new));
        state.pods = next;
        state.ready = true;
        !is_same
    });
}

/// Returns a URL without its user and password: `https://h/p` of `https://u:p@h/p`.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
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
    /// There is no answer, or it breaks off or is too long.
    #[error("no answer")]
    Request(#[source] BoxError),
    /// There is no answer in time.
    #[error("no answer within {DEADLINE:?}")]
    Deadline,
    /// The answer is no success.
    #[error("the server answered {0}")]
    Status(http::StatusCode),
    /// The answer is empty.
    #[error("the answer is empty")]
    Empty,
}

async fn fetch(config: &Config) -> Result<Vec<u8>, FetchError> {
    let url = without_user(&config.url);
    let request = http::Request::get(url.as_str())
        .body(Empty::new())
        .map_err(|source| FetchError::Url { url, source })?;
    let (mut head, body) = request.into_parts();
    head.headers.extend(config.headers.clone());
    let authority = config.url.parse::<http::Uri>().ok().and_then(|uri| uri.authority().cloned());
    if let Some((name, password)) = authority.and_then(|text| proxy::user_of(text.as_str()))
        && !head.headers.contains_key(http::header::AUTHORIZATION)
    {
        let basic = proxy::basic(&name, &password);
        let basic = basic.map_err(|error| FetchError::Request(error.into()))?;
        head.headers.insert(http::header::AUTHORIZATION, basic);
    }
    let proxy = config.proxies.choose(&head.uri).map(Proxy::new).transpose();
    let proxy = proxy.map_err(|error| FetchError::Request(error.into()))?;
    let request = http::Request::from_parts(head, body);

    let (status, text) = match proxy {
        Some(proxy) if proxy.forwards(request.uri()) => forwarded(&proxy, request).await,
        proxy => direct(proxy, request).await,
    }
    .map_err(FetchError::Request)?;
    if status != http::StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    if text.is_empty() { Err(FetchError::Empty) } else { Ok(text) }
}

type Answer = (http::StatusCode, Vec<u8>);

/// Asks the server, or a proxy that opens the way to it.
async fn direct(
    proxy: Option<Arc<Proxy>>,
    request: http::Request<Empty<Bytes>>,
) -> Result<Answer, BoxError> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(credentials::anonymous_tls()?)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(Connector { tcp: tcp(), proxy });
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    read(client.request(request).await?).await
}

/// Asks a proxy that sends the request on; it is given the whole URL.
async fn forwarded(
    proxy: &Proxy,
    mut request: http::Request<Empty<Bytes>>,
) -> Result<Answer, BoxError> {
    let host = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let host = http::HeaderValue::from_str(host)?;
    request.headers_mut().entry(http::header::HOST).or_insert(host);
    if let Some(authorization) = proxy.authorization()? {
        request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
    }

    let stream = proxy.reach(tcp()).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let exchange = async move { read(sender.send_request(request).await?).await };
    // The connection ends when the sender is dropped; how is of no interest after the answer.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp
}

async fn read(answer: http::Response<Incoming>) -> Result<Answer, BoxError> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_SIZE).collect().await?;
    Ok((status, body.to_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    /// Answers one request and says what it was.
    async fn serve(listener: TcpListener) -> String {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.expect("a request");
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nyes";
        stream.write_all(answer.as_bytes()).await.expect("sent");
        String::from_utf8_lossy(&request[..length]).to_lowercase()
    }

    fn config(url: String, proxies: Proxies) -> Config {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-a", http::HeaderValue::from_static("b"));
        Config {
            url,
            headers,
            check_frequency: Duration::from_secs(1),
            node_name: "n".to_owned(),
            references: References::Refused,
            proxies,
        }
    }

    #[tokio::test]
    async fn a_proxy_of_the_environment_sends_the_request_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener));
        let proxies =
            Proxies { http: format!("http://user:pw@127.0.0.1:{port}"), ..Proxies::default() };
        let config = config("http://manifests.test:81/pods?a=b".to_owned(), proxies);
        assert_eq!(fetch(&config).await.expect("an answer"), b"yes");
        let request = tasks.join_next().await.expect("a task").expect("heard");
        assert!(
            request.starts_with("get http://manifests.test:81/pods?a=b http/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains("host: manifests.test:81\r\n"), "{request}");
        assert!(request.contains("x-a: b\r\n"), "{request}");
        assert!(request.contains("proxy-authorization: basic "), "{request}");
    }

    #[tokio::test]
    async fn no_proxy_is_for_this_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener));
        let proxies = Proxies { http: "http://proxy.test:1".to_owned(), ..Proxies::default() };
        let config = config(format!("http://127.0.0.1:{port}/pods"), proxies);
        assert_eq!(fetch(&config).await.expect("an answer"), b"yes");
        let request = tasks.join_next().await.expect("a task").expect("heard");
        assert!(request.starts_with("get /pods http/1.1\r\n"), "{request}");
    }
}
