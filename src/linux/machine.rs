//! What the kernel says of the machine as a whole: the processors on line, and how many processes
//! there can be.

use std::path::Path;

/// The processors on line as the kernel lists them, e.g. `0-3`; none if it does not say. Blocks.
pub fn cpus() -> Option<String> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let list = text.trim();
    (!list.is_empty()).then(|| list.to_owned())
}

/// How many processes there can be: the smaller of `pid_max` and `threads-max`; none if the kernel
/// says neither. Blocks.
pub fn processes() -> Option<i64> {
    smallest(&["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"])
}

fn smallest(files: &[impl AsRef<Path>]) -> Option<i64> {
    let number = |file: &Path| std::fs::read_to_string(file).ok()?.trim().parse::<i64>().ok();
    files.iter().filter_map(|file| number(file.as_ref())).min()
}

#[cfg(test)]
mod tests {
    use super::{cpus, processes, smallest};

    #[test]
    fn the_smaller_limit_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            crate::linux::fs::write_atomic(&path, text, 0o600).expect("written");
            path
        };
        let (large, small) = (file("pid_max", "4194304\n"), file("threads-max", "47263\n"));
        assert_eq!(smallest(&[&large, &small]), Some(47263));
        assert_eq!(smallest(&[&large, &directory.path().join("absent")]), Some(4_194_304));
        assert_eq!(smallest(&[directory.path().join("absent")]), None);
    }

    #[test]
    fn this_machine_has_some() {
        assert!(cpus().is_some_and(|list| list.starts_with('0')), "processor 0 is on line");
        assert!(processes().is_some_and(|limit| limit > 100));
    }
}
