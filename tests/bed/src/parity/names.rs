//! Replaces in a text what differs between two runs of the same kubelet: ids, times, addresses,
//! random names.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// What is replaced, in this order.
#[rustfmt::skip]
const RULES: [(&str, &str); 18] = [
    (r"\.\.\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d\.\d+", "..<time>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
    (r"[0-9a-f]{64}", "<id>"),
    (r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", "<token>"),
    (r"(?s)-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----\n?", "<certificate>"),
    (r"\b10\.244\.1\.\d+\b", "<podIP>"),
    (r"(127\.0\.0\.1|<podIP>|10\.200\.0\.11):\d{4,5}->", "$1:<port>->"),
    (r"\brkt-[a-z0-9-]+-n1\b", "<node>"),
    (r"kube-api-access-[a-z0-9]{5}\b", "kube-api-access-<random>"),
    (r"(containers/[a-z0-9-]+/)[0-9a-f]{8}\b", "$1<random>"),
    (r" in (\d+h)?(\d+m)?[0-9.]+(ms|s|µs) \([0-9.hm]+(ms|s|µs) including waiting\)", " in <duration> (<duration> including waiting)"),
    (r"Image size: \d+ bytes", "Image size: <size> bytes"),
    (r"back-off \d+m?\d*s ", "back-off <duration> "),
    (r"used: \d+, capacity: \d+", "used: <used>, capacity: <capacity>"),
    (r"\bpid \d+\b", "pid <pid>"),
    (r"/proc/\d+/", "/proc/<pid>/"),
    (r"runc-process\d+", "runc-process<random>"),
];

static COMPILED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    RULES
        .iter()
        .map(|(pattern, name)| (Regex::new(pattern).expect("a pattern of this file"), *name))
        .collect()
});

/// What the node has: its memory and what pods may have of it, in KiB.
static NODE: std::sync::OnceLock<[(String, &str); 2]> = std::sync::OnceLock::new();

/// Names the node's own numbers, from its status: `16384Ki`.
pub fn know_node(capacity: &str, allocatable: &str) {
    let number = |text: &str| text.trim_end_matches("Ki").to_owned();
    NODE.get_or_init(|| [(number(allocatable), "<allocatable>"), (number(capacity), "<capacity>")]);
}

/// The text with names in place of what is accidental.
pub fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, name) in COMPILED.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(&text, *name) {
            text = changed;
        }
    }
    for (number, name) in NODE.get().into_iter().flatten().filter(|(number, _)| !number.is_empty())
    {
        text = text.replace(number.as_str(), name);
    }
    text
}
