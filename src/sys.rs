//! System calls that no safe crate covers. The only module where `unsafe` is allowed; one small safe function a call.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::termios::Termios;
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

/// The signals that end us in the usual course of things.
const ENDING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// How far the run is, for the handler: one of the three below.
static STAGE: AtomicU8 = AtomicU8::new(BEFORE);
/// Nothing was changed: a signal ends us.
const BEFORE: u8 = 0;
/// Something is being changed: a signal waits.
const DURING: u8 = 1;
/// The change is made: what a signal would stop is done already.
const AFTER: u8 = 2;

/// The signal that waits for the end of [`DURING`]; 0 when there is none.
static WAITING: AtomicI32 = AtomicI32::new(0);

/// The file that the signal handler removes; null when there is none.
static DOOMED: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// From here on SIGHUP, SIGINT and SIGTERM end us cleanly, until a change is made ([`SignalsWait`]): an unfinished file is
/// removed ([`RemoveOnSignal`]), a line says that nothing was changed, and the exit code is 129, 130 or 143. A signal that
/// is ignored (nohup) stays ignored.
pub fn end_cleanly_on_signals() {
    // SA_RESTART: where a signal only waits, no call of ours shall fail because of it.
    let action = SigAction::new(SigHandler::Handler(on_ending_signal), SaFlags::SA_RESTART, SigSet::all());
    for ending in ENDING {
        // SAFETY: the handler makes async-signal-safe calls only: see there.
        if let Ok(old) = unsafe { signal::sigaction(ending, &action) }
            && matches!(old.handler(), SigHandler::SigIgn)
        {
            // SAFETY: puts back what stood there.
            let _ = unsafe { signal::sigaction(ending, &old) };
        }
    }
}

/// While this lives, the signals of [`end_cleanly_on_signals`] wait: for the moment in which a change is made, so that
/// whoever sees us ended by a signal knows that nothing was changed. One at a time.
#[must_use]
pub struct SignalsWait(());

impl SignalsWait {
    /// From here on they wait.
    #[expect(clippy::new_without_default, reason = "it changes the whole process, which a default does not")]
    pub fn new() -> Self {
        STAGE.store(DURING, Ordering::SeqCst);
        Self(())
    }

    /// The change is made. A signal that waited, or comes now, would stop what is done: it is passed over, and the run
    /// reports what it did. The next one ends it.
    pub fn committed(self) {
        STAGE.store(AFTER, Ordering::SeqCst);
    }
}

impl Drop for SignalsWait {
    /// Nothing was changed after all: a signal that waited ends us now.
    fn drop(&mut self) {
        // The stage first: a signal from here on ends us by itself.
        let unchanged = STAGE.compare_exchange(DURING, BEFORE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let waiting = WAITING.swap(0, Ordering::SeqCst);
        if unchanged && waiting != 0 {
            end_by(waiting);
        }
    }
}

/// While this lives, a signal that ends us removes one file first. For file systems where an unfinished file needs a name.
/// Without [`end_cleanly_on_signals`] it does nothing.
pub struct RemoveOnSignal(());

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
        Some(Self(()))
    }
}

impl Drop for RemoveOnSignal {
    fn drop(&mut self) {
        let path = DOOMED.swap(ptr::null_mut(), Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: from `into_raw` in `new`; the swap made us its only owner. Had the handler taken it, it were null.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

/// The terminal that does not show what is typed, for the signal handler; null when there is none.
static SILENT: AtomicPtr<Terminal> = AtomicPtr::new(ptr::null_mut());

/// A terminal and how it was.
struct Terminal {
    fd: RawFd,
    before: libc::termios,
}

/// While this lives, a signal that ends us gives a terminal its old settings first: else a person who gives up at a
/// password's prompt is left with a shell that shows nothing. Without [`end_cleanly_on_signals`] it does nothing.
pub struct TerminalOnSignal(());

impl TerminalOnSignal {
    /// The terminal `terminal`, which stays open as long as this lives, and its settings `before`. One at a time: a second
    /// one takes the first one's place.
    #[must_use]
    pub fn new(terminal: &impl AsRawFd, before: &Termios) -> Self {
        let terminal = Box::new(Terminal { fd: terminal.as_raw_fd(), before: before.clone().into() });
        drop_terminal(SILENT.swap(Box::into_raw(terminal), Ordering::SeqCst));
        Self(())
    }
}

impl Drop for TerminalOnSignal {
    fn drop(&mut self) {
        drop_terminal(SILENT.swap(ptr::null_mut(), Ordering::SeqCst));
    }
}

fn drop_terminal(terminal: *mut Terminal) {
    if !terminal.is_null() {
        // SAFETY: from `into_raw` in `new`; the swap made us its only owner. Had the handler taken it, it were null.
        drop(unsafe { Box::from_raw(terminal) });
    }
}

extern "C" fn on_ending_signal(number: c_int) {
    match STAGE.load(Ordering::SeqCst) {
        DURING => WAITING.store(number, Ordering::SeqCst),
        // SAFETY: async-signal-safe.
        AFTER => drop(unsafe { libc::signal(number, libc::SIG_DFL) }),
        _ => end_by(number),
    }
}

/// Removes the unfinished file, says that nothing was changed, and ends us with 128 and the signal's number, as a shell
/// would show it (130, 143). Also called by the handler: async-signal-safe calls only (signal-safety(7)), and no allocation.
fn end_by(number: c_int) -> ! {
    const LAST_WORDS: &[u8] = b"\nerror: stopped by a signal: nothing was changed\n";
    let path = DOOMED.swap(ptr::null_mut(), Ordering::SeqCst);
    let terminal = SILENT.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: `terminal` is null or from `into_raw`, its file open, and nobody frees it once it was swapped out; `path` is null or a NUL-terminated string from `into_raw`, which nobody frees once it was swapped out; the set
    // is initialised before it is used; the words are valid memory of that length. All calls are async-signal-safe.
    unsafe {
        if !path.is_null() {
            libc::unlink(path);
        }
        if !terminal.is_null() {
            libc::tcsetattr((*terminal).fd, libc::TCSANOW, &raw const (*terminal).before);
        }
        // The default first, and the signal let through: a terminal that takes no words is left by a second signal.
        libc::signal(number, libc::SIG_DFL);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, number);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::write(libc::STDERR_FILENO, LAST_WORDS.as_ptr().cast(), LAST_WORDS.len());
        libc::_exit(number.saturating_add(128))
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

/// A clock that runs while one thread has the processor.
#[derive(Debug, Clone, Copy)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The clock of the thread that calls.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let mut clock = libc::CLOCK_MONOTONIC;
        // SAFETY: a live thread (our own), and a place for the answer. If it fails, time passes as for everybody.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        Self(clock)
    }

    /// How long the thread had the processor; none when it has ended.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a place for the answer. The clock of a thread that has ended is an error, not a wrong answer.
        if unsafe { libc::clock_gettime(self.0, &mut time) } != 0 {
            return None;
        }
        Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
    }
}
