//! Measures trees of files as `du` does: allocated bytes and inodes.
//!
//! A tree belongs to a pod, which may change it meanwhile:
//!
//! - Directories are read by descriptors, so that a change cannot lead out of the tree. Links are
//!   not followed, mounts are not entered.
//! - A directory that is moved or removed while it is read costs that directory at most. What lies
//!   above it has a descriptor of its own.
//! - Memory and descriptors have a bound, whatever the tree holds: [`OPEN`], [`NAMES`],
//!   [`LEVELS`], [`SEEN`].
//!
//! Called on blocking threads by `stats`.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use rustix::fs::Dir;

use super::beneath::{is_dir, lstat, open_within};

/// The bytes of one block of `st_blocks`, whatever the file system's own blocks are.
const BLOCK: u64 = 512;
/// Steps between two looks at whether the measurement is still wanted.
const LOOK_EVERY: u64 = 256;
/// Directories that are open at a time, each with a descriptor and a buffer. What lies deeper is
/// read by names, with two descriptors.
const OPEN: usize = 64;
/// Bytes of the names of directories deeper than [`OPEN`] that are remembered at a time.
const NAMES: usize = 16 << 20;
/// Levels below [`OPEN`] that are read; each costs some memory until its way back.
const LEVELS: usize = 1 << 16;
/// Inodes that are remembered, so that each counts once.
const SEEN: usize = 1 << 20;

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The size of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that are allocated on the disk.
    pub bytes: u64,
    /// Files, directories and everything else, the top included.
    pub inodes: u64,
    /// True if a part of the tree was not read: the sizes are lower bounds.
    pub partial: bool,
}

/// Measures a file or a tree, until `is_cancelled`. What disappears meanwhile does not count. The
/// only errors are those of the top itself. It blocks.
pub fn measure(path: &Path, is_cancelled: &dyn Fn() -> bool) -> io::Result<Measured> {
    let top = lstat(path)?;
    let mut tally = Tally {
        measured: Measured::default(),
        device: top.st_dev,
        seen: HashSet::new(),
        steps: 0,
        names: 0,
        is_over: false,
        is_cancelled,
    };
    tally.count(&top);
    if is_dir(&top) {
        let top = open(path, DIRECTORY, Mode::empty())?;
        tally.tree(top);
    }
    Ok(tally.measured)
}

/// A directory deeper than [`OPEN`] whose own directories are not all measured yet.
struct Level {
    /// Device and inode.
    id: (u64, u64),
    directories: Vec<CString>,
}

/// The count so far.
struct Tally<'a> {
    measured: Measured,
    /// The device of the top: on another one lies what is mounted.
    device: u64,
    /// Inodes that have been counted and may be met again: directories, because they can be moved,
    /// and files with several names.
    seen: HashSet<u64>,
    /// Entries that were met, and levels that were climbed back.
    steps: u64,
    /// Bytes of the names that are remembered.
    names: usize,
    /// True once the measurement is not wanted any more.
    is_over: bool,
    is_cancelled: &'a dyn Fn() -> bool,
}

impl Tally<'_> {
    /// Counts what lies in a directory, at any depth.
    fn tree(&mut self, top: OwnedFd) {
        let mut open = Vec::new();
        self.push(&mut open, top);
        while let Some(here) = open.last_mut() {
            if self.is_over {
                return;
            }
            match here.read() {
                Some(Ok(entry)) => {
                    let child = here.fd().ok().and_then(|fd| {
                        let is_directory = self.entry(fd, entry.file_name());
                        is_directory.then(|| self.enter(&fd, entry.file_name())).flatten()
                    });
                    match child {
                        Some(child) if open.len() < OPEN => self.push(&mut open, child),
                        Some(child) => self.deep(child),
                        None => {}
                    }
                }
                Some(Err(_)) => {
                    self.measured.partial = true;
                    open.pop();
                }
                None => {
                    open.pop();
                }
            }
        }
    }

    fn push(&mut self, open: &mut Vec<Dir>, directory: OwnedFd) {
        match Dir::new(directory) {
            Ok(directory) => open.push(directory),
            Err(_) => self.measured.partial = true,
        }
    }

    /// Counts what lies in a deep directory. Only the directory that is read is open: the way back
    /// is `..`, and where that leads elsewhere by now, the rest is given up.
    fn deep(&mut self, top: OwnedFd) {
        let Some(mut level) = self.level(&top) else { return };
        let mut here = top;
        let mut above: Vec<Level> = Vec::new();
        while !self.is_over {
            if let Some(name) = level.directories.pop() {
                self.names -= name.count_bytes();
                if above.len() >= LEVELS {
                    self.measured.partial = true;
                    continue;
                }
                if let Some(child) = self.enter(&here, &name)
                    && let Some(inner) = self.level(&child)
                {
                    above.push(std::mem::replace(&mut level, inner));
                    here = child;
                }
                continue;
            }

            let Some(outer) = above.pop() else { return };
            let Some(parent) = parent(&here, outer.id) else {
                let lost = above.iter().chain([&outer]).flat_map(|level| &level.directories);
                self.names -= lost.map(|name| name.count_bytes()).sum::<usize>();
                self.measured.partial = true;
                return;
            };
            here = parent;
            level = outer;
            self.step();
        }
    }

    /// Counts everything in a deep directory, and remembers its own directories.
    fn level(&mut self, directory: &OwnedFd) -> Option<Level> {
        let listing = fstat(directory).ok().zip(Dir::read_from(directory).ok());
        let Some((own, mut listing)) = listing else {
            self.measured.partial = true;
            return None;
        };
        let mut level = Level { id: (own.st_dev, own.st_ino), directories: Vec::new() };
        while let Some(entry) = listing.read() {
            let Ok(entry) = entry else {
                self.measured.partial = true;
                break;
            };
            if self.is_over {
                break;
            }
            if !self.entry(directory, entry.file_name()) {
                continue;
            }
            if self.names >= NAMES {
                self.measured.partial = true;
                continue;
            }
            self.names += entry.file_name().count_bytes();
            level.directories.push(entry.file_name().to_owned());
        }
        Some(level)
    }

    /// Counts one entry. Returns true if it is a directory to be read.
    fn entry(&mut self, directory: impl AsFd, name: &CStr) -> bool {
        if matches!(name.to_bytes(), b"." | b"..") {
            return false;
        }
        self.step();
        if self.is_over {
            return false;
        }

        match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            // Something is mounted there: it is not of this tree.
            Ok(stat) if stat.st_dev != self.device => false,
            Ok(stat) => self.count(&stat) && is_dir(&stat),
            Err(Errno::ENOENT) => false,
            Err(_) => {
                self.measured.partial = true;
                false
            }
        }
    }

    /// Counts a step, and looks now and then at whether the measurement is still wanted.
    fn step(&mut self) {
        if self.steps.is_multiple_of(LOOK_EVERY) && (self.is_cancelled)() {
            self.is_over = true;
            self.measured.partial = true;
        }
        self.steps += 1;
    }

    /// Counts an inode. Returns false if it was counted before.
    fn count(&mut self, stat: &FileStat) -> bool {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        let mut bytes = blocks.saturating_mul(BLOCK);
        let mut inodes = 1;
        let has_names = stat.st_nlink > 1 && !is_dir(stat);
        if has_names || is_dir(stat) {
            if self.seen.contains(&stat.st_ino) {
                return false;
            }
            if self.seen.len() < SEEN {
                self.seen.insert(stat.st_ino);
            } else if has_names {
                // All names together count as one file at most.
                bytes /= stat.st_nlink;
                inodes = 0;
            }
        }
        self.measured.bytes = self.measured.bytes.saturating_add(bytes);
        self.measured.inodes += inodes;
        true
    }

    /// Opens a directory of a directory; `None` if it is gone, or something else by now.
    fn enter(&mut self, parent: &impl AsFd, name: &CStr) -> Option<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
        match open_within(parent, OsStr::from_bytes(name.to_bytes()), flags, resolve) {
            Ok(child) => Some(child),
            Err(Errno::ENOENT | Errno::EXDEV | Errno::ELOOP | Errno::ENOTDIR) => None,
            Err(_) => {
                self.measured.partial = true;
                None
            }
        }
    }
}

/// Opens the parent of a directory; `None` if it is not the one with `id` any more.
fn parent(directory: &OwnedFd, id: (u64, u64)) -> Option<OwnedFd> {
    let parent = openat(directory, "..", DIRECTORY, Mode::empty()).ok()?;
    let stat = fstat(&parent).ok()?;
    ((stat.st_dev, stat.st_ino) == id).then_some(parent)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use super::measure;
    use crate::linux::fs::write_atomic;

    fn blocks(path: &Path) -> u64 {
        std::fs::symlink_metadata(path).expect("a file").blocks() * 512
    }

    #[test]
    fn counts_blocks_and_inodes_once_and_follows_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).expect("made");
        let outside = dir.path().join("outside");
        write_atomic(&outside, vec![1; 100_000], 0o600).expect("written");
        write_atomic(&tree.join("a/file"), vec![1; 50_000], 0o600).expect("written");
        std::fs::hard_link(tree.join("a/file"), tree.join("a/b/again")).expect("linked");
        symlink(&outside, tree.join("link")).expect("linked");

        let measured = measure(&tree, &|| false).expect("measured");

        let parts = ["", "a", "a/b", "a/file", "link"];
        let bytes: u64 = parts.iter().map(|part| blocks(&tree.join(part))).sum();
        assert_eq!((measured.inodes, measured.bytes), (5, bytes));
        assert!(!measured.partial);
        let file = measure(&tree.join("a/file"), &|| false).expect("measured");
        assert_eq!((file.inodes, file.bytes), (1, blocks(&tree.join("a/file"))));
    }

    #[test]
    fn measures_a_tree_that_is_deeper_than_any_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).expect("made");
        // Grown from the top by moving, because no path reaches this deep.
        for level in 0..2000 {
            let outer = dir.path().join(format!("outer{level}"));
            std::fs::create_dir(&outer).expect("made");
            std::fs::rename(&tree, outer.join("d")).expect("moved");
            std::fs::rename(&outer, &tree).expect("moved");
        }
        assert_eq!(measure(&tree, &|| false).expect("measured").inodes, 2001);
        crate::linux::walk::remove_tree(&tree).expect("removed");
    }

    #[test]
    fn gives_up_when_it_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 0..600 {
            write_atomic(&dir.path().join(number.to_string()), "x", 0o600).expect("written");
        }
        let measured = measure(dir.path(), &|| true).expect("measured");
        assert!(measured.partial && measured.inodes < 600, "{measured:?}");
    }

    /// Makes `tree/x/y` with many files, and `tree/other` with some.
    fn tree_with_a_large_directory(dir: &Path) -> std::path::PathBuf {
        let tree = dir.join("tree");
        for (folder, files) in [("x/y", 600), ("other", 10), ("x/other", 10)] {
            std::fs::create_dir_all(tree.join(folder)).expect("made");
            for number in 0..files {
                let path = tree.join(folder).join(number.to_string());
                std::fs::File::create(path).expect("made");
            }
        }
        tree
    }

    #[test]
    fn a_directory_that_is_moved_meanwhile_does_not_end_the_measurement() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = tree_with_a_large_directory(dir.path());
        let looks = std::cell::Cell::new(0);
        let moves = || {
            looks.set(looks.get() + 1);
            let (from, to) = (tree.join("x/y"), tree.join("moved"));
            if looks.get() == 2 {
                std::fs::rename(from, to).expect("moved");
            }
            false
        };
        let measured = measure(&tree, &moves).expect("measured");
        assert!(looks.get() >= 2, "it was moved");
        assert_eq!((measured.inodes, measured.partial), (625, false), "each once");
    }

    #[test]
    fn a_directory_that_is_removed_meanwhile_does_not_end_the_measurement() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = tree_with_a_large_directory(dir.path());
        let looks = std::cell::Cell::new(0);
        let removes = || {
            looks.set(looks.get() + 1);
            if looks.get() == 2 {
                std::fs::remove_dir_all(tree.join("x/y")).expect("removed");
            }
            false
        };
        let measured = measure(&tree, &removes).expect("measured");
        assert!(looks.get() >= 2, "it was removed");
        assert!(measured.inodes >= 24, "the others are counted: {measured:?}");
    }

    #[test]
    fn hard_links_do_not_hold_it_beyond_its_time() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::File::create(dir.path().join("first")).expect("made");
        for number in 0..600 {
            let link = dir.path().join(number.to_string());
            std::fs::hard_link(dir.path().join("first"), link).expect("linked");
        }
        let looks = std::cell::Cell::new(0);
        let ends = || {
            looks.set(looks.get() + 1);
            looks.get() > 2
        };
        assert!(measure(dir.path(), &ends).expect("measured").partial);
    }

    #[test]
    fn a_missing_tree_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        measure(&dir.path().join("absent"), &|| false).expect_err("it is not there");
    }
}
