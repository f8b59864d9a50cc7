//! One run of a plug-in's program: the request on its standard input, the answer on its standard
//! output.
//!
//! The program inherits the kubelet's environment; the configured variables win. It runs for a
//! minute at most. Its answer is read strictly, and no error quotes it; what the program writes to
//! its standard error is part of the error, as upstream has it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::PluginObserver;
use crate::clock::Clock;
use crate::config::GoDuration;
use crate::config::credential_providers::Provider;
use crate::images::credentials::Credential;

/// How long a program may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The largest output that is read.
const LARGEST: u64 = 1 << 20;

/// The program of a plug-in.
pub(super) struct Runner {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    api_version: String,
    observer: PluginObserver,
    clock: Clock,
}

/// What a program is asked. No `Debug`: it holds a token.
pub(super) struct Question {
    /// The image, without tag and digest.
    pub(super) image: String,
    /// The token of the pod's service account.
    pub(super) token: Option<Arc<str>>,
    /// Annotations of that account.
    pub(super) annotations: BTreeMap<String, String>,
}

/// What a program has answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// What the answer holds for: `Image`, `Registry`, `Global`.
    pub(super) cache_key_type: String,
    /// For how long; `None`: as configured.
    pub(super) cache_duration: Option<GoDuration>,
    /// The credentials by registry and path.
    pub(super) credentials: BTreeMap<String, Credential>,
}

/// Why there is no answer. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(
        "error execing credential provider plugin {name} for image {image}: {problem}: {stderr}"
    )]
    Failed { name: String, image: String, problem: String, stderr: String },
    #[error("error reading GVK from response: couldn't get version/kind; json parse error")]
    NoObject,
    #[error(
        "apiVersion from credential plugin response did not match expected apiVersion:{expected}, \
         actual apiVersion:{actual}"
    )]
    Version { expected: String, actual: String },
    #[error("error decoding credential provider plugin response from stdout")]
    Undecodable,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    api_version: String,
}

// No Debug: it holds passwords.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Response {
    kind: String,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    cache_key_type: String,
    cache_duration: Option<GoDuration>,
    auth: Option<BTreeMap<String, Option<Auth>>>,
}

// No Debug: it holds passwords.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Auth {
    // Go takes `null` for the empty text.
    username: Option<String>,
    password: Option<String>,
}

impl Runner {
    pub(super) fn new(
        provider: &Provider,
        bin_dir: &Path,
        observer: PluginObserver,
        clock: Clock,
    ) -> Self {
        let variables = provider.env.iter();
        Self {
            name: provider.name.clone(),
            program: bin_dir.join(&provider.name),
            args: provider.args.clone(),
            env: variables.map(|one| (one.name.clone(), one.value.clone())).collect(),
            api_version: provider.api_version.clone(),
            observer,
            clock,
        }
    }

    /// Runs the program once. Dropping the future ends it.
    pub(super) async fn run(&self, question: &Question) -> Result<Answer, RunError> {
        let began = self.clock.now().mono;
        let request = self.request(question);
        let mut stderr = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, self.execute(&request, &mut stderr)).await;
        let failure = |problem: String| RunError::Failed {
            name: self.name.clone(),
            image: question.image.clone(),
            problem,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        let outcome = match ended {
            Err(_) => Err(failure("context deadline exceeded".to_owned())),
            Ok(Err(error)) => {
                let program = self.program.display();
                Err(failure(format!("fork/exec {program}: {error}")))
            }
            Ok(Ok((status, _))) if !status.success() => Err(failure(status_text(status))),
            Ok(Ok((_, stdout))) => Ok(stdout),
        };
        let took = self.clock.now().mono.since(began);
        (self.observer)(&self.name, took, outcome.is_err());
        self.understand(&outcome?)
    }

    /// The request as the program reads it.
    fn request(&self, question: &Question) -> Vec<u8> {
        let mut request = serde_json::json!({
            "kind": "CredentialProviderRequest",
            "apiVersion": self.api_version,
            "image": question.image,
        });
        // Older versions have no fields for these, and their plug-ins never have a token.
        if let Some(token) = &question.token {
            request["serviceAccountToken"] = (**token).into();
        }
        if !question.annotations.is_empty() {
            request["serviceAccountAnnotations"] = serde_json::json!(question.annotations);
        }
        format!("{request}\n").into_bytes()
    }

    /// Runs the program to its end. What it writes to its standard error is in `stderr` also if
    /// this is dropped before.
    async fn execute(
        &self,
        request: &[u8],
        stderr: &mut Vec<u8>,
    ) -> std::io::Result<(ExitStatus, Vec<u8>)> {
        let variables = self.env.iter().map(|(name, value)| (name, value));
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.args)
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;

        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let errors = child.stderr.take();
        let mut answer = Vec::new();

        let write = async move {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input may be right all the same.
                stdin.write_all(request).await.ok();
            }
        };

        let (status, (), answered, told) =
            tokio::join!(child.wait(), write, read(stdout, &mut answer), read(errors, stderr));
        answered?;
        told?;
        Ok((status?, answer))
    }

    /// Reads the answer; errors never quote it.
    fn understand(&self, answer: &[u8]) -> Result<Answer, RunError> {
        let meta: TypeMeta = serde_json::from_slice(answer).map_err(|_| RunError::NoObject)?;
        if meta.api_version != self.api_version {
            return Err(RunError::Version {
                expected: self.api_version.clone(),
                actual: meta.api_version,
            });
        }
        let response: Response =
            serde_json::from_slice(answer).map_err(|_| RunError::Undecodable)?;
        if response.kind != "CredentialProviderResponse" {
            return Err(RunError::Undecodable);
        }
        let auth = response.auth.unwrap_or_default().into_iter();
        let credential = |(key, auth): (String, Option<Auth>)| {
            let Auth { username, password } = auth.unwrap_or_default();
            let credential =
                Credential::new(username.unwrap_or_default(), password.unwrap_or_default());
            (key, credential)
        };
        Ok(Answer {
            cache_key_type: response.cache_key_type,
            cache_duration: response.cache_duration,
            credentials: auth.map(credential).collect(),
        })
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> std::io::Result<()> {
    if let Some(from) = from {
        let mut limited = from.take(LARGEST);
        limited.read_to_end(into).await?;
        // The rest is read and dropped, so that the program can end.
        tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(())
}

/// How a process ended, as Go says it.
fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(nix::sys::signal::Signal::SIGKILL) => "signal: killed".to_owned(),
            Ok(nix::sys::signal::Signal::SIGTERM) => "signal: terminated".to_owned(),
            Ok(other) => format!("signal: {other}"),
            Err(_) => format!("signal: {signal}"),
        },
        (None, None) => "it ended in an unknown way".to_owned(),
    }
}
