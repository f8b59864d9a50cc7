//! image volumes: the content of an OCI image, which the runtime mounts with each container that
//! asks for it. The image is pulled before the container is made (`pods::execute`).

use crate::volumes::plan::MountedBy;

/// Nothing of the volume lies in the pod's directory.
pub(super) const MOUNTED_BY: MountedBy = MountedBy::Runtime;
