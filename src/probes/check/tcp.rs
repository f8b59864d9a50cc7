//! Checks that a TCP port accepts a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpStream;

use super::{CheckResult, host_port};

/// Connects, then closes the connection.
pub(super) async fn check(host: &str, port: u16, timeout: Duration) -> CheckResult {
    match tokio::time::timeout(timeout, dial(host, port)).await {
        Ok(Ok(_)) => CheckResult::Success,
        Ok(Err(error)) => CheckResult::Failure(error.0),
        Err(_) => CheckResult::Failure(format!("dial tcp {}: i/o timeout", host_port(host, port))),
    }
}

/// The reason why there is no connection, in Go's words.
#[derive(Debug)]
pub(super) struct DialError(pub(super) String);

/// Connects to the first address of the host that answers.
///
/// The socket lingers as the kernel has it. Upstream sets one second, which makes `close` wait:
/// that would block everything else on this thread while a container does not acknowledge.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let found: io::Result<Vec<SocketAddr>> =
        tokio::net::lookup_host((host, port)).await.map(Iterator::collect);
    let addresses =
        found.map_err(|_| DialError(format!("dial tcp: lookup {host}: no such host")))?;
    let mut first = None;

    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Best effort: the option only saves a delay.
                let _delay = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => {
                first.get_or_insert_with(|| {
                    format!("dial tcp {address}: connect: {}", os_text(&error))
                });
            }
        }
    }

    Err(DialError(first.unwrap_or_else(|| format!("dial tcp: lookup {host}: no such host"))))
}

/// Words a system error as Go does.
pub(super) fn os_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let text = Errno::from_raw(number).desc();
            let mut chars = text.chars();
            chars
                .next()
                .map(|first| first.to_lowercase().chain(chars).collect())
                .unwrap_or_default()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test]
    async fn connects_or_says_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let second = Duration::from_secs(5);
        assert_eq!(check("127.0.0.1", port, second).await, CheckResult::Success);
        drop(listener);
        assert_eq!(
            check("127.0.0.1", port, second).await,
            CheckResult::Failure(format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
        );
    }
}
