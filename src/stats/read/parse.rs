//! Reads the kernel's texts: files of cgroups and of `/proc`. Pure.
//!
//! A line that is not as the kernel writes it is left out, never an error: one odd line must not
//! hide the rest. Pods can name interfaces and processes, so that nothing here trusts a text.

use crate::stats::usage::{Interface, Psi, Stall, Traffic};

/// Reads a number; `max` is the largest one, a negative one is zero.
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" {
        return Some(u64::MAX);
    }
    match text.strip_prefix('-') {
        Some(digits) => digits.parse::<u64>().ok().map(|_| 0),
        None => text.parse().ok(),
    }
}

/// Reads lines of a name and a number: `memory.stat`, `cpu.stat`.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, number(value)?))
    })
}

/// Reads pressure stall information: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
pub fn psi(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("some", rest)) => psi.some = stall(rest),
            Some(("full", rest)) => psi.full = stall(rest),
            _ => {}
        }
    }
    psi
}

fn stall(text: &str) -> Stall {
    let mut stall = Stall::default();
    for (name, value) in text.split(' ').filter_map(|part| part.split_once('=')) {
        let percent = || value.parse().ok().filter(|value: &f64| value.is_finite());
        match name {
            "avg10" => stall.avg10 = percent().unwrap_or_default(),
            "avg60" => stall.avg60 = percent().unwrap_or_default(),
            "avg300" => stall.avg300 = percent().unwrap_or_default(),
            "total" => stall.total = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    stall
}

/// A count by block device and operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCount {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`, or `Count` where there is none.
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// Reads a table of cgroup v1's `blkio`: lines of `8:0 Read 4096`, and a last one of the total.
pub fn device_counts(text: &str) -> Vec<DeviceCount> {
    text.lines().filter_map(device_count).collect()
}

fn device_count(line: &str) -> Option<DeviceCount> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let (operation, value) = rest.split_once(' ').unwrap_or(("Count", rest));
    Some(DeviceCount {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        operation: operation.to_owned(),
        value: value.trim().parse().ok()?,
    })
}

/// What cgroup v2's `io.stat` says, in the tables of v1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoTables {
    /// Bytes.
    pub bytes: Vec<DeviceCount>,
    /// Operations.
    pub operations: Vec<DeviceCount>,
    /// Microseconds of the device's time that were used.
    pub cost_usage: Vec<DeviceCount>,
    /// Microseconds of waiting for the device's time.
    pub cost_wait: Vec<DeviceCount>,
    /// Microseconds in debt.
    pub cost_indebt: Vec<DeviceCount>,
    /// Microseconds of delay.
    pub cost_indelay: Vec<DeviceCount>,
}

/// Reads `io.stat`: `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
pub fn io_stat(text: &str) -> IoTables {
    let mut tables = IoTables::default();
    for line in text.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        let Some((major, minor)) = device.split_once(':') else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (name, value) in rest.split(' ').filter_map(|item| item.split_once('=')) {
            let (table, operation) = match name {
                "rbytes" => (&mut tables.bytes, "Read"),
                "wbytes" => (&mut tables.bytes, "Write"),
                "rios" => (&mut tables.operations, "Read"),
                "wios" => (&mut tables.operations, "Write"),
                "cost.usage" => (&mut tables.cost_usage, "Count"),
                "cost.wait" => (&mut tables.cost_wait, "Count"),
                "cost.indebt" => (&mut tables.cost_indebt, "Count"),
                "cost.indelay" => (&mut tables.cost_indelay, "Count"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                let operation = operation.to_owned();
                table.push(DeviceCount { major, minor, operation, value });
            }
        }
    }
    tables
}

/// What the names of interfaces begin with that upstream leaves out.
const IGNORED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// Reads `/proc/PID/net/dev`.
pub fn interfaces(text: &str) -> Vec<Interface> {
    text.lines().skip(2).filter_map(interface).collect()
}

fn interface(line: &str) -> Option<Interface> {
    let (name, counts) = line.rsplit_once(':')?;
    let name = name.trim();
    let lower = name.to_lowercase();
    if IGNORED.iter().any(|prefix| lower.starts_with(prefix)) {
        return None;
    }
    let counts: Vec<u64> =
        counts.split_whitespace().map(|count| count.parse().ok()).collect::<Option<_>>()?;
    let [received, sent] = [counts.get(..4)?, counts.get(8..12)?].map(|counts| Traffic {
        bytes: counts[0],
        packets: counts[1],
        errors: counts[2],
        dropped: counts[3],
    });
    Some(Interface { name: name.to_owned(), received, sent })
}

/// Reads the soft limit of open files in `/proc/PID/limits`; -1: none.
pub fn open_files_limit(text: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match rest.split_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

/// Reads `/proc/diskstats`: the columns from the fourth on, by major and minor number, of what is a
/// disk by its name.
pub fn disk_counts(text: &str) -> impl Iterator<Item = ((u64, u64), [u64; 11])> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let number = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let name = words.next()?;
        let is_disk = ["sd", "vd", "xvd", "dm-"].iter().any(|prefix| name.starts_with(prefix));
        let mut counts = [0; 11];
        for count in &mut counts {
            *count = words.next()?.parse().ok()?;
        }
        is_disk.then_some((number, counts))
    })
}

/// Returns the runtime's id in the name of a container's cgroup: 64 hexadecimal digits.
///
/// ```text
///   cgroupfs  9be25294016e2dc0340dd605ce1f57b492039b267a6a618a7ad2a7a58a740f32
///   systemd   cri-containerd-9be2…0f32.scope
/// ```
pub fn container_id(directory: &str) -> Option<&str> {
    const DIGITS: usize = 64;
    // A mount of systemd has a cgroup of the same name.
    if directory.strip_suffix(".mount").is_some() {
        return None;
    }
    let name = directory.strip_suffix(".scope").unwrap_or(directory);
    let start = name.len().checked_sub(DIGITS)?;
    let id = name.get(start..)?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    id.bytes().all(is_digit).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, value) in [
            ("7\n", Some(7)),
            ("max\n", Some(u64::MAX)),
            ("-1", Some(0)),
            ("", None),
            ("seven", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(number(text), value, "{text:?}");
        }
    }

    #[test]
    fn pressure() {
        let text = "some avg10=4.07 avg60=2.87 avg300=7.49 total=138\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=9\n";
        let read = psi(text);
        assert_eq!(read.some, Stall { total: 138, avg10: 4.07, avg60: 2.87, avg300: 7.49 });
        assert_eq!((read.full.total, read.full.avg10), (9, 0.5));
        assert_eq!(psi("some avg10=NaN total=x"), Psi::default());
    }

    #[test]
    fn block_devices_of_both_versions() {
        let old = device_counts("8:0 Read 4096\n8:0 Total 4096\n253:1 7\nTotal 4096\nodd\n");
        let read: Vec<(u64, &str, u64)> =
            old.iter().map(|count| (count.major, count.operation.as_str(), count.value)).collect();
        assert_eq!(read, [(8, "Read", 4096), (8, "Total", 4096), (253, "Count", 7)]);
        let new = io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 cost.wait=6\n:x rbytes=1");
        assert_eq!((new.bytes.len(), new.operations.len(), new.cost_wait.len()), (2, 2, 1));
        assert_eq!((new.bytes[1].operation.as_str(), new.bytes[1].value), ("Write", 2));
    }

    #[test]
    fn traffic() {
        let text = "Inter-|   Receive      |  Transmit\n face |bytes packets\n\
            \x20   lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n\
            \x20 eth0: 998434433 65736 1 2 0 0 0 0 5378891 57200 3 4 0 0 0 0\n\
            veth12: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n\
            eth1: 1 2\n";
        let read = interfaces(text);
        assert_eq!(read.len(), 1, "{read:?}");
        assert_eq!(read[0].name, "eth0");
        let sent = Traffic { bytes: 5_378_891, packets: 57_200, errors: 3, dropped: 4 };
        assert_eq!((read[0].received.bytes, read[0].sent), (998_434_433, sent));
    }

    #[test]
    fn limits_of_processes() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(open_files_limit("Max open files   unlimited unlimited files"), Some(-1));
        assert_eq!(open_files_limit(""), None);
    }

    #[test]
    fn what_disks_have_done() {
        let text = " 254 0 vda 40 1 280 223 7 2 22 108 3 330 331 0 0\n 7 0 loop0 1 0 0 0 0 0 0 0 0 0 0\n8 1 sda1 1\n";
        let read: Vec<_> = disk_counts(text).collect();
        assert_eq!(read, [((254, 0), [40, 1, 280, 223, 7, 2, 22, 108, 3, 330, 331])]);
    }

    #[test]
    fn ids_of_containers() {
        let id = "9be25294016e2dc0340dd605ce1f57b492039b267a6a618a7ad2a7a58a740f32";
        assert_eq!(container_id(id), Some(id));
        assert_eq!(container_id(&format!("cri-containerd-{id}.scope")), Some(id));
        assert_eq!(container_id(&format!("{id}.mount")), None);
        assert_eq!(container_id("burstable"), None);
        assert_eq!(container_id(&"é".repeat(40)), None);
    }
}
