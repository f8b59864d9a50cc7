//! Renders `/metrics/cadvisor`: every cgroup of the node under cAdvisor's names. Pure.
//!
//! `families` is the table of families of cgroups, `machine` that of the machine. Each sample
//! carries the time of its reading. Fed by detailed readings; it reads nothing itself.

mod families;
pub mod machine;

use std::collections::HashMap;

pub use self::families::Disk;
use self::families::{FAMILIES, Family, SPECS, Seen, Spec};
pub use self::machine::Machine;
use super::cgroups::{CgroupsUsage, Owner};
use crate::model::Wall;
use crate::telemetry::metrics::{Collected, Kind};

/// The labels of every cgroup, in order.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// What the page is rendered from.
#[derive(Debug)]
pub struct Input<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The cgroups; `None`: there is no reading.
    pub cgroups: Option<&'a CgroupsUsage>,
    /// Whose they are, by path.
    pub owners: &'a HashMap<&'a str, Owner>,
    /// The machine's file systems.
    pub disks: &'a [Disk],
    /// The names of block devices, by major and minor number.
    pub devices: &'a HashMap<(u64, u64), String>,
    /// True if pressure stall information is shown.
    pub psi: bool,
    /// The time.
    pub now: Wall,
}

/// Renders the page.
pub fn render(input: &Input<'_>) -> String {
    let mut page = Collected::default();
    machine::write(&mut page, input.machine);
    let failed = [(&[][..], if input.cgroups.is_some() { 0.0 } else { 1.0 })];
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    page.family("container_scrape_error", help, Kind::Gauge, &[], &failed);
    let Some(cgroups) = input.cgroups else { return page.into_text() };

    let nobody = Owner::default();
    let seen: Vec<Row<'_>> = cgroups
        .by_path
        .iter()
        .map(|(path, usage)| {
            let owner = input.owners.get(path.as_str()).unwrap_or(&nobody);
            let disks = if path == "/" { input.disks } else { &[] };
            Row { labels: labels(path, owner), seen: Seen { usage, disks, now: input.now } }
        })
        .collect();
    for spec in SPECS {
        write_spec(&mut page, spec, &seen);
    }
    for family in FAMILIES.iter().filter(|family| input.psi || !family.is_pressure()) {
        write_family(&mut page, family, &seen, input.devices);
    }
    page.into_text()
}

/// One cgroup on the page.
struct Row<'a> {
    labels: [&'a str; 6],
    seen: Seen<'a>,
}

fn labels<'a>(path: &'a str, owner: &'a Owner) -> [&'a str; 6] {
    let (namespace, pod) = owner.pod.as_ref().map_or(("", ""), |pod| (&*pod.namespace, &*pod.name));
    [&owner.container, path, &owner.image, &owner.id, namespace, pod]
}

/// Writes a limit or a start, which has no time.
fn write_spec(page: &mut Collected, spec: &Spec, rows: &[Row<'_>]) {
    let mut writer = page.begin(spec.name, spec.help, Kind::Gauge);
    for row in rows {
        if let Some(value) = (spec.value)(&row.seen.usage.sample) {
            writer.read_at(&LABELS, &row.labels, value, None);
        }
    }
}

fn write_family(
    page: &mut Collected,
    family: &Family,
    rows: &[Row<'_>],
    devices: &HashMap<(u64, u64), String>,
) {
    let names: Vec<&str> = LABELS.iter().chain(family.labels).copied().collect();
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|index| names[*index]);
    let sorted: Vec<&str> = order.iter().map(|index| names[*index]).collect();

    let mut writer = page.begin(family.name, family.help, family.kind);
    for row in rows {
        let at = Some(row.seen.at(family).as_millisecond());
        family.samples(&row.seen, devices, &mut |extra, value| {
            let all: Vec<&str> = row.labels.iter().copied().chain(extra.iter().copied()).collect();
            let values: Vec<&str> = order.iter().map(|index| all[*index]).collect();
            writer.read_at(&sorted, &values, value, at);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::{Disk, Input, Machine, render};
    use crate::linux::mount::FsUsage;
    use crate::model::{PodKey, Wall};
    use crate::stats::cgroups::{CgroupsUsage, Owner};
    use crate::stats::read::parse::{DeviceCount, IoTables};
    use crate::stats::read::sample::{
        CgroupUsage, CpuSample, IoSample, MemoryLimits, MemorySample, ProcessDetails, Sample,
    };
    use crate::stats::usage::{Interface, Network, Traffic};

    fn usage() -> CgroupUsage {
        let count = |operation: &str, value| DeviceCount {
            major: 8,
            minor: 0,
            operation: operation.to_owned(),
            value,
        };
        let tables = IoTables {
            bytes: vec![count("Read", 4096), count("Write", 1)],
            operations: vec![count("Read", 1), count("Write", 2)],
            ..IoTables::default()
        };
        let sample = Sample {
            at: Wall::from_millisecond(1_700_000_000_123).expect("a time"),
            created: Wall::from_second(1_600_000_000).expect("a time"),
            cpu: Some(CpuSample {
                total: 1_500_000_000,
                quota: 20_000,
                period: 100_000,
                shares: 2,
                ..CpuSample::default()
            }),
            memory: Some(MemorySample {
                usage: 90,
                limits: MemoryLimits { memory: u64::MAX, ..MemoryLimits::default() },
                ..MemorySample::default()
            }),
            io: Some(IoSample { tables, psi: None }),
            ..Sample::default()
        };
        let eth0 = Interface {
            name: "eth0".to_owned(),
            received: Traffic { bytes: 7, ..Traffic::default() },
            sent: Traffic::default(),
        };
        CgroupUsage {
            network: Some(Network { at: sample.at, interfaces: vec![eth0] }),
            details: Some(ProcessDetails { descriptors: 5, sockets: 1, open_files: Some(1024) }),
            sample,
            nano_cores: 0,
        }
    }

    fn page(psi: bool) -> String {
        let cgroups = CgroupsUsage {
            by_path: [("/".to_owned(), usage()), ("/kubepods/pod1/c".to_owned(), usage())].into(),
            ..CgroupsUsage::default()
        };
        let owner = Owner {
            pod: Some(PodKey::new("ns", "we\"b")),
            container: "app".to_owned(),
            id: "c".to_owned(),
            image: "web:1".to_owned(),
        };
        let disks = [Disk {
            device: "/dev/sda".to_owned(),
            usage: FsUsage { capacity: 10, available: 3, used: 6, inodes: 5, inodes_free: 4 },
            ..Disk::default()
        }];
        render(&Input {
            machine: &Machine { boot_id: "b".to_owned(), cores: 2, ..Machine::default() },
            cgroups: Some(&cgroups),
            owners: &HashMap::from([("/kubepods/pod1/c", owner)]),
            disks: &disks,
            devices: &HashMap::from([((8, 0), "/dev/sda".to_owned())]),
            psi,
            now: Wall::UNIX_EPOCH,
        })
    }

    #[test]
    fn samples_have_cadvisors_labels_and_the_time_of_their_reading() {
        let page = page(false);
        let of = "id=\"/kubepods/pod1/c\",image=\"web:1\"";
        let rest = "name=\"c\",namespace=\"ns\",pod=\"we\\\"b\"} ";
        for line in [
            format!(
                "container_cpu_usage_seconds_total{{container=\"app\",cpu=\"total\",{of},{rest}1.5 1700000000123"
            ),
            format!(
                "container_blkio_device_usage_total{{container=\"app\",device=\"/dev/sda\",{of},major=\"8\",minor=\"0\",{}\",{}4096 1700000000123",
                "name=\"c\",namespace=\"ns\",operation=\"Read", "pod=\"we\\\"b\"} "
            ),
            format!(
                "container_network_receive_bytes_total{{container=\"app\",{of},interface=\"eth0\",{rest}7 1700000000123"
            ),
            format!("container_spec_memory_limit_bytes{{container=\"app\",{of},{rest}0"),
            format!("container_spec_cpu_shares{{container=\"app\",{of},{rest}2"),
            format!("container_health_state{{container=\"app\",{of},{rest}-1 1700000000123"),
            format!("container_start_time_seconds{{container=\"app\",{of},{rest}1.6e+09"),
            "machine_cpu_cores{boot_id=\"b\",machine_id=\"\",system_uuid=\"\"} 2".to_owned(),
            "container_scrape_error 0".to_owned(),
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(
            page.contains("container_fs_usage_bytes{container=\"\",device=\"/dev/sda\",id=\"/\"")
        );
        assert!(!page.contains("container_fs_usage_bytes{container=\"app\""));
        assert!(!page.contains("container_pressure"));
    }

    #[test]
    fn no_series_is_there_twice_and_each_family_has_one_head() {
        let page = page(true);
        let mut series = BTreeSet::new();
        let mut heads = BTreeSet::new();
        for line in page.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                let name = head.split(' ').next().expect("a name");
                assert!(heads.insert(name), "{line}");
            } else if !line.starts_with('#') {
                let name = line.rsplit_once("} ").map_or(line, |(series, _)| series);
                assert!(series.insert(name), "{line}");
                let family = name.split(['{', ' ']).next().expect("a name");
                assert!(heads.contains(family), "{line} stands below its head");
            }
        }
        assert!(page.contains("container_pressure_cpu_waiting_seconds_total"));
    }

    #[test]
    fn without_a_reading_the_page_says_so() {
        let machine = Machine::default();
        let owners = HashMap::new();
        let devices = HashMap::new();
        let page = render(&Input {
            machine: &machine,
            cgroups: None,
            owners: &owners,
            disks: &[],
            devices: &devices,
            psi: false,
            now: Wall::UNIX_EPOCH,
        });
        assert!(page.contains("container_scrape_error 1\n"), "{page}");
    }
}
