//! The repository's rules that no compiler checks. Each test prints every place that breaks its
//! rule, and the reason for which the rule exists.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders of `src` in import order: each may use those before it. `clock`, `watch` and `model` are
/// for all. `sources` stand before `desired`, which merges what they publish; they know nothing of it.
#[rustfmt::skip]
const ORDER: [&str; 30] = [
    "telemetry", "config", "model", "linux", "cri", "csi", "plugins", "cni", "apiserver", "certs", "resources", "images",
    "volumes", "probes", "pleg", "stats", "status", "admission", "sources", "desired", "dispatch", "pods", "eviction", "node",
    "server", "tools", "daemon", "testkit", "lib", "main",
];
const FOR_ALL: [&str; 3] = ["clock", "model", "watch"];

/// Folders of which every file only computes. Elsewhere a file says so itself, by the word "Pure" in
/// its own `//!`.
const PURE: [&str; 6] =
    ["admission", "config/validate", "model", "pods/memory", "pods/plan", "pods/request"];
/// What they therefore never name.
#[rustfmt::skip]
const IMPURE: [&str; 14] = [
    "async ", ".await", "tokio::", "Instant::", "SystemTime", "Timestamp::now", "std::fs", "std::env",
    "std::process", "std::net::Tcp", "std::thread", "rand::", "Clock", "println!",
];

/// Lines of a file before its tests.
const LONGEST_FILE: usize = 800;
/// Columns of a line of code.
const WIDEST_LINE: usize = 100;

pub(crate) struct Source {
    /// From the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The lines before the tests at the bottom, numbered from 1, without line comments.
    fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| *line != "#[cfg(test)]");
        lines
            .enumerate()
            .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }

    /// Returns true if the `//!` at the top has a sentence that begins with "Pure".
    fn says_pure(&self) -> bool {
        let mut head = self.text.lines().map_while(|line| line.strip_prefix("//!"));
        head.any(|line| ["Pure.", "Pure;", "Pure:"].iter().any(|word| line.contains(word)))
    }

    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// The folder or file below `src` that this is part of: `pods` of `src/pods/plan/mod.rs`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        rest.split(['/', '.']).next()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the repository that people write, in the order of paths.
pub(crate) fn sources() -> Vec<Source> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.expect("readable").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_symlink()
                || matches!(
                    name,
                    "target" | "gen" | "out" | ".git" | "corpus" | "artifacts" | "seeds"
                )
            {
                continue;
            }
            if path.is_dir() {
                walk(&path, files);
            } else {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples", "fuzz", "systemd", "cni-conf", "proto", ".ci"] {
        walk(&root().join(folder), &mut files);
    }
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "Cargo.toml",
        "Makefile",
        "deny.toml",
        ".clippy.toml",
    ] {
        files.push(root().join(name));
    }
    files.sort();
    let sources: Vec<Source> = files
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            Some(Source { path, text })
        })
        .collect();
    assert!(
        sources.iter().filter(|source| source.is_rust()).count() > 20,
        "the sources were not found"
    );
    sources
}

#[track_caller]
pub(crate) fn report(rule: &str, places: &[String]) {
    assert!(places.is_empty(), "\n{rule}\n\n  {}\n", places.join("\n  "));
}

/// The modules of this crate that a piece of code names: `b` and `c` of `use crate::{b::x, c};`.
fn modules_named(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        // `super_crate::` and `$crate::` are something else.
        if code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..start].matches('\n').count() + 1;
        let rest = &code[start + "crate::".len()..];
        let group = rest.strip_prefix('{').map(|group| group_members(group));
        for name in group.unwrap_or_else(|| vec![rest]) {
            let name: String = name
                .trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if !name.is_empty() {
                found.push((line, name));
            }
        }
    }
    found
}

/// The members of a `{…}` group, whose opening brace is already read.
fn group_members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (index, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => {
                members.push(&group[start..index]);
                break;
            }
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                members.push(&group[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    members
}

#[test]
fn imports_go_leftward_only() {
    let rank = |module: &str| ORDER.iter().position(|name| *name == module);
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let Some(module) = source.module() else { continue };
        if FOR_ALL.contains(&module) && module != "model" {
            continue;
        }
        let Some(own) = rank(module) else {
            places.push(format!("{}: {module} has no place in the import order", source.path));
            continue;
        };
        let code = source.production().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        for (line, used) in modules_named(&code) {
            let allowed = used == module
                || (FOR_ALL.contains(&used.as_str()) && module != "model")
                || rank(&used).is_some_and(|rank| rank < own)
                // A macro, a type or a function of the root.
                || !root().join("src").join(&used).exists() && !root().join(format!("src/{used}.rs")).exists();
            if !allowed {
                places.push(format!("{}:{line}: {module} uses {used}", source.path));
            }
        }
    }
    report(
        "Imports go leftward only, in the order of the architecture: a module that needs what is to its right is in \
         the wrong place, or what it needs is. Let the right one hand it a value, a handle or a small trait.",
        &places,
    );
}

#[test]
fn the_import_parser_sees_groups() {
    let code =
        "use crate::a::x;\nuse crate::{b, c::{d, e}};\nlet y = crate::f::g(); $crate::h; scrate::i";
    let names: Vec<String> = modules_named(code).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "b", "c", "f"]);
}

#[test]
fn files_say_what_they_are() {
    let silent = sources();
    let silent = silent.iter().filter(|source| source.is_rust() && !source.text.starts_with("//!"));
    let places: Vec<String> = silent.map(|source| source.path.clone()).collect();
    report(
        "Every file opens with `//!`: what it owns, who feeds it, what it never does. Who opens a file must not have to \
         read it to learn that.",
        &places,
    );
}

#[test]
fn files_and_lines_are_short() {
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > LONGEST_FILE {
            places.push(format!(
                "{}: {lines} lines before its tests, at most {LONGEST_FILE}",
                source.path
            ));
        }
        for (index, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            let most = WIDEST_LINE;
            // A text that tools match on stays in one piece, and so does a line of a case's YAML,
            // of a table, of a drawing, or of the help text.
            let whole = line.contains('"')
                || line.contains("  ")
                    && line.starts_with("//!")
                    && source.text.contains("```text")
                || line.starts_with("//! |")
                || source.path.ends_with("flags/help.rs")
                || (source.path.starts_with("tests/")
                    && (line.contains(": ") || line.contains(". ")));
            if columns > most && !whole && !line.ends_with('\\') {
                places.push(format!(
                    "{}:{}: {columns} columns, at most {most}",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    report(
        "A file is read as a whole and a line without scrolling: split files by what they answer.",
        &places,
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not break its own rule.
    let words: Vec<String> = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]]
        .iter()
        .map(|parts| parts.concat())
        .collect();
    let places = words_in(&words, |source| source.path != "Cargo.toml");
    report(
        "What is left for later is an issue, with a number and somebody who reads it; a note in the code is neither.",
        &places,
    );
}

#[test]
fn nothing_depends_on_one_machine() {
    let words: Vec<String> = [["/wo", "rk/"], ["/tmp", "/wt"], ["/ro", "ot/"], ["/ho", "me/"]]
        .iter()
        .map(|parts| parts.concat())
        .collect();
    let places = words_in(&words, |_| true);
    report(
        "A path of somebody's machine is wrong on every other: take it from the environment or from an argument.",
        &places,
    );
}

/// The places at which one of `words` stands alone.
fn words_in(words: &[String], of: impl Fn(&Source) -> bool) -> Vec<String> {
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| of(source)) {
        for (index, line) in source.text.lines().enumerate() {
            for word in words {
                let alone = line.match_indices(word.as_str()).any(|(start, _)| {
                    // `$x/root/` and `)/root/` are folders below something else.
                    let letter = |c: Option<char>| {
                        c.is_some_and(|c| c.is_alphanumeric() || "_)}.".contains(c))
                    };
                    !letter(line[..start].chars().next_back())
                        && (word.ends_with('/')
                            || !letter(line[start + word.len()..].chars().next()))
                });
                if alone {
                    places.push(format!("{}:{}: {word}", source.path, index + 1));
                }
            }
        }
    }
    places
}

#[test]
fn exceptions_from_lints_have_a_reason() {
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        for marker in ["allow(", "expect("] {
            for opening in ["#[", "#!["] {
                let attribute = format!("{opening}{marker}");
                for (start, _) in source.text.match_indices(&attribute) {
                    let end = source.text[start..]
                        .find(")]")
                        .map_or(source.text.len(), |length| start + length);
                    let quoted = source.text[..start].ends_with(['"', '`']);
                    if !quoted && !source.text[start..end].contains("reason =") {
                        let line = source.text[..start].matches('\n').count() + 1;
                        places.push(format!("{}:{line}", source.path));
                    }
                }
            }
        }
    }
    report(
        "An exception from a lint says why it is one: the next reader has to know whether it still holds.",
        &places,
    );
}

#[test]
fn pure_files_only_compute() {
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        let Some(path) = source.path.strip_prefix("src/") else { continue };
        let is_in = |folder: &&str| path.strip_prefix(*folder).is_some_and(|p| p.starts_with('/'));
        let is_pure = source.says_pure() || PURE.iter().any(is_in);
        if !is_pure {
            continue;
        }
        for (number, line) in source.production() {
            places.extend(
                IMPURE
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{}:{number}: {}", source.path, word.trim())),
            );
        }
    }
    report(
        "Deciding is pure: no waiting, clock, files, environment or randomness, so that every decision can be tested as \
         a table and replayed. Take what is needed as an argument; effects belong to the task beside it.",
        &places,
    );
}

#[test]
fn the_lists_of_this_file_name_what_exists() {
    let exists = |name: &str| {
        let path = root().join("src").join(name);
        path.is_dir() || path.with_extension("rs").is_file()
    };
    let names = ORDER.iter().chain(&FOR_ALL).chain(&PURE).chain(&BEING_WRITTEN);
    let places: Vec<String> =
        names.filter(|name| !exists(name)).map(|name| (*name).to_owned()).collect();
    report("A rule about a name that does not exist looks as if it held something.", &places);
}

#[test]
fn the_architecture_document_has_the_order_that_is_checked() {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("readable");
    let prose = text.replace("\n//! ", " ");
    let start = prose.find("`telemetry < ").expect("the order");
    let order = prose[start + 1..].split('`').next().unwrap_or_default();
    let written: Vec<&str> = order.split(" < ").collect();

    let program = ["testkit", "lib", "main"];
    let checked: Vec<&str> = ORDER.into_iter().filter(|folder| !program.contains(folder)).collect();
    assert_eq!(written, checked, "the code map of src/lib.rs beside ORDER of this file");
}

#[test]
fn unsafe_code_is_in_one_place() {
    let mut places = Vec::new();
    for source in
        sources().iter().filter(|source| source.is_rust() && !source.path.starts_with("src/linux/"))
    {
        for (number, line) in source.production() {
            if ["{", "fn", "impl", "extern"]
                .iter()
                .any(|what| line.contains(&format!("{} {what}", "unsafe")))
            {
                places.push(format!("{}:{number}", source.path));
            }
        }
    }
    report(
        "Unsafe code is in src/linux only, where each piece says why it is safe: elsewhere nobody looks for it.",
        &places,
    );
}

#[test]
fn every_file_is_part_of_the_program() {
    let sources = sources();
    let mut places = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let path = Path::new(&source.path);
        let (Some(folder), Some(stem)) =
            (path.parent(), path.file_stem().and_then(|stem| stem.to_str()))
        else {
            continue;
        };
        let (folder, name) = match stem {
            "main" | "lib" | "build" => continue,
            "mod" => (
                folder.parent().unwrap_or(folder),
                folder.file_name().and_then(|n| n.to_str()).unwrap_or_default(),
            ),
            _ => (folder, stem),
        };
        // Single files of tests/ are binaries of their own.
        if folder == Path::new("tests") {
            continue;
        }
        let declaration = format!("mod {name};");
        let beside = |parent: &Source| {
            Path::new(&parent.path).parent() == Some(folder)
                || parent.path == format!("{}.rs", folder.display())
        };
        let declared =
            sources.iter().filter(|source| source.is_rust() && beside(source)).any(|parent| {
                parent.text.lines().any(|line| {
                    line.trim_start().trim_start_matches("pub").ends_with(declaration.as_str())
                })
            });
        let included = sources.iter().any(|other| other.text.contains(&format!("{stem}.rs\"")));
        if !declared && !included {
            places.push(source.path.clone());
        }
    }
    report(
        "A file that no `mod` names is not compiled: it only looks as if it did something.",
        &places,
    );
}

#[test]
fn folders_have_content() {
    let mut places = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.path.starts_with("src/") && source.path.ends_with("/mod.rs"))
    {
        let code = source
            .text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("//"))
            .count();
        if code == 0 && !BEING_WRITTEN.contains(&source.module().unwrap_or_default()) {
            places.push(source.path.clone());
        }
    }
    report(
        "A folder appears when it has content: an empty one promises what is not there.",
        &places,
    );
}

/// Folders of the architecture that are being written and may still be empty.
const BEING_WRITTEN: [&str; 1] = ["server"];

#[test]
fn test_data_is_used() {
    let sources = sources();
    let mut places = Vec::new();
    for source in &sources {
        let path = Path::new(&source.path);
        let folders: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let users =
            |text: &str| sources.iter().any(|user| user.is_rust() && user.text.contains(text));
        if folders.contains(&"scenarios") {
            // The runner takes every text file of the folder.
            if path.extension().is_none_or(|extension| extension != "txt") || !users("scenarios") {
                places.push(source.path.clone());
            }
        } else if (folders.contains(&"testdata") || folders.contains(&"goldens"))
            && !users(name)
            && !folders.iter().any(|folder| {
                *folder != "tests" && *folder != "it" && users(&format!("{folder}\""))
            })
        {
            places.push(source.path.clone());
        }
    }
    report("A scenario or golden file that no test reads cannot fail.", &places);
}
