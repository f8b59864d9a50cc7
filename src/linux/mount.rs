//! Makes, remounts and removes mounts, and reads them from mountinfo. The calls block; the async
//! ones have a deadline.
//!
//! Used by `volumes`, `images` and `daemon`. It keeps no list of mounts: the kernel's is the only
//! one.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC};

pub use super::beneath::is_mount_point;

const NONE: Option<&str> = None;

/// Mounts a file system.
pub fn mount(
    source: &str,
    target: &Path,
    fs_type: &str,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    let options = Some(options).filter(|options| !options.is_empty());
    Ok(nix::mount::mount(Some(source), target, Some(fs_type), flags, options)?)
}

/// Binds a file or directory to another place.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(nix::mount::mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)?)
}

/// Binds the open file or directory `source` (it may be `O_PATH`), which cannot be replaced
/// meanwhile.
pub fn bind_fd(source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    bind(Path::new(&format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

/// Adds flags (read-only, no programs, …) to a bind mount; its other flags stay.
pub fn remount_bind(target: &Path, flags: MsFlags) -> io::Result<()> {
    // The kernel refuses to drop flags of a mount that is locked in a user namespace, so they are
    // repeated.
    let kept = nix::sys::statvfs::statvfs(target)?.flags().bits();
    let flags = MsFlags::from_bits_truncate(kept) | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
    Ok(nix::mount::mount(NONE, target, NONE, flags, NONE)?)
}

/// Returns the other places where the directory `path` (without links) is mounted as a whole:
/// mounts of the same file system with the directory as their root.
pub fn other_places(mounts: &[MountInfo], path: &Path) -> io::Result<Vec<PathBuf>> {
    let holding = mount_of(mounts, path).ok_or(io::ErrorKind::NotFound)?;
    let below = path.strip_prefix(&holding.target).map_err(io::Error::other)?;
    let root =
        if below.as_os_str().is_empty() { holding.root.clone() } else { holding.root.join(below) };
    let same = mounts.iter().filter(|mount| mount.device == holding.device && mount.root == root);
    Ok(same.map(|mount| mount.target.clone()).filter(|target| target != path).collect())
}

/// Removes the topmost mount at `target`. A link there is not followed.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW)?)
}

/// Takes a mount out of the tree at once; it ends with its last user.
pub fn detach(target: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?)
}

/// The reaction to an unmount that does not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Report the failure; the call goes on in its thread.
    Report,
    /// Detach the mount (upstream does so for mounts of dead servers).
    Detach,
}

/// The reasons why something is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The kernel refuses.
    #[error("could not unmount {target}", target = .target.display())]
    Failed {
        /// The mount point.
        target: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The kernel does not answer.
    #[error("unmounting {target} has not ended after {deadline:?}", target = .target.display())]
    Late {
        /// The mount point.
        target: PathBuf,
        /// The deadline that has passed.
        deadline: Duration,
    },
}

/// Unmounts on a blocking thread and waits no longer than `deadline`. Dropping the future does not
/// stop the call.
pub async fn unmount_within(
    target: &Path,
    deadline: Duration,
    fallback: Fallback,
) -> Result<(), UnmountError> {
    let owned = target.to_owned();
    let call = super::blocking::spawn(move || unmount(&owned));
    let result = match tokio::time::timeout(deadline, call).await {
        Ok(ended) => ended.unwrap_or_else(|panicked| Err(io::Error::other(panicked))),
        Err(_elapsed) => match fallback {
            Fallback::Report => {
                return Err(UnmountError::Late { target: target.to_owned(), deadline });
            }
            Fallback::Detach => detach(target),
        },
    };

    result.map_err(|source| UnmountError::Failed { target: target.to_owned(), source })
}

/// The kinds of file systems that volumes distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    /// Memory.
    Tmpfs,
    /// Huge pages.
    HugeTlbFs,
    /// Anything else.
    Other,
}

/// Returns the kind of the file system that `path` lies on.
pub fn fs_kind(path: &Path) -> io::Result<FsKind> {
    let found = nix::sys::statfs::statfs(path)?.filesystem_type();
    Ok(if found == TMPFS_MAGIC {
        FsKind::Tmpfs
    } else if found == HUGETLBFS_MAGIC {
        FsKind::HugeTlbFs
    } else {
        FsKind::Other
    })
}

/// Size and use of the file system that a path lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// The size in bytes.
    pub capacity: u64,
    /// The bytes that an unprivileged user can still write.
    pub available: u64,
    /// The bytes in use.
    pub used: u64,
    /// The number of inodes; zero if it is not fixed.
    pub inodes: u64,
    /// The number of free inodes.
    pub inodes_free: u64,
}

/// Reads the usage of the file system that `path` lies on.
pub fn fs_usage(path: &Path) -> io::Result<FsUsage> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let block = stat.fragment_size();
    Ok(FsUsage {
        capacity: stat.blocks().saturating_mul(block),
        available: stat.blocks_available().saturating_mul(block),
        used: stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(block),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's id.
    pub id: u32,
    /// The id of the mount that it is mounted on.
    pub parent: u32,
    /// `major:minor` of the file system.
    pub device: String,
    /// The path in the file system that is the mount's root.
    pub root: PathBuf,
    /// The mount point.
    pub target: PathBuf,
    /// The options of the mount.
    pub options: Vec<String>,
    /// True if mounts propagate from it (`shared:N`).
    pub shared: bool,
    /// The type of the file system.
    pub fs_type: String,
    /// The source of the file system, e.g. a device.
    pub source: String,
    /// The options of the file system.
    pub super_options: Vec<String>,
}

/// Lists the mounts that this process sees, in the kernel's order.
pub fn list() -> io::Result<Vec<MountInfo>> {
    Ok(parse_mountinfo(&std::fs::read("/proc/self/mountinfo")?))
}

/// Parses the kernel's text (proc(5)). A malformed line is left out.
pub fn parse_mountinfo(text: &[u8]) -> Vec<MountInfo> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let device = text()?;
    let root = unescape(fields.next()?);
    let target = unescape(fields.next()?);
    let options = split_options(fields.next()?);
    let mut shared = false;

    for field in fields.by_ref() {
        if field == b"-" {
            break;
        }
        shared |= field.starts_with(b"shared:");
    }

    let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?).to_string_lossy().into_owned();
    let super_options = fields.next().map(split_options).unwrap_or_default();

    Some(MountInfo {
        id,
        parent,
        device,
        root,
        target,
        options,
        shared,
        fs_type,
        source,
        super_options,
    })
}

fn split_options(field: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(field)
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Decodes the kernel's `\040` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = code {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }

    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

/// Makes mounts beneath `dir` propagate to and from it, as the root directory needs. If the mount
/// of `dir` is not shared, `dir` is bound to itself and that mount is made shared, recursively.
pub fn make_rshared(dir: &Path) -> io::Result<()> {
    let dir = std::fs::canonicalize(dir)?;
    if mount_of(&list()?, &dir).is_some_and(|mount| mount.shared) {
        return Ok(());
    }
    if !is_mount_point(&dir)? {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        nix::mount::mount(Some(dir.as_path()), dir.as_path(), NONE, flags, NONE)?;
    }
    Ok(nix::mount::mount(NONE, dir.as_path(), NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE)?)
}

/// Returns the mount that a path lies in; of several at one place the last, which hides the others.
pub fn mount_of<'a>(mounts: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    let holding = mounts.iter().enumerate().filter(|(_, mount)| path.starts_with(&mount.target));
    holding
        .max_by_key(|(index, mount)| (mount.target.as_os_str().len(), *index))
        .map(|(_, mount)| mount)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{FsKind, fs_kind, fs_usage, list, mount_of, parse_mountinfo};

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
        30 22 0:22 / /var/lib/kubelet/pods/a\\040b rw,nosuid,nodev master:3 propagate_from:2 - tmpfs tmpfs rw,size=64k\n\
        31 22 254:0 /data/x /mnt rw - ext4 /dev/root rw\n\
        not a line\n\
        32 31 0:30 / /mnt rw - tmpfs none rw\n";

    #[test]
    fn reads_mountinfo() {
        let mounts = parse_mountinfo(TEXT);
        assert_eq!(mounts.len(), 4);
        assert!(mounts[0].shared);
        let tmpfs = &mounts[1];
        assert_eq!(tmpfs.target, Path::new("/var/lib/kubelet/pods/a b"));
        assert_eq!(
            (tmpfs.fs_type.as_str(), tmpfs.source.as_str(), tmpfs.shared),
            ("tmpfs", "tmpfs", false)
        );
        assert_eq!(tmpfs.super_options, ["rw", "size=64k"]);
        assert_eq!(mounts[2].root, Path::new("/data/x"));
    }

    #[test]
    fn finds_the_mount_of_a_path() {
        let mounts = parse_mountinfo(TEXT);
        let id = |path: &str| mount_of(&mounts, Path::new(path)).map(|mount| mount.id);
        assert_eq!(id("/etc"), Some(22));
        assert_eq!(id("/mnt/x"), Some(32), "the last one hides the first");
        assert_eq!(id("/mnt2"), Some(22), "a name is not a prefix");
        assert_eq!(id("relative"), None);
    }

    #[test]
    fn finds_where_else_a_directory_is_mounted() {
        let mounts = parse_mountinfo(TEXT);
        let places = |path: &str| super::other_places(&mounts, Path::new(path)).expect("found");
        assert_eq!(places("/data/x"), [Path::new("/mnt")]);
        assert!(places("/data").is_empty() && places("/mnt/x").is_empty());
    }

    #[test]
    fn reads_this_machine() {
        let mounts = list().expect("readable");
        assert!(
            mounts
                .iter()
                .any(|mount| mount.target == Path::new("/proc") && mount.fs_type == "proc")
        );
        assert_eq!(fs_kind(Path::new("/proc")).expect("readable"), FsKind::Other);
        let usage = fs_usage(Path::new("/")).expect("readable");
        assert!(usage.capacity >= usage.used && usage.capacity > 0);
    }
}
