//! Reads cgroups: which there are, and what their files say. Both versions.
//!
//! Fed by the task of this room, on blocking threads. A file that is missing is a controller that
//! is not there; a cgroup that disappears while it is read is left out.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::parse::{self, DeviceCount, IoTables};
use super::sample::{
    CpuSample, IoSample, MemoryLimits, MemorySample, PidsSample, ProcessDetails, Sample,
};
use crate::linux::cgroup::Layout;
use crate::model::{Now, Wall};
use crate::stats::usage::{Network, Psi};

/// Levels below a root that are looked at; the deepest pods' are four.
const DEEPEST: usize = 12;
/// Cgroups that are read at most: a pod that makes cgroups of its own must not stop the reading.
const MOST: usize = 20_000;
/// Bytes of one file that are read at most.
const LARGEST_FILE: u64 = 1 << 20;
/// Ticks of `cpuacct.stat` per second, a constant of Linux.
const NANOS_PER_TICK: u64 = 10_000_000;

/// Reads cgroups. It keeps one buffer for all files.
#[derive(Debug)]
pub(in crate::stats) struct Reader<'a> {
    layout: &'a Layout,
    proc: &'a Path,
    buffer: String,
}

impl<'a> Reader<'a> {
    /// Returns a reader of this layout, with processes below `proc`.
    pub(in crate::stats) fn new(layout: &'a Layout, proc: &'a Path) -> Self {
        Self { layout, proc, buffer: String::new() }
    }

    /// Lists the cgroups `roots` and everything below them, and the top. Those that do not exist
    /// are left out.
    pub(in crate::stats) fn list(&self, roots: &[String]) -> BTreeSet<String> {
        let mut found = BTreeSet::from(["/".to_owned()]);
        for root in roots.iter().filter(|root| *root != "/") {
            for mount in self.trees() {
                if below(mount, root).is_dir() {
                    found.insert(root.clone());
                    list_below(mount, root, DEEPEST, &mut found);
                }
            }
        }
        found
    }

    /// The hierarchies that cgroups are looked for in: one, or those of the processor and memory.
    fn trees(&self) -> Vec<&'a Path> {
        match self.layout {
            Layout::V2(root) => vec![root],
            Layout::V1(mounts) => {
                let wanted = ["cpu", "memory"];
                let mut trees: Vec<&Path> = wanted
                    .iter()
                    .filter_map(|name| mounts.get(*name))
                    .map(PathBuf::as_path)
                    .collect();
                trees.dedup();
                trees
            }
        }
    }

    /// Returns a controller's directory of a cgroup.
    fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        match self.layout {
            Layout::V2(root) => Some(below(root, path)),
            Layout::V1(mounts) => Some(below(mounts.get(controller)?, path)),
        }
    }

    /// Reads one cgroup; `None` if it is gone.
    pub(in crate::stats) fn read(&mut self, path: &str, now: Now) -> Option<Sample> {
        let is_v2 = matches!(self.layout, Layout::V2(_));
        let controllers: &[&str] =
            if is_v2 { &["cpu"] } else { &["cpu", "cpuacct", "memory", "pids", "blkio"] };
        let directories: Vec<PathBuf> =
            controllers.iter().filter_map(|controller| self.directory(controller, path)).collect();
        let created = self.created(&directories)?;
        let (cpu, memory, io) = if is_v2 {
            (self.cpu_v2(path), self.memory_v2(path), self.io_v2(path))
        } else {
            (self.cpu_v1(path), self.memory_v1(path), self.io_v1(path))
        };
        let pids = self.pids(path);
        Some(Sample { at: now.wall, mono: now.mono, created, cpu, memory, io, pids })
    }

    /// The earliest time that the cgroup's directories, and files that are not written to, were
    /// modified at.
    fn created(&self, directories: &[PathBuf]) -> Option<Wall> {
        let untouched = match self.layout {
            Layout::V1(_) => "cgroup.clone_children",
            Layout::V2(_) => "cgroup.events",
        };
        let times = directories.iter().flat_map(|directory| {
            let paths = [directory.clone(), directory.join(untouched)];
            paths.map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
        });
        Wall::try_from(times.flatten().min()?).ok()
    }

    /// Reads a file; `None` if it cannot be read.
    fn text(&mut self, directory: &Path, file: &str) -> Option<&str> {
        self.buffer.clear();
        let file = std::fs::File::open(directory.join(file)).ok()?;
        file.take(LARGEST_FILE).read_to_string(&mut self.buffer).ok()?;
        Some(&self.buffer)
    }

    fn number(&mut self, directory: &Path, file: &str) -> Option<u64> {
        parse::number(self.text(directory, file)?)
    }

    fn psi(&mut self, directory: &Path, file: &str) -> Option<Psi> {
        self.text(directory, file).map(parse::psi)
    }

    /// Reads one line of a file of names and numbers; zero if there is none.
    fn count(&mut self, directory: &Path, file: &str, name: &str) -> u64 {
        let pairs = self.text(directory, file).map(parse::pairs);
        let found = pairs.into_iter().flatten().find(|(found, _)| *found == name);
        found.map(|(_, value)| value).unwrap_or_default()
    }

    fn cpu_v1(&mut self, path: &str) -> Option<CpuSample> {
        let directory = self.directory("cpu", path)?;
        let shares = self.number(&directory, "cpu.shares");
        let mut cpu = CpuSample {
            shares: shares.unwrap_or_default(),
            period: self.number(&directory, "cpu.cfs_period_us").unwrap_or_default(),
            quota: self.number(&directory, "cpu.cfs_quota_us").unwrap_or_default(),
            ..CpuSample::default()
        };
        for (name, value) in self.text(&directory, "cpu.stat").map(parse::pairs)? {
            match name {
                "nr_periods" => cpu.periods = value,
                "nr_throttled" => cpu.throttled_periods = value,
                "throttled_time" => cpu.throttled = value,
                _ => {}
            }
        }

        let accounts = self.directory("cpuacct", path)?;
        cpu.total = self.number(&accounts, "cpuacct.usage")?;
        for (name, ticks) in self.text(&accounts, "cpuacct.stat").map(parse::pairs)? {
            match name {
                "user" => cpu.user = ticks.saturating_mul(NANOS_PER_TICK),
                "system" => cpu.system = ticks.saturating_mul(NANOS_PER_TICK),
                _ => {}
            }
        }
        Some(cpu)
    }

    fn cpu_v2(&mut self, path: &str) -> Option<CpuSample> {
        const NANOS_PER_MICRO: u64 = 1000;
        let directory = self.directory("cpu", path)?;
        let mut cpu = CpuSample::default();
        for (name, value) in self.text(&directory, "cpu.stat").map(parse::pairs)? {
            let nanos = value.saturating_mul(NANOS_PER_MICRO);
            match name {
                "usage_usec" => cpu.total = nanos,
                "user_usec" => cpu.user = nanos,
                "system_usec" => cpu.system = nanos,
                "nr_periods" => cpu.periods = value,
                "nr_throttled" => cpu.throttled_periods = value,
                "throttled_usec" => cpu.throttled = nanos,
                "nr_bursts" => cpu.burst_periods = value,
                "burst_usec" => cpu.burst = nanos,
                _ => {}
            }
        }
        if let Some(weight) = self.number(&directory, "cpu.weight") {
            cpu.shares = shares_of(weight);
        }
        if let Some((quota, period)) =
            self.text(&directory, "cpu.max").and_then(|text| text.trim().split_once(' '))
        {
            cpu.quota = quota.parse().unwrap_or_default();
            cpu.period = period.parse().unwrap_or_default();
        }
        cpu.psi = self.psi(&directory, "cpu.pressure");
        Some(cpu)
    }

    fn memory_v1(&mut self, path: &str) -> Option<MemorySample> {
        let directory = self.directory("memory", path)?;
        let mut memory = MemorySample {
            usage: self.number(&directory, "memory.usage_in_bytes")?,
            max_usage: self.number(&directory, "memory.max_usage_in_bytes").unwrap_or_default(),
            failures: self.number(&directory, "memory.failcnt").unwrap_or_default(),
            kernel: self.number(&directory, "memory.kmem.usage_in_bytes").unwrap_or_default(),
            oom_kills: self.count(&directory, "memory.oom_control", "oom_kill"),
            limits: MemoryLimits {
                memory: self.number(&directory, "memory.limit_in_bytes")?,
                swap: self.number(&directory, "memory.memsw.limit_in_bytes").unwrap_or_default(),
                reserved: self.number(&directory, "memory.soft_limit_in_bytes").unwrap_or_default(),
            },
            ..MemorySample::default()
        };
        for (name, value) in self.text(&directory, "memory.stat").map(parse::pairs)? {
            match name {
                "total_cache" => memory.cache = value,
                "total_rss" => memory.rss = value,
                "total_swap" => memory.swap = value,
                "total_mapped_file" => memory.mapped_file = value,
                "total_active_file" => memory.active_file = value,
                "total_inactive_file" => memory.inactive_file = value,
                // Of the cgroup itself, as upstream has them.
                "pgfault" => memory.page_faults = value,
                "pgmajfault" => memory.major_page_faults = value,
                _ => {}
            }
        }
        Some(memory)
    }

    fn memory_v2(&mut self, path: &str) -> Option<MemorySample> {
        let directory = self.directory("memory", path)?;
        let mut memory = MemorySample::default();
        for (name, value) in self.text(&directory, "memory.stat").map(parse::pairs)? {
            match name {
                "file" => memory.cache = value,
                "anon" => memory.rss = value,
                "file_mapped" => memory.mapped_file = value,
                "active_file" => memory.active_file = value,
                "inactive_file" => memory.inactive_file = value,
                "pgfault" => memory.page_faults = value,
                "pgmajfault" => memory.major_page_faults = value,
                _ => {}
            }
        }
        memory.psi = self.psi(&directory, "memory.pressure");
        memory.oom_kills = self.count(&directory, "memory.events.local", "oom_kill");

        if let Some(usage) = self.number(&directory, "memory.current") {
            memory.usage = usage;
            memory.max_usage = self.number(&directory, "memory.peak").unwrap_or_default();
            memory.limits.memory = self.number(&directory, "memory.max")?;
            memory.limits.reserved = self.number(&directory, "memory.min").unwrap_or_default();
            memory.swap = self.number(&directory, "memory.swap.current").unwrap_or_default();
            memory.limits.swap = self.number(&directory, "memory.swap.max").unwrap_or_default();
        } else {
            // The top has no such files: in use is what v1 counts there.
            memory.usage = memory.rss.saturating_add(memory.cache);
            memory.limits.memory = u64::MAX;
            memory.limits.swap = u64::MAX;
        }
        Some(memory)
    }

    fn io_v1(&mut self, path: &str) -> Option<IoSample> {
        const PREFIXES: [&str; 4] = ["blkio.bfq", "blkio", "blkio.throttle", ""];
        let directory = self.directory("blkio", path)?;
        if !directory.is_dir() {
            return None;
        }

        // The first of the schedulers' files that says anything is taken, as upstream does.
        for prefix in PREFIXES {
            let (bytes, operations) = if prefix.is_empty() {
                (
                    "blkio.throttle.io_service_bytes".to_owned(),
                    "blkio.throttle.io_serviced".to_owned(),
                )
            } else {
                (
                    format!("{prefix}.io_service_bytes_recursive"),
                    format!("{prefix}.io_serviced_recursive"),
                )
            };
            let operations = self.counts(&directory, &operations);
            if operations.is_empty() {
                continue;
            }
            let bytes = self.counts(&directory, &bytes);
            let tables = IoTables { bytes, operations, ..IoTables::default() };
            return Some(IoSample { tables, psi: None });
        }
        Some(IoSample::default())
    }

    fn counts(&mut self, directory: &Path, file: &str) -> Vec<DeviceCount> {
        self.text(directory, file).map(parse::device_counts).unwrap_or_default()
    }

    fn io_v2(&mut self, path: &str) -> Option<IoSample> {
        let directory = self.directory("io", path)?;
        let tables = self.text(&directory, "io.stat").map(parse::io_stat).unwrap_or_default();
        Some(IoSample { tables, psi: self.psi(&directory, "io.pressure") })
    }

    fn pids(&mut self, path: &str) -> PidsSample {
        let mut pids = PidsSample::default();
        if let Some(directory) = self.directory("pids", path) {
            pids.threads = self.number(&directory, "pids.current").unwrap_or_default();
            let limit = self.number(&directory, "pids.max").unwrap_or_default();
            pids.limit = if limit == u64::MAX { 0 } else { limit };
        }
        let processes = self.processes(path);
        pids.first = processes.first().copied();
        pids.processes = processes.len() as u64;
        pids
    }

    /// The processes of the cgroup itself.
    fn processes(&mut self, path: &str) -> Vec<i32> {
        let Some(directory) = self.directory("cpu", path) else { return Vec::new() };
        let text = self.text(&directory, "cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Reads the details of a cgroup's processes. The limit is that of `main`, or of none.
    pub(in crate::stats) fn details(&mut self, path: &str, main: Option<i32>) -> ProcessDetails {
        let mut details = ProcessDetails::default();
        for pid in self.processes(path) {
            let folder = self.proc.join(pid.to_string()).join("fd");
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                details.descriptors += 1;
                let target = std::fs::read_link(entry.path()).unwrap_or_default();
                details.sockets +=
                    u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket"));
            }
        }
        let folder = main.map(|pid| self.proc.join(pid.to_string()));
        details.open_files =
            folder.and_then(|folder| parse::open_files_limit(self.text(&folder, "limits")?));
        details
    }

    /// Reads the traffic of a process' network namespace.
    pub(in crate::stats) fn network(&mut self, pid: i32, at: Wall) -> Option<Network> {
        let folder = self.proc.join(pid.to_string()).join("net");
        let interfaces = parse::interfaces(self.text(&folder, "dev")?);
        Some(Network { at, interfaces })
    }
}

/// Converts a weight of cgroup v2 (1 to 10000) to shares of v1, as cAdvisor does.
fn shares_of(weight: u64) -> u64 {
    if (1..=10_000).contains(&weight) { 2 + ((weight - 1) * 262_142) / 9_999 } else { 0 }
}

/// The directory of a cgroup below a mount point.
fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn list_below(mount: &Path, path: &str, depth: usize, found: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    for entry in std::fs::read_dir(below(mount, path)).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = entry.file_name().into_string().ok().filter(|_| is_dir) else { continue };
        if found.len() >= MOST {
            return;
        }
        let child = format!("{}/{name}", path.trim_end_matches('/'));
        list_below(mount, &child, depth - 1, found);
        found.insert(child);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::{Reader, shares_of};
    use crate::linux::cgroup::Layout;
    use crate::linux::fs::write_atomic;
    use crate::model::{Mono, Now, Wall};

    const NOW: Now = Now { mono: Mono(std::time::Duration::ZERO), wall: Wall::UNIX_EPOCH };

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            write_atomic(&path, text, 0o600).expect("written");
        }
    }

    #[test]
    fn a_cgroup_of_version_2() {
        let dir = tempfile::tempdir().expect("a directory");
        write(
            dir.path(),
            &[
                ("pods/a/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\n"),
                ("pods/a/cpu.max", "20000 100000\n"),
                ("pods/a/cpu.weight", "39\n"),
                ("pods/a/cpu.pressure", "some avg10=1.00 avg60=0.00 avg300=0.00 total=4\n"),
                ("pods/a/memory.stat", "anon 10\nfile 20\ninactive_file 7\npgfault 3\n"),
                ("pods/a/memory.current", "40\n"),
                ("pods/a/memory.max", "max\n"),
                ("pods/a/memory.swap.current", "6\n"),
                ("pods/a/memory.swap.max", "0\n"),
                ("pods/a/pids.current", "4\n"),
                ("pods/a/pids.max", "max\n"),
                ("pods/a/cgroup.procs", "12\n13\n"),
                ("pods/a/io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n"),
                ("memory.stat", "anon 100\nfile 50\ninactive_file 30\n"),
                ("proc/12/net/dev", "a\nb\n eth0: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"),
            ],
        );
        let layout = Layout::V2(dir.path().to_owned());
        let proc = dir.path().join("proc");
        let mut reader = Reader::new(&layout, &proc);
        let listed = reader.list(&["/pods".to_owned(), "/absent".to_owned()]);
        assert_eq!(Vec::from_iter(&listed), ["/", "/pods", "/pods/a"]);

        let sample = reader.read("/pods/a", NOW).expect("it is there");
        let cpu = sample.cpu.expect("processors");
        assert_eq!((cpu.total, cpu.user, cpu.quota, cpu.period), (5000, 3000, 20_000, 100_000));
        assert_eq!(cpu.shares, 998);
        assert_eq!(cpu.psi.expect("pressure").some.total, 4);
        let memory = sample.memory.expect("memory");
        assert_eq!((memory.usage, memory.working_set(), memory.swap), (40, 33, 6));
        assert_eq!((memory.limits.memory, memory.limits.swap), (u64::MAX, 0));
        assert_eq!((sample.pids.threads, sample.pids.limit, sample.pids.processes), (4, 0, 2));
        assert_eq!(sample.pids.first, Some(12));
        assert_eq!(sample.io.expect("devices").tables.bytes.len(), 2);
        let network = reader.network(12, Wall::UNIX_EPOCH).expect("a namespace");
        assert_eq!(network.interfaces[0].name, "eth0");

        let top = reader.read("/", NOW).expect("the top").memory.expect("memory");
        assert_eq!((top.usage, top.working_set(), top.limits.memory), (150, 120, u64::MAX));
        assert!(reader.read("/gone", NOW).is_none());
    }

    #[test]
    fn a_cgroup_of_version_1() {
        let dir = tempfile::tempdir().expect("a directory");
        write(
            dir.path(),
            &[
                ("cpu/a/cpu.shares", "2\n"),
                ("cpu/a/cpu.cfs_quota_us", "-1\n"),
                ("cpu/a/cpu.cfs_period_us", "100000\n"),
                ("cpu/a/cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"),
                ("cpuacct/a/cpuacct.usage", "7000\n"),
                ("cpuacct/a/cpuacct.stat", "user 3\nsystem 4\n"),
                ("memory/a/memory.usage_in_bytes", "100\n"),
                ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/a/memory.stat", "cache 1\ntotal_rss 20\ntotal_inactive_file 200\n"),
                ("blkio/a/blkio.throttle.io_service_bytes", "8:0 Read 5\nTotal 5\n"),
                ("blkio/a/blkio.throttle.io_serviced", "8:0 Read 1\nTotal 1\n"),
            ],
        );
        let mount = |name: &str| (name.to_owned(), dir.path().join(name));
        let mounts: BTreeMap<_, _> = ["cpu", "cpuacct", "memory", "blkio"].map(mount).into();
        let layout = Layout::V1(mounts);
        let mut reader = Reader::new(&layout, Path::new("/nowhere"));
        let sample = reader.read("/a", NOW).expect("it is there");
        let cpu = sample.cpu.expect("processors");
        assert_eq!((cpu.total, cpu.user, cpu.shares, cpu.quota), (7000, 30_000_000, 2, 0));
        let memory = sample.memory.expect("memory");
        assert_eq!((memory.rss, memory.working_set()), (20, 0), "never below zero");
        assert_eq!(sample.io.expect("devices").tables.bytes[0].value, 5);
    }

    #[test]
    fn weights_are_shares() {
        assert_eq!([1, 39, 10_000, 0].map(shares_of), [2, 998, 262_144, 0]);
    }
}
