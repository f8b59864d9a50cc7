//! secret volumes: the keys of a Secret as files, in memory.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{KeyToPath, Secret, SecretVolumeSource};

use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::{Context, Done, VolumeInputs};
use crate::volumes::mounter::Mounter;
use crate::volumes::payload::{self, ObjectRef, Payload, found};

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/secret";

/// The Secret. A key that is asked for by name may be missing.
pub fn inputs(source: &SecretVolumeSource) -> VolumeInputs {
    VolumeInputs {
        objects: vec![ObjectRef::Secret(source.secret_name.clone().unwrap_or_default())],
        shows_pod: false,
        objects_suffice: source.items.is_none(),
    }
}

/// Writes the files.
pub(crate) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    source: &SecretVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let source = source.clone();
    let files = move |context: &Context<M, T>| {
        let optional = source.optional == Some(true);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let object = found("secret", name, context.objects.secrets.get(name), optional)?;
        payload(source.items.as_deref(), object, source.default_mode, optional)
    };
    super::set_up(PLUGIN, super::memory(context), context, files).await
}

/// The files of a Secret; `None` is one that does not exist and is optional.
pub fn payload(
    items: Option<&[KeyToPath]>,
    object: Option<&Secret>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, SetUpError> {
    let keys = object.and_then(|object| object.data.as_ref()).into_iter().flatten();
    let keys = keys.map(|(key, value)| (key, value.0.as_slice()));
    payload::select(items, keys, default_mode, optional, |key| {
        format!("references non-existent secret key: {key}")
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{KeyToPath, Secret};

    use super::payload;

    #[test]
    fn keys_become_files_and_a_missing_one_is_named() {
        let object: Secret = serde_json::from_str(r#"{"data":{"a":"MQ=="}}"#).expect("a Secret");
        let files = payload(None, Some(&object), Some(0o600), false).expect("files");
        assert_eq!((files["a"].data.as_slice(), files["a"].mode), (b"1".as_slice(), 0o600));
        let items = [KeyToPath { key: "z".into(), path: "z".into(), mode: None }];
        let error = payload(Some(&items), Some(&object), None, false).expect_err("z is missing");
        assert_eq!(error.to_string(), "references non-existent secret key: z");
    }
}
