//! configMap volumes: the keys of a ConfigMap as files.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ConfigMapVolumeSource, KeyToPath};

use crate::volumes::error::SetUpError;
use crate::volumes::kinds::context::{Context, Done, VolumeInputs};
use crate::volumes::medium::Medium;
use crate::volumes::mounter::Mounter;
use crate::volumes::payload::{self, ObjectRef, Payload, found};

/// The plugin's name.
pub const PLUGIN: &str = "kubernetes.io/configmap";

/// The ConfigMap. A key that is asked for by name may be missing.
pub fn inputs(source: &ConfigMapVolumeSource) -> VolumeInputs {
    VolumeInputs {
        objects: vec![ObjectRef::ConfigMap(source.name.clone())],
        shows_pod: false,
        objects_suffice: source.items.is_none(),
    }
}

/// Writes the files, on disk as upstream has it: what a ConfigMap holds is no secret, and memory
/// for it would be charged to no container.
pub(crate) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    source: &ConfigMapVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let source = source.clone();
    let files = move |context: &Context<M, T>| {
        let optional = source.optional == Some(true);
        let object = context.objects.config_maps.get(&source.name);
        let object = found("configmap", &source.name, object, optional)?;
        payload(source.items.as_deref(), object, source.default_mode, optional)
    };
    super::set_up(PLUGIN, Medium::Disk, context, files).await
}

/// The files of a ConfigMap; `None` is one that does not exist and is optional.
pub fn payload(
    items: Option<&[KeyToPath]>,
    object: Option<&ConfigMap>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, SetUpError> {
    let text = object.and_then(|object| object.data.as_ref()).into_iter().flatten();
    let binary = object.and_then(|object| object.binary_data.as_ref()).into_iter().flatten();
    let keys = text
        .map(|(key, value)| (key, value.as_bytes()))
        .chain(binary.map(|(key, value)| (key, &*value.0)));
    payload::select(items, keys, default_mode, optional, |key| {
        format!("configmap references non-existent config key: {key}")
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath};

    use super::payload;

    fn object() -> ConfigMap {
        serde_json::from_str(r#"{"data":{"a":"1","b":"2"},"binaryData":{"c":"AAE="}}"#)
            .expect("a ConfigMap")
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.to_owned(), path: path.to_owned(), mode }
    }

    #[test]
    fn all_keys_become_files() {
        let files = payload(None, Some(&object()), Some(0o400), false).expect("files");
        let seen: Vec<_> = files
            .iter()
            .map(|(path, file)| (path.as_str(), file.data.as_slice(), file.mode))
            .collect();
        assert_eq!(
            seen,
            [("a", b"1".as_slice(), 0o400), ("b", b"2", 0o400), ("c", &[0, 1], 0o400)]
        );
    }

    #[test]
    fn items_choose_paths_and_modes() {
        let items = [item("a", "dir/x", Some(0o777)), item("c", "y", None)];
        let files = payload(Some(&items), Some(&object()), None, false).expect("files");
        let seen: Vec<_> = files.iter().map(|(path, file)| (path.as_str(), file.mode)).collect();
        assert_eq!(seen, [("dir/x", 0o777), ("y", 0o644)]);
    }

    #[test]
    fn a_missing_key_fails_unless_optional() {
        let items = [item("a", "x", None), item("z", "z", None)];
        let error = payload(Some(&items), Some(&object()), None, false).expect_err("z is missing");
        assert_eq!(error.to_string(), "configmap references non-existent config key: z");
        assert_eq!(payload(Some(&items), Some(&object()), None, true).expect("files").len(), 1);
        assert!(payload(None, None, None, true).expect("files").is_empty());
    }
}
