//! Reads a kubeconfig into what the transport needs. Understanding is pure; only [`load`] reads
//! files.
//!
//! Relative paths are relative to the kubeconfig, data wins over a file, and every error names the
//! kubeconfig, the field and, where there is one, the file that the field names. Key material never
//! appears in an error or in `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("kubeconfig {kubeconfig}: cannot read {file} ({field})")]
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

/// Where the API server is and how to trust it and be trusted.
#[derive(Debug)]
pub struct Access {
    /// `https://host:port[/prefix]`.
    pub server: http::Uri,
    /// The name to check the server's certificate for, if not the host.
    pub tls_server_name: Option<String>,
    /// The certificates to trust; `None`: the system's.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Whether to trust any certificate.
    pub insecure: bool,
    /// The client certificate.
    pub identity: Option<Identity>,
    /// The bearer token.
    pub bearer: Bearer,
}

/// A client certificate with its key.
pub struct Identity {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// Where both were read, if each is a file: they may be renewed there.
    pub files: Option<IdentityFiles>,
}

/// The files of a client certificate. They may be one (`kubelet-client-current.pem`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a certificate chain and a key from PEM; they may be the same text
    /// (`kubelet-client-current.pem`).
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificate is not PEM: {error}"))?;
        if chain.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| format!("no private key in PEM form: {error}"))?;
        Ok(Self { chain, key, files: None })
    }
}

/// The bearer token, if there is one.
#[derive(Clone, PartialEq, Eq)]
pub enum Bearer {
    /// None.
    None,
    /// A fixed one.
    Token(String),
    /// One that is read again when it is older than a minute.
    File(PathBuf),
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    cluster: serde_json::Value,
    user: serde_json::Value,
    context: serde_json::Value,
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
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

struct Loader<'a> {
    path: &'a Path,
}

/// Reads a kubeconfig and the files that it names. Blocks on the file system.
pub fn load(path: &Path) -> Result<Access, KubeconfigError> {
    let loader = Loader { path };
    let text = loader.read("the kubeconfig itself", path)?;
    let text =
        String::from_utf8(text).map_err(|_| loader.parse_error("it is not UTF-8".to_owned()))?;
    loader.understand(&text)
}

impl Loader<'_> {
    fn understand(&self, text: &str) -> Result<Access, KubeconfigError> {
        let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|error| {
            let place = error
                .location()
                .map(|place| format!(" at line {}", place.line()))
                .unwrap_or_default();
            self.parse_error(format!("it is not a kubeconfig: not the expected YAML{place}"))
        })?;
        let context: Context =
            self.section(&config.contexts, "contexts", &config.current_context, |n| &n.context)?;
        let cluster: Cluster =
            self.section(&config.clusters, "clusters", &context.cluster, |named| &named.cluster)?;
        let user: User =
            self.section(&config.users, "users", &context.user, |named| &named.user)?;

        let field = |name: &str| format!("clusters[{}].cluster.{name}", context.cluster);
        let server: http::Uri = normalised(&cluster.server).parse().map_err(|error| {
            self.field_error(field("server"), format!("{:?} is no URL: {error}", cluster.server))
        })?;
        if server.host().is_none() || !matches!(server.scheme_str(), Some("http" | "https")) {
            let problem = format!("{:?} is no http or https URL", cluster.server);
            return Err(self.field_error(field("server"), problem));
        }
        if !cluster.proxy_url.is_empty() {
            return Err(
                self.field_error(field("proxy-url"), "proxies are not supported".to_owned())
            );
        }
        Ok(Access {
            server,
            tls_server_name: Some(cluster.tls_server_name.clone()).filter(|name| !name.is_empty()),
            roots: self.roots(&cluster, &context.cluster)?,
            insecure: cluster.insecure_skip_tls_verify,
            identity: self.identity(&user, &context.user)?,
            bearer: self.bearer(&user, &context.user)?,
        })
    }

    fn roots(
        &self,
        cluster: &Cluster,
        name: &str,
    ) -> Result<Option<Vec<CertificateDer<'static>>>, KubeconfigError> {
        let pem = self.data_or_file(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            &format!("clusters[{name}].cluster.certificate-authority"),
            "certificate-authority",
        )?;
        let Some((pem, field)) = pem else { return Ok(None) };
        let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| self.field_error(field.clone(), format!("it is not PEM: {error}")))?;
        if roots.is_empty() {
            return Err(self.field_error(field, "it holds no certificate".to_owned()));
        }
        Ok(Some(roots))
    }

    fn identity(&self, user: &User, name: &str) -> Result<Option<Identity>, KubeconfigError> {
        let prefix = format!("users[{name}].user");
        if user.exec.is_some() || user.auth_provider.is_some() {
            let problem = "credential plug-ins (exec, auth-provider) are not supported: use a certificate or a token";
            return Err(self.field_error(prefix, problem.to_owned()));
        }
        if !user.username.is_empty() {
            return Err(self.field_error(
                format!("{prefix}.username"),
                "basic authentication is not supported".into(),
            ));
        }
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
            (Some((certificate, field)), Some((key, _))) => {
                let mut identity = Identity::from_pem(&certificate, &key)
                    .map_err(|problem| self.field_error(field, problem))?;
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
        if !user.token_file.is_empty() {
            let file = self.resolve(&user.token_file);
            let token = self.read("tokenFile", &file)?;
            if token.iter().all(u8::is_ascii_whitespace) {
                let field = format!("users[{name}].user.tokenFile");
                return Err(self.field_error(field, format!("{} is empty", file.display())));
            }
            return Ok(Bearer::File(file));
        }
        Ok(if user.token.is_empty() {
            Bearer::None
        } else {
            Bearer::Token(user.token.trim().to_owned())
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

    fn section<T: serde::de::DeserializeOwned + Default>(
        &self,
        list: &[Named],
        section: &str,
        name: &str,
        pick: fn(&Named) -> &serde_json::Value,
    ) -> Result<T, KubeconfigError> {
        if name.is_empty() {
            let problem = if section == "contexts" {
                "it is not set"
            } else {
                "the current context names none"
            };
            let field = if section == "contexts" { "current-context" } else { section };
            return Err(self.field_error(field.to_owned(), problem.to_owned()));
        }
        let found = list.iter().find(|named| named.name == name).ok_or_else(|| {
            self.field_error(section.to_owned(), format!("there is none named {name:?}"))
        })?;
        let value = pick(found);
        if value.is_null() {
            return Ok(T::default());
        }
        // serde's text would quote values, which may be secrets.
        T::deserialize(value).map_err(|_| {
            self.field_error(format!("{section}[{name}]"), "a field has the wrong type".to_owned())
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

/// A server without a scheme is https, as client-go has it.
fn normalised(server: &str) -> String {
    let server = server.trim_end_matches('/');
    if server.contains("://") || server.is_empty() {
        server.to_owned()
    } else {
        format!("https://{server}")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::Engine as _;

    use super::{Access, Bearer, Loader};

    fn understand(text: &str) -> Result<Access, String> {
        Loader { path: Path::new("/etc/kubernetes/kubelet.conf") }
            .understand(text)
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
        refused("a: [", "not the expected YAML");
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
            "users[u]: a field has the wrong type",
        );
        refused(
            &kubeconfig("{server: 'https://x'}", "{exec: {command: x}}"),
            "credential plug-ins",
        );
    }
}
