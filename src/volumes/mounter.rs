//! Gives volumes access to the kernel's mounts: a trait, with the real implementation and a fake
//! for tests.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::linux::mount::{self, FsKind};

/// The operations on mounts that volumes need. Every call blocks.
pub trait Mounter: Clone + Send + Sync + 'static {
    /// Returns true if something is mounted at the path; `NotFound` if the path does not exist.
    fn is_mount_point(&self, path: &Path) -> io::Result<bool>;
    /// Returns the kind of the file system that the path lies on.
    fn fs_kind(&self, path: &Path) -> io::Result<FsKind>;
    /// Mounts a tmpfs of at most `size` bytes; without a size, of the kernel's default.
    fn mount_tmpfs(&self, target: &Path, size: Option<u64>) -> io::Result<()>;
    /// Mounts huge pages of `page_size` (e.g. `2Mi`).
    fn mount_huge_pages(&self, target: &Path, page_size: &str) -> io::Result<()>;
    /// Binds the open file or directory `source` to `target`.
    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()>;
    /// Changes the flags of the bind mount at `target`.
    fn remount_bind(&self, target: &Path, flags: MsFlags) -> io::Result<()>;
    /// Removes the topmost mount at `target`.
    fn unmount(&self, target: &Path) -> io::Result<()>;
    /// Returns the device and inode that are visible at `path`.
    fn identity(&self, path: &Path) -> io::Result<(u64, u64)>;
    /// Returns the other places that the directory `path` is bound to.
    fn other_places(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// Returns a file's device and inode.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The kernel's mounts.
#[derive(Clone, Copy, Debug)]
pub struct KernelMounter {
    /// True if tmpfs can be kept out of swap: kernels since 6.4, outside user namespaces.
    no_swap: bool,
}

impl KernelMounter {
    /// Detects the abilities of this kernel. Reads two small files.
    pub fn detect() -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let user_map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self { no_swap: can_stay_out_of_swap(&release, &user_map) }
    }
}

impl Mounter for KernelMounter {
    fn is_mount_point(&self, path: &Path) -> io::Result<bool> {
        mount::is_mount_point(path)
    }

    fn fs_kind(&self, path: &Path) -> io::Result<FsKind> {
        mount::fs_kind(path)
    }

    fn mount_tmpfs(&self, target: &Path, size: Option<u64>) -> io::Result<()> {
        let mut options: Vec<String> =
            size.map(|size| format!("size={size}")).into_iter().collect();
        if self.no_swap {
            options.push("noswap".to_owned());
        }
        mount::mount("tmpfs", target, "tmpfs", MsFlags::empty(), &options.join(","))
    }

    fn mount_huge_pages(&self, target: &Path, page_size: &str) -> io::Result<()> {
        mount::mount(
            "nodev",
            target,
            "hugetlbfs",
            MsFlags::empty(),
            &format!("pagesize={page_size}"),
        )
    }

    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        mount::bind_fd(source, target)
    }

    fn remount_bind(&self, target: &Path, flags: MsFlags) -> io::Result<()> {
        mount::remount_bind(target, flags)
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        mount::unmount(target)
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        identity(path)
    }

    fn other_places(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        mount::other_places(&mount::list()?, &std::fs::canonicalize(path)?)
    }
}

/// Returns true if the kernel's tmpfs has the option `noswap` here.
fn can_stay_out_of_swap(release: &str, user_map: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let fields: Vec<&str> = user_map.split_whitespace().collect();
    version >= (6, 4) && fields == ["0", "0", "4294967295"]
}

/// Mounts in memory, for tests.
#[cfg(any(test, feature = "testkit"))]
pub mod fake {
    use std::collections::BTreeMap;
    use std::io;
    use std::os::fd::{AsRawFd as _, BorrowedFd};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use nix::mount::MsFlags;
    use parking_lot::Mutex;

    use super::Mounter;
    use crate::linux::mount::FsKind;

    /// Records mounts instead of making them.
    #[derive(Clone, Debug, Default)]
    pub struct FakeMounter {
        state: Arc<Mutex<State>>,
    }

    #[derive(Debug, Default)]
    struct State {
        mounts: BTreeMap<PathBuf, String>,
        /// Paths that refuse to be unmounted.
        busy: Vec<PathBuf>,
        log: Vec<String>,
    }

    impl FakeMounter {
        /// Returns the present mounts: the source by target.
        pub fn mounts(&self) -> BTreeMap<PathBuf, String> {
            self.state.lock().mounts.clone()
        }

        /// Makes a path refuse to be unmounted, or stop refusing.
        pub fn set_busy(&self, path: &Path, busy: bool) {
            let mut state = self.state.lock();
            state.busy.retain(|known| known != path);
            if busy {
                state.busy.push(path.to_owned());
            }
        }

        /// Returns all calls, in order.
        pub fn log(&self) -> Vec<String> {
            self.state.lock().log.clone()
        }

        fn add(&self, target: &Path, what: String) -> io::Result<()> {
            std::fs::symlink_metadata(target)?;
            let mut state = self.state.lock();
            state.log.push(format!("mount {} {what}", target.display()));
            state.mounts.insert(target.to_owned(), what);
            Ok(())
        }
    }

    impl Mounter for FakeMounter {
        fn is_mount_point(&self, path: &Path) -> io::Result<bool> {
            std::fs::symlink_metadata(path)?;
            Ok(self.state.lock().mounts.contains_key(path))
        }

        fn fs_kind(&self, path: &Path) -> io::Result<FsKind> {
            std::fs::symlink_metadata(path)?;
            let state = self.state.lock();
            let mut above = state
                .mounts
                .iter()
                .filter(|(target, _)| path.starts_with(target))
                .map(|(_, what)| what);

            Ok(match above.next_back() {
                Some(what) if what.starts_with("tmpfs") => FsKind::Tmpfs,
                Some(what) if what.starts_with("hugetlbfs") => FsKind::HugeTlbFs,
                Some(_) | None => FsKind::Other,
            })
        }

        fn mount_tmpfs(&self, target: &Path, size: Option<u64>) -> io::Result<()> {
            self.add(target, format!("tmpfs {size:?}"))
        }

        fn mount_huge_pages(&self, target: &Path, page_size: &str) -> io::Result<()> {
            self.add(target, format!("hugetlbfs {page_size}"))
        }

        fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
            let from = std::fs::read_link(format!("/proc/self/fd/{}", source.as_raw_fd()))?;
            self.add(target, format!("bind {}", from.display()))
        }

        fn remount_bind(&self, target: &Path, flags: MsFlags) -> io::Result<()> {
            self.state.lock().log.push(format!("remount {} {flags:?}", target.display()));
            Ok(())
        }

        fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
            let bound = self
                .state
                .lock()
                .mounts
                .get(path)
                .and_then(|what| what.strip_prefix("bind ").map(PathBuf::from));
            super::identity(bound.as_deref().unwrap_or(path))
        }

        fn other_places(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
            let wanted = format!("bind {}", path.display());
            let state = self.state.lock();
            Ok(state
                .mounts
                .iter()
                .filter(|(_, what)| **what == wanted)
                .map(|(target, _)| target.clone())
                .collect())
        }

        fn unmount(&self, target: &Path) -> io::Result<()> {
            let mut state = self.state.lock();
            if state.busy.iter().any(|busy| busy == target) {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            let removed = state.mounts.remove(target);
            state.log.push(format!("unmount {}", target.display()));
            removed.map(drop).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::can_stay_out_of_swap;

    #[test]
    fn knows_which_kernels_have_noswap() {
        let host = "         0          0 4294967295\n";
        for (release, expected) in [
            ("6.4.0-1", true),
            ("6.18.44-fc", true),
            ("6.3.9", false),
            ("5.15", false),
            ("", false),
        ] {
            assert_eq!(can_stay_out_of_swap(release, host), expected, "{release}");
        }
        assert!(!can_stay_out_of_swap("6.18", "0 100000 65536"), "in a user namespace");
    }
}
