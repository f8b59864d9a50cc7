//! Renders the measures as a table, beside those of other codebases. Pure.

use std::fmt::Write as _;

use super::count::{Counts, Function};
use super::models::{self, MODELS};
use super::{Measured, types};

/// The table as Markdown: a line a measure, a column for each of `states`, then the models.
pub(super) fn table(states: &[(String, Vec<Measured>)]) -> String {
    let names = states.iter().map(|(name, _)| name.as_str()).chain(MODELS);
    let head: Vec<&str> = std::iter::once("measure").chain(names).collect();
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));

    let columns: Vec<Vec<(&str, String)>> = states.iter().map(|(_, files)| rows(files)).collect();
    let Some(first) = columns.first() else { return out };
    for (index, (name, _)) in first.iter().enumerate() {
        let own = columns.iter().map(|column| column[index].1.as_str());
        let models = models::figures(name).unwrap_or(["–"; 7]);
        let cells: Vec<&str> = own.chain(models).collect();
        writeln!(out, "| {name} | {} |", cells.join(" | ")).expect("a String takes everything");
    }
    out
}

/// The measures of one state, by name.
pub(super) fn rows(measured: &[Measured]) -> Vec<(&'static str, String)> {
    let sum = |figure: fn(&Counts) -> usize| -> usize {
        measured.iter().map(|file| figure(&file.counts)).sum()
    };
    let lines = sum(|counts| counts.non_blank);
    let body = sum(|counts| counts.body_lines);
    let functions: Vec<Function> =
        measured.iter().flat_map(|file| file.counts.functions.iter().copied()).collect();
    let mut rows = Vec::new();
    let mut row = |name: &'static str, value: String| rows.push((name, value));
    row("prod lines / files", format!("{} / {}", sum(|counts| counts.lines), measured.len()));
    row("file p50 / p90 / p99 / max", spread(measured.iter().map(|file| file.counts.lines)));
    row("fn p50 / p90 / p99 / max", spread(functions.iter().map(|function| function.lines)));
    let long = functions.iter().filter(|function| function.lines > 70).count();
    row("fn > 70 lines", share(long, functions.len()));
    row("params p50 / p90 / p99 / max", spread(functions.iter().map(|f| f.parameters)));
    let generic = functions.iter().filter(|function| function.is_generic).count();
    row("generic functions", share(generic, functions.len()));
    row("unsafe per kloc", per_kloc(sum(|counts| counts.unsafe_blocks), lines));
    row("public items documented", share(sum(|c| c.public_documented), sum(|c| c.public)));
    row("doc lines of non-blank", share(sum(|counts| counts.doc_lines), lines));
    row("plain comment lines of non-blank", share(sum(|counts| counts.comment_lines), lines));
    row("comment lines of body lines", share(sum(|counts| counts.body_comments), body));
    row("blank lines of body lines", share(sum(|counts| counts.body_blank), body));
    row("lines wider than 100", share(sum(|counts| counts.wide_lines), lines));
    row("closures of body lines", share(sum(|counts| counts.closures), body));
    row("chained calls of body lines", share(sum(|counts| counts.chained_calls), body));
    row("let (a, b) = (x, y) per kloc", per_kloc(sum(|counts| counts.paired_lets), lines));
    row("docs of three words at most", share(sum(|c| c.short_docs), sum(|c| c.docs)));
    row("_ => of arms", share(sum(|counts| counts.wildcard_arms), sum(|counts| counts.arms)));
    let refusals = [sum(|c| c.unwraps), sum(|c| c.expects), sum(|c| c.panics)];
    row("unwrap / expect / panic! per kloc", refusals.map(|n| per_kloc(n, lines)).join(" / "));
    row("Result<_, String> per kloc", per_kloc(sum(|counts| counts.text_errors), lines));
    row("log statements per kloc", per_kloc(sum(|counts| counts.logs), lines));
    hubs(measured, &mut row);
    rows
}

/// The largest types outside the configuration.
fn hubs(measured: &[Measured], row: &mut impl FnMut(&'static str, String)) {
    let types = types(measured);
    let largest = |figure: &dyn Fn(&super::TypeFacts) -> usize| {
        let mut found: Vec<(usize, usize, &str)> = types
            .iter()
            .filter(|((path, _), _)| !path.starts_with("src/config/"))
            .map(|((_, name), facts)| (figure(facts), facts.files, name.as_str()))
            .collect();
        found.sort_unstable_by(|left, right| right.cmp(left));
        found.truncate(5);
        found
    };
    let named = |found: Vec<(usize, usize, &str)>| {
        found.iter().map(|(n, _, name)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
    };
    row("largest structs (fields)", named(largest(&|facts| facts.fields)));
    row("most booleans in a struct", named(largest(&|facts| facts.booleans)));
    let methods = largest(&|facts| facts.methods);
    let methods: Vec<String> =
        methods.iter().map(|(n, files, name)| format!("{name} {n} · {files}")).collect();
    row("methods on a type · files", methods.join(", "));
}

fn spread(values: impl Iterator<Item = usize>) -> String {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    let at = |percent: usize| values.get(values.len() * percent / 100).copied().unwrap_or_default();
    format!("{} / {} / {} / {}", at(50), at(90), at(99), values.last().copied().unwrap_or_default())
}

fn share(part: usize, whole: usize) -> String {
    let tenths = part * 1000 / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn per_kloc(count: usize, lines: usize) -> String {
    let hundredths = count * 100_000 / lines.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
