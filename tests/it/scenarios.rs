//! Plays every scenario under `tests/it/scenarios` and compares its transcripts; `UPDATE=1`
//! rewrites them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rkubelet::internals::testkit::scenario;

#[test]
fn scenarios_play_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scenarios");
    let update = std::env::var_os("UPDATE").is_some();
    let mut problems = String::new();
    let files = files(&folder);
    assert!(files.len() >= 60, "scenarios are missing: only {} were found", files.len());
    for file in files {
        let written = std::fs::read_to_string(&file).expect("a readable scenario");
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        if !written.starts_with("# ") {
            let _ = writeln!(problems, "{name}: it must begin with a one-line heading");
        }
        match scenario::replay(&written) {
            Ok(played) if played == written => {}
            Ok(played) if update => std::fs::write(&file, played).expect("a writable scenario"),
            Ok(played) => {
                let _ = writeln!(
                    problems,
                    "{name}: the planner does something else now (UPDATE=1 rewrites):"
                );
                let differing = played.lines().zip(written.lines()).find(|(now, then)| now != then);
                if let Some((now, then)) = differing {
                    let _ = writeln!(problems, "  written: {then}\n  played:  {now}");
                }
            }
            Err(problem) => {
                let _ = writeln!(problems, "{name}: {problem}");
            }
        }
    }
    assert!(problems.is_empty(), "\n{problems}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder of scenarios");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}
