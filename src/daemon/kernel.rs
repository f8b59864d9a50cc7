//! The kernel's settings that a node depends on. They are written, or with `protectKernelDefaults`
//! only checked.
//!
//! Applied once, at the start. A setting that cannot be written, or that differs and may not be
//! written, is an error of the start.

use std::path::{Path, PathBuf};

use tracing::debug;

/// Each setting, by its path below `/proc/sys`, with its value; upstream's.
const SETTINGS: [(&str, i64); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// A setting that differs or cannot be changed. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
enum KernelError {
    #[error("invalid kernel flag: {flag}, expected value: {expected}, actual value: {actual}")]
    Differs { flag: &'static str, expected: i64, actual: i64 },
    #[error("{step} {path}: {source}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} holds no number")]
    NoNumber { path: PathBuf },
}

/// Writes each setting that differs, or with `protect` fails. Blocks on files of procfs.
pub(super) fn prepare(protect: bool) -> anyhow::Result<()> {
    prepare_at(Path::new("/proc/sys"), protect)
}

fn prepare_at(root: &Path, protect: bool) -> anyhow::Result<()> {
    let settings = SETTINGS.iter();
    let errors = settings.filter_map(|&(flag, expected)| {
        prepare_one(&root.join(flag), flag, expected, protect).err()
    });
    let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
    let remedy = if protect {
        "set them with sysctl, or protectKernelDefaults (--protect-kernel-defaults) to false"
    } else {
        "the kubelet must be able to set them below /proc/sys"
    };
    match &errors[..] {
        [] => Ok(()),
        [error] => anyhow::bail!("Failed to start ContainerManager: {error} ({remedy})"),
        errors => {
            let errors = errors.join(", ");
            anyhow::bail!("Failed to start ContainerManager: [{errors}] ({remedy})")
        }
    }
}

fn prepare_one(
    path: &Path,
    flag: &'static str,
    expected: i64,
    protect: bool,
) -> Result<(), KernelError> {
    let file = |step| move |source| KernelError::File { step, path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(file("open"))?;
    let actual: i64 =
        text.trim().parse().map_err(|_| KernelError::NoNumber { path: path.to_owned() })?;
    if actual == expected {
        return Ok(());
    }
    if protect {
        return Err(KernelError::Differs { flag, expected, actual });
    }
    debug!(flag, expectedValue = expected, actualValue = actual, "Updating kernel flag");
    let opened = std::fs::OpenOptions::new().write(true).open(path);
    opened
        .and_then(|mut opened| {
            std::io::Write::write_all(&mut opened, expected.to_string().as_bytes())
        })
        .map_err(file("write"))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use super::*;

    fn kernel(values: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (flag, value) in SETTINGS {
            let path = root.path().join(flag);
            let said = values.iter().find(|(name, _)| *name == flag);
            let text = said.map_or_else(|| value.to_string(), |(_, text)| (*text).to_owned());
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, format!("{text}\n")).expect("written");
        }
        root
    }

    #[test]
    fn what_differs_is_set() {
        let root = kernel(&[("vm/overcommit_memory", "0")]);
        prepare_at(root.path(), true).expect_err("protected");
        prepare_at(root.path(), false).expect("set");
        prepare_at(root.path(), true).expect("as it is demanded");
    }

    #[test]
    fn with_protection_what_differs_is_refused_as_upstream_says_it() {
        let root = kernel(&[("vm/overcommit_memory", "0"), ("kernel/panic", "0")]);
        let error = prepare_at(root.path(), true).expect_err("refused").to_string();
        assert_eq!(
            error,
            "Failed to start ContainerManager: [invalid kernel flag: vm/overcommit_memory, \
             expected value: 1, actual value: 0, invalid kernel flag: kernel/panic, expected \
             value: 10, actual value: 0] (set them with sysctl, or protectKernelDefaults \
             (--protect-kernel-defaults) to false)"
        );
        let left = std::fs::read_to_string(root.path().join("kernel/panic")).expect("read");
        assert_eq!(left.trim(), "0", "nothing was written");
    }

    #[test]
    fn a_setting_that_is_not_there_is_told() {
        let root = kernel(&[]);
        std::fs::remove_file(root.path().join("kernel/panic")).expect("removed");
        let error = prepare_at(root.path(), false).expect_err("refused").to_string();
        assert!(error.contains("kernel/panic: No such file or directory"), "{error}");
    }
}
