//! The laws of subPath: whatever tree a container has made of its volume, and however it changes
//! meanwhile, what is opened, made or bound lies in the volume; and what can be reached without
//! leaving it is reached.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, fstat};

use super::Choices;
use super::surroundings::{self, Picture};
use crate::linux::beneath::Root;
use crate::linux::fs::write_atomic;
use crate::linux::{mount, walk};
use crate::model::PodUid;
use crate::volumes::mounter::fake::FakeMounter;
use crate::volumes::mounter::{KernelMounter, Mounter};
use crate::volumes::{Paths, SubPath, subpath};

/// How often a path is tried while the tree changes.
const TRIES: usize = 60;
/// Components of paths; few, so that links lead to something.
const NAMES: [&str; 14] = [
    "a", "b", "c", "d", "file", "pipe", "secret", "outside", "volume", "mounted", "..", ".", "",
    "self",
];
/// Where links lead to; `VOLUME` and `OUTSIDE` stand for the absolute paths.
const TARGETS: [&str; 24] = [
    "a",
    "b/a",
    "c/b/a",
    "../a",
    "../../a",
    "..",
    "../..",
    ".",
    "../outside",
    "../outside/secret",
    "../../outside/file",
    "../volume/a",
    "a/../../volume/b",
    "a/../b",
    "VOLUME/a",
    "VOLUME",
    "OUTSIDE",
    "OUTSIDE/secret/a",
    "/",
    "nowhere",
    "../outside/new",
    "/proc/self/cwd",
    "/proc/self/root",
    "/proc/self/fd/0",
];

/// Resolves, makes and binds paths of a hostile tree; with mounts in it, too, when root runs this.
pub fn check(input: &[u8], scratch: &Path) {
    let mut choices = Choices::new(input);
    if choices.one_in(4) && nix::unistd::geteuid().is_root() {
        in_own_mounts(|| with_mounts(choices, scratch));
    } else {
        without_mounts(choices, scratch);
    }
}

fn without_mounts(mut choices: Choices<'_>, scratch: &Path) {
    let tree = Tree::plant(&mut choices, scratch);
    for _ in 0..=choices.below(6) {
        let path = tree.arbitrary_path(&mut choices);
        tree.resolves_as_by_name(&path);
        if choices.one_in(2) {
            tree.makes_only_inside(&path, 0o700 | u32::from(choices.byte()));
        }
        tree.prepares(&mut choices, &FakeMounter::default(), &path);
    }
    if choices.one_in(4) {
        tree.withstands_changes(&mut choices);
    }
    tree.has_not_escaped();
}

struct Tree {
    scratch: PathBuf,
    /// Without links.
    volume: PathBuf,
    outside: PathBuf,
    beside: Picture,
    forbidden: BTreeSet<(u64, u64)>,
}

impl Tree {
    fn plant(choices: &mut Choices<'_>, scratch: &Path) -> Self {
        let scratch = std::fs::canonicalize(scratch).expect("it is there");
        let (volume, outside) = surroundings::prepare(&scratch);
        let mut dirs = vec![volume.clone()];
        for _ in 0..choices.below(16) {
            let dir = choices.pick(&dirs).clone();
            let place = dir.join(choices.pick(&NAMES[..7]));
            // What is there already stays: the first one wins.
            match choices.below(8) {
                0..3 => {
                    if std::fs::create_dir(&place).is_ok() {
                        dirs.push(place);
                    }
                }
                3 if place.symlink_metadata().is_err() => {
                    write_atomic(&place, "x", 0o600).expect("written");
                }
                4 => drop(nix::unistd::mkfifo(&place, Mode::S_IRWXU)),
                _ => {
                    let target =
                        choices.pick(&TARGETS).replace("VOLUME", &volume.display().to_string());
                    drop(symlink(
                        target.replace("OUTSIDE", &outside.display().to_string()),
                        &place,
                    ));
                }
            }
        }
        let beside = surroundings::picture(&outside);
        let mut forbidden: BTreeSet<_> = beside.values().map(|entry| entry.identity).collect();
        forbidden.extend([scratch.as_path(), Path::new("/")].map(identity));
        Self { scratch, volume, outside, beside, forbidden }
    }

    fn arbitrary_path(&self, choices: &mut Choices<'_>) -> PathBuf {
        let pool = if choices.one_in(4) { &NAMES[..] } else { &NAMES[..7] };
        let names: Vec<&str> = (0..=choices.below(4)).map(|_| *choices.pick(pool)).collect();
        let path = names.join("/");
        match choices.byte() {
            255 => self.volume.join(path),
            254 => self.outside.join(path),
            253 => PathBuf::from(format!("/{path}")),
            252 => PathBuf::from(choices.text(12)),
            _ => PathBuf::from(path),
        }
    }

    fn root(&self) -> Root {
        Root::open(&self.volume).expect("the volume is there")
    }

    /// What is open lies in the volume.
    fn is_inside(&self, opened: &OwnedFd) {
        let stat = fstat(opened).expect("a status");
        assert!(
            !self.forbidden.contains(&(stat.st_dev, stat.st_ino)),
            "something outside was opened"
        );
        let place =
            std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).expect("a link");
        assert!(place.starts_with(&self.volume), "{} was opened", place.display());
    }

    /// In a tree at rest: exactly what the path names if that lies inside, else an error.
    fn resolves_as_by_name(&self, path: &Path) {
        let found = self.root().resolve(path);
        if let Ok(opened) = &found {
            self.is_inside(opened);
        }
        let by_name = self.by_name(path);
        let limit = |error: &io::Error| error.raw_os_error() == Some(libc::ELOOP);
        // How many links are too many is counted in two ways.
        if found.as_ref().is_err_and(limit) || by_name.as_ref().is_err_and(limit) {
            return;
        }
        let (found, by_name) =
            (found.ok().map(|opened| of(&opened)), by_name.ok().map(|place| identity(&place)));
        assert_eq!(found, by_name, "{}", path.display());
    }

    /// The place that a path names, found by name; an error if there is none in the volume.
    fn by_name(&self, path: &Path) -> io::Result<PathBuf> {
        if path.is_absolute()
            || path.components().any(|component| component == Component::ParentDir)
        {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // Without a slash at its end, which would insist on a directory.
        let clean: PathBuf = path.components().collect();
        let place = std::fs::canonicalize(self.volume.join(clean))?;
        if place.starts_with(&self.volume) {
            Ok(place)
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    fn makes_only_inside(&self, path: &Path, mode: u32) {
        let Ok(last) = self.root().make_dirs(path, mode) else { return };
        self.is_inside(&last);
        assert_eq!(
            self.root().resolve(path).ok().map(|again| of(&again)),
            Some(of(&last)),
            "{}",
            path.display()
        );
    }

    /// Prepares the path as a subPath and cleans up. What is bound is what the path names.
    fn prepares<M: Mounter>(&self, choices: &mut Choices<'_>, mounter: &M, path: &Path) {
        let name = |choices: &mut Choices<'_>| {
            let pool = if choices.one_in(8) {
                &["..", "a/b", "", ".", "/", "../../x"][..]
            } else {
                &["v"][..]
            };
            (*choices.pick(pool)).to_owned()
        };
        let request = SubPath {
            uid: PodUid::from("u1"),
            volume: "v".to_owned(),
            directory: name(choices),
            volume_path: self.volume.clone(),
            sub_path: path.to_string_lossy().into_owned(),
            container: name(choices),
            index: choices.below(3),
        };
        let paths = Paths::new(self.scratch.join("kubelet"), self.scratch.join("logs"));
        if let Ok(target) = subpath::prepare(mounter, &paths, &request) {
            assert!(target.starts_with(paths.subpaths(&request.uid)), "{}", target.display());
            assert!(mounter.is_mount_point(&target).expect("it is there"));
            let bound = mounter.identity(&target).expect("it is there");
            assert!(
                !self.forbidden.contains(&bound),
                "something outside is bound to {}",
                target.display()
            );
            assert_eq!(
                bound,
                of(&self
                    .root()
                    .resolve(Path::new(&request.sub_path))
                    .expect("it was resolved before"))
            );
        }
        let in_volume = surroundings::picture(&self.volume);
        subpath::clean_up(mounter, &paths, &request.uid, None).expect("what was made is removed");
        assert!(!paths.subpaths(&request.uid).exists());
        assert_eq!(
            surroundings::picture(&self.volume),
            in_volume,
            "the clean-up changed the volume"
        );
    }

    /// A second thread swaps entries of the volume while paths are resolved.
    fn withstands_changes(&self, choices: &mut Choices<'_>) {
        let swaps: Vec<(PathBuf, PathBuf)> = (0..=choices.below(3))
            .map(|_| {
                (
                    self.volume.join(choices.pick(&NAMES[..7])),
                    self.volume.join(choices.pick(&NAMES[..7])),
                )
            })
            .collect();
        let paths: Vec<PathBuf> =
            (0..=choices.below(3)).map(|_| self.arbitrary_path(choices)).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let spare = self.volume.join("spare");
                while !done.load(Ordering::Relaxed) {
                    for (one, other) in &swaps {
                        drop(std::fs::rename(one, &spare));
                        drop(std::fs::rename(other, one));
                        drop(std::fs::rename(&spare, other));
                    }
                }
            });
            // The other thread ends even if this one breaks a law.
            let _end = EndOnDrop(&done);
            let root = self.root();
            let mounter = FakeMounter::default();
            for _ in 0..TRIES {
                for path in &paths {
                    if let Ok(opened) = root.resolve(path) {
                        self.is_inside(&opened);
                    }
                    if let Ok(made) = root.make_dirs(path, 0o700) {
                        self.is_inside(&made);
                    }
                    self.prepares_while_it_changes(&mounter, path);
                }
            }
        });
    }

    fn prepares_while_it_changes(&self, mounter: &FakeMounter, path: &Path) {
        let request = SubPath {
            uid: PodUid::from("u1"),
            volume: "v".to_owned(),
            directory: "v".to_owned(),
            volume_path: self.volume.clone(),
            sub_path: path.to_string_lossy().into_owned(),
            container: "app".to_owned(),
            index: 0,
        };
        let paths = Paths::new(self.scratch.join("kubelet"), self.scratch.join("logs"));
        if let Ok(target) = subpath::prepare(mounter, &paths, &request) {
            let what = mounter.mounts().remove(&target).expect("it is bound");
            let inside = format!("bind {}", self.volume.display());
            assert!(what.starts_with(&inside), "{what}");
        }
        subpath::clean_up(mounter, &paths, &request.uid, None).expect("what was made is removed");
    }

    fn has_not_escaped(&self) {
        assert_eq!(
            surroundings::picture(&self.outside),
            self.beside,
            "what lies beside the volume has changed"
        );
        let names: BTreeSet<_> = walk::list(&self.scratch)
            .expect("readable")
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let expected = ["kubelet", "outside", "volume"].map(Into::into);
        assert!(names.is_subset(&BTreeSet::from(expected)), "{names:?}");
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn of(opened: &OwnedFd) -> (u64, u64) {
    let stat = fstat(opened).expect("a status");
    (stat.st_dev, stat.st_ino)
}

fn identity(path: &Path) -> (u64, u64) {
    let metadata = path.metadata().expect("it is there");
    (metadata.dev(), metadata.ino())
}

/// Runs the case on a thread whose mounts nobody else sees; they go when it ends.
fn in_own_mounts(case: impl FnOnce() + Send) {
    let ended = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("root may");
            let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
                .expect("root may");
            case();
        });
        thread.join()
    });
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// The volume holds mounts of a directory that lies elsewhere, and of memory; both are the
/// container's own, and their links are as hostile as the volume's.
fn with_mounts(mut choices: Choices<'_>, scratch: &Path) {
    let theirs = scratch.join("theirs");
    std::fs::create_dir(&theirs).expect("made");
    write_atomic(&theirs.join("kept"), "kept", 0o600).expect("written");
    let tree = Tree::plant(&mut choices, scratch);
    for name in ["a", "b", "c"] {
        drop(symlink(choices.pick(&TARGETS), theirs.join(name)));
    }
    let mut mounts = 0;
    for _ in 0..=choices.below(3) {
        let (parent, name) = *choices.pick(&[("", "mounted"), ("", "a"), ("", "b"), ("a", "b")]);
        // Links would be followed by what is done here, out of the volume.
        let is_plain = |path: &Path| {
            std::fs::canonicalize(path).is_ok_and(|real| real == path && real.is_dir())
        };
        // Without a slash at the end.
        let parent: PathBuf = tree.volume.join(parent).components().collect();
        let place = parent.join(name);
        if is_plain(&parent) {
            drop(std::fs::create_dir(&place));
        }
        if is_plain(&place) {
            if choices.one_in(2) {
                mount::mount("tmpfs", &place, "tmpfs", MsFlags::empty(), "size=64k")
                    .expect("mounted");
            } else {
                mount::bind(&theirs, &place).expect("bound");
            }
            mounts += 1;
        }
    }
    for _ in 0..=choices.below(4) {
        let path = tree.arbitrary_path(&mut choices);
        if let Ok(opened) = tree.root().resolve(&path) {
            let found = of(&opened);
            assert!(!tree.forbidden.contains(&found), "{} leads out", path.display());
        }
        tree.prepares(&mut choices, &KernelMounter::detect(), &path);
    }
    let removed = walk::remove_tree(&tree.volume);
    let is_mounted = mounts > 0 && tree.volume.exists();
    assert!(removed.is_ok() || is_mounted, "{removed:?}");
    assert_eq!(
        std::fs::read_to_string(theirs.join("kept")).expect("a removal goes into no mount"),
        "kept"
    );
    assert_eq!(surroundings::picture(&tree.outside), tree.beside);
}
