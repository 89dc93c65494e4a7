//! Runs the program that takes a tree, and hands signals on to it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use deaddrop_core::sys::{self, SignalsTaken};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, access};

/// How long the program has after a signal, before it gets a SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

/// True if a program of this name can be run: a path, or a name that is looked for in PATH.
pub fn is_there(program: &OsStr) -> bool {
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.as_bytes().contains(&b'/') {
        return runs(Path::new(program));
    }
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| runs(&place.join(program)))
}

/// Runs the program to its end. SIGHUP, SIGINT and SIGTERM are handed on to it, and it gets SIGTERM 10 s after the
/// last.
///
/// # Errors
/// If it cannot be started, or waited for.
pub fn run(command: &mut Command, signals: &SignalsTaken) -> io::Result<ExitStatus> {
    signals.not_in(command);
    sys::end_with_parent(command);
    let mut child = command.spawn()?;
    let mut due: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
        let Ok(next) = signals.next(patience) else {
            // Without signals to read it is still waited for.
            return child.wait();
        };
        match next {
            Some(taken) if taken.signal == Signal::SIGCHLD => {}
            Some(taken) => {
                // A key on the terminal has reached it already.
                if !taken.by_kernel {
                    send(&child, taken.signal);
                }
                due = Instant::now().checked_add(PATIENCE);
            }
            None if due.is_some_and(|due| due <= Instant::now()) => {
                send(&child, Signal::SIGTERM);
                due = Instant::now().checked_add(PATIENCE);
            }
            None => {}
        }
    }
}

fn send(child: &Child, signal: Signal) {
    if let Ok(number) = i32::try_from(child.id()) {
        // It is not waited for yet, so the number is its own; one that has ended needs no signal.
        let _ = kill(Pid::from_raw(number), signal);
    }
}

/// The exit code as a shell shows it: 128 and the number of the signal that ended it.
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
