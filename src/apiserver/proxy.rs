//! Connections to a server, directly or through a proxy: an HTTP tunnel (CONNECT), to a proxy that
//! speaks http or https, or SOCKS 5. A server that speaks http is reached by a proxy that forwards.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use futures::future::BoxFuture;
use http::header::InvalidHeaderValue;
use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{BoxError, Service};

use super::credentials::{CredentialsError, anonymous_tls};

/// How long the way through a proxy may take to be opened.
const DEADLINE: Duration = Duration::from_secs(15);

/// A proxy. `Debug` hides its password.
#[derive(Clone)]
pub struct Proxy {
    uri: Uri,
    user: Option<(String, String)>,
    tls: rustls::ClientConfig,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("scheme", &self.uri.scheme_str())
            .field("host", &self.uri.host())
            .field("port", &self.uri.port_u16())
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy at a URL: `http://`, `https://` or `socks5://`, perhaps with a user.
    pub fn new(uri: Uri) -> Result<Arc<Self>, CredentialsError> {
        let user = uri.authority().and_then(|authority| user_of(authority.as_str()));
        Ok(Arc::new(Self { uri, user, tls: anonymous_tls()? }))
    }

    /// Whether a URL has a scheme that a proxy may have.
    pub fn is_supported(uri: &Uri) -> bool {
        matches!(uri.scheme_str(), Some("http" | "https" | "socks5")) && uri.host().is_some()
    }

    /// Whether it is given the whole request, to be sent on: that is how a server is reached that
    /// speaks http. All others are reached through a way that the proxy opens.
    pub fn forwards(&self, server: &Uri) -> bool {
        server.scheme_str() == Some("http") && self.uri.scheme_str() != Some("socks5")
    }

    /// Connects to the proxy itself, to have it forward requests.
    pub async fn reach(&self, mut tcp: HttpConnector) -> Result<Stream, BoxError> {
        if self.uri.scheme_str() == Some("https") {
            return self.over_tls(tcp).call(self.address(443)?).await;
        }
        Ok(MaybeHttpsStream::Http(tcp.call(self.address(80)?).await?))
    }

    /// The value of `Proxy-Authorization`, if the proxy has a user.
    pub fn authorization(&self) -> Result<Option<HeaderValue>, InvalidHeaderValue> {
        let user = self.user.as_ref();
        user.map(|(name, password)| basic(name, password)).transpose()
    }

    fn over_tls(&self, tcp: HttpConnector) -> HttpsConnector<HttpConnector> {
        HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_only()
            .enable_http1()
            .wrap_connector(tcp)
    }

    /// Opens the way to `server`.
    async fn connect(&self, tcp: HttpConnector, server: Uri) -> Result<Stream, BoxError> {
        match self.uri.scheme_str() {
            Some("socks5") => {
                let mut socks = SocksV5::new(self.address(1080)?, tcp);
                if let Some((name, password)) = &self.user {
                    socks = socks.with_auth(name.clone(), password.clone());
                }
                Ok(MaybeHttpsStream::Http(socks.call(server).await?))
            }
            Some("https") => Ok(self.tunnel(self.over_tls(tcp), 443)?.call(server).await?),
            Some(_) | None => Ok(MaybeHttpsStream::Http(self.tunnel(tcp, 80)?.call(server).await?)),
        }
    }

    fn tunnel<C>(&self, connector: C, port: u16) -> Result<Tunnel<C>, BoxError> {
        let tunnel = Tunnel::new(self.address(port)?, connector);
        Ok(match self.authorization()? {
            Some(authorization) => tunnel.with_auth(authorization),
            None => tunnel,
        })
    }

    /// Its URL with a port and without a user.
    fn address(&self, port: u16) -> Result<Uri, BoxError> {
        let scheme = self.uri.scheme_str().unwrap_or("http");
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port_u16().unwrap_or(port);
        Ok(format!("{scheme}://{host}:{port}/").parse()?)
    }
}

/// Returns the value of the header of basic authentication. It is marked as sensitive.
pub fn basic(name: &str, password: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let both = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {both}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the user and password of an authority, their escapes resolved.
pub fn user_of(authority: &str) -> Option<(String, String)> {
    let (user, _) = authority.rsplit_once('@')?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let plain =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((plain(name), plain(password)))
}

/// A connection, to the server or to its proxy.
pub type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Connects to the API server under TLS.
pub type ServerConnector = HttpsConnector<Connector>;

/// Makes connections, through a proxy if there is one.
#[derive(Clone, Debug)]
pub struct Connector {
    /// What connects.
    pub tcp: HttpConnector,
    /// Through what.
    pub proxy: Option<Arc<Proxy>>,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = self.proxy.clone() else {
            return Box::pin(async move { Ok(MaybeHttpsStream::Http(tcp.call(server).await?)) });
        };
        Box::pin(async move {
            tokio::time::timeout(DEADLINE, proxy.connect(tcp, server)).await.unwrap_or_else(|_| {
                Err(format!("no answer of the proxy within {DEADLINE:?}").into())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_server_is_reached_through_a_tunnel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("sent");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let proxy = format!("http://user:p%40ss@127.0.0.1:{port}").parse().expect("a URI");
        let proxy = Proxy::new(proxy).expect("a proxy");
        assert!(!format!("{proxy:?}").contains("ss@") && !format!("{proxy:?}").contains("user"));
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let mut connector = Connector { tcp, proxy: Some(proxy) };
        let server = "https://api.example.com:6443".parse().expect("a URI");
        connector.call(server).await.expect("a tunnel");
        let request = tasks.join_next().await.expect("a task").expect("heard").to_lowercase();
        assert!(request.starts_with("connect api.example.com:6443 http/1.1\r\n"), "{request}");
        let basic = base64::engine::general_purpose::STANDARD.encode("user:p@ss").to_lowercase();
        assert!(request.contains(&format!("proxy-authorization: basic {basic}")), "{request}");
    }
}
