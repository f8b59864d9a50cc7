//! Credentials for registries: from imagePullSecrets and from the node's own docker configuration.
//!
//! A pull asks a [`Keyring`] for the credentials of a repository, the most specific first. Plug-ins
//! (`images::plugins`) add theirs to it. Parsing and matching are pure; only
//! [`NodeCredentials::read`] reads files. `Debug` and errors never show a secret.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The secret that a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    /// The secret's namespace.
    pub namespace: String,
    /// The secret's name.
    pub name: String,
    /// The secret's UID.
    pub uid: String,
}

/// The service account that a plug-in gave a credential for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub name: String,
    /// The service account's UID.
    pub uid: String,
}

/// The source of a credential. It decides which pods may use an image that was pulled with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The node: its docker configuration, or a plug-in that was given no service account. All pods
    /// of the node may use it.
    Node,
    /// A pull secret of the pod.
    Secret(SecretName),
    /// A plug-in, for the pod's service account.
    ServiceAccount(AccountName),
}

/// A pull secret that has been fetched. Its content is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The secret that was fetched.
    pub name: SecretName,
    format: Format,
    data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `kubernetes.io/dockerconfigjson`
    ConfigJson,
    /// `kubernetes.io/dockercfg`
    Cfg,
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PullSecret {
    /// Reads a secret; `None` for one that holds no docker configuration.
    pub fn from_secret(secret: &Secret) -> Option<Self> {
        let (format, key) = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => (Format::ConfigJson, ".dockerconfigjson"),
            Some("kubernetes.io/dockercfg") => (Format::Cfg, ".dockercfg"),
            Some(_) | None => return None,
        };
        let data = secret.data.as_ref()?.get(key).filter(|data| !data.0.is_empty())?;
        let name = SecretName {
            namespace: secret.metadata.namespace.clone().unwrap_or_default(),
            name: secret.metadata.name.clone().unwrap_or_default(),
            uid: secret.metadata.uid.clone().unwrap_or_default(),
        };
        Some(Self { name, format, data: data.0.clone() })
    }
}

/// A user and password for a registry. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    email: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credential {
    /// Makes a credential of a name and a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), email: String::new() }
    }

    /// Returns upstream's hash, as the records of pulls hold it: SHA-256 of the JSON form.
    pub fn hash(&self) -> String {
        let fields =
            [("username", &self.username), ("password", &self.password), ("email", &self.email)];
        let fields: Vec<String> = fields
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("\"{name}\":{}", go_json_string(value)))
            .collect();
        let digest = Sha256::digest(format!("{{{}}}", fields.join(",")));
        digest.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            write!(hex, "{byte:02x}").unwrap_or_default();
            hex
        })
    }
}

/// Returns a string as Go's JSON encoder writes it, which escapes `<`, `>`, `&`,
/// U+2028 and U+2029.
fn go_json_string(text: &str) -> String {
    let escaped = serde_json::Value::String(text.to_owned()).to_string();
    let escaped = escaped.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    escaped.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// A credential with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The credential.
    pub credential: Credential,
    /// The source of the credential.
    pub source: Source,
}

/// An error of a pull secret's content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A pull secret's content cannot be read.
    #[error("imagePullSecret {}/{} is not a docker configuration: {problem}", .secret.namespace, .secret.name)]
    Secret {
        /// The secret.
        secret: SecretName,
        /// What is wrong, without any of its content.
        problem: &'static str,
    },
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: Option<BTreeMap<String, AuthEntry>>,
}

#[derive(Deserialize)]
struct AuthEntry {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    auth: Option<String>,
}

fn parse(data: &[u8], format: Format) -> Result<BTreeMap<String, Credential>, &'static str> {
    const NOT_JSON: &str = "it is not JSON of that form";
    let entries = match format {
        Format::ConfigJson => serde_json::from_slice::<ConfigJson>(data)
            .map_err(|_| NOT_JSON)?
            .auths
            .unwrap_or_default(),
        Format::Cfg => serde_json::from_slice(data).map_err(|_| NOT_JSON)?,
    };
    entries.into_iter().map(|(registry, entry)| Ok((registry, credential(entry)?))).collect()
}

fn credential(entry: AuthEntry) -> Result<Credential, &'static str> {
    let email = entry.email.unwrap_or_default();
    let Some(auth) = entry.auth.filter(|auth| !auth.is_empty()) else {
        let (username, password) =
            (entry.username.unwrap_or_default(), entry.password.unwrap_or_default());
        return Ok(Credential { username, password, email });
    };
    let padded = auth.trim().ends_with('=');
    let text: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let decoded = if padded {
        base64::engine::general_purpose::STANDARD.decode(text)
    } else {
        base64::engine::general_purpose::STANDARD_NO_PAD.decode(text)
    };
    let decoded = decoded.map_err(|_| "a field auth is not base64")?;
    let decoded = String::from_utf8_lossy(&decoded);
    let (username, password) = decoded
        .split_once(':')
        .ok_or("unable to parse auth field, must be formatted as base64(username:password)")?;
    Ok(Credential { username: username.to_owned(), password: password.to_owned(), email })
}

/// Credentials by registry and path, the most specific first.
#[derive(Debug, Default)]
pub struct Keyring {
    /// In reverse order of the names.
    keys: Vec<String>,
    credentials: HashMap<String, Vec<Tracked>>,
}

const DEFAULT_REGISTRY: &str = "index.docker.io";

impl Keyring {
    /// Makes the keyring of a pod's pull secrets.
    pub fn of_secrets(secrets: &[PullSecret]) -> Result<Self, CredentialError> {
        let mut keyring = Self::default();
        for secret in secrets {
            let found = parse(&secret.data, secret.format).map_err(|problem| {
                CredentialError::Secret { secret: secret.name.clone(), problem }
            })?;
            keyring.add(found, &Source::Secret(secret.name.clone()));
        }
        Ok(keyring)
    }

    /// Adds credentials by registry and path.
    pub(super) fn add(&mut self, found: BTreeMap<String, Credential>, source: &Source) {
        for (registry, credential) in found {
            let key = key_of(&registry);
            self.credentials
                .entry(key.clone())
                .or_default()
                .push(Tracked { credential, source: source.clone() });
            self.keys.push(key);
        }
        self.keys.sort_by(|a, b| b.cmp(a));
        self.keys.dedup();
    }

    /// Returns the credentials to try for a repository (`docker.io/library/nginx`), in order.
    pub fn lookup(&self, repository: &str) -> Vec<Tracked> {
        let found: Vec<Tracked> = self
            .keys
            .iter()
            .filter(|key| covers(key, repository))
            .flat_map(|key| self.credentials.get(key).into_iter().flatten().cloned())
            .collect();
        if found.is_empty() && is_default_registry(repository) {
            return self.credentials.get(DEFAULT_REGISTRY).cloned().unwrap_or_default();
        }
        found
    }
}

/// Returns registry and path without scheme: `https://ghcr.io/v2/` is `ghcr.io`.
fn key_of(registry: &str) -> String {
    let text = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = text.find('/').map_or((text, ""), |slash| text.split_at(slash));
    let path = if path.starts_with("/v2/") || path.starts_with("/v1/") { &path[3..] } else { path };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

fn is_default_registry(repository: &str) -> bool {
    let Some((first, _)) = repository.split_once('/') else { return !repository.is_empty() };
    match first {
        "" => false,
        "docker.io" | DEFAULT_REGISTRY => true,
        other => !other.contains(['.', ':']),
    }
}

/// Returns true if a key covers a repository: `*.example.com/team` covers `a.example.com/team/web`.
///
/// - The port is the same.
/// - The host has as many labels, each of which matches the key's glob.
/// - The path begins with the key's path.
pub(super) fn covers(key: &str, repository: &str) -> bool {
    let parts = |text: &str| -> (Vec<String>, String, String) {
        let (host, path) = text.find('/').map_or((text, ""), |slash| text.split_at(slash));
        let bracket = host.rfind(']').unwrap_or(0);
        let (host, port) =
            host[bracket..].rfind(':').map_or((host, ""), |colon| host.split_at(bracket + colon));
        (host.split('.').map(str::to_owned).collect(), port.to_owned(), path.to_owned())
    };
    let (globs, glob_port, glob_path) = parts(key);
    let (labels, port, path) = parts(repository);
    glob_port == port
        && globs.len() == labels.len()
        && path.starts_with(&glob_path)
        && globs
            .iter()
            .zip(&labels)
            .all(|(glob, label)| matches_glob(glob.as_bytes(), label.as_bytes()))
}

/// Matches a glob of `*`, `?`, `[a-z]`, `[^a]` and `\`, as in shells. A broken one matches nothing.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    match glob.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| matches_glob(rest, &text[skipped..])),
        Some((b'?', rest)) => text.split_first().is_some_and(|(_, text)| matches_glob(rest, text)),
        Some((b'\\', rest)) => match (rest.split_first(), text.split_first()) {
            (Some((wanted, rest)), Some((found, text))) => {
                wanted == found && matches_glob(rest, text)
            }
            (None, _) | (_, None) => false,
        },
        Some((b'[', rest)) => match (class(rest), text.split_first()) {
            (Some((class, negated, rest)), Some((found, text))) => {
                let inside = class.iter().any(|(low, high)| (low..=high).contains(&found));
                inside != negated && matches_glob(rest, text)
            }
            (None, _) | (_, None) => false,
        },
        Some((wanted, rest)) => text
            .split_first()
            .is_some_and(|(found, text)| wanted == found && matches_glob(rest, text)),
    }
}

type Class<'a> = (Vec<(u8, u8)>, bool, &'a [u8]);

/// Parses a class: returns its ranges, whether it is negated, and the rest of the glob.
fn class(glob: &[u8]) -> Option<Class<'_>> {
    let (negated, mut rest) = match glob.split_first()? {
        (b'^', rest) => (true, rest),
        _ => (false, glob),
    };
    let mut ranges = Vec::new();
    loop {
        let (first, after) = rest.split_first()?;
        if *first == b']' && !ranges.is_empty() {
            return Some((ranges, negated, after));
        }
        match after {
            [b'-', high, after @ ..] => {
                ranges.push((*first, *high));
                rest = after;
            }
            after => {
                ranges.push((*first, *first));
                rest = after;
            }
        }
    }
}

/// The files of the node's own docker configuration. Their credentials are open to all its pods.
#[derive(Clone, Debug, Default)]
pub struct NodeCredentials {
    /// `config.json` files, in order; the first that can be read is taken.
    config_json: Vec<PathBuf>,
    /// `.dockercfg` files, in order, if there is no `config.json`.
    cfg: Vec<PathBuf>,
}

impl NodeCredentials {
    /// Returns upstream's places: the kubelet's root directory, the working directory, the home
    /// directory, the root.
    pub fn in_usual_places(root_dir: &std::path::Path, home: Option<&std::path::Path>) -> Self {
        let home_docker = home.map(|home| home.join(".docker"));
        let places = |third: Option<PathBuf>, last: &str| {
            [Some(root_dir.to_owned()), Some(PathBuf::new()), third, Some(PathBuf::from(last))]
                .into_iter()
                .flatten()
        };
        Self {
            config_json: places(home_docker, "/.docker")
                .map(|place| place.join("config.json"))
                .collect(),
            cfg: places(home.map(ToOwned::to_owned), "/")
                .map(|place| place.join(".dockercfg"))
                .collect(),
        }
    }

    /// Reads the files into a keyring, which is empty if there are none. Blocks on small files.
    pub fn read(&self) -> Keyring {
        let mut keyring = Keyring::default();
        let files = self.config_json.iter().map(|path| (path, Format::ConfigJson));
        let files = files.chain(self.cfg.iter().map(|path| (path, Format::Cfg)));
        for (path, format) in files {
            let Ok(data) = std::fs::read(path) else { continue };
            match parse(&data, format) {
                Ok(found) => {
                    keyring.add(found, &Source::Node);
                    break;
                }
                Err(problem) => {
                    tracing::warn!(path = %path.display(), problem, "The node's docker configuration is not used");
                }
            }
        }
        keyring
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use super::{
        Credential, Keyring, NodeCredentials, PullSecret, SecretName, Source, matches_glob,
    };

    fn secret(name: &str, format: super::Format, data: &str) -> PullSecret {
        let name =
            SecretName { namespace: "shop".to_owned(), name: name.to_owned(), uid: "1".to_owned() };
        PullSecret { name, format, data: data.as_bytes().to_vec() }
    }

    fn config(auths: &[(&str, &str)]) -> PullSecret {
        let entry = |(registry, user): &(&str, &str)| {
            format!("{registry:?}:{{\"username\":{user:?},\"password\":\"p\"}}")
        };
        let auths: Vec<String> = auths.iter().map(entry).collect();
        secret("s", super::Format::ConfigJson, &format!("{{\"auths\":{{{}}}}}", auths.join(",")))
    }

    #[track_caller]
    fn check(auths: &[(&str, &str)], repository: &str, expected: &[&str]) {
        let keyring = Keyring::of_secrets(&[config(auths)]).expect("a keyring");
        let found: Vec<String> = keyring
            .lookup(repository)
            .into_iter()
            .map(|tracked| tracked.credential.username)
            .collect();
        assert_eq!(found, expected, "{repository}");
    }

    #[test]
    fn the_most_specific_comes_first() {
        let auths = [("quay.io", "all"), ("quay.io/coreos", "some"), ("https://gcr.io/v1/", "gcr")];
        check(&auths, "quay.io/coreos/etcd", &["some", "all"]);
        check(&auths, "quay.io/other", &["all"]);
        check(&auths, "gcr.io/x", &["gcr"]);
        check(&auths, "docker.io/library/nginx", &[]);
        check(&[("http://r:5000/", "port")], "r:5000/x", &["port"]);
        check(&[("r:5000", "port")], "r/x", &[]);
        check(&[("https://index.docker.io/v1/", "hub")], "docker.io/library/nginx", &["hub"]);
        check(
            &[("https://index.docker.io/v1/", "hub"), ("docker.io", "own")],
            "docker.io/library/nginx",
            &["own"],
        );
    }

    #[test]
    fn hosts_may_have_wildcards() {
        check(&[("*.docker.io", "w")], "blah.docker.io/x", &["w"]);
        check(&[("*.docker.io", "w")], "a.b.docker.io/x", &[]);
        check(&[("*.*.x.io", "w")], "a.b.x.io/x", &["w"]);
        check(&[("k8s-[a-c].io", "w")], "k8s-b.io/x", &["w"]);
        assert!(matches_glob(b"a?c", b"abc") && !matches_glob(b"a?c", b"ac"));
        assert!(matches_glob(b"[^x]*", b"abc") && !matches_glob(b"[^a]*", b"abc"));
        assert!(!matches_glob(b"[a", b"a"));
    }

    #[test]
    fn secrets_are_read_in_both_forms() {
        // user:pa:ss, padded and not.
        let padded = secret("a", super::Format::Cfg, "{\"x.io\":{\"auth\":\"dXNlcjpwYTpzcw==\"}}");
        let bare = secret(
            "b",
            super::Format::Cfg,
            "{\"x.io\":{\"auth\":\"dXNlcjpwYTpzcw\",\"email\":\"e\"}}",
        );
        let keyring = Keyring::of_secrets(&[padded, bare]).expect("a keyring");
        let found = keyring.lookup("x.io/y");
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].credential.username.as_str(), found[0].credential.password.as_str()),
            ("user", "pa:ss")
        );
        assert!(matches!(&found[1].source, Source::Secret(secret) if secret.name == "b"));
        assert!(!format!("{found:?}").contains("pa:ss"), "never shown");
    }

    #[test]
    fn what_plugins_give_is_looked_up_like_the_rest() {
        let given = [("*.x.io", "all"), ("a.x.io/team", "team"), ("y.io", "other")];
        let mut keyring = Keyring::default();
        for (key, user) in given {
            let found = [(key.to_owned(), Credential::new(user, "p"))].into();
            keyring.add(found, &Source::Node);
        }
        let found = keyring.lookup("a.x.io/team/app");
        let users: Vec<&str> = found.iter().map(|one| one.credential.username.as_str()).collect();
        assert_eq!(users, ["team", "all"]);
    }

    #[test]
    fn a_broken_secret_is_named_without_its_content() {
        let broken = secret(
            "s",
            super::Format::ConfigJson,
            "{\"auths\":{\"x.io\":{\"auth\":\"!topsecret\"}}}",
        );
        let error = Keyring::of_secrets(&[broken]).expect_err("broken").to_string();
        assert_eq!(
            error,
            "imagePullSecret shop/s is not a docker configuration: a field auth is not base64"
        );
    }

    #[test]
    fn hashes_are_upstreams() {
        let credential = |username: &str, password: &str, email: &str| Credential {
            username: username.to_owned(),
            password: password.to_owned(),
            email: email.to_owned(),
        };
        assert_eq!(
            credential("u", "<p>", "").hash(),
            sha256(r#"{"username":"u","password":"\u003cp\u003e"}"#)
        );
        assert_eq!(credential("", "", "e").hash(), sha256(r#"{"email":"e"}"#));
    }

    fn sha256(text: &str) -> String {
        use sha2::Digest as _;
        let hex: Vec<String> =
            sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        hex.concat()
    }

    #[test]
    fn the_nodes_own_configuration_is_found() {
        let root = tempfile::tempdir().expect("a directory");
        let home = tempfile::tempdir().expect("a directory");
        let places = NodeCredentials::in_usual_places(root.path(), Some(home.path()));
        std::fs::write(home.path().join(".dockercfg"), "{\"x.io\":{\"username\":\"old\"}}")
            .expect("written");
        assert_eq!(places.read().lookup("x.io/y")[0].credential.username, "old");
        let json = "{\"auths\":{\"x.io\":{\"username\":\"new\",\"password\":\"p\"}}}";
        std::fs::write(root.path().join("config.json"), json).expect("written");
        let found = places.read().lookup("x.io/y");
        assert_eq!(found[0].credential.username, "new");
        assert_eq!(found[0].source, Source::Node);
    }
}
