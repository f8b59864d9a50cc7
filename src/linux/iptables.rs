//! Runs `iptables` and `ip6tables`: the few operations that the kubelet needs.
//!
//! The administrator chooses the back end (legacy or nf_tables) by the program that is `iptables`
//! on the PATH; upstream does the same. Versions before 1.4.11 cannot check rules and are not
//! supported.

use std::fmt;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::process::Command;

/// The deadline of one run. The programs wait at most five seconds for the lock.
const DEADLINE: Duration = Duration::from_secs(60);

/// The first version that knows `-w`.
const WAIT_SINCE: [u32; 3] = [1, 4, 20];
/// The first version that knows `-w <seconds>`.
const WAIT_SECONDS_SINCE: [u32; 3] = [1, 4, 22];

/// The exit status of an operation that failed, as opposed to one that could not be tried.
const FAILED: i32 = 1;

/// The exit status for want of resources, the lock above all.
const RESOURCE_PROBLEM: i32 = 4;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `iptables`.
    Ipv4,
    /// `ip6tables`.
    Ipv6,
}

impl Protocol {
    /// Returns the name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "iptables",
            Self::Ipv6 => "ip6tables",
        }
    }
}

/// The result of a program that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The program's output.
    pub output: String,
}

/// Runs programs. The trait is for tests.
pub trait Programs: Send + Sync {
    /// Runs `program` to its end.
    fn run(
        &self,
        program: &'static str,
        arguments: Vec<String>,
    ) -> BoxFuture<'static, io::Result<Finished>>;
}

/// The programs of this machine.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Programs for System {
    fn run(
        &self,
        program: &'static str,
        arguments: Vec<String>,
    ) -> BoxFuture<'static, io::Result<Finished>> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        Box::pin(async move {
            let output = tokio::time::timeout(DEADLINE, command.output())
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let text = [output.stdout, output.stderr].concat();
            Ok(Finished {
                code: output.status.code(),
                output: String::from_utf8_lossy(&text).trim().to_owned(),
            })
        })
    }
}

/// The reasons why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program cannot be run.
    #[error("error {attempt}: {source}")]
    Run {
        /// The operation.
        attempt: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The program failed.
    #[error("error {attempt}: exit status {}: {output}", code.unwrap_or(-1))]
    Status {
        /// The operation.
        attempt: String,
        /// The exit status.
        code: Option<i32>,
        /// The program's output.
        output: String,
    },
}

impl IptablesError {
    /// Returns true if the operation could not be tried now, so that its result is unknown.
    pub fn is_resource_problem(&self) -> bool {
        match self {
            Self::Run { .. } => false,
            Self::Status { code, .. } => *code == Some(RESOURCE_PROBLEM),
        }
    }
}

/// The position of a new rule in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// First.
    Prepend,
    /// Last.
    Append,
}

impl Position {
    fn operation(self) -> &'static str {
        match self {
            Self::Prepend => "-I",
            Self::Append => "-A",
        }
    }
}

/// The rules of one family.
pub struct Iptables<P> {
    protocol: Protocol,
    wait: &'static [&'static str],
    programs: P,
}

impl<P> fmt::Debug for Iptables<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iptables").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl<P: Programs> Iptables<P> {
    /// Returns the rules of a family if this machine has them: its program exists, and so does the
    /// chain `POSTROUTING` of the table `nat`.
    pub async fn detect(protocol: Protocol, programs: P) -> Option<Self> {
        let version = programs.run(protocol.program(), vec!["--version".to_owned()]).await.ok()?;
        let this = Self { protocol, wait: wait_flag(&version.output), programs };
        this.require_chain("nat", "POSTROUTING").await.ok()?;
        Some(this)
    }

    /// The family.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Creates a chain unless it exists.
    pub async fn ensure_chain(&self, table: &str, chain: &str) -> Result<(), IptablesError> {
        let attempt = format!("creating chain {chain:?}");
        self.operate("-N", table, chain, &[], attempt, &[FAILED]).await.map(|_| ())
    }

    /// Creates a rule unless it exists.
    pub async fn ensure_rule(
        &self,
        position: Position,
        table: &str,
        chain: &str,
        rule: &[&str],
    ) -> Result<(), IptablesError> {
        let attempt = "checking rule".to_owned();
        let is_there = self.operate("-C", table, chain, rule, attempt, &[FAILED]).await?;
        if is_there {
            return Ok(());
        }
        let attempt = "appending rule".to_owned();
        self.operate(position.operation(), table, chain, rule, attempt, &[]).await.map(|_| ())
    }

    /// Fails unless a chain exists.
    pub async fn require_chain(&self, table: &str, chain: &str) -> Result<(), IptablesError> {
        let attempt = format!("listing chain {chain:?} in table {table:?}");
        self.operate("-S", table, chain, &[], attempt, &[]).await.map(|_| ())
    }

    /// Runs an operation. Returns true if its status was 0. The status `tolerated` is no failure.
    async fn operate(
        &self,
        operation: &str,
        table: &str,
        chain: &str,
        rule: &[&str],
        attempt: String,
        tolerated: &[i32],
    ) -> Result<bool, IptablesError> {
        let words = [operation, chain, "-t", table];
        let words = self.wait.iter().chain(&words).chain(rule);
        let arguments = words.map(|word| (*word).to_owned()).collect();
        match self.programs.run(self.protocol.program(), arguments).await {
            Ok(Finished { code: Some(0), .. }) => Ok(true),
            Ok(Finished { code: Some(code), .. }) if tolerated.contains(&code) => Ok(false),
            Ok(Finished { code, output }) => Err(IptablesError::Status { attempt, code, output }),
            Err(source) => Err(IptablesError::Run { attempt, source }),
        }
    }
}

/// Returns the flags with which this version waits for the lock, from `iptables v1.8.9
/// (nf_tables)`.
fn wait_flag(version: &str) -> &'static [&'static str] {
    let number = version.split_whitespace().find_map(|word| word.strip_prefix('v'));
    let mut parts = number.unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));

    let version: [u32; 3] = std::array::from_fn(|_| parts.next().unwrap_or(0));
    if version >= WAIT_SECONDS_SINCE {
        &["-w", "5"]
    } else if version >= WAIT_SINCE {
        &["-w"]
    } else {
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_the_lock_as_the_version_can() {
        let check = |version, expected: &[&str]| assert_eq!(wait_flag(version), expected);
        check("iptables v1.8.9 (nf_tables)", &["-w", "5"]);
        check("iptables v1.4.22", &["-w", "5"]);
        check("iptables v1.4.21", &["-w"]);
        check("iptables v1.4.19.1", &[]);
        check("iptables v2.0", &["-w", "5"]);
        check("nothing of the kind", &[]);
    }
}
