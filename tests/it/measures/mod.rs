//! Measures of the code as a whole, taken from its syntax trees, and the laws that follow from
//! them: no type whose methods or fields are spread over a room, no circle between files, errors
//! that are types.
//!
//! `make measures` prints the table beside the figures of other codebases (`models`). With
//! `BEFORE=COMMIT` it has a column for that commit, and samples of the prose and of the bodies
//! before and after (`proofs`); `AFTER=COMMIT` takes a commit in place of the files on disk.
//!
//! What only computes is in `count`; the exceptions, each with its reason, are in `exceptions`.

mod circles;
mod count;
mod exceptions;
mod models;
mod proofs;
mod table;
mod tree;

use std::collections::BTreeMap;

use self::count::{Counts, TypeFacts, count_file};
use self::exceptions::{BOOLEANS, CIRCLES, Exception, FIELDS, METHODS};
use self::proofs::Pair;
use self::tree::Tree;

/// Methods of one type, over all files of its room.
const MOST_METHODS: usize = 40;
/// Fields of one struct.
const MOST_FIELDS: usize = 15;
/// Booleans in one struct.
const MOST_BOOLEANS: usize = 3;
/// Results whose error is a text, in the whole program: it only shrinks.
const MOST_TEXT_ERRORS: usize = 40;

/// One file of production code, with its counts.
struct Measured {
    /// From the repository's root: `src/pleg/task.rs`.
    path: String,
    counts: Counts,
}

/// Every file of `src` that is part of the program: no tests, no fakes, no testkit.
fn measured() -> Vec<Measured> {
    measured_of(&Tree::Disk)
}

fn measured_of(tree: &Tree) -> Vec<Measured> {
    let paths = tree.paths().into_iter().filter(|path| is_production(path));
    let measured: Vec<Measured> = paths
        .map(|path| {
            let counts = count_file(&tree.read(&path)).map_err(|error| format!("{path}: {error}"));
            let counts = counts.expect("a file of the program is Rust");
            Measured { path, counts }
        })
        .collect();
    assert!(measured.len() > 100, "the sources were not found");
    measured
}

/// False for tests, fakes and what only they use.
fn is_production(path: &str) -> bool {
    let is_for_tests = |part: &str| {
        matches!(part, "fake" | "testkit" | "tests" | "simulated.rs" | "tests.rs" | "fake.rs")
            || part.ends_with("_tests.rs")
            || part.ends_with("_tests")
    };
    !path.split('/').any(is_for_tests)
}

/// The types of the program by the folder that declares them and their name, each with its methods
/// in all files of its
/// room.
fn types(measured: &[Measured]) -> BTreeMap<(String, String), TypeFacts> {
    let mut types: BTreeMap<(String, String), TypeFacts> = BTreeMap::new();
    for file in measured {
        for (name, facts) in &file.counts.types {
            types.insert((file.path.clone(), name.clone()), facts.clone());
        }
    }
    for file in measured {
        for (name, methods) in &file.counts.methods {
            let Some(home) = home(&types, &file.path, name) else { continue };
            let facts = types.entry((home, name.clone())).or_default();
            facts.methods += methods;
            facts.files += 1;
        }
    }
    types
}

/// The file that declares the type `name` which `path` implements: the file itself, else the
/// nearest one above.
fn home(types: &BTreeMap<(String, String), TypeFacts>, path: &str, name: &str) -> Option<String> {
    let shared = |other: &str| {
        path.split('/').zip(other.split('/')).take_while(|(left, right)| left == right).count()
    };
    types
        .keys()
        .filter(|(_, known)| known == name)
        .map(|(file, _)| file)
        .max_by_key(|file| (*file == path, shared(file)))
        .filter(|file| shared(file) >= 2)
        .cloned()
}

/// Fails with the places that break a rule and are no exceptions, and with exceptions that are none
/// any more.
#[track_caller]
fn judge(rule: &str, found: &BTreeMap<String, String>, exceptions: &[Exception]) {
    let mut places: Vec<String> = found
        .iter()
        .filter(|(key, _)| !exceptions.iter().any(|exception| exception.place == *key))
        .map(|(key, figure)| format!("{key}: {figure}"))
        .collect();
    let outdated = exceptions.iter().filter(|exception| !found.contains_key(exception.place));
    places
        .extend(outdated.map(|exception| format!("{}: is no exception any more", exception.place)));
    assert!(
        exceptions.iter().all(|exception| exception.reason.len() > 20),
        "a reason is a sentence"
    );
    assert!(places.is_empty(), "\n{rule}\n\n  {}\n", places.join("\n  "));
}

fn by_type(
    types: &BTreeMap<(String, String), TypeFacts>,
    figure: impl Fn(&TypeFacts) -> usize,
    most: usize,
) -> BTreeMap<String, String> {
    let over = types
        .iter()
        .filter(|((path, _), facts)| figure(facts) > most && !path.starts_with("src/config/"));
    over.map(|((path, name), facts)| {
        (format!("{path}::{name}"), format!("{}, at most {most}", figure(facts)))
    })
    .collect()
}

#[test]
fn no_type_has_methods_for_everything() {
    judge(
        "A type with more methods than one can hold in mind is a hub, however many files they lie in: split it by \
         what its parts are responsible for.",
        &by_type(&types(&measured()), |facts| facts.methods, MOST_METHODS),
        &METHODS,
    );
}

#[test]
fn no_struct_knows_everything() {
    let types = types(&measured());
    judge(
        "A struct with so many fields is several things: group those that change together.",
        &by_type(&types, |facts| facts.fields, MOST_FIELDS),
        &FIELDS,
    );
    judge(
        "Booleans side by side have combinations that nobody meant: make the states an enum that carries its data.",
        &by_type(&types, |facts| facts.booleans, MOST_BOOLEANS),
        &BOOLEANS,
    );
}

#[test]
fn files_do_not_go_in_circles() {
    let found = circles::circles(&measured());
    judge(
        "Files that import each other can only be read together: move what both need into a third.",
        &found.into_iter().map(|circle| (circle.clone(), "a circle".to_owned())).collect(),
        &CIRCLES,
    );
}

#[test]
fn errors_are_types() {
    let counted = measured().into_iter().filter(|file| file.counts.text_errors > 0);
    let found: Vec<(usize, String)> =
        counted.map(|file| (file.counts.text_errors, file.path)).collect();
    let total: usize = found.iter().map(|(count, _)| count).sum();
    let list: Vec<String> = found.iter().map(|(count, path)| format!("{path}: {count}")).collect();
    assert!(
        total <= MOST_TEXT_ERRORS,
        "\nAn error is an enum that keeps its source; a text only where it is upstream's, byte for \
         byte. {total} × Result<_, String>, at most {MOST_TEXT_ERRORS}:\n\n  {}\n",
        list.join("\n  ")
    );
}

/// Returns the table, and with `BEFORE` the samples of what changed since.
fn report() -> String {
    let after = Tree::from_env("AFTER");
    let mut columns = Vec::new();
    let before = std::env::var("BEFORE").ok();
    if let Some(before) = &before {
        columns.push((before.clone(), measured_of(&Tree::Commit(before.clone()))));
    }
    let now = match &after {
        Tree::Disk => "now".to_owned(),
        Tree::Commit(commit) => commit.clone(),
    };
    columns.push((now, measured_of(&after)));
    let table = table::table(&columns);

    let Some(before) = before else { return table };
    let then = Tree::Commit(before.clone());
    let changed = after.changed_since(&before);
    let pairs: Vec<Pair> = changed
        .into_iter()
        .filter(|(_, path)| is_production(path))
        .map(|(old, path)| Pair { before: then.read(&old), after: after.read(&path), path })
        .collect();
    let samples = proofs::samples(&pairs);
    format!("{table}\n{} files changed since {before}.\n{samples}", pairs.len())
}

#[test]
fn the_table_measures_the_models_by_the_same_names() {
    println!("{}", report());
    let rows = table::rows(&measured());
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    let models: Vec<&str> = models::FIGURES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, models);
}
