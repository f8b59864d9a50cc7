//! The clients of the API server: one `kube::Client` per purpose, each on connections of its own.
//!
//! Made once by the daemon, cloned by everybody. Nothing is connected before the first request.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use rustls::pki_types::ServerName;

use super::connectivity::Connectivity;
use super::credentials::{Credentials, CredentialsError};
use super::kubeconfig::{self, Access, KubeconfigError};
use super::limiter::{Limiter, Urgency};
use super::proxy::{Connector, Proxy};
use super::requests::RequestMetrics;
use super::transport::{self, ANSWER_DEADLINE, Lane, LaneKind};
use crate::clock::Clock;
use crate::config::Proxies;
use crate::telemetry::metrics::Registry;

/// What upstream's kubelet of this release calls itself; audit policies and flow schemas match on
/// it.
pub const USER_AGENT: &str =
    concat!("kubelet/v1.36.3 (linux/amd64) kubernetes/rkubelet-", env!("CARGO_PKG_VERSION"));
/// How long a lease renewal may take: the lease's renew interval, as upstream.
pub const LEASE_DEADLINE: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(15);
/// The lease's connection is found dead soonest: the node's life hangs on it.
const LEASE_PING: Duration = Duration::from_secs(5);

/// How to reach the API server.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The kubeconfig's path.
    pub kubeconfig: PathBuf,
    /// This node's name.
    pub node_name: String,
    /// `kubeAPIQPS`; zero is client-go's 5, negative is no limit.
    pub qps: f64,
    /// `kubeAPIBurst`.
    pub burst: u32,
    /// `eventRecordQPS`; zero or negative is no limit.
    pub event_qps: f64,
    /// `eventBurst`.
    pub event_burst: u32,
    /// `DISABLE_HTTP2`: speak HTTP/1.1 only.
    pub disable_http2: bool,
    /// The proxies of the environment; one of the kubeconfig's goes first.
    pub proxies: Proxies,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    /// The credentials in it.
    #[error("cannot use the credentials of kubeconfig {kubeconfig}")]
    Credentials {
        /// The kubeconfig.
        kubeconfig: PathBuf,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// `tls-server-name`.
    #[error("kubeconfig {kubeconfig}: tls-server-name {name:?} is no server name")]
    ServerName {
        /// The kubeconfig.
        kubeconfig: PathBuf,
        /// The name.
        name: String,
    },
}

/// The clients. Cheap to clone.
#[derive(Clone)]
pub struct Clients {
    /// For everything that changes something, and for single GETs. Rate limited.
    pub writes: kube::Client,
    /// For lists and watches; spread over connections. Shares the rate limit, after the writes.
    pub watches: kube::Client,
    /// For the lease and the node's status: a connection of its own, no rate limit, deadline
    /// [`LEASE_DEADLINE`].
    pub lease: kube::Client,
    /// As `lease`, on yet another connection: tried when the first is slow (it may end at another
    /// API server).
    pub lease_hedge: kube::Client,
    /// For events: a connection and a rate limit of their own.
    pub events: kube::Client,
    /// Whether the server can be reached, as all of these know.
    pub reach: Connectivity,
    /// This node's name.
    pub node_name: Arc<str>,
    lanes: Arc<[Lane]>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients")
            .field("node_name", &self.node_name)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl Clients {
    /// Reads the kubeconfig and prepares the lanes. Must be called within a tokio runtime. Reads
    /// files (briefly blocking); connects to nobody.
    pub fn new(config: &ClientConfig, clock: Clock) -> Result<Self, ClientError> {
        let access = kubeconfig::load(&config.kubeconfig)?;
        Self::with_access(config, access, clock)
    }

    /// As [`Clients::new`] with the kubeconfig already understood (bootstrap).
    pub fn with_access(
        config: &ClientConfig,
        mut access: Access,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        let wrap =
            |source| ClientError::Credentials { kubeconfig: config.kubeconfig.clone(), source };
        let credentials = Credentials::new(&mut access, clock).map_err(wrap)?;
        let tls = credentials.tls(&access).map_err(wrap)?;
        let server_name = match &access.tls_server_name {
            None => None,
            Some(name) => {
                Some(ServerName::try_from(name.clone()).map_err(|_| ClientError::ServerName {
                    kubeconfig: config.kubeconfig.clone(),
                    name: name.clone(),
                })?)
            }
        };
        let proxy = access.proxy.take().or_else(|| config.proxies.choose(&access.server));
        let proxy = proxy.map(Proxy::new).transpose().map_err(wrap)?;
        let disable_http2 = config.disable_http2;
        let reach = Connectivity::default();
        let lane = |name, ping, deadline, urgency, limiter: &Limiter| {
            let (tls, server_name, proxy) = (tls.clone(), server_name.clone(), proxy.clone());
            let make = move || {
                let mut builder =
                    HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
                if let Some(name) = &server_name {
                    builder = builder
                        .with_server_name_resolver(FixedServerNameResolver::new(name.clone()));
                }
                let tcp = Connector { tcp: transport::tcp_connector(ping), proxy: proxy.clone() };
                if disable_http2 {
                    builder.enable_http1().wrap_connector(tcp)
                } else {
                    builder.enable_all_versions().wrap_connector(tcp)
                }
            };
            let kind = LaneKind { name, ping, deadline, urgency, user_agent: USER_AGENT };
            Lane::new(
                kind,
                access.server.clone(),
                Arc::clone(&credentials),
                access.impersonation.clone(),
                limiter.clone(),
                reach.clone(),
                Arc::new(make),
            )
        };
        let qps = if config.qps == 0.0 { (5.0, 10) } else { (config.qps, config.burst) };
        let shared = Limiter::new(qps.0, qps.1, clock);
        let none = Limiter::new(0.0, 0, clock);
        let for_events = Limiter::new(config.event_qps, config.event_burst, clock);
        let lanes = vec![
            lane("writes", PING, ANSWER_DEADLINE, Urgency::Write, &shared),
            lane("watches", PING, ANSWER_DEADLINE, Urgency::Watch, &shared),
            lane("lease", LEASE_PING, LEASE_DEADLINE, Urgency::Write, &none),
            lane("lease hedge", LEASE_PING, LEASE_DEADLINE, Urgency::Write, &none),
            lane("events", PING, ANSWER_DEADLINE, Urgency::Write, &for_events),
        ];
        let client = |index: usize| kube::Client::new(lanes[index].clone(), "default");
        Ok(Self {
            writes: client(0),
            watches: client(1),
            lease: client(2),
            lease_hedge: client(3),
            events: client(4),
            reach,
            node_name: config.node_name.as_str().into(),
            lanes: lanes.into(),
        })
    }

    /// Measures the requests of all lanes from now on.
    pub fn measure(&self, registry: &Registry, clock: Clock) {
        let metrics = RequestMetrics::register(registry, clock);
        for lane in self.lanes.iter() {
            lane.measure(&metrics);
        }
    }

    /// Clients that all speak to one service, for tests and other transports.
    pub fn from_client(client: &kube::Client, node_name: &str) -> Self {
        Self {
            writes: client.clone(),
            watches: client.clone(),
            lease: client.clone(),
            lease_hedge: client.clone(),
            events: client.clone(),
            reach: Connectivity::default(),
            node_name: node_name.into(),
            lanes: Vec::new().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::slice;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use base64::Engine as _;
    use bytes::Bytes;
    use futures::StreamExt as _;
    use http::{HeaderMap, Request, Response};
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use parking_lot::Mutex;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use tokio::task::JoinSet;

    use super::{ClientConfig, Clients, USER_AGENT};
    use crate::apiserver::credentials::LOOK_AGAIN;
    use crate::apiserver::exec;
    use crate::apiserver::kubeconfig::{Access, Bearer, Identity, IdentityFiles};
    use crate::apiserver::transport::STREAMS_PER_CONNECTION;
    use crate::clock::Clock;
    use crate::config::Proxies;

    /// An HTTPS server that answers a watch with one event and then keeps it open.
    struct Server {
        access: Access,
        connections: Arc<AtomicUsize>,
        headers: Arc<Mutex<HeaderMap>>,
        /// The certificates that clients showed, in the order of their connections.
        shown: Arc<Mutex<Vec<CertificateDer<'static>>>>,
        _tasks: JoinSet<()>,
    }

    async fn serve() -> Server {
        serve_known(&[]).await
    }

    /// As [`serve`], for clients with one of these certificates.
    async fn serve_known(known: &[CertificateDer<'static>]) -> Server {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in known {
            roots.add(certificate.clone()).expect("a root");
        }
        let provider = crate::apiserver::crypto::provider();
        let verifier = if known.is_empty() {
            WebPkiClientVerifier::no_client_auth()
        } else {
            let roots = Arc::new(roots);
            WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .expect("a verifier")
        };
        let shown: Arc<Mutex<Vec<CertificateDer<'static>>>> = Arc::default();
        let certificates = Arc::clone(&shown);
        let pair =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let certificate: CertificateDer<'static> = pair.cert.der().clone();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).expect("a key");
        let provider = crate::apiserver::crypto::provider();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key)
            .expect("a certificate");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, headers) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(HeaderMap::new())));
        let (count, seen) = (Arc::clone(&connections), Arc::clone(&headers));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                let certificates = Arc::clone(&certificates);
                open.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                    certificates.lock().extend(chain.first().cloned());
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        seen.lock().clone_from(request.headers());
                        let event = Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":{}}\n");
                        let frames =
                            futures::stream::iter([Ok::<_, Infallible>(Frame::data(event))])
                                .chain(futures::stream::pending());
                        std::future::ready(Ok::<_, Infallible>(Response::new(
                            StreamBody::new(frames).boxed_unsync(),
                        )))
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        let access = Access {
            server: format!("https://127.0.0.1:{port}").parse().expect("a URI"),
            server_text: String::new(),
            tls_server_name: Some("localhost".to_owned()),
            roots: Some(vec![certificate]),
            roots_file: None,
            roots_data: None,
            insecure: false,
            identity: None,
            rotated: None,
            bearer: Bearer::Token("t0ken".to_owned()),
            plugin: None,
            proxy: None,
            impersonation: HeaderMap::new(),
        };
        Server { access, connections, headers, shown, _tasks: tasks }
    }

    fn config() -> ClientConfig {
        ClientConfig {
            kubeconfig: "test".into(),
            node_name: "n".to_owned(),
            qps: -1.0,
            burst: 1,
            event_qps: 0.0,
            event_burst: 0,
            disable_http2: false,
            proxies: Proxies::default(),
        }
    }

    #[tokio::test]
    async fn watches_share_connections_up_to_the_limit_and_leave_writes_alone() {
        let server = serve().await;
        let (connections, headers) = (Arc::clone(&server.connections), Arc::clone(&server.headers));
        let clients =
            Clients::with_access(&config(), server.access, Clock::system()).expect("clients");
        let open = |client: kube::Client| async move {
            let request = Request::get("/api/v1/pods?watch=true&timeoutSeconds=60")
                .body(kube::client::Body::empty());
            let mut body =
                client.send(request.expect("a request")).await.expect("an answer").into_body();
            body.frame().await.expect("a frame").expect("an event");
            body
        };
        let all = (0..STREAMS_PER_CONNECTION).map(|_| open(clients.watches.clone()));
        let held = tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(all))
            .await
            .expect("in time");
        assert_eq!(connections.load(Ordering::SeqCst), 1, "all at once, and still one connection");
        let more = tokio::time::timeout(Duration::from_secs(30), open(clients.watches.clone()))
            .await
            .expect("in time");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
        let write = tokio::time::timeout(Duration::from_secs(30), open(clients.writes.clone()))
            .await
            .expect("in time");
        assert_eq!(connections.load(Ordering::SeqCst), 3, "a write does not share with watches");
        assert_eq!(headers.lock()["user-agent"], USER_AGENT);
        assert_eq!(headers.lock()["authorization"], "Bearer t0ken");
        drop((held, more, write));
    }

    /// A client certificate and its PEM files' texts.
    fn client_pair() -> (CertificateDer<'static>, String, String) {
        let pair = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
        (pair.cert.der().clone(), pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
    async fn a_renewed_client_certificate_is_used_without_a_gap() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = IdentityFiles {
            certificate: directory.path().join("client.crt"),
            key: directory.path().join("client.key"),
        };
        let (old, old_certificate, old_key) = client_pair();
        let (new, new_certificate, new_key) = client_pair();
        std::fs::write(&files.certificate, &old_certificate).expect("written");
        std::fs::write(&files.key, &old_key).expect("written");
        let mut server = serve_known(&[old.clone(), new.clone()]).await;
        let mut identity =
            Identity::from_pem(old_certificate.as_bytes(), old_key.as_bytes()).expect("a pair");
        identity.files = Some(files.clone());
        server.access.identity = Some(identity);
        let clients =
            Clients::with_access(&config(), server.access, Clock::system()).expect("clients");
        let open = async |path: &str| {
            let request = Request::get(path).body(kube::client::Body::empty());
            let answer = clients.writes.send(request.expect("a request")).await;
            let mut body = answer.expect("an answer").into_body();
            body.frame().await.expect("a frame").expect("an event");
            body
        };
        let watch = "/api/v1/pods?watch=true&timeoutSeconds=60";
        let mut held = vec![open(watch).await];
        assert_eq!(*server.shown.lock(), slice::from_ref(&old));

        // Half a renewal changes nothing.
        std::fs::write(&files.certificate, &new_certificate).expect("written");
        tokio::time::sleep(LOOK_AGAIN).await;
        held.push(open(watch).await);
        assert_eq!(*server.shown.lock(), slice::from_ref(&old));

        std::fs::write(&files.key, &new_key).expect("written");
        tokio::time::sleep(LOOK_AGAIN).await;
        held.push(open(watch).await);
        assert_eq!(*server.shown.lock(), [old, new]);
        let first = tokio::time::timeout(Duration::from_millis(100), held[0].frame()).await;
        first.expect_err("the first watch goes on, on its own connection");
    }

    #[tokio::test]
    async fn a_rotated_certificate_is_waited_for_and_replaced_under_an_open_watch() {
        let (old, old_certificate, old_key) = client_pair();
        let (new, new_certificate, new_key) = client_pair();
        let mut server = serve_known(&[old.clone(), new.clone()]).await;
        let pair = |certificate: &str, key: &str| {
            let pair = Identity::from_pem(certificate.as_bytes(), key.as_bytes());
            Some(Arc::new(pair.expect("a pair")))
        };
        let (sender, rotated) = tokio::sync::watch::channel(None);
        server.access.rotated = Some(rotated);
        let clients =
            Clients::with_access(&config(), server.access, Clock::system()).expect("clients");
        let open = async || {
            let watch = "/api/v1/pods?watch=true&timeoutSeconds=60";
            let request = Request::get(watch).body(kube::client::Body::empty());
            let answer = clients.writes.send(request.expect("a request")).await;
            let mut body = answer.expect("an answer").into_body();
            body.frame().await.expect("a frame").expect("an event");
            body
        };

        let bootstrap = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(server.connections.load(Ordering::SeqCst), 0, "nothing is sent before");
            sender.send_replace(pair(&old_certificate, &old_key));
        };
        let (mut first, ()) = tokio::join!(open(), bootstrap);
        assert_eq!(*server.shown.lock(), slice::from_ref(&old));

        sender.send_replace(pair(&new_certificate, &new_key));
        let _second = open().await;
        assert_eq!(*server.shown.lock(), [old, new]);
        let next = tokio::time::timeout(Duration::from_millis(100), first.frame()).await;
        next.expect_err("the first watch goes on, on its own connection");
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
    async fn changed_authorities_are_trusted_and_those_before_no_longer() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ca.crt");
        let mut server = serve().await;
        let own = server.access.roots.clone().expect("its certificate").remove(0);
        let pem = |certificate: &CertificateDer<'_>| {
            let text = base64::engine::general_purpose::STANDARD.encode(certificate);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        let (other, other_pem, _) = client_pair();
        std::fs::write(&file, &other_pem).expect("written");
        server.access.roots = Some(vec![other]);
        server.access.roots_file = Some(file.clone());
        let clients =
            Clients::with_access(&config(), server.access, Clock::system()).expect("clients");
        let ask = async || {
            let request = Request::get("/api/v1/pods?watch=true&timeoutSeconds=60")
                .body(kube::client::Body::empty());
            clients.writes.send(request.expect("a request")).await.map(drop)
        };
        ask().await.expect_err("another authority");

        std::fs::write(&file, pem(&own)).expect("written");
        tokio::time::sleep(LOOK_AGAIN).await;
        ask().await.expect("trusted now");

        // Half a change leaves the authorities as they are.
        std::fs::write(&file, "").expect("written");
        tokio::time::sleep(LOOK_AGAIN).await;
        ask().await.expect("still trusted");

        std::fs::write(&file, &other_pem).expect("written");
        tokio::time::sleep(LOOK_AGAIN).await;
        ask().await.expect_err("the connection of the authority before gets no new requests");
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
    async fn another_certificate_of_the_plugin_is_used_and_another_token_alone_is_none() {
        let directory = tempfile::tempdir().expect("a folder");
        let answer = directory.path().join("answer");
        let (old, old_certificate, old_key) = client_pair();
        let (new, new_certificate, new_key) = client_pair();
        let give = |token: &str, certificate: &str, key: &str| {
            // Expired: the plug-in runs for each request.
            let credential = serde_json::json!({
                "kind": "ExecCredential",
                "apiVersion": exec::VERSIONS[0],
                "status": {
                    "token": token,
                    "clientCertificateData": certificate,
                    "clientKeyData": key,
                    "expirationTimestamp": "2020-01-01T00:00:00Z",
                },
            });
            std::fs::write(&answer, credential.to_string()).expect("written");
        };
        let mut server = serve_known(&[old.clone(), new.clone()]).await;
        server.access.bearer = Bearer::None;
        server.access.plugin = Some(exec::Plugin {
            command: "cat".into(),
            args: vec![answer.display().to_string()],
            env: Vec::new(),
            api_version: exec::VERSIONS[0].to_owned(),
            install_hint: String::new(),
            cluster: None,
        });
        let clients =
            Clients::with_access(&config(), server.access, Clock::system()).expect("clients");
        let ask = async || {
            let request = Request::get("/api/v1/pods?watch=true&timeoutSeconds=60")
                .body(kube::client::Body::empty());
            let answer = clients.writes.send(request.expect("a request")).await;
            answer.expect("an answer");
        };

        give("one", &old_certificate, &old_key);
        ask().await;
        give("two", &old_certificate, &old_key);
        ask().await;
        assert_eq!(server.headers.lock()["authorization"], "Bearer two");
        assert_eq!(*server.shown.lock(), slice::from_ref(&old));

        give("two", &new_certificate, &new_key);
        ask().await;
        assert_eq!(*server.shown.lock(), [old, new]);
    }

    #[tokio::test]
    async fn an_answer_on_one_lane_is_heard_by_who_waits_on_another() {
        let server = serve().await;
        let there = server.access.server.clone();
        // Nobody listens there once the port is given back.
        let port = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port")
            .local_addr()
            .expect("an address");
        let away =
            Access { server: format!("https://{port}").parse().expect("a URI"), ..server.access };
        let clients = Clients::with_access(&config(), away, Clock::system()).expect("clients");
        let ask = |client: kube::Client| async move {
            let request = Request::get("/api/v1/pods?watch=true&timeoutSeconds=60")
                .body(kube::client::Body::empty());
            client.send(request.expect("a request")).await.map(drop)
        };
        let mut returns = clients.reach.listen();
        ask(clients.watches.clone()).await.expect_err("nobody answers");
        let second = tokio::net::TcpListener::bind(port).await.expect("the port is free");
        let target = format!("127.0.0.1:{}", there.port_u16().expect("a port"));
        let mut relay = JoinSet::new();
        relay.spawn(async move {
            while let Ok((mut stream, _)) = second.accept().await {
                let mut onward = tokio::net::TcpStream::connect(&target).await.expect("the server");
                tokio::io::copy_bidirectional(&mut stream, &mut onward).await.ok();
            }
        });
        let early = tokio::time::timeout(Duration::from_millis(50), returns.next()).await;
        early.expect_err("nobody has been answered yet");
        ask(clients.lease.clone()).await.expect("an answer");
        tokio::time::timeout(Duration::from_secs(10), returns.next()).await.expect("told");
    }
}
