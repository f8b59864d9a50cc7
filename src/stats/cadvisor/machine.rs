//! The machine on `/metrics/cadvisor`. Pure.

use std::collections::BTreeSet;

use crate::telemetry::metrics::{Collected, Kind};

/// The facts of the machine that the page shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's UUID.
    pub system_uuid: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// The operating system's pretty name.
    pub os_image: String,
    /// Logical processors.
    pub cores: u32,
    /// Physical processors.
    pub physical_cores: usize,
    /// Sockets.
    pub sockets: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Swap in bytes.
    pub swap: u64,
}

/// Counts the different values of a line of `/proc/cpuinfo`: `core id`, `physical id`.
pub fn different(cpuinfo: &str, name: &str) -> usize {
    let values = cpuinfo.lines().filter_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then_some(value.trim())
    });
    values.collect::<BTreeSet<_>>().len()
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
pub(super) fn write(page: &mut Collected, machine: &Machine) {
    const LABELS: &[&str] = &["boot_id", "machine_id", "system_uuid"];
    let values = [&*machine.boot_id, &*machine.machine_id, &*machine.system_uuid];
    let mut gauge = |name: &str, help: &str, value: f64| {
        page.family(name, help, Kind::Gauge, LABELS, &[(&values, value)]);
    };
    gauge(
        "machine_cpu_physical_cores",
        "Number of physical CPU cores.",
        machine.physical_cores as f64,
    );
    gauge("machine_cpu_cores", "Number of logical CPU cores.", f64::from(machine.cores));
    gauge("machine_cpu_sockets", "Number of CPU sockets.", machine.sockets as f64);
    // Books and drawers are of one architecture, and non-volatile memory has a library of its own:
    // upstream shows zeros elsewhere.
    gauge("machine_cpu_books", "Number of CPU books.", 0.0);
    gauge("machine_cpu_drawers", "Number of CPU drawers.", 0.0);
    gauge(
        "machine_memory_bytes",
        "Amount of memory installed on the machine.",
        machine.memory as f64,
    );
    gauge(
        "machine_swap_bytes",
        "Amount of swap memory available on the machine.",
        machine.swap as f64,
    );
    gauge("machine_nvm_avg_power_budget_watts", "NVM power budget.", 0.0);

    let labels = ["boot_id", "machine_id", "mode", "system_uuid"];
    let help = "NVM capacity value labeled by NVM mode (memory mode or app direct mode).";
    let mut writer = page.begin("machine_nvm_capacity", help, Kind::Gauge);
    for mode in ["app_direct_mode", "memory_mode"] {
        let values = [&*machine.boot_id, &*machine.machine_id, mode, &*machine.system_uuid];
        writer.read_at(&labels, &values, 0.0, None);
    }
    drop(writer);
    let help = "1 if there was an error while getting machine metrics, 0 otherwise.";
    page.family("machine_scrape_error", help, Kind::Gauge, &[], &[(&[], 0.0)]);

    let labels =
        ["cadvisorRevision", "cadvisorVersion", "dockerVersion", "kernelVersion", "osVersion"];
    let values = ["", "", "", &*machine.kernel_version, &*machine.os_image];
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.";
    page.family("cadvisor_version_info", help, Kind::Gauge, &labels, &[(&values, 1.0)]);
}

#[cfg(test)]
mod tests {
    use super::different;

    #[test]
    fn different_values_are_counted_once() {
        let text = "processor\t: 0\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor\t: 1\nphysical id\t: 0\ncore id\t\t: 1\n";
        assert_eq!(different(text, "core id"), 2);
        assert_eq!(different(text, "physical id"), 1);
        assert_eq!(different("", "core id"), 0);
    }
}
