//! Reads and writes one tree of cgroups: the same path in every hierarchy.
//!
//! Paths are given as the part below the mount points, with a leading `/`. A value that the kernel
//! refuses does not keep the others from being written: the first failure is reported at the end.
//! (Upstream's library stops at the first one, and leaves the rest without a limit.)
//!
//! Fed by `resources`, through slices or directly. It knows no pods and computes no limits.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::debug;

use super::layout::HYBRID;
use super::values::{self, Refusal, Value};
use super::{CgroupError, CgroupSettings, Errno, Layout};

/// The controllers that pods need on v2, if the kernel has them.
const V2_WANTED: [&str; 5] = ["cpu", "cpuset", "hugetlb", "memory", "pids"];
/// The controllers without which a v1 cgroup does not count as existing.
const V1_WANTED: [&str; 7] = ["cpu", "cpuacct", "cpuset", "hugetlb", "memory", "pids", "systemd"];
/// The directory in which the kernel lists its sizes of huge pages.
const HUGE_PAGE_SIZES: &str = "/sys/kernel/mm/hugepages";

/// A tree of cgroups. Cheap to create; share it in an `Arc`.
#[derive(Clone, Debug)]
pub struct CgroupFs {
    layout: Layout,
    huge_page_sizes: Vec<i64>,
}

impl CgroupFs {
    /// Returns the tree of this machine. It blocks.
    pub fn detect() -> Result<Self, CgroupError> {
        Ok(Self::new(Layout::detect()?, huge_page_sizes(Path::new(HUGE_PAGE_SIZES))))
    }

    /// Returns a tree with this layout, on a machine with these sizes of huge pages (bytes).
    pub fn new(layout: Layout, huge_page_sizes: Vec<i64>) -> Self {
        Self { layout, huge_page_sizes }
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Checks that the cgroup exists, in every hierarchy that matters and with the controllers that
    /// it needs.
    pub fn validate(&self, path: &str) -> Result<(), CgroupError> {
        match &self.layout {
            Layout::V2(root) => {
                let directory = below(root, path)?;
                let has = controllers(&directory)?;
                let missing: Vec<&str> = Self::wanted_v2(root)?
                    .into_iter()
                    .filter(|wanted| !has.contains(*wanted))
                    .collect();

                if missing.is_empty() {
                    Ok(())
                } else {
                    Err(CgroupError::MissingControllers {
                        path: directory,
                        missing: missing.join(", "),
                    })
                }
            }
            Layout::V1(mounts) => {
                let wanted = |controller: &str| V1_WANTED.contains(&controller);
                let mut missing = BTreeSet::new();

                for (_, mount) in mounts.iter().filter(|(controller, _)| wanted(controller)) {
                    let directory = below(mount, path)?;
                    if std::fs::metadata(&directory).is_err() {
                        missing.insert(directory.display().to_string());
                    }
                }

                if missing.is_empty() {
                    return Ok(());
                }

                let missing = Vec::from_iter(missing).join(", ");
                Err(CgroupError::MissingPaths { path: PathBuf::from(path), missing })
            }
        }
    }

    /// Creates the cgroup and its missing ancestors up to `top`. An existing cgroup is no error.
    ///
    /// On v2 a controller that a parent cannot pass on is left out, as upstream does: only its
    /// limits fail, when they are written.
    pub fn create(&self, top: &str, path: &str) -> Result<(), CgroupError> {
        let mounts = match &self.layout {
            Layout::V2(root) => return Self::create_v2(root, top, path),
            Layout::V1(mounts) => mounts,
        };

        // Beside v1 nothing is set in v2, and it may not be writable: only cgroups that others made
        // are removed there.
        for mount in self.layout.mounts().into_iter().filter(|mount| *mount != Path::new(HYBRID)) {
            let first = below(mount, top)?;
            let cpuset = mounts.get("cpuset").is_some_and(|own| own == mount);
            for directory in steps(&first, &below(mount, path)?) {
                make(&directory)?;
                if cpuset {
                    inherit_cpuset(&directory)?;
                }
            }
        }

        Ok(())
    }

    /// Writes the settings of an existing cgroup: all that the kernel accepts. The first refusal is
    /// the error.
    pub fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
        let values = match &self.layout {
            Layout::V1(_) => values::v1(settings, &self.huge_page_sizes),
            Layout::V2(_) => values::v2(settings, &self.huge_page_sizes),
        };
        let mut outcome = Ok(());
        let mut later = Vec::new();

        for value in values {
            let Some(directory) = self.directory(value.controller, path)? else { continue };
            let file = directory.join(&value.file);
            if value.refusal == Refusal::Optional && !file.exists() {
                continue;
            }
            match write_value(&file, &value) {
                Err(_) if value.refusal == Refusal::Later => later.push((file, value)),
                written => outcome = outcome.and(written),
            }
        }

        for (file, value) in later {
            outcome = outcome.and(write_value(&file, &value));
        }

        outcome
    }

    /// Returns true if the cgroup exists in any hierarchy.
    pub fn exists(&self, path: &str) -> bool {
        self.layout
            .mounts()
            .into_iter()
            .any(|mount| below(mount, path).is_ok_and(|directory| directory.exists()))
    }

    /// Returns the cgroup's children in all hierarchies; none if the cgroup does not exist.
    pub fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for mount in self.layout.mounts() {
            for child in directories(&below(mount, path)?)? {
                names.extend(child.file_name().and_then(|name| name.to_str()).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// Kills every process in the cgroup and below. Returns how many were killed; zero means that
    /// none is left. Processes may live on for a moment, and may have forked meanwhile: call again
    /// until the answer is zero.
    pub fn kill(&self, path: &str) -> Result<usize, CgroupError> {
        let mut pids = BTreeSet::new();
        for mount in self.layout.mounts() {
            collect_pids(&below(mount, path)?, &mut pids)?;
        }

        if pids.is_empty() {
            return Ok(0);
        }

        if let Layout::V2(root) = &self.layout {
            let file = below(root, path)?.join("cgroup.kill");
            if file.exists() && write_file(&file, "1").is_ok() {
                return Ok(pids.len());
            }
        }

        let own = i32::try_from(std::process::id()).unwrap_or_default();
        for pid in pids.iter().copied().filter(|pid| *pid > 1 && *pid != own) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(errno) => {
                    return Err(CgroupError::Kill {
                        pid,
                        path: PathBuf::from(path),
                        source: errno.into(),
                    });
                }
            }
        }

        Ok(pids.len())
    }

    /// Removes the cgroup and everything below it, once, in every hierarchy. It goes on after a
    /// failure and returns the first one. A missing cgroup is no error.
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let mut outcome = Ok(());
        for mount in self.layout.mounts() {
            let directory = below(mount, path)?;
            if directory == mount {
                return Err(CgroupError::BadPath { path: path.to_owned() });
            }
            if mount == Path::new(HYBRID) && !directory.exists() {
                continue;
            }
            outcome = outcome.and(remove_tree(&directory));
        }

        outcome
    }

    /// Returns the cgroup's directory in a controller's hierarchy; `None` if the kernel has no such
    /// controller.
    fn directory(&self, controller: &str, path: &str) -> Result<Option<PathBuf>, CgroupError> {
        match &self.layout {
            Layout::V2(root) => {
                // A kernel may be built without hugetlb; the others are always there.
                let absent = controller == "hugetlb" && !controllers(root)?.contains(controller);
                let directory = below(root, path)?;
                Ok((!absent).then_some(directory))
            }
            Layout::V1(mounts) => {
                mounts.get(controller).map(|mount| below(mount, path)).transpose()
            }
        }
    }

    fn wanted_v2(root: &Path) -> Result<BTreeSet<&'static str>, CgroupError> {
        let has = controllers(root)?;
        Ok(V2_WANTED.into_iter().filter(|wanted| has.contains(*wanted)).collect())
    }

    /// Creates a cgroup on v2. A cgroup has the controllers that its parent passes on, so each step
    /// first enables all that the kernel has in the step above, as upstream does.
    fn create_v2(root: &Path, top: &str, path: &str) -> Result<(), CgroupError> {
        let known = controllers(root)?;
        let first = below(root, top)?;
        let mut parent = first.clone();
        for directory in steps(&first, &below(root, path)?) {
            enable(&parent, &known);
            make(&directory)?;
            parent = directory;
        }
        Ok(())
    }
}

/// Joins a path to a root and checks that it stays beneath.
fn below(root: &Path, path: &str) -> Result<PathBuf, CgroupError> {
    let relative = Path::new(path.trim_start_matches('/'));
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(relative) })
    } else {
        Err(CgroupError::BadPath { path: path.to_owned() })
    }
}

/// Returns the directories from `first` (left out) down to `last`.
fn steps(first: &Path, last: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = last
        .ancestors()
        .take_while(|step| *step != first && step.starts_with(first))
        .map(Path::to_owned)
        .collect();
    found.reverse();
    found
}

fn make(directory: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::Create { path: directory.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Gives a new v1 cpuset the CPUs and memory nodes of its parent: without them nothing can run in
/// it.
fn inherit_cpuset(directory: &Path) -> Result<(), CgroupError> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        let current = std::fs::read_to_string(&own).unwrap_or_default();
        if current.trim().is_empty() {
            let path = parent.join(file);
            let inherited = std::fs::read_to_string(&path)
                .map_err(|source| CgroupError::Read { path, source })?;
            write_file(&own, inherited.trim())?;
        }
    }

    Ok(())
}

fn controllers(directory: &Path) -> Result<BTreeSet<String>, CgroupError> {
    let path = directory.join("cgroup.controllers");
    let text =
        std::fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Passes controllers on to children: those that are not passed on yet, one at a time, so that a
/// refused one does not take the others with it. A refused controller is noticed by its limits
/// only.
fn enable(directory: &Path, known: &BTreeSet<String>) {
    let file = directory.join("cgroup.subtree_control");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let enabled: BTreeSet<&str> = text.split_whitespace().collect();
    for controller in known.iter().filter(|controller| !enabled.contains(controller.as_str())) {
        if let Err(error) = write_file(&file, &format!("+{controller}")) {
            debug!(%error, controller, "a controller is not passed on");
        }
    }
}

fn collect_pids(directory: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.procs");
    match std::fs::read_to_string(&path) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
        // The cgroup is gone, or a threaded one whose processes its parent lists.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(source) => return Err(CgroupError::Read { path, source }),
    }

    for child in directories(directory)? {
        collect_pids(&child, pids)?;
    }

    Ok(())
}

fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    match std::fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }

    let mut outcome = Ok(());
    for child in directories(directory)? {
        outcome = outcome.and(remove_tree(&child));
    }

    outcome?;
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CgroupError::Remove { path: directory.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn directories(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let fail = |source| CgroupError::Read { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();

    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }

    Ok(found)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a kernel file takes one write in place; there is nothing to rename"
)]
fn write_file(path: &Path, value: &str) -> Result<(), CgroupError> {
    std::fs::write(path, value).map_err(|source| CgroupError::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source: Errno(source),
    })
}

/// Writes a value. v1 refuses a limit of memory below the memory in use as busy: the error then
/// says how much is used, in upstream's words.
fn write_value(file: &Path, value: &Value) -> Result<(), CgroupError> {
    let outcome = write_file(file, &value.text);
    let is_busy = |error: &CgroupError| {
        matches!(error, CgroupError::Write { source, .. }
            if source.0.raw_os_error() == Some(libc::EBUSY))
    };

    match outcome {
        Err(error) if value.file == "memory.limit_in_bytes" && is_busy(&error) => {
            let read = |name: &str| {
                let text = std::fs::read_to_string(file.with_file_name(name)).unwrap_or_default();
                text.trim().parse::<u64>().unwrap_or_default()
            };
            Err(CgroupError::MemoryInUse {
                limit: value.text.clone(),
                usage: read("memory.usage_in_bytes"),
                peak: read("memory.max_usage_in_bytes"),
            })
        }
        outcome => outcome,
    }
}

/// Reads the sizes from names like `hugepages-2048kB`.
fn huge_page_sizes(directory: &Path) -> Vec<i64> {
    let names = directories(directory).unwrap_or_default();
    let mut sizes: Vec<i64> = names
        .iter()
        .filter_map(|path| {
            path.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .map(|kilobytes: i64| kilobytes << 10)
        .collect();
    sizes.sort_unstable();

    sizes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::HugePages;
    use super::{CgroupFs, CgroupSettings, Layout, huge_page_sizes};

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        super::write_file(path, text).expect("written");
    }

    #[track_caller]
    fn check(path: &Path, expected: &str) {
        assert_eq!(std::fs::read_to_string(path).expect("readable"), expected, "{path:?}");
    }

    /// Plain files stand in the way of `rmdir` outside the kernel's own file system.
    fn drop_files(directory: &Path) {
        for entry in std::fs::read_dir(directory).expect("readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                drop_files(&path);
            } else {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }

    fn v1(root: &Path) -> CgroupFs {
        let mounts: BTreeMap<_, _> = [
            ("cpu", "cpu"),
            ("cpuacct", "cpu"),
            ("cpuset", "cpuset"),
            ("memory", "memory"),
            ("pids", "pids"),
            ("hugetlb", "hugetlb"),
        ]
        .into_iter()
        .map(|(controller, directory)| (controller.to_owned(), root.join(directory)))
        .collect();
        for mount in mounts.values() {
            std::fs::create_dir_all(mount).expect("made");
        }
        put(&root.join("cpuset/cpuset.cpus"), "0-1\n");
        put(&root.join("cpuset/cpuset.mems"), "0\n");
        CgroupFs::new(Layout::V1(mounts), vec![2 << 20])
    }

    fn v2(root: &Path) -> CgroupFs {
        put(&root.join("cgroup.controllers"), "cpuset cpu io memory pids\n");
        CgroupFs::new(Layout::V2(root.to_owned()), vec![2 << 20])
    }

    fn settings() -> CgroupSettings {
        CgroupSettings {
            cpu_shares: Some(1024),
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            memory: Some(4096),
            pids: Some(7),
            huge_pages: Some(HugePages::Limits(BTreeMap::new())),
            cpus: None,
        }
    }

    #[track_caller]
    fn make(fs: &CgroupFs, path: &str, settings: &CgroupSettings) {
        fs.create("/", path).expect("created");
        fs.update(path, settings).expect("set");
    }

    #[test]
    fn makes_and_sets_on_v1() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        make(&fs, "/kubepods/burstable/pod1", &settings());
        let at = |file: &str| root.path().join(file);
        check(&at("cpu/kubepods/burstable/pod1/cpu.shares"), "1024");
        check(&at("cpu/kubepods/burstable/pod1/cpu.cfs_quota_us"), "20000");
        check(&at("cpu/kubepods/burstable/pod1/cpu.cfs_period_us"), "100000");
        check(&at("memory/kubepods/burstable/pod1/memory.limit_in_bytes"), "4096");
        check(&at("pids/kubepods/burstable/pod1/pids.max"), "7");
        check(&at("hugetlb/kubepods/burstable/pod1/hugetlb.2MB.limit_in_bytes"), "0");
        check(&at("cpuset/kubepods/cpuset.cpus"), "0-1");
        check(&at("cpuset/kubepods/burstable/pod1/cpuset.mems"), "0");
        assert!(fs.validate("/kubepods/burstable/pod1").is_ok());
        assert!(fs.validate("/kubepods/burstable/pod2").is_err());
        assert_eq!(
            fs.children("/kubepods/burstable").expect("read").into_iter().collect::<Vec<_>>(),
            ["pod1"]
        );
    }

    #[test]
    fn makes_and_sets_on_v2() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v2(root.path());
        make(&fs, "/kubepods/pod1", &settings());
        let at = |file: &str| root.path().join(file);
        // Plain files keep the last write only; the kernel adds each to the set. Of the controllers
        // all are passed on, `io` too.
        check(&at("cgroup.subtree_control"), "+pids");
        check(&at("kubepods/cgroup.subtree_control"), "+pids");
        assert!(!at("kubepods/pod1/cgroup.subtree_control").exists());
        check(&at("kubepods/pod1/cpu.weight"), "39");
        check(&at("kubepods/pod1/cpu.max"), "20000 100000");
        check(&at("kubepods/pod1/memory.max"), "4096");
        check(&at("kubepods/pod1/pids.max"), "7");
        assert!(!at("kubepods/pod1/hugetlb.2MB.max").exists(), "the kernel has no hugetlb here");
        assert!(fs.validate("/kubepods/pod1").is_err(), "no cgroup.controllers there");
        put(&at("kubepods/pod1/cgroup.controllers"), "cpuset cpu memory pids");
        assert!(fs.validate("/kubepods/pod1").is_ok());
    }

    #[test]
    fn no_quota_is_max_on_v2() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v2(root.path());
        let none = CgroupSettings {
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(-1),
            ..CgroupSettings::default()
        };
        make(&fs, "/a", &none);
        check(&root.path().join("a/cpu.max"), "max 100000");
        check(&root.path().join("a/memory.max"), "max");
    }

    /// Puts a directory in place of a file, so that a write to it is refused.
    fn refuse(path: &Path) {
        std::fs::create_dir_all(path).expect("made");
    }

    #[test]
    fn a_value_that_is_refused_does_not_keep_the_others_from_being_written() {
        for version in [1, 2] {
            let root = tempfile::tempdir().expect("a directory");
            let fs = if version == 1 { v1(root.path()) } else { v2(root.path()) };
            fs.create("/", "/a").expect("created");
            let own = |controller: &str, file: &str| match version {
                1 => root.path().join(controller).join("a").join(file),
                _ => root.path().join("a").join(file),
            };
            refuse(&own("pids", "pids.max"));
            let error = fs.update("/a", &settings()).expect_err("pids.max is refused");
            assert!(error.to_string().contains("pids.max"), "{error}");
            let (memory, cpu) = match version {
                1 => (own("memory", "memory.limit_in_bytes"), own("cpu", "cpu.shares")),
                _ => (own("memory", "memory.max"), own("cpu", "cpu.max")),
            };
            check(&memory, "4096");
            assert!(cpu.exists(), "{cpu:?}");
        }
    }

    #[test]
    fn a_controller_that_is_not_passed_on_does_not_keep_a_cgroup_from_being_made() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v2(root.path());
        refuse(&root.path().join("cgroup.subtree_control"));
        fs.create("/", "/kubepods/pod1").expect("created all the same");
        check(&root.path().join("kubepods/cgroup.subtree_control"), "+pids");
    }

    #[test]
    fn a_period_that_is_refused_is_tried_again_after_the_quota() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/a").expect("created");
        refuse(&root.path().join("cpu/a/cpu.cfs_period_us"));
        let error = fs.update("/a", &settings()).expect_err("it is refused again");
        assert!(error.to_string().contains("cpu.cfs_period_us"), "{error}");
        check(&root.path().join("cpu/a/cpu.cfs_quota_us"), "20000");
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/a").expect("created");
        std::fs::remove_dir_all(root.path().join("pids/a")).expect("removed");
        let missing = fs.validate("/a").expect_err("one is missing").to_string();
        let path = root.path().join("pids/a");
        assert_eq!(missing, format!("cgroup \"/a\" has some missing paths: {}", path.display()));
    }

    #[test]
    fn removes_the_whole_tree_and_nothing_else() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        for path in ["/kubepods/pod1/c1", "/kubepods/pod1/c2", "/kubepods/pod2"] {
            fs.create("/", path).expect("created");
        }
        drop_files(root.path());
        fs.remove("/kubepods/pod1").expect("removed");
        fs.remove("/kubepods/pod1").expect("removing twice is no error");
        assert_eq!(
            fs.children("/kubepods").expect("read").into_iter().collect::<Vec<_>>(),
            ["pod2"]
        );
    }

    #[test]
    fn stays_below_the_root() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        for path in ["/..", "/a/../../b", "/"] {
            assert!(fs.remove(path).is_err(), "{path}");
        }
        assert!(fs.create("/", "/../x").is_err());
        assert!(fs.kill("/../x").is_err());
    }

    #[test]
    fn a_failure_names_the_cgroup_and_keeps_its_cause() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        let error = fs.update("/nowhere", &settings()).expect_err("there is no such cgroup");
        let path = root.path().join("memory/nowhere/memory.limit_in_bytes");
        let path = path.display();
        assert_eq!(
            crate::model::error_chain(&error),
            format!("failed to write \"4096\": write {path}: no such file or directory"),
            "upstream's words"
        );
    }

    #[test]
    fn an_empty_cgroup_has_nobody_to_kill() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/a/b").expect("created");
        put(&root.path().join("memory/a/b/cgroup.procs"), "");
        assert_eq!(fs.kill("/a").expect("read"), 0);
        assert_eq!(fs.kill("/gone").expect("read"), 0);
    }

    #[test]
    fn kills_every_process_below() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("a process");
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/a/b").expect("created");
        put(&root.path().join("memory/a/b/cgroup.procs"), &format!("{}\n", child.id()));
        assert_eq!(fs.kill("/a").expect("killed"), 1);
        let status = child.wait().expect("it has ended");
        assert!(!status.success());
    }

    #[test]
    fn sizes_of_huge_pages() {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["hugepages-2048kB", "hugepages-1048576kB", "other"] {
            std::fs::create_dir(root.path().join(name)).expect("made");
        }
        assert_eq!(huge_page_sizes(root.path()), [2 << 20, 1 << 30]);
    }
}
