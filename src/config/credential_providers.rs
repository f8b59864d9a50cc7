//! The configuration of credential provider plug-ins (`--image-credential-provider-config` and
//! `-bin-dir`): read and checked before anything starts. The texts are upstream's.
//!
//! A directory holds several files, which are merged in the order of their names. They are read
//! strictly: a field that is unknown or stands twice is an error.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::document;
use super::gates::{FeatureGates, Gate};
use super::types::GoDuration;
use super::validate::labels;

/// The API group of the file; its versions.
const FILE_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1alpha1", "kubelet.config.k8s.io/v1beta1"];
/// The versions of the API that plug-ins speak, in the order of their names.
const PLUGIN_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];
/// How long a plug-in's credentials for a service account are kept.
const CACHE_TYPES: [&str; 2] = ["ServiceAccount", "Token"];

/// One plug-in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Provider {
    /// The name of its program in the directory of plug-ins.
    pub name: String,
    /// The images that it has credentials for.
    pub match_images: Vec<String>,
    /// How long what it gave is kept unless it says otherwise.
    pub default_cache_duration: Option<GoDuration>,
    /// The version of the API that it speaks.
    pub api_version: String,
    /// The arguments of the program.
    pub args: Vec<String>,
    /// Variables besides those of the kubelet.
    pub env: Vec<Variable>,
    /// The parts of the pod's service account that the plug-in is given.
    pub token_attributes: Option<TokenAttributes>,
}

/// The plug-ins of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialProviders {
    /// Each plug-in, in the order of the configuration.
    pub providers: Vec<Provider>,
    /// The directory of their programs.
    pub bin_dir: PathBuf,
    /// The hash of the configuration's files, `sha256:…`: a label of a metric.
    pub hash: String,
}

/// A variable of a plug-in's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variable {
    /// The name of the variable.
    pub name: String,
    /// The value of the variable.
    pub value: String,
}

/// The parts of a pod's service account that a plug-in is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TokenAttributes {
    /// The audience of the token.
    pub service_account_token_audience: String,
    /// How long credentials are kept: for each service account, or for each token.
    pub cache_type: String,
    /// True if the plug-in is asked only for pods with a service account.
    pub require_service_account: Option<bool>,
    /// Annotations of the service account without which the plug-in is not asked.
    pub required_service_account_annotation_keys: Vec<String>,
    /// Annotations that are passed on if they are there.
    pub optional_service_account_annotation_keys: Vec<String>,
}

impl TokenAttributes {
    /// Returns true if credentials are kept per token, rather than per service account.
    pub fn is_cached_by_token(&self) -> bool {
        self.cache_type == "Token"
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct File {
    kind: String,
    api_version: String,
    providers: Vec<Provider>,
}

/// Reads and checks the plug-ins that two flags name.
pub(super) fn load(
    config: &str,
    bin_dir: &str,
    gates: &FeatureGates,
) -> Result<CredentialProviders, String> {
    match std::fs::metadata(bin_dir) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("plugin binary directory {bin_dir} did not exist"));
        }
        Err(error) => return Err(format!("error inspecting binary directory {bin_dir}: {error}")),
    }
    let (providers, hash) = read(config)?;
    let problems = validate(&providers, gates);
    if !problems.is_empty() {
        let problems = super::aggregate(&problems);
        return Err(format!("failed to validate credential provider config: {problems}"));
    }
    for provider in &providers {
        executable(&Path::new(bin_dir).join(&provider.name))?;
    }
    Ok(CredentialProviders { providers, bin_dir: PathBuf::from(bin_dir), hash })
}

fn executable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => Ok(()),
        Ok(_) => Err(format!("error inspecting binary executable {shown}: permission denied")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("plugin binary executable {shown} did not exist"))
        }
        Err(error) => Err(format!("error inspecting binary executable {shown}: {error}")),
    }
}

/// The plug-ins, and the hash of the files: each is hashed behind its length.
fn read(config: &str) -> Result<(Vec<Provider>, String), String> {
    if config.is_empty() {
        return Err("credential provider config path is empty".to_owned());
    }
    let mut providers: Vec<Provider> = Vec::new();
    let mut hasher = Sha256::new();
    for path in files(Path::new(config))? {
        let shown = path.display().to_string();
        let bytes = std::fs::read(&path)
            .map_err(|error| format!("unable to read file {shown:?}: {error}"))?;
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(&bytes);
        let file =
            decode(&bytes).map_err(|error| format!("error decoding config {shown:?}: {error}"))?;
        for provider in file {
            if providers.iter().any(|known| known.name == provider.name) {
                return Err(format!(
                    "duplicate provider name {:?} found in configuration file(s)",
                    provider.name
                ));
            }
            providers.push(provider);
        }
    }
    let hash: Vec<String> = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((providers, format!("sha256:{}", hash.concat())))
}

/// The file, or the files of the directory.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = path.display().to_string();
    let file = std::fs::metadata(path)
        .map_err(|error| format!("unable to access path {shown:?}: {error}"))?;
    if !file.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("unable to read directory {shown:?}: {error}"))?;
    let is_wanted = |path: &PathBuf| {
        let name = path.as_os_str().as_encoded_bytes();
        !path.is_dir() && [&b".json"[..], b".yaml", b".yml"].iter().any(|end| name.ends_with(end))
    };
    let mut files: Vec<PathBuf> =
        entries.iter().map(std::fs::DirEntry::path).filter(is_wanted).collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("no configuration files found in directory {shown:?}"));
    }
    Ok(files)
}

fn decode(bytes: &[u8]) -> Result<Vec<Provider>, String> {
    let read = document::read(bytes).map_err(|error| error.to_string())?;
    if let Some(field) = read.repeated.first() {
        return Err(format!("strict decoding error: key {field:?} already set in map"));
    }
    let text = |name: &str| read.value.get(name).and_then(serde_json::Value::as_str);
    let (kind, version) = (text("kind").unwrap_or(""), text("apiVersion").unwrap_or(""));
    for (name, value) in [("Kind", kind), ("apiVersion", version)] {
        if value.is_empty() {
            return Err(format!("Object '{name}' is missing"));
        }
    }
    if kind != "CredentialProviderConfig" || !FILE_VERSIONS.contains(&version) {
        return Err(format!("no kind {kind:?} is registered for version {version:?}"));
    }
    let file: File = serde_path_to_error::deserialize(&read.value)
        .map_err(|error| format!("strict decoding error: {}: {}", error.path(), error.inner()))?;
    Ok(file.providers)
}

fn validate(providers: &[Provider], gates: &FeatureGates) -> Vec<String> {
    let mut problems = Vec::new();
    if providers.is_empty() {
        problems.push("providers: Required value: at least 1 item in plugins is required".into());
    }
    for provider in providers {
        names(provider, &mut problems);
        if provider.match_images.is_empty() {
            problems.push(
                "providers.matchImages: Required value: at least 1 item in matchImages is required"
                    .to_owned(),
            );
        }
        match provider.default_cache_duration {
            None => problems.push("providers.defaultCacheDuration: Required value".to_owned()),
            Some(duration) if duration < GoDuration::ZERO => problems.push(format!(
                "providers.defaultCacheDuration: Invalid value: \"{duration}\": must be greater \
                 than or equal to 0"
            )),
            Some(_) => {}
        }
        if let Some(attributes) = &provider.token_attributes {
            token(provider, attributes, gates, &mut problems);
        }
    }
    problems
}

fn names(provider: &Provider, problems: &mut Vec<String>) {
    let name = &provider.name;
    for (wrong, problem) in [
        (name.contains('/'), "provider name cannot contain '/'"),
        (name.contains(' '), "provider name cannot contain spaces"),
        (name == ".", "provider name cannot be '.'"),
        (name == "..", "provider name cannot be '..'"),
    ] {
        if wrong {
            problems.push(format!("providers.name: Invalid value: {name:?}: {problem}"));
        }
    }
    let version = provider.api_version.as_str();
    if version.is_empty() {
        problems.push("providers.apiVersion: Required value".to_owned());
    } else if !PLUGIN_VERSIONS.contains(&version) {
        problems.push(not_supported("providers.apiVersion", version, &PLUGIN_VERSIONS));
    }
}

fn token(
    provider: &Provider,
    attributes: &TokenAttributes,
    gates: &FeatureGates,
    problems: &mut Vec<String>,
) {
    const FIELD: &str = "providers.tokenAttributes";

    let mut add = |text: &str| problems.push(format!("{FIELD}{text}"));
    if !gates.enabled(Gate::KUBELET_SERVICE_ACCOUNT_TOKEN_FOR_CREDENTIAL_PROVIDERS) {
        add(": Forbidden: tokenAttributes is not supported when \
             KubeletServiceAccountTokenForCredentialProviders feature gate is disabled");
    }
    if attributes.service_account_token_audience.is_empty() {
        add(".serviceAccountTokenAudience: Required value");
    }
    let required = &attributes.required_service_account_annotation_keys;
    let optional = &attributes.optional_service_account_annotation_keys;
    match attributes.require_service_account {
        None => add(".requireServiceAccount: Required value"),
        Some(false) if !required.is_empty() => add(
            ".requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be \
             false when requiredServiceAccountAnnotationKeys is set",
        ),
        Some(_) => {}
    }
    if provider.api_version != PLUGIN_VERSIONS[0] {
        add(&format!(
            ": Forbidden: tokenAttributes is only supported for {} API version",
            PLUGIN_VERSIONS[0]
        ));
    }
    for (name, keys) in [
        ("requiredServiceAccountAnnotationKeys", required),
        ("optionalServiceAccountAnnotationKeys", optional),
    ] {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for key in keys {
            for problem in labels::name_problems(&key.to_lowercase()) {
                add(&format!(".{name}: Invalid value: {key:?}: {problem}"));
            }
            if !seen.insert(key) {
                add(&format!(".{name}: Duplicate value: {key:?}"));
            }
        }
    }
    if required.iter().any(|key| optional.contains(key)) {
        add(": Invalid value: annotation keys cannot be both required and optional");
    }
    match attributes.cache_type.as_str() {
        "" => add(
            ".cacheType: Required value: cacheType is required to be set when tokenAttributes is \
             specified. Supported values are: ServiceAccount, Token",
        ),
        known if CACHE_TYPES.contains(&known) => {}
        other => {
            let text = not_supported(".cacheType", other, &CACHE_TYPES);
            add(&text);
        }
    }
}

fn not_supported(field: &str, value: &str, supported: &[&str]) -> String {
    let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
    format!("{field}: Unsupported value: {value:?}: supported values: {}", supported.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::write;

    const GOOD: &str = "{name: p, matchImages: ['*.example.com'], defaultCacheDuration: 1h, \
        apiVersion: credentialprovider.kubelet.k8s.io/v1}";

    fn file(providers: &str) -> String {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n\
             providers: [{providers}]\n"
        )
    }

    fn checked(text: &str) -> Result<CredentialProviders, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.yaml");
        write(&path, text);
        // A program that every machine has.
        let text = path.display().to_string();
        load(&text, "/bin", &FeatureGates::default())
    }

    #[test]
    fn a_broken_configuration_is_refused() {
        let own = GOOD.replace("name: p", "name: sh");
        let good = checked(&file(&own)).expect("good");
        assert_eq!((good.providers.len(), good.hash.len()), (1, "sha256:".len() + 64));
        for (text, expected) in [
            (file(GOOD), "plugin binary executable /bin/p did not exist"),
            (file(""), "providers: Required value: at least 1 item in plugins"),
            (file(&format!("{own}, {own}")), "duplicate provider name \"sh\" found"),
            (file(&own.replace("name: sh", "name: a/b")), "provider name cannot contain '/'"),
            (file(&own.replace("1h", "-1h")), "must be greater than or equal to 0"),
            (file(&own.replace("1h", "1x")), "time: unknown unit"),
            (file(&own.replace("io/v1", "io/v2")), "providers.apiVersion: Unsupported value"),
            (file(&own.replace("{name", "{nope: 1, name")), "providers[0].nope: unknown field"),
            (file(&own.replace("name: sh", "name: [sh]")), "providers[0].name: invalid type"),
            (
                file(&own).replace("kind: Cred", "kind: cred"),
                "no kind \"credentialProviderConfig\"",
            ),
            (
                file(&own.replace("{name", "{tokenAttributes: {}, name")),
                "providers.tokenAttributes.cacheType: Required value",
            ),
        ] {
            let error = checked(&text).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
        let gates = FeatureGates::default();
        for (config, folder, expected) in [
            ("/nope.yaml", "/nope", "plugin binary directory /nope did not exist"),
            ("", "/bin", "credential provider config path is empty"),
            ("/nope.yaml", "/bin", "unable to access path \"/nope.yaml\""),
        ] {
            let error = load(config, folder, &gates).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
