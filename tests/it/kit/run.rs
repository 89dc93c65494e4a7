//! Runs `deaddrop` and judges what came out of it, canaries first: nothing is printed before it was searched.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::canary::{Canary, search_files};
use super::json_schema::fits;
use super::{Scratch, is_root, tool};

/// The numeric user and group that nobody is, for runs without rights.
pub const NOBODY: u32 = 65534;

/// One run to be. It starts in the scratch directory with an environment of PATH, HOME, TMPDIR (a directory of its own
/// in the scratch one) and LC_ALL only.
pub struct Deaddrop<'a> {
    scratch: &'a Scratch,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    canaries: Vec<Canary>,
    unprivileged: bool,
    traced: Option<&'static str>,
    signal_after: Option<(Duration, Signal)>,
    limited: bool,
    tampered: Vec<String>,
}

impl<'a> Deaddrop<'a> {
    /// A run without arguments.
    pub fn new(scratch: &'a Scratch) -> Self {
        Self {
            scratch,
            program: PathBuf::from(env!("CARGO_BIN_EXE_deaddrop")),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            canaries: Vec::new(),
            unprivileged: false,
            traced: None,
            signal_after: None,
            limited: false,
            tampered: Vec::new(),
        }
    }

    /// Runs another program in its place: to prove that a leak would be found.
    pub fn instead(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it reads from standard input; nothing otherwise.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// A value that must turn up in no output, temporary file, child's argument or child's environment.
    pub fn plant(mut self, canary: &Canary) -> Self {
        self.canaries.push(canary.clone());
        self
    }

    /// As user and group 65534 without any other group: the program is copied to where that user can run it. The test
    /// gives the user what it must reach ([`Scratch::give_to`]). Where the test itself is not root, it runs as it is.
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Under `strace -f`, which notes these system calls (in strace's own syntax, such as `%file,mount,ioctl`) and
    /// every execve with all of its arguments and environment.
    pub fn traced(mut self, calls: &'static str) -> Self {
        self.traced = Some(calls);
        self
    }

    /// Sends it a signal after a while, if it still runs then.
    pub fn signal_after(mut self, while_: Duration, signal: Signal) -> Self {
        self.signal_after = Some((while_, signal));
        self
    }

    /// Within what hostile input may cost: 600 MB of address space and 10 seconds, after which it is killed.
    pub fn limited(mut self) -> Self {
        self.limited = true;
        self
    }

    /// Under a `strace` that tampers with one system call, in its own syntax: `renameat2:error=EIO:when=2`,
    /// `linkat:signal=KILL`. Several may be given.
    pub fn tampered(mut self, injection: &str) -> Self {
        self.tampered.push(injection.to_owned());
        self
    }

    /// Runs it to its end, and searches everything for the planted values. Panics on a find, naming the place.
    pub fn run(self) -> Finished {
        let tmp = self.scratch.join("tmp");
        fs::create_dir_all(&tmp).expect("making a directory of ours");
        let mut program = self.program;
        let mut words: Vec<OsString> = Vec::new();
        let trace = self.scratch.join("strace.log");
        if let Some(calls) = self.traced {
            words.extend(["strace", "-f", "-y", "-v", "-s", "65536", "-o"].map(OsString::from));
            words.extend([trace.clone().into(), "-e".into(), format!("trace=execve,{calls}").into()]);
        }
        if !self.tampered.is_empty() {
            let log = self.scratch.join("tampering.log");
            words.extend(["strace", "-f", "-qq", "-o"].map(OsString::from));
            words.push(log.into());
            for injection in &self.tampered {
                words.extend(["-e".into(), format!("inject={injection}").into()]);
            }
        }
        if self.unprivileged && is_root() {
            let copy = self.scratch.join("deaddrop");
            // By another process: a child that another thread starts meanwhile would hold the copy open for writing,
            // and what is open for writing cannot be run.
            tool(Command::new("cp").arg("--").arg(&program).arg(&copy));
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("opening the program to others");
            std::os::unix::fs::chown(&tmp, Some(NOBODY), Some(NOBODY)).expect("giving a directory of ours away");
            program = copy;
            let id = NOBODY.to_string();
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(OsString::from));
        }
        if self.limited {
            words.extend(["timeout", "--signal=KILL", "10", "prlimit", "--as=600000000"].map(OsString::from));
        }
        words.push(program.clone().into());
        let mut command = Command::new(super::program(&words[0]));
        command.args(&words[1..]).args(&self.args).current_dir(self.scratch.path()).env_clear();
        command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", self.scratch.path()).env("TMPDIR", &tmp);
        command.env("LC_ALL", "C.UTF-8").envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {:?}: {error}", words[0]));
        let mut input = child.stdin.take().expect("standard input is a pipe");
        // The program need not read it: a broken pipe is no failure.
        let _ = input.write_all(&self.stdin);
        drop(input);
        if let Some((while_, signal)) = self.signal_after {
            std::thread::sleep(while_);
            // It may have ended meanwhile; it is not waited for yet, so its number is still its own.
            let number = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process's number"));
            nix::sys::signal::kill(number, signal).expect("sending a signal");
        }
        let output = child.wait_with_output().expect("waiting for the program");
        let trace =
            self.traced.map(|_| Trace { program, log: fs::read_to_string(&trace).expect("reading strace's log") });
        let finished = Finished { status: output.status, stdout: output.stdout, stderr: output.stderr, trace };
        finished.refuse_leaks(&self.canaries, &tmp);
        finished
    }
}

/// deaddrop on a terminal of its own, by script(1): these words, as a shell has them. What it shows is standard output.
pub fn on_terminal(scratch: &Scratch, words: &str) -> Command {
    in_terminal(scratch, &format!("{} {words}", env!("CARGO_BIN_EXE_deaddrop")))
}

/// The same, on a terminal of this width.
pub fn on_terminal_of(scratch: &Scratch, columns: u16, words: &str) -> Command {
    in_terminal(scratch, &format!("stty rows 24 cols {columns}; {} {words}", env!("CARGO_BIN_EXE_deaddrop")))
}

fn in_terminal(scratch: &Scratch, line: &str) -> Command {
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]).current_dir(scratch.path()).env_clear().stdin(Stdio::null());
    command.env("PATH", "/usr/bin:/bin").env("HOME", scratch.path()).env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    command
}

/// A run that has ended, and leaked none of the planted values.
pub struct Finished {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    trace: Option<Trace>,
}

impl Finished {
    fn refuse_leaks(&self, canaries: &[Canary], tmp: &Path) {
        let mut leaks = search_files(tmp, canaries);
        let mut look = |place: &str, bytes: &[u8]| {
            leaks.extend(canaries.iter().filter_map(|canary| Some(format!("{place}: {}", canary.found_in(bytes)?))));
        };
        look("standard output", &self.stdout);
        look("standard error", &self.stderr);
        if let Some(trace) = &self.trace {
            look("an argument or the environment of a child", trace.children().join("\n").as_bytes());
        }
        assert!(
            leaks.is_empty(),
            "LEAK, {}, {} bytes of output, {} bytes of errors:\n{}",
            self.status,
            self.stdout.len(),
            self.stderr.len(),
            leaks.join("\n")
        );
    }

    /// Panics, showing all that was said, unless the exit code is this one.
    #[track_caller]
    pub fn expect_code(self, want: i32) -> Self {
        assert!(self.status.code() == Some(want), "{}, not {want}{}", self.status, self.said());
        self
    }

    /// How a shell shows its end in `$?`: the exit code, or 128 and the number of the signal that ended it.
    pub fn shell_code(&self) -> i32 {
        let by_signal = || self.status.signal().map(|signal| 128 + signal);
        self.status.code().or_else(by_signal).expect("it has ended")
    }

    /// How it ended, for a parent.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Panics unless a signal ended it.
    #[track_caller]
    pub fn expect_signal(self) -> Self {
        assert!(self.status.code().is_none(), "{}, not a signal{}", self.status, self.said());
        self
    }

    /// Panics unless it failed as a person wants it: with this code, nothing on standard output, an error that holds
    /// each of these texts, and no panic.
    #[track_caller]
    pub fn expect_refusal(self, name: &str, code: i32, texts: &[&str]) -> Self {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        // On a busy machine work takes so long that it is told.
        let is_progress = |line: &&str| line.ends_with(" …") || line.ends_with(" s");
        let progress: usize =
            stderr.split_inclusive('\n').take_while(|line| is_progress(&line.trim_end())).map(str::len).sum();
        let stderr = &stderr[progress..];
        let missing: Vec<&&str> = texts.iter().filter(|text| !stderr.contains(**text)).collect();
        let well = self.status.code() == Some(code)
            && stdout.is_empty()
            && stderr.starts_with("error: ")
            && missing.is_empty();
        assert!(
            well && !stderr.contains("panicked") && !stderr.contains('\u{1b}'),
            "{name}: {}, not {code}, or not said: {missing:?}{}",
            self.status,
            self.said()
        );
        self
    }

    /// Panics unless standard error holds this text.
    #[track_caller]
    pub fn expect_error(self, want: &str) -> Self {
        assert!(self.stderr().contains(want), "`{want}` was not said{}", self.said());
        self
    }

    /// Panics unless standard output holds this text.
    #[track_caller]
    pub fn expect_output(self, want: &str) -> Self {
        assert!(self.stdout().contains(want), "`{want}` was not printed{}", self.said());
        self
    }

    /// The exit code; none when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON; panics when it is anything else, see [`json_of`].
    #[track_caller]
    pub fn json(&self) -> Value {
        json_of(&self.stdout).unwrap_or_else(|error| panic!("{error}{}", self.said()))
    }

    /// What `strace` noted; panics without [`Deaddrop::traced`].
    pub fn trace(&self) -> &Trace {
        self.trace.as_ref().expect("the run was traced")
    }

    fn said(&self) -> String {
        format!("\n--- standard output\n{}\n--- standard error\n{}", self.stdout(), self.stderr())
    }
}

/// The object that `--json` has printed; an error when it is not as docs/json.schema.json describes it, with no key
/// beside.
pub fn json_of(text: &[u8]) -> Result<Value, String> {
    let object = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
    match PUBLISHED.iter().all(|schema| fits(schema, schema, &object)) {
        true => Ok(object),
        false => Err("not as docs/json.schema.json describes it".to_owned()),
    }
}

/// The published schema of what `--json` prints: as it is, and with objects that have no other keys than those that it
/// names.
static PUBLISHED: LazyLock<[Value; 2]> = LazyLock::new(|| {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.schema.json")).unwrap();
    let open: Value = serde_json::from_str(&text).unwrap();
    let mut closed = open.clone();
    close(&mut closed);
    [open, closed]
});

fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            if map.get("type").is_some() && map.contains_key("required") {
                map.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The log of `strace -f`: one line a call, the process's number before it.
pub struct Trace {
    program: PathBuf,
    log: String,
}

impl Trace {
    /// The lines that hold a call of this name, made by the program or a child of it; not what started it.
    pub fn calls(&self, name: &str) -> Vec<&str> {
        let starts = |line: &&str| {
            let call = line.trim_start_matches(|character: char| character.is_ascii_digit()).trim_start();
            call.strip_prefix(name).is_some_and(|rest| rest.starts_with('('))
        };
        let program = format!(" execve(\"{}\", [", self.program.display());
        let mut lines = self.log.lines();
        lines.find(|line| line.contains(&program)).expect("strace saw the program start");
        lines.filter(starts).collect()
    }

    /// Every line.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.log.lines()
    }

    /// The execve calls of children, with arguments and environment: those after the program itself was started.
    pub fn children(&self) -> Vec<&str> {
        self.calls("execve")
    }

    /// Panics if one of these system calls was made, or a loop device opened.
    #[track_caller]
    pub fn assert_none(&self, names: &[&str]) {
        for name in names {
            assert!(self.calls(name).is_empty(), "{name} was called {} times", self.calls(name).len());
        }
        assert!(!self.log.contains("/dev/loop"), "a loop device was named");
    }
}
