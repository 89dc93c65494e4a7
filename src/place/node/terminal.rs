//! The terminal, lent to an ssh that may ask a person. Called by `Session`.
//!
//! Every ssh has a process group of its own, so that Ctrl-C never cuts off a change that has begun. Only the terminal's foreground group
//! can read what a person types: while ssh may ask, that is ssh's, and what the terminal then does to it (Ctrl-C, Ctrl-Z) is done to us
//! as well. Where there is nothing to ask any more, it is ours again.

use std::fs::File;
use std::thread;
use std::time::Duration;

use deaddrop_core::sys::TerminalOnSignal;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// How long a signal to our own group may take to be there: another thread may have to handle it.
const ARRIVING: Duration = Duration::from_millis(100);

/// The terminal in ssh's hands. Dropped, it is ours again, with the settings that it had.
pub(super) struct Lent {
    terminal: File,
    before: Termios,
    /// ssh, and its process group.
    ssh: Pid,
    _on_signal: TerminalOnSignal,
}

impl Lent {
    /// Lends the terminal to `ssh`, the first of a process group. Where we are in the background ourselves, it gets it when it wants
    /// it and a person has put us into the foreground. `None` where there is no terminal.
    pub(super) fn to(ssh: Pid) -> Option<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let on_signal = TerminalOnSignal::lent(&terminal, &before, ssh);
        let lent = Self { terminal, before, ssh, _on_signal: on_signal };
        lent.give();
        Some(lent)
    }

    fn give(&self) {
        if tcgetpgrp(&self.terminal) == Ok(getpgrp()) {
            self.set_foreground(self.ssh);
        }
        // Best effort: it was stopped if it wanted the terminal earlier than it had it.
        let _ = killpg(self.ssh, Signal::SIGCONT);
    }

    fn take(&self) {
        match tcgetpgrp(&self.terminal) {
            // Also that of a group that is no more.
            Ok(group) if group == self.ssh || killpg(group, None) == Err(Errno::ESRCH) => {
                self.set_foreground(getpgrp());
            }
            // Somebody else's by now, or there is none any more.
            _ => {}
        }
    }

    /// Best effort: a terminal that is gone belongs to nobody.
    fn set_foreground(&self, group: Pid) {
        as_in_foreground(|| {
            let _ = tcsetpgrp(&self.terminal, group);
        });
    }

    /// Does what the terminal does to a job where it has stopped ssh: all of it is stopped, until a person continues it.
    /// True when that was so.
    pub(super) fn follow(&self) -> bool {
        let stopped = waitid(Id::Pid(self.ssh), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
        let Ok(WaitStatus::Stopped(_, signal @ (Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))) = stopped else {
            return false;
        };
        self.take();
        // Best effort: a group without a shell above it is not stopped, and goes on.
        let _ = killpg(getpgrp(), signal);
        thread::sleep(ARRIVING);
        self.give();
        true
    }

    /// The terminal has ended ssh by a signal: so it would have been with all of its job.
    pub(super) fn pass_on(self, signal: Signal) {
        drop(self);
        // Best effort: it is our own group.
        let _ = killpg(getpgrp(), signal);
        thread::sleep(ARRIVING);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.take();
        // An ssh that was killed at its question has left the terminal without echo. Best effort: it may be gone.
        as_in_foreground(|| {
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
        });
    }
}

/// Runs it so that the terminal does not stop us for not being in the foreground.
fn as_in_foreground(run: impl FnOnce()) {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    // OK to go on where it fails: it cannot, with these arguments.
    let before = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap_or_else(|_| SigSet::empty());
    run();
    let _ = before.thread_set_mask();
}
