//! The ids of the node that each pod with a user namespace of its own (`hostUsers: false`) has.
//!
//! Ranges never overlap. A pod's range is written to `pods/UID/userns`, in upstream's format,
//! before its first use, and read back at start, so that either kubelet goes on with the ranges
//! that the other gave. The executor asks for a range before it creates a sandbox, and frees it at
//! the pod's clean-up; dispatch has it forgotten. The lock is held for look-ups only, never while a
//! file is read or written.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::request::IdRange;
use crate::dispatch::Forget;
use crate::linux::fs::{WriteOptions, go_text, write_atomic_with};
use crate::linux::walk;
use crate::model::PodUid;
use crate::volumes::Paths;

/// The file in a pod's directory.
const FILE: &str = "userns";

/// Lengths of ranges are multiples of this.
const UNIT: u32 = 65_536;

/// The ids that pods may have, and how many each gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    first: u32,
    count: u32,
    per_pod: u32,
}

impl Ids {
    /// Checks what was configured (`subuid`: the kubelet's subordinate ids, first and count;
    /// `None`: all but the lowest).
    pub fn new(per_pod: u32, subuid: Option<(u32, u32)>, max_pods: u32) -> Result<Self, IdsError> {
        if per_pod == 0 || !per_pod.is_multiple_of(UNIT) {
            return Err(IdsError::Length(per_pod));
        }
        let (first, count) = subuid.unwrap_or((per_pod, 0_u32.wrapping_sub(per_pod)));
        if !first.is_multiple_of(per_pod) {
            return Err(IdsError::First { first, per_pod });
        }
        if first < per_pod {
            // Id 0 of the node in a container would be no protection at all.
            return Err(IdsError::TooLow { first, per_pod });
        }
        if !count.is_multiple_of(per_pod) {
            return Err(IdsError::Count { count, per_pod });
        }
        if count / per_pod < max_pods {
            return Err(IdsError::TooFew { max_pods });
        }
        Ok(Self { first, count, per_pod })
    }

    /// The first range after `after` that overlaps none of `used`, from the beginning again at the
    /// end.
    fn free(self, used: &BTreeMap<PodUid, IdRange>, after: u32) -> Option<IdRange> {
        let slots = self.count / self.per_pod;
        let from = after.wrapping_sub(self.first) / self.per_pod;
        // One more than are used is enough to meet a free one.
        (1..=slots).map(|step| (from + step) % slots).find_map(|slot| {
            let range = IdRange { first: self.first + slot * self.per_pod, length: self.per_pod };
            used.values().all(|other| !range.overlaps(*other)).then_some(range)
        })
    }
}

/// Why ids cannot be given to pods. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    /// The length of a pod's range.
    #[error("kubelet user namespace length {0} is not a multiple of {UNIT}")]
    Length(u32),
    /// The first id is not where a range begins.
    #[error("kubelet user assigned ID {first} is not a multiple of {per_pod}")]
    First {
        /// The first id.
        first: u32,
        /// The length of a pod's range.
        per_pod: u32,
    },
    /// The first range would have id 0 of the node.
    #[error("kubelet user assigned ID {first} must be greater or equal to {per_pod}")]
    TooLow {
        /// The first id.
        first: u32,
        /// The length of a pod's range.
        per_pod: u32,
    },
    /// The ids are not a number of whole ranges.
    #[error("kubelet user assigned IDs length {count} is not a multiple of {per_pod}")]
    Count {
        /// The number of ids.
        count: u32,
        /// The length of a pod's range.
        per_pod: u32,
    },
    /// There are fewer ranges than pods.
    #[error("kubelet user assigned IDs are not enough to support {max_pods} pods")]
    TooFew {
        /// `maxPods`.
        max_pods: u32,
    },
}

/// Why the output of `getsubids` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubidsError {
    /// There is not one line.
    #[error("error parsing line {0:?}: it must contain only one line")]
    Lines(String),
    /// The line has not four fields.
    #[error("invalid line {0:?}")]
    Fields(String),
    /// An id is no number.
    #[error("error parsing line {line:?}: {source}")]
    Number {
        /// The output.
        line: String,
        /// Why.
        source: std::num::ParseIntError,
    },
}

/// Why a pod has no range. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// Every range is taken.
    #[error("create user namespace: could not find an empty slot to allocate a user namespace")]
    NoneFree,
    /// The range cannot be recorded.
    #[error("create user namespace: open {}: {}", path.display(), go_text(source))]
    Write {
        /// The record.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The record cannot be read.
    #[error("open {}: {}", path.display(), go_text(source))]
    Read {
        /// The record.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The record is no JSON.
    #[error("user namespace: invalid user namespace mappings file: {0}")]
    File(#[source] serde_json::Error),
    /// The record is not what a kubelet writes.
    #[error("user namespace: invalid user namespace configuration: {0}")]
    Mappings(&'static str),
}

/// Parses what `getsubids kubelet` prints: `0: kubelet FIRST COUNT`, one line.
pub fn parse_subids(output: &str) -> Result<(u32, u32), SubidsError> {
    let trimmed = output.trim_matches('\n');
    if trimmed.contains('\n') {
        return Err(SubidsError::Lines(output.to_owned()));
    }
    let fields: Vec<_> = trimmed.split_whitespace().collect();
    let [_, _, first, count] = fields[..] else {
        return Err(SubidsError::Fields(output.to_owned()));
    };
    let number = |text: &str| {
        text.parse().map_err(|source| SubidsError::Number { line: output.to_owned(), source })
    };
    Ok((number(first)?, number(count)?))
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Mappings {
    fn of(range: IdRange) -> Self {
        let mapping = Mapping { host_id: range.first, container_id: 0, length: range.length };
        Self { uid_mappings: vec![mapping], gid_mappings: vec![mapping] }
    }

    fn parse(text: &str) -> Result<IdRange, RangeError> {
        let mappings: Self = serde_json::from_str(text).map_err(RangeError::File)?;
        let invalid = |problem| Err(RangeError::Mappings(problem));
        let [mapping] = mappings.uid_mappings[..] else {
            return invalid("no more than one mapping allowed.");
        };
        let [group_mapping] = mappings.gid_mappings[..] else {
            return invalid("GID and UID mappings should be identical.");
        };
        if mapping != group_mapping {
            return invalid("GID and UID mapping should be identical");
        }
        if mapping.container_id != 0 {
            return invalid("UID 0 must be mapped");
        }
        Ok(IdRange { first: mapping.host_id, length: mapping.length })
    }
}

#[derive(Debug, Default)]
struct State {
    used: BTreeMap<PodUid, IdRange>,
    /// The beginning of the range that was given last: a freed one is not given again at once.
    last: u32,
}

/// The ranges of all pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UserNamespaces {
    ids: Ids,
    paths: Paths,
    state: Arc<Mutex<State>>,
}

impl UserNamespaces {
    /// Reads the ranges of the pods that are on disk. Blocks.
    ///
    /// A file that cannot be parsed is left to its pod, which cannot start with it.
    pub fn new(ids: Ids, paths: Paths) -> Self {
        let found = Self {
            ids,
            paths,
            state: Arc::new(Mutex::new(State { last: ids.first, ..State::default() })),
        };
        let pods = walk::list(&found.paths.pods()).unwrap_or_default();
        for (name, _) in pods {
            let uid = PodUid::from(name.to_string_lossy().into_owned());
            match found.read(&uid) {
                Ok(Some(range)) => drop(found.state.lock().used.insert(uid, range)),
                Ok(None) => {}
                Err(error) => {
                    warn!(pod = %uid, %error, "The ids of a pod's user namespace cannot be read");
                }
            }
        }
        found
    }

    /// The range of a pod that has one.
    pub fn of(&self, uid: &PodUid) -> Option<IdRange> {
        self.state.lock().used.get(uid).copied()
    }

    /// The range of a pod, given to it now if it has none; its directory must be there. Blocks.
    pub fn ensure(&self, uid: &PodUid) -> Result<IdRange, RangeError> {
        if let Some(range) = self.of(uid) {
            return Ok(range);
        }
        if let Some(range) = self.read(uid)? {
            self.state.lock().used.insert(uid.clone(), range);
            return Ok(range);
        }

        let taken = self.take(uid).or_else(|| {
            self.forget_the_gone();
            self.take(uid)
        });
        let range = taken.ok_or(RangeError::NoneFree)?;

        let text = serde_json::to_string(&Mappings::of(range)).expect("numbers are JSON");
        // A reboot must not give the ids of files that the pod's volumes keep to another pod.
        let path = self.file(uid);
        if let Err(source) = write_atomic_with(&path, text, WriteOptions::mode(0o600).synced()) {
            self.state.lock().used.remove(uid);
            return Err(RangeError::Write { path, source });
        }

        Ok(range)
    }

    /// Frees the range of a pod that has ended. Blocks.
    pub fn release(&self, uid: &PodUid) {
        if self.state.lock().used.contains_key(uid) {
            // The file first: if it were read again later, two pods would have the range.
            match std::fs::remove_file(self.file(uid)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(pod = %uid, %error, "The file with the ids of a pod's user namespace cannot be removed");
                }
                Ok(()) | Err(_) => drop(self.state.lock().used.remove(uid)),
            }
        }
    }

    fn take(&self, uid: &PodUid) -> Option<IdRange> {
        let mut state = self.state.lock();
        let range = self.ids.free(&state.used, state.last)?;
        state.last = range.first;
        state.used.insert(uid.clone(), range);
        Some(range)
    }

    /// Frees the ranges of pods that the sweep has removed from the disk.
    fn forget_the_gone(&self) {
        let known: Vec<_> = self.state.lock().used.keys().cloned().collect();
        for uid in known.iter().filter(|uid| !self.file(uid).exists()) {
            self.state.lock().used.remove(uid);
        }
    }

    fn file(&self, uid: &PodUid) -> PathBuf {
        self.paths.pod(uid).join(FILE)
    }

    fn read(&self, uid: &PodUid) -> Result<Option<IdRange>, RangeError> {
        let path = self.file(uid);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Mappings::parse(&text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RangeError::Read { path, source }),
        }
    }
}

impl Forget for UserNamespaces {
    /// Frees a range that the clean-up of the pod could not free.
    ///
    /// Rare, and one file: done at once. In the background it could take the range of a static
    /// pod's successor, which has the same UID.
    fn forget(&self, uid: &PodUid) {
        self.release(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::fs::write_atomic;

    fn namespaces(ids: Ids) -> (tempfile::TempDir, UserNamespaces) {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = Paths::new(dir.path(), dir.path().join("logs"));
        for name in ["a", "b", "c", "d"] {
            std::fs::create_dir_all(paths.pod(&PodUid::from(name))).expect("made");
        }
        let namespaces = UserNamespaces::new(ids, paths);
        (dir, namespaces)
    }

    fn three() -> Ids {
        Ids { first: 131_072, count: 3 * UNIT, per_pod: UNIT }
    }

    #[track_caller]
    fn first(namespaces: &UserNamespaces, name: &str) -> u32 {
        namespaces.ensure(&PodUid::from(name)).expect("a range").first
    }

    #[test]
    fn gives_ranges_that_do_not_overlap_and_writes_them_as_upstream() {
        let (dir, namespaces) = namespaces(three());
        let (a, b) = (first(&namespaces, "a"), first(&namespaces, "b"));
        assert_eq!((a, b), (196_608, 262_144));
        assert_eq!(first(&namespaces, "a"), a, "once given it stays");
        let file = dir.path().join("pods/a/userns");
        assert_eq!(
            std::fs::read_to_string(&file).expect("written"),
            r#"{"uidMappings":[{"hostId":196608,"containerId":0,"length":65536}],"gidMappings":[{"hostId":196608,"containerId":0,"length":65536}]}"#
        );
        let again = UserNamespaces::new(three(), namespaces.paths.clone());
        assert_eq!(
            again.of(&PodUid::from("b")),
            Some(IdRange { first: b, length: UNIT }),
            "read back after a restart"
        );
        assert_eq!(first(&again, "c"), 131_072);
    }

    #[test]
    fn a_range_is_free_after_its_pod() {
        let (dir, namespaces) = namespaces(three());
        let a = first(&namespaces, "a");
        first(&namespaces, "b");
        first(&namespaces, "c");
        assert_eq!(
            namespaces.ensure(&PodUid::from("d")).map_err(|error| error.to_string()),
            Err("create user namespace: could not find an empty slot to allocate a user namespace"
                .into())
        );
        namespaces.release(&PodUid::from("a"));
        assert!(!dir.path().join("pods/a/userns").exists());
        assert_eq!(first(&namespaces, "d"), a);
        // One whose directory was swept away by others.
        std::fs::remove_dir_all(dir.path().join("pods/b")).expect("removed");
        first(&namespaces, "a");
    }

    #[test]
    fn a_range_whose_clean_up_failed_is_free_once_its_pod_is_forgotten() {
        let (dir, namespaces) = namespaces(three());
        let a = PodUid::from("a");
        first(&namespaces, "a");
        // A directory in the file's place cannot be removed as a file.
        let file = dir.path().join("pods/a/userns");
        std::fs::remove_file(&file).and_then(|()| std::fs::create_dir(&file)).expect("replaced");
        namespaces.release(&a);
        assert!(namespaces.of(&a).is_some());

        std::fs::remove_dir_all(dir.path().join("pods/a")).expect("removed");
        namespaces.forget(&a);
        assert_eq!(namespaces.of(&a), None);
    }

    #[test]
    fn a_pod_without_a_directory_gets_none() {
        let (_dir, namespaces) = namespaces(three());
        assert!(
            namespaces
                .ensure(&PodUid::from("e"))
                .is_err_and(|error| error.to_string().starts_with("create user namespace: "))
        );
        assert_eq!(namespaces.of(&PodUid::from("e")), None, "and its range is free");
    }

    #[test]
    fn reads_only_what_a_kubelet_writes() {
        let (dir, namespaces) = namespaces(three());
        let check = |content: &str, expected: &str| {
            write_atomic(&dir.path().join("pods/d/userns"), content, 0o600).expect("written");
            let error = namespaces.ensure(&PodUid::from("d")).expect_err("refused");
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check("{", "user namespace: invalid user namespace mappings file: ");
        let invalid = "user namespace: invalid user namespace configuration: ";
        let one = r#"{"hostId":65536,"containerId":0,"length":65536}"#;
        let other = r#"{"hostId":65536,"containerId":1,"length":65536}"#;
        let file = |uids: &str, gids: &str| {
            format!(r#"{{"uidMappings":[{uids}],"gidMappings":[{gids}]}}"#)
        };
        check(&file("", ""), &format!("{invalid}no more than one mapping allowed."));
        check(&file(one, ""), &format!("{invalid}GID and UID mappings should be identical."));
        check(&file(one, other), &format!("{invalid}GID and UID mapping should be identical"));
        check(&file(other, other), &format!("{invalid}UID 0 must be mapped"));
    }

    #[test]
    fn a_range_of_another_length_is_kept_and_kept_clear_of() {
        let (dir, namespaces) = namespaces(three());
        let old = r#"{"hostId":131072,"containerId":0,"length":131072}"#;
        let text = format!(r#"{{"uidMappings":[{old}],"gidMappings":[{old}]}}"#);
        write_atomic(&dir.path().join("pods/a/userns"), text, 0o600).expect("written");
        let again = UserNamespaces::new(three(), namespaces.paths.clone());
        assert_eq!(first(&again, "b"), 262_144);
        assert!(again.ensure(&PodUid::from("c")).is_err());
    }

    #[test]
    fn checks_what_is_configured() {
        let check = |per_pod, subuid, max_pods| {
            Ids::new(per_pod, subuid, max_pods).map_err(|error| error.to_string())
        };
        assert_eq!(
            check(UNIT, None, 110),
            Ok(Ids { first: UNIT, count: 4_294_901_760, per_pod: UNIT })
        );
        assert_eq!(
            check(UNIT, Some((65_536, 131_072)), 3),
            Err("kubelet user assigned IDs are not enough to support 3 pods".into())
        );
        let first = Err("kubelet user assigned ID 0 must be greater or equal to 65536".into());
        assert_eq!(check(UNIT, Some((0, 131_072)), 1), first);
        let odd = Err("kubelet user assigned ID 100000 is not a multiple of 65536".into());
        assert_eq!(check(UNIT, Some((100_000, 131_072)), 1), odd);
        let length =
            Err("kubelet user assigned IDs length 65537 is not a multiple of 65536".into());
        assert_eq!(check(UNIT, Some((65_536, 65_537)), 1), length);
        assert!(check(1000, None, 1).is_err());
    }

    #[test]
    fn parses_getsubids() {
        assert_eq!(parse_subids("0: kubelet 65536 2147483648\n"), Ok((65_536, 2_147_483_648)));
        assert_eq!(
            parse_subids("0: kubelet 65536\n").map_err(|error| error.to_string()),
            Err("invalid line \"0: kubelet 65536\\n\"".into())
        );
        assert!(
            parse_subids("0: kubelet 1 2\n1: kubelet 3 4\n")
                .is_err_and(|error| error.to_string().contains("only one line"))
        );
        assert!(parse_subids("0: kubelet -1 2").is_err());
    }
}
