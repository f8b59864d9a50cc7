//! The laws of the atomic writer: killed before any step, a reader sees the whole old or the whole
//! new content, the next write converges, and nothing beside the volume changes, whatever the
//! payload's paths and the volume's entries are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::Choices;
use super::surroundings::{self, Picture};
use crate::linux::fs::{WriteOptions, fill, write_atomic};
use crate::linux::walk;
use crate::model::Wall;
use crate::volumes::atomic_writer::{Write, Written, is_complete, write, write_stepwise};
use crate::volumes::payload::{File, Payload};

/// How many writes one history has before the last one.
const WRITES: usize = 4;
/// A kill beyond the last step is none.
const STEPS: usize = 40;
/// Components of paths: reserved ones, such as only look reserved, strange ones; two long ones are
/// made at their use.
const NAMES: [&str; 20] = [
    "a",
    "b",
    "c",
    "d",
    "..data",
    "..data_tmp",
    "..",
    ".",
    "",
    "...",
    "..x",
    ".hidden",
    "with space",
    "line\nfeed",
    "é",
    "nul\0",
    "..2026_01_01_00_00_00.000000001",
    "-rf",
    "LONG",
    "TOO LONG",
];
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4096;
/// The modes leave the owner the right to read: not every test is run by root.
const MODES: [u32; 5] = [0o644, 0o400, 0o777, 0o4755, 0o600];

/// Contents by path relative to the volume.
type Files = BTreeMap<String, Vec<u8>>;

/// Lets a volume live through a history of writes and kills.
pub fn check(input: &[u8], scratch: &Path) {
    let mut choices = Choices::new(input);
    let (volume, outside) = surroundings::prepare(scratch);
    let planted = choices.one_in(3).then(|| plant(&mut choices, &volume, &outside));
    let beside = surroundings::picture(&outside);
    let mut history =
        History { volume: &volume, is_clean: planted.is_none(), shown: None, seconds: 0 };
    for _ in 0..=choices.below(WRITES) {
        let payload = arbitrary_payload(&mut choices);
        if choices.one_in(4) {
            // Killed before the first step, then before the second, and so on, each over what the
            // one before has left.
            let mut kill = 0;
            while history.write(&mut choices, &payload, Some(kill)) {
                kill += 1;
            }
        } else {
            let kill = choices.below(STEPS);
            history.write(&mut choices, &payload, Some(kill));
        }
    }
    let last = arbitrary_payload(&mut choices);
    history.write(&mut choices, &last, None);
    assert_eq!(surroundings::picture(&outside), beside, "what lies beside the volume has changed");
    assert_eq!(
        names(scratch),
        BTreeSet::from(["outside".into(), "volume".into()]),
        "something was made beside it"
    );
    if let Some(planted) = planted {
        planted_is_left_alone(&planted, &surroundings::picture(&volume));
    }
}

struct History<'a> {
    volume: &'a Path,
    /// Whether only the writer has ever touched the volume.
    is_clean: bool,
    /// What readers see, if anything was ever written.
    shown: Option<Files>,
    seconds: i64,
}

/// What is to become of a payload in a volume that only the writer touches.
enum Expected {
    /// A path is bad: nothing may be touched.
    Refused,
    /// A path is both a file and a directory: readers must not see any of it.
    Impossible,
    /// These files.
    Files(Files),
}

impl History<'_> {
    /// Writes, killed before a step if the write has so many; says whether it was killed.
    fn write(&mut self, choices: &mut Choices<'_>, payload: &Payload, kill: Option<usize>) -> bool {
        // Clocks stand still and go back, too.
        self.seconds = (self.seconds + i64::try_from(choices.below(3)).unwrap_or(0) - 1).max(0);
        let keep = kill.is_some() && choices.one_in(3);
        let request = Write {
            dir: self.volume,
            fs_group: choices.one_in(3).then(|| nix::unistd::getgid().as_raw()),
            now: Wall::from_second(self.seconds).expect("near the epoch"),
            keep_old: &|| keep,
        };
        let expected = expected(payload);
        let before = surroundings::picture(self.volume);
        let (mut step, mut was_killed, mut switched) = (0, false, false);
        let ended = write_stepwise(&request, payload.clone(), &mut |name| {
            if self.is_clean {
                self.look(&expected, &mut switched, name);
            }
            was_killed = kill == Some(step);
            step += 1;
            if was_killed { Err(io::Error::other("killed")) } else { Ok(()) }
        });
        if was_killed {
            ended.expect_err("a killed write does not end well");
            tear(choices, self.volume);
        } else if self.is_clean {
            assert_eq!(
                ended.is_ok(),
                matches!(expected, Expected::Files(_)),
                "{:?}: {ended:?}",
                payload.keys()
            );
            match (ended, &expected) {
                (Ok(written), Expected::Files(files)) => {
                    self.has_converged(&request, payload, files, written);
                }
                (_, Expected::Refused) => {
                    assert_eq!(surroundings::picture(self.volume), before, "touched");
                }
                (_, Expected::Impossible | Expected::Files(_)) => {}
            }
        } else if let (Ok(_), Expected::Files(files)) = (ended, &expected) {
            assert_eq!(visible(self.volume).as_ref(), Some(files));
        }
        if self.is_clean {
            self.look(&expected, &mut switched, "the end");
            self.shown = visible(self.volume);
        }
        was_killed
    }

    /// What a reader of `..data` sees between two steps: all old, and once it was all new, no more
    /// the old.
    fn look(&self, expected: &Expected, switched: &mut bool, step: &str) {
        let seen = visible(self.volume);
        let new = match expected {
            Expected::Files(files) => Some(files),
            Expected::Refused | Expected::Impossible => None,
        };
        let is_new = seen.is_some() && seen.as_ref() == new;
        assert!(
            is_new || (!*switched && seen == self.shown),
            "before {step:?}: {seen:?} of {:?}",
            self.shown
        );
        *switched |= is_new;
        // The names that containers open lead to one of both, or nowhere.
        for name in names(self.volume)
            .iter()
            .filter_map(|name| name.to_str())
            .filter(|name| !name.starts_with(".."))
        {
            let Ok(content) = std::fs::read(self.volume.join(name)) else { continue };
            let is_known = |files: Option<&Files>| {
                files.is_some_and(|files| files.get(name) == Some(&content))
            };
            assert!(
                is_known(new) || is_known(self.shown.as_ref()),
                "before {step:?}: {name} shows {content:?}"
            );
        }
    }

    fn has_converged(
        &self,
        request: &Write<'_>,
        payload: &Payload,
        files: &Files,
        written: Written,
    ) {
        assert_eq!(visible(self.volume).as_ref(), Some(files));
        assert_eq!(written.changed, self.shown.as_ref() != Some(files));
        for (path, content) in files {
            assert_eq!(
                std::fs::read(self.volume.join(path)).ok().as_ref(),
                Some(content),
                "{path:?}"
            );
        }
        if written.changed && request.fs_group.is_none() {
            // Of two ways to write one path the last one counts, as for the content.
            let modes: BTreeMap<String, u32> =
                payload.iter().map(|(path, file)| (clean(path), file.mode)).collect();
            for (path, mode) in modes {
                let found =
                    self.volume.join(&path).metadata().expect("it is there").mode() & 0o7777;
                assert_eq!(found, mode, "{path:?}");
            }
        }
        let (reserved, others): (Vec<_>, Vec<_>) = names(self.volume)
            .into_iter()
            .partition(|name| name.to_string_lossy().starts_with(".."));
        let wanted: BTreeSet<OsString> =
            files.keys().filter_map(|path| path.split('/').next()).map(Into::into).collect();
        assert_eq!(others.into_iter().collect::<BTreeSet<_>>(), wanted);
        // `..data` and the generations.
        assert!(
            reserved.contains(&"..data".into()) && !reserved.contains(&"..data_tmp".into()),
            "{reserved:?}"
        );
        assert_eq!(reserved.len() > 2, written.kept_old, "{reserved:?}");
        assert!((request.keep_old)() || !written.kept_old);
        assert!(is_complete(self.volume));
        let again = write(request, payload.clone()).expect("it was written before");
        assert!(!again.changed && again.kept_old == written.kept_old);
    }
}

/// What a kill in the middle of a step leaves: files of generations that nobody sees are short or
/// missing.
fn tear(choices: &mut Choices<'_>, volume: &Path) {
    let current = std::fs::read_link(volume.join("..data")).unwrap_or_default();
    for (name, is_dir) in walk::list(volume).expect("readable") {
        if !is_dir
            || !name.to_string_lossy().starts_with("..2")
                && !name.to_string_lossy().starts_with("..1")
        {
            continue;
        }
        if Path::new(&name) == current {
            continue;
        }
        for (file, is_dir) in walk::list(&volume.join(&name)).expect("readable") {
            let path = volume.join(&name).join(file);
            let how = choices.below(4);
            if how > 1 {
                walk::remove_tree(&path).expect("removed");
            }
            if how == 3 && !is_dir {
                fill(&path, b"torn", WriteOptions::mode(0o600)).expect("written");
            }
        }
    }
}

/// What readers of `..data` see: every file below it.
fn visible(volume: &Path) -> Option<Files> {
    let mut files = Files::new();
    read_below(&volume.join("..data"), "", &mut files).ok()?;
    Some(files)
}

fn read_below(dir: &Path, prefix: &str, files: &mut Files) -> io::Result<()> {
    for (name, is_dir) in walk::list(dir)? {
        let path = format!("{prefix}{}", name.to_string_lossy());
        if is_dir {
            read_below(&dir.join(name), &format!("{path}/"), files)?;
        } else {
            files.insert(path, std::fs::read(dir.join(name))?);
        }
    }
    Ok(())
}

fn names(dir: &Path) -> BTreeSet<OsString> {
    walk::list(dir).expect("readable").into_iter().map(|(name, _)| name).collect()
}

fn arbitrary_payload(choices: &mut Choices<'_>) -> Payload {
    let mut payload = Payload::new();
    for _ in 0..choices.below(5) {
        let content = choices.bytes(3).to_vec();
        let data = if choices.one_in(8) { content.repeat(3000) } else { content };
        let uid = choices.one_in(4).then(|| nix::unistd::getuid().as_raw());
        payload.insert(arbitrary_path(choices), File { data, mode: *choices.pick(&MODES), uid });
    }
    payload
}

fn arbitrary_path(choices: &mut Choices<'_>) -> String {
    // Mostly plain ones: one bad path spoils the whole payload.
    let pool = if choices.one_in(6) { &NAMES[..] } else { &NAMES[..4] };
    let components: Vec<String> = (0..=choices.below(3))
        .map(|_| match *choices.pick(pool) {
            "LONG" => "x".repeat(LONGEST_NAME),
            "TOO LONG" => "x".repeat(LONGEST_NAME + 1),
            name => name.to_owned(),
        })
        .collect();
    let path = components.join("/");
    match choices.byte() {
        255 => format!("/{path}"),
        254 => format!("{path}/"),
        253 => "a/".repeat(LONGEST_PATH / 2 + 1),
        252 => choices.text(12),
        _ => path,
    }
}

/// By upstream's rules, told once more.
fn expected(payload: &Payload) -> Expected {
    let mut files = Files::new();
    for (path, file) in payload {
        let clean = clean(path);
        let is_good = !clean.is_empty()
            && !path.starts_with('/')
            && !clean.starts_with("..")
            && path.len() <= LONGEST_PATH
            && !path.contains('\0')
            && path.split('/').all(|name| name != ".." && name.len() <= LONGEST_NAME);
        if !is_good {
            return Expected::Refused;
        }
        files.insert(clean, file.data.clone());
    }
    let is_dir_too =
        |path: &String| files.keys().any(|other| other.starts_with(&format!("{path}/")));
    if files.keys().any(is_dir_too) { Expected::Impossible } else { Expected::Files(files) }
}

fn clean(path: &str) -> String {
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    names.join("/")
}

/// Puts entries into the volume that the writer did not make, and answers the picture of them.
fn plant(choices: &mut Choices<'_>, volume: &Path, outside: &Path) -> Picture {
    const PLACES: [&str; 8] = [
        "a",
        "b",
        "c",
        "..data",
        "..data_tmp",
        "..2026_01_01_00_00_00.1",
        "..1970_01_01_00_00_00.000000000",
        "foreign",
    ];
    let targets: [PathBuf; 8] = [
        outside.to_owned(),
        "../outside".into(),
        "../outside/file".into(),
        "..2026_01_01_00_00_00.1".into(),
        "..data/a".into(),
        ".".into(),
        "..".into(),
        "nowhere".into(),
    ];
    for _ in 0..=choices.below(5) {
        let place = volume.join(choices.pick(&PLACES));
        match choices.below(4) {
            0 => drop(std::fs::create_dir(&place)),
            1 => drop(write_atomic(&place, "foreign", 0o600)),
            2 if std::fs::create_dir(&place).is_ok() => {
                drop(symlink(choices.pick(&targets), place.join("a")));
                drop(std::fs::create_dir(place.join("b")));
            }
            _ => drop(symlink(choices.pick(&targets), &place)),
        }
    }
    surroundings::picture(volume)
}

/// Entries with names of their own stay, except links that look as if the writer had made them.
fn planted_is_left_alone(planted: &Picture, now: &Picture) {
    for (path, entry) in planted {
        let Some(first) = path.to_str().filter(|path| !path.is_empty() && !path.starts_with(".."))
        else {
            continue;
        };
        if entry.content == format!("..data/{first}").as_bytes() {
            continue;
        }
        let found = now.get(path).map(|entry| (entry.identity, &entry.content));
        assert_eq!(found, Some((entry.identity, &entry.content)), "{first}");
    }
}
