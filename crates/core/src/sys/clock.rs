//! The processor time of a thread.

use std::time::Duration;

use nix::libc;

/// A clock that counts the processor time of one thread.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The clock of the calling thread.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let mut clock = libc::CLOCK_MONOTONIC;
        // SAFETY: a live thread (our own), and a valid place for the result. If the call fails, the monotonic clock is
        // used.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        Self(clock)
    }

    /// The thread's processor time; `None` if it has ended.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid place for the result. The clock of a thread that has ended is an error, not a wrong result.
        if unsafe { libc::clock_gettime(self.0, &mut time) } != 0 {
            return None;
        }
        Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
    }
}
