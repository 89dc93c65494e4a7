//! Signals that terminate the process: deferred during a change, and with cleanup before it.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::Termios;
use nix::unistd::Pid;

/// The signals that normally terminate the process.
const TERMINATING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// Which of them have our handler; the others are ignored.
static HANDLED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// The stage of the run, for the signal handler: one of the three values below.
static STAGE: AtomicU8 = AtomicU8::new(BEFORE);
/// Nothing was changed: a signal terminates the process.
const BEFORE: u8 = 0;
/// A change is being made: a signal is deferred.
const DURING: u8 = 1;
/// The change is complete: the work that a signal would stop is done.
const AFTER: u8 = 2;

/// The signal deferred until the end of [`DURING`]; 0 if there is none.
static WAITING: AtomicI32 = AtomicI32::new(0);

/// True once a signal is deferred until the end of a change ([`SignalsWait`]): a new file that is being written is given
/// up.
pub fn is_deferred() -> bool {
    WAITING.load(Ordering::SeqCst) != 0
}

/// SIGTERM has arrived during [`DURING`], whatever signal came after it.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// True once a SIGTERM is deferred until the end of a change ([`SignalsWait`]): work that can be interrupted without
/// damage is interrupted.
pub fn is_terminated() -> bool {
    TERMINATED.load(Ordering::SeqCst)
}

/// The file that the signal handler removes; null if there is none.
static FILE_TO_REMOVE: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());

/// From now on SIGHUP, SIGINT and SIGTERM terminate the process cleanly, until a change is being made
/// ([`SignalsWait`]): an unfinished file is removed ([`RemoveOnSignal`]), a line says that nothing was changed, and the
/// exit code is 129, 130 or 143. An ignored signal (nohup) stays ignored.
pub fn end_cleanly_on_signals() {
    // SA_RESTART: a deferred signal must not make a system call fail.
    let action = SigAction::new(SigHandler::Handler(on_terminating_signal), SaFlags::SA_RESTART, SigSet::all());
    for (terminating, handled) in TERMINATING.into_iter().zip(&HANDLED) {
        // SAFETY: the handler only makes async-signal-safe calls; see there.
        let Ok(old) = (unsafe { signal::sigaction(terminating, &action) }) else { continue };
        if matches!(old.handler(), SigHandler::SigIgn) {
            // SAFETY: restores the previous action.
            let _ = unsafe { signal::sigaction(terminating, &old) };
        } else {
            handled.store(true, Ordering::SeqCst);
        }
    }
}

/// While this lives, the signals of [`end_cleanly_on_signals`] are deferred. Held while a change is made, so that a
/// process terminated by a signal has changed nothing. While one lives, others have no effect: a run over several
/// images defers signals as a whole.
#[must_use]
pub struct SignalsWait {
    /// False for one that was made while another one lived.
    is_outermost: bool,
}

impl SignalsWait {
    /// Defers signals from now on.
    #[expect(clippy::new_without_default, reason = "it changes the whole process, which a default does not")]
    pub fn new() -> Self {
        Self { is_outermost: STAGE.swap(DURING, Ordering::SeqCst) != DURING }
    }

    /// True if a signal is already deferred.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        is_deferred()
    }

    /// The change is complete. A signal that was deferred or arrives now would stop finished work: it is ignored, and
    /// the run reports its result. The next signal terminates the process.
    pub fn committed(self) {
        if self.is_outermost {
            STAGE.store(AFTER, Ordering::SeqCst);
        }
    }
}

impl Drop for SignalsWait {
    /// Nothing was changed: a deferred signal terminates the process now.
    fn drop(&mut self) {
        if !self.is_outermost {
            return;
        }
        // The stage first: a signal from here on terminates the process directly.
        let unchanged = STAGE.compare_exchange(DURING, BEFORE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        let waiting = WAITING.swap(0, Ordering::SeqCst);
        if unchanged && waiting != 0 {
            exit_by_signal(waiting);
        }
    }
}

/// While this lives, the signals of [`end_cleanly_on_signals`] are read from it, one by one, and so is the end of a
/// child (SIGCHLD). For a run that hands them on. Made while the process has one thread: another one would still get
/// them.
pub struct SignalsTaken {
    signals: SignalFd,
    before: SigSet,
}

/// A signal that was taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The signal.
    pub signal: Signal,
    /// The kernel sent it, as for a key on the terminal: every process in its foreground has got it.
    pub by_kernel: bool,
}

impl SignalsTaken {
    /// Takes them from now on. One that is ignored (nohup) stays ignored.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let handled = TERMINATING.into_iter().zip(&HANDLED).filter(|(_, handled)| handled.load(Ordering::SeqCst));
        handled.for_each(|(terminating, _)| set.add(terminating));
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        match SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) {
            Ok(signals) => Ok(Self { signals, before }),
            Err(errno) => {
                before.thread_set_mask()?;
                Err(errno.into())
            }
        }
    }

    /// Makes a child process start without them blocked, as this process was before.
    pub fn not_in(&self, command: &mut Command) {
        let before = self.before;
        // SAFETY: pthread_sigmask(3) alone, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || before.thread_set_mask().map_err(io::Error::from));
        }
    }

    /// The next signal; waits for it for `patience`, or without an end. `None` if none came.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn next(&self, patience: Option<Duration>) -> io::Result<Option<Taken>> {
        let timeout = match patience {
            None => PollTimeout::NONE,
            Some(patience) => PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX),
        };
        let mut wanted = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, timeout) {
            Err(Errno::EINTR) => return Ok(None),
            other => other?,
        };
        let Some(info) = self.signals.read_signal()? else { return Ok(None) };
        let number = c_int::try_from(info.ssi_signo).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Some(Taken { signal: Signal::try_from(number)?, by_kernel: info.ssi_code == libc::SI_KERNEL }))
    }
}

impl Drop for SignalsTaken {
    /// One that was not taken is handled now.
    fn drop(&mut self) {
        // It was the mask before: no failure is possible.
        let _ = self.before.thread_set_mask();
    }
}

/// While this lives, a terminating signal first removes one file. For file systems on which an unfinished file needs a
/// name. Has no effect without [`end_cleanly_on_signals`].
pub struct RemoveOnSignal(());

impl RemoveOnSignal {
    /// Registers `path`. `None` if another file is registered already, or the path contains a NUL: then a signal may
    /// leave the file behind.
    #[must_use]
    pub fn new(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?.into_raw();
        if FILE_TO_REMOVE.compare_exchange(ptr::null_mut(), path, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // SAFETY: `path` is from `into_raw` above, and was not shared.
            drop(unsafe { CString::from_raw(path) });
            return None;
        }
        Some(Self(()))
    }
}

impl Drop for RemoveOnSignal {
    fn drop(&mut self) {
        let path = FILE_TO_REMOVE.swap(ptr::null_mut(), Ordering::SeqCst);
        if !path.is_null() {
            // SAFETY: from `into_raw` in `new`; the swap made this the only owner. If the handler had taken it, it
            // would be null.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

/// The terminal whose echo is off, for the signal handler; null if there is none.
static TERMINAL: AtomicPtr<Terminal> = AtomicPtr::new(ptr::null_mut());

/// A terminal and its previous settings.
struct Terminal {
    fd: RawFd,
    before: libc::termios,
    /// The process group that is currently in the foreground of the terminal; 0 if it is ours.
    lent: libc::pid_t,
}

/// While this lives, a terminating signal first restores the settings of a terminal. Otherwise the user who cancels a
/// password prompt is left with a shell without echo. Has no effect without [`end_cleanly_on_signals`].
pub struct TerminalOnSignal(());

impl TerminalOnSignal {
    /// Registers the terminal `terminal`, which must stay open as long as this lives, with its settings `before`. One
    /// at a time: a second one replaces the first.
    #[must_use]
    pub fn new(terminal: &impl AsRawFd, before: &Termios) -> Self {
        Self::lent(terminal, before, Pid::from_raw(0))
    }

    /// Like [`Self::new`], for a terminal that one of our process groups currently uses: the group is killed, and the
    /// terminal becomes ours again.
    #[must_use]
    pub fn lent(terminal: &impl AsRawFd, before: &Termios, group: Pid) -> Self {
        let (fd, lent) = (terminal.as_raw_fd(), group.as_raw());
        let terminal = Box::new(Terminal { fd, before: before.clone().into(), lent });
        drop_terminal(TERMINAL.swap(Box::into_raw(terminal), Ordering::SeqCst));
        Self(())
    }
}

impl Drop for TerminalOnSignal {
    fn drop(&mut self) {
        drop_terminal(TERMINAL.swap(ptr::null_mut(), Ordering::SeqCst));
    }
}

fn drop_terminal(terminal: *mut Terminal) {
    if !terminal.is_null() {
        // SAFETY: from `into_raw` in `new`; the swap made this the only owner. If the handler had taken it, it would be
        // null.
        drop(unsafe { Box::from_raw(terminal) });
    }
}

extern "C" fn on_terminating_signal(number: c_int) {
    match STAGE.load(Ordering::SeqCst) {
        DURING => {
            WAITING.store(number, Ordering::SeqCst);
            if number == libc::SIGTERM {
                TERMINATED.store(true, Ordering::SeqCst);
            }
        }
        // SAFETY: async-signal-safe.
        AFTER => drop(unsafe { libc::signal(number, libc::SIG_DFL) }),
        _ => exit_by_signal(number),
    }
}

/// Removes the unfinished file, reports that nothing was changed, and exits with 128 plus the signal's number, as a
/// shell shows it (130, 143). Also called by the handler: only async-signal-safe calls (signal-safety(7)), and no
/// allocation.
fn exit_by_signal(number: c_int) -> ! {
    const MESSAGE: &[u8] = b"\nerror: stopped by a signal: nothing was changed\n";
    let path = FILE_TO_REMOVE.swap(ptr::null_mut(), Ordering::SeqCst);
    let terminal = TERMINAL.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: `terminal` is null or from `into_raw`, its file is open, and it is not freed once it was swapped out;
    // `path` is null or a NUL-terminated string from `into_raw`, which is not freed once it was swapped out; the set is
    // initialised before it is used; the message is valid memory of that length. All calls are async-signal-safe.
    unsafe {
        if !path.is_null() {
            libc::unlink(path);
        }
        if !terminal.is_null() {
            let lent = (*terminal).lent;
            if lent > 0 {
                libc::kill(-lent, libc::SIGKILL);
                // SIGTTOU is blocked in our handler; otherwise it would stop a process that is not in the foreground.
                let mut stop = std::mem::zeroed();
                libc::sigemptyset(&mut stop);
                libc::sigaddset(&mut stop, libc::SIGTTOU);
                libc::sigprocmask(libc::SIG_BLOCK, &stop, ptr::null_mut());
                if libc::tcgetpgrp((*terminal).fd) == lent {
                    libc::tcsetpgrp((*terminal).fd, libc::getpgrp());
                }
            }
            libc::tcsetattr((*terminal).fd, libc::TCSANOW, &raw const (*terminal).before);
        }
        // The default action first, and the signal unblocked: a second signal ends the process if the terminal blocks
        // the write.
        libc::signal(number, libc::SIG_DFL);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, number);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(number.saturating_add(128))
    }
}
