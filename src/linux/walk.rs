//! Removes and lists whole trees, without crossing a mount. Descriptors are held, so that a tree
//! that changes meanwhile cannot lead elsewhere. Trees of any depth are handled.
//!
//! It never follows a link and never unmounts anything.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, open, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::beneath::open_within;

/// The depth at which a removal moves deeper directories up: it bounds the open descriptors.
const DEPTH: usize = 64;

/// Removes a file or a whole directory tree, never the content of a mount in it. A missing tree is
/// no error. A mount point in the tree is an error of kind `ResourceBusy` that names it; everything
/// else is removed all the same. It blocks.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name")
    })?;
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent =
        match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    let mut removal = Removal { first_error: None, moved: 0, rounds: 0 };
    removal.entry(&parent, &parent, &to_c(name), path, 0);

    removal.first_error.map_or(Ok(()), Err)
}

struct Removal {
    first_error: Option<io::Error>,
    /// The deep directories that were moved up so far, for their names.
    moved: u64,
    /// The number of times that the top was read again.
    rounds: u32,
}

impl Removal {
    /// Removes one entry of `parent`. `top` is the directory that deep ones are moved up to.
    fn entry(
        &mut self,
        top: &OwnedFd,
        parent: &OwnedFd,
        name: &CString,
        shown: &Path,
        depth: usize,
    ) {
        match unlinkat(parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return,
            // EPERM is POSIX's error for EISDIR.
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(error) => return self.note(error, shown),
        }

        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let dir = match open_within(parent, OsStr::from_bytes(name.to_bytes()), flags, resolve) {
            Ok(dir) => dir,
            Err(Errno::ENOENT) => return,
            Err(Errno::EXDEV) => return self.note(Errno::EBUSY, shown),
            Err(error) => return self.note(error, shown),
        };

        if depth == 0 {
            // Directories that deeper levels move up land here and are found by reading again.
            loop {
                let moved = self.moved;
                self.content(&dir, &dir, shown, depth);
                self.rounds += 1;
                if self.moved == moved {
                    break;
                }
            }
        } else {
            self.content(top, &dir, shown, depth);
        }

        match unlinkat(parent, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // The cause is the entry that could not be removed, and that is recorded already.
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if self.first_error.is_some() => {}
            Err(error) => self.note(error, shown),
        }
    }

    fn content(&mut self, top: &OwnedFd, dir: &OwnedFd, shown: &Path, depth: usize) {
        for name in names(dir, shown, &mut self.first_error) {
            let shown = shown.join(OsStr::from_bytes(name.to_bytes()));
            if depth >= DEPTH && self.move_up(top, dir, &name) {
                continue;
            }
            self.entry(top, dir, &name, &shown, depth + 1);
        }
    }

    /// Moves a directory that lies too deep to the top. Returns true if it did. A file is removed
    /// where it is.
    fn move_up(&mut self, top: &OwnedFd, dir: &OwnedFd, name: &CString) -> bool {
        if unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir).is_ok() {
            return true;
        }
        let new_name = format!(".deep-{}-{}-{}", std::process::id(), self.rounds, self.moved);
        let moved = renameat(dir, name.as_c_str(), top, new_name.as_str()).is_ok();
        self.moved += u64::from(moved);
        moved
    }

    fn note(&mut self, error: Errno, shown: &Path) {
        note(&mut self.first_error, error, shown);
    }
}

/// Returns the names in a directory, without `.` and `..`.
pub(super) fn names(
    dir: &impl AsFd,
    shown: &Path,
    first_error: &mut Option<io::Error>,
) -> Vec<CString> {
    let listed = open_again(dir).and_then(|mut listing| {
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    });
    listed.unwrap_or_else(|error| {
        note(first_error, error, shown);
        Vec::new()
    })
}

fn open_again(dir: &impl AsFd) -> nix::Result<Dir> {
    Dir::openat(
        dir.as_fd(),
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

fn note(first_error: &mut Option<io::Error>, error: Errno, shown: &Path) {
    if first_error.is_none() {
        let source = io::Error::from(error);
        let text = if error == Errno::EBUSY {
            "something is mounted there".to_owned()
        } else {
            source.to_string()
        };
        *first_error = Some(io::Error::new(source.kind(), format!("{}: {text}", shown.display())));
    }
}

fn to_c(name: &OsStr) -> CString {
    // A path's component holds no NUL by its construction from a file name; an empty name is
    // refused by the kernel.
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// Lists a directory, sorted: the names, and whether each is a directory. Links are not followed.
pub fn list(dir: &Path) -> io::Result<Vec<(std::ffi::OsString, bool)>> {
    let mut listing =
        Dir::open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut entries = Vec::new();

    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }

        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => super::beneath::lstat(&dir.join(&name))
                .is_ok_and(|stat| super::beneath::is_dir(&stat)),
        };
        entries.push((name, is_dir));
    }

    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::remove_tree;
    use crate::linux::fs::write_atomic;

    #[test]
    fn removes_trees_and_leaves_what_links_lead_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        let kept = dir.path().join("kept");
        std::fs::create_dir_all(tree.join("a/b/c")).expect("made");
        std::fs::create_dir(&kept).expect("made");
        write_atomic(&kept.join("file"), "x", 0o600).expect("written");
        write_atomic(&tree.join("a/file"), "x", 0o000).expect("written");
        symlink(&kept, tree.join("a/link")).expect("linked");
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
        remove_tree(&tree).expect("missing is done");
        remove_tree(&kept.join("file")).expect("a file is removed");
        assert!(!kept.join("file").exists());
    }

    #[test]
    fn removes_a_tree_that_is_deeper_than_any_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).expect("made");
        // Grown from the top by moving, because no path reaches this deep.
        for level in 0..2000 {
            let outer = dir.path().join(format!("outer{level}"));
            std::fs::create_dir(&outer).expect("made");
            std::fs::rename(&tree, outer.join("d")).expect("moved");
            write_atomic(&outer.join("file"), "x", 0o600).expect("written");
            std::fs::rename(&outer, &tree).expect("moved");
        }
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
    }
}
