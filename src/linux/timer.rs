//! Detects that the wall clock was set, by a timer of the kernel that never expires.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

/// A far time: seconds of the wall clock, some ten thousand years from now.
const NEVER: libc::time_t = 1 << 38;

/// The timer that is cancelled when the wall clock is set.
#[derive(Debug)]
pub struct WallClockTimer(AsyncFd<OwnedFd>);

impl WallClockTimer {
    /// Creates the timer. Needs a tokio runtime with I/O.
    pub fn new() -> io::Result<Self> {
        #[expect(
            unsafe_code,
            reason = "nix has the timer behind a feature that is not used otherwise, tokio trusts nobody"
        )]
        // SAFETY: The first call takes no pointers; what it answers is a descriptor of our own or
        // an error. The second asks that the descriptor is neither closed nor replaced while it is
        // registered: nobody else has it.
        let timer = unsafe {
            let fd =
                libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            AsyncFd::register(OwnedFd::from_raw_fd(fd))?
        };
        arm(timer.get_ref())?;

        Ok(Self(timer))
    }

    /// Waits until the wall clock is set. Cancel-safe.
    pub async fn was_set(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match nix::unistd::read(self.0.get_ref(), &mut [0; 8]) {
                Err(Errno::ECANCELED) => return arm(self.0.get_ref()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Ok(_) => arm(self.0.get_ref())?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = libc::timespec { tv_sec: NEVER, tv_nsec: 0 };
    let wanted =
        libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;

    // SAFETY: The descriptor is open, the pointer is to a value that outlives the call, and no old
    // value is asked for.
    #[expect(unsafe_code, reason = "nix has it behind a feature that would rebuild everything")]
    let result = unsafe {
        libc::timerfd_settime(timer.as_raw_fd(), flags, &raw const wanted, std::ptr::null_mut())
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::WallClockTimer;

    #[tokio::test]
    async fn a_clock_that_only_runs_was_not_set() {
        let timer = WallClockTimer::new().expect("a timer");
        let told = tokio::time::timeout(Duration::from_millis(50), timer.was_set()).await;
        assert!(told.is_err(), "{told:?}");
    }
}
