//! The laws of statistics: no text of the kernel, and no name that a pod chose, breaks a reading or
//! a page of metrics.

use std::collections::{BTreeSet, HashMap};

use crate::model::{PodKey, Wall};
use crate::stats::cadvisor::{Input, Machine, render};
use crate::stats::cgroups::{CgroupsUsage, Owner, own_cgroup};
use crate::stats::read::parse;
use crate::stats::read::sample::CgroupUsage;
use crate::stats::usage::{Network, Stall};

/// Reads a text as each of the kernel's files, and shows what was read.
pub fn check(text: &str) {
    if let Some(number) = parse::number(text) {
        let trimmed = text.trim();
        let is_number = trimmed.trim_start_matches(['-', '+']).bytes().all(|b| b.is_ascii_digit());
        assert!(is_number || trimmed == "max" && number == u64::MAX, "{text:?} is no number");
    }
    for (name, _) in parse::pairs(text) {
        assert!(!name.contains([' ', '\n']), "{name:?}");
    }
    let psi = parse::psi(text);
    for Stall { avg10, avg60, avg300, .. } in [psi.some, psi.full] {
        assert!([avg10, avg60, avg300].iter().all(|share| share.is_finite()), "{psi:?}");
    }
    assert!(parse::device_counts(text).len() <= text.lines().count());
    let _tables = parse::io_stat(text);
    let _disks = parse::disk_counts(text).count();
    let _limit = parse::open_files_limit(text);
    if let Some(id) = parse::container_id(text) {
        assert!(id.len() == 64 && text.contains(id), "{id:?} of {text:?}");
    }
    for is_v2 in [false, true] {
        let own = own_cgroup(text, is_v2);
        assert!(own.is_empty() || text.contains(&own));
    }

    let network = Network { at: Wall::UNIX_EPOCH, interfaces: parse::interfaces(text) };
    check_page(text, network);
}

/// Shows a cgroup whose every name is `text`, and reads the page back.
fn check_page(text: &str, network: Network) {
    let usage = CgroupUsage { network: Some(network), ..CgroupUsage::default() };
    let cgroups =
        CgroupsUsage { by_path: [(text.to_owned(), usage)].into(), ..CgroupsUsage::default() };
    let owner = Owner {
        pod: Some(PodKey::new(text, text)),
        container: text.to_owned(),
        id: text.to_owned(),
        image: text.to_owned(),
    };
    let page = render(&Input {
        machine: &Machine { machine_id: text.to_owned(), ..Machine::default() },
        cgroups: Some(&cgroups),
        owners: &HashMap::from([(text, owner)]),
        disks: &[],
        devices: &HashMap::new(),
        psi: true,
        now: Wall::UNIX_EPOCH,
    });
    let families = families(&page);
    assert!(families.contains("container_memory_rss") && families.contains("machine_cpu_cores"));
}

/// Reads a page in Prometheus' text format and returns its families; panics where it is not one.
pub fn families(page: &str) -> BTreeSet<&str> {
    let mut families = BTreeSet::new();
    let mut helped = None;
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped = rest.split(' ').next();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert_eq!(helped, Some(name), "the help stands before the kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name), "{name} is there twice");
            family = name;
        } else {
            let rest = line.strip_prefix(family).expect("samples stand below their family");
            check_sample(rest, line);
        }
    }
    families
}

/// Checks what follows a sample's name: labels in braces, a value, perhaps a time.
fn check_sample(rest: &str, line: &str) {
    let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|end| rest.strip_prefix(end));
    let mut rest = suffix.unwrap_or(rest);
    if let Some(labels) = rest.strip_prefix('{') {
        let end = end_of_labels(labels).expect("the labels end");
        rest = &labels[end..];
    }
    let mut words = rest.strip_prefix(' ').expect("a space").split(' ');
    let value = words.next().expect("a value");
    assert!(value == "+Inf" || value.parse::<f64>().is_ok(), "{line:?}");
    assert!(words.next().is_none_or(|time| time.parse::<i64>().is_ok()), "{line:?}");
    assert!(words.next().is_none(), "{line:?}");
}

/// The place after the closing brace, which may stand in a value too.
fn end_of_labels(labels: &str) -> Option<usize> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (index, character) in labels.char_indices() {
        match (is_quoted, is_escaped, character) {
            (true, true, _) => is_escaped = false,
            (true, false, '\\') => is_escaped = true,
            (_, _, '"') => is_quoted = !is_quoted,
            (false, _, '}') => return Some(index + 1),
            (_, _, _) => {}
        }
    }
    None
}
