//! Reads the kernel's log, one record at a time, without blocking a thread.
//!
//! It does not know what records mean.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use tokio::io::unix::AsyncFd;

/// The device.
const KMSG: &str = "/dev/kmsg";

/// The kernel's log.
#[derive(Debug)]
pub struct Kmsg(AsyncFd<File>);

impl Kmsg {
    /// Opens the log behind its newest record. Needs a tokio runtime with I/O.
    pub fn open_at_end() -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(KMSG)?;
        file.seek(SeekFrom::End(0))?;
        #[expect(unsafe_code, reason = "tokio's safe constructor does not take a file")]
        // SAFETY: The descriptor must be neither closed nor replaced while it is registered: the
        // value that registers it owns the file.
        let file = unsafe { AsyncFd::register(file)? };
        Ok(Self(file))
    }

    /// Returns the next record, `longest` bytes at most. A record that the kernel has overwritten
    /// meanwhile is left out. Cancel-safe.
    pub async fn next(&mut self, longest: usize) -> io::Result<Vec<u8>> {
        let mut record = vec![0; longest];
        loop {
            let mut ready = self.0.readable_mut().await?;
            match ready.get_inner_mut().read(&mut record) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    record.truncate(count);
                    return Ok(record);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // Overwritten before it was read (EPIPE), or longer than the buffer (EINVAL): the
                // next read is of the next record.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EINVAL))
                        || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
