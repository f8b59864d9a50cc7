//! The kernel: files, mounts, cgroups, network addresses. The only place with unsafe code.

pub mod beneath;
pub mod blocking;
pub mod cgroup;
pub mod fs;
pub mod iptables;
pub mod machine;
pub mod malloc;
pub mod mount;
pub mod ownership;
pub mod program;
#[cfg(any(test, feature = "testkit"))]
pub mod seeded;
pub mod stamp;
pub mod systemd;
pub mod timer;
pub mod walk;
