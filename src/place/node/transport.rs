//! One session on a node: a POSIX shell behind the system's ssh, or the shell of this machine. Called by `NodePlace`.
//!
//! All that is sent goes to the shell's standard input: no value is ever in an argument or a variable. Everything that comes back
//! is hostile until proven otherwise: lines and answers have a length and a time at most, and a node that says nothing, or not enough, is
//! given up. SIGTERM ends a session at once; where a change may have begun, after a moment in which the node can tell how it ends.
//! Knows nothing of files and plans.

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
use super::login::{Records, command, shell};
use super::output::Values;
use super::terminal::Lent;
use super::text;

pub use super::login::Login;

/// The longest line of an answer, in bytes: a path has at most 4,095.
const MAX_LINE: usize = 16 << 10;
/// What is said before the first line of ours, in bytes: greetings of a login shell.
const MAX_NOISE: usize = 1 << 20;
/// How much of what comes on standard error is kept, in bytes: the last of it.
const KEPT_ERRORS: usize = 8 << 10;
/// How long a person may take to answer ssh's own questions.
const PERSON: Duration = Duration::from_secs(600);
/// How long a session has to end after its last word.
const GRACE: Duration = Duration::from_secs(3);
/// How long a node that has all its values may still tell how it ends, once SIGTERM has come.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a session has to end after its last word, once SIGTERM has come.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How often SIGTERM, and an ssh that a person has stopped, are looked for.
const TICK: Duration = Duration::from_millis(200);
/// What a node says about itself after the greeting, in bytes.
const MAX_ABILITIES: usize = 1 << 16;
/// Bytes for which there is a second more.
const BYTES_A_SECOND: usize = 4 << 10;
/// The pause between two looks at a child that should end.
const LOOK: Duration = Duration::from_millis(10);

/// A shell on a node, and what was said so far.
pub(super) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: Option<ChildStderr>,
    /// Still to be written, from `written` on.
    pending: Zeroizing<Vec<u8>>,
    written: usize,
    /// Read and not taken yet, from `taken` on.
    answer: Zeroizing<Vec<u8>>,
    taken: usize,
    /// Bytes that may still be read before an answer is too long.
    budget: usize,
    /// The end of what came on standard error.
    said: Vec<u8>,
    /// Which of the lines on standard output are ours.
    nonce: String,
    /// Shown by sudo when it wants the password.
    prompt: Option<String>,
    login: Login,
    /// What sudo records of this session, as far as it says so.
    records: Records,
    /// What must not be shown, should the node say it: the password, values.
    pub(super) values: Values,
    /// The current answer: since when it is waited for, until when, and whether a part of it has come.
    since: Instant,
    deadline: Instant,
    heard: bool,
    greeted: bool,
    /// What was asked for is a change, which the node brings to its end by itself once it has all that it needs.
    changes: bool,
    /// How long each step of it may take, and how many there are still to come.
    step: Duration,
    steps: usize,
    /// SIGTERM was seen, and the deadline is by that.
    stopping: bool,
    /// The terminal, while ssh may ask a person.
    lent: Option<Lent>,
}

impl Session {
    /// Starts ssh, or a shell here. `script` is what the shell runs; it is sent, as is what is queued next, without waiting for an
    /// answer, but where sudo could take it for another password.
    ///
    /// # Errors
    /// ssh cannot be run; the password cannot be one.
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
        // Ctrl-C on a terminal is for us alone: a change that has begun is followed to its end.
        command.process_group(0);
        let program = if login.destination.is_some() { "ssh" } else { "sh" };
        if login.destination.is_some() {
            // (A shell of this machine brings to its end what it has begun.)
            sys::ends_with_us(&mut command);
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
        let since = Instant::now();
        let mut session = Self {
            lent: if asks { Lent::to(Pid::from_raw(child.id().cast_signed())) } else { None },
            child,
            input: Some(input),
            output,
            errors,
            pending: Zeroizing::default(),
            written: 0,
            answer: Zeroizing::default(),
            taken: 0,
            budget: MAX_NOISE,
            said: Vec::new(),
            nonce,
            prompt,
            records: Records::default(),
            login: login.clone(),
            values: Values::of_password(login.password.as_ref()),
            since,
            deadline: since + if asks { PERSON } else { login.silence },
            heard: false,
            greeted: false,
            changes: false,
            step: Duration::ZERO,
            steps: 0,
            stopping: false,
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

    /// What marks lines of ours.
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

    /// Takes something to be sent; it goes as the node takes it.
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        if self.written == self.pending.len() {
            self.pending.clear();
            self.written = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Waits until sudo has taken the password, so that nothing else is taken for one.
    fn wait_for_sudo(&mut self) -> Result<(), NodeError> {
        let ready = format!("{}:ready", self.nonce);
        loop {
            let line = self.line_or(|session| session.asked_again().then(NodeError::wrong_password))?;
            if line.as_slice() == ready.as_bytes() {
                return Ok(());
            }
        }
    }

    /// True when sudo has asked for the password a second time.
    fn asked_again(&self) -> bool {
        let Some(prompt) = &self.prompt else { return false };
        String::from_utf8_lossy(&self.said).matches(prompt.as_str()).count() > 1
    }

    /// Waits for the first line of ours; what stands before it is noise. What the node says about itself next has no time of its own.
    ///
    /// # Errors
    /// The node cannot be entered; it says nothing; there is no end of noise.
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
        self.greeted = true;
        self.budget = MAX_ABILITIES;
        Ok(())
    }

    /// The node has `bytes` for its next answer, and `patience` for all of it, but for a second more for each 4 KiB.
    pub(super) fn expect(&mut self, bytes: usize, patience: Duration) {
        // What was read already counts as read.
        self.budget = bytes;
        self.since = Instant::now();
        self.deadline = self.since + patience;
        self.heard = false;
        self.changes = false;
        self.steps = 0;
    }

    /// The same for a change, which takes as many steps at most, each of them as long: [`Session::next_step`].
    pub(super) fn expect_change(&mut self, bytes: usize, patience: Duration, steps: usize) {
        self.expect(bytes, patience);
        (self.changes, self.step, self.steps) = (true, patience, steps);
    }

    /// The node has told of a step.
    pub(super) fn next_step(&mut self) {
        if self.steps > 0 && !self.stopping {
            self.steps = self.steps.saturating_sub(1);
            self.since = Instant::now();
            self.deadline = self.since + self.step;
        }
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// The session ended; the node said nothing for too long, or too much.
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
            if rest.len() > MAX_LINE && self.greeted {
                return Err(NodeError::Garbled("a line that does not end"));
            }
            if let Some(error) = stop(self) {
                return Err(error);
            }
            self.pump()?;
        }
    }

    /// Reads and writes what can be read and written now; waits for that until the deadline, or until the next [`TICK`].
    fn pump(&mut self) -> Result<(), NodeError> {
        self.look_for_sigterm()?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = self.since.elapsed().as_secs();
            return Err(match self.stopping {
                true => NodeError::Stopped,
                false => NodeError::Silent { seconds, heard: self.heard, greeted: self.greeted },
            });
        }
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
        if self.lent.as_ref().is_some_and(Lent::follow) {
            self.deadline += paused.elapsed();
        }
        self.write_some();
        self.read_errors();
        match self.read_some()? {
            Some(0) => Err(self.ended()),
            _ => Ok(()),
        }
    }

    /// Ends the session where SIGTERM has come; where a change may have begun, in a moment.
    fn look_for_sigterm(&mut self) -> Result<(), NodeError> {
        if self.stopping || !sys::is_terminated() {
            return Ok(());
        }
        if !self.changes || !self.all_is_sent() {
            return Err(NodeError::Stopped);
        }
        self.stopping = true;
        self.deadline = self.deadline.min(Instant::now() + LAST_WORDS);
        Ok(())
    }

    /// So many bytes came or went, which takes its time. Before the greeting that is no reason to wait longer: noise could go on for ever.
    fn moved(&mut self, bytes: usize) {
        if self.greeted && !self.stopping {
            let micros = bytes.saturating_mul(1_000_000) / BYTES_A_SECOND;
            self.deadline += Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }

    /// Something came from the node: it was entered, and nobody is asked anything any more.
    fn entered(&mut self) {
        if self.lent.take().is_some() {
            self.deadline = self.deadline.min(Instant::now() + self.login.silence);
        }
    }

    fn write_some(&mut self) {
        let Some(input) = &mut self.input else { return };
        let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) else { return };
        match input.write(rest) {
            Ok(count) => {
                self.written = self.written.saturating_add(count);
                self.moved(count);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => {
                // It reads no more: why not is what it says, or how it ends.
                self.pending.clear();
                self.written = 0;
                self.input = None;
            }
        }
    }

    /// How many bytes came; 0 at the end; `None` when there is nothing now.
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
                self.budget = self.budget.checked_sub(count).ok_or(NodeError::Garbled("more than was asked for"))?;
                if count > 0 {
                    self.heard = true;
                    self.entered();
                    self.moved(count);
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
        // A part of what is there; the next look gets the next part.
        match errors.read(&mut buffer) {
            Ok(0) => self.errors = None,
            Ok(count) => {
                self.said.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let over = self.said.len().saturating_sub(KEPT_ERRORS);
                self.said.drain(..over);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.errors = None,
        }
    }

    /// Why the session has ended: its status, and what it said last.
    fn ended(&mut self) -> NodeError {
        let status = self.wait(GRACE);
        // Standard error may be kept open by ssh's control master: only what is there by now is read.
        for _ in 0..8 {
            self.read_errors();
        }
        let code = status.and_then(|status| status.code().or(status.signal().map(|signal| signal.saturating_add(128))));
        let said = self.said();
        if let Some(lent) = self.lent.take()
            && let Some(signal) = by_the_terminal(status, &said)
        {
            lent.pass_on(signal);
        }
        if self.greeted {
            return NodeError::Ended { said };
        }
        NodeError::not_entered(&self.login, code, said)
    }

    /// What was said on standard error, for people; without sudo's prompt.
    pub(super) fn said(&self) -> Vec<String> {
        match &self.prompt {
            None => self.values.lines(&self.said, ""),
            Some(prompt) => self.values.lines(String::from_utf8_lossy(&self.said).replace(prompt, "").as_bytes(), ""),
        }
    }

    /// What sudo there records of what goes over this session; known once it has greeted.
    pub(super) fn records(&self) -> Records {
        self.records
    }

    /// True when the node has taken all that was queued.
    pub(super) fn all_is_sent(&self) -> bool {
        self.input.is_some() && self.written == self.pending.len()
    }

    /// Says the last word, and lets the session end.
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

impl Drop for Session {
    fn drop(&mut self) {
        self.input = None;
        // A shell of this machine ends by itself, and not in the middle of a change.
        let goes_on = self.login.destination.is_none() && self.changes;
        if !goes_on && !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Best effort: they are ours, ssh and what brings it there, and nobody waits for their answer any more.
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// The signal that has ended ssh, if it is one that a terminal sends to a job.
fn by_the_terminal(status: Option<ExitStatus>, said: &[String]) -> Option<Signal> {
    // Once it has logged in, ssh says so itself.
    let told =
        || said.iter().find_map(|line| line.strip_prefix("Killed by signal ")?.trim_end_matches('.').parse().ok());
    let signal = Signal::try_from(status?.signal().or_else(told)?).ok()?;
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
            Err(NodeError::Ended { said }) => assert_eq!(said, ["(a line that holds a value is not shown)", "so"]),
            other => panic!("{other:?}"),
        }
    }

    /// A session with a shell of this machine that runs this once it has greeted.
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
        session.expect(100, Duration::from_secs(30));
        assert_eq!(session.line().unwrap().as_slice(), b"got a  b");
        assert!(matches!(session.line(), Err(NodeError::Ended { .. })));
    }

    /// How long lines come.
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
        dripping.expect(1 << 20, patience);
        assert!((0.4..5.0).contains(&seconds(&mut dripping, |_| {})));
        let mut dripping = session(DRIP);
        dripping.expect_change(1 << 20, patience, 20);
        let took = seconds(&mut dripping, Session::next_step);
        // Twenty steps that each take 0.05 s, and the last one's patience.
        assert!((1.4..15.0).contains(&took), "{took}");
        // What is long has longer: 8 KiB are two seconds.
        let mut long =
            session("sleep 0.3; dd if=/dev/zero bs=8192 count=1 2>/dev/null; echo; sleep 1; echo more; exec sleep 100");
        long.expect(1 << 20, patience);
        let took = seconds(&mut long, |_| {});
        assert!((2.4..15.0).contains(&took), "{took}");
    }
}
