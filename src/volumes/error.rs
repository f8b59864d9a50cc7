//! The errors of setting volumes up and of tearing them down. Their texts end in upstream's events,
//! so they are upstream's where it has one.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::apiserver::objects::ObjectError;
use crate::apiserver::tokens::TokenError;

/// The text for a mount that this node did not make.
pub const FOREIGN_MOUNT: &str = "something else is mounted there";

/// An error of a kind of volume. Its text is upstream's.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a path of the node cannot be a hostPath volume. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// The path leaves its folder.
    #[error("invalid HostPath `{0}`: must not contain '..'")]
    Parent(String),
    /// The path is of another type.
    #[error("hostPath type check failed: {path} is not {wanted}")]
    Type {
        /// The path.
        path: String,
        /// The type, e.g. `a socket file`.
        wanted: &'static str,
    },
    /// There is no such type.
    #[error("{0} is an invalid volume type")]
    UnknownType(String),
    /// What the type asks for cannot be made.
    #[error("{call} {path}: {}", errno_text(.error))]
    Make {
        /// The system call, as Go names it.
        call: &'static str,
        /// The path.
        path: String,
        /// The kernel's reason, which is part of the text.
        error: io::Error,
    },
}

/// The reasons why a volume could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A ConfigMap or Secret cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A token request failed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The volume's spec is invalid, or the object lacks a key.
    #[error(transparent)]
    Payload(Cause),
    /// A path of the node is not of the type that the spec demands.
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    /// The claim does not lead to a persistent volume: no step with one has begun.
    #[error("{0}")]
    Unprocessed(String),
    /// A step with a persistent volume failed.
    #[error("{text}")]
    Persistent {
        /// The persistent volume's name.
        volume: String,
        /// Upstream's name of the step, e.g. `MountVolume.SetUp`.
        step: &'static str,
        /// The error's text.
        text: String,
    },
    /// The pod went away during the work.
    #[error("the pod went away")]
    Cancelled,
    /// Several sources of a projected volume failed.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<SetUpError>),
    /// A file, directory or mount could not be created.
    #[error("could not {step} {path}", path = .path.display())]
    Io {
        /// The step, e.g. `make the directory`.
        step: &'static str,
        /// The path of the step.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The work panicked.
    #[error("setting up the volume failed by a bug: {0}")]
    Panicked(String),
}

impl SetUpError {
    /// Returns the conversion for `map_err` of a file operation.
    pub(crate) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, path: path.to_owned(), source }
    }

    /// Joins several errors to one; `None` for none. Equal texts appear once, as in upstream's
    /// aggregate.
    pub(crate) fn aggregate(errors: Vec<Self>) -> Option<Self> {
        let mut distinct: Vec<Self> = Vec::new();
        for error in errors {
            if !distinct.iter().any(|known| known.to_string() == error.to_string()) {
                distinct.push(error);
            }
        }
        match distinct.len() {
            0 | 1 => distinct.pop(),
            _ => Some(Self::Several(distinct)),
        }
    }

    /// Returns the whole chain in one line, for events and statuses.
    pub fn text(&self) -> String {
        chain(self)
    }

    /// Returns the event for a volume that the pod calls `name`. Upstream names its step, and a
    /// persistent volume by its own name. The blank before the colon is upstream's.
    pub fn event(&self, name: &str) -> String {
        let (step, name) = match self {
            Self::Persistent { volume, step, .. } => (*step, volume.as_str()),
            Self::Object(_)
            | Self::Token(_)
            | Self::Payload(_)
            | Self::HostPath(_)
            | Self::Unprocessed(_)
            | Self::Cancelled
            | Self::Several(_)
            | Self::Io { .. }
            | Self::Panicked(_) => ("MountVolume.SetUp", name),
        };
        format!("{step} failed for volume {name:?} : {}", self.text())
    }
}

/// The reasons why a volume, or a pod's directory, could not be removed. Everything else that could
/// be removed is removed.
#[derive(Debug, thiserror::Error)]
pub enum TearDownError {
    /// A file, directory or mount is in the way.
    #[error("could not {step} {path}", path = .path.display())]
    Io {
        /// The step.
        step: &'static str,
        /// The path of the step.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// There is a file or mount that this process did not make.
    #[error("{path} holds what this node did not put there ({what}): look at it and remove it by hand", path = .path.display())]
    Foreign {
        /// The path of the file or mount.
        path: PathBuf,
        /// A description of the file or mount.
        what: String,
    },
    /// A CSI driver has not taken the volume away.
    #[error("{text}")]
    Driver {
        /// The driver.
        driver: String,
        /// Upstream's text.
        text: String,
    },
    /// The error that another caller has received.
    #[error("{0}")]
    Again(String),
    /// The work panicked.
    #[error("tearing down the volume failed by a bug: {0}")]
    Panicked(String),
}

impl TearDownError {
    /// Returns the conversion for `map_err` of a file operation.
    pub(crate) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, path: path.to_owned(), source }
    }

    /// Returns the whole chain in one line.
    pub fn text(&self) -> String {
        chain(self)
    }

    /// Returns the kind of reason, for a metric.
    pub fn reason(&self) -> StuckReason {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => {
                StuckReason::Busy
            }
            Self::Io { .. } => StuckReason::Io,
            Self::Foreign { what, .. } if what == FOREIGN_MOUNT => StuckReason::Mounted,
            Self::Foreign { .. } => StuckReason::Foreign,
            Self::Driver { .. } | Self::Again(_) | Self::Panicked(_) => StuckReason::Other,
        }
    }
}

/// The reasons why a volume or a pod's directory cannot be removed, as the metric's label has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StuckReason {
    /// Something holds the mount, e.g. a process of a container.
    Busy,
    /// Something is mounted there that this node did not mount.
    Mounted,
    /// There are files that this node did not put there.
    Foreign,
    /// The kernel refuses for another reason.
    Io,
    /// Anything else.
    Other,
}

impl StuckReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Busy, Self::Mounted, Self::Foreign, Self::Io, Self::Other];

    /// Returns the label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Mounted => "mounted",
            Self::Foreign => "foreign",
            Self::Io => "io",
            Self::Other => "other",
        }
    }
}

/// Joins an error with its sources by `: `.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Words the kernel's reason as Go does: `no such file or directory`.
pub(crate) fn errno_text(error: &io::Error) -> String {
    let text = error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| nix::errno::Errno::from_raw(code).desc().to_owned(),
    );
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
