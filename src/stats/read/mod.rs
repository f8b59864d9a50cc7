//! Reads what the kernel says: files of cgroups and of processes.
//!
//! `parse` is pure, `sample` holds the values, `cgroup` opens the files. Nothing here calls the
//! runtime, and nothing here decides what is shown.

mod cgroup;
pub(super) mod disks;
pub mod parse;
pub mod sample;

pub(super) use cgroup::Reader;
