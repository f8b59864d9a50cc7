//! The rules that keep the documents true: what `src/lib.rs` and CONTRIBUTING.md name exists, and
//! what has to be named is.
//!
//! A name is written `pods/plan/mod.rs::plan`: a file, from `src` or from the repository's root, and
//! a declaration in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tidy::{report, root, sources};

/// The documents whose names are checked.
const DOCUMENTS: [&str; 2] = ["src/lib.rs", "CONTRIBUTING.md"];
/// Tasks that exist once for each pod: `daemon` does not start them.
const OF_EACH_POD: [&str; 2] = ["pod", "probes"];
/// What declares a name.
const DECLARES: [&str; 8] = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect("a document is readable")
}

/// The pieces of a text between back ticks, with the numbers of their lines.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let pieces = line.split('`').skip(1).step_by(2);
        found.extend(pieces.map(|piece| (index + 1, piece)));
    }
    found
}

/// The file or folder that a document names, from `src` or from the root.
fn find(path: &str) -> Option<PathBuf> {
    ["src", ""].iter().map(|from| root().join(from).join(path)).find(|path| path.exists())
}

/// True if a text declares `name`.
fn declares(text: &str, name: &str) -> bool {
    DECLARES.iter().any(|word| {
        let declaration = format!("{word} {name}");
        text.match_indices(&declaration).any(|(start, _)| {
            let after = text[start + declaration.len()..].chars().next();
            let before = text[..start].chars().next_back();
            let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !is_letter(after) && !is_letter(before)
        })
    })
}

/// What is wrong with a name; nothing if it is no name of a file or folder.
fn wrong(name: &str) -> Option<String> {
    let (path, rest) = name.split_once("::").unwrap_or((name, ""));
    let is_path = path.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c));
    let has_extension = |wanted| Path::new(path).extension().is_some_and(|found| found == wanted);
    // A file's name alone, such as `mod.rs`, is no place.
    if !is_path || !path.contains('/') || !(has_extension("rs") || path.ends_with('/')) {
        return None;
    }
    let Some(found) = find(path) else { return Some(format!("there is no {path}")) };
    if rest.is_empty() {
        return None;
    }
    let text = fs::read_to_string(&found).unwrap_or_default();
    let missing = rest.split("::").find(|name| !declares(&text, name))?;
    Some(format!("{path} declares no {missing}"))
}

#[test]
fn what_the_documents_name_exists() {
    let mut places = Vec::new();
    let mut names = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for (line, name) in quoted(&text) {
            names += usize::from(name.contains(".rs"));
            places.extend(wrong(name).map(|wrong| format!("{document}:{line}: {wrong}")));
        }
    }
    assert!(names > 80, "the names were not found");
    report(
        "A document that names what has gone leads its reader astray: name the file and the declaration that do it now.",
        &places,
    );
}

#[test]
fn a_new_room_touches_two_central_places_at_most() {
    let text = read("CONTRIBUTING.md");
    let section = text.split("## Where does it go?").nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 3, "the tasks were not found: {rows:?}");

    let mut places = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let central = quoted(cells.last().copied().unwrap_or_default());
        let files: BTreeSet<&str> = central
            .iter()
            .filter_map(|(_, name)| name.split("::").next())
            .filter(|path| path.starts_with("src/daemon/"))
            .collect();
        if files.is_empty() || files.len() > 2 {
            places.push(format!("{}: {files:?}", cells[0].trim()));
        }
    }
    report(
        "A new room starts in one file of `daemon/wire` and joins another at most: more means that a seam is missing.",
        &places,
    );
}

#[test]
fn every_task_is_in_the_table() {
    let mut started = BTreeSet::new();
    let daemon = sources().into_iter().filter(|source| source.path.starts_with("src/daemon/"));
    for source in daemon.filter(|source| !source.path.ends_with("tasks.rs")) {
        for call in [".run(", ".run_to_end(", ".group("] {
            for (start, _) in source.text.match_indices(call) {
                let argument = source.text[start + call.len()..].trim_start();
                let Some(name) = argument.strip_prefix('"') else { continue };
                started.insert(name.split('"').next().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(started.len() > 20, "the tasks were not found: {started:?}");
    started.extend(OF_EACH_POD.map(str::to_owned));

    let text = read("src/lib.rs");
    let section = text.split("# Tasks and their channels").nth(1).unwrap_or_default();
    let section = section.split("//! # ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("//! | "));
    let named: BTreeSet<String> = rows
        .filter_map(|row| row.split(" | ").next())
        .filter(|name| *name != "task")
        .map(str::to_owned)
        .collect();

    let missing = started.difference(&named).map(|name| format!("src/lib.rs lacks {name:?}"));
    let gone = named.difference(&started).map(|name| format!("no task is called {name:?}"));
    report(
        "The table of tasks in src/lib.rs says who owns which state: a task of `daemon` has a row, and a row a task.",
        &missing.chain(gone).collect::<Vec<_>>(),
    );
}

/// The numbers of the invariants that `src/lib.rs` lists.
fn invariants() -> Vec<usize> {
    let text = read("src/lib.rs");
    let list = text.split("//! # Invariants").nth(1).unwrap_or_default();
    let items = list.lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". **"));
    items.filter_map(|(number, _)| number.parse().ok()).collect()
}

/// The numbers that a citation begins with: of ` 7`, `s 3 and 4`, `s 1, 2 and 5`, `s 2 to 4`.
fn cited(text: &str) -> Vec<usize> {
    let mut rest = text.strip_prefix('s').unwrap_or(text).trim_start();
    let mut numbers = Vec::new();
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(number) = rest[..digits].parse() else { return numbers };
        numbers.push(number);
        rest = rest[digits..].trim_start();

        let after = [", and ", ", ", "and ", "or ", "to "]
            .iter()
            .find_map(|between| rest.strip_prefix(between));
        let Some(after) = after else { return numbers };
        rest = after.trim_start();
    }
}

#[test]
fn every_number_of_a_citation_is_read() {
    assert_eq!(cited(" 7): the"), [7]);
    assert_eq!(cited("s 3 and 4 hold"), [3, 4]);
    assert_eq!(cited("s 1, 2, and 15"), [1, 2, 15]);
    assert_eq!(cited("s 2 to 4."), [2, 4]);
    assert_eq!(cited("s of 3 rooms"), Vec::<usize>::new());
    assert_eq!(cited(" 3, as 4 says"), [3]);
}

#[test]
fn invariants_are_cited_by_their_numbers() {
    let listed = invariants();
    assert_eq!(listed, (1..=listed.len()).collect::<Vec<_>>(), "the list of invariants");
    assert!(listed.len() > 10, "the invariants were not found");

    let mut places = Vec::new();
    for source in sources() {
        if source.path == "tests/it/documents.rs" {
            continue;
        }
        // A citation may be broken over two lines.
        let prose = source.text.replace("\n//!", "\n").replace("\n///", "\n");
        for (start, word) in prose.match_indices("invariant") {
            let line = prose[..start].matches('\n').count() + 1;
            let unlisted = cited(&prose[start + word.len()..])
                .into_iter()
                .filter(|cited| !listed.contains(cited));
            places.extend(
                unlisted.map(|number| {
                    format!("{}:{line}: there is no invariant {number}", source.path)
                }),
            );
        }
        for (index, line) in source.text.lines().enumerate() {
            let mut after =
                line.match_indices("rinciple ").map(|(at, word)| &line[at + word.len()..]);
            if after.any(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
                places.push(format!("{}:{}: a numbered principle", source.path, index + 1));
            }
        }
    }
    report(
        "The laws that hold everywhere are the invariants of src/lib.rs, and each is cited by its number there.",
        &places,
    );
}

#[test]
fn docs_of_files_name_modules_that_exist() {
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        let head = source.text.lines().take_while(|line| line.starts_with("//!"));
        let head = head.collect::<Vec<_>>().join("\n");
        for (line, name) in quoted(&head) {
            let name = name.strip_prefix("crate::").unwrap_or(name);
            let mut parts = name.split("::");
            let (Some(room), Some(part)) = (parts.next(), parts.next()) else { continue };
            let folder = root().join("src").join(room);
            let is_name = part.chars().all(|c| c.is_lowercase() || c == '_');
            if !is_name || part.is_empty() || !folder.is_dir() {
                continue;
            }
            let is_module =
                folder.join(part).is_dir() || folder.join(format!("{part}.rs")).is_file();
            // A function or a re-export of the room.
            let face = fs::read_to_string(folder.join("mod.rs")).unwrap_or_default();
            if !is_module && !declares(&face, part) && !face.contains(&format!("::{part}")) {
                places.push(format!("{}:{line}: there is no {room}::{part}", source.path));
            }
        }
    }
    report("A `//!` that names a module which is not there was true once.", &places);
}

#[test]
fn the_rules_see_what_is_wrong() {
    assert_eq!(wrong("model/lifecycle.rs::Lifecycle"), None);
    assert_eq!(wrong("mod.rs"), None);
    assert_eq!(wrong("tests/it/documents.rs::wrong"), None);
    assert_eq!(wrong("pods/"), None);
    assert_eq!(wrong("cargo test --lib"), None);
    assert!(wrong("model/ids.rs::NotThere").is_some());
    assert!(wrong("model/not_there.rs").is_some());
    assert!(wrong("not_there/").is_some());
    assert!(declares("pub(super) async fn run(self)", "run"));
    assert!(!declares("fn run_all()", "run"));
}
