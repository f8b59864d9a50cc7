//! Waits for stalls of the machine by pressure stall information (PSI).
//!
//! The kernel wakes the waiter when tasks have waited for a resource for a given part of a window.
//! While nothing stalls nothing runs. It says that something is wrong, never what.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The stalls of the whole machine for want of memory.
pub const MEMORY: &str = "/proc/pressure/memory";

/// A trigger of the kernel, for as long as it is held.
#[derive(Debug)]
pub struct StallTrigger(AsyncFd<File>);

impl StallTrigger {
    /// Asks to be woken when some task has waited for `stall` within `window`. Needs a tokio
    /// runtime with I/O. Fails on a kernel without PSI.
    pub fn new(path: &Path, stall: Duration, window: Duration) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let trigger = format!("some {} {}\0", stall.as_micros(), window.as_micros());
        // In one write: each write is a trigger of its own.
        let written = file.write(trigger.as_bytes())?;
        if written != trigger.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }

        #[expect(unsafe_code, reason = "tokio's safe constructor does not take a file")]
        // SAFETY: The descriptor must be neither closed nor replaced while it is registered: the
        // value that registers it owns the file.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY)? };
        Ok(Self(file))
    }

    /// Waits for the next stall; at most one is reported in each window. Cancel-safe.
    pub async fn fired(&self) -> io::Result<()> {
        let mut ready = self.0.ready(Interest::PRIORITY).await?;
        ready.clear_ready();
        Ok(())
    }
}
