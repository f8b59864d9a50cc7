//! A case: one YAML file of objects, and between them what is to be done and waited for.
//!
//! Objects are made from top to bottom. A line `#: …` is a step at its place: `until POD WANT…`
//! (see [`rkubelet_bed::look`]), `event POD REASON MESSAGE`, `patch KIND NAME JSON`, `delete POD
//! [GRACE]`, `gone POD`, `wait SECONDS`, `look POD` (takes the files and cgroups now, not at the
//! end), `kubectl ARGS…`, `node COMMAND…`, `static` (the next object is a manifest on the node's
//! disk), `fails` (the API server refuses the next object). A file without a step waits until its
//! pods have settled. Words are split at spaces, save between single quotes. At the end the pods
//! are looked at, deleted, and waited for.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// One manifest.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Create(String),
    CreateStatic(String),
    Until(String, Vec<String>),
    Event(String, String, String),
    Patch(String, String, String),
    Delete(String, Option<u32>),
    Gone(String),
    Wait(u64),
    Look(String),
    Kubectl(Vec<String>),
    Node(Vec<String>),
    Settle,
}

/// The cases of a folder, by name.
pub(crate) fn read_folder(folder: &Path) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .context("a name that is no text")?
            .to_owned();
        let text = std::fs::read_to_string(&path)?;
        let steps = parse(&text).with_context(|| format!("{}", path.display()))?;
        cases.push(Case { name, steps });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut object = String::new();
    let mut is_static = false;
    let mut waits = false;
    for line in text.lines() {
        let step = line.strip_prefix("#: ");
        if step.is_some() || line == "---" {
            finish(&mut object, &mut is_static, &mut steps);
        } else {
            object.push_str(line);
            object.push('\n');
        }
        match step.map(str::trim) {
            Some("static") => is_static = true,
            Some(step) => {
                let step = parse_step(step)?;
                waits |= matches!(
                    step,
                    Step::Until(..) | Step::Event(..) | Step::Gone(_) | Step::Wait(_)
                );
                steps.push(step);
            }
            None => {}
        }
    }
    // What is made after the last wait has not been waited for.
    waits &= object.lines().all(|line| line.trim().is_empty() || line.starts_with('#'));
    finish(&mut object, &mut is_static, &mut steps);
    if !waits {
        steps.push(Step::Settle);
    }
    Ok(steps)
}

fn finish(object: &mut String, is_static: &mut bool, steps: &mut Vec<Step>) {
    let text = std::mem::take(object);
    if text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        steps.push(if std::mem::take(is_static) {
            Step::CreateStatic(text)
        } else {
            Step::Create(text)
        });
    }
}

fn parse_step(step: &str) -> Result<Step> {
    let words = split(step);
    let word = |index: usize| {
        words.get(index).cloned().with_context(|| format!("\"{step}\" lacks a word"))
    };
    Ok(match word(0)?.as_str() {
        "until" => Step::Until(word(1)?, words[2..].to_vec()),
        "event" => Step::Event(word(1)?, word(2)?, word(3)?),
        "patch" => Step::Patch(word(1)?, word(2)?, word(3)?),
        "delete" => Step::Delete(word(1)?, words.get(2).map(|grace| grace.parse()).transpose()?),
        "gone" => Step::Gone(word(1)?),
        "wait" => Step::Wait(word(1)?.parse()?),
        "look" => Step::Look(word(1)?),
        "kubectl" => Step::Kubectl(words[1..].to_vec()),
        "node" => Step::Node(words[1..].to_vec()),
        other => bail!("no such step: {other}"),
    })
    .and_then(|step| {
        ensure!(!matches!(&step, Step::Until(_, wants) if wants.is_empty()), "until what?");
        Ok(step)
    })
}

/// Words at spaces; between single quotes a space is part of its word.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut started) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            '\'' => (quoted, started) = (!quoted, true),
            ' ' if !quoted => {
                if started {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            other => {
                word.push(other);
                started = true;
            }
        }
    }
    if started {
        words.push(word);
    }
    words
}
