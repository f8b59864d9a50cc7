//! What this process knows of one container of the spec across its starts: the image of the next
//! start, the crash back-off, how its removed predecessors ended. Pure.
//!
//! A container name is a slot that one container after the other fills; [`super::container`] is
//! about one of those.

use std::time::Duration;

use crate::model::observed::Remembered;
use crate::model::{Mono, Now};
use crate::resources::allocation::Requirements;

/// The memory of one container of the spec, by name.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// The image for the next start. Cleared when that start begins.
    pub image: NextImage,
    /// The crash back-off.
    pub backoff: Option<Backoff>,
    /// Restart count and exit of the newest container that has been removed.
    pub remembered: Option<Remembered>,
    /// The value of `io.kubernetes.container.hash` that the spec asks for. A running container with
    /// another one is replaced.
    pub expected_hash: Option<u64>,
    /// The resources that the start in flight gives.
    pub starting: Option<Requirements>,
}

/// What is known of the image for a container's next start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NextImage {
    /// Nothing yet.
    #[default]
    Unknown,
    /// A silent pull has ended, successfully or not: it is not repeated before the start.
    PulledAhead,
    /// The answer to an `EnsureImage` in the container's turn.
    Answered(ImageState),
}

/// The image subsystem's answer for one start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// It is there.
    Present {
        /// The reference to create the container with.
        image_ref: String,
    },
    /// It cannot be had at present; the image subsystem has said when to try again.
    Failed {
        /// The waiting reason: `ErrImagePull`, `ImagePullBackOff`, `ErrImageNeverPull`,
        /// `InvalidImageName`, …
        reason: String,
        /// The waiting message.
        message: String,
        /// When to try again; `None`: only when the spec changes.
        retry_at: Option<Mono>,
        /// Since when it has been failing.
        since: Now,
    },
}

/// The crash back-off of one container name: 10 s, doubled at each restart up to the maximum,
/// forgotten after ten minutes without a crash. See [`crate::pods::plan::backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The current wait.
    pub wait: Duration,
    /// When it was last raised.
    pub updated: Mono,
    /// The restart count of the start that it was raised for: that start is not held back by it.
    pub restart_count: u32,
}
