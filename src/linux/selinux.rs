//! SELinux labels of files.

use std::io;
use std::path::Path;

/// The label of folders that unprivileged containers may use, as plug-ins do; upstream's.
pub const CONTAINER_FILE: &str = "system_u:object_r:container_file_t:s0";

const ATTRIBUTE: &str = "security.selinux";

/// Returns true if SELinux labels files here: its file system is mounted, not read-only as in a
/// container, and the process is not the kernel's own.
pub fn is_enabled() -> bool {
    let is_writable = rustix::fs::statvfs("/sys/fs/selinux")
        .is_ok_and(|found| !found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let label = || std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    is_writable
        && Path::new("/sys/fs/selinux/enforce").exists()
        && label().trim_end_matches('\0').trim() != "kernel"
}

/// Labels a file or folder; links are followed.
pub fn set_label(path: &Path, label: &str) -> io::Result<()> {
    rustix::fs::setxattr(path, ATTRIBUTE, label.as_bytes(), rustix::fs::XattrFlags::empty())?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The label of a file or folder, if it has one.
    pub(crate) fn label_of(path: &Path) -> io::Result<Option<String>> {
        let mut buffer = vec![0; 4096];
        match rustix::fs::getxattr(path, ATTRIBUTE, buffer.as_mut_slice()) {
            Ok(length) => {
                buffer.truncate(length);
                let text = String::from_utf8_lossy(&buffer);
                Ok(Some(text.trim_end_matches('\0').to_owned()))
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    #[test]
    fn a_label_that_is_set_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        match set_label(folder.path(), CONTAINER_FILE) {
            Ok(()) => {
                let label = label_of(folder.path()).expect("readable");
                assert_eq!(label.as_deref(), Some(CONTAINER_FILE));
            }
            // Without the rights, or on a file system without such attributes.
            Err(error) => {
                let refused = [Some(libc::EPERM), Some(libc::EOPNOTSUPP), Some(libc::EINVAL)];
                assert!(refused.contains(&error.raw_os_error()), "{error}");
            }
        }
    }
}
