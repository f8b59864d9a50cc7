//! Makes HTTP GETs as upstream's probes and hooks do: without a proxy, without verification of
//! certificates, with one connection per request. Redirects are followed on the same host only.
//!
//! The texts of failures are Go's. The body of a failed answer never reaches an event.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, InvalidHeaderValue, LOCATION, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1 as api;
use tokio::io::{AsyncRead, AsyncWrite};

use super::target::{of_location, target};
use super::tcp::{self, os_text};
use super::{CheckResult, PortError, host_or, host_port, port, tls};

/// The bytes of a body that are read, at most.
const MAX_BODY: usize = 10 << 10;
/// The requests of one attempt, redirects included, at most.
const MAX_REQUESTS: usize = 10;

/// A GET that a probe or a hook makes.
#[derive(Clone, PartialEq, Eq)]
pub struct Get {
    https: bool,
    host: String,
    port: u16,
    target: String,
    headers: HeaderMap,
}

impl fmt::Debug for Get {
    /// Leaves the headers out: they may carry credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

/// Why an action cannot be requested. The texts are upstream's; a header's value may be secret.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The name of a header is none.
    #[error("net/http: invalid header field name {0:?}")]
    HeaderName(String),
    /// The value of the header of this name is none.
    #[error("net/http: invalid header field value for {0:?}")]
    HeaderValue(String),
    /// The user agent cannot be a header.
    #[error(transparent)]
    Agent(InvalidHeaderValue),
    /// The port is none.
    #[error(transparent)]
    Port(#[from] PortError),
}

impl Get {
    /// Reads an action of the spec. `purpose` is `probe` or `lifecycle`, for the user agent.
    pub fn new(
        action: &api::HTTPGetAction,
        container: &api::Container,
        pod_ip: IpAddr,
        purpose: &str,
    ) -> Result<Self, ActionError> {
        let scheme = action.scheme.as_deref().unwrap_or_default().to_ascii_lowercase();
        let mut headers = HeaderMap::new();

        for header in action.http_headers.iter().flatten() {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_| ActionError::HeaderName(header.name.clone()))?;
            let value = HeaderValue::from_str(&header.value)
                .map_err(|_| ActionError::HeaderValue(header.name.clone()))?;
            headers.append(name, value);
        }

        let agent = format!("kube-{purpose}/1.36");
        let agent = HeaderValue::from_str(&agent).map_err(ActionError::Agent)?;
        headers.entry(USER_AGENT).or_insert(agent);
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));

        // A header that is given with an empty value is not sent.
        for name in [USER_AGENT, ACCEPT] {
            if headers.get(&name).is_some_and(HeaderValue::is_empty) {
                headers.remove(&name);
            }
        }

        // A GET has no body whose length could be given.
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        Ok(Self {
            https: scheme == "https",
            host: host_or(action.host.as_deref(), pod_ip),
            port: port(&action.port, container)?,
            target: target(action.path.as_deref().unwrap_or_default()),
            headers,
        })
    }

    /// Returns `host:port`.
    pub fn authority(&self) -> String {
        host_port(&self.host, self.port)
    }

    /// Returns true if the scheme is HTTPS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Returns the same request over plain HTTP, without credentials.
    #[must_use]
    pub fn without_tls(mut self) -> Self {
        self.https = false;
        self.headers.remove(http::header::AUTHORIZATION);
        self
    }

    fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.target)
    }

    /// Returns the request that a redirect leads to; `Ok(None)` if the redirect is not followed
    /// because it names no location or leaves the host.
    fn redirected(&self, response: &Response<Incoming>) -> Result<Option<Self>, GetError> {
        let followed = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let Some(location) = response.headers().get(LOCATION).filter(|_| followed) else {
            return Ok(None);
        };

        let broken = || GetError::other(&self.url(), "failed to parse Location header");
        let location = location.to_str().map_err(|_| broken())?;
        let mut next = self.clone();
        let absolute = match location.split_once("://") {
            Some((scheme, rest))
                if matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") =>
            {
                next.https = scheme.eq_ignore_ascii_case("https");
                Some(rest)
            }
            Some(_) | None => location.strip_prefix("//"),
        };

        if let Some(absolute) = absolute {
            let end = absolute.find(['/', '?', '#']).unwrap_or(absolute.len());
            let (authority, path) = absolute.split_at(end);
            let authority: http::uri::Authority = authority.parse().map_err(|_| broken())?;
            authority.host().trim_matches(['[', ']']).clone_into(&mut next.host);
            next.port = authority.port_u16().unwrap_or(if next.https { 443 } else { 80 });
            next.target = of_location(path);
            // The probe's Host header is meant for the first server only.
            next.headers.remove(HOST);
        } else if location.starts_with('/') {
            next.target = of_location(location);
        } else {
            let path = self.target.split('?').next().unwrap_or("/");
            next.target = if location.starts_with('?') {
                of_location(&format!("{path}{location}"))
            } else {
                let parent = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                of_location(&format!("{parent}{location}"))
            };
        }

        Ok((next.host == self.host).then_some(next))
    }
}

/// The reason why there is no answer. The text is Go's, with the request in front.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Get {url:?}: {problem}")]
pub struct GetError {
    url: String,
    problem: String,
    plain_http: bool,
    /// The status, if the answer broke off in its body.
    status: Option<StatusCode>,
}

impl GetError {
    fn other(url: &str, problem: impl Into<String>) -> Self {
        Self { url: url.to_owned(), problem: problem.into(), plain_http: false, status: None }
    }

    /// Returns true if the server answered a TLS handshake with plain HTTP.
    pub fn is_plain_http(&self) -> bool {
        self.plain_http
    }
}

/// Makes the request of a probe and judges the answer.
///
/// Upstream discards an attempt whose answer breaks off in its body, and one whose body does not
/// end in time: a server that is too ill to answer is then never restarted
/// (kubernetes/kubernetes#122591). Here a bad status counts however the body ends, and so does a
/// missed deadline. A good status with a short body decides nothing, as upstream: some servers
/// always announce a wrong length.
pub(super) async fn check(get: &Get, timeout: Duration) -> CheckResult {
    let started = get.clone();
    let mut seen = None;
    let bad = |status: StatusCode| {
        // The body stays out of the message: it may hold data that only the pod's own users may
        // see.
        CheckResult::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    };
    let is_good = |status: StatusCode| (200..400).contains(&status.as_u16());

    match tokio::time::timeout(timeout, fetch(started, &mut seen)).await {
        Ok(Ok((status, body))) if status.is_redirection() => {
            let body = String::from_utf8_lossy(&body);
            CheckResult::Warning(format!("Probe terminated redirects, Response body: {body}"))
        }
        Ok(Ok((status, _))) if is_good(status) => CheckResult::Success,
        Ok(Ok((status, _))) => bad(status),
        Ok(Err(error)) => match error.status {
            None => CheckResult::Failure(error.to_string()),
            Some(status) if is_good(status) => {
                CheckResult::Error { state: "failure", problem: error.problem }
            }
            Some(status) => bad(status),
        },
        Err(_) => match seen {
            None => CheckResult::Failure(format!(
                "Get {:?}: context deadline exceeded \
                 (Client.Timeout exceeded while awaiting headers)",
                get.url()
            )),
            Some(status) if is_good(status) => CheckResult::Failure(
                "context deadline exceeded \
                 (Client.Timeout or context cancellation while reading body)"
                    .to_owned(),
            ),
            Some(status) => bad(status),
        },
    }
}

/// Makes the request of a hook, which accepts any answer. It has no deadline of its own.
/// Cancel-safe.
pub async fn fetch_any(get: &Get) -> Result<StatusCode, GetError> {
    match fetch(get.clone(), &mut None).await {
        Ok((status, _)) => Ok(status),
        Err(error) => Err(error),
    }
}

/// Makes the request and those that it is redirected to. `seen` is the status of the last answer
/// whose headers have arrived while its body is being read.
async fn fetch(
    mut get: Get,
    seen: &mut Option<StatusCode>,
) -> Result<(StatusCode, Vec<u8>), GetError> {
    for _ in 0..MAX_REQUESTS {
        match request(&get, seen).await? {
            Answer::Final(status, body) => return Ok((status, body)),
            Answer::Redirect(next) => get = next,
        }
    }
    Err(GetError::other(&get.target, "stopped after 10 redirects"))
}

/// The end of one request.
enum Answer {
    Final(StatusCode, Vec<u8>),
    Redirect(Get),
}

/// Makes one request over a connection of its own.
async fn request(get: &Get, seen: &mut Option<StatusCode>) -> Result<Answer, GetError> {
    let url = get.url();
    let stream =
        tcp::dial(&get.host, get.port).await.map_err(|error| GetError::other(&url, error.0))?;
    if !get.https {
        return exchange(get, stream, false, seen).await;
    }

    let stream = tls::connect(stream, &get.host).await.map_err(|failure| match failure {
        tls::TlsError::PlainHttp => GetError {
            plain_http: true,
            ..GetError::other(&url, "http: server gave HTTP response to HTTPS client")
        },
        tls::TlsError::Other(problem) => GetError::other(&url, problem),
    })?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    exchange(get, stream, http2, seen).await
}

async fn exchange<S>(
    get: &Get,
    stream: S,
    http2: bool,
    seen: &mut Option<StatusCode>,
) -> Result<Answer, GetError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let url = get.url();
    let failed = |error: hyper::Error| GetError::other(&url, hyper_text(&error));
    let io = TokioIo::new(stream);

    if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(failed)?;
        let call = async { sender.send_request(message(get, true)?).await.map_err(failed) };
        return drive(get, call, connection, seen).await;
    }

    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .handshake(io)
        .await
        .map_err(failed)?;
    let call = async { sender.send_request(message(get, false)?).await.map_err(failed) };
    drive(get, call, connection, seen).await
}

/// Drives the connection beside the request, in this task, until the answer has been read.
async fn drive(
    get: &Get,
    call: impl Future<Output = Result<Response<Incoming>, GetError>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
    seen: &mut Option<StatusCode>,
) -> Result<Answer, GetError> {
    let answer = async {
        let response = call.await?;
        if let Some(next) = get.redirected(&response)? {
            return Ok(Answer::Redirect(next));
        }

        let status = response.status();
        *seen = Some(status);
        let body = read(response.into_body()).await.map_err(|error| GetError {
            status: Some(status),
            ..GetError::other(&get.url(), body_text(&error))
        })?;

        Ok(Answer::Final(status, body))
    };
    tokio::pin!(answer, connection);

    // Both branches are polled to their ends within this future; neither loses anything.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection has ended: the answer has received its data, and its error too.
        _ = &mut connection => answer.await,
    }
}

fn message(get: &Get, http2: bool) -> Result<Request<Empty<Bytes>>, GetError> {
    let url = get.url();
    let mut headers = get.headers.clone();
    let host = headers.remove(HOST).and_then(|host| host.to_str().map(str::to_owned).ok());
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| get.authority());
    let builder = if http2 {
        Request::get(format!("https://{host}{}", get.target)).version(http::Version::HTTP_2)
    } else {
        let host = HeaderValue::from_str(&host)
            .map_err(|error| GetError::other(&url, error.to_string()))?;
        headers.insert(HOST, host);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Request::get(get.target.as_str())
    };

    let mut request =
        builder.body(Empty::new()).map_err(|error| GetError::other(&url, error.to_string()))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Reads the body up to the limit and leaves the rest unread.
async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_BODY {
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            let room = MAX_BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(bytes)
}

/// Words a failure before the answer as Go does.
fn hyper_text(error: &hyper::Error) -> String {
    if let Some(io) = io_error(error) {
        return if io.kind() == std::io::ErrorKind::UnexpectedEof {
            "EOF".into()
        } else {
            format!("read: {}", os_text(io))
        };
    }

    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".into();
    }

    if error.is_parse() {
        return format!(
            "net/http: HTTP/1.x transport connection broken: malformed HTTP response ({error})"
        );
    }

    error.to_string()
}

/// Words a failure in the body as Go does.
fn body_text(error: &hyper::Error) -> String {
    match io_error(error) {
        Some(io) if io.kind() != std::io::ErrorKind::UnexpectedEof => {
            format!("read: {}", os_text(io))
        }
        Some(_) | None => "unexpected EOF".into(),
    }
}

/// Returns the I/O error behind a failure, if any.
fn io_error(error: &hyper::Error) -> Option<&std::io::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    /// A server that answers each connection with the answer for its path and keeps what it was
    /// asked.
    struct Server {
        address: SocketAddr,
        asked: tokio::sync::mpsc::Receiver<String>,
        _tasks: JoinSet<()>,
    }

    async fn serve(answers: &'static [(&'static str, &'static str)]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (send, asked) = tokio::sync::mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut text = Vec::new();
                let mut chunk = [0; 1024];
                while !text.windows(4).any(|window| window == b"\r\n\r\n") {
                    match stream.read(&mut chunk).await {
                        Ok(read) if read > 0 => text.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                    if !text.starts_with(b"GET") {
                        break;
                    }
                }
                let text = String::from_utf8_lossy(&text).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default();
                let answer = answers.iter().find(|(wanted, _)| *wanted == path || *wanted == "*");
                let answer = answer.map_or("HTTP/1.1 404 Not Found\r\n\r\n", |(_, answer)| answer);
                let written = stream.write_all(answer.as_bytes()).await;
                send.send(text).await.expect("the test listens");
                drop(written);
            }
        });
        Server { address, asked, _tasks: tasks }
    }

    fn get(address: SocketAddr, action: serde_json::Value) -> Get {
        let mut action = action;
        action["port"] = serde_json::json!(address.port());
        let action: api::HTTPGetAction = serde_json::from_value(action).expect("an action");
        Get::new(&action, &api::Container::default(), address.ip(), "probe").expect("a request")
    }

    const LONG: Duration = Duration::from_secs(20);

    async fn probe(answers: &'static [(&'static str, &'static str)], path: &str) -> CheckResult {
        let server = serve(answers).await;
        match check(&get(server.address, serde_json::json!({"path": path})), LONG).await {
            CheckResult::Failure(text) => {
                CheckResult::Failure(text.replace(&server.address.to_string(), "ADDRESS"))
            }
            other
            @ (CheckResult::Success | CheckResult::Warning(_) | CheckResult::Error { .. }) => other,
        }
    }

    fn failure(text: &str) -> CheckResult {
        CheckResult::Failure(text.to_owned())
    }

    #[tokio::test]
    async fn judges_by_status() {
        assert_eq!(probe(&[("/", "HTTP/1.1 200 OK\r\n\r\nfine")], "").await, CheckResult::Success);
        assert_eq!(probe(&[("/", "HTTP/1.1 399 Odd\r\n\r\n")], "/").await, probe_warning(""));
        assert_eq!(
            probe(&[("/x", "HTTP/1.1 500 No\r\n\r\nsecret")], "/x").await,
            failure("HTTP probe failed with statuscode: 500")
        );
    }

    fn probe_warning(body: &str) -> CheckResult {
        CheckResult::Warning(format!("Probe terminated redirects, Response body: {body}"))
    }

    #[tokio::test]
    async fn follows_redirects_on_the_same_host_only() {
        let local = &[
            ("/", "HTTP/1.1 302 F\r\nLocation: /a\r\n\r\n"),
            ("/a", "HTTP/1.1 307 T\r\nLocation: b?x=1\r\n\r\n"),
            ("/b?x=1", "HTTP/1.1 200 OK\r\n\r\n"),
        ];
        assert_eq!(probe(local, "/").await, CheckResult::Success);
        let away = &[("/", "HTTP/1.1 302 F\r\nLocation: http://example.com/\r\n\r\nbye")];
        assert_eq!(probe(away, "/").await, probe_warning("bye"));
        let nowhere = &[("/", "HTTP/1.1 302 F\r\n\r\n")];
        assert_eq!(probe(nowhere, "/").await, probe_warning(""));
        let circle = &[("/loop", "HTTP/1.1 302 F\r\nLocation: /loop\r\n\r\n")];
        assert_eq!(
            probe(circle, "/loop").await,
            failure("Get \"/loop\": stopped after 10 redirects")
        );
    }

    #[tokio::test]
    async fn says_what_went_wrong() {
        let closed = probe(&[("/", "")], "/").await;
        assert_eq!(closed, failure("Get \"http://ADDRESS/\": EOF"));
        let CheckResult::Failure(text) = probe(&[("*", "garbage\r\n\r\n")], "/").await else {
            panic!("it must fail")
        };
        assert!(text.contains("malformed HTTP response"), "{text}");
        let short = probe(&[("/", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")], "/").await;
        assert_eq!(
            short,
            CheckResult::Error { state: "failure", problem: "unexpected EOF".into() }
        );
        let cut = probe(&[("/", "HTTP/1.1 500 No\r\nContent-Length: 10\r\n\r\nabc")], "/").await;
        assert_eq!(cut, failure("HTTP probe failed with statuscode: 500"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let silent =
            check(&get(address, serde_json::json!({"path": "/x"})), Duration::from_millis(20))
                .await;
        let expected = format!(
            "Get \"http://{address}/x\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        );
        assert_eq!(silent, failure(&expected));
        drop(listener);
        let refused = check(&get(address, serde_json::json!({})), LONG).await;
        let expected =
            format!("Get \"http://{address}/\": dial tcp {address}: connect: connection refused");
        assert_eq!(refused, failure(&expected));
    }

    #[tokio::test]
    async fn sends_upstreams_headers() {
        let mut server = serve(&[("*", "HTTP/1.1 200 OK\r\n\r\n")]).await;
        let action = serde_json::json!({"path": "/a b?x=1#frag", "httpHeaders": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}]});
        check(&get(server.address, action), LONG).await;
        let text = server.asked.recv().await.expect("asked");
        let mut lines: Vec<_> = text.trim_end().split("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /a%20b?x=1 HTTP/1.1");
        lines.sort_unstable();
        let host = format!("Host: {}", server.address);
        assert_eq!(
            lines,
            [
                "Accept: */*",
                "Connection: close",
                &host,
                "User-Agent: kube-probe/1.36",
                "X-A: 1",
                "X-A: 2"
            ]
        );

        let action = serde_json::json!({"httpHeaders": [
            {"name": "Host", "value": "me"}, {"name": "accept", "value": ""}, {"name": "User-Agent", "value": "own"},
        ]});
        check(&get(server.address, action), LONG).await;
        let text = server.asked.recv().await.expect("asked");
        let mut lines: Vec<_> = text.trim_end().split("\r\n").skip(1).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["Connection: close", "Host: me", "User-Agent: own"]);
    }

    /// A TLS server with a certificate that nobody knows; answers over the protocol that was agreed
    /// on.
    async fn serve_tls(protocol: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
        use rustls::pki_types::PrivateKeyDer;
        let pair =
            rcgen::generate_simple_self_signed(["nobody".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).expect("a key");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a configuration");
        config.alpn_protocols = vec![protocol.to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = acceptor.accept(stream).await.expect("TLS");
                let answer = hyper::service::service_fn(|request: Request<Incoming>| async move {
                    let ok = request.uri().path() == "/healthz"
                        && request.headers()[USER_AGENT] == "kube-probe/1.36";
                    let status = if ok { StatusCode::OK } else { StatusCode::BAD_REQUEST };
                    Response::builder().status(status).body(Empty::<Bytes>::new())
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // The client closes when it has what it wants.
                let _ended = server.serve_connection(TokioIo::new(stream), answer).await;
            }
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn trusts_any_certificate_and_speaks_both_protocols() {
        for protocol in [b"http/1.1".as_slice(), b"h2".as_slice()] {
            let (address, _tasks) = serve_tls(protocol).await;
            let probe = |path| get(address, serde_json::json!({"scheme": "HTTPS", "path": path}));
            assert_eq!(check(&probe("/healthz"), LONG).await, CheckResult::Success);
            let failed = failure("HTTP probe failed with statuscode: 400");
            assert_eq!(check(&probe("/other"), LONG).await, failed);
        }
    }

    #[tokio::test]
    async fn notices_plain_http() {
        let server = serve(&[("*", "HTTP/1.1 400 Bad Request\r\n\r\n")]).await;
        let get = get(server.address, serde_json::json!({"scheme": "HTTPS"}));
        let error = fetch_any(&get).await.expect_err("no TLS there");
        assert!(error.is_plain_http());
        let expected = format!(
            "Get \"https://{}/\": http: server gave HTTP response to HTTPS client",
            server.address
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn refuses_headers_that_are_none() {
        let action = |name: &str, value: &str| {
            let headers = serde_json::json!([{"name": name, "value": value}]);
            let action =
                serde_json::from_value(serde_json::json!({"port": 80, "httpHeaders": headers}))
                    .expect("action");
            Get::new(&action, &api::Container::default(), "::1".parse().expect("ip"), "probe")
                .map(|get| get.url())
                .map_err(|error| error.to_string())
        };
        assert_eq!(action("X Y", "1"), Err("net/http: invalid header field name \"X Y\"".into()));
        assert_eq!(
            action("Xy", "a\nb"),
            Err("net/http: invalid header field value for \"Xy\"".into())
        );
        assert_eq!(action("Xy", "a"), Ok("http://[::1]:80/".into()));
    }
}
