//! Whole trees: removed without crossing a mount, and given to a group. Both hold descriptors, so that a tree that
//! changes meanwhile cannot lead them elsewhere, and both survive trees of any depth.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, open, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat};
use nix::unistd::{Gid, UnlinkatFlags, fchownat, unlinkat};

use super::beneath::open_within;

/// How deep a removal descends before it moves what is deeper up: bounds the open descriptors.
const DEPTH: usize = 64;
/// How deep a change of group descends; deeper trees are refused.
const GROUP_DEPTH: usize = 256;

/// Removes a file or a whole directory tree, never what is mounted in it. Missing is done. A mount point in the tree is
/// an error of kind `ResourceBusy` that names it; everything else is removed all the same. Blocks.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
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
    /// How many deep directories were moved up, for their names.
    moved: u64,
    /// How often the top was read again.
    rounds: u32,
}

impl Removal {
    /// Removes one entry of `parent`. `top` is the directory that deep ones are moved up to.
    fn entry(&mut self, top: &OwnedFd, parent: &OwnedFd, name: &CString, shown: &Path, depth: usize) {
        match unlinkat(parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return,
            // EPERM: what POSIX wants instead of EISDIR.
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
            // What deeper levels move up lands here and is found by reading again.
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
            // The reason is the entry that could not be removed, and that is noted already.
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

    /// Moves a directory that lies too deep to the top; says whether it did. A file is just removed where it is.
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

/// Gives a tree to a group as a volume's `fsGroup` does: group `gid`, the mode widened by 0660 (0440 if `read_only`),
/// directories also by 02110; links only change their group. The root comes last, so that an interrupted run is seen
/// by [`group_matches`]. Does not cross mounts. What cannot be changed is skipped, as upstream does; the answer is
/// how many entries were looked at. Blocks.
pub fn give_to_group(root: &Path, gid: u32, read_only: bool) -> io::Result<u64> {
    let top = open(root, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut seen = 0;
    group_tree(&top, root, Gid::from_raw(gid), read_only, 0, &mut seen)?;
    Ok(seen)
}

/// Whether the root of a tree already is as [`give_to_group`] would leave it (`fsGroupChangePolicy: OnRootMismatch`).
pub fn group_matches(root: &Path, gid: u32, read_only: bool) -> bool {
    let wanted = if read_only { 0o440 } else { 0o660 } | 0o2110;
    std::fs::metadata(root).is_ok_and(|metadata| {
        use std::os::unix::fs::MetadataExt as _;
        metadata.is_dir() && metadata.gid() == gid && metadata.mode() & wanted == wanted
    })
}

fn group_tree(
    entry: &OwnedFd,
    shown: &Path,
    gid: Gid,
    read_only: bool,
    depth: usize,
    seen: &mut u64,
) -> io::Result<()> {
    let stat = fstat(entry)?;
    if kind(&stat) == SFlag::S_IFDIR {
        if depth >= GROUP_DEPTH {
            let text = format!("{}: the tree is deeper than {GROUP_DEPTH} directories", shown.display());
            return Err(io::Error::other(text));
        }
        let mut first_error = None;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = open_within(entry, OsStr::new("."), flags, ResolveFlag::empty())?;
        for name in names(&dir, shown, &mut first_error) {
            let name = OsStr::from_bytes(name.to_bytes());
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
            match open_within(&dir, name, flags, ResolveFlag::RESOLVE_NO_XDEV) {
                Ok(child) => group_tree(&child, &shown.join(name), gid, read_only, depth + 1, seen)?,
                // Gone meanwhile, or something else is mounted there.
                Err(Errno::ENOENT | Errno::EXDEV) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
    }
    *seen += 1;
    if let Err(error) = give_one(entry, &stat, gid, read_only) {
        tracing::warn!(path = %shown.display(), error = %error, "Could not give a file of a volume to its group");
    }
    Ok(())
}

fn give_one(entry: &OwnedFd, stat: &FileStat, gid: Gid, read_only: bool) -> io::Result<()> {
    if stat.st_gid != gid.as_raw() {
        fchownat(entry, c"", None, Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    if kind(stat) == SFlag::S_IFLNK {
        return Ok(());
    }
    let mut mask = if read_only { 0o440 } else { 0o660 };
    if kind(stat) == SFlag::S_IFDIR {
        mask |= 0o2110;
    }
    let mode = stat.st_mode & 0o7777 | mask;
    if mode != stat.st_mode & 0o7777 || stat.st_gid != gid.as_raw() {
        // The descriptor is O_PATH, which fchmod refuses; its entry in /proc names the same file whatever happens.
        let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
        fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

/// The names in a directory, without `.` and `..`.
fn names(dir: &impl AsFd, shown: &Path, first_error: &mut Option<io::Error>) -> Vec<CString> {
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
    Dir::openat(dir.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn note(first_error: &mut Option<io::Error>, error: Errno, shown: &Path) {
    if first_error.is_none() {
        let source = io::Error::from(error);
        let text = if error == Errno::EBUSY { "something is mounted there".to_owned() } else { source.to_string() };
        *first_error = Some(io::Error::new(source.kind(), format!("{}: {text}", shown.display())));
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn to_c(name: &OsStr) -> CString {
    // A path's component holds no NUL by its construction from a file name; an empty name is refused by the kernel.
    CString::new(name.as_bytes()).unwrap_or_default()
}

/// The entries of a directory by name and whether each is a directory; links are not followed. Sorted.
pub fn list(dir: &Path) -> io::Result<Vec<(std::ffi::OsString, bool)>> {
    let mut listing = Dir::open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => super::beneath::lstat(&dir.join(&name)).is_ok_and(|stat| super::beneath::is_dir(&stat)),
        };
        entries.push((name, is_dir));
    }
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    use super::{give_to_group, group_matches, remove_tree};
    use crate::linux::fs::write_atomic;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("it exists").mode() & 0o7777
    }

    #[test]
    fn removes_trees_and_leaves_what_links_lead_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
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

    #[test]
    fn gives_a_tree_to_a_group() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).expect("changed");
        write_atomic(&root.join("sub/file"), "x", 0o600).expect("written");
        write_atomic(&dir.path().join("outside"), "x", 0o600).expect("written");
        symlink(dir.path().join("outside"), root.join("link")).expect("linked");
        let gid = std::fs::metadata(dir.path()).expect("it exists").gid();
        assert!(!group_matches(&root, gid, false));
        assert_eq!(give_to_group(&root, gid, false).expect("given"), 4);
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
        let gid = std::fs::metadata(dir.path()).expect("it exists").gid();
        give_to_group(&file, gid, true).expect("given");
        assert_eq!(mode(&file), 0o640);
    }
}
