//! Runs a program that gives values: no shell, one time limit, its output in memory that is wiped, and an environment
//! without the variables that hold values of ours.
//!
//! What goes wrong is told by the program's name and its end. Its arguments are never shown: they may hold a value. What it
//! writes to standard error goes where ours goes; what it writes to standard output is shown nowhere.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::context::Surroundings;
use super::read::{self, ReadError};
use crate::error::shown;

/// How long a program has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);

/// Why a program gave nothing. Printed after its name.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// There is no such program.
    #[error("there is no such program")]
    Missing,
    /// It cannot be started.
    #[error("cannot be run: {0}")]
    Start(io::Error),
    /// It ended with a status other than 0.
    #[error("ended with status {0}")]
    Status(i32),
    /// A signal ended it.
    #[error("was ended by signal {0}")]
    Signal(i32),
    /// It took longer than it may.
    #[error("took over {} s, the longest that it may", .0.as_secs())]
    TimedOut(Duration),
    /// Its output is too long, or cannot be read.
    #[error("its output: {0}")]
    Output(ReadError),
}

/// A program to run.
pub(crate) struct Program<'a> {
    /// The program and its arguments; never empty.
    pub argv: &'a [&'a OsStr],
    /// Variables that it gets besides those of ours; none of them is a value.
    pub variables: &'a [(&'a str, &'a OsStr)],
    /// What it reads from standard input.
    pub input: &'a [u8],
    /// How long it may take.
    pub timeout: Duration,
    /// The longest output that is read, in bytes.
    pub limit: usize,
}

impl Program<'_> {
    /// Its name in messages.
    pub(crate) fn name(&self) -> String {
        self.argv.first().map(|name| shown(&name.to_string_lossy())).unwrap_or_default()
    }

    /// Runs it to its end; returns what it wrote to standard output.
    ///
    /// # Errors
    /// It cannot be run, fails, takes too long, or writes too much.
    pub(crate) fn run(&self, surroundings: &Surroundings<'_>) -> Result<Zeroizing<Vec<u8>>, ChildError> {
        let Some((program, arguments)) = self.argv.split_first() else { return Err(ChildError::Missing) };
        let deadline = Instant::now() + self.timeout;
        // A relative path starts where the manifest's paths start; a bare name is looked up in PATH.
        let path = surroundings.at(Path::new(program));
        let mut command =
            Command::new(if program.as_encoded_bytes().contains(&b'/') { path.as_os_str() } else { program });
        command.args(arguments).current_dir(surroundings.directory());
        for name in surroundings.hidden() {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().copied());
        command.stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() });
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ChildError::Missing,
                _ => ChildError::Start(error),
            })?;
        let output = self.converse(&mut child, deadline);
        if output.is_err() {
            end(&mut child);
            return output;
        }
        let status = match wait_until(&mut child, deadline) {
            Ok(Some(status)) => status,
            Ok(None) => {
                end(&mut child);
                return Err(ChildError::TimedOut(self.timeout));
            }
            Err(error) => return Err(ChildError::Start(error)),
        };
        match (status.code(), status.signal()) {
            (Some(0), _) => output,
            (Some(code), _) => Err(ChildError::Status(code)),
            (None, signal) => Err(ChildError::Signal(signal.unwrap_or(0))),
        }
    }

    /// Writes the program's input and reads its output, both at once.
    fn converse(&self, child: &mut Child, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, ChildError> {
        let stdin = child.stdin.take();
        let Some(stdout) = child.stdout.take() else { return Ok(Zeroizing::default()) };
        thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A program that does not read all of it has its reasons: its status tells. It ends, or is ended below,
                // and then this write fails; so the thread ends too.
                scope.spawn(move || drop(stdin.write_all(self.input)));
            }
            let reader = Reader { inner: stdout, deadline };
            let output = read::to_end(reader, 0, self.limit).map_err(|problem| match problem {
                ReadError::Io(error) if error.kind() == io::ErrorKind::TimedOut => ChildError::TimedOut(self.timeout),
                problem => ChildError::Output(problem),
            });
            if output.is_err() {
                end(child);
            }
            output
        })
    }
}

/// Reads until a moment.
struct Reader<R> {
    inner: R,
    deadline: Instant,
}

impl<R: Read + AsFd> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout =
                PollTimeout::try_from(left.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.inner.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return self.inner.read(buffer),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Asks a program to end, and makes it.
fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It is our child and was not waited for: the number is still its own.
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    if !matches!(wait_until(child, Instant::now() + GRACE), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for a program's end, until a moment; `None` when it still runs then.
fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<std::process::ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = pause.saturating_mul(2).min(Duration::from_millis(50));
    }
}
