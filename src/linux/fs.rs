//! Writes files in one step and creates directories with an exact mode, whatever the umask.
//!
//! Everything here blocks for the time of a few system calls on a local disk; callers that write
//! much use a blocking thread. Nothing here keeps state, and nothing follows a link that it did not
//! create itself.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The mode, owner and durability of a file that [`write_atomic_with`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// The permission bits, exactly: the umask has no effect.
    pub mode: u32,
    /// The owning user, if not the writer.
    pub uid: Option<u32>,
    /// The owning group, if not the writer's.
    pub gid: Option<u32>,
    /// True if the file and its directory must be on the disk when the call returns. Needed only
    /// for files that must outlive a power loss: a killed process loses nothing of the page cache.
    pub sync: bool,
}

impl WriteOptions {
    /// Returns options for the writer's own file with this mode, not synced.
    pub fn mode(mode: u32) -> Self {
        Self { mode, uid: None, gid: None, sync: false }
    }

    /// Returns the same options, synced to the disk.
    #[must_use]
    pub fn synced(self) -> Self {
        Self { sync: true, ..self }
    }
}

/// Writes a file so that readers see either the old content or the new, with exactly this mode. Not
/// synced. It blocks. A link at `path` is replaced, not followed.
pub fn write_atomic(path: &Path, data: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
    write_atomic_with(path, data, WriteOptions::mode(mode))
}

/// Writes a file so that readers see either the old content or the new. It blocks. A link at `path`
/// is replaced, not followed. A process that is killed in between leaves a file `.NAME.PID-N.tmp`
/// beside it and nothing else.
pub fn write_atomic_with(
    path: &Path,
    data: impl AsRef<[u8]>,
    options: WriteOptions,
) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written =
        fill(&temporary, data.as_ref(), options).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // A leftover is a dot-file that no code reads. The first error is the one to report.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }

    if options.sync {
        let parent =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
    }

    Ok(())
}

/// Creates a file with its final mode and owner and fills it. Fails if it exists; follows no link.
pub fn fill(path: &Path, data: &[u8], options: WriteOptions) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)?;
    file.write_all(data)?;
    if options.uid.is_some() || options.gid.is_some() {
        fchown(&file, options.uid, options.gid)?;
    }

    // After the change of owner, which clears the set-user-id and set-group-id bits.
    file.set_permissions(Permissions::from_mode(options.mode))?;
    if options.sync {
        file.sync_all()?;
    }

    Ok(())
}

/// Returns true if `path` is a regular file with exactly this content. At most one byte more than
/// `data` is read, whatever length the file claims: a container may have written to it. Follows no
/// link at the end of the path, never waits for a pipe. Blocks.
pub fn holds(path: &Path, data: &[u8]) -> bool {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let Ok(file) = opened else { return false };

    let wanted = u64::try_from(data.len()).unwrap_or(u64::MAX);
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == wanted) {
        return false;
    }

    let mut content = Vec::with_capacity(data.len());
    let read = file.take(wanted.saturating_add(1)).read_to_end(&mut content);
    read.is_ok() && content == data
}

/// Creates a directory and its parents. A new directory has exactly `mode`, whatever the umask; an
/// existing one keeps its mode, as an administrator may have set it. Missing parents are created
/// with 0755 less the umask. A link at the end of the path is not followed.
pub fn ensure_dir(path: &Path, mode: u32) -> io::Result<()> {
    make_dir(path, mode).map(drop)
}

/// Creates a directory as [`ensure_dir`], but also gives `mode` to one that exists.
pub fn ensure_dir_with_mode(path: &Path, mode: u32) -> io::Result<()> {
    match make_dir(path, mode)? {
        MadeDir::Made => Ok(()),
        MadeDir::Existed => set_dir_mode(path, mode),
    }
}

/// Creates a directory as [`ensure_dir`], but follows a link to a directory: for directories that
/// the administrator chooses (`/var/lib/kubelet`, `/var/log/pods`).
pub fn ensure_root_dir(path: &Path, mode: u32) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    ensure_dir(path, mode)
}

/// The result of [`make_dir`]: whether it created the directory.
enum MadeDir {
    Made,
    Existed,
}

fn make_dir(path: &Path, mode: u32) -> io::Result<MadeDir> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }

    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => set_dir_mode(path, mode).map(|()| MadeDir::Made),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !std::fs::symlink_metadata(path)?.is_dir() {
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    "exists and is not a directory",
                ));
            }
            Ok(MadeDir::Existed)
        }
        Err(error) => Err(error),
    }
}

fn set_dir_mode(path: &Path, mode: u32) -> io::Result<()> {
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)?;
    if dir.metadata()?.mode() & 0o7777 != mode {
        dir.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Words an I/O error as Go does: no number, no capital.
pub fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

/// Returns the path of a new temporary file in the same directory.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name")
    })?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use super::{
        WriteOptions, ensure_dir, ensure_dir_with_mode, ensure_root_dir, holds, write_atomic,
        write_atomic_with,
    };

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("it exists").permissions().mode() & 0o7777
    }

    #[test]
    fn writes_and_replaces_with_the_exact_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        write_atomic(&path, "one", 0o666).expect("written");
        assert_eq!(
            (std::fs::read_to_string(&path).expect("readable").as_str(), mode(&path)),
            ("one", 0o666)
        );
        write_atomic_with(&path, "two", WriteOptions::mode(0o640).synced()).expect("written");
        assert_eq!(
            (std::fs::read_to_string(&path).expect("readable").as_str(), mode(&path)),
            ("two", 0o640)
        );
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("readable").count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn replaces_a_link_instead_of_following_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("target");
        let link = dir.path().join("link");
        write_atomic(&target, "mine", 0o600).expect("written");
        symlink(&target, &link).expect("linked");
        write_atomic(&link, "new", 0o600).expect("written");
        assert_eq!(std::fs::read_to_string(&target).expect("readable"), "mine");
        assert_eq!(std::fs::read_to_string(&link).expect("readable"), "new");
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).expect("made");
        assert!(write_atomic(&path, "x", 0o600).is_err(), "a directory is not replaced");
        assert!(write_atomic(&dir.path().join("missing/file"), "x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[test]
    fn makes_directories_with_the_exact_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b/c");
        ensure_dir(&path, 0o777).expect("made");
        assert_eq!(mode(&path), 0o777);
        ensure_dir_with_mode(&path, 0o2750).expect("changed");
        assert_eq!(mode(&path), 0o2750);
        let file = dir.path().join("file");
        write_atomic(&file, "", 0o600).expect("written");
        assert!(ensure_dir(&file, 0o755).is_err());
        symlink(&path, dir.path().join("link")).expect("linked");
        assert!(ensure_dir(&dir.path().join("link"), 0o755).is_err(), "a link is not followed");
    }

    #[test]
    fn a_directory_that_exists_keeps_its_mode() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("logs");
        ensure_dir(&path, 0o750).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("changed");
        ensure_dir(&path, 0o750).expect("it exists");
        assert_eq!(mode(&path), 0o755, "a log reader may have been given the directory");
    }

    #[test]
    fn a_root_may_be_a_link_to_a_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("big-disk");
        let link = dir.path().join("kubelet");
        symlink(&target, &link).expect("linked");
        assert!(ensure_root_dir(&link, 0o750).is_err(), "it leads nowhere");
        std::fs::create_dir(&target).expect("made");
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o711)).expect("changed");
        ensure_root_dir(&link, 0o750).expect("a link to a directory");
        assert_eq!(mode(&target), 0o711);
        ensure_root_dir(&link.join("pods"), 0o750).expect("made");
        assert_eq!(mode(&target.join("pods")), 0o750);
    }

    #[test]
    fn content_is_compared_without_reading_what_cannot_be_equal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        write_atomic(&path, "one", 0o644).expect("written");
        assert!(holds(&path, b"one") && !holds(&path, b"two") && !holds(&path, b"on"));
        assert!(!holds(&dir.path().join("missing"), b""));
        // Reading it would take all memory.
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("grown");
        assert!(!holds(&path, b"one"));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("made");
        assert!(!holds(&pipe, b""), "nobody writes to the pipe");
    }
}
