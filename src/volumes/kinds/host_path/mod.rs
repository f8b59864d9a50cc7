//! hostPath volumes: a path of the node. Its type is checked, or made where the spec says so.
//!
//! Nothing is torn down: the path is the node's. Texts are upstream's.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::context::{Context, Done};
use crate::volumes::error::{HostPathError, SetUpError};
use crate::volumes::mounter::Mounter;

/// The plugin's name; it has no directories of its own.
pub const PLUGIN: &str = "kubernetes.io/host-path";

/// Checks the path, and makes it where its type says so.
pub(super) async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    source: &HostPathVolumeSource,
    context: &Arc<Context<M, T>>,
) -> Result<Done, SetUpError> {
    let source = source.clone();
    let work = move |context: &Context<M, T>| {
        context.check_names()?;
        ensure(&source)
    };
    context.blocking(work).await?;
    Ok(Done::default())
}

/// Checks that the path is of the wanted type, and makes it where the type says so. Blocks.
pub fn ensure(source: &HostPathVolumeSource) -> Result<(), SetUpError> {
    let path = source.path.as_str();
    if path.split('/').any(|name| name == "..") {
        return Err(HostPathError::Parent(path.to_owned()).into());
    }
    Ok(check(path, source.type_.as_deref().unwrap_or_default())?)
}

fn check(path: &str, wanted: &str) -> Result<(), HostPathError> {
    let metadata = std::fs::metadata(path);
    let kind = metadata.as_ref().ok().map(std::fs::Metadata::file_type);
    let is = |right: bool, wanted: &'static str| {
        if right { Ok(()) } else { Err(HostPathError::Type { path: path.to_owned(), wanted }) }
    };
    match wanted {
        "" => Ok(()),
        "DirectoryOrCreate" if metadata.is_err() => make_dir(path),
        "DirectoryOrCreate" | "Directory" => {
            is(kind.is_some_and(|kind| kind.is_dir()), "a directory")
        }
        "FileOrCreate" if metadata.is_err() => make_file(path),
        "FileOrCreate" | "File" => is(kind.is_some_and(|kind| kind.is_file()), "a file"),
        "Socket" => is(kind.is_some_and(|kind| kind.is_socket()), "a socket file"),
        "CharDevice" => is(kind.is_some_and(|kind| kind.is_char_device()), "a character device"),
        "BlockDevice" => is(kind.is_some_and(|kind| kind.is_block_device()), "a block device"),
        other => Err(HostPathError::UnknownType(other.to_owned())),
    }
}

fn make_dir(path: &str) -> Result<(), HostPathError> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|error| HostPathError::Make { call: "mkdir", path: path.to_owned(), error })
}

fn make_file(path: &str) -> Result<(), HostPathError> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(Path::new(path));
    match opened {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(HostPathError::Make { call: "open", path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use k8s_openapi::api::core::v1::HostPathVolumeSource;

    use super::ensure;
    use crate::linux::fs::write_atomic;

    #[track_caller]
    fn check(path: &str, wanted: &str, expected: Result<(), &str>) {
        let source = HostPathVolumeSource { path: path.to_owned(), type_: Some(wanted.to_owned()) };
        let found = ensure(&source).map_err(|error| error.text());
        assert_eq!(found, expected.map_err(|text| text.replace("PATH", path)), "{wanted} {path}");
    }

    #[test]
    fn every_type_is_checked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
        write_atomic(dir.path().join("file").as_path(), "", 0o600).expect("written");
        let socket =
            std::os::unix::net::UnixListener::bind(dir.path().join("socket")).expect("bound");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).expect("linked");
        let not = |what: &str| format!("hostPath type check failed: PATH is not {what}");
        check(&path("missing"), "", Ok(()));
        check(&path("link"), "Directory", Ok(()));
        check(&path("file"), "File", Ok(()));
        check(&path("socket"), "Socket", Ok(()));
        check("/dev/null", "CharDevice", Ok(()));
        for (wanted, what) in [
            ("Directory", "a directory"),
            ("File", "a file"),
            ("Socket", "a socket file"),
            ("CharDevice", "a character device"),
            ("BlockDevice", "a block device"),
        ] {
            check(&path("missing"), wanted, Err(&not(what)));
        }
        check(&path("file"), "DirectoryOrCreate", Err(&not("a directory")));
        check(&path("link"), "FileOrCreate", Err(&not("a file")));
        check("/dev/null", "BlockDevice", Err(&not("a block device")));
        check(&path("file"), "Folder", Err("Folder is an invalid volume type"));
        drop(socket);
    }

    #[test]
    fn makes_what_may_be_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
        check(&path("a/b"), "DirectoryOrCreate", Ok(()));
        check(&path("a/file"), "FileOrCreate", Ok(()));
        assert!(dir.path().join("a/b").is_dir() && dir.path().join("a/file").is_file());
        let mode = std::fs::metadata(path("a/file")).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o111, 0);
        check(&path("none/file"), "FileOrCreate", Err("open PATH: no such file or directory"));
        check(&path("a/file/sub"), "DirectoryOrCreate", Err("mkdir PATH: not a directory"));
        check("/srv/../etc", "", Err("invalid HostPath `PATH`: must not contain '..'"));
    }
}
