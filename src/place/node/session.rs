//! One session on a node: a POSIX shell behind the system's ssh, or the shell of this machine. Called by `NodePlace`.
//!
//! Everything is sent to the shell's standard input: no value is ever in an argument or a variable. All replies are
//! hostile: lines and answers have a maximum length and time, and a node that sends nothing, or not enough, is
//! disconnected. SIGTERM ends a session immediately; if a change may have started, after a moment in which the node can
//! still report its result. Does not depend on files and plans.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use deaddrop_core::privilege::Become;
use deaddrop_core::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use super::error::NodeError;
use super::limits::AnswerLimits;
use super::login::{Login, Records, command, shell};
use super::output::HiddenValues;
use super::terminal::LentTerminal;
use super::text;

/// Maximum length of a line of an answer, in bytes: a path has at most 4,095.
const MAX_LINE: usize = 16 << 10;
/// How much of standard error is kept, in bytes: its end.
const KEPT_ERRORS: usize = 8 << 10;
/// Time for the user to answer ssh's own questions.
const PERSON: Duration = Duration::from_secs(600);
/// Time for a session to end after its last line.
const GRACE: Duration = Duration::from_secs(3);
/// Time for a session to end after its last line, after SIGTERM.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// Interval between two checks for SIGTERM, and for an ssh that the user has stopped.
const TICK: Duration = Duration::from_millis(200);
/// Interval between two checks of a child that should end.
const LOOK: Duration = Duration::from_millis(10);

/// A shell on a node, and its state.
pub(super) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: Option<ChildStderr>,
    /// Bytes to write, from `written` on.
    pending: Zeroizing<Vec<u8>>,
    written: usize,
    /// Bytes read and not consumed yet, from `taken` on.
    answer: Zeroizing<Vec<u8>>,
    taken: usize,
    /// The end of standard error.
    error_output: Vec<u8>,
    /// Marks our lines on standard output.
    nonce: String,
    /// sudo's prompt for the password.
    prompt: Option<String>,
    login: Login,
    /// What sudo records of this session, as far as it reports that.
    records: Records,
    /// Values that are hidden if the node repeats them: the password, and those of the run.
    pub(super) values: HiddenValues,
    limits: AnswerLimits,
    /// The terminal, while ssh may ask the user.
    lent: Option<LentTerminal>,
}

impl Session {
    /// Starts ssh, or a shell here. `script` is what the shell runs. It is sent, with everything queued next, without
    /// waiting for an answer, unless sudo could read it as another password.
    ///
    /// # Errors
    /// If ssh cannot be run, or if the password is not one line.
    pub(super) fn start(login: &Login, script: &str) -> Result<Self, NodeError> {
        if sys::is_terminated() {
            return Err(NodeError::Stopped);
        }
        let nonce = format!("deaddrop{}", text::random::<16>()?);
        let password = login.password.as_ref().filter(|_| login.becomes == Some(Become::Sudo));
        if password.is_some_and(|password| password.expose().iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0))) {
            return Err(NodeError::refused(
                "the password for sudo holds a line end or a NUL byte, and sudo reads one line",
                "store the password as one line",
            ));
        }
        let prompt = password.map(|_| format!("{nonce}:password"));
        let shell = shell(&nonce, login.becomes, prompt.is_some());
        let mut command = command(login, &shell, prompt.as_deref());
        for name in &login.hidden {
            command.env_remove(name);
        }
        // Ctrl-C on a terminal is for us only: a change that has started is followed to its result.
        command.process_group(0);
        let program = if login.destination.is_some() { "ssh" } else { "sh" };
        if login.destination.is_some() {
            // (A shell of this machine finishes what it has started.)
            sys::end_with_parent(&mut command);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| NodeError::Start { program, source })?;
        let (Some(input), Some(output), errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(NodeError::Start { program, source: io::ErrorKind::BrokenPipe.into() });
        };
        let asks = login.interactive && login.destination.is_some();
        let mut session = Self {
            lent: if asks { LentTerminal::to(Pid::from_raw(child.id().cast_signed())) } else { None },
            child,
            input: Some(input),
            output,
            errors,
            pending: Zeroizing::default(),
            written: 0,
            answer: Zeroizing::default(),
            taken: 0,
            error_output: Vec::new(),
            nonce,
            prompt,
            records: Records::default(),
            login: login.clone(),
            values: HiddenValues::of_password(login.password.as_ref()),
            limits: AnswerLimits::of_greeting(if asks { PERSON } else { login.silence }),
        };
        session.never_block(program)?;
        if let Some(password) = password {
            session.queue(password.expose());
            session.queue(b"\n");
            session.wait_for_sudo()?;
        }
        let line = format!("{}{}\n", session.nonce, *text::base64(session.with_nonce(script).as_bytes()));
        session.queue(line.as_bytes());
        Ok(session)
    }

    fn with_nonce(&self, script: &str) -> String {
        format!("nonce={}\n{script}", self.nonce)
    }

    /// Marks our lines.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    fn never_block(&self, program: &'static str) -> Result<(), NodeError> {
        let failed = |errno: Errno| NodeError::Start { program, source: errno.into() };
        let Some(input) = &self.input else { return Ok(()) };
        for fd in [input.as_fd(), self.output.as_fd()].into_iter().chain(self.errors.as_ref().map(AsFd::as_fd)) {
            let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).map_err(failed)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
        }
        Ok(())
    }

    /// Queues bytes; they are sent as the node reads them.
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        if self.written == self.pending.len() {
            self.pending.clear();
            self.written = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Waits until sudo has read the password, so that it reads nothing else as one.
    fn wait_for_sudo(&mut self) -> Result<(), NodeError> {
        let ready = format!("{}:ready", self.nonce);
        loop {
            let line = self.line_or(|session| session.asked_again().then(NodeError::wrong_password))?;
            if line.as_slice() == ready.as_bytes() {
                return Ok(());
            }
        }
    }

    /// True if sudo has asked for the password a second time.
    fn asked_again(&self) -> bool {
        let Some(prompt) = &self.prompt else { return false };
        String::from_utf8_lossy(&self.error_output).matches(prompt.as_str()).count() > 1
    }

    /// Waits for the first of our lines and skips everything before it. The node's first report after it shares the
    /// time limit.
    ///
    /// # Errors
    /// If the node cannot be entered, sends nothing, or sends endless output before the greeting.
    pub(super) fn greet(&mut self) -> Result<(), NodeError> {
        let hello = format!("{} hello", self.nonce);
        let of_sudo = format!("{}:sudo ", self.nonce);
        loop {
            let line = self.line()?;
            if line.as_slice() == hello.as_bytes() {
                break;
            }
            if let Some(word) = line.strip_prefix(of_sudo.as_bytes()) {
                self.records.note(&String::from_utf8_lossy(word));
            }
        }
        self.limits.greeted();
        Ok(())
    }

    /// The limits of the answer that is read next.
    pub(super) fn limits(&mut self) -> &mut AnswerLimits {
        &mut self.limits
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// If the session ended, or if the node sent nothing for too long, or too much.
    pub(super) fn line(&mut self) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        self.line_or(|_| None)
    }

    fn line_or(&mut self, stop: impl Fn(&Self) -> Option<NodeError>) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        loop {
            let rest = self.answer.get(self.taken..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = Zeroizing::new(rest.get(..end).unwrap_or_default().to_vec());
                self.taken = self.taken.saturating_add(end).saturating_add(1);
                return Ok(line);
            }
            if rest.len() > MAX_LINE && self.limits.is_greeted() {
                return Err(NodeError::Garbled("a line that does not end"));
            }
            if let Some(error) = stop(self) {
                return Err(error);
            }
            self.pump()?;
        }
    }

    /// Reads and writes what is possible now; waits for that until the deadline, or until the next [`TICK`].
    fn pump(&mut self) -> Result<(), NodeError> {
        if sys::is_terminated() {
            let all_is_sent = self.all_is_sent();
            self.limits.stop(all_is_sent)?;
        }
        let left = self.limits.remaining()?;
        let timeout = left.saturating_add(Duration::from_millis(1)).min(TICK);
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        if let Some(errors) = &self.errors {
            fds.push(PollFd::new(errors.as_fd(), PollFlags::POLLIN));
        }
        if let Some(input) = self.input.as_ref().filter(|_| self.written < self.pending.len()) {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(NodeError::Start { program: "poll", source: errno.into() }),
        }
        let paused = Instant::now();
        if self.lent.as_ref().is_some_and(LentTerminal::follow) {
            self.limits.extend(paused.elapsed());
        }
        self.write_some();
        self.read_errors();
        match self.read_some()? {
            Some(0) => Err(self.ended()),
            _ => Ok(()),
        }
    }

    /// The node has sent something: it was entered, and ssh asks nothing any more.
    fn entered(&mut self) {
        if self.lent.take().is_some() {
            self.limits.shorten(self.login.silence);
        }
    }

    fn write_some(&mut self) {
        let Some(input) = &mut self.input else { return };
        let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) else { return };
        match input.write(rest) {
            Ok(count) => {
                self.written = self.written.saturating_add(count);
                self.limits.moved(count);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => {
                // It reads no more: its output or its status says why.
                self.pending.clear();
                self.written = 0;
                self.input = None;
            }
        }
    }

    /// The number of bytes read; 0 at the end; `None` if there is nothing now.
    fn read_some(&mut self) -> Result<Option<usize>, NodeError> {
        if self.taken > 0 && self.taken == self.answer.len() {
            self.answer.clear();
            self.taken = 0;
        } else if self.taken > MAX_LINE {
            self.answer.drain(..self.taken);
            self.taken = 0;
        }
        let mut buffer = Zeroizing::new([0_u8; 16 << 10]);
        match self.output.read(buffer.as_mut_slice()) {
            Ok(count) => {
                self.limits.received(count)?;
                if count > 0 {
                    self.entered();
                    self.limits.moved(count);
                }
                self.answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
                Ok(Some(count))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(_) => Ok(Some(0)),
        }
    }

    fn read_errors(&mut self) {
        let Some(errors) = &mut self.errors else { return };
        let mut buffer = [0_u8; 4096];
        // A part of what is available; the next call reads the next part.
        match errors.read(&mut buffer) {
            Ok(0) => self.errors = None,
            Ok(count) => {
                self.error_output.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let over = self.error_output.len().saturating_sub(KEPT_ERRORS);
                self.error_output.drain(..over);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.errors = None,
        }
    }

    /// The reason why the session has ended: its status, and its last output.
    fn ended(&mut self) -> NodeError {
        let status = self.wait(GRACE);
        // ssh's control master may keep standard error open: only what is available is read.
        for _ in 0..8 {
            self.read_errors();
        }
        let code = status.and_then(|status| status.code().or(status.signal().map(|signal| signal.saturating_add(128))));
        let output = self.error_lines();
        if let Some(lent) = self.lent.take()
            && let Some(signal) = by_the_terminal(status, &output)
        {
            lent.pass_on(signal);
        }
        if self.limits.is_greeted() {
            return NodeError::Ended { output };
        }
        NodeError::not_entered(&self.login, code, output)
    }

    /// The output on standard error, for people; without sudo's prompt.
    pub(super) fn error_lines(&self) -> Vec<String> {
        match &self.prompt {
            None => self.values.lines(&self.error_output, ""),
            Some(prompt) => {
                self.values.lines(String::from_utf8_lossy(&self.error_output).replace(prompt, "").as_bytes(), "")
            }
        }
    }

    /// What sudo records of this session; known after the greeting.
    pub(super) fn records(&self) -> Records {
        self.records
    }

    /// True if the node has read everything that was queued.
    pub(super) fn all_is_sent(&self) -> bool {
        self.input.is_some() && self.written == self.pending.len()
    }

    /// Closes the input, and lets the session end.
    pub(super) fn end(&mut self) {
        self.input = None;
        self.wait(GRACE);
    }

    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            let until = start + if sys::is_terminated() { patience.min(LAST_LOOK) } else { patience };
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => {
                    self.read_errors();
                    thread::sleep(LOOK);
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
impl Session {
    /// A session with a node that, after the greeting, sends `answer` and echoes everything else.
    pub(super) fn answering(answer: &[u8], silence: Duration) -> Self {
        let login = Login::here(silence);
        let mut session = Self::start(&login, "echo; echo \"$nonce hello\"; exec cat").unwrap();
        session.queue(answer);
        session.greet().unwrap();
        session
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.input = None;
        // A shell of this machine ends by itself, and not during a change.
        let goes_on = self.login.destination.is_none() && self.limits.is_change();
        if !goes_on && !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Best effort: the group is ours (ssh and its helpers), and no answer is awaited any more.
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The signal that terminated ssh, if it is one that a terminal sends to a job.
fn by_the_terminal(status: Option<ExitStatus>, output: &[String]) -> Option<Signal> {
    // After the login ssh reports it itself.
    let reported =
        || output.iter().find_map(|line| line.strip_prefix("Killed by signal ")?.trim_end_matches('.').parse().ok());
    let signal = Signal::try_from(status?.signal().or_else(reported)?).ok()?;
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP).then_some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use deaddrop_core::secret::Secret;

    #[test]
    fn a_value_on_standard_error_is_not_shown() {
        let login = Login { password: Some(Secret::new(b"hunter2".to_vec())), ..Login::here(Duration::from_secs(30)) };
        let mut session = Session::start(&login, "echo \"$nonce hello\"; echo it is hunter2 >&2; echo so >&2").unwrap();
        session.greet().unwrap();
        match session.line() {
            Err(NodeError::Ended { output }) => assert_eq!(output, ["(a line that holds a value is not shown)", "so"]),
            other => panic!("{other:?}"),
        }
    }

    /// A session with a shell of this machine that runs `script` after the greeting.
    fn session(script: &str) -> Session {
        let login = Login::here(Duration::from_secs(30));
        let script = format!("echo noise; echo; echo \"$nonce hello\"; {script}");
        let mut session = Session::start(&login, &script).unwrap();
        session.greet().unwrap();
        session
    }

    #[test]
    fn what_is_sent_to_a_shell_of_this_machine_is_answered() {
        let mut session = session("read -r x; echo \"got $x\"");
        session.queue(b"a  b\n");
        session.limits().expect(100, Duration::from_secs(30));
        assert_eq!(session.line().unwrap().as_slice(), b"got a  b");
        assert!(matches!(session.line(), Err(NodeError::Ended { .. })));
    }

    /// For how long lines arrive.
    fn seconds(session: &mut Session, each: impl Fn(&mut Session)) -> f64 {
        let start = Instant::now();
        let error = loop {
            match session.line() {
                Ok(_) => each(session),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, NodeError::Silent { heard: true, greeted: true, .. }), "{error}");
        start.elapsed().as_secs_f64()
    }

    #[test]
    fn an_answer_that_drips_ends_and_so_do_the_steps_of_a_change() {
        const DRIP: &str = "while :; do echo step; sleep 0.05; done";
        let patience = Duration::from_millis(500);
        let mut dripping = session(DRIP);
        dripping.limits().expect(1 << 20, patience);
        assert!((0.4..5.0).contains(&seconds(&mut dripping, |_| {})));
        let mut dripping = session(DRIP);
        dripping.limits().expect_change(1 << 20, patience, 20);
        let took = seconds(&mut dripping, |session| session.limits().next_step());
        // Twenty steps of 0.05 s each, and the patience of the last one.
        assert!((1.4..15.0).contains(&took), "{took}");
        // Long answers have more time: 8 KiB are two seconds.
        let mut long =
            session("sleep 0.3; dd if=/dev/zero bs=8192 count=1 2>/dev/null; echo; sleep 1; echo more; exec sleep 100");
        long.limits().expect(1 << 20, patience);
        let took = seconds(&mut long, |_| {});
        assert!((2.4..15.0).contains(&took), "{took}");
    }
}
