//! The SELinux labels of the folders in which plug-ins have their sockets.
//!
//! Applied once, at the start. On a node whose files have no labels nothing is written.

use std::path::{Path, PathBuf};

use tracing::info;

use crate::linux::selinux;

/// Labels the folders of plug-ins below the kubelet's root directory.
pub(super) fn label(root_dir: &Path, selinux_enabled: bool) {
    for (path, what) in to_label(root_dir, selinux_enabled) {
        if let Err(error) = selinux::set_label(&path, selinux::CONTAINER_FILE) {
            info!(
                path = %path.display(),
                err = %error,
                "Unprivileged containerized plugins might not work, could not set selinux context on {what}"
            );
        }
    }
}

/// Lists the folders to label, each with its name in upstream's log.
fn to_label(root_dir: &Path, selinux_enabled: bool) -> Vec<(PathBuf, &'static str)> {
    if !selinux_enabled {
        return Vec::new();
    }
    vec![
        (root_dir.join("plugins_registry"), "plugin registration dir"),
        (root_dir.join("plugins"), "plugins dir"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_plugins_are_labelled_where_selinux_is_on() {
        let folders = to_label(Path::new("/var/lib/kubelet"), true);
        let folders: Vec<PathBuf> = folders.into_iter().map(|(path, _)| path).collect();
        let expected = ["/var/lib/kubelet/plugins_registry", "/var/lib/kubelet/plugins"];
        assert_eq!(folders, expected.map(PathBuf::from));
    }

    #[test]
    fn where_selinux_is_off_nothing_is_written() {
        let root = tempfile::tempdir().expect("a folder");
        let plugins = root.path().join("plugins");
        std::fs::create_dir(&plugins).expect("a folder");
        let before = selinux::label_of(&plugins).expect("readable");
        label(root.path(), false);
        assert_eq!(to_label(root.path(), false), []);
        assert_eq!(selinux::label_of(&plugins).expect("readable"), before);
    }
}
