//! The registration server on `kubelet.sock`: plugins announce themselves there.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tonic::{Response, Status};
use tracing::{info, warn};

use super::error::RegisterError;
use super::v1beta1::registration_server::{Registration, RegistrationServer};
use super::v1beta1::{Empty, RegisterRequest};
use super::{News, plugin};
use crate::linux::fs::ensure_dir;
use crate::linux::selinux;
use crate::resources::list;

const SOCKET: &str = "kubelet.sock";
const VERSION: &str = "v1beta1";

/// Serves until it is dropped.
pub async fn serve(folder: PathBuf, news: mpsc::Sender<News>) {
    let listener = match listen(&folder) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(folder = %folder.display(), %error, "device plugins cannot register");
            return;
        }
    };
    let incoming = futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let service = RegistrationServer::new(Registrar { folder, news });
    if let Err(error) =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
    {
        warn!(%error, "the registration of device plugins has ended");
    }
}

/// Opens the socket, after those of plugins that registered with a kubelet before this one are
/// gone: their disappearance tells plugins to register again.
fn listen(folder: &Path) -> io::Result<UnixListener> {
    ensure_dir(folder, 0o750)?;
    if selinux::is_enabled()
        && let Err(error) = selinux::set_label(folder, selinux::CONTAINER_FILE)
    {
        tracing::error!(
            path = %folder.display(),
            %error,
            "Unprivileged containerized plugins might not work. Could not set selinux context on \
             socket dir"
        );
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    UnixListener::bind(folder.join(SOCKET))
}

#[derive(Debug)]
struct Registrar {
    folder: PathBuf,
    news: mpsc::Sender<News>,
}

impl Registrar {
    async fn take_on(&self, request: &RegisterRequest) -> Result<(), RegisterError> {
        let (version, resource) = (&request.version, &request.resource_name);
        if version != VERSION {
            return Err(RegisterError::Version { asked: version.clone(), ours: VERSION });
        }
        if !list::is_extended(resource) {
            return Err(RegisterError::Resource(resource.clone()));
        }
        let connection = plugin::connect(&self.folder.join(&request.endpoint)).await?;
        let (reply, taken) = oneshot::channel();
        let news = News::Connected { resource: resource.clone(), connection, reply };
        self.news.send(news).await.map_err(|_| RegisterError::Ending)?;
        taken.await.map_err(|_| RegisterError::Ending)
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(
        &self,
        request: tonic::Request<RegisterRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let resource = &request.resource_name;
        match self.take_on(&request).await {
            Ok(()) => {
                info!(resource, "device plugin registered");
                Ok(Response::new(Empty {}))
            }
            Err(error) => {
                warn!(resource, %error, "device plugin refused");
                Err(Status::unknown(error.to_string()))
            }
        }
    }
}
