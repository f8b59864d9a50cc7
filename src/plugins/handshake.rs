//! The conversation with one plugin's socket: who it is, whether it is taken on.
//!
//! Every step has upstream's deadline. The texts that a plugin reads are upstream's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic::transport::Channel;

use super::v1::registration_client::RegistrationClient;
use super::v1::{InfoRequest, RegistrationStatus};
use super::{Handler, Handlers, Plugin};
use crate::cri::CriError;
use crate::csi::client::channel;

/// How long a plugin may take to say who it is; upstream's.
const INFO: Duration = Duration::from_secs(1);
/// How long a plugin may take to accept the outcome; upstream's.
const NOTIFY: Duration = Duration::from_secs(5);

/// The reasons why a plugin is not registered.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error(
        "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {}, err: {source}",
        .socket.display()
    )]
    Info { socket: PathBuf, source: CriError },
    /// The plugin was refused, and has been told this text.
    #[error("{0}")]
    Refused(String),
    #[error(
        "RegisterPlugin error -- failed to send registration status at socket {}, err: {source}",
        .socket.display()
    )]
    Notify { socket: PathBuf, source: CriError },
}

/// A plugin that has been taken on, with the handler that takes it off again.
#[derive(Clone)]
pub(super) struct TakenOn {
    pub(super) plugin: Plugin,
    pub(super) handler: Arc<dyn Handler>,
}

/// Asks the plugin behind a socket who it is, has it taken on, and says so to it.
pub(super) async fn register(
    socket: &Path,
    handlers: &Handlers,
) -> Result<TakenOn, HandshakeError> {
    let mut client = RegistrationClient::new(channel(socket));
    let answer = bounded("GetInfo", INFO, client.get_info(InfoRequest {})).await;
    let info = answer
        .map_err(|source| HandshakeError::Info { socket: socket.to_owned(), source })?
        .into_inner();
    let place = socket.display();

    let Some(handler) = handlers.get(info.r#type.as_str()) else {
        let text = format!(
            "RegisterPlugin error -- no handler registered for plugin type: {} at socket {place}",
            info.r#type
        );
        return Err(refuse(&mut client, text).await);
    };
    let endpoint =
        if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let plugin = Plugin { name: info.name, endpoint, versions: info.supported_versions };
    if let Err(problem) = handler.validate(&plugin) {
        let text = format!("RegisterPlugin error -- plugin validation failed with err: {problem}");
        return Err(refuse(&mut client, text).await);
    }
    if let Err(problem) = handler.register(&plugin).await {
        let text =
            format!("RegisterPlugin error -- plugin registration failed with err: {problem}");
        return Err(refuse(&mut client, text).await);
    }

    let status = RegistrationStatus { plugin_registered: true, error: String::new() };
    let told =
        bounded("NotifyRegistrationStatus", NOTIFY, client.notify_registration_status(status));
    if let Err(source) = told.await {
        handler.deregister(&plugin).await;
        return Err(HandshakeError::Notify { socket: socket.to_owned(), source });
    }
    Ok(TakenOn { plugin, handler: Arc::clone(handler) })
}

/// Tells the plugin why it is refused.
async fn refuse(client: &mut RegistrationClient<Channel>, text: String) -> HandshakeError {
    let status = RegistrationStatus { plugin_registered: false, error: text.clone() };
    let told =
        bounded("NotifyRegistrationStatus", NOTIFY, client.notify_registration_status(status));
    if let Err(error) = told.await {
        tracing::debug!(%error, "a refused plugin does not take the answer");
    }
    HandshakeError::Refused(text)
}

/// A call with a deadline.
async fn bounded<T>(
    method: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<tonic::Response<T>, CriError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|status| CriError::from_status(method, &status)),
        Err(_) => Err(CriError::deadline(method)),
    }
}
