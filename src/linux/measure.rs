//! Measures trees of files as `du` does: allocated bytes and inodes.
//!
//! A tree is read by descriptors, so that one that changes meanwhile cannot lead elsewhere. Links
//! are not followed, mounts are not entered, hard links count once. Trees of any depth are measured
//! with two open descriptors. Called on blocking threads by `stats`.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::beneath::{is_dir, lstat, open_within};

/// The bytes of one block of `st_blocks`, whatever the file system's own blocks are.
const BLOCK: u64 = 512;
/// Entries between two looks at whether the measurement is still wanted.
const LOOK_EVERY: u64 = 256;

/// The size of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that are allocated on the disk.
    pub bytes: u64,
    /// Files, directories and everything else, the top included.
    pub inodes: u64,
    /// True if the measurement was given up before its end: the sizes are lower bounds.
    pub partial: bool,
}

/// Measures a file or a tree, until `is_cancelled`. What disappears meanwhile does not count. It
/// blocks.
pub fn measure(path: &Path, is_cancelled: &dyn Fn() -> bool) -> io::Result<Measured> {
    let top = lstat(path)?;
    let mut tally = Tally { measured: Measured::default(), seen: HashSet::new(), is_cancelled };
    tally.count(&top);
    if !is_dir(&top) {
        return Ok(tally.measured);
    }

    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here = open(path, flags, Mode::empty())?;
    let mut level = tally.read(&here)?;
    let mut above: Vec<Level> = Vec::new();
    while !tally.measured.partial {
        if let Some(name) = level.directories.pop() {
            if let Some(child) = enter(&here, &name)? {
                let inner = tally.read(&child)?;
                above.push(std::mem::replace(&mut level, inner));
                here = child;
            }
            continue;
        }

        let Some(outer) = above.pop() else { break };
        here = openat(&here, "..", flags, Mode::empty())?;
        let stat = fstat(&here)?;
        if (stat.st_dev, stat.st_ino) != outer.id {
            return Err(io::Error::other("a directory was moved while it was measured"));
        }
        level = outer;
    }
    Ok(tally.measured)
}

/// Opens a directory of a directory; `None` if it is gone, or something else by now.
fn enter(parent: &OwnedFd, name: &CString) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    match open_within(parent, OsStr::from_bytes(name.to_bytes()), flags, resolve) {
        Ok(child) => Ok(Some(child)),
        Err(Errno::ENOENT | Errno::EXDEV | Errno::ELOOP | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A directory whose own directories are not all measured yet.
struct Level {
    /// Device and inode.
    id: (u64, u64),
    directories: Vec<CString>,
}

/// The count so far.
struct Tally<'a> {
    measured: Measured,
    /// Inodes with several names that have been counted.
    seen: HashSet<u64>,
    is_cancelled: &'a dyn Fn() -> bool,
}

impl Tally<'_> {
    fn count(&mut self, stat: &FileStat) {
        if stat.st_nlink > 1 && !is_dir(stat) && !self.seen.insert(stat.st_ino) {
            return;
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        self.measured.bytes = self.measured.bytes.saturating_add(blocks.saturating_mul(BLOCK));
        self.measured.inodes += 1;
    }

    /// Counts everything in a directory.
    fn read(&mut self, directory: &OwnedFd) -> io::Result<Level> {
        let own = fstat(directory)?;
        let mut level = Level { id: (own.st_dev, own.st_ino), directories: Vec::new() };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(directory, ".", flags, Mode::empty())?;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if self.measured.inodes.is_multiple_of(LOOK_EVERY) && (self.is_cancelled)() {
                self.measured.partial = true;
                break;
            }

            let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            // Something is mounted there: it is not of this tree.
            if stat.st_dev != own.st_dev {
                continue;
            }
            self.count(&stat);
            if is_dir(&stat) {
                level.directories.push(name.to_owned());
            }
        }
        Ok(level)
    }
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

    #[test]
    fn a_missing_tree_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        measure(&dir.path().join("absent"), &|| false).expect_err("it is not there");
    }
}
