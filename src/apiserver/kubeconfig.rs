//! Reads a kubeconfig into what the transport needs. Understanding is pure; only [`load`] reads
//! files.
//!
//! Relative paths are relative to the kubeconfig, data wins over a file, and every error names the
//! kubeconfig, the field and, where there is one, the file that the field names. Key material never
//! appears in an error or in `Debug`. As for client-go, credentials are for https only, and a user
//! that is not listed has none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use serde_json::Value;

pub use super::access::{Access, Bearer};
use super::authorization::bearer_header;
use super::exec::{self, Plugin};
pub use super::identity::{Identity, IdentityFiles, PemError};
use super::proxy::Proxy;
use super::{credentials, impersonation, trust};
use crate::config::document;

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("kubeconfig {kubeconfig}: cannot read {file:?} ({field})")]
    Read {
        /// The kubeconfig.
        kubeconfig: PathBuf,
        /// Which field names the file; `the kubeconfig itself` for it.
        field: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is no kubeconfig.
    #[error("kubeconfig {kubeconfig}: {problem}")]
    Parse {
        /// The kubeconfig.
        kubeconfig: PathBuf,
        /// What is wrong; never quotes the text.
        problem: String,
    },
    /// A field is missing or wrong.
    #[error("kubeconfig {kubeconfig}: {field}: {problem}")]
    Field {
        /// The kubeconfig.
        kubeconfig: PathBuf,
        /// The field, with its context's, cluster's or user's name.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
    disable_compression: bool,
    extensions: Vec<Extension>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extension {
    name: String,
    extension: Value,
}

// No Debug: it holds secrets.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    #[serde(rename = "as")]
    impersonate: String,
    #[serde(rename = "as-uid")]
    impersonate_uid: String,
    #[serde(rename = "as-groups")]
    impersonate_groups: Vec<String>,
    #[serde(rename = "as-user-extra")]
    impersonate_extra: BTreeMap<String, Vec<String>>,
    exec: Option<Exec>,
    auth_provider: Option<Value>,
}

// No Debug: it holds secrets.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Exec {
    command: String,
    args: Vec<String>,
    env: Vec<Variable>,
    api_version: String,
    install_hint: String,
    provide_cluster_info: bool,
    interactive_mode: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

struct Loader<'a> {
    path: &'a Path,
    parts: Parts,
}

/// The parts of a kubeconfig that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    All,
    Cluster,
}

/// Reads a kubeconfig and the files that it names. Blocks on the file system.
pub fn load(path: &Path) -> Result<Access, KubeconfigError> {
    let loader = Loader { path, parts: Parts::All };
    let text = loader.read("the kubeconfig itself", path)?;
    loader.understand(&text)
}

/// Reads what a kubeconfig says of the server, and nothing of the user: the files of the client
/// certificate need not exist. Blocks on the file system.
pub fn load_cluster(path: &Path) -> Result<Access, KubeconfigError> {
    let loader = Loader { path, parts: Parts::Cluster };
    let text = loader.read("the kubeconfig itself", path)?;
    loader.understand(&text)
}

/// The authorities of a cluster: their PEM text, and the certificates in it.
type Roots = (Vec<u8>, Vec<CertificateDer<'static>>);

/// The extension of a cluster that is meant for plug-ins.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

impl Loader<'_> {
    fn understand(&self, text: &[u8]) -> Result<Access, KubeconfigError> {
        // The library's text would quote what it read.
        let read = document::read(text).map_err(|_| {
            self.parse_error("it is not a kubeconfig: neither YAML nor JSON".to_owned())
        })?;
        let mut config = read.value;
        strip_nulls(&mut config);
        self.check_kind(&config)?;

        let current = self.text(&config, "current-context")?;
        let context: Context = self.section(&config, "contexts", "context", current)?;
        let cluster: Cluster = self.section(&config, "clusters", "cluster", &context.cluster)?;
        let user: User = if self.find(&config, "users", &context.user)?.is_some() {
            self.section(&config, "users", "user", &context.user)?
        } else {
            User::default()
        };

        let server = self.server(&cluster, &context.cluster)?;
        let proxy = self.proxy(&cluster, &context.cluster)?;
        self.check_server_name(&cluster, &context.cluster)?;
        let (roots_pem, roots) = self.roots(&cluster, &context.cluster)?.unzip();
        if cluster.insecure_skip_tls_verify && roots.is_some() {
            return Err(self.field_error(
                format!("clusters[{}].cluster.insecure-skip-tls-verify", context.cluster),
                "specifying a root certificates file with the insecure flag is not allowed".into(),
            ));
        }
        let has_user = server.scheme_str() == Some("https") && self.parts == Parts::All;
        let user = if has_user { user } else { User::default() };
        let name = &context.user;
        let identity = self.identity(&user, name)?;
        let bearer = self.bearer(&user, name)?;
        let plugin = self.plugin(&user, name, &cluster)?;
        Ok(Access {
            server,
            server_text: cluster.server.clone(),
            tls_server_name: Some(cluster.tls_server_name.clone()).filter(|name| !name.is_empty()),
            roots,
            // As upstream: watched only if they do not stand in the kubeconfig itself.
            roots_file: (cluster.certificate_authority_data.is_empty()
                && !cluster.certificate_authority.is_empty())
            .then(|| self.resolve(&cluster.certificate_authority)),
            roots_data: roots_pem.filter(|_| !cluster.certificate_authority_data.is_empty()),
            insecure: cluster.insecure_skip_tls_verify,
            plugin: plugin.filter(|_| identity.is_none() && bearer == Bearer::None),
            identity,
            rotated: None,
            bearer,
            proxy,
            impersonation: self.impersonation(&user, name)?,
        })
    }

    /// What says that it is something else is no kubeconfig; what says nothing is one.
    fn check_kind(&self, config: &Value) -> Result<(), KubeconfigError> {
        let fields = config.as_object().ok_or_else(|| {
            self.parse_error("it is not a kubeconfig: it holds no object".to_owned())
        })?;
        let said = |name: &str| {
            let found = fields.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name));
            found.and_then(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let (kind, version) = (said("kind"), said("apiVersion"));
        if matches!(kind, "" | "Config") && matches!(version, "" | "v1") {
            return Ok(());
        }
        Err(self.parse_error(format!("no kind {kind:?} is registered for version {version:?}")))
    }

    fn server(&self, cluster: &Cluster, name: &str) -> Result<http::Uri, KubeconfigError> {
        let field = || format!("clusters[{name}].cluster.server");
        let server: http::Uri = normalised(&cluster.server).parse().map_err(|error| {
            self.field_error(field(), format!("{:?} is no URL: {error}", cluster.server))
        })?;
        if server.host().is_none() || !matches!(server.scheme_str(), Some("http" | "https")) {
            let problem = format!("{:?} is no http or https URL", cluster.server);
            return Err(self.field_error(field(), problem));
        }
        Ok(server)
    }

    fn check_server_name(&self, cluster: &Cluster, name: &str) -> Result<(), KubeconfigError> {
        let said = &cluster.tls_server_name;
        if said.is_empty() || ServerName::try_from(said.as_str()).is_ok() {
            return Ok(());
        }
        let field = format!("clusters[{name}].cluster.tls-server-name");
        Err(self.field_error(field, format!("{said:?} is no server name")))
    }

    fn proxy(&self, cluster: &Cluster, name: &str) -> Result<Option<http::Uri>, KubeconfigError> {
        if cluster.proxy_url.is_empty() {
            return Ok(None);
        }
        let proxy: Option<http::Uri> = cluster.proxy_url.parse().ok();
        // The URL may hold a password.
        proxy.filter(Proxy::is_supported).map(Some).ok_or_else(|| {
            self.field_error(
                format!("clusters[{name}].cluster.proxy-url"),
                "unsupported scheme, must be http, https, or socks5".to_owned(),
            )
        })
    }

    fn plugin(
        &self,
        user: &User,
        name: &str,
        cluster: &Cluster,
    ) -> Result<Option<Plugin>, KubeconfigError> {
        let prefix = format!("users[{name}].user");
        if user.auth_provider.is_some() {
            let problem = "auth providers were removed from Kubernetes: use exec";
            return Err(self.field_error(format!("{prefix}.auth-provider"), problem.to_owned()));
        }

        let Some(exec) = &user.exec else { return Ok(None) };
        let fail = |field: &str, problem: String| {
            Err(self.field_error(format!("{prefix}.exec.{field}"), problem))
        };

        if exec.command.is_empty() {
            return fail("command", "command must be specified".to_owned());
        }
        if !exec::VERSIONS.contains(&exec.api_version.as_str()) {
            let problem = format!("exec plugin: invalid apiVersion {:?}", exec.api_version);
            return fail("apiVersion", problem);
        }
        if exec.env.iter().any(|variable| variable.name.is_empty()) {
            return fail("env", "env variable name must be specified".to_owned());
        }

        match exec.interactive_mode.as_str() {
            "Never" | "IfAvailable" => {}
            // The older version of the API has a default.
            "" if exec.api_version == exec::VERSIONS[1] => {}
            "" => return fail("interactiveMode", "interactiveMode must be specified".to_owned()),
            "Always" => {
                return fail("interactiveMode", "standard input is not a terminal".to_owned());
            }
            other => return fail("interactiveMode", format!("invalid interactiveMode: {other:?}")),
        }

        let command = if exec.command.contains('/') {
            self.resolve(&exec.command)
        } else {
            PathBuf::from(&exec.command)
        };

        let variables = exec.env.iter();
        Ok(Some(Plugin {
            command,
            args: exec.args.clone(),
            env: variables.map(|one| (one.name.clone(), one.value.clone())).collect(),
            api_version: exec.api_version.clone(),
            install_hint: exec.install_hint.clone(),
            cluster: if exec.provide_cluster_info {
                Some(self.cluster_for_plugins(cluster)?)
            } else {
                None
            },
        }))
    }

    /// Returns the cluster as a plug-in is given it.
    fn cluster_for_plugins(&self, cluster: &Cluster) -> Result<Value, KubeconfigError> {
        let mut described = serde_json::json!({ "server": cluster.server });
        let mut set = |name: &str, value: Value, set: bool| {
            if set {
                described[name] = value;
            }
        };
        let server_name = &cluster.tls_server_name;
        set("tls-server-name", server_name.as_str().into(), !server_name.is_empty());
        set("insecure-skip-tls-verify", true.into(), cluster.insecure_skip_tls_verify);
        let authority = "certificate-authority";
        let roots = self.data_or_file(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            authority,
            authority,
        )?;
        if let Some((pem, _)) = roots {
            let data = base64::engine::general_purpose::STANDARD.encode(pem);
            set("certificate-authority-data", data.into(), true);
        }
        set("proxy-url", cluster.proxy_url.as_str().into(), !cluster.proxy_url.is_empty());
        set("disable-compression", true.into(), cluster.disable_compression);
        let extension = cluster.extensions.iter().find(|found| found.name == EXEC_EXTENSION);
        if let Some(extension) = extension {
            set("config", extension.extension.clone(), true);
        }
        Ok(described)
    }

    fn impersonation(&self, user: &User, name: &str) -> Result<http::HeaderMap, KubeconfigError> {
        let field = || format!("users[{name}].user.as");
        let more = !user.impersonate_uid.is_empty()
            || !user.impersonate_groups.is_empty()
            || !user.impersonate_extra.is_empty();
        if user.impersonate.is_empty() && more {
            let problem = "requesting uid, groups or user-extra without impersonating a user";
            return Err(self.field_error(field(), problem.to_owned()));
        }
        impersonation::headers(
            &user.impersonate,
            &user.impersonate_uid,
            &user.impersonate_groups,
            &user.impersonate_extra,
        )
        .ok_or_else(|| {
            let problem = "it holds characters that a header may not hold";
            self.field_error(field(), problem.to_owned())
        })
    }

    fn roots(&self, cluster: &Cluster, name: &str) -> Result<Option<Roots>, KubeconfigError> {
        let pem = self.data_or_file(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            &format!("clusters[{name}].cluster.certificate-authority"),
            "certificate-authority",
        )?;
        let Some((pem, field)) = pem else { return Ok(None) };
        let roots = trust::certificates(&pem);
        if roots.is_empty() {
            return Err(self.field_error(field, "it holds no certificate".to_owned()));
        }
        credentials::check_roots(&roots).map_err(|error| {
            self.field_error(field, format!("a certificate in it cannot be used: {error}"))
        })?;
        Ok(Some((pem, roots)))
    }

    fn identity(&self, user: &User, name: &str) -> Result<Option<Identity>, KubeconfigError> {
        let prefix = format!("users[{name}].user");
        let certificate = self.data_or_file(
            &user.client_certificate_data,
            &user.client_certificate,
            &format!("{prefix}.client-certificate"),
            "client-certificate",
        )?;
        let key = self.data_or_file(
            &user.client_key_data,
            &user.client_key,
            &format!("{prefix}.client-key"),
            "client-key",
        )?;
        match (certificate, key) {
            (None, None) => Ok(None),
            (Some((certificate, field)), Some((key, key_field))) => {
                let identity = Identity::from_pem(&certificate, &key);
                let mut identity = identity.map_err(|error| {
                    let field = match error {
                        PemError::Certificate(_) | PemError::NoCertificate => field.clone(),
                        PemError::Key(_) => key_field.clone(),
                    };
                    self.field_error(field, error.to_string())
                })?;
                credentials::check_identity(&identity).map_err(|error| {
                    let problem = format!("it cannot be used with {key_field}: {error}");
                    self.field_error(field, problem)
                })?;
                // As upstream: watched only if neither stands in the kubeconfig itself.
                let has_data =
                    !user.client_certificate_data.is_empty() || !user.client_key_data.is_empty();
                identity.files = (!has_data).then(|| IdentityFiles {
                    certificate: self.resolve(&user.client_certificate),
                    key: self.resolve(&user.client_key),
                });
                Ok(Some(identity))
            }
            (Some((_, field)), None) => {
                Err(self.field_error(field, "client-key is missing".to_owned()))
            }
            (None, Some((_, field))) => {
                Err(self.field_error(field, "client-certificate is missing".to_owned()))
            }
        }
    }

    fn bearer(&self, user: &User, name: &str) -> Result<Bearer, KubeconfigError> {
        let prefix = format!("users[{name}].user");
        let basic = !user.username.is_empty() || !user.password.is_empty();
        if basic && !user.token.is_empty() {
            let problem = "more than one authentication method found; found [token basicAuth], \
                only one is allowed";
            return Err(self.field_error(prefix, problem.to_owned()));
        }
        if !user.token_file.is_empty() {
            let file = self.resolve(&user.token_file);
            let token = self.read("tokenFile", &file)?;
            if token.iter().all(u8::is_ascii_whitespace) {
                let field = format!("{prefix}.tokenFile");
                return Err(self.field_error(field, format!("{} is empty", file.display())));
            }
            return Ok(Bearer::File(file));
        }
        if bearer_header(user.token.trim()).is_none() {
            let problem = "it holds characters that a header may not hold";
            return Err(self.field_error(format!("{prefix}.token"), problem.to_owned()));
        }
        Ok(if !user.token.is_empty() {
            Bearer::Token(user.token.trim().to_owned())
        } else if basic {
            let both = format!("{}:{}", user.username, user.password);
            Bearer::Basic(base64::engine::general_purpose::STANDARD.encode(both))
        } else {
            Bearer::None
        })
    }

    /// The bytes of a field that exists as data (base64) or as a file, with the name of the one
    /// that was used.
    fn data_or_file(
        &self,
        data: &str,
        file: &str,
        field: &str,
        short: &'static str,
    ) -> Result<Option<(Vec<u8>, String)>, KubeconfigError> {
        if !data.is_empty() {
            let field = format!("{field}-data");
            let compact: String = data.chars().filter(|c| !c.is_whitespace()).collect();
            return match base64::engine::general_purpose::STANDARD.decode(compact) {
                Ok(bytes) => Ok(Some((bytes, field))),
                Err(_) => Err(self.field_error(field, "it is not base64".to_owned())),
            };
        }
        if file.is_empty() {
            return Ok(None);
        }
        let path = self.resolve(file);
        let bytes = self.read(short, &path)?;
        Ok(Some((bytes, format!("{field} ({})", path.display()))))
    }

    /// A field of the kubeconfig itself that is a text.
    fn text<'v>(&self, config: &'v Value, name: &str) -> Result<&'v str, KubeconfigError> {
        match config.get(name) {
            None => Ok(""),
            Some(value) => value
                .as_str()
                .ok_or_else(|| self.field_error(name.to_owned(), "it is no text".to_owned())),
        }
    }

    /// The entry of a list that has a name; two of one name are none.
    fn find<'v>(
        &self,
        config: &'v Value,
        list: &str,
        name: &str,
    ) -> Result<Option<&'v Value>, KubeconfigError> {
        let entries: &[Value] = match config.get(list) {
            None => &[],
            Some(Value::Array(entries)) => entries,
            Some(_) => {
                return Err(self.field_error(list.to_owned(), "it is no list".to_owned()));
            }
        };
        let mut names = std::collections::BTreeSet::new();
        let name_of = |entry: &'v Value| entry.get("name").and_then(Value::as_str);
        for entry in entries {
            let name = name_of(entry).unwrap_or_default();
            if !names.insert(name) {
                return Err(self.field_error(list.to_owned(), format!("duplicate name {name:?}")));
            }
        }
        Ok(entries.iter().find(|entry| name_of(entry) == Some(name)))
    }

    /// What an entry of a list says in its one field.
    fn section<T: serde::de::DeserializeOwned + Default>(
        &self,
        config: &Value,
        list: &str,
        field: &str,
        name: &str,
    ) -> Result<T, KubeconfigError> {
        if name.is_empty() {
            let (field, problem) = if list == "contexts" {
                ("current-context", "it is not set")
            } else {
                (list, "the current context names none")
            };
            return Err(self.field_error(field.to_owned(), problem.to_owned()));
        }
        let found = self.find(config, list, name)?.ok_or_else(|| {
            self.field_error(list.to_owned(), format!("there is none named {name:?}"))
        })?;
        let Some(value) = found.get(field) else { return Ok(T::default()) };
        // serde's text would quote values, which may be secrets.
        T::deserialize(value).map_err(|_| {
            let place = format!("{list}[{name}].{field}");
            let place = match wrong_field::<T>(value) {
                Some(inner) => format!("{place}.{inner}"),
                None => place,
            };
            self.field_error(place, "it has the wrong type".to_owned())
        })
    }

    fn resolve(&self, file: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(file)
    }

    fn read(&self, field: &'static str, file: &Path) -> Result<Vec<u8>, KubeconfigError> {
        std::fs::read(file).map_err(|source| KubeconfigError::Read {
            kubeconfig: self.path.to_owned(),
            field,
            file: file.to_owned(),
            source,
        })
    }

    fn parse_error(&self, problem: String) -> KubeconfigError {
        KubeconfigError::Parse { kubeconfig: self.path.to_owned(), problem }
    }

    fn field_error(&self, field: String, problem: String) -> KubeconfigError {
        KubeconfigError::Field { kubeconfig: self.path.to_owned(), field, problem }
    }
}

/// The field of an object that alone makes it no `T`.
fn wrong_field<T: serde::de::DeserializeOwned>(value: &Value) -> Option<&str> {
    let is_wrong =
        |name: &str, value: &Value| T::deserialize(serde_json::json!({ name: value })).is_err();
    let mut fields = value.as_object()?.iter();
    fields.find(|(name, value)| is_wrong(name, value)).map(|(name, _)| name.as_str())
}

/// Removes what says null, which for Go says nothing.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A server without a scheme is http, as client-go has it.
fn normalised(server: &str) -> String {
    let server = server.trim_end_matches('/');
    if server.contains("://") || server.is_empty() {
        server.to_owned()
    } else {
        format!("http://{server}")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::Engine as _;

    use super::{Access, Bearer, Loader, Parts};

    fn understand(text: &str) -> Result<Access, String> {
        Loader { path: Path::new("/etc/kubernetes/kubelet.conf"), parts: Parts::All }
            .understand(text.as_bytes())
            .map_err(|error| error.to_string())
    }

    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {cluster}}}]\nusers: [{{name: u, user: {user}}}]\n"
        )
    }

    #[test]
    fn reads_a_certificate_from_data() {
        let pair = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
        let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        let user = format!(
            "{{client-certificate-data: {}, client-key-data: {}}}",
            encode(pair.cert.pem()),
            encode(pair.signing_key.serialize_pem())
        );
        let cluster = format!(
            "{{server: 'https://10.0.0.1:6443/', certificate-authority-data: {}, tls-server-name: api}}",
            encode(pair.cert.pem())
        );
        let access = understand(&kubeconfig(&cluster, &user)).expect("a kubeconfig");
        assert_eq!(
            access.server.authority().map(ToString::to_string).as_deref(),
            Some("10.0.0.1:6443")
        );
        assert_eq!(access.tls_server_name.as_deref(), Some("api"));
        assert_eq!(access.roots.map(|roots| roots.len()), Some(1));
        assert_eq!(access.identity.map(|identity| identity.chain.len()), Some(1));
    }

    #[test]
    fn reads_a_token_and_hides_it() {
        let access = understand(&kubeconfig("{server: 'https://a'}", "{token: s3cret}"))
            .expect("a kubeconfig");
        assert_eq!(access.bearer, Bearer::Token("s3cret".to_owned()));
        assert!(!format!("{access:?}").contains("s3cret"));
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = understand(text).expect_err("it is wrong");
        assert!(error.contains(expected), "{error}");
        assert!(error.starts_with("kubeconfig /etc/kubernetes/kubelet.conf: "), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn errors_name_the_file_and_the_field() {
        refused("current-context: c\n", "contexts: there is none named \"c\"");
        refused("clusters: []\n", "current-context: it is not set");
        refused("a: [", "neither YAML nor JSON");
        refused(&kubeconfig("{server: 'ftp://x'}", "{}"), "clusters[k].cluster.server");
        refused(
            &kubeconfig("{server: 'https://x', certificate-authority-data: '?'}", "{}"),
            "it is not base64",
        );
        refused(
            &kubeconfig("{server: 'https://x', certificate-authority: nope.crt}", "{}"),
            "/etc/kubernetes/nope.crt",
        );
        refused(
            &kubeconfig("{server: 'https://x'}", "{client-key-data: czNjcmV0}"),
            "client-certificate is missing",
        );
        refused(
            &kubeconfig("{server: 'https://x'}", "{token: [s3cret]}"),
            "users[u].user.token: it has the wrong type",
        );
        for (user, expected) in [
            ("{exec: {command: x}}", "users[u].user.exec.apiVersion: exec plugin: invalid"),
            (
                "{exec: {command: x, apiVersion: client.authentication.k8s.io/v1}}",
                "users[u].user.exec.interactiveMode: interactiveMode must be specified",
            ),
            (
                "{exec: {command: x, apiVersion: client.authentication.k8s.io/v1, interactiveMode: Always}}",
                "standard input is not a terminal",
            ),
            ("{as-groups: [a]}", "users[u].user.as: requesting uid, groups or user-extra"),
            ("{token: s3cret, username: u}", "users[u].user: more than one authentication method"),
        ] {
            refused(&kubeconfig("{server: 'https://x'}", user), expected);
        }
        for (cluster, expected) in [
            ("{server: 'https://x', proxy-url: 'ftp://s3cret@x'}", "clusters[k].cluster.proxy-url"),
            ("{server: [x]}", "clusters[k].cluster.server: it has the wrong type"),
        ] {
            refused(&kubeconfig(cluster, "{}"), expected);
        }
        refused(
            &kubeconfig("{server: 'https://x', tls-server-name: 'a b'}", "{}"),
            "clusters[k].cluster.tls-server-name: \"a b\" is no server name",
        );
        refused(
            &kubeconfig("{server: 'https://x'}", "{token: \"s3cret\\u0001x\"}"),
            "users[u].user.token: it holds characters that a header may not hold",
        );
        let twice = kubeconfig("{server: 'https://x'}", "{}")
            .replace("clusters: [", "clusters: [{name: k}, ");
        refused(&twice, "clusters: duplicate name \"k\"");
        let pod = kubeconfig("{server: 'https://x'}", "{}").replace("kind: Config", "kind: Pod");
        refused(&pod, "no kind \"Pod\" is registered for version \"v1\"");
        let pair = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
        let data = base64::engine::general_purpose::STANDARD.encode(pair.cert.pem());
        let cluster = format!(
            "{{server: 'https://x', insecure-skip-tls-verify: true, certificate-authority-data: {data}}}"
        );
        refused(&kubeconfig(&cluster, "{}"), "with the insecure flag is not allowed");
    }

    #[test]
    fn certificates_may_be_of_p521() {
        use crate::apiserver::crypto::testing::{CA, CLIENT, CLIENT_KEY};

        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let user = format!(
            "{{client-certificate-data: {}, client-key-data: {}}}",
            encode(CLIENT),
            encode(CLIENT_KEY)
        );
        let cluster =
            format!("{{server: 'https://x', certificate-authority-data: {}}}", encode(CA));
        let access = understand(&kubeconfig(&cluster, &user)).expect("usable");
        assert!(access.identity.is_some() && access.roots.is_some());
    }

    #[test]
    fn an_unusable_certificate_is_told_with_its_field() {
        let pair = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
        let other = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let certificate = encode(&pair.cert.pem());
        let broken = encode("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let user = |certificate: &str, key: &str| {
            let user =
                format!("{{client-certificate-data: {certificate}, client-key-data: {key}}}");
            kubeconfig("{server: 'https://x'}", &user)
        };

        let wrong_key = encode(&other.signing_key.serialize_pem());
        refused(
            &user(&certificate, &wrong_key),
            "users[u].user.client-certificate-data: it cannot be used with \
             users[u].user.client-key-data: ",
        );
        refused(
            &user(&certificate, &certificate),
            "users[u].user.client-key-data: no private key in PEM form",
        );
        refused(
            &user(&wrong_key, &wrong_key),
            "users[u].user.client-certificate-data: it holds no certificate",
        );
        let cluster = format!("{{server: 'https://x', certificate-authority-data: {broken}}}");
        refused(
            &kubeconfig(&cluster, "{}"),
            "clusters[k].cluster.certificate-authority-data: a certificate in it cannot be used: ",
        );
    }

    #[test]
    fn what_client_go_takes_is_taken() {
        let with =
            |cluster: &str, user: &str| understand(&kubeconfig(cluster, user)).expect("taken");
        let server = "{server: 'https://x'}";
        let twice = kubeconfig(server, "{token: a}") + "current-context: c\n";
        assert_eq!(understand(&twice).expect("taken").bearer, Bearer::Token("a".to_owned()));
        let other = kubeconfig(server, "{token: a}").replace("user: u}", "user: nope}");
        assert_eq!(understand(&other).expect("taken").bearer, Bearer::None);
        let basic = with(server, "{username: u, password: p}");
        assert_eq!(basic.bearer, Bearer::Basic("dTpw".to_owned()));
        let plain = with("{server: 'x:8080'}", "{token: a}");
        assert_eq!(
            (plain.server.to_string().as_str(), plain.bearer),
            ("http://x:8080/", Bearer::None)
        );
        let proxied = with("{server: 'https://x', proxy-url: 'socks5://p:1'}", "{token: null}");
        assert_eq!(proxied.proxy.expect("a proxy").to_string(), "socks5://p:1/");
        let other = with(server, "{as: a, as-groups: [g, h], as-user-extra: {Sc opes: [x]}}");
        assert_eq!(other.impersonation["impersonate-user"], "a");
        assert_eq!(other.impersonation.get_all("impersonate-group").iter().count(), 2);
        assert_eq!(other.impersonation["impersonate-extra-sc%20opes"], "x");
    }

    #[test]
    fn reads_the_plugin_of_eks() {
        let user = "{exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: aws, \
            args: [eks, get-token], env: [{name: A, value: b}], provideClusterInfo: true}}";
        let cluster = "{server: 'https://x', extensions: [{name: client.authentication.k8s.io/exec, \
            extension: {audience: a}}]}";
        let plugin = understand(&kubeconfig(cluster, user)).expect("taken").plugin.expect("one");
        assert_eq!(plugin.command, Path::new("aws"));
        assert_eq!(plugin.env, [("A".to_owned(), "b".to_owned())]);
        let told = serde_json::json!({"server": "https://x", "config": {"audience": "a"}});
        assert_eq!(plugin.cluster, Some(told));
        let own = user.replace("command: aws", "command: ./bin/aws");
        let plugin = understand(&kubeconfig(cluster, &own)).expect("taken").plugin.expect("one");
        assert_eq!(plugin.command, Path::new("/etc/kubernetes/./bin/aws"));
        let both = user.replace("{exec", "{token: a, exec");
        assert_eq!(understand(&kubeconfig(cluster, &both)).expect("taken").plugin, None);
    }
}
