//! System calls that no safe crate covers. The only module where `unsafe` is allowed; one small safe function a call.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::{mman, prctl, resource};

/// Switches core dumps off for this process. Called first in `main`, before any value can be in memory.
pub fn harden() {
    // Best effort: a system that refuses these still runs us, and the manual does not promise more.
    let _ = resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = prctl::set_dumpable(false);
    // Over a file size limit, a write shall fail with an error that we can word, not end us without one.
    // SAFETY: ignoring a signal installs no handler.
    let _ = unsafe { signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Makes `to` share all of `from`'s blocks, on a file system that can (btrfs, xfs, bcachefs, …). `to` becomes as
/// long as `from`; writes to one do not reach the other.
///
/// # Errors
/// What the system says; mostly that it cannot.
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value, and no memory.
    let result = unsafe { libc::ioctl(to.as_fd().as_raw_fd(), libc::FICLONE, from.as_fd().as_raw_fd()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The file that the signal handler removes; null when there is none.
static DOOMED: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// The signals that end us in the usual course of things.
const ENDING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// While this lives, SIGHUP, SIGINT and SIGTERM remove one file and then do what they always do. For file systems
/// where an unfinished file needs a name, and for the moment between naming a file and renaming it.
pub struct RemoveOnSignal {
    before: Vec<(Signal, SigAction)>,
}

impl RemoveOnSignal {
    /// Watches over `path`. `None` when another file is watched over already, or the path holds a NUL: then a signal
    /// may leave the file behind.
    #[must_use]
    pub fn new(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?.into_raw();
        if DOOMED.compare_exchange(ptr::null_mut(), path, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: `path` is from `into_raw` above, and nobody else has seen it.
            drop(unsafe { CString::from_raw(path) });
            return None;
        }
        let action = SigAction::new(SigHandler::Handler(remove_and_end), SaFlags::empty(), SigSet::all());
        let mut before = Vec::with_capacity(ENDING.len());
        for ending in ENDING {
            // SAFETY: the handler calls unlink, signal and raise only, which are async-signal-safe.
            if let Ok(old) = unsafe { signal::sigaction(ending, &action) } {
                if matches!(old.handler(), SigHandler::SigIgn) {
                    // Under nohup, say, it shall go on being ignored.
                    // SAFETY: puts back what stood there.
                    let _ = unsafe { signal::sigaction(ending, &old) };
                } else {
                    before.push((ending, old));
                }
            }
        }
        Some(Self { before })
    }
}

impl Drop for RemoveOnSignal {
    fn drop(&mut self) {
        for (ending, old) in &self.before {
            // SAFETY: puts back what stood there.
            let _ = unsafe { signal::sigaction(*ending, old) };
        }
        let path = DOOMED.swap(ptr::null_mut(), Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: from `into_raw` in `new`; the swap made us its only owner. Had the handler taken it, it were null.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

extern "C" fn remove_and_end(number: c_int) {
    let path = DOOMED.swap(ptr::null_mut(), Ordering::SeqCst);
    if !path.is_null() {
        // SAFETY: a NUL-terminated string from `into_raw`, which nobody frees once it was swapped out.
        unsafe { libc::unlink(path) };
    }
    // SAFETY: both are async-signal-safe. The signal is blocked now, and ends us when this returns.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
}

/// While this lives, SIGHUP, SIGINT and SIGTERM wait: for a change that must not stop half-way.
pub struct HeldSignals {
    before: SigSet,
}

impl HeldSignals {
    /// Holds them back in this thread, which is the only one.
    #[must_use]
    pub fn hold() -> Self {
        let ending: SigSet = ENDING.into_iter().collect();
        // OK to go on without: the mask is then empty, and signals end us at once, as always.
        Self { before: ending.thread_swap_mask(signal::SigmaskHow::SIG_BLOCK).unwrap_or_else(|_| SigSet::empty()) }
    }

    /// Drops what came meanwhile: the work is done, and there is nothing left to stop.
    pub fn forget(self) {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        for ending in ENDING {
            // A signal that waits is dropped when it becomes ignored (sigaction(2), POSIX).
            // SAFETY: ignoring a signal installs no handler, and then what stood there is put back.
            if let Ok(old) = unsafe { signal::sigaction(ending, &ignore) } {
                // SAFETY: as above.
                let _ = unsafe { signal::sigaction(ending, &old) };
            }
        }
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // Best effort: nothing is wrong with a signal that waits until the end.
        let _ = self.before.thread_set_mask();
    }
}

/// Lets this process have as many open files as the system allows it. Best effort.
pub fn raise_open_files_limit() {
    if let Ok((_, most)) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE) {
        let _ = resource::setrlimit(resource::Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Asks the kernel to keep `bytes` out of swap. Best effort: RLIMIT_MEMLOCK may be small. Never unlocked, since
/// locks cover whole pages and a neighbour on the page may still need them; the process is short-lived.
pub fn lock_memory(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let address = NonNull::from(bytes).cast();
    // SAFETY: mlock only changes residency of pages that hold `bytes`, which is a valid, mapped slice.
    let _ = unsafe { mman::mlock(address, bytes.len()) };
}
