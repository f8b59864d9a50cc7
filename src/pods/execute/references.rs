//! What the environment of a container refers to, fetched: ConfigMaps, Secrets, files in volumes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1 as api;
use tracing::warn;

use super::scope::Scope;
use crate::apiserver::objects::ObjectError;
use crate::linux::beneath::Root;
use crate::linux::blocking;
use crate::pods::request;
use crate::volumes::nested::used;

/// The longest wait for a ConfigMap or Secret that is fetched for the first time.
const OBJECT_DEADLINE: Duration = Duration::from_secs(10);

/// The longest file of variables that is read.
const LONGEST_ENV_FILE: u64 = 1 << 20;

/// The fetched references of one container.
#[derive(Debug, Default)]
pub(super) struct References {
    pub(super) config_maps: BTreeMap<String, Result<Arc<api::ConfigMap>, ObjectError>>,
    pub(super) secrets: BTreeMap<String, Result<Arc<api::Secret>, ObjectError>>,
    /// Files by volume and path.
    pub(super) files: BTreeMap<(String, String), request::EnvFile>,
}

impl References {
    /// Fetches what a container's environment refers to: the files one after the other, the objects
    /// all at once.
    pub(super) async fn fetch(scope: Scope<'_>, container: &api::Container) -> Self {
        let mut references = Self::default();
        let mut maps = Vec::new();
        let mut secrets = Vec::new();
        for reference in request::references(&scope.context.pod, container) {
            match reference {
                request::ObjectRef::ConfigMap { name, .. } => maps.push(name),
                request::ObjectRef::Secret { name, .. } => secrets.push(name),
                request::ObjectRef::File { volume, path } => {
                    if let Some(file) = read_env_file(scope, &volume, &path).await {
                        references.files.insert((volume, path), file);
                    }
                }
            }
        }

        let maps = join_all(maps.into_iter().map(async |name| {
            let fetched = scope.config_map(&name, OBJECT_DEADLINE).await;
            (name, fetched)
        }));
        let secrets = join_all(secrets.into_iter().map(async |name| {
            let fetched = scope.secret(&name, OBJECT_DEADLINE).await;
            (name, fetched)
        }));
        let (maps, secrets) = tokio::join!(maps, secrets);
        references.config_maps = maps.into_iter().collect();
        references.secrets = secrets.into_iter().collect();
        references
    }
}

/// Reads a file of variables in a volume, without following a link out of the volume. `None`: there
/// is no such volume.
async fn read_env_file(scope: Scope<'_>, volume: &str, path: &str) -> Option<request::EnvFile> {
    let pod = &scope.context.pod;
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let found = volumes.iter().find(|candidate| candidate.name == volume)?;
    // A volume that no container mounts is not set up. Upstream too says that there is none.
    if !used(pod).contains(volume) {
        return None;
    }

    let root = scope.deps.volumes.place(scope.uid, found)?.path;
    let full = root.join(path).to_string_lossy().into_owned();
    let relative = PathBuf::from(path);
    // The writer of the volume chooses its content: a slow disk must not hold up other pods.
    let read = blocking::spawn(move || read_beneath(&root, &relative)).await;
    let content = match read {
        Ok(Ok(content)) => Ok(content),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panicked) => Err(panicked.to_string()),
    };
    if let Err(error) = &content {
        warn!(path = full, error, "Failed to parse env file");
    }
    Some(request::EnvFile { path: full, content })
}

/// Reads a file below `root`. Refused: a link that leads out of `root`, a file that is too long,
/// and whatever is no regular file (a pipe would never end).
fn read_beneath(root: &Path, path: &Path) -> std::io::Result<String> {
    let refused = |problem| std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
    let opened = File::from(Root::open(root)?.resolve(path)?);
    let metadata = opened.metadata()?;
    if !metadata.is_file() {
        return Err(refused("it is not a file"));
    }
    if metadata.len() > LONGEST_ENV_FILE {
        return Err(refused("it is too long"));
    }

    // The resolved handle has no rights. Opening it again by number cannot lead anywhere else.
    let file = File::open(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    let mut content = Vec::new();
    file.take(LONGEST_ENV_FILE).read_to_end(&mut content)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LONGEST_ENV_FILE, read_beneath};
    use crate::linux::fs::write_atomic;

    #[test]
    fn reads_files_of_the_volume_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        let read = |path: &str| read_beneath(&root, Path::new(path));
        write_atomic(&root.join("sub/env"), b"A='\xff'", 0o600).expect("written");
        assert_eq!(read("sub/env").expect("read"), "A='\u{fffd}'");

        write_atomic(&dir.path().join("outside"), "X='1'", 0o600).expect("written");
        std::os::unix::fs::symlink("../outside", root.join("climbs")).expect("linked");
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("made");
        let long = std::fs::File::create(root.join("long")).expect("made");
        long.set_len(LONGEST_ENV_FILE + 1).expect("grown");
        for refused in ["climbs", "../outside", "sub", "pipe", "long", "gone"] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
