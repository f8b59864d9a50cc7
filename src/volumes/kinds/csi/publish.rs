//! Publishes a volume to one pod, and gives it to the pod's group.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::SecretReference;
use k8s_openapi::api::storage::v1::CSIDriver;
use serde::Serialize;

use super::data::{self, Data};
use super::request::{self, Publication};
use super::{PLUGIN, SET_UP, Volume, secrets};
use crate::apiserver::tokens;
use crate::csi::{Capabilities, Client};
use crate::linux::ownership::{self, Progress};
use crate::model::{Mono, pod};
use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::Context;
use crate::volumes::kinds::local::{only_on_mismatch, ownership_events};
use crate::volumes::kinds::payload::fs_group;
use crate::volumes::mounter::Mounter;
use crate::volumes::source::TokenSource;

/// The pause between two publications for a driver that wants to be asked again. Upstream asks with
/// each sync of the pod.
const REPUBLISH: Duration = Duration::from_secs(60);
/// The life of a token that names none; the API's default.
const TOKEN_SECONDS: i64 = 3600;
/// The key of the pod's tokens.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// What a publication needs besides the volume.
pub(super) struct With {
    /// The directory that the volume is staged at.
    pub(super) stage: Option<PathBuf>,
    pub(super) publish_context: BTreeMap<String, String>,
    pub(super) secret: Option<SecretReference>,
    pub(super) capabilities: Capabilities,
}

/// One token, as drivers read it. Never logged.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenStatus {
    token: String,
    expiration_timestamp: String,
}

/// Publishes a volume. Returns when it is to be published again.
pub(super) async fn publish<M: Mounter, T: TokenSource>(
    volume: &Volume,
    client: &Client,
    with: With,
    context: &Arc<Context<M, T>>,
) -> Result<Option<Mono>, SetUpError> {
    let failed = |text: String| volume.failed(SET_UP, text);
    let object = volume.object.as_deref();
    request::check_lifecycle(&volume.wanted, object).map_err(|error| {
        failed(format!("{PLUGIN}: mounter.SetupAt failed to check volume lifecycle mode: {error}"))
    })?;
    let secrets = secrets(with.secret.as_ref(), "NodePublishSecretRef", context).await;
    let mut secrets = secrets.map_err(|error| failed(error.to_string()))?;
    let attributes = attributes(volume, &mut secrets, context).await?;

    let publication = Publication {
        stage: with.stage.map(|stage| stage.display().to_string()).unwrap_or_default(),
        target: volume.target.display().to_string(),
        publish_context: with.publish_context,
        secrets,
        attributes,
    };
    save(volume, context).await?;
    let group = fs_group(&context.pod);
    let capability = request::capability(&volume.wanted, with.capabilities, group);
    let message = request::publish(&volume.wanted, capability, publication);
    if let Err(error) = client.publish(message).await {
        if error.is_final() {
            let target = volume.target.clone();
            let remove = move |context: &Context<M, T>| {
                // A volume that is mounted since an earlier publication stays.
                drop(data::remove_mount_dir(&context.tools.mounter, &target));
                Ok(())
            };
            context.blocking(remove).await?;
        }
        return Err(failed(error.to_string()));
    }

    if let Some(group) = request::group_to_give(&volume.wanted, object, with.capabilities, group) {
        give(volume, group, context).await?;
    }
    let again = object.is_some_and(|object| object.spec.requires_republish == Some(true));
    Ok(again.then(|| context.tools.clock.now().mono.after(REPUBLISH)))
}

/// Returns the volume's attributes with those of the pod. Tokens go into the secrets instead if the
/// driver's object says so.
async fn attributes<M, T: TokenSource>(
    volume: &Volume,
    secrets: &mut HashMap<String, String>,
    context: &Context<M, T>,
) -> Result<BTreeMap<String, String>, SetUpError> {
    let mut attributes = volume.wanted.attributes.clone();
    let Some(object) = volume.object.as_deref() else { return Ok(attributes) };
    if object.spec.pod_info_on_mount == Some(true) {
        attributes.extend(request::pod_attributes(&context.pod, volume.wanted.lifecycle));
    }
    if let Some(tokens) = tokens(volume, object, context).await? {
        if object.spec.service_account_token_in_secrets == Some(true) {
            secrets.insert(TOKENS.to_owned(), tokens);
        } else {
            attributes.insert(TOKENS.to_owned(), tokens);
        }
    }
    Ok(attributes)
}

/// Returns the pod's tokens for a driver, as JSON by audience.
async fn tokens<M, T: TokenSource>(
    volume: &Volume,
    object: &CSIDriver,
    context: &Context<M, T>,
) -> Result<Option<String>, SetUpError> {
    let wanted = object.spec.token_requests.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        return Ok(None);
    }
    let failed = |problem: &dyn std::fmt::Display| {
        let what = "mounter.SetUpAt failed to get service accoount token attributes";
        volume.failed(SET_UP, format!("{PLUGIN}: {what}: {problem}"))
    };
    let key = pod::key(&context.pod);
    let account = context.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let mut statuses = BTreeMap::new();
    for token in wanted {
        let audience = token.audience.clone();
        let request = tokens::Request {
            namespace: key.namespace.to_string(),
            service_account: account.clone().unwrap_or_default(),
            service_account_uid: String::new(),
            pod_name: key.name.to_string(),
            pod_uid: context.uid.clone(),
            audiences: Some(audience.clone()).filter(|text| !text.is_empty()).into_iter().collect(),
            expiration_seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
        };
        let given = context.tools.tokens.token(request).await.map_err(|error| failed(&error))?;
        let status = TokenStatus {
            token: given.secret.to_string(),
            expiration_timestamp: given.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        statuses.insert(audience, status);
    }
    serde_json::to_string(&statuses).map(Some).map_err(|error| failed(&error))
}

/// Makes the volume's directory in the pod's, and the file in it.
async fn save<M: Mounter, T: TokenSource>(
    volume: &Volume,
    context: &Arc<Context<M, T>>,
) -> Result<(), SetUpError> {
    let node = context.tools.csi.node_name.to_string();
    let attachment = request::attachment_name(&volume.wanted.handle, &volume.wanted.driver, &node);
    let fields: Data = [
        ("specVolID", volume.name.clone()),
        (data::HANDLE, volume.wanted.handle.clone()),
        (data::DRIVER, volume.wanted.driver.clone()),
        ("nodeName", node),
        ("volumeLifecycleMode", volume.wanted.lifecycle.as_str().to_owned()),
        ("attachmentID", attachment),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let dir = volume.target.parent().unwrap_or(Path::new("/")).to_owned();
    let made = volume.io(SET_UP, "mounter.SetUpAt failed to create dir", &dir);
    let saved = volume.io(SET_UP, "mounter.SetUpAt failed to save volume info data", &dir);
    let work = move |context: &Context<M, T>| {
        context.make_pod_dirs()?;
        data::make_dir(&dir).map_err(made)?;
        data::write(&dir, &fields).map_err(saved)
    };
    context.blocking(work).await
}

/// Gives the published tree to the pod's group. Events say how far that is; the pod's end cancels
/// it.
async fn give<M: Mounter, T: TokenSource>(
    volume: &Volume,
    group: u32,
    context: &Arc<Context<M, T>>,
) -> Result<(), SetUpError> {
    let progress = Arc::new(Progress::default());
    let reports = ownership_events::report(context, &volume.target, Arc::clone(&progress));
    let (target, name) = (volume.target.clone(), volume.name.clone());
    let handle = volume.wanted.handle.clone();
    let work = move |context: &Context<M, T>| {
        if only_on_mismatch(&context.pod) && ownership::group_matches(&target, group, false) {
            return Ok(());
        }
        match ownership::give_to_group(&target, group, false, &progress) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(SetUpError::Cancelled),
            Err(error) => {
                let text = format!("applyFSGroup failed for vol {handle}: {error}");
                Err(SetUpError::Persistent { volume: name, step: SET_UP, text })
            }
        }
    };
    tokio::select! {
        ended = context.blocking(work) => ended,
        // Only reports how far the work is: dropping it loses nothing.
        never = reports => match never {},
    }
}
