//! A registry of one small image in this process, reached from the node: so that pulls can be
//! watched and delayed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::bed::Bed;

/// Serves `open/…`, `private/…` (user `me`, password `secret`) and `slow/…` (which never answers).
pub(crate) struct Registry {
    /// `ADDRESS:PORT`, the first part of its images' names.
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is served by path: type and content.
type Content = BTreeMap<String, (&'static str, Vec<u8>)>;

impl Registry {
    /// Starts it, and tells the node's containerd that it speaks plain HTTP.
    pub(crate) async fn start(bed: &Bed) -> Result<Self> {
        let listener = TcpListener::bind("10.200.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let folder = bed.cluster.on_node(&format!("/etc/containerd/certs.d/{address}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("hosts.toml"), format!("server = \"http://{address}\"\n"))?;
        let content = Arc::new(image(&address)?);
        let task = tokio::task::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let content = content.clone();
                connections.spawn(async move { serve(stream, &content).await });
            }
        });
        Ok(Self { address, task })
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The image: one file, `/pause`, which is also its command. `salt` makes it another image than
/// anybody else's.
fn image(salt: &str) -> Result<Content> {
    let layer = archive("pause", &std::fs::read(pause_binary()?)?);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "Labels": {"salt": salt}},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    })
    .to_string()
    .into_bytes();
    let part = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": part("application/vnd.oci.image.config.v1+json", &config),
        "layers": [part("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string()
    .into_bytes();
    let mut content = Content::new();
    content.insert("/manifests/1".to_owned(), (manifest_type, manifest.clone()));
    content.insert(format!("/manifests/{}", digest(&manifest)), (manifest_type, manifest));
    content.insert(format!("/blobs/{}", digest(&config)), ("application/octet-stream", config));
    content.insert(format!("/blobs/{}", digest(&layer)), ("application/octet-stream", layer));
    Ok(content)
}

/// The smallest program that the harness has built.
fn pause_binary() -> Result<std::path::PathBuf> {
    let cache = match std::env::var("XDG_CACHE_HOME") {
        Ok(folder) => folder.into(),
        Err(_) => std::path::PathBuf::from(
            std::env::var("HOME").context("neither XDG_CACHE_HOME nor HOME")?,
        )
        .join(".cache"),
    };
    Ok(cache.join("rkubelet/pause/pause"))
}

/// A tar archive of one program.
fn archive(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

/// Answers one request and closes.
async fn serve(stream: TcpStream, content: &Content) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await.ok()?;
    let mut known = false;
    let credentials = base64::engine::general_purpose::STANDARD.encode("me:secret");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        known |=
            line.to_lowercase().starts_with("authorization: basic") && line.contains(&credentials);
        if line.trim().is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let path = path.split('?').next()?;
    if path.starts_with("/v2/slow/") {
        // Says nothing until the other side gives up.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok()?;
        return None;
    }
    let found = content.iter().find(|(end, _)| path.ends_with(end.as_str()));
    let answer = if path.starts_with("/v2/private/") && !known {
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"here\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            .to_vec()
    } else if let Some((_, (kind, bytes))) = found {
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            digest(bytes),
            bytes.len()
        )
        .into_bytes();
        if method == "GET" {
            answer.extend(bytes);
        }
        answer
    } else {
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    };
    stream.write_all(&answer).await.ok()?;
    stream.shutdown().await.ok()
}
