//! The clients of the API server: one `kube::Client` per purpose, each on connections of its own.
//!
//! Made once by the daemon, cloned by everybody. Nothing is connected before the first request.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use rustls::pki_types::ServerName;

use super::credentials::{Credentials, CredentialsError};
use super::kubeconfig::{self, Access, Identity, KubeconfigError};
use super::limiter::{Limiter, Urgency};
use super::transport::{self, ANSWER_DEADLINE, Lane, LaneKind};
use crate::clock::Clock;

/// What upstream's kubelet of this release calls itself; audit policies and flow schemas match on it.
pub const USER_AGENT: &str = concat!("kubelet/v1.36.3 (linux/amd64) kubernetes/rkubelet-", env!("CARGO_PKG_VERSION"));
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
    /// For the lease and the node's status: a connection of its own, no rate limit, deadline [`LEASE_DEADLINE`].
    pub lease: kube::Client,
    /// As `lease`, on yet another connection: tried when the first is slow (it may end at another API server).
    pub lease_hedge: kube::Client,
    /// For events: a connection and a rate limit of their own.
    pub events: kube::Client,
    /// This node's name.
    pub node_name: Arc<str>,
    lanes: Arc<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    lanes: Vec<Lane>,
    credentials: Option<Arc<Credentials>>,
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
    /// Reads the kubeconfig and prepares the lanes. Must be called within a tokio runtime. Reads files (briefly blocking);
    /// connects to nobody.
    pub fn new(config: &ClientConfig, clock: Clock) -> Result<Self, ClientError> {
        let access = kubeconfig::load(&config.kubeconfig)?;
        Self::with_access(config, access, clock)
    }

    /// As [`Clients::new`] with the kubeconfig already understood (bootstrap).
    pub fn with_access(config: &ClientConfig, mut access: Access, clock: Clock) -> Result<Self, ClientError> {
        let wrap = |source| ClientError::Credentials { kubeconfig: config.kubeconfig.clone(), source };
        let credentials = Credentials::new(&mut access, clock).map_err(wrap)?;
        let tls = credentials.tls(&access).map_err(wrap)?;
        let server_name =
            match &access.tls_server_name {
                None => None,
                Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| ClientError::ServerName {
                    kubeconfig: config.kubeconfig.clone(),
                    name: name.clone(),
                })?),
            };
        let disable_http2 = config.disable_http2;
        let lane = |name, ping, deadline, urgency, limiter: &Limiter| {
            let (tls, server_name) = (tls.clone(), server_name.clone());
            let make = move || {
                let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
                if let Some(name) = &server_name {
                    builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone()));
                }
                let tcp = transport::tcp_connector(ping);
                if disable_http2 {
                    builder.enable_http1().wrap_connector(tcp)
                } else {
                    builder.enable_all_versions().wrap_connector(tcp)
                }
            };
            let kind = LaneKind { name, ping, deadline, urgency, user_agent: USER_AGENT };
            Lane::new(kind, access.server.clone(), Arc::clone(&credentials), limiter.clone(), Arc::new(make))
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
            node_name: config.node_name.as_str().into(),
            lanes: Arc::new(Lanes { lanes, credentials: Some(credentials) }),
        })
    }

    /// Clients that all speak to one service, for tests and other transports.
    pub fn from_client(client: &kube::Client, node_name: &str) -> Self {
        Self {
            writes: client.clone(),
            watches: client.clone(),
            lease: client.clone(),
            lease_hedge: client.clone(),
            events: client.clone(),
            node_name: node_name.into(),
            lanes: Arc::default(),
        }
    }

    /// Puts a rotated client certificate in place and lets go of the connections that were made with the old one.
    pub fn rotate(&self, identity: Identity) -> Result<(), CredentialsError> {
        if let Some(credentials) = &self.lanes.credentials {
            credentials.replace_identity(identity)?;
        }
        self.reconnect();
        Ok(())
    }

    /// Lets go of every connection; new requests connect anew.
    pub fn reconnect(&self) {
        for lane in &self.lanes.lanes {
            lane.reconnect();
        }
    }
}
