//! The files in which the resources of pods outlive this process.
//!
//! | file | what it says |
//! |---|---|
//! | `allocated_pods_state` | what pods were given by admission and by granted resizes |
//! | `actuated_pods_state` | what the runtime and the kernel were last asked to enforce |
//!
//! [`PodStates`] is the handle of one file, [`keep`] the task that writes it. A file is written a
//! moment after a change, so that a burst of pods makes one write: what a killed process loses of
//! it follows from the API's statuses. Nothing here decides on resources.

mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use tokio::sync::watch;
use tracing::warn;

pub use self::file::{Entries, FormatError};
use super::allocation::Allocation;
use crate::linux::blocking;
use crate::linux::fs::{WriteOptions, write_atomic_with};
use crate::model::{PodUid, error_chain};

/// The file of what was given.
const ALLOCATED: &str = "allocated_pods_state";
/// The file of what is enforced.
const ACTUATED: &str = "actuated_pods_state";
/// How long a change waits for others.
const GATHER: Duration = Duration::from_millis(100);
/// How long a write that failed waits for the next attempt.
const RETRY: Duration = Duration::from_secs(10);

/// Why the state of pods cannot be had. The text is upstream's.
#[derive(Debug, thiserror::Error)]
pub enum PodStatesError {
    /// The file cannot be read.
    #[error(
        "could not restore state from checkpoint, please drain this node and delete pod resource \
         information checkpoint file {path:?} before restarting Kubelet"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "could not restore state from checkpoint, please drain this node and delete pod resource \
         information checkpoint file {path:?} before restarting Kubelet"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
}

/// The handle of one file. Cheap to clone.
#[derive(Clone)]
pub struct PodStates {
    entries: Arc<watch::Sender<Entries>>,
}

impl fmt::Debug for PodStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodStates").field("pods", &self.entries.borrow().len()).finish()
    }
}

impl PodStates {
    /// A handle with these entries; without [`keep`] they stay in memory.
    pub fn new(entries: Entries) -> Self {
        Self { entries: Arc::new(watch::Sender::new(entries)) }
    }

    /// What is known of a pod.
    pub fn get(&self, uid: &PodUid) -> Option<Arc<Allocation>> {
        self.entries.borrow().get(uid).cloned()
    }

    /// Stores the resources of a pod.
    pub fn set(&self, uid: &PodUid, allocation: Allocation) {
        self.entries.send_if_modified(|entries| {
            let is_known = entries.get(uid).is_some_and(|known| **known == allocation);
            if !is_known {
                entries.insert(uid.clone(), Arc::new(allocation));
            }
            !is_known
        });
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &PodUid) {
        self.entries.send_if_modified(|entries| entries.remove(uid).is_some());
    }

    /// Forgets the pods that an earlier process left and that are not known any more.
    pub fn retain(&self, is_known: impl Fn(&PodUid) -> bool) {
        self.entries.send_if_modified(|entries| {
            let before = entries.len();
            entries.retain(|uid, _| is_known(uid));
            entries.len() != before
        });
    }
}

/// The two files in the kubelet's directory.
#[derive(Clone, Debug)]
pub struct Files {
    /// What pods were given.
    pub allocated: PodStates,
    /// What is enforced.
    pub actuated: PodStates,
}

/// Reads both files below `root`; one that is not there has no entries. It blocks.
pub fn open(root: &Path) -> Result<Files, PodStatesError> {
    Ok(Files { allocated: read(root.join(ALLOCATED))?, actuated: read(root.join(ACTUATED))? })
}

fn read(path: PathBuf) -> Result<PodStates, PodStatesError> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(PodStates::new(Entries::new()));
        }
        Err(source) => return Err(PodStatesError::Read { path, source }),
    };
    match file::decode(&text) {
        Ok(entries) => Ok(PodStates::new(entries)),
        Err(source) => Err(PodStatesError::Format { path, source }),
    }
}

/// Keeps both files below `root` up to date. Ends with the handles. Cancel-safe: a write that has
/// begun is finished on its thread.
pub async fn keep(files: Files, root: PathBuf) {
    let Files { allocated, actuated } = files;
    let allocated = keep_file(allocated, root.join(ALLOCATED));
    let actuated = keep_file(actuated, root.join(ACTUATED));
    tokio::join!(allocated, actuated);
}

async fn keep_file(states: PodStates, path: PathBuf) {
    let mut entries = states.entries.subscribe();
    drop(states);
    let mut is_kept = true;
    loop {
        let changed = entries.changed();
        let changed = if is_kept {
            changed.await
        } else {
            tokio::time::timeout(RETRY, changed).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }

        tokio::time::sleep(GATHER).await;
        let text = file::encode(&entries.borrow_and_update());
        is_kept = match write(path.clone(), text).await {
            Ok(()) => true,
            Err(error) => {
                let error = error_chain(&error);
                warn!(path = %path.display(), error, "the resources of pods cannot be kept");
                false
            }
        };
    }
}

/// Writes a file so that it is whole after a power cut.
async fn write(path: PathBuf, text: String) -> io::Result<()> {
    let options = WriteOptions::mode(0o600).synced();
    let work = move || write_atomic_with(&path, text, options);
    blocking::spawn(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ResourceRequirements;
    use tokio_util::task::TaskTracker;

    use super::{ACTUATED, ALLOCATED, Allocation, keep, open};
    use crate::linux::blocking::inline_on_this_thread;
    use crate::linux::fs::{ensure_root_dir, write_atomic};
    use crate::model::PodUid;

    #[tokio::test]
    async fn what_pods_were_given_outlives_the_process() {
        let root = tempfile::tempdir().expect("a directory");
        let uid = PodUid::new("u");
        let given = Allocation {
            whole: None,
            containers: [("c".to_owned(), ResourceRequirements::default())].into(),
        };
        {
            let files = open(root.path()).expect("no files yet");
            assert_eq!(files.allocated.get(&uid), None);
            let task = TaskTracker::new().spawn(keep(files.clone(), root.path().to_owned()));
            tokio::task::yield_now().await;
            files.allocated.set(&uid, given.clone());
            let path = root.path().join(ALLOCATED);
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            task.abort();
        }

        let files = open(root.path()).expect("the files");
        assert_eq!(files.allocated.get(&uid).as_deref(), Some(&given));
        files.allocated.retain(|_| false);
        assert_eq!(files.allocated.get(&uid), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_failed_is_repeated_without_another_change() {
        inline_on_this_thread();
        let root = tempfile::tempdir().expect("a directory");
        let folder = root.path().join("later");
        let files = open(&folder).expect("no files yet");
        let _task = TaskTracker::new().spawn(keep(files.clone(), folder.clone()));
        tokio::task::yield_now().await;
        let given = Allocation { whole: None, containers: [].into() };
        files.allocated.set(&PodUid::new("u"), given.clone());
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure_root_dir(&folder, 0o700).expect("made");
        tokio::time::sleep(Duration::from_secs(11)).await;
        let kept = open(&folder).expect("readable");
        assert_eq!(kept.allocated.get(&PodUid::new("u")).as_deref(), Some(&given));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let root = tempfile::tempdir().expect("a directory");
        write_atomic(&root.path().join(ACTUATED), "{}", 0o600).expect("written");
        let error = open(root.path()).expect_err("no checksum");
        assert!(error.to_string().contains(ACTUATED), "{error}");
    }
}
