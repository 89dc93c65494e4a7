//! Runs a program that provides values: without a shell, with one time limit, its output in zeroized memory, and
//! without the environment variables that hold values.
//!
//! An error names the program and how it ended. It never shows the arguments, which may hold a value, or the standard
//! output. The program inherits our standard error.

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

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A program's failure. Printed after its name.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The program does not exist.
    #[error("there is no such program")]
    Missing,
    /// It cannot be started.
    #[error("cannot be run: {0}")]
    Start(io::Error),
    /// It ended with a status other than 0.
    #[error("ended with status {0}")]
    Status(i32),
    /// A signal terminated it.
    #[error("was ended by signal {0}")]
    Signal(i32),
    /// It exceeded its time limit.
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
    /// Additional environment variables, none of which holds a value.
    pub variables: &'a [(&'a str, &'a OsStr)],
    /// Its standard input.
    pub input: &'a [u8],
    /// Time limit from start to exit.
    pub timeout: Duration,
    /// Maximum length of its output, in bytes.
    pub limit: usize,
}

impl Program<'_> {
    /// The program's name for messages, safe for a terminal.
    pub(crate) fn name(&self) -> String {
        self.argv.first().map(|name| shown(&name.to_string_lossy())).unwrap_or_default()
    }

    /// Runs the program until it exits; returns its standard output.
    ///
    /// # Errors
    /// It cannot be run, fails, or exceeds the time limit or [`Self::limit`].
    pub(crate) fn run(&self, surroundings: &Surroundings<'_>) -> Result<Zeroizing<Vec<u8>>, ChildError> {
        let Some((program, arguments)) = self.argv.split_first() else { return Err(ChildError::Missing) };
        let deadline = Instant::now() + self.timeout;
        // A relative path starts at the manifest's directory; a bare name is looked up in PATH.
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

    /// Writes the program's input and reads its output, concurrently.
    fn converse(&self, child: &mut Child, deadline: Instant) -> Result<Zeroizing<Vec<u8>>, ChildError> {
        let stdin = child.stdin.take();
        let Some(stdout) = child.stdout.take() else { return Ok(Zeroizing::default()) };
        thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A program need not read all of its input, so this error is ignored: the exit status decides. The
                // write fails at the latest when the program exits or is terminated below, so the thread ends too.
                scope.spawn(move || drop(stdin.write_all(self.input)));
            }
            let reader = DeadlineReader { inner: stdout, deadline };
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

/// A reader that fails with `TimedOut` after `deadline`.
struct DeadlineReader<R> {
    inner: R,
    deadline: Instant,
}

impl<R: Read + AsFd> Read for DeadlineReader<R> {
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

/// Terminates a program: SIGTERM, then SIGKILL after [`GRACE`].
fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // The child has not been waited for, so its process id is not reused.
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    if !matches!(wait_until(child, Instant::now() + GRACE), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits for a program to exit; `None` if it still runs at `deadline`.
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
