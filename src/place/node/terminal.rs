//! The terminal, lent to an ssh that may ask the user. Called by `Session`.
//!
//! Each ssh has its own process group, so that Ctrl-C never interrupts a change that has started. Only the terminal's
//! foreground group can read the user's input. While ssh may ask, that is ssh's group, and the terminal's effect on it
//! (Ctrl-C, Ctrl-Z) is repeated on our own group. Afterwards the foreground group is ours again.

use std::fs::File;
use std::thread;
use std::time::Duration;

use deaddrop_core::sys::{TerminalOnSignal, open_terminal};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// Time for a signal to our own group to arrive: another thread may have to handle it.
const ARRIVING: Duration = Duration::from_millis(100);

/// The terminal while it is lent to ssh. On drop it is returned, with its previous settings.
pub(super) struct LentTerminal {
    terminal: File,
    before: Termios,
    /// ssh, and its process group.
    ssh: Pid,
    _on_signal: TerminalOnSignal,
}

impl LentTerminal {
    /// Lends the terminal to `ssh`, the leader of a process group. If we are in the background ourselves, ssh gets it
    /// when it needs it and the user has moved us to the foreground. `None` without a terminal.
    pub(super) fn to(ssh: Pid) -> Option<Self> {
        let terminal = open_terminal().ok()?;
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
        // Best effort: ssh was stopped if it read from the terminal before it was in the foreground.
        let _ = killpg(self.ssh, Signal::SIGCONT);
    }

    fn take(&self) {
        match tcgetpgrp(&self.terminal) {
            // Also from a group that no longer exists.
            Ok(group) if group == self.ssh || killpg(group, None) == Err(Errno::ESRCH) => {
                self.set_foreground(getpgrp());
            }
            // Another group has it now, or there is no terminal any more.
            _ => {}
        }
    }

    /// Best effort: the terminal may be gone.
    fn set_foreground(&self, group: Pid) {
        as_in_foreground(|| {
            let _ = tcsetpgrp(&self.terminal, group);
        });
    }

    /// If the terminal has stopped ssh, stops the whole job as the terminal would, until the user continues it. True if
    /// so.
    pub(super) fn follow(&self) -> bool {
        let stopped = waitid(Id::Pid(self.ssh), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
        let Ok(WaitStatus::Stopped(_, signal @ (Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU))) = stopped else {
            return false;
        };
        self.take();
        // Best effort: an orphaned group is not stopped, and continues.
        let _ = killpg(getpgrp(), signal);
        thread::sleep(ARRIVING);
        self.give();
        true
    }

    /// A signal of the terminal has terminated ssh: the signal is meant for the whole job.
    pub(super) fn pass_on(self, signal: Signal) {
        drop(self);
        // Best effort: it is our own group.
        let _ = killpg(getpgrp(), signal);
        thread::sleep(ARRIVING);
    }
}

impl Drop for LentTerminal {
    fn drop(&mut self) {
        self.take();
        // An ssh that was killed during its question has left the terminal without echo. Best effort: it may be gone.
        as_in_foreground(|| {
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
        });
    }
}

/// Runs it so that the terminal does not stop us for being in the background.
fn as_in_foreground(run: impl FnOnce()) {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    // OK to ignore an error: there is none with these arguments.
    let before = stop.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap_or_else(|_| SigSet::empty());
    run();
    let _ = before.thread_set_mask();
}
