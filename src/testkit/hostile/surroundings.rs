//! What lies beside a volume and must stay as it is, whatever is in the volume.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::linux::fs::write_atomic;
use crate::linux::walk;

/// What is known of one entry: all that a stray write, chmod, chown or removal would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) identity: (u64, u64),
    pub(super) owner: (u32, u32),
    pub(super) mode: u32,
    /// The content of a file, the target of a link.
    pub(super) content: Vec<u8>,
}

/// Every entry below a directory, by path relative to it; `""` is the directory itself.
pub(super) type Picture = BTreeMap<PathBuf, Entry>;

/// Makes `SCRATCH/volume`, empty, and `SCRATCH/outside`, which holds what an escape would find.
pub(super) fn prepare(scratch: &Path) -> (PathBuf, PathBuf) {
    let (volume, outside) = (scratch.join("volume"), scratch.join("outside"));
    std::fs::create_dir(&volume).expect("the scratch directory is empty");
    std::fs::create_dir_all(outside.join("secret/a")).expect("the scratch directory is empty");
    write_atomic(&outside.join("file"), "outside", 0o640).expect("writable");
    write_atomic(&outside.join("secret/a/file"), "secret", 0o600).expect("writable");
    symlink("secret", outside.join("link")).expect("writable");
    (volume, outside)
}

/// Takes the picture of a directory. Links are not followed.
pub(super) fn picture(dir: &Path) -> Picture {
    let mut picture = Picture::new();
    add(dir, &mut PathBuf::new(), &mut picture);
    picture
}

fn add(base: &Path, relative: &mut PathBuf, picture: &mut Picture) {
    let path = base.join(&*relative);
    let metadata = path.symlink_metadata().expect("it is there");
    let kind = metadata.file_type();
    let content = if kind.is_symlink() {
        std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
    } else if kind.is_file() {
        std::fs::read(&path).expect("readable")
    } else {
        Vec::new()
    };
    let identity = (metadata.dev(), metadata.ino());
    let entry =
        Entry { identity, owner: (metadata.uid(), metadata.gid()), mode: metadata.mode(), content };
    picture.insert(relative.clone(), entry);
    if kind.is_dir() {
        for (name, _) in walk::list(&path).expect("readable") {
            relative.push(name);
            add(base, relative, picture);
            relative.pop();
        }
    }
}
