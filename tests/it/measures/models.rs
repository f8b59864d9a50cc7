//! The same measures of five other codebases, as the design's study counted them. Pure.
//!
//! They are examples to learn from, not limits: `exceptions` and the constants of `super` are the
//! limits.

/// The codebases, in the order of the figures.
pub(super) const MODELS: [&str; 7] = [
    "propolis-server",
    "ztunnel",
    "linkerd2-proxy",
    "config-reconciler",
    "sled-agent/src",
    "kube-runtime",
    "kube-client",
];

/// The figures by the name of the measure, as [`super::table`] writes it. `–` was not counted.
#[rustfmt::skip]
pub(super) const FIGURES: [(&str, [&str; 7]); 24] = [
    ("prod lines / files", ["13647 / 33", "24166 / 78", "63382 / 407", "11487 / 25", "33349 / 64", "6437 / 22", "9513 / 33"]),
    ("file p50 / p90 / p99 / max", ["350 / 884 / 1658 / 1658", "207 / 830 / 1214 / 1214", "117 / 322 / 554 / 1084", "297 / 1180 / 1485 / 1485", "241 / 1318 / 4054 / 4054", "216 / 413 / 1711 / 1711", "240 / 617 / 802 / 802"]),
    ("fn p50 / p90 / p99 / max", ["12 / 56 / 183 / 220", "8 / 37 / 123 / 400", "6 / 26 / 87 / 542", "12 / 68 / 232 / 309", "12 / 49 / 166 / 993", "7 / 25 / 106 / 206", "8 / 29 / 86 / 124"]),
    ("fn > 70 lines", ["7.7 %", "3.0 %", "1.6 %", "8.9 %", "6.1 %", "1.4 %", "2.3 %"]),
    ("params p50 / p90 / p99 / max", ["– / 3 / 6 / 7", "– / 3 / 6 / 10", "– / 2 / 4 / 8", "– / 4 / 6 / 15", "– / 3 / 6 / 10", "– / 3 / 4 / 6", "– / 3 / 5 / 6"]),
    ("generic functions", ["1.0 %", "8.1 %", "12.5 %", "15.3 %", "1.3 %", "29.9 %", "13.9 %"]),
    ("unsafe per kloc", ["0.07", "0.21", "0.05", "0", "0.21", "0", "0"]),
    ("public items documented", ["38 %", "19 %", "26 %", "49 %", "41 %", "91 %", "89 %"]),
    ("doc lines of non-blank", ["10.7 %", "3.3 %", "5.4 %", "9.8 %", "5.2 %", "35.5 %", "29.4 %"]),
    ("plain comment lines of non-blank", ["8.4 %", "12.7 %", "5.3 %", "11.6 %", "8.9 %", "2.7 %", "3.3 %"]),
    ("comment lines of body lines", ["8.4 %", "8.0 %", "5.6 %", "12.7 %", "–", "5.0 %", "–"]),
    ("blank lines of body lines", ["6.5 %", "4.3 %", "5.3 %", "4.8 %", "–", "1.2 %", "–"]),
    ("lines wider than 100", ["0.1 %", "0.2 %", "0.1 %", "0.0 %", "–", "0.9 %", "–"]),
    ("closures of body lines", ["1.4 %", "2.0 %", "1.6 %", "1.5 %", "–", "1.8 %", "–"]),
    ("chained calls of body lines", ["4.4 %", "6.5 %", "5.7 %", "3.4 %", "–", "4.8 %", "–"]),
    ("let (a, b) = (x, y) per kloc", ["0", "0.05", "0.02", "0", "–", "0", "–"]),
    ("docs of three words at most", ["3.0 %", "0.9 %", "4.3 %", "1.1 %", "–", "2.9 %", "–"]),
    ("_ => of arms", ["5.0 %", "5.5 %", "3.6 %", "0.2 %", "1.9 %", "0.8 %", "6.1 %"]),
    ("unwrap / expect / panic! per kloc", ["5.6 / 1.7 / 1.6", "2.4 / 2.9 / 0.4", "0.4 / 1.9 / 0.3", "1.1 / 1.0 / 1.2", "5.7 / 1.7 / 1.1", "0.6 / 1.1 / 0.3", "0.1 / 0.5 / 0.3"]),
    ("Result<_, String> per kloc", ["0", "0", "0.03", "0", "–", "0", "–"]),
    ("log statements per kloc", ["11.7", "9.0", "8.7", "10.0", "–", "4.1", "–"]),
    ("largest structs (fields)", ["14", "Config 54, Workload 25", "13", "14", "–", "7", "–"]),
    ("most booleans in a struct", ["3", "2", "3", "1", "–", "1", "–"]),
    ("methods on a type · files", ["VmObjectsLocked 29 · 1", "22 · 1", "Http 61 · 11", "17 · 1", "–", "27 · 1", "–"]),
];

/// The models' figures of one measure.
pub(super) fn figures(measure: &str) -> Option<[&'static str; 7]> {
    FIGURES.iter().find(|(name, _)| *name == measure).map(|(_, figures)| *figures)
}
