//! Stamps files: two reads of a file with the same stamp had the same content.
//!
//! For files that are checked when they are used and read again when they have changed, so that no
//! watch and no polling is needed. A symlink is followed: a file that is replaced by renaming, or
//! by pointing a link elsewhere, gets another stamp.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The identity of a file's content; `None` inside if the file cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Option<Identity>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of the file at `path` now. Blocks on the file system, briefly.
    pub fn of(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().map(|found| Identity {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
    fn another_file_in_its_place_is_another_stamp() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("f");
        let absent = Stamp::of(&path);
        std::fs::write(&path, "one").expect("written");
        let first = Stamp::of(&path);
        assert_ne!(first, absent);
        assert_eq!(first, Stamp::of(&path));

        let other = directory.path().join("g");
        std::fs::write(&other, "two").expect("written");
        std::fs::rename(&other, &path).expect("renamed");
        assert_ne!(first, Stamp::of(&path), "the same length");
    }
}
