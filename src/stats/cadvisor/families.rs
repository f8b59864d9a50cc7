//! The families of cgroups on `/metrics/cadvisor`: names, helps, labels, and where each value comes
//! from. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::linux::mount::FsUsage;
use crate::model::Wall;
use crate::stats::read::parse::{DeviceCount, IoTables};
use crate::stats::read::sample::{CgroupUsage, CpuSample, MemorySample, Sample, UNLIMITED_ABOVE};
use crate::stats::usage::{Interface, Psi, Stall};
use crate::telemetry::metrics::Kind;

/// A file system of the machine, with what its device has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disk {
    /// The device, e.g. `/dev/sda1`.
    pub device: String,
    /// The space on it.
    pub usage: FsUsage,
    /// The columns of `/proc/diskstats` from the fourth on; zeros for what is no disk.
    pub counts: [u64; 11],
}

/// One cgroup as its samples are made from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) usage: &'a CgroupUsage,
    /// The machine's file systems; of the top cgroup only.
    pub(super) disks: &'a [Disk],
    pub(super) now: Wall,
}

impl Seen<'_> {
    /// The time of a family's samples.
    pub(super) fn at(&self, family: &Family) -> Wall {
        if matches!(family.value, Value::Now) { self.now } else { self.usage.sample.at }
    }
}

/// A limit of a cgroup, or its start.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) value: fn(&Sample) -> Option<f64>,
}

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    Spec { name: "container_start_time_seconds", help: "Start time of the container since unix epoch in seconds.", value: |sample| Some(whole(sample.created)) },
    Spec { name: "container_spec_cpu_period", help: "CPU period of the container.", value: |sample| Some(float(sample.cpu.as_ref()?.period)) },
    Spec { name: "container_spec_cpu_quota", help: "CPU quota of the container.", value: |sample| Some(float(sample.cpu.as_ref()?.quota)).filter(|quota| *quota > 0.0) },
    Spec { name: "container_spec_cpu_shares", help: "CPU share of the container.", value: |sample| Some(float(sample.cpu.as_ref()?.shares)) },
    Spec { name: "container_spec_memory_limit_bytes", help: "Memory limit for the container.", value: |sample| Some(limit(sample.memory.as_ref()?.limits.memory)) },
    Spec { name: "container_spec_memory_swap_limit_bytes", help: "Memory swap limit for the container.", value: |sample| Some(limit(sample.memory.as_ref()?.limits.swap)) },
    Spec { name: "container_spec_memory_reservation_limit_bytes", help: "Memory reservation limit for the container.", value: |sample| Some(limit(sample.memory.as_ref()?.limits.reserved)) },
];

/// A family of cgroups.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    value: Value,
}

/// Where a family's samples come from.
#[derive(Clone, Copy)]
enum Value {
    /// The time of the scrape.
    Now,
    /// There is no health check.
    Health,
    /// One value of processors.
    Cpu(fn(&CpuSample) -> f64),
    /// All processors' time, if there is any.
    CpuUsage,
    /// One value of processors, where there is a quota.
    Quota(fn(&CpuSample) -> f64),
    /// Always zero: upstream has these from a reader that it never starts.
    Zero(&'static [&'static str]),
    /// One value of memory.
    Memory(fn(&MemorySample) -> u64),
    /// Page faults, by kind and scope.
    Faults,
    /// One value of a file system.
    Fs(fn(&Disk) -> f64),
    /// One operation of a table of block devices, and one value of file systems.
    Io(fn(&IoTables) -> &[DeviceCount], &'static str, Option<fn(&Disk) -> f64>),
    /// Microseconds of a table of block devices.
    Cost(fn(&IoTables) -> &[DeviceCount]),
    /// Bytes by device and operation.
    Devices,
    /// One value of interfaces.
    Network(fn(&Interface) -> u64),
    /// One value of processes.
    Processes(fn(&CgroupUsage) -> u64),
    /// The limit of open files.
    Ulimit,
    /// One value of stalls.
    Pressure(fn(&Sample) -> Option<Psi>, fn(&Psi) -> Stall),
}

/// What a sample's labels and value are handed to.
type Emit<'a> = dyn FnMut(&[&str], f64) + 'a;

impl Family {
    /// Returns true if the family is of pressure stall information.
    pub(super) fn is_pressure(&self) -> bool {
        matches!(self.value, Value::Pressure(..))
    }

    /// Makes the samples of one cgroup.
    pub(super) fn samples(
        &self,
        seen: &Seen<'_>,
        devices: &HashMap<(u64, u64), String>,
        emit: &mut Emit<'_>,
    ) {
        let sample = &seen.usage.sample;
        let cpu = sample.cpu.as_ref();
        let name_of = |count: &DeviceCount| {
            devices.get(&(count.major, count.minor)).map_or("", String::as_str)
        };
        match self.value {
            Value::Now => emit(&[], whole(seen.now)),
            Value::Health => emit(&[], -1.0),
            Value::Zero([]) => emit(&[], 0.0),
            Value::Zero(labels) => labels.iter().for_each(|label| emit(&[*label], 0.0)),
            Value::Cpu(value) => emit(&[], cpu.map(value).unwrap_or_default()),
            Value::CpuUsage => {
                if let Some(cpu) = cpu.filter(|cpu| cpu.total > 0) {
                    emit(&["total"], nanos(cpu.total));
                }
            }
            Value::Quota(value) => {
                if let Some(cpu) = cpu.filter(|cpu| cpu.quota > 0) {
                    emit(&[], value(cpu));
                }
            }
            Value::Memory(value) => {
                emit(&[], float(sample.memory.as_ref().map(value).unwrap_or_default()));
            }
            Value::Faults => faults(sample, emit),
            Value::Fs(value) => {
                seen.disks.iter().for_each(|disk| emit(&[&disk.device], value(disk)));
            }
            Value::Io(table, operation, of_disk) => {
                let counts = sample.io.as_ref().map(|io| table(&io.tables)).unwrap_or_default();
                let of_devices = by_device(counts, operation);
                let devices = of_devices.into_iter().map(|(count, value)| (name_of(count), value));
                io(devices.collect(), of_disk, seen.disks, emit);
            }
            Value::Cost(table) => {
                let counts = sample.io.as_ref().map(|io| table(&io.tables)).unwrap_or_default();
                for count in counts {
                    emit(&[name_of(count)], micros(count.value));
                }
            }
            Value::Devices => {
                for count in sample.io.iter().flat_map(|io| &io.tables.bytes) {
                    let (major, minor) = (count.major.to_string(), count.minor.to_string());
                    let labels = [name_of(count), &major, &minor, &count.operation];
                    emit(&labels, float(count.value));
                }
            }
            Value::Network(value) => {
                for interface in seen.usage.network.iter().flat_map(|of| &of.interfaces) {
                    emit(&[&interface.name], float(value(interface)));
                }
            }
            Value::Processes(value) => emit(&[], float(value(seen.usage))),
            Value::Ulimit => {
                let details = seen.usage.details.as_ref();
                if let Some(limit) = details.and_then(|details| details.open_files) {
                    emit(&["max_open_files"], signed(limit));
                }
            }
            Value::Pressure(of, line) => {
                emit(&[], micros(line(&of(sample).unwrap_or_default()).total));
            }
        }
    }
}

/// Shows devices of a cgroup, then those of the machine. One that both know is shown once: a page
/// must not have a series twice.
fn io(
    of_cgroup: Vec<(&str, u64)>,
    of_disk: Option<fn(&Disk) -> f64>,
    disks: &[Disk],
    emit: &mut Emit<'_>,
) {
    let mut shown: BTreeSet<&str> = BTreeSet::new();
    for (name, value) in of_cgroup {
        if shown.insert(name) {
            emit(&[name], float(value));
        }
    }
    let Some(value) = of_disk else { return };
    for disk in disks.iter().filter(|disk| !shown.contains(disk.device.as_str())) {
        emit(&[&disk.device], value(disk));
    }
}

/// The count of one operation for each device of a table: zero where the device has no such one.
fn by_device<'a>(counts: &'a [DeviceCount], operation: &str) -> Vec<(&'a DeviceCount, u64)> {
    let mut found: Vec<(&DeviceCount, u64)> = Vec::new();
    for count in counts {
        let value = if count.operation == operation { count.value } else { 0 };
        let same = |other: &DeviceCount| (other.major, other.minor) == (count.major, count.minor);
        match found.iter_mut().find(|(other, _)| same(other)) {
            Some((_, sum)) => *sum += value,
            None => found.push((count, value)),
        }
    }
    found
}

fn faults(sample: &Sample, emit: &mut Emit<'_>) {
    let memory = sample.memory.as_ref();
    let minor = float(memory.map(|memory| memory.page_faults).unwrap_or_default());
    let major = float(memory.map(|memory| memory.major_page_faults).unwrap_or_default());
    // Upstream does not tell the two scopes apart.
    for scope in ["container", "hierarchy"] {
        emit(&["pgfault", scope], minor);
        emit(&["pgmajfault", scope], major);
    }
}

/// A limit; zero where there is none.
fn limit(value: u64) -> f64 {
    if value > UNLIMITED_ABOVE { 0.0 } else { float(value) }
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn float(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn signed(value: i64) -> f64 {
    value as f64
}

/// Whole seconds since the epoch.
fn whole(at: Wall) -> f64 {
    signed(at.as_second())
}

/// Seconds of nanoseconds.
fn nanos(value: u64) -> f64 {
    float(value) / 1e9
}

/// Seconds of microseconds.
fn micros(value: u64) -> f64 {
    float(value) / 1e6
}

/// Seconds of a column of `/proc/diskstats`, which has milliseconds. Upstream takes them for
/// nanoseconds, and what users see is upstream's.
fn disk_seconds(value: u64) -> f64 {
    nanos(value)
}

const NONE: &[&str] = &[];
const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];
const STATES: &[&str] = &["sleeping", "running", "stopped", "uninterruptible", "iowaiting"];

/// Tables that no kernel of today fills: their values come from file systems only.
fn empty(_: &IoTables) -> &[DeviceCount] {
    &[]
}

const fn family(
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    value: Value,
) -> Family {
    Family { name, help, kind, labels, value }
}

#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    family("container_last_seen", "Last time a container was seen by the exporter", Kind::Gauge, NONE, Value::Now),
    family("container_health_state", "The result of the container's health check", Kind::Gauge, NONE, Value::Health),
    family("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", Kind::Counter, NONE, Value::Cpu(|cpu| nanos(cpu.user))),
    family("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", Kind::Counter, NONE, Value::Cpu(|cpu| nanos(cpu.system))),
    family("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", Kind::Counter, &["cpu"], Value::CpuUsage),
    family("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", Kind::Counter, NONE, Value::Quota(|cpu| float(cpu.periods))),
    family("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", Kind::Counter, NONE, Value::Quota(|cpu| float(cpu.throttled_periods))),
    family("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", Kind::Counter, NONE, Value::Quota(|cpu| nanos(cpu.throttled))),
    family("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.", Kind::Counter, NONE, Value::Quota(|cpu| float(cpu.burst_periods))),
    family("container_cpu_cfs_burst_seconds_total", "Total time duration the container has been bursted.", Kind::Counter, NONE, Value::Quota(|cpu| nanos(cpu.burst))),
    family("container_cpu_load_average_10s", "Value of container cpu load average over the last 10 seconds.", Kind::Gauge, NONE, Value::Zero(&[])),
    family("container_cpu_load_d_average_10s", "Value of container cpu load.d average over the last 10 seconds.", Kind::Gauge, NONE, Value::Zero(&[])),
    family("container_tasks_state", "Number of tasks in given state", Kind::Gauge, &["state"], Value::Zero(STATES)),
    family("container_memory_cache", "Number of bytes of page cache memory.", Kind::Gauge, NONE, Value::Memory(|memory| memory.cache)),
    family("container_memory_rss", "Size of RSS in bytes.", Kind::Gauge, NONE, Value::Memory(|memory| memory.rss)),
    family("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", Kind::Gauge, NONE, Value::Memory(|memory| memory.kernel)),
    family("container_memory_mapped_file", "Size of memory mapped files in bytes.", Kind::Gauge, NONE, Value::Memory(|memory| memory.mapped_file)),
    family("container_memory_swap", "Container swap usage in bytes.", Kind::Gauge, NONE, Value::Memory(|memory| memory.swap)),
    family("container_memory_failcnt", "Number of memory usage hits limits", Kind::Counter, NONE, Value::Memory(|memory| memory.failures)),
    family("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", Kind::Gauge, NONE, Value::Memory(|memory| memory.usage)),
    family("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", Kind::Gauge, NONE, Value::Memory(|memory| memory.max_usage)),
    family("container_memory_working_set_bytes", "Current working set in bytes.", Kind::Gauge, NONE, Value::Memory(MemorySample::working_set)),
    family("container_memory_total_active_file_bytes", "Current total active file in bytes.", Kind::Gauge, NONE, Value::Memory(|memory| memory.active_file)),
    family("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", Kind::Gauge, NONE, Value::Memory(|memory| memory.inactive_file)),
    family("container_memory_failures_total", "Cumulative count of memory allocation failures.", Kind::Counter, &["failure_type", "scope"], Value::Faults),
    family("container_oom_events_total", "Count of out of memory events observed for the container", Kind::Counter, NONE, Value::Memory(|memory| memory.oom_kills)),
    family("container_fs_inodes_free", "Number of available Inodes", Kind::Gauge, DEVICE, Value::Fs(|disk| float(disk.usage.inodes_free))),
    family("container_fs_inodes_total", "Number of Inodes", Kind::Gauge, DEVICE, Value::Fs(|disk| float(disk.usage.inodes))),
    family("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", Kind::Gauge, DEVICE, Value::Fs(|disk| float(disk.usage.capacity))),
    family("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", Kind::Gauge, DEVICE, Value::Fs(|disk| float(disk.usage.used))),
    family("container_fs_reads_bytes_total", "Cumulative count of bytes read", Kind::Counter, DEVICE, Value::Io(|tables| &tables.bytes, "Read", None)),
    family("container_fs_reads_total", "Cumulative count of reads completed", Kind::Counter, DEVICE, Value::Io(|tables| &tables.operations, "Read", Some(|disk| float(disk.counts[0])))),
    family("container_fs_sector_reads_total", "Cumulative count of sector reads completed", Kind::Counter, DEVICE, Value::Io(empty, "Read", Some(|disk| float(disk.counts[2])))),
    family("container_fs_reads_merged_total", "Cumulative count of reads merged", Kind::Counter, DEVICE, Value::Io(empty, "Read", Some(|disk| float(disk.counts[1])))),
    family("container_fs_read_seconds_total", "Cumulative count of seconds spent reading", Kind::Counter, DEVICE, Value::Io(empty, "Read", Some(|disk| disk_seconds(disk.counts[3])))),
    family("container_fs_writes_bytes_total", "Cumulative count of bytes written", Kind::Counter, DEVICE, Value::Io(|tables| &tables.bytes, "Write", None)),
    family("container_fs_writes_total", "Cumulative count of writes completed", Kind::Counter, DEVICE, Value::Io(|tables| &tables.operations, "Write", Some(|disk| float(disk.counts[4])))),
    family("container_fs_sector_writes_total", "Cumulative count of sector writes completed", Kind::Counter, DEVICE, Value::Io(empty, "Write", Some(|disk| float(disk.counts[6])))),
    family("container_fs_writes_merged_total", "Cumulative count of writes merged", Kind::Counter, DEVICE, Value::Io(empty, "Write", Some(|disk| float(disk.counts[5])))),
    family("container_fs_write_seconds_total", "Cumulative count of seconds spent writing", Kind::Counter, DEVICE, Value::Io(empty, "Write", Some(|disk| disk_seconds(disk.counts[7])))),
    family("container_fs_io_current", "Number of I/Os currently in progress", Kind::Gauge, DEVICE, Value::Io(empty, "Total", Some(|disk| float(disk.counts[8])))),
    family("container_fs_io_time_seconds_total", "Cumulative count of seconds spent doing I/Os", Kind::Counter, DEVICE, Value::Io(empty, "Total", Some(|disk| disk_seconds(disk.counts[9])))),
    family("container_fs_io_time_weighted_seconds_total", "Cumulative weighted I/O time in seconds", Kind::Counter, DEVICE, Value::Fs(|disk| disk_seconds(disk.counts[10]))),
    family("container_fs_io_cost_usage_seconds_total", "Cumulative IOCost usage in seconds", Kind::Counter, DEVICE, Value::Cost(|tables| &tables.cost_usage)),
    family("container_fs_io_cost_wait_seconds_total", "Cumulative IOCost wait in seconds", Kind::Counter, DEVICE, Value::Cost(|tables| &tables.cost_wait)),
    family("container_fs_io_cost_indebt_seconds_total", "Cumulative IOCost debt in seconds", Kind::Counter, DEVICE, Value::Cost(|tables| &tables.cost_indebt)),
    family("container_fs_io_cost_indelay_seconds_total", "Cumulative IOCost delay in seconds", Kind::Counter, DEVICE, Value::Cost(|tables| &tables.cost_indelay)),
    family("container_blkio_device_usage_total", "Blkio Device bytes usage", Kind::Counter, &["device", "major", "minor", "operation"], Value::Devices),
    family("container_network_receive_bytes_total", "Cumulative count of bytes received", Kind::Counter, INTERFACE, Value::Network(|of| of.received.bytes)),
    family("container_network_receive_packets_total", "Cumulative count of packets received", Kind::Counter, INTERFACE, Value::Network(|of| of.received.packets)),
    family("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", Kind::Counter, INTERFACE, Value::Network(|of| of.received.dropped)),
    family("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", Kind::Counter, INTERFACE, Value::Network(|of| of.received.errors)),
    family("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", Kind::Counter, INTERFACE, Value::Network(|of| of.sent.bytes)),
    family("container_network_transmit_packets_total", "Cumulative count of packets transmitted", Kind::Counter, INTERFACE, Value::Network(|of| of.sent.packets)),
    family("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", Kind::Counter, INTERFACE, Value::Network(|of| of.sent.dropped)),
    family("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", Kind::Counter, INTERFACE, Value::Network(|of| of.sent.errors)),
    family("container_processes", "Number of processes running inside the container.", Kind::Gauge, NONE, Value::Processes(|usage| usage.sample.pids.processes)),
    family("container_file_descriptors", "Number of open file descriptors for the container.", Kind::Gauge, NONE, Value::Processes(|usage| usage.details.as_ref().map_or(0, |details| details.descriptors))),
    family("container_sockets", "Number of open sockets for the container.", Kind::Gauge, NONE, Value::Processes(|usage| usage.details.as_ref().map_or(0, |details| details.sockets))),
    family("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", Kind::Gauge, NONE, Value::Processes(|usage| usage.sample.pids.limit)),
    family("container_threads", "Number of threads running inside the container", Kind::Gauge, NONE, Value::Processes(|usage| usage.sample.pids.threads)),
    family("container_ulimits_soft", "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice", Kind::Gauge, &["ulimit"], Value::Ulimit),
    family("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", Kind::Counter, NONE, Value::Pressure(|of| of.cpu.as_ref()?.psi, |psi| psi.full)),
    family("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", Kind::Counter, NONE, Value::Pressure(|of| of.cpu.as_ref()?.psi, |psi| psi.some)),
    family("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", Kind::Counter, NONE, Value::Pressure(|of| of.memory.as_ref()?.psi, |psi| psi.full)),
    family("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", Kind::Counter, NONE, Value::Pressure(|of| of.memory.as_ref()?.psi, |psi| psi.some)),
    family("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", Kind::Counter, NONE, Value::Pressure(|of| of.io.as_ref()?.psi, |psi| psi.full)),
    family("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", Kind::Counter, NONE, Value::Pressure(|of| of.io.as_ref()?.psi, |psi| psi.some)),
];
