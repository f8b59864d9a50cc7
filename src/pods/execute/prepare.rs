//! Before the first sandbox: the pod's cgroup, its directories, and what its log directories still
//! know.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::plan::types::Key;
use super::super::request;
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Outcome};
use crate::linux::fs::ensure_dir;
use crate::model::reason::event;
use crate::model::{EventType, pod};
use crate::resources::allocation::requirements;

impl PodExecutor {
    /// Makes cgroup and directories.
    pub(super) async fn prepare(&self, key: Key, context: Context) -> Completion {
        let outcome = self.make_cgroup_and_directories(&context).await;
        Completion { key, outcome, mutated: false }
    }

    async fn make_cgroup_and_directories(&self, context: &Context) -> Result<Outcome, ActionError> {
        if let Some(cgroups) = &self.deps.cgroups
            && let Err(error) = cgroups.ensure(&context.pod).await
        {
            let message = format!(
                "unable to ensure pod container exists: {}",
                crate::model::error_chain(&error)
            );
            self.pod_event(
                &context.pod,
                EventType::Warning,
                event::FAILED_CREATE_POD_CONTAINER,
                message.clone(),
            );
            return Err(ActionError::new(event::FAILED_CREATE_POD_CONTAINER, message));
        }
        let directories = self.pod_dir();
        for directory in
            [directories.clone(), directories.join("volumes"), directories.join("plugins")]
        {
            ensure_dir(&directory, 0o750).map_err(|error| {
                let message =
                    format!("error making pod data directories: {}: {error}", directory.display());
                let reason = event::FAILED_TO_MAKE_POD_DATA_DIRECTORIES;
                self.pod_event(&context.pod, EventType::Warning, reason, message.clone());
                ActionError::new(reason, message)
            })?;
        }
        let logs = request::pod_log_directory(&context.pod, &self.deps.settings.spec.pod_logs_dir);
        let names =
            pod::main_containers(&context.pod).iter().chain(pod::init_containers(&context.pod));
        let logged_restarts: BTreeMap<String, u32> = names
            .filter_map(|container| {
                let newest = newest_log(&Path::new(&logs).join(&container.name))?;
                Some((container.name.clone(), newest))
            })
            .collect();
        Ok(Outcome::Prepared { logged_restarts, pod: requirements(&context.pod) })
    }
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
