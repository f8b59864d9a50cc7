//! image volumes: the content of an OCI image.
//!
//! The runtime mounts the image with each container that asks for it, and `pods::execute` has it
//! pulled before. Nothing is set up here.

use crate::volumes::plan::MountedBy;

/// Nothing of the volume lies in the pod's directory.
pub(super) const MOUNTED_BY: MountedBy = MountedBy::Runtime;
