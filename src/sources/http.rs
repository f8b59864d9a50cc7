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

/// The most requests of one read: Go's client follows redirects until it has made so many.
const MOST_REQUESTS: usize = 10;
/// The headers that are not sent to another host than the one that they are configured for; Go's.
const SENSITIVE: [&str; 6] = [
    "authorization",
    "www-authenticate",
    "cookie",
    "cookie2",
    "proxy-authorization",
    "proxy-authenticate",
];

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
    /// Each answer leads to another URL.
    #[error("stopped after {MOST_REQUESTS} redirects")]
    Redirects,
}

/// Reads the URL; follows redirects as Go's client does.
async fn fetch(config: &Config) -> Result<Vec<u8>, FetchError> {
    let mut url = config.url.clone();
    let mut headers = config.headers.clone();
    for _ in 0..MOST_REQUESTS {
        let (head, text) = fetch_once(config, &url, &headers).await?;
        let is_redirect = matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let to = head.headers.get(http::header::LOCATION).filter(|_| is_redirect);
        let Some(to) = to.and_then(|to| to.to_str().ok()) else {
            return match head.status {
                http::StatusCode::OK if text.is_empty() => Err(FetchError::Empty),
                http::StatusCode::OK => Ok(text),
                status => Err(FetchError::Status(status)),
            };
        };

        let next = redirected(&url, to);
        if host(&next) != host(&url) {
            for name in SENSITIVE {
                headers.remove(name);
            }
        }
        url = next;
    }
    Err(FetchError::Redirects)
}

/// Returns the URL that `to` means for a reader of `from`: a whole one, or one without its
/// beginning.
fn redirected(from: &str, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    let (scheme, rest) = from.split_once("://").unwrap_or(("http", from));
    if let Some(rest) = to.strip_prefix("//") {
        return format!("{scheme}://{rest}");
    }
    let path_at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_at);
    if to.starts_with('/') {
        return format!("{scheme}://{authority}{to}");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{scheme}://{authority}{directory}/{to}")
}

/// Returns the host of a URL, without its user and port.
fn host(url: &str) -> Option<String> {
    url.parse::<http::Uri>().ok()?.host().map(str::to_owned)
}

/// Makes one request. The user of the URL is sent to its server.
async fn fetch_once(
    config: &Config,
    url: &str,
    headers: &http::HeaderMap,
) -> Result<Answer, FetchError> {
    let shown = without_user(url);
    let request = http::Request::get(shown.as_str())
        .body(Empty::new())
        .map_err(|source| FetchError::Url { url: shown, source })?;
    let (mut head, body) = request.into_parts();
    head.headers.extend(headers.clone());
    let authority = url.parse::<http::Uri>().ok().and_then(|uri| uri.authority().cloned());
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

    match proxy {
        Some(proxy) if proxy.forwards(request.uri()) => forwarded(&proxy, request).await,
        proxy => direct(proxy, request).await,
    }
    .map_err(FetchError::Request)
}

type Answer = (http::response::Parts, Vec<u8>);

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
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_SIZE).collect().await?;
    Ok((head, body.to_bytes().to_vec()))
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

    /// Answers one request with a redirect.
    async fn redirect(listener: TcpListener, to: String) -> String {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.expect("a request");
        let answer = format!(
            "HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.expect("sent");
        String::from_utf8_lossy(&request[..length]).to_lowercase()
    }

    #[tokio::test]
    async fn a_redirect_is_followed_without_the_credentials_of_another_host() {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let second = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let from = first.local_addr().expect("an address").port();
        let to = second.local_addr().expect("an address").port();
        let mut tasks = JoinSet::new();
        tasks.spawn(redirect(first, format!("http://localhost:{to}/moved")));
        let mut config = config(format!("http://127.0.0.1:{from}/pods"), Proxies::default());
        config.headers.insert("authorization", http::HeaderValue::from_static("Bearer t"));
        let answered = tokio::join!(fetch(&config), serve(second));
        assert_eq!(answered.0.expect("an answer"), b"yes");
        assert!(answered.1.starts_with("get /moved http/1.1\r\n"), "{}", answered.1);
        assert!(answered.1.contains("x-a: b\r\n"), "{}", answered.1);
        assert!(!answered.1.contains("authorization"), "{}", answered.1);
        let request = tasks.join_next().await.expect("a task").expect("heard");
        assert!(request.contains("authorization: bearer t\r\n"), "{request}");
    }

    #[test]
    fn a_redirect_may_be_relative() {
        for (to, expected) in [
            ("https://b.test/x", "https://b.test/x"),
            ("//b.test/x", "http://b.test/x"),
            ("/x?y", "http://u:p@a.test:1/x?y"),
            ("x", "http://u:p@a.test:1/dir/x"),
        ] {
            assert_eq!(redirected("http://u:p@a.test:1/dir/file?q=/r", to), expected);
        }
        assert_eq!(redirected("http://a.test", "x"), "http://a.test/x");
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
