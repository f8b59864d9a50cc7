//! The configuration file and the drop-in directory: reading them, and merging one onto the other.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::decode::{self, Document, Role};
use super::types::KubeletConfiguration;
use super::{ConfigError, ConfigWarning, defaults};

/// Largest file that is read, as the API server limits objects.
const LARGEST_FILE: u64 = 3 * 1024 * 1024;
/// Deepest directory below the drop-in directory: a loop of links must not hang the start.
const DEEPEST_DIRECTORY: usize = 32;

/// Reads the file that `--config` names: decoded, completed with defaults, its paths made absolute.
pub(super) fn load(
    name: &str,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<KubeletConfiguration, ConfigError> {
    let path = std::path::absolute(name).unwrap_or_else(|_| PathBuf::from(name));
    let fail = |problem: String| ConfigError::File { path: path.clone(), problem };
    let text = read(&path).map_err(fail)?;
    let document = decode::parse(&text, Role::File)
        .map_err(|error| fail(format!("failed to decode: {error}")))?;
    let mut config = typed(&path, &document, warnings).map_err(fail)?;
    defaults::complete(&mut config, &document.fields);
    defaults::default_eviction_hard(&mut config, &document.fields);
    if let Some(directory) = path.parent() {
        resolve_paths(&mut config, directory);
    }
    Ok(config)
}

/// Returns the configuration of a file that sets nothing.
pub(super) fn empty() -> KubeletConfiguration {
    let nothing = Value::Object(serde_json::Map::new());
    let mut config = KubeletConfiguration::default();
    defaults::complete(&mut config, &nothing);
    defaults::default_eviction_hard(&mut config, &nothing);
    config
}

/// Merges every `*.conf` below `directory` onto `base`, in the order of their paths. Null removes a
/// field, which then has its default again; objects are merged, everything else is replaced.
pub(super) fn merge_drop_ins(
    base: &KubeletConfiguration,
    directory: &str,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<KubeletConfiguration, ConfigError> {
    let fail = |problem: String| ConfigError::DropIns { dir: directory.to_owned(), problem };

    let mut files = Vec::new();
    walk(Path::new(directory), 0, &mut files).map_err(fail)?;

    let mut merged = base.to_document();
    for path in files {
        let drop_in = read(&path)
            .and_then(|text| decode::parse(&text, Role::DropIn).map_err(|error| error.to_string()))
            .map_err(|problem| {
                fail(format!(
                    "failed to load kubelet dropin file, path: {}, error: {problem}",
                    path.display()
                ))
            })?;

        // Its types are checked alone first, so that an error and an unknown field name the file
        // they are in.
        let mut alone = drop_in.fields.clone();
        remove_nulls(&mut alone);
        let mut own = typed(&path, &Document { fields: alone, repeated: Vec::new() }, warnings)
            .map_err(|problem| fail(format!("path: {}, error: {problem}", path.display())))?;
        warnings.extend(relative_paths(&mut own).map(|(field, relative)| ConfigWarning {
            text: format!(
                "the field {field:?} of {} is the relative path {relative:?}, which starts in the working directory of the \
                 kubelet and not where the file is: write an absolute path",
                path.display()
            ),
            node_event: false,
        }));

        merge(&mut merged, drop_in.fields);
    }

    let (mut config, _) = decode::typed(&merged).map_err(|error| {
        fail(format!("failed to unmarshal merged JSON into kubelet configuration: {error}"))
    })?;
    defaults::complete(&mut config, &merged);
    Ok(config)
}

fn typed(
    path: &Path,
    document: &Document,
    warnings: &mut Vec<ConfigWarning>,
) -> Result<KubeletConfiguration, String> {
    let (config, unknown) =
        decode::typed(&document.fields).map_err(|error| format!("failed to decode: {error}"))?;
    complain(path, &document.repeated, &unknown, warnings);
    Ok(config)
}

fn complain(
    path: &Path,
    repeated: &[String],
    unknown: &[String],
    warnings: &mut Vec<ConfigWarning>,
) {
    let text =
        |field: &str, problem: &str| format!("the field {field:?} of {} {problem}", path.display());
    let unknown = unknown.iter().map(|field| text(field, "is unknown and has no effect"));
    let repeated =
        repeated.iter().map(|field| text(field, "stands there twice; the last one counts"));
    warnings.extend(unknown.chain(repeated).map(|text| ConfigWarning { text, node_event: false }));
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |problem: String| {
        format!("failed to read kubelet config file {:?}, error: {problem}", path.display())
    };
    let length = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
    if length > LARGEST_FILE {
        return Err(fail(format!("its {length} bytes are more than {LARGEST_FILE}")));
    }
    let text = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    if text.is_empty() {
        return Err(format!("kubelet config file {:?} was empty", path.display()));
    }
    Ok(text)
}

/// The `*.conf` files below `directory`: the entries of each directory in the order of their names.
fn walk(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", directory.display());
    if depth > DEEPEST_DIRECTORY {
        return Err(format!("{}: directories are nested too deeply", directory.display()));
    }
    let mut entries =
        std::fs::read_dir(directory).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links are not followed into directories, as Go's walk does not; a link to a file is a
        // file.
        if entry.file_type().map_err(fail)?.is_dir() {
            walk(&path, depth + 1, files)?;
        } else if entry.file_name().as_encoded_bytes().ends_with(b".conf") {
            files.push(path);
        } else {
            tracing::debug!(file = %path.display(), "Skipped file in drop-in directory: it is no .conf file");
        }
    }
    Ok(())
}

/// RFC 7386.
fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(&name);
                } else {
                    merge(target.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        (target, mut patch) => {
            remove_nulls(&mut patch);
            *target = patch;
        }
    }
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(remove_nulls);
    }
}

/// Makes the paths absolute that a file in `directory` wrote relative to itself. Those of drop-ins
/// stay as they are, for which upstream's kubelet does not do it.
pub(super) fn resolve_paths(config: &mut KubeletConfiguration, directory: &Path) {
    for (_, path) in relative_paths(config) {
        *path = clean_path(&directory.join(path.as_str()));
    }
}

/// The fields that name files and are no absolute paths.
fn relative_paths(
    config: &mut KubeletConfiguration,
) -> impl Iterator<Item = (&'static str, &mut String)> {
    [
        ("staticPodPath", &mut config.static_pod_path),
        ("authentication.x509.clientCAFile", &mut config.authentication.x509.client_ca_file),
        ("tlsCertFile", &mut config.tls_cert_file),
        ("tlsPrivateKeyFile", &mut config.tls_private_key_file),
        ("resolvConf", &mut config.resolv_conf),
        ("volumePluginDir", &mut config.volume_plugin_dir),
        ("podLogsDir", &mut config.pod_logs_dir),
    ]
    .into_iter()
    .filter(|(_, path)| !path.is_empty() && !Path::new(path.as_str()).is_absolute())
}

/// The path without `.`, and without `..` where it names something: Go's `filepath.Clean` of an
/// absolute path.
pub fn clean_path(path: &Path) -> String {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                cleaned.pop();
            }
            std::path::Component::Normal(_)
            | std::path::Component::RootDir
            | std::path::Component::Prefix(_) => {
                cleaned.push(component);
            }
        }
    }
    cleaned.display().to_string()
}
