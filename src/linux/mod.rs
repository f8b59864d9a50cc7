//! The kernel: files, mounts, cgroups, processes and systemd.
//!
//! The only place with unsafe code. It knows no pods and decides nothing about them.

pub mod beneath;
pub mod blocking;
pub mod cgroup;
pub mod fs;
pub mod iptables;
pub mod kmsg;
pub mod logind;
pub mod machine;
pub mod malloc;
pub mod measure;
pub mod mount;
pub mod ownership;
pub mod program;
pub mod psi;
#[cfg(any(test, feature = "testkit"))]
pub mod seeded;
pub mod selinux;
pub mod stamp;
pub mod systemd;
pub mod timer;
pub mod walk;
