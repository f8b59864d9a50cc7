//! Opens and creates paths that others control, beneath a root and never outside it (openat2).
//!
//! A container may change its volume's tree at any moment. Nothing here checks a name first and
//! uses it later: each step holds a file descriptor, and the kernel refuses a path that would leave
//! the root.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};

/// The retries of an `openat2` while the kernel reports a concurrent rename or mount, at most.
const RACES: u32 = 128;

/// A directory (or file) that paths are resolved beneath.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the root itself; links in `path` are followed, so it must be a path that only this
    /// process controls, or whose owner may choose any target (a hostPath).
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Returns the root's own descriptor (`O_PATH`).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns the root's mode bits.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(fstat(&self.fd)?.st_mode & 0o7777)
    }

    /// Opens the target of `relative` as `O_PATH`, following links that stay beneath the root.
    ///
    /// An absolute link, or one that climbs out and comes back, is followed as upstream does: it is
    /// resolved first, and its target is opened again from the root without following any link.
    pub fn resolve(&self, relative: &Path) -> io::Result<OwnedFd> {
        let relative = checked(relative)?;
        match self.openat2(
            &relative,
            OFlag::O_PATH,
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        ) {
            Err(Errno::EXDEV) => self.resolve_by_name(&relative),
            result => Ok(result?),
        }
    }

    /// Creates the directories that `relative` lacks, each with exactly `mode`, and returns the
    /// last one. Existing directories stay as they are. Links that stay beneath the root are
    /// followed.
    pub fn make_dirs(&self, relative: &Path, mode: u32) -> io::Result<OwnedFd> {
        let relative = checked(relative)?;
        let mut at = self.reopen()?;

        let mut done = PathBuf::new();
        for name in relative.components().map(Component::as_os_str) {
            done.push(name);
            at = match self.resolve(&done) {
                Ok(fd) => fd,
                Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(&at, name, mode)?,
                Err(error) => return Err(error),
            };
        }

        Ok(at)
    }

    /// Creates an empty file, and with 0755 the directories that `relative` lacks. Existing ones
    /// stay as they are.
    pub fn make_file(&self, relative: &Path, mode: u32) -> io::Result<()> {
        let relative = checked(relative)?;
        let name = relative.file_name().ok_or_else(escape)?;
        let parent = self.make_dirs(relative.parent().unwrap_or(Path::new("")), 0o755)?;

        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        let mode = Mode::from_bits_truncate(mode);
        match openat(&parent, name, flags | OFlag::O_CLOEXEC, mode) {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn reopen(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    fn resolve_by_name(&self, relative: &Path) -> io::Result<OwnedFd> {
        let root = std::fs::canonicalize(&self.path)?;
        let target = std::fs::canonicalize(self.path.join(relative))?;
        let inside = target.strip_prefix(&root).map_err(|_outside| escape())?;
        if inside.as_os_str().is_empty() {
            return self.reopen();
        }
        let flags = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        Ok(self.openat2(inside, OFlag::O_PATH, flags)?)
    }

    fn openat2(
        &self,
        relative: &Path,
        flags: OFlag,
        resolve: ResolveFlag,
    ) -> Result<OwnedFd, Errno> {
        open_within(&self.fd, relative.as_os_str(), flags, resolve)
    }
}

/// Calls `openat2` with a bounded number of retries: the kernel fails with EAGAIN when a rename
/// races with `..`.
pub(crate) fn open_within(
    at: &impl AsFd,
    relative: &OsStr,
    flags: OFlag,
    resolve: ResolveFlag,
) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    let mut tries = 0;
    loop {
        match openat2(at, relative, how) {
            Err(Errno::EAGAIN | Errno::EINTR) if tries < RACES => tries += 1,
            result => return result,
        }
    }
}

/// Returns true if something is mounted at the last component of `path`. Links in the path's
/// parents are followed, one at its end is not. A missing path is an error of kind `NotFound`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some(name) = path.file_name() else {
        // The path is `/`, or ends in `..`.
        return Ok(path == Path::new("/"));
    };

    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));

    let parent =
        open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    match open_within(
        &parent,
        name,
        OFlag::O_PATH | OFlag::O_NOFOLLOW,
        ResolveFlag::RESOLVE_NO_XDEV,
    ) {
        Ok(_) => Ok(false),
        Err(Errno::EXDEV) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Returns the status of a path without following a link at its end.
pub(crate) fn lstat(path: &Path) -> io::Result<FileStat> {
    Ok(fstatat(AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

/// Returns true if a status is that of a directory.
pub(crate) fn is_dir(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

fn make_dir(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_bits_truncate(mode & 0o777)) {
        Ok(()) => {}
        // Another process was faster. Its file is opened below without following a link.
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            return Ok(open_within(parent, name, flags, ResolveFlag::RESOLVE_BENEATH)?);
        }
        Err(error) => return Err(error.into()),
    }

    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let dir = open_within(parent, name, flags, ResolveFlag::RESOLVE_BENEATH)?;
    fchmod(&dir, Mode::from_bits_truncate(mode))?;

    Ok(dir)
}

/// Cleans a relative path of `.` and doubled slashes; one with `..` is refused.
fn checked(relative: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(escape());
            }
        }
    }

    if clean.as_os_str().is_empty() {
        clean.push(".");
    }

    Ok(clean)
}

fn escape() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the path leads out of its root")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::stat::fstat;

    use super::{Root, is_mount_point};

    fn inode(path: &Path) -> u64 {
        std::fs::metadata(path).expect("it exists").ino()
    }

    /// A volume with links of every kind, beside a directory that must never be reached.
    fn hostile() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("volume");
        std::fs::create_dir_all(volume.join("sub/deep")).expect("made");
        std::fs::create_dir_all(dir.path().join("outside/secret")).expect("made");
        for (target, link) in [
            ("sub", "inside"),
            ("../outside", "climbs"),
            ("/", "slash"),
            ("/proc/self/root", "magic"),
            ("loop", "loop"),
            ("sub/../sub/deep", "winding"),
            ("../volume/sub", "out-and-back"),
        ] {
            symlink(target, volume.join(link)).expect("linked");
        }
        symlink(volume.join("sub"), volume.join("absolute-inside")).expect("linked");
        symlink(dir.path().join("outside"), volume.join("absolute-outside")).expect("linked");
        (dir, volume)
    }

    #[track_caller]
    fn check(relative: &str, expected: Option<&str>) {
        let (_dir, volume) = hostile();
        let root = Root::open(&volume).expect("opened");
        let found =
            root.resolve(Path::new(relative)).ok().map(|fd| fstat(&fd).expect("a status").st_ino);
        assert_eq!(found, expected.map(|path| inode(&volume.join(path))), "{relative}");
    }

    #[test]
    fn resolves_only_what_lies_beneath() {
        check("sub/deep", Some("sub/deep"));
        check("./sub//deep/", Some("sub/deep"));
        check("", Some("."));
        check("inside/deep", Some("sub/deep"));
        check("winding", Some("sub/deep"));
        check("absolute-inside/deep", Some("sub/deep"));
        check("out-and-back", Some("sub"));
        for bad in [
            "..",
            "sub/../..",
            "/etc",
            "climbs",
            "climbs/secret",
            "slash",
            "slash/etc",
            "magic",
            "loop",
        ] {
            check(bad, None);
        }
        check("absolute-outside", None);
        check("missing", None);
    }

    #[test]
    fn makes_directories_only_beneath() {
        let (dir, volume) = hostile();
        let root = Root::open(&volume).expect("opened");
        root.make_dirs(Path::new("inside/a/b"), 0o2771).expect("made");
        for made in ["sub/a", "sub/a/b"] {
            let mode =
                std::fs::metadata(volume.join(made)).expect("it exists").permissions().mode();
            assert_eq!(mode & 0o7777, 0o2771, "{made}");
        }
        assert!(root.make_dirs(Path::new("climbs/new"), 0o755).is_err());
        assert!(root.make_dirs(Path::new("absolute-outside/new"), 0o755).is_err());
        assert!(root.make_dirs(Path::new("a/../../new"), 0o755).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).expect("readable").count(), 1);
    }

    #[test]
    fn a_directory_that_turns_into_a_link_again_and_again_never_leads_out() {
        let (dir, volume) = hostile();
        let outside = inode(&dir.path().join("outside/secret"));
        std::fs::create_dir_all(volume.join("real/secret")).expect("made");
        symlink("../outside", volume.join("fake")).expect("linked");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(std::fs::rename(volume.join("real"), volume.join("flip")));
                    drop(std::fs::rename(volume.join("flip"), volume.join("real")));
                    drop(std::fs::rename(volume.join("fake"), volume.join("flip")));
                    drop(std::fs::rename(volume.join("flip"), volume.join("fake")));
                }
            });
            let root = Root::open(&volume).expect("opened");
            for _ in 0..3000 {
                for path in ["flip/secret", "real/secret"] {
                    if let Ok(fd) = root.resolve(Path::new(path)) {
                        assert_ne!(fstat(&fd).expect("a status").st_ino, outside);
                    }
                }
                drop(root.make_dirs(Path::new("flip/made"), 0o700));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            std::fs::read_dir(dir.path().join("outside")).expect("readable").count(),
            1,
            "nothing made outside"
        );
    }

    #[test]
    fn knows_mount_points() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(is_mount_point(Path::new("/proc")).expect("readable"));
        assert!(is_mount_point(Path::new("/")).expect("readable"));
        assert!(!is_mount_point(dir.path()).expect("readable"));
        symlink("/proc", dir.path().join("link")).expect("linked");
        assert!(
            !is_mount_point(&dir.path().join("link")).expect("readable"),
            "a link is not followed"
        );
        let missing = is_mount_point(&dir.path().join("missing")).expect_err("it does not exist");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
