//! A CSI driver for tests: volumes are folders, staged and published by bind mounts.
//!
//! - It registers itself as node-driver-registrar does, by a socket in `plugins_registry`.
//! - Each request is recorded as a line of JSON in `FOLDER/requests`.
//! - `FOLDER/faults` is read at each call: what hangs, is slow, or fails, and when.
//!
//! ```text
//! --name NAME --folder FOLDER --root /var/lib/kubelet --node-id ID
//! --capabilities stage,group,stats,expand,several  --topology KEY=VALUE  --limit N
//! ```
#![allow(
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test program: it reads and writes files, and what it says goes to stderr"
)]

mod faults;
mod node;
mod record;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

pub use faults::{Fault, write as write_faults};

use node::Driver;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    let_underscore_drop,
    reason = "generated code"
)]
pub(crate) mod v1 {
    include!("../../../proto/gen/csi.v1.rs");
}

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    let_underscore_drop,
    reason = "generated code"
)]
mod registration {
    include!("../../../proto/gen/pluginregistration.rs");
}

/// What the driver is told on its command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) node_id: String,
    pub(crate) capabilities: Vec<String>,
    pub(crate) topology: Option<(String, String)>,
    pub(crate) limit: i64,
}

impl Options {
    fn parse(args: Vec<String>) -> Result<Self> {
        let mut options = Self { root: "/var/lib/kubelet".into(), ..Self::default() };
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            let value = args.next().with_context(|| format!("{flag} has no value"))?;
            match flag.as_str() {
                "--name" => options.name = value,
                "--folder" => options.folder = value.into(),
                "--root" => options.root = value.into(),
                "--node-id" => options.node_id = value,
                "--capabilities" => {
                    let words = value.split(',').filter(|word| !word.is_empty());
                    options.capabilities = words.map(str::to_owned).collect();
                }
                "--topology" => {
                    let (key, value) = value.split_once('=').context("--topology KEY=VALUE")?;
                    options.topology = Some((key.to_owned(), value.to_owned()));
                }
                "--limit" => options.limit = value.parse().context("--limit N")?,
                other => bail!("{other} is no flag"),
            }
        }
        if options.name.is_empty() || options.folder.as_os_str().is_empty() {
            bail!("--name and --folder are needed");
        }
        Ok(options)
    }

    fn endpoint(&self) -> PathBuf {
        self.root.join("plugins").join(&self.name).join("csi.sock")
    }
}

/// Runs the driver until SIGTERM.
pub fn main(args: Vec<String>) -> ExitCode {
    let run = || -> Result<()> {
        let options = Options::parse(args)?;
        tokio::runtime::Runtime::new()?.block_on(serve(options))
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("csi-driver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<()> {
    std::fs::create_dir_all(&options.folder)?;
    let endpoint = options.endpoint();
    let driver = Driver::new(options.clone());
    let plugin = tonic::transport::Server::builder()
        .add_service(v1::node_server::NodeServer::new(driver.clone()))
        .add_service(v1::identity_server::IdentityServer::new(driver.clone()))
        .serve_with_incoming(UnixListenerStream::new(listen(&endpoint)?));

    // The registrar comes second, as its container does.
    let socket = options.root.join("plugins_registry").join(format!("{}-reg.sock", options.name));
    let registrar = Registrar { options, driver };
    let registrar = tonic::transport::Server::builder()
        .add_service(registration::registration_server::RegistrationServer::new(registrar))
        .serve_with_incoming(UnixListenerStream::new(listen(&socket)?));

    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = plugin => ended.context("the driver's server")?,
        ended = registrar => ended.context("the registrar's server")?,
        _ = stop.recv() => {}
    }
    std::fs::remove_file(&socket).context("removing the registration socket")?;
    std::fs::remove_file(&endpoint).context("removing the driver's socket")?;
    Ok(())
}

fn listen(socket: &Path) -> Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Of a process that was killed.
    std::fs::remove_file(socket).ok();
    UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))
}

#[derive(Debug)]
struct Registrar {
    options: Options,
    driver: Driver,
}

#[tonic::async_trait]
impl registration::registration_server::Registration for Registrar {
    async fn get_info(
        &self,
        _request: Request<registration::InfoRequest>,
    ) -> Result<Response<registration::PluginInfo>, Status> {
        Ok(Response::new(registration::PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.options.name.clone(),
            endpoint: self.options.endpoint().display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<registration::RegistrationStatus>,
    ) -> Result<Response<registration::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let fields = serde_json::json!({
            "plugin_registered": status.plugin_registered,
            "error": status.error,
        });
        self.driver.record("NotifyRegistrationStatus", &fields);
        Ok(Response::new(registration::RegistrationStatusResponse {}))
    }
}
