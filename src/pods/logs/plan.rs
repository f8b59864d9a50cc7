//! Which of a container's rotated logs go and which are packed before the newest is rotated. Pure:
//! names in, names out.
//!
//! The files are upstream's: `N.log` is written to, `N.log.<time>` was rotated last,
//! `N.log.<time>.gz` before that, `N.log.<time>.tmp` is left of a packing that was interrupted.

/// What packed logs end with.
pub const PACKED: &str = ".gz";
/// What a log that is being packed ends with.
pub const UNFINISHED: &str = ".tmp";

/// What to do before a log is rotated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Files that go, the oldest first: those who read logs read on.
    pub remove: Vec<String>,
    /// Files that are packed.
    pub pack: Vec<String>,
}

/// Plans for the log named `log` among `names`, the files of its directory, of which at most
/// `max_files` are kept, the new one and the one that is rotated now included.
pub fn plan(log: &str, names: &[String], max_files: usize) -> Rotation {
    let is_rotated =
        |name: &&String| name.strip_prefix(log).is_some_and(|rest| rest.starts_with('.'));
    let mut rotated: Vec<&String> = names.iter().filter(is_rotated).collect();
    rotated.sort();
    let is_packed =
        |name: &str| rotated.iter().any(|other| other.strip_suffix(PACKED) == Some(name));
    let (used, unused): (Vec<&String>, Vec<&String>) = rotated.iter().copied().partition(|name| {
        !name.ends_with(UNFINISHED) && (name.ends_with(PACKED) || !is_packed(name))
    });
    let excess = used.len().saturating_sub(max_files.saturating_sub(2));
    let (old, kept) = used.split_at(excess);
    Rotation {
        remove: unused.into_iter().chain(old.iter().copied()).cloned().collect(),
        pack: kept
            .iter()
            .filter(|name| !name.ends_with(PACKED))
            .map(|name| (*name).clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::plan;

    #[track_caller]
    fn check(names: &[&str], max_files: usize, remove: &[&str], pack: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let planned = plan("0.log", &names, max_files);
        assert_eq!((planned.remove, planned.pack), (own(remove), own(pack)));
    }

    fn own(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn packs_what_was_rotated_before() {
        check(&["0.log"], 5, &[], &[]);
        check(&["0.log", "0.log.20260102-000000"], 5, &[], &["0.log.20260102-000000"]);
    }

    #[test]
    fn the_oldest_go() {
        let names = [
            "0.log.20260103-000000",
            "0.log",
            "0.log.20260101-000000.gz",
            "0.log.20260102-000000.gz",
        ];
        check(&names, 4, &["0.log.20260101-000000.gz"], &["0.log.20260103-000000"]);
        check(&names[..2], 2, &["0.log.20260103-000000"], &[]);
    }

    #[test]
    fn what_an_interrupted_packing_left_goes() {
        let names = [
            "0.log.20260101-000000",
            "0.log.20260101-000000.gz",
            "0.log.20260102-000000.tmp",
            "0.log",
        ];
        check(&names, 5, &["0.log.20260101-000000", "0.log.20260102-000000.tmp"], &[]);
    }

    #[test]
    fn other_containers_logs_are_not_touched() {
        check(&["1.log.20260101-000000", "0.log2", "0.log"], 2, &[], &[]);
    }
}
