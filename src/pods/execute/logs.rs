//! The removal of logs: of one container, of one pod, and of pods that are not known any more.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::deps::Settings;
use crate::model::PodUid;

/// Removes a pod's log directory, and the links into it.
pub(super) fn remove_directory(directory: &str, settings: &Settings) {
    // The containers' links went with the containers, unless a process died between the removal in
    // the runtime and its own. Before the directory: while that is there, the links will be looked
    // for again.
    remove_links(&[PathBuf::from(directory)], &settings.container_logs_dir);
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(directory, %error, "removing a pod's log directory failed");
    }
}

/// Removes the logs of pods that are not known. `is_known` is asked after the directories have been
/// listed, so that a pod that comes meanwhile keeps its own.
pub async fn sweep_logs(
    pod_logs: PathBuf,
    container_logs: PathBuf,
    is_known: impl Fn(&PodUid) -> bool + Send + 'static,
) {
    let removal = move || remove_unknown_logs(&unknown_logs(&pod_logs, is_known), &container_logs);
    if let Err(error) = crate::linux::blocking::spawn(removal).await {
        warn!(%error, "removing logs of pods that are not known failed");
    }
}

/// Lists the log directories of pods that are not known. A process that died between the last
/// removal in the runtime and its own left them.
fn unknown_logs(pod_logs: &Path, is_known: impl Fn(&PodUid) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(pod_logs) else { return Vec::new() };
    // All are listed before the first question: see `sweep_logs`.
    let entries: Vec<_> = entries.flatten().collect();
    let unknown = entries.into_iter().filter(|entry| {
        let name = entry.file_name();
        // NAMESPACE_NAME_UID: everything else here is not ours.
        let uid = name
            .to_str()
            .filter(|name| name.matches('_').count() == 2)
            .and_then(|name| name.rsplit('_').next());
        uid.is_some_and(|uid| !is_known(&PodUid::from(uid)))
    });
    unknown.map(|entry| entry.path()).collect()
}

/// Removes log directories, and the links into them. Blocks on the disk.
fn remove_unknown_logs(directories: &[PathBuf], container_logs: &Path) {
    remove_links(directories, container_logs);
    for directory in directories {
        info!(directory = %directory.display(), "removing the logs of a pod that nobody knows");
        if let Err(error) = std::fs::remove_dir_all(directory) {
            warn!(directory = %directory.display(), %error, "removing a pod's log directory failed");
        }
    }
}

/// Removes the links into these directories.
fn remove_links(directories: &[PathBuf], container_logs: &Path) {
    let Ok(links) = std::fs::read_dir(container_logs) else { return };
    for link in links.flatten().map(|entry| entry.path()) {
        let leads_there =
            |target: PathBuf| directories.iter().any(|directory| target.starts_with(directory));
        if std::fs::read_link(&link).is_ok_and(leads_there) {
            remove_file(&link);
        }
    }
}

/// Removes a log and its rotated versions (`N.log`, `N.log.<time>`, `N.log.<time>.gz`).
pub(super) fn remove_rotated(log_path: &str) {
    let path = Path::new(log_path);
    let (Some(directory), Some(name)) =
        (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return;
    };
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let rotated = file.to_str().and_then(|file| file.strip_prefix(name));
        if rotated.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            remove_file(&entry.path());
        }
    }
}

/// Removes a file, if it is there.
pub(super) fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "removing a log failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests prepare files")]
    fn logs_of_unknown_pods_go_with_their_links_and_nothing_else_does() {
        let root = tempfile::tempdir().expect("a folder");
        let (pods, links) = (root.path().join("pods"), root.path().join("containers"));
        for name in ["ns_known_u1", "ns_unknown_u2", "not-ours"] {
            std::fs::create_dir_all(pods.join(name).join("main")).expect("a directory");
            std::fs::write(pods.join(name).join("main/0.log"), "").expect("a log");
        }
        std::fs::create_dir(&links).expect("a directory");
        for (name, target) in [("a", "ns_known_u1"), ("b", "ns_unknown_u2"), ("c", "not-ours")] {
            std::os::unix::fs::symlink(pods.join(target).join("main/0.log"), links.join(name))
                .expect("a link");
        }
        remove_unknown_logs(&unknown_logs(&pods, |uid| uid.as_str() == "u1"), &links);
        let left = |folder: &Path| {
            let entries = std::fs::read_dir(folder).expect("readable");
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(&pods), ["not-ours", "ns_known_u1"]);
        assert_eq!(left(&links), ["a", "c"]);
    }
}
