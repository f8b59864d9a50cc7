//! cgroupfs, v1 and v2: creates, sets, kills and removes cgroups below a given root.
//!
//! `values` computes the text of each file, [`CgroupFs`] writes it. Every function blocks for as
//! long as the kernel does: call them on blocking threads. Nothing here knows of pods, and nothing
//! here leaves its root.

mod fs;
mod layout;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

pub use fs::CgroupFs;
pub use layout::Layout;
pub use values::cpu_weight;

use super::fs::go_text;
use super::systemd::SystemdError;

/// The settings of a cgroup. `None`: left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupSettings {
    /// CPU shares on the scale of cgroup v1; written as a weight on v2.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds per period; -1: none; 0: left as it is.
    pub cpu_quota: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period: Option<u64>,
    /// Memory limit in bytes; -1: none; 0: left as it is.
    pub memory: Option<i64>,
    /// The limit on processes.
    pub pids: Option<i64>,
    /// Huge pages.
    pub huge_pages: Option<HugePages>,
    /// The CPUs of the cpuset, e.g. `0-3`.
    pub cpus: Option<String>,
}

/// Limits on huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// No limit, for every size.
    Unlimited,
    /// Bytes by page size in bytes; a size that is missing gets a limit of zero.
    Limits(BTreeMap<i64, i64>),
}

/// An error of the kernel, printed as upstream prints it: `no such file or directory`.
#[derive(Debug)]
pub struct Errno(pub io::Error);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&go_text(&self.0))
    }
}

impl std::error::Error for Errno {}

/// The failures of work on a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted; mount cgroup2 at /sys/fs/cgroup")]
    NotMounted,
    /// The path would leave the root.
    #[error("cgroup path {path:?} is not below the root")]
    BadPath {
        /// The path.
        path: String,
    },
    /// A directory could not be created.
    #[error("cannot make the cgroup {path:?}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A file could not be written. Upstream's words.
    #[error("failed to write {value:?}: write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The text that was to be written.
        value: String,
        /// The kernel's error.
        #[source]
        source: Errno,
    },
    /// More memory is in use than the new limit allows. Upstream's words.
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    MemoryInUse {
        /// The limit in bytes.
        limit: String,
        /// Bytes in use.
        usage: u64,
        /// The peak of bytes in use.
        peak: u64,
    },
    /// A cgroup v1 is missing in some hierarchies.
    #[error("cgroup {path:?} has some missing paths: {missing}")]
    MissingPaths {
        /// The cgroup.
        path: PathBuf,
        /// The directories, separated by commas.
        missing: String,
    },
    /// A cgroup v2 lacks controllers.
    #[error(
        "cgroup {path:?} has some missing controllers: {missing}; enable them in its parent's cgroup.subtree_control"
    )]
    MissingControllers {
        /// The cgroup.
        path: PathBuf,
        /// The controllers, separated by commas.
        missing: String,
    },
    /// A directory could not be removed. A later attempt may succeed if processes are about to end.
    #[error("cannot remove the cgroup {path:?}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// systemd failed.
    #[error("the slice {unit:?}")]
    Slice {
        /// The slice.
        unit: String,
        /// systemd's error.
        #[source]
        source: SystemdError,
    },
    /// A process could not be killed.
    #[error("cannot kill process {pid} of the cgroup {path:?}")]
    Kill {
        /// The process.
        pid: i32,
        /// The cgroup.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}
