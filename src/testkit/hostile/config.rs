//! The laws of the configuration: no file and no command line makes the kubelet panic, what it
//! refuses it names, and what it accepts it writes so that it is read back the same.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::Choices;
use crate::config::{ConfigError, Host, Loaded, defaults, load_on};
use crate::linux::fs::write_atomic;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
const HOST: Host = Host { cgroup_v2: true };
/// Fields that the defaults do not write.
const UNWRITTEN: [&str; 24] = [
    "staticPodURL",
    "staticPodURLHeader",
    "tlsCipherSuites",
    "tlsMinVersion",
    "clusterDNS",
    "clusterDomain",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "evictionMinimumReclaim",
    "evictionHard",
    "featureGates",
    "reservedMemory",
    "registerWithTaints",
    "systemReserved",
    "kubeReserved",
    "reservedSystemCPUs",
    "allowedUnsafeSysctls",
    "showHiddenMetricsForVersion",
    "shutdownGracePeriodByPodPriority",
    "qosReserved",
    "topologyManagerPolicyOptions",
    "cpuManagerPolicyOptions",
    "crashLoopBackOff",
    "userNamespaces",
];
/// Fields that the API leaves out when they are empty although their default is not: upstream loses
/// them, too.
const LOST_WHEN_EMPTY: [&str; 2] = ["enforceNodeAllocatable", "evictionHard"];
/// Values of which most fit nowhere.
const VALUES: [&str; 40] = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "2147483648",
    "-9223372036854775808",
    "18446744073709551615",
    "1.5",
    "1e308",
    "-0.0",
    r#""""#,
    r#""x""#,
    r#""0""#,
    r#""-1s""#,
    r#""9999999h""#,
    r#""2562047h47m16.854775807s""#,
    r#""1Gi""#,
    r#""100%""#,
    r#""-5%""#,
    r#""0.1%""#,
    r#""\u0000""#,
    r#""../..""#,
    r#""0-3,5""#,
    r#""3-1""#,
    r#""0-99999999999""#,
    "[]",
    "[null]",
    r#"[""]"#,
    r#"["pods", "none"]"#,
    "{}",
    r#"{"a": null}"#,
    r#"{"cpu": "x"}"#,
    r#"{"memory.available": "1%"}"#,
    r#"{"memory.available": "99999999999999999999999Ei"}"#,
    r#"{"AllAlpha": true}"#,
    r#"[{"numaNode": -1, "limits": {"memory": "1"}}]"#,
    r#"[{"priority": 2147483647, "shutdownGracePeriodSeconds": -9}]"#,
    r#"[{"key": "a b", "effect": "Never"}, {"key": "a", "effect": "NoExecute"}]"#,
];

/// Loads a configuration that the bytes describe: a text as it is, a document with changed fields,
/// one with a drop-in file, or a command line.
pub fn check(input: &[u8], scratch: &Path) {
    let mut choices = Choices::new(input);
    let files = Files::new(scratch);
    match choices.below(6) {
        0 => files.one(&choices.remainder()),
        1 => files.one(&format!("{HEAD}{}", choices.remainder())),
        2 | 3 => {
            let (document, changed) = changed_document(&mut choices);
            let text = document.to_string();
            match files.load(&text, None) {
                Err(error) => names_something(&error, &changed),
                Ok(loaded) => files.is_read_back(&loaded),
            }
        }
        4 => {
            let (base, _) = changed_document(&mut choices);
            let patch = some_fields(&mut choices);
            let loaded = files.load(&base.to_string(), Some(&patch.to_string()));
            loaded.map_or_else(|error| says_why(&error), |loaded| files.is_read_back(&loaded));
        }
        _ => {
            let text = choices.remainder();
            let args: Vec<String> = text.lines().map(str::to_owned).collect();
            let loaded = load_on(&args, HOST);
            loaded.map_or_else(
                |refused| says_why(&refused.error),
                |loaded| drop(loaded.config.configz()),
            );
        }
    }
}

/// Every field of the document itself (not those within one) with each of the values, in the file
/// and in a drop-in: what random input meets once in a long while.
pub fn check_every_field(scratch: &Path) {
    let files = Files::new(scratch);
    let document = defaults::flag_defaults().configz()["kubeletconfig"].clone();
    let known =
        document.as_object().into_iter().flat_map(Map::keys).map(String::as_str).chain(UNWRITTEN);
    for name in known.filter(|name| !is_head(name)) {
        for value in
            VALUES.map(|value| serde_json::from_str::<Value>(value).expect("the table holds JSON"))
        {
            let mut changed = document.clone();
            changed[name] = value.clone();
            files.one(&changed.to_string());
            let patch = json!({ "kind": document["kind"], "apiVersion": document["apiVersion"], name: value });
            match files.load(&document.to_string(), Some(&patch.to_string())) {
                Ok(loaded) => files.is_read_back(&loaded),
                Err(error) => says_why(&error),
            }
        }
    }
}

struct Files {
    file: PathBuf,
    drop_ins: PathBuf,
}

impl Files {
    fn new(scratch: &Path) -> Self {
        let drop_ins = scratch.join("drop-ins");
        std::fs::create_dir(&drop_ins).expect("the scratch directory is empty");
        Self { file: scratch.join("config"), drop_ins }
    }

    fn one(&self, text: &str) {
        match self.load(text, None) {
            Ok(loaded) => self.is_read_back(&loaded),
            Err(error) => says_why(&error),
        }
    }

    fn load(&self, text: &str, drop_in: Option<&str>) -> Result<Loaded, ConfigError> {
        write_atomic(&self.file, text, 0o600).expect("writable");
        // Without a kubeconfig nobody can be asked about callers, which is refused.
        let mut args = vec![
            format!("--config={}", self.file.display()),
            "--kubeconfig=/etc/kubernetes/kubelet.conf".to_owned(),
        ];
        if let Some(drop_in) = drop_in {
            write_atomic(&self.drop_ins.join("10.conf"), drop_in, 0o600).expect("writable");
            args.push(format!("--config-dir={}", self.drop_ins.display()));
        }
        load_on(&args, HOST).map_err(|refused| refused.error)
    }

    /// What `/configz` shows of an accepted configuration is that configuration, but for the
    /// relative paths of a drop-in: read from a file they are that file's.
    fn is_read_back(&self, loaded: &Loaded) {
        assert!(loaded.warnings.iter().all(|warning| !warning.text.is_empty()));
        let shown = loaded.config.configz()["kubeletconfig"].to_string();
        let again = self.load(&shown, None).expect("what was accepted is accepted again").config;
        let directory = self.file.parent().expect("it is in the scratch directory");
        let (first, second) = (loaded.with_paths_of(directory).to_document(), again.to_document());
        let names = first
            .as_object()
            .into_iter()
            .chain(second.as_object())
            .flatten()
            .map(|(name, _)| name.as_str());
        let is_lost = |name: &&str| first[*name].is_null() && LOST_WHEN_EMPTY.contains(name);
        let changed: Vec<&str> =
            names.filter(|name| first[*name] != second[*name] && !is_lost(name)).collect();
        assert!(changed.is_empty(), "{changed:?} of {first} and of {second}");
    }
}

/// A refusal has a text that says more than that it is one.
fn says_why(error: &ConfigError) {
    let text = error.to_string();
    let says = match error {
        ConfigError::File { path, problem } => {
            text.contains(&path.display().to_string()) && !problem.is_empty()
        }
        ConfigError::DropIns { dir, problem } => text.contains(dir.as_str()) && !problem.is_empty(),
        ConfigError::Gates(problems)
        | ConfigError::Invalid(problems)
        | ConfigError::Startup(problems) => {
            !problems.is_empty() && problems.iter().all(|problem| !problem.is_empty())
        }
        ConfigError::Flags(_) | ConfigError::NodeLabels(_) => !text.is_empty(),
    };
    assert!(says, "{text}");
}

/// A refusal of a document that is an object of the right kind names one of the fields that were
/// changed, or what kind of thing it is ("taint"), or something of the value, or its place in the
/// file.
fn names_something(error: &ConfigError, changed: &[String]) {
    says_why(error);
    let text = error.to_string().to_lowercase();
    let names = |word: &String| {
        let (as_it_is, escaped) = (word.to_lowercase(), format!("{:?}", word.to_lowercase()));
        let kind = word.rfind(char::is_uppercase).map(|start| word[start..].to_lowercase());
        text.contains(&as_it_is)
            || text.contains(escaped.trim_matches('"'))
            || kind.is_some_and(|kind| text.contains(kind.trim_end_matches('s')))
    };
    assert!(
        text.contains(" at line ") || changed.iter().any(names),
        "{error} names none of {changed:?}"
    );
}

/// The defaults with some fields changed, and the words that a refusal may name.
fn changed_document(choices: &mut Choices<'_>) -> (Value, Vec<String>) {
    let mut document = defaults::flag_defaults().configz()["kubeletconfig"].clone();
    let mut changed = Vec::new();
    for _ in 0..=choices.below(4) {
        let Some(mut at) = document.as_object_mut() else { break };
        loop {
            let mut names: Vec<String> = at.keys().filter(|name| !is_head(name)).cloned().collect();
            names.extend(UNWRITTEN.map(str::to_owned));
            let name = choices.pick(&names).clone();
            changed.push(name.clone());
            let value = at.entry(name).or_insert(Value::Null);
            if value.as_object().is_none_or(Map::is_empty) || choices.one_in(3) {
                *value = arbitrary_value(choices);
                add_words(value, &mut changed);
                break;
            }
            at = value.as_object_mut().expect("it was one before");
        }
    }
    (document, changed)
}

/// The texts in a value and the names of its fields.
fn add_words(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::String(text) => words.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| add_words(item, words)),
        Value::Object(fields) => {
            words.extend(fields.keys().cloned());
            fields.values().for_each(|value| add_words(value, words));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A drop-in of a few fields.
fn some_fields(choices: &mut Choices<'_>) -> Value {
    let known = defaults::flag_defaults().configz()["kubeletconfig"].clone();
    let mut names: Vec<String> =
        known.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    names.extend(UNWRITTEN.map(str::to_owned));
    let mut fields: Map<String, Value> = (0..=choices.below(3))
        .map(|_| (choices.pick(&names).clone(), arbitrary_value(choices)))
        .filter(|(name, _)| !is_head(name))
        .collect();
    fields.extend(["kind", "apiVersion"].map(|name| (name.to_owned(), known[name].clone())));
    Value::Object(fields)
}

fn is_head(name: &str) -> bool {
    matches!(name, "kind" | "apiVersion")
}

fn arbitrary_value(choices: &mut Choices<'_>) -> Value {
    match choices.byte() {
        255 => Value::String(choices.text(40)),
        254 => Value::Array(vec![arbitrary_value(choices), arbitrary_value(choices)]),
        253 => (0..choices.byte()).fold(Value::Null, |inner, _| json!([inner])),
        252 => json!({ choices.text(10): arbitrary_value(choices) }),
        _ => serde_json::from_str(choices.pick::<&str>(&VALUES)).expect("the table holds JSON"),
    }
}
