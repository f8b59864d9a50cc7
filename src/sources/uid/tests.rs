//! Compares the UIDs with those that upstream's own code gave the same manifests:
//! `tests/static-uids` wrote `testdata/uids.txt`, and writes it again for another version.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Unprintable, document, dump, upstream};
use crate::config::document as text;
use crate::model::Pod;
use crate::sources::defaults;

const EXPECTED: &str = include_str!("testdata/uids.txt");

/// The manifests: all Pods of the parity set, and those of `testdata/manifests.yaml`, named by the
/// file and their place in it.
fn cases() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("src/sources/uid/testdata/manifests.yaml")];
    let folder = std::fs::read_dir(root.join("tests/parity/manifests")).expect("the parity set");
    files.extend(folder.map(|entry| entry.expect("an entry").path()));

    let mut cases = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        let stem = file.file_stem().expect("a name").to_string_lossy();
        let mut parts = vec![String::new()];
        for line in std::fs::read_to_string(file).expect("a text").lines() {
            if line == "---" || line.starts_with("#: ") {
                parts.push(String::new());
            } else if let Some(part) = parts.last_mut() {
                part.push_str(line);
                part.push('\n');
            }
        }
        for (index, part) in parts.into_iter().enumerate() {
            if part.lines().any(|line| line == "kind: Pod") {
                cases.insert(format!("{stem}.{index}"), part);
            }
        }
    }
    cases
}

fn defaulted(manifest: &str) -> Pod {
    let mut value = text::read(manifest.as_bytes()).expect("YAML").value;
    crate::sources::static_pod::normalise(&mut value, false);
    let mut pod = serde_json::from_value(value).expect("a pod");
    defaults::apply(&mut pod);
    pod
}

/// What is hashed of a pod.
fn printout(pod: &Pod) -> String {
    let mut out = String::new();
    let printed = document(pod).and_then(|document| dump::pod(&document, &mut out));
    printed.map_or_else(|why| why.to_string(), |()| out)
}

#[test]
fn are_upstreams() {
    let pods: BTreeMap<String, Pod> =
        cases().into_iter().map(|(name, manifest)| (name, defaulted(&manifest))).collect();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for line in EXPECTED.lines() {
        let [name, node, uid] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not a line of three words: {line}");
        };
        let source = match node {
            "-" => format!("url:http://manifests.test/{name}"),
            node => format!("host:{node}file:/etc/kubernetes/manifests/{name}"),
        };
        let pod = pods.get(name).unwrap_or_else(|| panic!("{name} is not there any more"));
        compared += 1;
        match upstream(pod, &source) {
            Ok(found) if found == uid => {}
            found => {
                // To be compared with what `static-uids dump` prints of the manifest.
                println!("{name}: {}", printout(pod));
                wrong.push(format!("{name} on {node}: {found:?}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0], "of {compared}");
    assert_eq!(compared, pods.len() * 3, "a manifest is new: run tests/static-uids");
}

#[test]
fn a_pod_that_cannot_be_printed_is_told() {
    let with = |metadata: &str| {
        defaulted(&format!(
            "metadata: {{name: a{metadata}}}\nspec: {{containers: [{{name: c, image: i}}]}}\n"
        ))
    };
    let moment = with(", creationTimestamp: '2020-01-01T00:00:00Z'");
    assert_eq!(upstream(&moment, ""), Err(Unprintable::Moment));
    assert!(upstream(&with(", creationTimestamp: null"), "").is_ok());
}
