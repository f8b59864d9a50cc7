//! Gives a tree to a group, as a volume's `fsGroup` does: with several threads, skipping entries
//! that need no change.
//!
//! Every entry is reached from a descriptor of its directory and never through a link, so that a
//! tree that changes meanwhile cannot lead elsewhere. Mounts in the tree are left alone. The caller
//! may watch and cancel the walk.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, open};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat};
use nix::unistd::{Gid, fchownat};
use parking_lot::{Condvar, Mutex};

use super::beneath::open_within;
use super::walk::names;

/// The threads that walk one tree, at most: beyond, the disk is the limit.
const THREADS: usize = 8;
/// The directories that may wait for a thread, at most; each holds a descriptor. Further ones are
/// walked where they are found.
const QUEUE: usize = 64;
/// The depth to which a walk by threads of its own descends; deeper than any path can name.
const DEPTH: usize = 2048;
/// The depth to which a walk on the caller's stack descends.
const SMALL_DEPTH: usize = 256;
/// The stack of a thread: enough for the deepest tree.
const STACK: usize = 16 << 20;

/// The progress of a walk, for others to watch and to cancel it.
#[derive(Debug, Default)]
pub struct Progress {
    /// True while the walk runs.
    pub walking: AtomicBool,
    /// The entries that were visited.
    pub seen: AtomicU64,
    /// Set to end the walk, which then returns `Interrupted`.
    pub cancel: AtomicBool,
}

/// Gives a tree to a group: group `gid`, the mode widened by 0660 (0440 if `read_only`),
/// directories also by 02110. Links only change their group. The root comes last, so that an
/// interrupted walk is visible to [`group_matches`]. An entry that cannot be changed is skipped, as
/// upstream does. It blocks.
pub fn give_to_group(
    root: &Path,
    gid: u32,
    read_only: bool,
    progress: &Progress,
) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    progress.walking.store(true, Ordering::Relaxed);
    let given = walk_all(root, &Walk::new(gid, read_only, progress, DEPTH), &|walk: &Walk<'_>| {
        walk.run(threads);
    });
    progress.walking.store(false, Ordering::Relaxed);
    given
}

/// Gives a small tree to a group as [`give_to_group`], but without threads of its own. It blocks.
pub fn give_small_tree_to_group(root: &Path, gid: u32, read_only: bool) -> io::Result<()> {
    walk_all(root, &Walk::new(gid, read_only, &Progress::default(), SMALL_DEPTH), &|walk: &Walk<
        '_,
    >| {
        walk.work();
    })
}

/// Returns true if the root of a tree already is as [`give_to_group`] would leave it
/// (`fsGroupChangePolicy: OnRootMismatch`).
pub fn group_matches(root: &Path, gid: u32, read_only: bool) -> bool {
    let wanted = if read_only { 0o440 } else { 0o660 } | 0o2110;
    std::fs::metadata(root).is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt as _;
        metadata.is_dir() && metadata.gid() == gid && metadata.mode() & wanted == wanted
    })
}

/// A directory that waits to be walked.
struct Dir {
    fd: OwnedFd,
    shown: PathBuf,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Dir>,
    /// The threads that work at present.
    busy: usize,
    error: Option<io::Error>,
}

struct Walk<'a> {
    gid: Gid,
    read_only: bool,
    progress: &'a Progress,
    depth: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

fn walk_all(root: &Path, walk: &Walk<'_>, below: &dyn Fn(&Walk<'_>)) -> io::Result<()> {
    let top = open(root, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let stat = fstat(&top)?;
    if kind(&stat) == SFlag::S_IFDIR {
        let fd = open_within(
            &top,
            OsStr::new("."),
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            ResolveFlag::empty(),
        )?;
        walk.queue.lock().waiting.push(Dir { fd, shown: root.to_owned() });
        below(walk);

        if let Some(error) = walk.queue.lock().error.take() {
            return Err(error);
        }
    }

    walk.progress.seen.fetch_add(1, Ordering::Relaxed);
    walk.give(&top, &stat, root);
    Ok(())
}

impl<'a> Walk<'a> {
    fn new(gid: u32, read_only: bool, progress: &'a Progress, depth: usize) -> Self {
        let queue = Mutex::default();
        let changed = Condvar::new();
        Self { gid: Gid::from_raw(gid), read_only, progress, depth, queue, changed }
    }

    fn run(&self, threads: usize) {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let thread =
                    std::thread::Builder::new().name("fs-group".to_owned()).stack_size(STACK);
                if let Err(error) = thread.spawn_scoped(scope, || self.work()) {
                    self.fail(error);
                }
            }
        });
    }

    /// Runs one thread: takes directories until none waits and no thread can add one.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if queue.error.is_some() {
                return;
            }
            if let Some(dir) = queue.waiting.pop() {
                queue.busy += 1;
                drop(queue);
                let walked = self.dir(&dir.fd, &dir.shown, 0);
                queue = self.queue.lock();
                queue.busy -= 1;
                if let Err(error) = walked
                    && queue.error.is_none()
                {
                    queue.error = Some(error);
                }
                self.changed.notify_all();
            } else if queue.busy == 0 {
                return;
            } else {
                self.changed.wait(&mut queue);
            }
        }
    }

    fn fail(&self, error: io::Error) {
        self.queue.lock().error.get_or_insert(error);
        self.changed.notify_all();
    }

    fn dir(&self, dir: &OwnedFd, shown: &Path, depth: usize) -> io::Result<()> {
        if depth >= self.depth {
            let text =
                format!("{}: the tree is deeper than {} directories", shown.display(), self.depth);
            return Err(io::Error::other(text));
        }

        let mut unreadable = None;
        for name in names(dir, shown, &mut unreadable) {
            if self.progress.cancel.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.entry(dir, &name, shown, depth)?;
        }

        unreadable.map_or(Ok(()), Err)
    }

    fn entry(&self, dir: &OwnedFd, name: &CString, shown: &Path, depth: usize) -> io::Result<()> {
        let stat = match fstatat(
            dir,
            name.as_c_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT,
        ) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.progress.seen.fetch_add(1, Ordering::Relaxed);
        let name = OsStr::from_bytes(name.to_bytes());
        let is_dir = kind(&stat) == SFlag::S_IFDIR;
        if !is_dir && self.is_right(&stat) {
            return Ok(());
        }
        let flags = if is_dir {
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW
        } else {
            OFlag::O_PATH | OFlag::O_NOFOLLOW
        };

        let opened = match open_within(dir, name, flags, ResolveFlag::RESOLVE_NO_XDEV) {
            Ok(opened) => opened,
            // The entry is gone, has another type now, or is a mount point.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let shown = shown.join(name);

        if !self.is_right(&stat) {
            // The opened entry may be another one than the one that was checked.
            self.give(&opened, &fstat(&opened)?, &shown);
        }

        if !is_dir {
            return Ok(());
        }

        let mut queue = self.queue.lock();
        if queue.waiting.len() < QUEUE {
            queue.waiting.push(Dir { fd: opened, shown });
            drop(queue);
            self.changed.notify_one();
            return Ok(());
        }

        drop(queue);
        self.dir(&opened, &shown, depth + 1)
    }

    fn is_right(&self, stat: &FileStat) -> bool {
        stat.st_gid == self.gid.as_raw()
            && (kind(stat) == SFlag::S_IFLNK || self.mode(stat) == stat.st_mode & 0o7777)
    }

    fn mode(&self, stat: &FileStat) -> u32 {
        let mask = if self.read_only { 0o440 } else { 0o660 };
        let mask = if kind(stat) == SFlag::S_IFDIR { mask | 0o2110 } else { mask };
        stat.st_mode & 0o7777 | mask
    }

    fn give(&self, entry: &OwnedFd, stat: &FileStat, shown: &Path) {
        if let Err(error) = self.give_one(entry, stat) {
            tracing::warn!(path = %shown.display(), %error, "could not give a file of a volume to its group");
        }
    }

    fn give_one(&self, entry: &OwnedFd, stat: &FileStat) -> io::Result<()> {
        let is_given = stat.st_gid == self.gid.as_raw();
        if !is_given {
            fchownat(entry, c"", None, Some(self.gid), AtFlags::AT_EMPTY_PATH)?;
        }

        let mode = self.mode(stat);
        // A change of group clears the set-user-id bits, so they are set again.
        if kind(stat) != SFlag::S_IFLNK
            && (mode != stat.st_mode & 0o7777 || !is_given && mode & 0o6000 != 0)
        {
            // The descriptor may be O_PATH, which fchmod refuses. Its entry in /proc names the same
            // file in any case.
            let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
            let mode = Mode::from_bits_truncate(mode);
            fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }

        Ok(())
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::{Progress, give_to_group, group_matches};
    use crate::linux::fs::write_atomic;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("it exists").mode() & 0o7777
    }

    fn gid(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it exists").gid()
    }

    #[test]
    fn gives_a_tree_to_a_group() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).expect("changed");
        write_atomic(&root.join("sub/file"), "x", 0o600).expect("written");
        write_atomic(&dir.path().join("outside"), "x", 0o600).expect("written");
        symlink(dir.path().join("outside"), root.join("link")).expect("linked");
        let gid = gid(dir.path());
        let progress = Progress::default();
        assert!(!group_matches(&root, gid, false));
        give_to_group(&root, gid, false, &progress).expect("given");
        assert_eq!(progress.seen.load(Ordering::Relaxed), 4);
        assert_eq!((mode(&root), mode(&root.join("sub/file"))), (0o2770, 0o660));
        assert_eq!(mode(&dir.path().join("outside")), 0o600, "a link is not followed");
        assert!(group_matches(&root, gid, false));
        assert!(!group_matches(&root, gid + 1, false));
    }

    #[test]
    fn a_read_only_volume_gets_no_write_bit() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        write_atomic(&file, "x", 0o600).expect("written");
        give_to_group(&file, gid(dir.path()), true, &Progress::default()).expect("given");
        assert_eq!(mode(&file), 0o640);
    }

    #[test]
    fn wide_and_deep_trees_are_walked_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        let mut wanted = 1;
        for outer in 0..100 {
            let mut path = root.join(format!("d{outer}"));
            for inner in 0..12 {
                path.push(format!("e{inner}"));
                wanted += 1;
            }
            std::fs::create_dir_all(&path).expect("made");
            write_atomic(&path.join("file"), "x", 0o600).expect("written");
            wanted += 2;
        }
        let gid = gid(dir.path());
        let progress = Progress::default();
        give_to_group(&root, gid, false, &progress).expect("given");
        assert_eq!(progress.seen.load(Ordering::Relaxed), wanted);
        for outer in 0..100 {
            let deepest: std::path::PathBuf = (0..12).map(|inner| format!("e{inner}")).collect();
            assert_eq!(mode(&root.join(format!("d{outer}")).join(deepest).join("file")), 0o660);
        }
    }

    #[test]
    fn a_cancelled_walk_says_so_and_leaves_the_root_for_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        std::fs::create_dir(&root).expect("made");
        write_atomic(&root.join("file"), "x", 0o600).expect("written");
        let progress = Progress::default();
        progress.cancel.store(true, Ordering::Relaxed);
        let gid = gid(dir.path());
        let error = give_to_group(&root, gid, false, &progress).expect_err("cancelled");
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert!(!group_matches(&root, gid, false));
    }
}
