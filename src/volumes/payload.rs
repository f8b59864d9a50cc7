//! The files of a volume that this process writes: their paths, content, mode and owner. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};

use super::error::SetUpError;
use crate::apiserver::objects::ObjectError;

/// The mode of files when the spec has none; the API's default of `defaultMode`.
pub const DEFAULT_MODE: u32 = 0o644;
/// The longest path (upstream's limit).
const LONGEST_PATH: usize = 4096;
/// The longest file name; upstream's limit.
const LONGEST_NAME: usize = 255;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// The file's content.
    pub data: Vec<u8>,
    /// The file's permission bits.
    pub mode: u32,
    /// The file's owner, if not root.
    pub uid: Option<u32>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be a secret: only its length is shown.
        f.debug_struct("File")
            .field("bytes", &self.data.len())
            .field("mode", &self.mode)
            .field("uid", &self.uid)
            .finish()
    }
}

/// The files of a volume, by path relative to the volume.
pub type Payload = BTreeMap<String, File>;

/// An object that a volume consists of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectRef {
    /// A ConfigMap, by name.
    ConfigMap(String),
    /// A Secret, by name.
    Secret(String),
}

impl ObjectRef {
    /// Returns the kind as messages name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConfigMap(_) => "configmap",
            Self::Secret(_) => "secret",
        }
    }

    /// Returns the object's name.
    pub fn name(&self) -> &str {
        match self {
            Self::ConfigMap(name) | Self::Secret(name) => name,
        }
    }
}

/// The objects that a volume's files consist of; `None`: known not to exist.
#[derive(Clone, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}

/// Returns permission bits as the API has them, else the default ones.
pub fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).and_then(|mode| u32::try_from(mode).ok()).unwrap_or(DEFAULT_MODE) & 0o7777
}

/// Selects the files of a ConfigMap or Secret: all keys, or those of `items`. `missing` words the
/// error for a key that does not exist, unless `optional` allows it.
pub fn select<'a>(
    items: Option<&[KeyToPath]>,
    keys: impl Iterator<Item = (&'a String, &'a [u8])> + Clone,
    default_mode: Option<i32>,
    optional: bool,
    missing: impl Fn(&str) -> String,
) -> Result<Payload, SetUpError> {
    let file = |data: &[u8], own: Option<i32>| File {
        data: data.to_vec(),
        mode: mode(own, default_mode),
        uid: None,
    };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(keys.map(|(key, data)| (key.clone(), file(data, None))).collect());
    };

    let mut payload = Payload::new();
    for item in items {
        match keys.clone().find(|(key, _)| **key == item.key) {
            Some((_, data)) => {
                payload.insert(item.path.clone(), file(data, item.mode));
            }
            None if optional => {}
            None => return Err(SetUpError::Payload(missing(&item.key).into())),
        }
    }

    Ok(payload)
}

/// Cleans and checks every path, by upstream's rules and texts.
pub fn validated(payload: Payload) -> Result<Payload, SetUpError> {
    payload
        .into_iter()
        .map(|(path, file)| {
            Ok((clean(&path).map_err(|error| SetUpError::Payload(error.into()))?, file))
        })
        .collect()
}

/// Why a path cannot be a file of a volume. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It names nothing.
    #[error("invalid path: must not be empty: {0:?}")]
    Empty(String),
    /// It begins at the root.
    #[error("invalid path: must be relative path: {0}")]
    Absolute(String),
    /// It is too long.
    #[error("invalid path: must be less than or equal to {LONGEST_PATH} characters")]
    Long,
    /// It has a NUL character.
    #[error("invalid path: must not contain a NUL character: {0:?}")]
    Nul(String),
    /// It leaves the volume.
    #[error("invalid path: must not contain '..': {0}")]
    Parent(String),
    /// One of its names is too long.
    #[error("invalid path: filenames must be less than or equal to {LONGEST_NAME} characters")]
    LongName,
    /// Its first name is reserved for the writer's own entries.
    #[error("invalid path: must not start with '..': {0}")]
    Reserved(String),
}

/// Returns the path without `.`, doubled and trailing slashes. A path that would leave the volume,
/// or whose first name is reserved for the writer's own entries, is an error.
pub fn clean(path: &str) -> Result<String, PathError> {
    if path.is_empty() {
        return Err(PathError::Empty(path.to_owned()));
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute(path.to_owned()));
    }

    if path.len() > LONGEST_PATH {
        return Err(PathError::Long);
    }

    if path.contains('\0') {
        return Err(PathError::Nul(path.to_owned()));
    }
    if path.split('/').any(|name| name == "..") {
        return Err(PathError::Parent(path.to_owned()));
    }

    if path.split('/').any(|name| name.len() > LONGEST_NAME) {
        return Err(PathError::LongName);
    }

    let clean: Vec<&str> =
        path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    match clean.first() {
        None => Err(PathError::Empty(path.to_owned())),
        // Checked after cleaning: `./..data` would otherwise reach the writer's own link.
        Some(first) if first.starts_with("..") => Err(PathError::Reserved(path.to_owned())),
        Some(_) => Ok(clean.join("/")),
    }
}

/// Returns the object if it exists. A missing one is an error unless it is optional.
pub(crate) fn found<'a, T>(
    kind: &'static str,
    name: &str,
    object: Option<&'a Option<Arc<T>>>,
    optional: bool,
) -> Result<Option<&'a T>, SetUpError> {
    match object {
        Some(Some(object)) => Ok(Some(object)),
        Some(None) if optional => Ok(None),
        Some(None) | None => Err(ObjectError::NotFound { kind, name: name.to_owned() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::clean;

    #[track_caller]
    fn check(path: &str, expected: Result<&str, &str>) {
        let found = clean(path).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{path:?}");
    }

    #[test]
    fn paths_stay_in_the_volume() {
        check("a", Ok("a"));
        check("a//b/./c/", Ok("a/b/c"));
        check("a..b/..c", Ok("a..b/..c"));
        check("", Err("invalid path: must not be empty: \"\""));
        check(".", Err("invalid path: must not be empty: \".\""));
        check("/a", Err("invalid path: must be relative path: /a"));
        check("a/../b", Err("invalid path: must not contain '..': a/../b"));
        check("..data", Err("invalid path: must not start with '..': ..data"));
        check("./..data/x", Err("invalid path: must not start with '..': ./..data/x"));
        check(
            &"a".repeat(256),
            Err("invalid path: filenames must be less than or equal to 255 characters"),
        );
        check(
            &"a/".repeat(2049),
            Err("invalid path: must be less than or equal to 4096 characters"),
        );
    }

    proptest! {
        #[test]
        fn no_text_leads_out(path in "[a./\\x00]{0,12}") {
            if let Ok(clean) = clean(&path) {
                prop_assert!(!clean.starts_with('/') && !clean.starts_with(".."));
                prop_assert!(clean.split('/').all(|name| !name.is_empty() && name != "." && name != ".."));
            }
        }
    }
}
