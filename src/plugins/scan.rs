//! Reads the folder of sockets, with its subfolders.
//!
//! Asked by the task. A name that begins with a dot is skipped, as upstream does.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::plan::{Found, Identity};

/// The depth to which subfolders are read.
const DEPTH: usize = 8;

/// The content of the folder.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The folder and its subfolders, to be watched.
    pub(super) folders: Vec<PathBuf>,
    pub(super) sockets: Found,
}

/// Reads the folder. It blocks.
pub(super) fn scan(folder: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    read(folder, DEPTH, &mut scan)?;
    Ok(scan)
}

fn read(folder: &Path, depth: usize, scan: &mut Scan) -> io::Result<()> {
    scan.folders.push(folder.to_owned());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // What is gone by now is no socket any more.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() && depth > 0 {
            if let Err(error) = read(&path, depth - 1, scan) {
                tracing::debug!(path = %path.display(), %error, "a folder of plugins cannot be read");
            }
        } else if metadata.file_type().is_socket() {
            let (device, inode) = (metadata.dev(), metadata.ino());
            let born =
                metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
            let born = born.map(|since| since.as_nanos());
            scan.sockets.insert(path, Identity { device, inode, born });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::scan;
    use crate::linux::fs::write_atomic;

    #[test]
    fn only_sockets_count_in_every_subfolder() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("vendor");
        std::fs::create_dir(&deep).expect("made");
        write_atomic(&dir.path().join("file"), "", 0o600).expect("written");
        let _sockets = ["a.sock", ".hidden.sock", "vendor/b.sock"]
            .map(|name| UnixListener::bind(dir.path().join(name)).expect("bound"));

        let found = scan(dir.path()).expect("readable");

        assert_eq!(found.folders, [dir.path(), &deep]);
        let paths: Vec<_> = found.sockets.keys().cloned().collect();
        assert_eq!(paths, [dir.path().join("a.sock"), deep.join("b.sock")]);
        assert!(scan(&dir.path().join("missing")).is_err());
    }
}
