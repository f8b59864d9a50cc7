//! Credentials that a plug-in gives: `users[].user.exec` of a kubeconfig, as EKS has it.
//!
//! The plug-in is a program that prints an ExecCredential with a token, a client certificate, or
//! both. What it gave is used until the expiry that it named, or until the API server answers 401.
//! It runs as a process of its own with a deadline, one at a time. Its output never reaches a log;
//! what it writes to stderr goes to the kubelet's.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::authorization::bearer_header;
use super::identity::Identity;
use crate::clock::Clock;
use crate::model::Wall;

/// How long a plug-in may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const LARGEST: u64 = 1 << 20;
/// What tells the plug-in of the request.
const EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";
/// The versions of the API that plug-ins speak.
pub const VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/// A plug-in as the kubeconfig describes it. `Debug` shows its command alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Plugin {
    /// The program: a path, or a name that is looked up in `PATH`.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables besides those of the kubelet.
    pub env: Vec<(String, String)>,
    /// The version of the API that it speaks, one of [`VERSIONS`].
    pub api_version: String,
    /// How to install it.
    pub install_hint: String,
    /// The cluster, if the plug-in is given it (`provideClusterInfo`).
    pub cluster: Option<serde_json::Value>,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("command", &self.command).finish_non_exhaustive()
    }
}

/// Why a plug-in gave no credentials. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program is not there.
    #[error("exec: executable {command} not found{hint}")]
    NotFound {
        /// The program.
        command: String,
        /// How to install it, after a line break.
        hint: String,
    },
    /// It could not be started, or its answer not be read.
    #[error("exec: {command}")]
    Start {
        /// The program.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It failed.
    #[error("exec: executable {command} failed with exit code {code}")]
    Failed {
        /// The program.
        command: String,
        /// Its exit code, -1 after a signal.
        code: i32,
    },
    /// It took too long.
    #[error("exec: executable {0} did not end within {DEADLINE:?}")]
    Deadline(String),
    /// Its answer cannot be used.
    #[error("{0}")]
    Answer(String),
}

/// What a plug-in gave.
#[derive(Default)]
pub struct Given {
    /// The `Authorization` header.
    pub bearer: Option<HeaderValue>,
    /// The client certificate, for connections made from now on.
    pub identity: Option<Identity>,
    expires: Option<Wall>,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A plug-in with what it gave last.
#[derive(Debug)]
pub struct Source {
    plugin: Plugin,
    clock: Clock,
    /// Held while the plug-in runs: it runs once for all who wait.
    last: tokio::sync::Mutex<Option<Arc<Given>>>,
}

impl Source {
    /// Nothing runs before the first use.
    pub fn new(plugin: Plugin, clock: Clock) -> Self {
        Self { plugin, clock, last: tokio::sync::Mutex::new(None) }
    }

    /// The credentials, from the plug-in if there are none that are still valid.
    pub async fn get(&self) -> Result<Arc<Given>, ExecError> {
        let mut last = self.last.lock().await;
        let now = self.clock.now().wall;
        let valid = |given: &&Arc<Given>| given.expires.is_none_or(|expires| now <= expires);
        if let Some(given) = last.as_ref().filter(valid) {
            return Ok(Arc::clone(given));
        }
        let given = Arc::new(self.plugin.run().await?);
        *last = Some(Arc::clone(&given));
        Ok(given)
    }

    /// Drops what the API server has refused, unless it has been replaced already.
    pub async fn refused(&self, header: Option<&HeaderValue>) {
        let mut last = self.last.lock().await;
        if last.as_ref().is_some_and(|given| given.bearer.as_ref() == header) {
            *last = None;
        }
    }
}

impl Plugin {
    async fn run(&self) -> Result<Given, ExecError> {
        let command = self.command.display().to_string();
        let mut process = tokio::process::Command::new(&self.command);
        process
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env(EXEC_INFO, self.request())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let outcome = tokio::time::timeout(DEADLINE, async {
            let mut child = process.spawn()?;
            let mut answer = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(LARGEST).read_to_end(&mut answer).await?;
            }
            Ok::<_, std::io::Error>((child.wait().await?, answer))
        });
        match outcome.await {
            Err(_) => Err(ExecError::Deadline(command)),
            Ok(Err(source)) => Err(self.not_started(command, source)),
            Ok(Ok((status, _))) if !status.success() => {
                Err(ExecError::Failed { command, code: status.code().unwrap_or(-1) })
            }
            Ok(Ok((_, answer))) => self.understand(&answer),
        }
    }

    fn not_started(&self, command: String, source: std::io::Error) -> ExecError {
        if source.kind() != std::io::ErrorKind::NotFound {
            return ExecError::Start { command, source };
        }
        let hint = Some(&self.install_hint).filter(|hint| !hint.is_empty());
        ExecError::NotFound { command, hint: hint.map(|h| format!("\n\n{h}")).unwrap_or_default() }
    }

    /// The text of the request, an ExecCredential without a status.
    fn request(&self) -> String {
        let mut spec = serde_json::json!({ "interactive": false });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        serde_json::json!({ "kind": "ExecCredential", "apiVersion": self.api_version, "spec": spec })
            .to_string()
    }

    /// Reads the answer; errors never quote it.
    fn understand(&self, answer: &[u8]) -> Result<Given, ExecError> {
        let fail = |text: String| ExecError::Answer(text);
        let credential: ExecCredential = crate::config::document::read(answer)
            .ok()
            .and_then(|read| serde_json::from_value(read.value).ok())
            .ok_or_else(|| fail("decoding stdout: it is no ExecCredential".to_owned()))?;

        if credential.api_version != self.api_version || credential.kind != "ExecCredential" {
            return Err(fail(format!(
                "exec plugin is configured to use API version {}, plugin returned version {}",
                self.api_version, credential.api_version
            )));
        }

        let missing = || fail("exec plugin didn't return a status field".to_owned());
        let status = credential.status.ok_or_else(missing)?;

        let certificate = (status.client_certificate_data, status.client_key_data);
        let identity = match (certificate.0.as_str(), certificate.1.as_str()) {
            ("", "") if status.token.is_empty() => {
                return Err(fail("exec plugin didn't return a token or cert/key pair".to_owned()));
            }
            ("", "") => None,
            ("", _) | (_, "") => {
                return Err(fail(
                    "exec plugin returned only certificate or key, not both".to_owned(),
                ));
            }
            (certificate, key) => {
                Some(Identity::from_pem(certificate.as_bytes(), key.as_bytes()).map_err(
                    |problem| fail(format!("failed parsing client key/certificate: {problem}")),
                )?)
            }
        };

        let unusable = || fail("the token holds characters that a header may not hold".to_owned());
        let bearer = match status.token.trim() {
            "" => None,
            token => Some(bearer_header(token).ok_or_else(unusable)?),
        };

        let expires = status.expiration_timestamp.map(|text| text.parse()).transpose();
        let expires = expires
            .map_err(|_| fail("decoding stdout: expirationTimestamp is no time".to_owned()))?;
        Ok(Given { bearer, identity, expires })
    }
}

// No Debug: these hold secrets.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ExecCredential {
    kind: String,
    api_version: String,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: String,
    client_certificate_data: String,
    client_key_data: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = VERSIONS[0];

    /// A plug-in that is a shell script.
    fn plugin(script: &str) -> Plugin {
        Plugin {
            command: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("WHO".into(), "node".into())],
            api_version: V1.into(),
            install_hint: "get it".into(),
            cluster: Some(serde_json::json!({ "server": "https://api" })),
        }
    }

    fn answer(status: &str) -> String {
        format!(r#"{{"kind":"ExecCredential","apiVersion":"{V1}","status":{status}}}"#)
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_expires_or_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let count = folder.path().join("count").display().to_string();
        let script = |expires: &str| {
            let status = format!(r#"{{"token":"s3cret-'$n'"{expires}}}"#);
            format!("echo >>{count}; n=$(wc -l <{count}); echo '{}'", answer(&status))
        };
        let source = Source::new(plugin(&script("")), Clock::system());
        let first = source.get().await.expect("a token").bearer.clone();
        assert_eq!(first.as_ref().expect("a header"), "Bearer s3cret-1");
        assert_eq!(source.get().await.expect("kept").bearer, first);
        source.refused(first.as_ref()).await;
        let second = source.get().await.expect("a new token").bearer.clone();
        assert_eq!(second.as_ref().expect("a header"), "Bearer s3cret-2");
        source.refused(first.as_ref()).await;
        assert_eq!(source.get().await.expect("replaced already").bearer, second);
        assert!(!format!("{source:?} {:?}", source.get().await).contains("s3cret"));

        let expired = r#","expirationTimestamp":"2020-01-01T00:00:00Z""#;
        let source = Source::new(plugin(&script(expired)), Clock::system());
        let one = source.get().await.expect("a token").bearer.clone();
        assert_ne!(source.get().await.expect("another").bearer, one);
    }

    #[tokio::test]
    async fn the_plugin_is_told_of_the_cluster_and_has_its_variables() {
        let script = format!(
            "[ \"$WHO\" = node ] && case $KUBERNETES_EXEC_INFO in \
             *'\"server\":\"https://api\"'*) echo '{}';; esac",
            answer(r#"{"token":"t"}"#)
        );
        let source = Source::new(plugin(&script), Clock::system());
        source.get().await.expect("a token");
    }

    #[tokio::test]
    async fn errors_are_upstreams_and_quote_nothing() {
        for (script, expected) in [
            ("exit 3".to_owned(), "exec: executable sh failed with exit code 3"),
            ("echo s3cret".to_owned(), "decoding stdout: it is no ExecCredential"),
            (
                format!("echo '{}'", answer(r#"{"token":"s3cret"}"#).replace("/v1", "/v1alpha1")),
                "exec plugin is configured to use API version client.authentication.k8s.io/v1, plugin \
                 returned version client.authentication.k8s.io/v1alpha1",
            ),
            (format!("echo '{}'", answer("null")), "exec plugin didn't return a status field"),
            (
                format!("echo '{}'", answer("{}")),
                "exec plugin didn't return a token or cert/key pair",
            ),
            (
                format!("echo '{}'", answer(r#"{"clientKeyData":"s3cret"}"#)),
                "exec plugin returned only certificate or key, not both",
            ),
        ] {
            let error = plugin(&script).run().await.expect_err("it fails");
            assert_eq!(error.to_string(), expected);
        }
        let missing = Plugin { command: "no-such-plugin".into(), ..plugin("") };
        let error = missing.run().await.expect_err("it is not there");
        assert_eq!(error.to_string(), "exec: executable no-such-plugin not found\n\nget it");
    }

    #[tokio::test]
    async fn a_certificate_may_be_given() {
        let pair = rcgen::generate_simple_self_signed(["node".to_owned()]).expect("a certificate");
        let status = serde_json::json!({
            "clientCertificateData": pair.cert.pem(),
            "clientKeyData": pair.signing_key.serialize_pem(),
        });
        let given = plugin("").understand(answer(&status.to_string()).as_bytes()).expect("read");
        assert_eq!(given.identity.as_ref().map(|identity| identity.chain.len()), Some(1));
        assert!(given.bearer.is_none());
    }
}
