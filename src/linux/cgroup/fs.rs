//! One tree of cgroups: the same path in every hierarchy.
//!
//! Paths are given as the part below the mount points, with a leading `/`. Settings are written one
//! after the other; the first that fails ends it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::hugetlb::HugeTlbController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::HYBRID;
use super::{CgroupError, HugePages, Layout, Settings};

/// The controllers that pods need on v2, as far as the kernel has them.
const V2_WANTED: [&str; 5] = ["cpu", "cpuset", "hugetlb", "memory", "pids"];
/// The controllers without which a v1 cgroup does not count as existing.
const V1_WANTED: [&str; 7] = ["cpu", "cpuacct", "cpuset", "hugetlb", "memory", "pids", "systemd"];
/// "No limit" for huge pages: upstream's number.
const HUGE_PAGES_UNLIMITED: i64 = 1 << 62;
/// Where the kernel says which sizes of huge pages it has.
const HUGE_PAGE_SIZES: &str = "/sys/kernel/mm/hugepages";

/// A tree of cgroups. Cheap enough to make; share it in an `Arc`.
#[derive(Clone, Debug)]
pub struct CgroupFs {
    layout: Layout,
    huge_page_sizes: Vec<i64>,
}

impl CgroupFs {
    /// The tree of this machine. Blocks.
    pub fn detect() -> Result<Self, CgroupError> {
        Ok(Self::new(Layout::detect()?, huge_page_sizes(Path::new(HUGE_PAGE_SIZES))))
    }

    /// A tree with this layout, on a machine with these sizes of huge pages (bytes).
    pub fn new(layout: Layout, huge_page_sizes: Vec<i64>) -> Self {
        Self { layout, huge_page_sizes }
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether the cgroup is there, in every hierarchy that matters and with the controllers that
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
                for (_, mount) in
                    mounts.iter().filter(|(controller, _)| V1_WANTED.contains(&controller.as_str()))
                {
                    let directory = below(mount, path)?;
                    std::fs::metadata(&directory)
                        .map_err(|source| CgroupError::Read { path: directory, source })?;
                }
                Ok(())
            }
        }
    }

    /// Makes the cgroup and what is missing between it and `top`, then sets it. Making what exists
    /// is no error.
    pub fn create(&self, top: &str, path: &str, settings: &Settings) -> Result<(), CgroupError> {
        match &self.layout {
            Layout::V2(root) => Self::create_v2(root, top, path)?,
            Layout::V1(mounts) => {
                // Beside v1 nothing is set in v2, and it may not be writable: there only what
                // others made is removed.
                for mount in
                    self.layout.mounts().into_iter().filter(|mount| *mount != Path::new(HYBRID))
                {
                    let first = below(mount, top)?;
                    let cpuset = mounts.get("cpuset").is_some_and(|own| own == mount);
                    for directory in steps(&first, &below(mount, path)?) {
                        make(&directory)?;
                        if cpuset {
                            inherit_cpuset(&directory)?;
                        }
                    }
                }
            }
        }
        self.update(path, settings)
    }

    /// Writes the settings of an existing cgroup.
    pub fn update(&self, path: &str, settings: &Settings) -> Result<(), CgroupError> {
        self.update_cpu(path, settings)?;
        if let Some(limit) = settings.memory.filter(|limit| *limit != 0)
            && let Some(directory) = self.directory("memory", path)?
        {
            let memory = MemController::new(directory.clone(), directory.clone(), self.is_v2());
            written(memory.set_limit(limit), &directory, &format!("memory limit {limit}"))?;
        }
        if let Some(limit) = settings.pids
            && let Some(directory) = self.directory("pids", path)?
        {
            let max = if limit > 0 { MaxValue::Value(limit) } else { MaxValue::Max };
            let pids = PidController::new(directory.clone(), directory.clone(), self.is_v2());
            written(pids.set_pid_max(max), &directory, &format!("process limit {limit}"))?;
        }
        if let Some(cpus) = &settings.cpus
            && let Some(directory) = self.directory("cpuset", path)?
        {
            let cpuset = CpuSetController::new(directory.clone(), directory.clone(), self.is_v2());
            written(cpuset.set_cpus(cpus), &directory, cpus)?;
        }
        self.update_huge_pages(path, settings)
    }

    /// Whether there is anything of the cgroup in any hierarchy.
    pub fn exists(&self, path: &str) -> bool {
        self.layout
            .mounts()
            .into_iter()
            .any(|mount| below(mount, path).is_ok_and(|directory| directory.exists()))
    }

    /// The directories right below the cgroup, of all hierarchies. None when the cgroup is not
    /// there.
    pub fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for mount in self.layout.mounts() {
            for child in directories(&below(mount, path)?)? {
                names.extend(child.file_name().and_then(|name| name.to_str()).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// Kills every process in the cgroup and below. Answers how many were told to end; zero means
    /// that none is left. Processes may live on for a moment, and may have forked meanwhile: ask
    /// again until it answers zero.
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

    /// Removes the cgroup and everything below it, once, in every hierarchy: what can be removed
    /// is, and the first failure is told. Removing what is not there is no error.
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

    fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2(_))
    }

    /// The directory of the cgroup in a controller's hierarchy; none when the kernel has no such
    /// controller.
    fn directory(&self, controller: &str, path: &str) -> Result<Option<PathBuf>, CgroupError> {
        match &self.layout {
            Layout::V2(root) => below(root, path).map(Some),
            Layout::V1(mounts) => {
                mounts.get(controller).map(|mount| below(mount, path)).transpose()
            }
        }
    }

    fn wanted_v2(root: &Path) -> Result<BTreeSet<&'static str>, CgroupError> {
        let has = controllers(root)?;
        Ok(V2_WANTED.into_iter().filter(|wanted| has.contains(*wanted)).collect())
    }

    /// A cgroup has the controllers that its parent passes on, so each step enables them in the
    /// step above first.
    fn create_v2(root: &Path, top: &str, path: &str) -> Result<(), CgroupError> {
        let wanted = Self::wanted_v2(root)?;
        let first = below(root, top)?;
        let mut parent = first.clone();
        for directory in steps(&first, &below(root, path)?) {
            if directory != first {
                enable(&parent, &wanted)?;
            }
            make(&directory)?;
            parent = directory;
        }
        Ok(())
    }

    fn update_cpu(&self, path: &str, settings: &Settings) -> Result<(), CgroupError> {
        let Some(directory) = self.directory("cpu", path)? else { return Ok(()) };
        let cpu = CpuController::new(directory.clone(), directory.clone(), self.is_v2());
        if let Some(shares) = settings.cpu_shares {
            let value = if self.is_v2() { cpu_weight(shares) } else { shares };
            written(cpu.set_shares(value), &directory, &format!("cpu shares {shares}"))?;
        }
        let quota = settings.cpu_quota.filter(|quota| *quota != 0);
        if self.is_v2() {
            if quota.is_some() || settings.cpu_period.is_some() {
                let quota = quota
                    .filter(|quota| *quota > 0)
                    .map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                let period = settings.cpu_period.unwrap_or(100_000);
                write_file(&directory.join("cpu.max"), &format!("{quota} {period}"))?;
            }
            return Ok(());
        }
        // A period that is too short for the old quota is refused until the new quota is there: try
        // it before and after.
        let early = settings
            .cpu_period
            .map(|period| written(cpu.set_cfs_period(period), &directory, "cpu period"));
        if let Some(quota) = quota {
            written(cpu.set_cfs_quota(quota), &directory, &format!("cpu quota {quota}"))?;
            if let (Some(Err(_)), Some(period)) = (&early, settings.cpu_period) {
                return written(
                    cpu.set_cfs_period(period),
                    &directory,
                    &format!("cpu period {period}"),
                );
            }
            return Ok(());
        }
        early.unwrap_or(Ok(()))
    }

    fn update_huge_pages(&self, path: &str, settings: &Settings) -> Result<(), CgroupError> {
        let (Some(limits), Some(directory)) =
            (&settings.huge_pages, self.directory("hugetlb", path)?)
        else {
            return Ok(());
        };
        if let Layout::V2(root) = &self.layout
            && !Self::wanted_v2(root)?.contains("hugetlb")
        {
            return Ok(());
        }
        let controller = HugeTlbController::new(directory.clone(), directory.clone(), self.is_v2());
        for size in &self.huge_page_sizes {
            let limit = match limits {
                HugePages::Unlimited => HUGE_PAGES_UNLIMITED,
                HugePages::Limits(limits) => limits.get(size).copied().unwrap_or_default(),
            };
            let name = size_name(*size);
            let limit = u64::try_from(limit).unwrap_or_default();
            written(
                controller.set_limit_in_bytes(&name, limit),
                &directory,
                &format!("hugetlb {name} {limit}"),
            )?;
            // Reservations count too where the kernel can tell them apart.
            let reserved = if self.is_v2() { "rsvd.max" } else { "rsvd.limit_in_bytes" };
            let file = directory.join(format!("hugetlb.{name}.{reserved}"));
            if file.exists() {
                write_file(&file, &limit.to_string())?;
            }
        }
        Ok(())
    }
}

/// The weight (1 to 10000) on cgroup v2 for the shares (2 to 262144) of v1, linear as upstream's
/// kubelet has it.
pub fn cpu_weight(shares: u64) -> u64 {
    if shares >= 262_144 { 10_000 } else { 1 + shares.saturating_sub(2) * 9999 / 262_142 }
}

/// Joins a path to a root and makes sure that it stays there.
fn below(root: &Path, path: &str) -> Result<PathBuf, CgroupError> {
    let relative = Path::new(path.trim_start_matches('/'));
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        Ok(if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(relative) })
    } else {
        Err(CgroupError::BadPath { path: path.to_owned() })
    }
}

/// The directories from `first` (left out) down to `last`.
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

/// A new v1 cpuset has neither CPUs nor memory nodes, and nothing can run in it: it gets its
/// parent's.
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

/// Passes controllers on to children: those that are not passed on yet, one at a time, so that one
/// which is refused does not take the others with it.
fn enable(directory: &Path, wanted: &BTreeSet<&'static str>) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.subtree_control");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let enabled: BTreeSet<&str> = text.split_whitespace().collect();
    let mut outcome = Ok(());
    for controller in wanted.iter().filter(|controller| !enabled.contains(**controller)) {
        outcome = outcome.and(write_file(&file, &format!("+{controller}")));
    }
    outcome
}

fn collect_pids(directory: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.procs");
    match std::fs::read_to_string(&path) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
        // Gone, or a threaded cgroup whose processes its parent lists.
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
        source: Box::new(source),
    })
}

fn written(
    outcome: cgroups_rs::fs::error::Result<()>,
    directory: &Path,
    value: &str,
) -> Result<(), CgroupError> {
    outcome.map_err(|error| CgroupError::Write {
        path: directory.to_owned(),
        value: value.to_owned(),
        source: Box::new(error),
    })
}

/// The kernel's name of a size: `2MB`, `1GB`, `64KB`.
fn size_name(bytes: i64) -> String {
    for (shift, suffix) in [(30, "GB"), (20, "MB"), (10, "KB")] {
        if bytes % (1 << shift) == 0 {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// `hugepages-2048kB` and its siblings.
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

    use super::{CgroupFs, HugePages, Layout, Settings, huge_page_sizes, size_name};

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

    fn settings() -> Settings {
        Settings {
            cpu_shares: Some(1024),
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            memory: Some(4096),
            pids: Some(7),
            huge_pages: Some(HugePages::Limits(BTreeMap::new())),
            cpus: None,
        }
    }

    #[test]
    fn makes_and_sets_on_v1() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/kubepods/burstable/pod1", &settings()).expect("created");
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
        fs.create("/", "/kubepods/pod1", &settings()).expect("created");
        let at = |file: &str| root.path().join(file);
        // Plain files keep the last write only; the kernel adds each to the set.
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
        let none = Settings {
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(-1),
            ..Settings::default()
        };
        fs.create("/", "/a", &none).expect("created");
        check(&root.path().join("a/cpu.max"), "max 100000");
        check(&root.path().join("a/memory.max"), "max");
    }

    #[test]
    fn removes_the_whole_tree_and_nothing_else() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        for path in ["/kubepods/pod1/c1", "/kubepods/pod1/c2", "/kubepods/pod2"] {
            fs.create("/", path, &Settings::default()).expect("created");
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
        assert!(fs.create("/", "/../x", &Settings::default()).is_err());
        assert!(fs.kill("/../x").is_err());
    }

    #[test]
    fn a_failure_names_the_cgroup_and_keeps_its_cause() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        let error = fs.update("/nowhere", &settings()).expect_err("there is no such cgroup");
        assert!(error.to_string().contains("/cpu/nowhere"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn an_empty_cgroup_has_nobody_to_kill() {
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/a/b", &Settings::default()).expect("created");
        put(&root.path().join("memory/a/b/cgroup.procs"), "");
        assert_eq!(fs.kill("/a").expect("read"), 0);
        assert_eq!(fs.kill("/gone").expect("read"), 0);
    }

    #[test]
    fn kills_every_process_below() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("a process");
        let root = tempfile::tempdir().expect("a directory");
        let fs = v1(root.path());
        fs.create("/", "/a/b", &Settings::default()).expect("created");
        put(&root.path().join("memory/a/b/cgroup.procs"), &format!("{}\n", child.id()));
        assert_eq!(fs.kill("/a").expect("killed"), 1);
        let status = child.wait().expect("it has ended");
        assert!(!status.success());
    }

    #[test]
    fn sizes_of_huge_pages() {
        assert_eq!(
            (size_name(2 << 20), size_name(1 << 30), size_name(64 << 10)),
            ("2MB".into(), "1GB".into(), "64KB".into())
        );
        let root = tempfile::tempdir().expect("a directory");
        for name in ["hugepages-2048kB", "hugepages-1048576kB", "other"] {
            std::fs::create_dir(root.path().join(name)).expect("made");
        }
        assert_eq!(huge_page_sizes(root.path()), [2 << 20, 1 << 30]);
    }
}
