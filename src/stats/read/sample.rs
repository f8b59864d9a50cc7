//! One reading of one cgroup, as the kernel's files say it. Pure.
//!
//! Made by `cgroup`; rendered by `cadvisor`, and turned into `usage` for every other reader.

use super::parse::IoTables;
use crate::model::{Mono, Wall};
use crate::stats::usage::{Cpu, Io, Memory, Network, Psi, Resources, Swap};

/// Limits above this are none: the kernel rounds its largest value.
pub(in crate::stats) const UNLIMITED_ABOVE: u64 = 1 << 62;

/// One reading of one cgroup.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The time of the reading.
    pub at: Wall,
    /// The same, for windows.
    pub mono: Mono,
    /// The time at which the cgroup was created.
    pub created: Wall,
    /// Processors.
    pub cpu: Option<CpuSample>,
    /// Memory.
    pub memory: Option<MemorySample>,
    /// Block devices; `None` without the controller.
    pub io: Option<IoSample>,
    /// Processes and threads.
    pub pids: PidsSample,
}

/// Use of processors, in nanoseconds, and its limits.
#[derive(Clone, Debug, Default)]
pub struct CpuSample {
    /// All time.
    pub total: u64,
    /// Time in user mode.
    pub user: u64,
    /// Time in the kernel.
    pub system: u64,
    /// Enforcement periods so far.
    pub periods: u64,
    /// Enforcement periods in which the cgroup was held back.
    pub throttled_periods: u64,
    /// The time for which it was held back.
    pub throttled: u64,
    /// Periods with a burst.
    pub burst_periods: u64,
    /// The time of bursts.
    pub burst: u64,
    /// The weight, on the scale of cgroup v1.
    pub shares: u64,
    /// The quota in microseconds per period; zero: none.
    pub quota: u64,
    /// The period in microseconds.
    pub period: u64,
    /// Stalls.
    pub psi: Option<Psi>,
}

/// Use of memory in bytes, and its limits.
#[derive(Clone, Debug, Default)]
pub struct MemorySample {
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// How many of its processes were killed for want of memory.
    pub oom_kills: u64,
    /// The kernel's own.
    pub kernel: u64,
    /// Swapped out.
    pub swap: u64,
    /// Page cache.
    pub cache: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Mapped files.
    pub mapped_file: u64,
    /// Page cache that was used of late.
    pub active_file: u64,
    /// Page cache that was not.
    pub inactive_file: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from a disk.
    pub major_page_faults: u64,
    /// The limits.
    pub limits: MemoryLimits,
    /// Stalls.
    pub psi: Option<Psi>,
}

/// Limits of memory in bytes; beyond [`UNLIMITED_ABOVE`]: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Of memory.
    pub memory: u64,
    /// Of swap, or of memory and swap together on v1.
    pub swap: u64,
    /// What is reserved.
    pub reserved: u64,
}

impl MemorySample {
    /// Returns the bytes in use without the inactive part of the page cache.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }
}

/// Use of block devices.
#[derive(Clone, Debug, Default)]
pub struct IoSample {
    /// The tables that both versions have, in those of v2.
    pub tables: IoTables,
    /// Stalls.
    pub psi: Option<Psi>,
}

/// Processes and threads of a cgroup.
#[derive(Clone, Debug, Default)]
pub struct PidsSample {
    /// Threads, those of cgroups below included.
    pub threads: u64,
    /// The limit on them; zero: none.
    pub limit: u64,
    /// Processes of the cgroup itself.
    pub processes: u64,
    /// One of these processes.
    pub first: Option<i32>,
}

/// Details of a cgroup's processes, which only cAdvisor's metrics show.
#[derive(Clone, Debug, Default)]
pub struct ProcessDetails {
    /// Open files.
    pub descriptors: u64,
    /// Sockets among them.
    pub sockets: u64,
    /// The soft limit of open files of the first process; -1: none.
    pub open_files: Option<i64>,
}

/// A cgroup, with what two readings together say.
#[derive(Clone, Debug, Default)]
pub struct CgroupUsage {
    /// The reading.
    pub sample: Sample,
    /// Mean use of processors, in billionths of a core.
    pub nano_cores: u64,
    /// Details of its processes; `None` unless they were asked for.
    pub details: Option<ProcessDetails>,
    /// Traffic of its network namespace; `None` unless it was asked for and the cgroup has one of
    /// its own.
    pub network: Option<Network>,
}

impl CgroupUsage {
    /// Returns the usage as every reader but cAdvisor's metrics takes it.
    pub fn resources(&self) -> Resources {
        let sample = &self.sample;
        let at = sample.at;
        let limited = |limit: u64| (limit <= UNLIMITED_ABOVE).then_some(limit);
        let memory = sample.memory.as_ref();
        Resources {
            cpu: sample.cpu.as_ref().map(|cpu| Cpu {
                at,
                core_nanos: cpu.total,
                nano_cores: self.nano_cores,
                psi: cpu.psi,
            }),
            memory: memory.map(|memory| Memory {
                at,
                limit: limited(memory.limits.memory),
                usage: memory.usage,
                working_set: memory.working_set(),
                rss: memory.rss,
                page_faults: memory.page_faults,
                major_page_faults: memory.major_page_faults,
                psi: memory.psi,
            }),
            swap: memory.map(|memory| Swap {
                at,
                usage: memory.swap,
                limit: limited(memory.limits.swap),
            }),
            io: sample.io.as_ref().map(|io| Io { at, psi: io.psi }),
        }
    }
}
