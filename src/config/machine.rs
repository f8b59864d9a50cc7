//! Checks the configuration against the processors and memory nodes of the machine, as upstream
//! does when it starts its container manager.

use std::collections::BTreeSet;
use std::path::Path;

use super::types::KubeletConfiguration;

/// The processors and the NUMA nodes that are online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus {
    /// Numbers of the processors.
    pub online: BTreeSet<u32>,
    /// Numbers of the NUMA nodes.
    pub numa_nodes: BTreeSet<u32>,
}

impl Cpus {
    /// Asks the kernel. What it does not say is empty, and is not checked.
    pub fn detect() -> Self {
        let list = |path: &str| {
            let text = std::fs::read_to_string(Path::new("/sys/devices/system").join(path));
            text.ok().and_then(|text| cpu_list(text.trim()).ok()).unwrap_or_default()
        };
        Self { online: list("cpu/online"), numa_nodes: list("node/online") }
    }
}

/// The error of a configuration that asks for more than the machine has. Upstream stops at the
/// first.
pub fn check(config: &KubeletConfiguration, cpus: &Cpus) -> Result<(), String> {
    let reserved = &config.reserved_system_cpus;
    let wanted = cpu_list(reserved).unwrap_or_default();
    if !cpus.online.is_empty() && !wanted.is_subset(&cpus.online) {
        let online = ranges(&cpus.online);
        return Err(format!("reserved-cpus: {reserved} is not a subset of online-cpus: {online}"));
    }
    if config.memory_manager_policy != "Static" || cpus.numa_nodes.is_empty() {
        return Ok(());
    }
    let nodes = config.reserved_memory.iter().map(|reservation| reservation.numa_node);
    let is_there = |node: &i32| u32::try_from(*node).is_ok_and(|id| cpus.numa_nodes.contains(&id));
    match nodes.into_iter().find(|node| !is_there(node)) {
        None => Ok(()),
        Some(node) => Err(format!(
            "the reserved memory configuration references a NUMA node {node} that does not exist \
             on this machine"
        )),
    }
}

/// Reads a list of processors and ranges of them: `0-3,8`. Nothing is an empty list.
pub(super) fn cpu_list(text: &str) -> Result<BTreeSet<u32>, String> {
    /// More processors than any machine has.
    const MOST: u32 = 1 << 16;

    let number = |text: &str| {
        text.parse::<u32>().map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
    };
    let mut cpus = BTreeSet::new();
    for range in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = match range.split_once('-') {
            None => (number(range)?, number(range)?),
            Some((first, last)) => (number(first)?, number(last)?),
        };
        if first > last {
            return Err(format!("invalid range {range:?} ({first} > {last})"));
        }
        if last - first >= MOST {
            return Err(format!("range {range:?} is larger than any machine"));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// The shortest text of a list of processors.
fn ranges(cpus: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            Some(_) | None => ranges.push((cpu, cpu)),
        }
    }
    let text = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::types::MemoryReservation;

    #[test]
    fn what_the_machine_lacks_is_refused() {
        let cpus = Cpus { online: [0, 1, 2, 5].into(), numa_nodes: [0].into() };
        let mut config =
            KubeletConfiguration { reserved_system_cpus: "100-101".into(), ..Default::default() };
        assert_eq!(
            check(&config, &cpus).expect_err("not there"),
            "reserved-cpus: 100-101 is not a subset of online-cpus: 0-2,5"
        );
        config.reserved_system_cpus = "5,0-1".into();
        check(&config, &cpus).expect("there");
        config.reserved_memory = vec![MemoryReservation { numa_node: 3, ..Default::default() }];
        check(&config, &cpus).expect("not looked at");
        config.memory_manager_policy = "Static".into();
        assert!(check(&config, &cpus).expect_err("not there").contains("a NUMA node 3 that does"));
    }

    #[test]
    fn lists_of_processors() {
        assert_eq!(cpu_list(""), Ok(BTreeSet::new()));
        assert_eq!(cpu_list("3,0-1"), Ok([0, 1, 3].into()));
        assert!(cpu_list("0-4294967295").is_err() && cpu_list("1,").is_err());
    }
}
