//! After the end: containers removed from the runtime with their logs, volumes released,
//! directories and cgroup gone.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::super::plan::types::Key;
use super::super::request;
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Outcome};
use crate::cri::v1;
use crate::model::{ContainerId, PodUid, pod};

impl PodExecutor {
    /// Removes a container that does not run, with its log (of one that is merely reset only the
    /// link: the log goes with the directory of the pod).
    pub(super) async fn remove_container(
        &self,
        key: Key,
        id: ContainerId,
        reset: bool,
        context: Context,
    ) -> Completion {
        let mut mutation = self.deps.pleg.begin(&self.uid);
        if let Some(container) = context.observed.container(&id) {
            mutation.touched_container(&id, &container.sandbox);
        }
        let request = v1::RemoveContainerRequest { container_id: id.as_str().to_owned() };
        let removed = self.deps.cri.remove_container(request).await;
        mutation.end();
        let outcome = match removed {
            Err(error) if !error.is_not_found() => {
                Err(ActionError::new("RemoveContainerError", error.to_string()))
            }
            Ok(_) | Err(_) => {
                if let Some(container) = context.observed.container(&id) {
                    if !reset {
                        remove_logs(&container.log_path);
                    }
                    remove_file(&self.log_link(&context, &container.name, &id));
                }
                Ok(if reset { Outcome::Reset { id } } else { Outcome::Done })
            }
        };
        Completion { key, outcome, mutated: true }
    }

    /// Removes what is left on the node: the cgroup, then the directories. Volumes are gone before
    /// (the plan's order).
    pub(super) async fn clean_up(&self, key: Key, context: Context) -> Completion {
        let outcome = self.remove_cgroup_and_directories(&context).await;
        Completion { key, outcome, mutated: false }
    }

    async fn remove_cgroup_and_directories(
        &self,
        context: &Context,
    ) -> Result<Outcome, ActionError> {
        if let Some(cgroups) = &self.deps.cgroups {
            cgroups.remove(&self.uid).await.map_err(|error| {
                ActionError::new(
                    "CleanUp",
                    format!(
                        "failed to delete the pod's cgroup: {}",
                        crate::model::error_chain(&error)
                    ),
                )
            })?;
        }
        self.release_user_ids().await;
        self.deps.volumes.remove_pod_dir(&self.uid).await.map_err(|error| {
            ActionError::new(
                "CleanUp",
                format!(
                    "failed to delete the pod's directory: {}",
                    crate::model::error_chain(&error)
                ),
            )
        })?;
        if let Some(tokens) = &self.deps.tokens {
            tokens.forget(&self.uid);
        }
        info!(pod = %pod::key(&context.pod), "cleaned up");
        Ok(Outcome::CleanedUp)
    }

    /// Removes the pod's log directory, once nothing of the pod is left.
    pub fn remove_log_directory(&self, pod: &crate::model::Pod) {
        let directory = request::pod_log_directory(pod, &self.deps.settings.spec.pod_logs_dir);
        // Its containers' links went with them, unless a process died between the removal in the
        // runtime and its own. Before the directory: while that is there, somebody will look.
        remove_links(&[PathBuf::from(&directory)], &self.deps.settings.container_logs_dir);
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(directory, %error, "removing a pod's log directory failed");
        }
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

/// Log directories of pods that are not known: a process that died between the last removal in the
/// runtime and its own left them.
fn unknown_logs(pod_logs: &Path, is_known: impl Fn(&PodUid) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(pod_logs) else { return Vec::new() };
    // All of them are listed before the first one is asked for.
    let entries: Vec<_> = entries.flatten().collect();
    let unknown = entries.into_iter().filter(|entry| {
        let name = entry.file_name();
        // NAMESPACE_NAME_UID: whatever else lies here is not ours.
        let uid = name
            .to_str()
            .filter(|name| name.matches('_').count() == 2)
            .and_then(|name| name.rsplit('_').next());
        uid.is_some_and(|uid| !is_known(&PodUid::from(uid)))
    });
    unknown.map(|entry| entry.path()).collect()
}

/// Removes such directories, and the links to what was in them. Blocks on the disk.
fn remove_unknown_logs(directories: &[PathBuf], container_logs: &Path) {
    remove_links(directories, container_logs);
    for directory in directories {
        info!(directory = %directory.display(), "removing the logs of a pod that nobody knows");
        if let Err(error) = std::fs::remove_dir_all(directory) {
            warn!(directory = %directory.display(), %error, "removing a pod's log directory failed");
        }
    }
}

/// Removes the links to what was in these directories.
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
fn remove_logs(log_path: &str) {
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

fn remove_file(path: &Path) {
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
