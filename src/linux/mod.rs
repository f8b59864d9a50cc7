//! The kernel: files, mounts, cgroups, network addresses, inotify. The only place with unsafe code.

pub mod fs;
pub mod malloc;
