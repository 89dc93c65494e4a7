//! A run that is stopped: by a signal at a system call, by one after a while, or by SIGKILL. The image is as it was, or
//! wholly new; OUT is not there, or whole; and nothing is left beside them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::outputs::{assert_only_files, few};
use crate::kit::files::{fingerprint, names};
use crate::kit::images::{self, Image};
use crate::kit::manifest::Manifest;
use crate::kit::mount::assert_fsck_clean;
use crate::kit::run::Finished;
use crate::kit::tool;
use crate::kit::tree::Tree;

/// What a run changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Old,
    New,
}

/// From where to where.
const WAYS: [(&str, Option<&str>); 5] = [
    ("none.img", None),
    ("none.img.zst", None),
    ("none.qcow2", None),
    ("none.img", Some("out.img")),
    ("none.img.zst", Some("out.img.zst")),
];

/// One image, and runs on it that are stopped.
struct Stopped {
    manifest: Manifest,
    from: &'static str,
    out: Option<&'static str>,
    /// The image's tree before any run.
    old: Tree,
}

impl Stopped {
    fn new(from: &'static str, out: Option<&'static str>) -> Self {
        let manifest = Manifest::new(few());
        let image = images::NONE.committed(&manifest.scratch);
        let old = Tree::of(&image);
        fs::remove_file(image.path).expect("removing a file of ours");
        let stopped = Self { manifest, from, out, old };
        stopped.renew();
        stopped
    }

    /// The image as it was made, and no output.
    fn renew(&self) {
        let path = self.manifest.scratch.join(self.from);
        let _ = fs::remove_file(&path);
        match self.from {
            "none.img.zst" => drop(fs::copy(images::NONE.compressed(), &path).expect("copying an image")),
            "none.qcow2" => {
                let raw = images::NONE.committed(&self.manifest.scratch).path;
                tool(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&path));
                // qemu-img reserves blocks that it does not write. Whether one is a hole, which is a part of the
                // fingerprint, depends on what was read since.
                let bytes = fs::read(&path).expect("reading an image");
                fs::remove_file(&path).and_then(|()| fs::write(path, bytes)).expect("writing an image");
                fs::remove_file(raw).expect("removing a file of ours");
            }
            _ => drop(images::NONE.committed(&self.manifest.scratch)),
        }
        if let Some(out) = self.out {
            let _ = fs::remove_file(self.manifest.scratch.join(out));
        }
    }

    fn args(&self) -> Vec<&str> {
        [&["inject", self.from][..], &self.out.iter().flat_map(|out| ["-o", out]).collect::<Vec<_>>()].concat()
    }

    /// Judges what `run` left, and renews it. Panics unless that is wholly old or wholly new.
    fn state_after(&self, what: &str, run: impl FnOnce(&Self) -> Finished) -> (State, Finished) {
        let path = self.manifest.scratch.join(self.from);
        let before = fingerprint(&path);
        let done = run(self);
        self.allow_a_name_after_sigkill(&done, what);
        let unchanged = fingerprint(&path) == before;
        assert!(unchanged || self.out.is_none(), "{what}: the input was touched");
        let written = match self.out {
            Some(out) => Some(out).filter(|out| self.manifest.scratch.join(out).exists()),
            None => Some(self.from).filter(|_| !unchanged),
        };
        let state = written.map_or(State::Old, |written| self.state_of(written, &done, what));
        let mut files = vec![self.from];
        files.extend(self.out.filter(|_| written.is_some()));
        assert_only_files(&self.manifest.scratch, &files);
        if written.is_some() {
            self.renew();
        }
        (state, done)
    }

    /// Whether a file that was written to is wholly new, or, killed in the middle, wholly old.
    fn state_of(&self, written: &str, done: &Finished, what: &str) -> State {
        let image = self.settled(written);
        assert_fsck_clean(&image);
        let tree = Tree::of(&image);
        let state = if tree.0.contains_key(self.manifest.items[0].path) { State::New } else { State::Old };
        if state == State::New {
            self.manifest.assert_in(&image, &tree);
        } else {
            assert_eq!(done.status().signal(), Some(9), "{what}: written to, and wholly old");
            assert!(self.old.changes(&tree).is_empty(), "{what}: {:?}", self.old.changes(&tree));
        }
        fs::remove_file(&image.path).expect("removing a file of ours");
        state
    }

    /// A copy of the image, unpacked, as a system that boots from it makes it.
    fn settled(&self, name: &str) -> Image {
        let raw = self.manifest.scratch.join("settled.img");
        let path = self.manifest.scratch.join(name);
        if name.ends_with(".zst") {
            tool(Command::new("zstd").args(["-dqf"]).arg(path).arg("-o").arg(&raw));
        } else if name.ends_with(".qcow2") {
            tool(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(&path));
            tool(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(path).arg(&raw));
        } else {
            fs::copy(path, &raw).expect("copying an image");
        }
        // 0: nothing to do; 1: the journal was replayed.
        let repaired = Command::new("e2fsck").arg("-p").arg(&raw).output().expect("running e2fsck");
        assert!(matches!(repaired.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&repaired.stdout));
        Image::new(raw, 0)
    }

    /// Between two calls, the name that an unnamed file needs before it can take over another is there for a moment.
    fn allow_a_name_after_sigkill(&self, done: &Finished, what: &str) {
        if done.status().signal() != Some(9) {
            return;
        }
        for name in names(self.manifest.scratch.path()).iter().filter(|name| name.starts_with(".deaddrop-")) {
            let mode = fs::metadata(self.manifest.scratch.join(name)).expect("a file").permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{what}: {name}");
            // The next run removes it, also if there is nothing for it to do.
            let copy = [self.from, "-o", "next"];
            self.manifest.deaddrop(&[&["inject"], &copy[..]].concat()).run().expect_code(0);
            fs::remove_file(self.manifest.scratch.join("next")).expect("removing a file of ours");
        }
    }
}

/// For SIGINT and SIGTERM: exit 130 or 143 and old, or done and new. Never anything else.
fn assert_honest(state: State, done: &Finished, what: &str) {
    let said = done.stderr();
    match state {
        State::Old => {
            assert!(
                matches!(done.shell_code(), 130 | 143),
                "{what}: {}, and nothing was changed\n{said}",
                done.status()
            );
            assert!(done.status().signal().is_none(), "{what}: an exit code, not a signal");
            assert!(said.contains("error: stopped by a signal: nothing was changed"), "{what}: {said}");
        }
        State::New => {
            assert_eq!(done.shell_code(), 0, "{what}: {said}");
            assert!(said.contains("3 secrets written"), "{what}: {said}");
        }
    }
}

#[test]
fn a_signal_ends_a_run_before_its_commit_and_waits_during_it() {
    // Where it is committed: the rename over an image, the name of an output.
    const MOMENTS: &[(&str, Option<State>)] = &[
        ("pread64:when=8", Some(State::Old)),
        ("ioctl:when=1", None),
        ("pwrite64:when=1", None),
        ("fsync:when=1", None),
        ("fdatasync:when=1", None),
        ("rename:when=1", Some(State::New)),
        ("linkat:when=1", Some(State::New)),
        ("fsync:when=2", Some(State::New)),
        ("munmap:when=60+", None),
    ];
    for (from, out) in WAYS {
        let stopped = Stopped::new(from, out);
        let mut seen = Vec::new();
        for (call, want) in MOMENTS {
            let (name, when) = call.split_once(':').expect("a call and when");
            for signal in ["SIGINT", "SIGTERM"] {
                let what = format!("{from} {out:?} {call} {signal}");
                let (state, done) = stopped.state_after(&what, |stopped| {
                    let injection = format!("{name}:signal={signal}:{when}");
                    stopped.manifest.deaddrop(&stopped.args()).tampered(&injection).run()
                });
                assert_honest(state, &done, &what);
                if done.status().signal().is_some() {
                    assert_eq!(done.shell_code(), if signal == "SIGINT" { 130 } else { 143 }, "{what}");
                }
                assert!(want.is_none_or(|want| want == state), "{what}: {state:?}");
                seen.push(state);
            }
        }
        assert!(seen.contains(&State::Old) && seen.contains(&State::New), "{from} {out:?}: {seen:?}");
    }
}

#[test]
fn sigkill_leaves_the_image_old_or_new_and_nothing_beside_it() {
    for (from, out) in WAYS {
        let stopped = Stopped::new(from, out);
        for call in
            ["pwrite64:when=1", "pwrite64:when=5", "pwrite64:when=12", "fsync:when=1", "linkat:when=1", "rename:when=1"]
        {
            let (name, when) = call.split_once(':').expect("a call and when");
            let what = format!("{from} {out:?} {call}");
            stopped.state_after(&what, |stopped| {
                stopped.manifest.deaddrop(&stopped.args()).tampered(&format!("{name}:signal=SIGKILL:{when}")).run()
            });
        }
    }
}

#[test]
fn sigkill_at_every_writing_call_on_a_qcow2_image_leaves_it_old_or_new() {
    let stopped = Stopped::new("none.qcow2", None);
    for call in ["pwrite64", "ftruncate", "sync_file_range", "fchmod", "fchown", "fsync", "linkat", "rename", "unlink"]
    {
        // Until the call is not made so often any more.
        for number in 1..100 {
            let what = format!("{call} {number}");
            let (state, done) = stopped.state_after(&what, |stopped| {
                let injection = format!("{call}:signal=SIGKILL:when={number}");
                stopped.manifest.deaddrop(&stopped.args()).tampered(&injection).run()
            });
            if done.status().success() {
                assert_eq!(state, State::New, "{what}");
                break;
            }
            assert_eq!(done.status().signal(), Some(9), "{what}: {}", done.stderr());
            assert!(number < 99, "{call} is made too often");
        }
    }
}

#[test]
fn a_signal_at_any_time_leaves_old_or_new() {
    let stopped = Stopped::new("none.img.zst", Some("out.img.zst"));
    let (_, whole) = stopped.state_after("whole", |stopped| stopped.manifest.deaddrop(&stopped.args()).run());
    assert_eq!(whole.shell_code(), 0);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        for milliseconds in [0, 5, 15, 30, 45, 60, 80, 110] {
            let what = format!("{signal} after {milliseconds} ms");
            let (state, done) = stopped.state_after(&what, |stopped| {
                stopped
                    .manifest
                    .deaddrop(&stopped.args())
                    .signal_after(Duration::from_millis(milliseconds), signal)
                    .run()
            });
            // In its first moments no program can have a handler yet; on a busy machine they are long.
            let silent = state == State::Old && done.stderr().is_empty() && done.status().signal().is_some();
            if signal != Signal::SIGKILL && !silent {
                assert_honest(state, &done, &what);
            }
        }
    }
}

#[test]
fn where_an_unfinished_file_needs_a_name_a_signal_removes_it() {
    for (from, out) in [("none.img.zst", None), ("none.img", Some("out.img"))] {
        let stopped = Stopped::new(from, out);
        // The last call that asks for a file without a name, which is the output's; the same one of every run.
        let (_, done) =
            stopped.state_after("traced", |stopped| stopped.manifest.deaddrop(&stopped.args()).traced("openat").run());
        let calls = done.trace().calls("openat");
        let asks = calls.iter().rfind(|call| call.contains("O_TMPFILE")).expect("it asks for a file without a name");
        // strace counts the calls of each thread by themselves.
        let thread = asks.split(' ').next().expect("a line begins with a thread's number");
        let number =
            calls.iter().filter(|call| call.starts_with(thread)).position(|call| call == asks).expect("it is there");
        let refuse = format!("openat:error=EOPNOTSUPP:when={}", number + 1);
        let run = |more: &[&str]| {
            let run = stopped.manifest.deaddrop(&stopped.args()).tampered(&refuse);
            more.iter().fold(run, |run, injection| run.tampered(injection)).run()
        };
        let (state, done) = stopped.state_after("no unnamed files", |_| run(&[]));
        assert_eq!((state, done.shell_code()), (State::New, 0), "{}", done.stderr());
        let log = fs::read_to_string(stopped.manifest.scratch.join("tampering.log")).expect("strace's log");
        let refused = |line: &str| line.contains("O_TMPFILE") && line.contains("INJECTED");
        assert!(log.lines().any(refused), "{from} {out:?}: another call was refused");
        for injection in [
            "pwrite64:signal=SIGINT:when=2",
            "pwrite64:signal=SIGTERM:when=2",
            "fsync:signal=SIGTERM:when=1",
            "pwrite64:error=ENOSPC:when=2",
        ] {
            let what = format!("{from} {out:?} {injection}");
            let (state, done) = stopped.state_after(&what, |_| run(&[injection]));
            assert_eq!(state, State::Old, "{what}");
            assert!(matches!(done.shell_code(), 1 | 130 | 143), "{what}: {}", done.status());
        }
    }
}
