//! Circles between files: groups of files that reach each other by what they import. Pure.
//!
//! A folder's `mod.rs` declares its files and may hand out their names, and its files may use it: these arrows do not
//! count, as a folder is read as one thing from outside.

use std::collections::{BTreeMap, BTreeSet};

use super::Measured;

/// Each circle as the sorted list of its files: `src/a.rs, src/b.rs`.
pub(super) fn circles(measured: &[Measured]) -> Vec<String> {
    let files: BTreeMap<Vec<String>, usize> =
        measured.iter().enumerate().map(|(index, file)| (module_of(&file.path), index)).collect();
    let arrows: Vec<BTreeSet<usize>> = measured
        .iter()
        .enumerate()
        .map(|(index, file)| {
            let own = module_of(&file.path);
            let is_folder = file.path.ends_with("/mod.rs");
            let targets =
                file.counts.paths.iter().filter_map(|path| resolve(&own, is_folder, path));
            targets
                .filter_map(|target| nearest(&files, target))
                .filter(|target| *target != index && !is_mod(measured, *target) && !is_folder)
                .collect()
        })
        .collect();
    let reach: Vec<BTreeSet<usize>> =
        (0..arrows.len()).map(|from| reachable(&arrows, from)).collect();
    let mut found = BTreeSet::new();
    for (index, reached) in reach.iter().enumerate() {
        if reached.contains(&index) {
            let circle: Vec<&str> = reached
                .iter()
                .filter(|other| reach[**other].contains(&index))
                .map(|other| measured[*other].path.as_str())
                .collect();
            found.insert(circle.join(", "));
        }
    }
    found.into_iter().collect()
}

/// The module of a file: `[pleg, task]` of `src/pleg/task.rs`, `[pleg]` of `src/pleg/mod.rs`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut names: Vec<String> = path.split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main")) {
        names.pop();
    }
    names
}

fn is_mod(measured: &[Measured], index: usize) -> bool {
    measured[index].path.ends_with("/mod.rs") || measured[index].path == "src/lib.rs"
}

/// The absolute path that `path` names in the module `own`.
fn resolve(own: &[String], is_folder: bool, path: &[String]) -> Option<Vec<String>> {
    let mut base = own.to_vec();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|name| name == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ if is_folder => {}
        _ => return None,
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

/// The file of the longest part of `path` that is one.
fn nearest(files: &BTreeMap<Vec<String>, usize>, mut path: Vec<String>) -> Option<usize> {
    while !path.is_empty() {
        if let Some(index) = files.get(&path) {
            return Some(*index);
        }
        path.pop();
    }
    None
}

fn reachable(arrows: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<usize> = arrows[from].iter().copied().collect();
    while let Some(next) = open.pop() {
        if seen.insert(next) {
            open.extend(&arrows[next]);
        }
    }
    seen
}
