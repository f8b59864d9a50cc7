//! Writes the files of a volume atomically: a reader sees either all old files or all new ones,
//! also when the writer is killed.
//!
//! ```text
//!   VOLUME/config     -> ..data/config                        what containers see
//!   VOLUME/..data     -> ..2026_11_21_06_00_00.123456789      switched by one rename
//!   VOLUME/..2026_11_21_06_00_00.123456789/config             the files of one generation
//! ```
//!
//! The layout is upstream's. The steps of a write:
//!
//!  1. Check the paths. A bad one ends the write before anything is touched.
//!  2. Find the present generation through `..data`.
//!  3. Compare it with the payload. With the same names and contents, skip 5 to 8 and 11.
//!  4. Remove the leftovers of a killed write: `..data_tmp`, and generations that `..data` does not
//!     lead to. (Older generations stay while a container is being started, see `keep_old`.)
//!  5. Create the directory of a new generation.
//!  6. Write the files into it, each with its mode and owner.
//!  7. Give the volume to its group, if it has one.
//!  8. Create a link `..data_tmp` to the new generation and rename it to `..data`: the switch.
//!  9. Create links for new names. (After the switch, so that no link leads nowhere.)
//! 10. Remove the links of names that no longer exist.
//! 11. Remove the previous generation, unless it must be kept.
//!
//! A write that is killed between any two steps leaves the old or the new files visible. (During 9
//! and 10 a name that only one generation has may be missing, or lead nowhere.) The next write,
//! with the same payload or another, completes the work.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use super::error::SetUpError;
use super::payload::{self, Payload};
use crate::linux::fs::{WriteOptions, ensure_dir_with_mode, fill, holds};
use crate::linux::{ownership, walk};
use crate::model::Wall;

/// The link to the present generation.
const DATA: &str = "..data";
/// The link to a new generation, before it is renamed to [`DATA`].
const NEW_DATA: &str = "..data_tmp";
/// The names that are tried for a new generation, at most.
const NAMES: u32 = 1000;

/// The inputs of one write.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    /// The volume's directory; it exists.
    pub dir: &'a Path,
    /// The group that the volume is given to, if any.
    pub fs_group: Option<u32>,
    /// The time in the generation's name.
    pub now: Wall,
    /// Returns true if older generations must stay because a container that is being started may
    /// refer to them (subPath). It is asked when one is to be removed: a container whose start
    /// begins after the switch sees the new generation only.
    pub keep_old: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write")
            .field("dir", &self.dir)
            .field("fs_group", &self.fs_group)
            .finish_non_exhaustive()
    }
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// True if a new generation is visible; false if the files were up to date.
    pub changed: bool,
    /// True if an older generation is still there because a container is being started.
    pub kept_old: bool,
}

/// Writes the payload. It blocks.
pub fn write(write: &Write<'_>, payload: Payload) -> Result<Written, SetUpError> {
    write_stepwise(write, payload, &mut |_step| Ok(()))
}

/// Returns true if a volume that was found on disk is complete: it has a generation, and each of
/// its names is visible.
pub fn is_complete(dir: &Path) -> bool {
    let Ok(Some(generation)) = current(dir) else { return false };
    let Ok(entries) = walk::list(&dir.join(generation)) else { return false };
    entries.iter().all(|(name, _)| dir.join(name).symlink_metadata().is_ok())
}

/// Writes with a hook before each step, at which tests end the write.
pub(crate) fn write_stepwise(
    write: &Write<'_>,
    payload: Payload,
    before: &mut dyn FnMut(&'static str) -> io::Result<()>,
) -> Result<Written, SetUpError> {
    // 1
    let payload = payload::validated(payload)?;
    let dir = write.dir;

    let failed = |step: &'static str| SetUpError::io(step, dir);

    // 2
    let old = current(dir).map_err(failed("find the present files in"))?;
    // 3
    let changed = !old.as_ref().is_some_and(|old| is_same(&dir.join(old), &payload));

    // 4
    before("remove leftovers").map_err(failed("interrupt"))?;
    let mut kept_old =
        remove_leftovers(dir, old.as_deref(), write.keep_old).map_err(failed("clean up"))?;

    if changed {
        // 5
        before("make the generation").map_err(failed("interrupt"))?;
        let name = make_generation(dir, write.now).map_err(failed("make a generation in"))?;

        // 6
        for (path, file) in &payload {
            before("write a file").map_err(failed("interrupt"))?;
            let target = dir.join(&name).join(path);
            if let Some(parent) = target.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o777)
                    .create(parent)
                    .map_err(failed("make a directory in"))?;
            }

            let options = WriteOptions { mode: file.mode, uid: file.uid, gid: None, sync: false };
            fill(&target, &file.data, options).map_err(SetUpError::io("write", &target))?;
        }

        // 7
        before("give to the group").map_err(failed("interrupt"))?;
        if let Some(gid) = write.fs_group {
            ownership::give_small_tree_to_group(dir, gid, true)
                .map_err(failed("give to its group"))?;
        }

        // 8
        before("link the generation").map_err(failed("interrupt"))?;
        symlink(&name, dir.join(NEW_DATA)).map_err(failed("link the new files in"))?;
        before("switch").map_err(failed("interrupt"))?;
        std::fs::rename(dir.join(NEW_DATA), dir.join(DATA))
            .map_err(failed("switch to the new files in"))?;
    }

    // 9
    add_links(dir, &payload, before).map_err(failed("link the files in"))?;
    // 10
    remove_links(dir, &payload, before).map_err(failed("remove old links in"))?;
    if !changed {
        return Ok(Written { changed, kept_old });
    }

    // 11
    before("remove the old generation").map_err(failed("interrupt"))?;
    if let Some(old) = old {
        if (write.keep_old)() {
            kept_old = true;
        } else {
            walk::remove_tree(&dir.join(old)).map_err(failed("remove the old files in"))?;
        }
    }

    Ok(Written { changed, kept_old })
}

/// Returns the name of the generation that `..data` leads to; `None` if it leads to none.
fn current(dir: &Path) -> io::Result<Option<OsString>> {
    match std::fs::read_link(dir.join(DATA)) {
        Ok(target) => Ok(Some(target.into_os_string()).filter(|name| is_generation(name))),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns true for a name of the form `..YYYY_MM_DD_hh_mm_ss.N`.
fn is_generation(name: &OsStr) -> bool {
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("..")) else { return false };
    rest.starts_with(|c: char| c.is_ascii_digit())
        && rest.chars().all(|c| c.is_ascii_digit() || c == '_' || c == '.')
}

/// Returns true if the generation has exactly the names and contents of the payload.
fn is_same(generation: &Path, payload: &Payload) -> bool {
    let mut present = BTreeSet::new();
    if collect_files(generation, &mut PathBuf::new(), &mut present).is_err() {
        return false;
    }
    present.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            present.contains(Path::new(path)) && holds(&generation.join(path), &file.data)
        })
}

fn collect_files(
    base: &Path,
    relative: &mut PathBuf,
    files: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    for (name, is_dir) in walk::list(&base.join(&*relative))? {
        relative.push(name);
        if is_dir {
            collect_files(base, relative, files)?;
        } else {
            files.insert(relative.clone());
        }
        relative.pop();
    }
    Ok(())
}

/// Removes the leftovers of a killed write. Returns true if older generations were kept.
fn remove_leftovers(
    dir: &Path,
    current: Option<&OsStr>,
    keep_old: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let mut kept = false;
    for (name, _) in walk::list(dir)? {
        let is_old = is_generation(&name) && Some(name.as_os_str()) != current;
        if is_old && keep_old() {
            kept = true;
        } else if is_old || name == NEW_DATA {
            walk::remove_tree(&dir.join(name))?;
        }
    }

    Ok(kept)
}

/// Creates the directory of a new generation, under a name that is not taken.
fn make_generation(dir: &Path, now: Wall) -> io::Result<OsString> {
    let second = now.strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let first = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    for number in first..first.saturating_add(NAMES) {
        let name = format!("{second}.{number:09}");
        match std::fs::create_dir(dir.join(&name)) {
            Ok(()) => {
                ensure_dir_with_mode(&dir.join(&name), 0o755)?;
                return Ok(name.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }

    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for a generation is taken"))
}

/// Returns the first component of each path, with the owner of one of its files.
fn visible(payload: &Payload) -> impl Iterator<Item = (&str, Option<u32>)> {
    payload.iter().map(|(path, file)| (path.split('/').next().unwrap_or(path), file.uid))
}

/// Creates the links of the payload's names that are missing.
fn add_links(
    dir: &Path,
    payload: &Payload,
    before: &mut dyn FnMut(&'static str) -> io::Result<()>,
) -> io::Result<()> {
    for (name, owner) in visible(payload) {
        before("add a link")?;

        let link = dir.join(name);
        // The name may be taken by a directory for a mount inside this volume. It stays, as
        // upstream has it.
        if link.symlink_metadata().is_ok() {
            continue;
        }

        symlink(Path::new(DATA).join(name), &link)?;
        if owner.is_some() {
            lchown(&link, owner, None)?;
        }
    }
    Ok(())
}

/// Removes the links of names that the payload does not have.
fn remove_links(
    dir: &Path,
    payload: &Payload,
    before: &mut dyn FnMut(&'static str) -> io::Result<()>,
) -> io::Result<()> {
    let wanted: BTreeSet<&OsStr> = visible(payload).map(|(name, _)| OsStr::new(name)).collect();
    for (name, is_dir) in walk::list(dir)? {
        let path = dir.join(&name);
        let ours = !is_dir
            && !wanted.contains(name.as_os_str())
            && std::fs::read_link(&path).is_ok_and(|target| target == Path::new(DATA).join(&name));
        if ours {
            before("remove a link")?;
            std::fs::remove_file(&path)?;
        }
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use proptest::prelude::*;

    use super::{Write, Written, is_complete, write, write_stepwise};
    use crate::model::Wall;
    use crate::volumes::payload::{File, Payload};

    type Files = BTreeMap<String, String>;

    fn payload(files: &Files) -> Payload {
        let file = |text: &String| File { data: text.clone().into_bytes(), mode: 0o640, uid: None };
        files.iter().map(|(path, text)| (path.clone(), file(text))).collect()
    }

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    fn request(dir: &Path) -> Write<'_> {
        Write { dir, fs_group: None, now: Wall::UNIX_EPOCH, keep_old: &|| false }
    }

    /// Returns the container's view: every file that it can read through the visible names.
    fn seen(dir: &Path) -> Files {
        let mut found = Files::new();
        walk(dir, "", &mut found);
        found
    }

    fn walk(dir: &Path, prefix: &str, found: &mut Files) {
        for entry in std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable"))
        {
            let name = entry.file_name().into_string().expect("text");
            if prefix.is_empty() && name.starts_with("..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            match std::fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => {
                    walk(&entry.path(), &format!("{path}/"), found);
                }
                Ok(_) => {
                    drop(found.insert(path, std::fs::read_to_string(entry.path()).expect("text")));
                }
                Err(_) => {}
            }
        }
    }

    fn generations(dir: &Path) -> usize {
        let names = std::fs::read_dir(dir)
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name());
        names.filter(|name| super::is_generation(name)).count()
    }

    #[test]
    fn writes_updates_and_leaves_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = files(&[("a", "1"), ("dir/b", "2")]);
        assert!(write(&request(dir.path()), payload(&first)).expect("written").changed);
        assert_eq!(seen(dir.path()), first);
        assert_eq!(
            std::fs::metadata(dir.path().join("a")).expect("it exists").mode() & 0o7777,
            0o640
        );
        assert_eq!(
            std::fs::read_link(dir.path().join("dir")).expect("a link"),
            Path::new("..data/dir")
        );
        let data = std::fs::read_link(dir.path().join("..data")).expect("a link");
        assert_eq!(data, Path::new("..1970_01_01_00_00_00.000000000"));
        assert!(!write(&request(dir.path()), payload(&first)).expect("written").changed);
        let second = files(&[("a", "changed"), ("c", "3")]);
        assert!(write(&request(dir.path()), payload(&second)).expect("written").changed);
        assert_eq!(seen(dir.path()), second);
        assert_eq!(generations(dir.path()), 1);
        assert!(is_complete(dir.path()));
        std::fs::remove_file(dir.path().join("c")).expect("removed");
        assert!(!is_complete(dir.path()));
    }

    #[test]
    fn an_empty_payload_is_written_too() {
        let dir = tempfile::tempdir().expect("a directory");
        write(&request(dir.path()), Payload::new()).expect("written");
        assert!(dir.path().join("..data").is_dir() && is_complete(dir.path()));
    }

    #[test]
    fn old_files_stay_while_a_container_starts() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = Write { keep_old: &|| true, ..request(dir.path()) };
        for text in ["1", "2", "3"] {
            let written = write(&kept, payload(&files(&[("a", text)]))).expect("written");
            assert_eq!(written.kept_old, text != "1");
        }
        assert_eq!(generations(dir.path()), 3);
        let again = write(&request(dir.path()), payload(&files(&[("a", "3")]))).expect("written");
        assert_eq!(again, Written { changed: false, kept_old: false });
        assert_eq!(generations(dir.path()), 1);
        assert_eq!(seen(dir.path()), files(&[("a", "3")]));
    }

    #[test]
    fn a_start_that_begins_during_the_write_keeps_what_it_was_given() {
        let dir = tempfile::tempdir().expect("a directory");
        write(&request(dir.path()), payload(&files(&[("a", "1")]))).expect("written");
        let given = std::fs::read_link(dir.path().join("..data")).expect("a link");
        // The container binds the present generation after the write has begun: when the old one is
        // to be removed it is asked.
        let starting = std::cell::Cell::new(false);
        let keep_old = || starting.get();
        let request = Write { keep_old: &keep_old, ..request(dir.path()) };
        write_stepwise(&request, payload(&files(&[("a", "2")])), &mut |step| {
            starting.set(starting.get() || step == "switch");
            Ok(())
        })
        .expect("written");
        assert!(dir.path().join(given).join("a").exists());
    }

    #[test]
    fn what_others_made_in_the_volume_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("nested")).expect("made");
        std::os::unix::fs::symlink("/etc", dir.path().join("foreign")).expect("linked");
        write(&request(dir.path()), payload(&files(&[("nested", "1"), ("a", "1")])))
            .expect("written");
        write(&request(dir.path()), payload(&files(&[("b", "1")]))).expect("written");
        assert!(dir.path().join("nested").is_dir());
        assert_eq!(
            std::fs::read_link(dir.path().join("foreign")).expect("a link"),
            Path::new("/etc")
        );
    }

    #[test]
    fn bad_paths_touch_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        for path in ["../x", "/x", "..data", "a/../../x"] {
            assert!(
                write(&request(dir.path()), payload(&files(&[(path, "x")]))).is_err(),
                "{path}"
            );
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    /// Writes `to`, killed before its step number `kill`; says whether it was killed.
    fn killed_write(dir: &Path, to: &Files, kill: usize) -> bool {
        let mut step = 0;
        let ended = write_stepwise(&request(dir), payload(to), &mut |_| {
            step += 1;
            if step > kill { Err(io::Error::other("killed")) } else { Ok(()) }
        });
        ended.is_err()
    }

    fn arbitrary_files() -> impl Strategy<Value = Files> {
        proptest::collection::btree_map("[ab]", "[xy]?", 0..3).prop_flat_map(|flat| {
            proptest::collection::btree_map("[cd]/[ab]", "[xy]?", 0..3)
                .prop_map(move |deep| flat.clone().into_iter().chain(deep).collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn killed_anywhere_it_shows_old_or_new_and_recovers(
            old in arbitrary_files(),
            new in arbitrary_files(),
            then in arbitrary_files(),
        ) {
            for kill in 0.. {
                let dir = tempfile::tempdir().expect("a directory");
                write(&request(dir.path()), payload(&old)).expect("written");
                let killed = killed_write(dir.path(), &new, kill);
                for (path, text) in seen(dir.path()) {
                    let from = |files: &Files| files.get(&path) == Some(&text);
                    prop_assert!(from(&old) || from(&new), "{path} shows {text:?} at step {kill}");
                }
                // Contents never mix: the visible generation is all old or all new.
                let data = seen(&dir.path().join("..data"));
                prop_assert!(data == old || data == new, "{data:?}");
                write(&request(dir.path()), payload(&then)).expect("written after the kill");
                prop_assert_eq!(&seen(dir.path()), &then);
                prop_assert_eq!(generations(dir.path()), 1);
                prop_assert!(!dir.path().join("..data_tmp").exists());
                if !killed {
                    break;
                }
            }
        }
    }
}
