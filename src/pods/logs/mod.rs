//! Container logs that have become too long are rotated: the runtime is given a new file, older
//! ones are packed, the oldest removed.
//!
//! In: the pods' views, for what runs and where it logs. Out: files beside the log, and
//! ReopenContainerLog. The sizes are looked at every `containerLogMonitorInterval`; nothing tells
//! of them otherwise.

mod lines;
pub mod plan;
pub(super) mod select;
pub(super) mod stream;

use std::fs::File;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::tz::TimeZone;
use tokio::task::JoinError;
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::cri::{CriError, Runtime, v1};
use crate::dispatch::PodsHandle;
use crate::model::{ContainerId, Wall, error_chain};

/// How upstream writes the time into the name of a rotated log.
const TIME_FORMAT: &str = "%Y%m%d-%H%M%S";

/// When and how logs are rotated.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `containerLogMaxSize` in bytes.
    pub max_size: u64,
    /// `containerLogMaxFiles`.
    pub max_files: usize,
    /// `containerLogMaxWorkers`: how many logs are worked on at a time.
    pub workers: usize,
    /// `containerLogMonitorInterval`.
    pub every: Duration,
}

/// What rotates logs; see the module's documentation.
#[derive(Debug)]
pub struct Rotator {
    policy: Policy,
    pods: PodsHandle,
    cri: Runtime,
    clock: Clock,
}

/// A log and who writes it.
#[derive(Clone, Debug)]
struct Log {
    id: ContainerId,
    path: PathBuf,
}

/// Why a log is not rotated.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    /// A file cannot be read, packed, renamed or removed.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The work panicked.
    #[error(transparent)]
    Panicked(#[from] JoinError),
    /// The runtime does not write to the new file.
    #[error("failed to reopen container log {:?}", id.as_str())]
    Reopen {
        /// The container.
        id: ContainerId,
        /// Why.
        source: CriError,
    },
}

/// Where a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Fine,
    TooLong,
    Missing,
}

impl Rotator {
    /// Made of what it looks at.
    pub fn new(policy: Policy, pods: PodsHandle, cri: Runtime, clock: Clock) -> Self {
        Self { policy, pods, cri, clock }
    }

    /// Runs until it is dropped; a log that is being packed then is packed anew the next time.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(self.policy.every).await;
            self.look().await;
        }
    }

    async fn look(&self) {
        let logs = self.logs();
        let max_size = self.policy.max_size;
        let sizes = crate::linux::blocking::spawn(move || {
            logs.into_iter().map(|log| (size(&log.path, max_size), log)).collect::<Vec<_>>()
        });
        let Ok(sizes) = sizes.await else { return };
        futures::stream::iter(sizes.into_iter().filter(|(size, _)| *size != Size::Fine))
            .for_each_concurrent(self.policy.workers.max(1), async |(size, log)| {
                self.care(size, log).await;
            })
            .await;
    }

    /// The logs of what runs: others are not written to any more.
    fn logs(&self) -> Vec<Log> {
        let views = self.pods.views();
        let containers = views.iter().flat_map(|view| &view.observed.containers);
        containers
            .filter(|container| container.state.is_running() && !container.log_path.is_empty())
            .map(|container| Log {
                id: container.id.clone(),
                path: PathBuf::from(&container.log_path),
            })
            .collect()
    }

    async fn care(&self, size: Size, log: Log) {
        let path = log.path.clone();
        let done = match size {
            Size::Fine => Ok(()),
            // Somebody has removed it: the runtime writes to a file without a name.
            Size::Missing => self.reopen(&log.id).await,
            Size::TooLong => self.rotate(log).await,
        };
        if let Err(error) = done {
            let error = error_chain(&error);
            warn!(path = %path.display(), error, "a container's log could not be rotated");
        }
    }

    async fn rotate(&self, log: Log) -> Result<(), RotateError> {
        let (path, max_files) = (log.path.clone(), self.policy.max_files);
        let prepared = crate::linux::blocking::spawn(move || prepare(&path, max_files));
        prepared.await??;
        let zone = crate::linux::blocking::spawn(local_zone).await.unwrap_or(TimeZone::UTC);
        let rotated = rotated(&log.path, self.clock.now().wall, zone);
        std::fs::rename(&log.path, &rotated)?;
        if let Err(error) = self.reopen(&log.id).await {
            // Back again: the container writes to it still, and the next look tries anew.
            std::fs::rename(&rotated, &log.path)?;
            return Err(error);
        }
        debug!(path = %rotated.display(), "rotated");
        Ok(())
    }

    async fn reopen(&self, id: &ContainerId) -> Result<(), RotateError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.as_str().to_owned() };
        let reopened = self.cri.reopen_container_log(request).await;
        reopened.map(drop).map_err(|source| RotateError::Reopen { id: id.clone(), source })
    }
}

fn size(path: &Path, max_size: u64) -> Size {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() >= max_size => Size::TooLong,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Size::Missing,
        Ok(_) | Err(_) => Size::Fine,
    }
}

/// The time zone of the node, in which upstream names rotated logs.
fn local_zone() -> TimeZone {
    let data = std::fs::read("/etc/localtime").unwrap_or_default();
    TimeZone::tzif("Local", &data).unwrap_or(TimeZone::UTC)
}

/// The name of a log that is rotated now, by the clock of the node's time zone.
fn rotated(path: &Path, now: Wall, zone: TimeZone) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", now.to_zoned(zone).strftime(TIME_FORMAT)));
    PathBuf::from(name)
}

/// Removes and packs what was rotated before.
fn prepare(path: &Path, max_files: usize) -> io::Result<()> {
    let (Some(directory), Some(log)) =
        (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(());
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    let planned = plan::plan(log, &names, max_files);
    for name in &planned.remove {
        std::fs::remove_file(directory.join(name))?;
    }
    planned.pack.iter().try_for_each(|name| pack(&directory.join(name)))
}

/// Packs a log with gzip, under a name of its own until it is whole.
fn pack(path: &Path) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (unfinished, packed) = (with(plan::UNFINISHED), with(plan::PACKED));
    let done = pack_into(path, &unfinished).and_then(|()| std::fs::rename(&unfinished, packed));
    if done.is_err() {
        // The next rotation removes it otherwise.
        std::fs::remove_file(&unfinished).ok();
        return done;
    }
    std::fs::remove_file(path)
}

fn pack_into(path: &Path, unfinished: &Path) -> io::Result<()> {
    let mut log = File::open(path)?;
    let mode = log.metadata()?.permissions().mode();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(unfinished)?;
    let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    io::copy(&mut log, &mut packer)?;
    packer.finish().map(drop)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write the logs that they rotate")]
mod tests {
    use std::io::Read as _;
    use std::path::Path;

    use jiff::tz::TimeZone;

    use super::{Size, prepare, rotated, size};

    #[test]
    fn what_was_rotated_before_is_packed_and_the_oldest_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        for (name, text) in [
            ("0.log", "new"),
            ("0.log.20260102-000000", "line\n"),
            ("0.log.20260101-000000.gz", "old"),
        ] {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        prepare(&path, 3).expect("prepared");
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .expect("read")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.20260102-000000.gz"]);
        let packed =
            std::fs::File::open(directory.path().join("0.log.20260102-000000.gz")).expect("opened");
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("unpacked");
        assert_eq!(text, "line\n");
    }

    #[test]
    fn names_and_sizes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        assert_eq!(size(&path, 3), Size::Missing);
        std::fs::write(&path, "abc").expect("written");
        assert_eq!((size(&path, 3), size(&path, 4)), (Size::TooLong, Size::Fine));
        let now = jiff::Timestamp::UNIX_EPOCH;
        for (hours, name) in [(0, "0.log.19700101-000000"), (-7, "0.log.19691231-170000")] {
            let zone = TimeZone::fixed(jiff::tz::offset(hours));
            assert_eq!(rotated(Path::new("0.log"), now, zone), Path::new(name));
        }
    }
}
