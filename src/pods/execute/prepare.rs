//! Before the first sandbox: the pod's cgroup, its directories, and the restart counts that its log
//! directories still know.

use std::collections::BTreeMap;
use std::path::Path;

use super::scope::Scope;
use super::{ActionError, Effect, Outcome};
use crate::linux::fs::ensure_dir;
use crate::model::reason::event;
use crate::model::{EventType, error_chain, pod};
use crate::pods::request;

/// Makes the pod's cgroup and directories.
pub(super) async fn prepare(scope: Scope<'_>) -> Effect {
    Effect::unchanged(make_cgroup_and_directories(scope).await)
}

async fn make_cgroup_and_directories(scope: Scope<'_>) -> Result<Outcome, ActionError> {
    let pod = &scope.context.pod;
    let failed = |reason: &str, message: String| {
        scope.event(EventType::Warning, reason, message.clone());
        ActionError::new(reason, message)
    };

    let made = match &scope.deps.resources.cgroups {
        Some(cgroups) => cgroups.ensure(pod).await,
        None => Ok(None),
    };
    let cgroup = made.map_err(|error| {
        let message = format!("unable to ensure pod container exists: {}", error_chain(&error));
        failed(event::FAILED_CREATE_POD_CONTAINER, message)
    })?;

    let own = scope.pod_dir();
    for directory in [own.clone(), own.join("volumes"), own.join("plugins")] {
        ensure_dir(&directory, 0o750).map_err(|error| {
            let message =
                format!("error making pod data directories: {}: {error}", directory.display());
            failed(event::FAILED_TO_MAKE_POD_DATA_DIRECTORIES, message)
        })?;
    }

    let logs = request::pod_log_directory(pod, &scope.deps.settings.spec.pod_logs_dir);
    let containers = pod::main_containers(pod).iter().chain(pod::init_containers(pod));
    let logged_restarts: BTreeMap<String, u32> = containers
        .filter_map(|container| {
            let newest = newest_log(&Path::new(&logs).join(&container.name))?;
            Some((container.name.clone(), newest))
        })
        .collect();
    Ok(Outcome::Prepared { logged_restarts, cgroup })
}

/// The highest restart count among the log files `N.log…` of a directory.
fn newest_log(directory: &Path) -> Option<u32> {
    let entries = std::fs::read_dir(directory).ok()?;
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.split_once(".log")?.0.parse::<u32>().ok()
        })
        .max()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests write files")]
mod tests {
    use super::newest_log;

    #[test]
    fn the_newest_log_counts_and_rotated_ones_too() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(newest_log(directory.path()), None);
        for name in ["0.log", "10.log.20260101-000000.gz", "2.log", "notes.txt"] {
            std::fs::write(directory.path().join(name), "").expect("written");
        }
        assert_eq!(newest_log(directory.path()), Some(10));
        assert_eq!(newest_log(&directory.path().join("absent")), None);
    }
}
