//! Where the code is read from: the files on disk, or a commit of this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One state of the code.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// The files as they are.
    Disk,
    /// A commit, by any name that git knows.
    Commit(String),
}

impl Tree {
    /// The commit that a variable of the environment names, else the files on disk.
    pub(super) fn from_env(variable: &str) -> Self {
        std::env::var(variable).map_or(Self::Disk, Self::Commit)
    }

    /// The paths of all Rust files of `src`, from the repository's root, sorted.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = match self {
            Self::Disk => {
                let mut files = Vec::new();
                walk(&root().join("src"), &mut files);
                let relative = |path: PathBuf| {
                    path.strip_prefix(root()).expect("below the root").display().to_string()
                };
                files.into_iter().map(relative).collect()
            }
            Self::Commit(commit) => {
                let listed = git(&["ls-tree", "-r", "--name-only", commit, "src"]);
                listed.lines().map(str::to_owned).collect::<Vec<_>>()
            }
        };
        paths.retain(|path| is_rust(Path::new(path)));
        paths.sort();
        paths
    }

    /// The text of a file.
    pub(super) fn read(&self, path: &str) -> String {
        match self {
            Self::Disk => fs::read_to_string(root().join(path)).expect("readable"),
            Self::Commit(commit) => git(&["show", &format!("{commit}:{path}")]),
        }
    }

    /// The files of `src` that changed since `before`, each with its path then and now. A file that
    /// was moved counts as the same.
    pub(super) fn changed_since(&self, before: &str) -> Vec<(String, String)> {
        let mut args = vec!["diff", "--name-status", "--find-renames=40%", before];
        if let Self::Commit(commit) = self {
            args.push(commit);
        }
        args.extend(["--", "src"]);

        let mut changed = Vec::new();
        for line in git(&args).lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["M", path] => changed.push((path.to_owned(), path.to_owned())),
                [kind, then, now] if kind.starts_with('R') => {
                    changed.push((then.to_owned(), now.to_owned()));
                }
                // Added and removed files have nothing to compare.
                _ => {}
            }
        }
        changed.retain(|(_, now)| is_rust(Path::new(now)));
        changed.sort_by(|left, right| left.1.cmp(&right.1));
        changed
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// The output of git in this repository.
fn git(args: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(root()).args(args).output().expect("git runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {}: {said}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
