//! `rkubelet config validate`, `diff` and `explain`: flags and files as the start would read them.
//!
//! They read what the flags name, and never talk to the kubelet that runs.

use std::fmt::Write as _;

use serde_json::Value;

use super::pods::pretty;
use super::{HELP, Tool, ToolError, client, usage};
use crate::config::{self, Effect, Loaded};

/// Runs the tool of that word. Blocks.
pub(super) fn run(args: &[String]) -> Result<String, ToolError> {
    let (json, args) = without_output(args)?;
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return Ok(HELP.to_owned());
    }
    match args.split_first() {
        Some((word, flags)) if word == "validate" => validate(flags, json),
        Some((word, flags)) if word == "diff" => diff(flags, json),
        Some((word, rest)) if word == "explain" => match rest.split_first() {
            Some((field, flags)) if !field.starts_with('-') => explain(field, flags, json),
            Some(_) | None => Err(usage(
                Tool::Config,
                "name a field first: rkubelet config explain maxPods".to_owned(),
            )),
        },
        Some((word, _)) => {
            Err(usage(Tool::Config, format!("no tool {word:?}: validate, diff or explain")))
        }
        None => Err(usage(Tool::Config, "say validate, diff or explain".to_owned())),
    }
}

/// Takes the option of the output out of the kubelet's flags.
fn without_output(args: &[String]) -> Result<(bool, Vec<String>), ToolError> {
    let mut json = false;
    let mut rest = Vec::new();
    let mut all = args.iter();
    while let Some(arg) = all.next() {
        let form = if arg == "-o" || arg == "--output" {
            all.next().map_or("", String::as_str)
        } else if let Some(form) = arg.strip_prefix("--output=").or_else(|| arg.strip_prefix("-o="))
        {
            form
        } else {
            rest.push(arg.clone());
            continue;
        };
        json = super::is_json(form)
            .ok_or_else(|| usage(Tool::Config, format!("no output {form:?}: text or json")))?;
    }
    Ok((json, rest))
}

fn load(flags: &[String]) -> Result<Loaded, ToolError> {
    config::load(flags).map_err(|refused| {
        let mut text = format!("refused: {}", refused.error);
        for warning in &refused.warnings {
            let _ = write!(text, "\nwarning: {}", warning.text);
        }
        ToolError::Refused(text)
    })
}

fn validate(flags: &[String], json: bool) -> Result<String, ToolError> {
    let loaded = load(flags)?;
    let warnings: Vec<&str> = loaded.warnings.iter().map(|warning| warning.text.as_str()).collect();
    if json {
        return Ok(pretty(&serde_json::json!({ "valid": true, "warnings": warnings }))?);
    }
    let mut text = String::new();
    for warning in &warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for notice in &loaded.deprecated_flags {
        let _ = writeln!(text, "{notice}");
    }
    text.push_str("The configuration is valid.\n");
    Ok(text)
}

/// A field whose value is not that of a file which sets nothing.
#[derive(serde::Serialize)]
struct Difference {
    field: &'static str,
    default: Value,
    value: Value,
}

fn diff(flags: &[String], json: bool) -> Result<String, ToolError> {
    let value = load(flags)?.config.to_document();
    let default = config::file_defaults().to_document();
    let differences: Vec<Difference> = config::field_names()
        .map(|field| Difference { field, default: at(&default, field), value: at(&value, field) })
        .filter(|difference| difference.default != difference.value)
        .collect();
    if json {
        return Ok(pretty(&differences)?);
    }
    if differences.is_empty() {
        return Ok("Every field has the default of a file.\n".to_owned());
    }
    let rows: Vec<Vec<String>> = differences
        .iter()
        .map(|one| vec![one.field.to_owned(), shown(&one.default), shown(&one.value)])
        .collect();
    Ok(super::table::columns(&["FIELD", "DEFAULT", "VALUE"], &rows))
}

fn explain(field: &str, flags: &[String], json: bool) -> Result<String, ToolError> {
    let Some(found) = config::explain(field) else {
        let similar = config::similar(field);
        let hint = if similar.is_empty() {
            "rkubelet config diff -o json names those that are set".to_owned()
        } else {
            format!("did you mean {}?", similar.join(", "))
        };
        return Err(usage(Tool::Config, format!("no field {field:?}: {hint}")));
    };
    let loaded = load(flags)?;
    let value = at(&loaded.config.to_document(), found.field);
    let default = at(&config::file_defaults().to_document(), found.field);
    let effect = match found.effect {
        Effect::Yes => "as in upstream's kubelet".to_owned(),
        Effect::Partly(what) => what.to_owned(),
        Effect::No => "none in this version".to_owned(),
        Effect::Never => "none: what it was for no longer exists".to_owned(),
    };
    if json {
        let flag = found.flag.map(|(name, _)| name);
        let all = serde_json::json!({
            "field": found.field, "value": value, "default": default, "effect": effect, "flag": flag,
        });
        return Ok(pretty(&all)?);
    }

    let mut text = format!(
        "field     {}\nvalue     {}\ndefault   {}\neffect    {effect}\n",
        found.field,
        shown(&value),
        shown(&default),
    );
    if let Some((name, help)) = found.flag {
        let _ =
            writeln!(text, "flag      --{name} (deprecated; wins over the file)\n          {help}");
    }
    Ok(text)
}

/// Returns the value at a path of names, e.g. `authentication.anonymous.enabled`.
fn at(document: &Value, path: &str) -> Value {
    let found = path.split('.').try_fold(document, |value, name| value.get(name));
    found.cloned().unwrap_or(Value::Null)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "(not set)".to_owned(),
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::String(_)
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_) => value.to_string(),
    }
}

impl From<serde_json::Error> for ToolError {
    fn from(error: serde_json::Error) -> Self {
        Self::Ask(client::AskError::Unreadable(error))
    }
}

#[cfg(test)]
mod tests {
    use super::run;

    fn config(words: &[&str], file: &str) -> Result<String, String> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.yaml");
        let head = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n\
                    authentication: {webhook: {enabled: false}}\nauthorization: {mode: AlwaysAllow}\n";
        let text = format!("{head}{file}");
        crate::linux::fs::write_atomic(&path, text.as_bytes(), 0o600).expect("written");
        let mut args: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        args.push(format!("--config={}", path.display()));
        run(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_valid_file_is_valid_and_a_bad_one_names_the_field() {
        let valid = config(&["validate"], "failCgroupV1: false\n").expect("valid");
        assert!(valid.ends_with("The configuration is valid.\n"), "{valid}");
        let refused = config(&["validate"], "maxPods: -1\n").expect_err("refused");
        assert!(refused.contains("maxPods"), "{refused}");
    }

    #[test]
    fn what_differs_is_listed() {
        let text = config(&["diff"], "failCgroupV1: false\nmaxPods: 7\n").expect("valid");
        assert!(text.contains("maxPods"), "{text}");
        assert!(text.lines().count() <= 5, "{text}");
        let json = config(&["diff", "-o", "json"], "failCgroupV1: false\nmaxPods: 7\n");
        let json: serde_json::Value = serde_json::from_str(&json.expect("valid")).expect("JSON");
        assert!(json.to_string().contains("\"default\":110"), "{json}");
    }

    #[test]
    fn a_field_is_explained() {
        let text = config(&["explain", "maxPods"], "failCgroupV1: false\nmaxPods: 7\n");
        let text = text.expect("known");
        for part in ["value     7", "default   110", "as in upstream's kubelet", "--max-pods"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let unknown = config(&["explain", "maxpods"], "failCgroupV1: false\n");
        assert!(unknown.expect_err("unknown").contains("did you mean maxPods?"));
    }
}
