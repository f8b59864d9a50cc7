//! Waits until the memory of a cgroup crosses a value. The legacy hierarchy only: the unified one
//! has no such notice, see [`crate::linux::psi`].
//!
//! The kernel wakes the waiter on each crossing, up or down.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use super::Layout;

/// The file whose value is compared.
const USAGE: &str = "memory.usage_in_bytes";
/// The file that takes the notices that are asked for.
const CONTROL: &str = "cgroup.event_control";

/// A notice of the kernel, for as long as it is held.
#[derive(Debug)]
pub struct MemoryNotice(AsyncFd<OwnedFd>);

impl MemoryNotice {
    /// Asks to be woken when the memory of the cgroup `path` (with a leading `/`) crosses
    /// `threshold` bytes. `None` on the unified hierarchy. Blocks; needs a tokio runtime with I/O.
    pub fn new(layout: &Layout, path: &str, threshold: u64) -> io::Result<Option<Self>> {
        let Layout::V1(controllers) = layout else { return Ok(None) };
        let Some(memory) = controllers.get("memory") else { return Ok(None) };
        let directory = memory.join(path.trim_start_matches('/'));
        let usage = File::open(directory.join(USAGE))?;
        let mut control = OpenOptions::new().write(true).open(directory.join(CONTROL))?;

        #[expect(
            unsafe_code,
            reason = "nix has event descriptors behind a feature that is not used otherwise, tokio \
                      trusts nobody"
        )]
        // SAFETY: The first call takes no pointers; what it answers is a descriptor of our own or
        // an error. The second asks that the descriptor is neither closed nor replaced while it is
        // registered: nobody else has it.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            AsyncFd::register(OwnedFd::from_raw_fd(fd))?
        };
        let event_fd = event.get_ref().as_raw_fd();
        let usage_fd = usage.as_raw_fd();
        control.write_all(format!("{event_fd} {usage_fd} {threshold}").as_bytes())?;
        Ok(Some(Self(event)))
    }

    /// Waits for the next crossing. Cancel-safe.
    pub async fn crossed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match nix::unistd::read(self.0.get_ref(), &mut [0; 8]) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
