//! Asks the running kubelet at its local socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::server;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The failure of a question.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answers at the socket.
    #[error(
        "{path}: {source}: is the kubelet running, are you root, and is its root directory another \
         (--root-dir)?"
    )]
    Connect {
        /// The path of the socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kubelet says no.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the kubelet's answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// No answer in time.
    #[error("the kubelet did not answer within {} s", TIMEOUT.as_secs())]
    Slow,
    /// The answer is not what was expected.
    #[error("the kubelet's answer cannot be read, perhaps it is another version: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// This process could not ask.
    #[error("cannot ask: {0}")]
    Runtime(io::Error),
}

/// Asks the kubelet of `root_dir` for a page. Blocks.
pub(super) fn ask(root_dir: &Path, page: &str) -> Result<Bytes, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AskError::Runtime)?;
    let answer =
        runtime.block_on(async { tokio::time::timeout(TIMEOUT, get(root_dir, page)).await });
    answer.unwrap_or(Err(AskError::Slow))
}

/// Asks for a page of JSON. Blocks.
pub(super) fn ask_for<T: DeserializeOwned>(root_dir: &Path, page: &str) -> Result<T, AskError> {
    Ok(serde_json::from_slice(&ask(root_dir, page)?)?)
}

async fn get(root_dir: &Path, page: &str) -> Result<Bytes, AskError> {
    let path = server::socket_path(root_dir);
    let stream = UnixStream::connect(&path).await;
    let stream = stream.map_err(|source| AskError::Connect { path, source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;

    let request =
        Request::get(page).header(http::header::HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| AskError::Refused(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    // The connection is driven beside the exchange, and may end with it or before it.
    let (status, body) = tokio::select! {
        answer = exchange => answer?,
        broken = broken(connection) => return Err(broken.into()),
    };

    if status == StatusCode::OK {
        Ok(body)
    } else {
        Err(AskError::Refused(String::from_utf8_lossy(&body).trim_end().to_owned()))
    }
}

/// Drives a connection until it fails. One that ends well has given its answer.
async fn broken(connection: impl Future<Output = hyper::Result<()>>) -> hyper::Error {
    match connection.await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}
