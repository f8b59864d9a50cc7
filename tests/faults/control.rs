//! The control sockets of the two proxies (see `tests/cluster/README.md`): rules, held calls, and
//! what was recorded.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use rkubelet_bed::cluster::Cluster;
use serde::Deserialize;
use serde_json::{Value, json};

/// One of the proxies.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    socket: PathBuf,
}

/// A call that passed: times are nanoseconds of the wall clock.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Call {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) method: String,
    #[serde(default)]
    pub(crate) pod: String,
    #[serde(default)]
    pub(crate) container: String,
    #[serde(default)]
    pub(crate) request: Value,
    #[serde(default)]
    pub(crate) response: Value,
    /// Of one whose answer was lost it says so.
    pub(crate) message: String,
}

impl Call {
    /// The other side did the work, whether or not the kubelet heard of it.
    pub(crate) fn done(&self) -> bool {
        !self.response.is_null()
    }

    /// `CreateContainer main`, or only the method.
    pub(crate) fn what(&self) -> String {
        format!("{} {}", self.method, self.container).trim_end().to_owned()
    }
}

/// A call at a barrier.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Held {
    pub(crate) rule: String,
}

impl Proxy {
    /// Between the kubelet and the runtime.
    pub(crate) fn cri(cluster: &Cluster) -> Self {
        Self { socket: cluster.env("NODE_N1_CRI_PROXY").into() }
    }

    /// Between the kubelet and the API server.
    pub(crate) fn api(cluster: &Cluster) -> Self {
        Self { socket: cluster.env("NODE_N1_API_PROXY").into() }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Bytes> {
        let asked = async {
            let stream = tokio::net::UnixStream::connect(&self.socket).await?;
            let io = hyper_util::rt::TokioIo::new(stream);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            let connection = tokio::task::spawn(connection);
            let body = body.map(Value::to_string).unwrap_or_default();
            let request = http::Request::builder().method(method).uri(path).header("Host", "proxy");
            let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
            let status = answer.status();
            let text = answer.into_body().collect().await?.to_bytes();
            connection.abort();
            ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&text));
            anyhow::Ok(text)
        };
        asked
            .await
            .with_context(|| format!("{method} {path} of the proxy at {}", self.socket.display()))
    }

    /// Puts these rules in force, and no others.
    pub(crate) async fn rules(&self, rules: &[Value]) -> Result<()> {
        self.ask("PUT", "/rules", Some(&json!(rules))).await.map(drop)
    }

    /// The calls that wait now.
    pub(crate) async fn held(&self) -> Result<Vec<Held>> {
        Ok(serde_json::from_slice(&self.ask("GET", "/held", None).await?)?)
    }

    /// Waits until calls of this many rules are held; returns the names of the rules, also if they
    /// are fewer in the end.
    pub(crate) async fn until_held(&self, rules: usize, patience: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + patience;
        loop {
            let mut names: Vec<String> =
                self.held().await?.into_iter().map(|held| held.rule).collect();
            names.sort();
            names.dedup();
            if names.len() >= rules || Instant::now() > deadline {
                return Ok(names);
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Waits until the callers of all held calls have left.
    pub(crate) async fn until_none_held(&self) -> Result<()> {
        for _ in 0..1000 {
            if self.held().await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the callers of held calls have not left after 10 s")
    }

    /// Forgets what was recorded so far.
    pub(crate) async fn forget(&self) -> Result<()> {
        self.ask("DELETE", "/record", None).await.map(drop)
    }

    /// The recorded calls whose method the pattern describes.
    pub(crate) async fn recorded(&self, methods: &str) -> Result<Vec<Call>> {
        let path = format!("/record?method={}", methods.replace(' ', "%20").replace('|', "%7C"));
        let text = self.ask("GET", &path, None).await?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }
}
