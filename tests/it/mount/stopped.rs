//! A run that is stopped at any of its steps: by a signal, by SIGKILL, by an error of the system, by a panic. No mount,
//! no loop device and no file is left; OUT is whole or not there, and an image in place as it was or wholly new.
//!
//! Every second system call of those that act is tried, another half in each test; all of them, which takes twice as
//! long, with DEADDROP_MOUNT_STEPS=all.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::SystemTime;
use std::{env, fs};

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::TreeChange;
use deaddrop_image::mount::image::MountedImage;
use deaddrop_image::open::disk::Trust;
use deaddrop_image::output::Destination;
use deaddrop_image::progress::{Progress, Work};

use super::machine::{BTRFS, Disk, PARENTS, TOUCHED, XFS, assert_nothing_left, deaddrop, place, values};
use crate::kit::files::{Fingerprint, fingerprint};
use crate::kit::run::Finished;
use crate::kit::tree::{Kind, Tree};
use crate::kit::{Scratch, sha256};

/// Calls that act, on the machine or in the mounted tree.
const CALLS: &[&str] = &[
    "fsopen",
    "fsconfig",
    "fsmount",
    "ioctl",
    "flock",
    "syncfs",
    "mkdirat",
    "fchmod",
    "fchown",
    "utimensat",
    "linkat",
    "renameat2",
    "unlinkat",
    "fsync",
    "fdatasync",
    "rename",
    "ftruncate",
];

/// What the secrets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Old,
    New,
    /// Each is wholly one or the other.
    Mixed,
}

/// Panics when a secret is neither wholly old nor wholly new.
#[track_caller]
fn state(tree: &Tree, what: &str) -> State {
    let mut states = Vec::new();
    for ((name, new), (_, old)) in values("new").into_iter().zip(values("old")) {
        let content = |value: &[u8]| Kind::File { sha256: sha256(value).unwrap() };
        states.push(match tree.0.get(&place(&name)).map(|node| &node.kind) {
            None if name == "new" => State::Old,
            Some(kind) if *kind == content(&new) => State::New,
            Some(kind) if *kind == content(&old) => State::Old,
            other => panic!("{what}: {name} is {other:?}"),
        });
    }
    match states.iter().all(|state| *state == states[0]) {
        true => states[0],
        false => State::Mixed,
    }
}

/// An image, and runs on it that are stopped.
struct Stopped {
    scratch: Scratch,
    made: Disk,
    disk: Disk,
    old: Tree,
    before: Fingerprint,
    in_place: bool,
}

impl Stopped {
    fn new(in_place: bool) -> Self {
        let scratch = Scratch::new();
        let disk = Disk::new(&scratch, BTRFS);
        let made = disk.at(scratch.join("made.img"));
        fs::rename(&disk.path, &made.path).unwrap();
        let disk = made.copy(&scratch.join("disk.img"));
        let (old, before) = (disk.tree(), fingerprint(&disk.path));
        Self { scratch, made, disk, old, before, in_place }
    }

    fn args(&self) -> Vec<&'static str> {
        let destination = if self.in_place { &["--in-place"][..] } else { &["-o", "out.img"] };
        [&["inject", "disk.img", "--backend", "mount"], destination].concat()
    }

    /// Every call that acts, as `NAME:when=N`.
    fn steps(&mut self, half: usize) -> Vec<(String, usize)> {
        let done = deaddrop(&self.scratch, "new", &self.args()).traced(
            "fsopen,fsconfig,fsmount,ioctl,flock,syncfs,mkdirat,fchmod,fchown,\
             utimensat,linkat,renameat2,unlinkat,fsync,fdatasync,rename,ftruncate",
        );
        let done = done.run().expect_code(0);
        let counts =
            CALLS.iter().flat_map(|name| (1..=done.trace().calls(name).len()).map(|n| ((*name).to_owned(), n)));
        let all: Vec<_> = counts.collect();
        assert!(all.len() > 60, "{all:?}");
        self.renew();
        match env::var("DEADDROP_MOUNT_STEPS") {
            Ok(steps) if steps == "all" => all,
            _ => all.into_iter().skip(half).step_by(2).collect(),
        }
    }

    fn renew(&mut self) {
        let _ = fs::remove_file(self.scratch.join("out.img"));
        fs::remove_file(&self.disk.path).unwrap();
        self.made.copy(&self.disk.path);
        self.before = fingerprint(&self.disk.path);
    }

    /// Runs with a tampered call and gives what became of the secrets where they were to go; `None` when nothing was
    /// written at all. Renews what was written.
    #[track_caller]
    fn run(&mut self, what: &str, tampering: &str) -> (Option<State>, Finished) {
        let done = deaddrop(&self.scratch, "new", &self.args()).tampered(tampering).run();
        assert!(!done.stderr().contains("panicked"), "{what}: {}", done.stderr());
        let untouched = fingerprint(&self.disk.path) == self.before;
        if !self.in_place {
            assert!(untouched, "{what}: the input was touched");
        }
        assert_nothing_left(&self.scratch, &["made.img", "disk.img", "out.img"]);
        let out = self.disk.at(self.scratch.join("out.img"));
        let written = match self.in_place {
            true => Some(&self.disk).filter(|_| !untouched),
            false => Some(&out).filter(|out| out.path.exists()),
        };
        let Some(written) = written else { return (None, done) };
        let tree = written.tree();
        let found = state(&tree, what);
        if done.status().signal() != Some(9) && !done.stderr().contains("could not be removed") {
            // Whoever could tidy up has done so.
            self.old.assert_only(&tree, TOUCHED, PARENTS);
        }
        written.assert_sound(&self.scratch);
        self.renew();
        (Some(found), done)
    }
}

fn signals(in_place: bool, half: usize) {
    if !BTRFS.is_here() {
        return;
    }
    let mut stopped = Stopped::new(in_place);
    let mut seen = Vec::new();
    for (index, (call, number)) in stopped.steps(half).into_iter().enumerate() {
        let (signal, code) = if index % 2 == 0 { ("SIGINT", 130) } else { ("SIGTERM", 143) };
        let what = format!("{call} {number} {signal}");
        let (state, done) = stopped.run(&what, &format!("{call}:signal={signal}:when={number}"));
        match state {
            None => {
                assert_eq!(done.code(), Some(code), "{what}: {}", done.stderr());
                assert!(done.stderr().contains("error: stopped by a signal: nothing was changed"), "{what}");
            }
            Some(State::New) => assert_eq!(done.code(), Some(0), "{what}: {}", done.stderr()),
            other => panic!("{what}: {other:?}"),
        }
        seen.push(state);
    }
    assert!(seen.contains(&None) && seen.contains(&Some(State::New)), "{seen:?}");
}

#[test]
fn a_signal_leaves_no_output_or_a_whole_one() {
    signals(false, 0);
}

#[test]
fn a_signal_leaves_an_image_in_place_as_it_was_or_wholly_new() {
    signals(true, 1);
}

#[test]
fn sigkill_leaves_nothing_but_whole_files() {
    if !BTRFS.is_here() {
        return;
    }
    for in_place in [false, true] {
        let mut stopped = Stopped::new(in_place);
        let steps = stopped.steps(usize::from(in_place));
        for (call, number) in steps.into_iter().step_by(2) {
            let what = format!("{call} {number} SIGKILL, in place: {in_place}");
            let (state, done) = stopped.run(&what, &format!("{call}:signal=SIGKILL:when={number}"));
            // Where fewer calls were made than in the traced run (a loop device that others took), it came to its end.
            assert!(done.status().signal() == Some(9) || state == Some(State::New), "{what}: {}", done.status());
            assert!(in_place || matches!(state, None | Some(State::New)), "{what}: {state:?}");
        }
        // And the next run goes on from there.
        if in_place {
            let done =
                deaddrop(&stopped.scratch, "new", &stopped.args()).tampered("renameat2:signal=SIGKILL:when=2").run();
            assert_eq!(done.status().signal(), Some(9));
            deaddrop(&stopped.scratch, "new", &stopped.args()).run().expect_code(0);
            assert_eq!(state(&stopped.disk.tree(), "the next run"), State::New);
        }
    }
}

#[test]
fn an_error_at_any_step_is_said_and_nothing_half_done_is_left_silent() {
    if !BTRFS.is_here() {
        return;
    }
    for in_place in [false, true] {
        let mut stopped = Stopped::new(in_place);
        for (index, (call, number)) in stopped.steps(usize::from(!in_place)).into_iter().enumerate() {
            let error = if index % 2 == 0 { "EIO" } else { "ENOSPC" };
            let what = format!("{call} {number} {error}, in place: {in_place}");
            let (state, done) = stopped.run(&what, &format!("{call}:error={error}:when={number}"));
            let said = done.stderr();
            match done.code() {
                Some(0) => assert_eq!(state, Some(State::New), "{what}"),
                Some(1) => {
                    assert!(
                        matches!(state, None | Some(State::Old)) && said.contains("nothing was changed"),
                        "{what}: {said}"
                    );
                }
                Some(5) => assert!(in_place && said.contains("stopped in the middle"), "{what}: {said}"),
                other => panic!("{what}: {other:?} {said}"),
            }
        }
    }
}

#[test]
fn a_panic_at_any_step_leaves_nothing_and_old_or_new() {
    for system in [BTRFS, XFS].into_iter().filter(|system| system.is_here()) {
        let first = Scratch::new();
        let made = Disk::new(&first, system);
        for in_place in [false, true] {
            for at in 0.. {
                let scratch = Scratch::new();
                let disk = made.copy(&scratch.join("disk.img"));
                let old = disk.tree();
                let out: PathBuf = scratch.join("out.img");
                let destination = match in_place {
                    true => Destination::InPlace { keep_mode: false, force: false, undo: None },
                    false => Destination::File { path: out.clone(), force: false, format: None, overlay: false },
                };
                let reached = Cell::new(0);
                let watch = |step: Progress| {
                    if step.work == Work::Kernel {
                        assert!(reached.get() != at, "on purpose");
                        reached.set(reached.get() + 1);
                    }
                };
                let changes: Vec<TreeChange> = values("new")
                    .into_iter()
                    .filter(|(name, _)| name != "new")
                    .map(|(name, value)| {
                        let content = Secret::new(value);
                        TreeChange::WriteFile { path: place(&name), content, mode: 0o400, uid: 0, gid: 0, label: None }
                    })
                    .collect();
                let run = || {
                    let mut target =
                        MountedImage::open(&disk.path, Trust::default(), None, None, Some(&destination), &watch)
                            .unwrap();
                    target.apply(&changes, SystemTime::now()).unwrap();
                };
                let finished = catch_unwind(AssertUnwindSafe(run)).is_ok();
                let what = format!("{} at {at}, in place: {in_place}", system.kind);
                assert_nothing_left(&scratch, &["disk.img", "out.img"]);
                assert_eq!(out.exists(), finished && !in_place, "{what}");
                let written = if in_place { disk.at(&disk.path) } else { disk.at(&out) };
                if written.path.exists() {
                    let tree = written.tree();
                    let is = |version: &str, name: &str| {
                        let (_, value) = values(version).into_iter().find(|(found, _)| found == name).unwrap();
                        tree.at(&place(name)).kind == Kind::File { sha256: sha256(value.as_slice()).unwrap() }
                    };
                    let all = |version: &str| is(version, "small") && is(version, "large");
                    assert!(all("new") || (all("old") && !finished), "{what}: neither old nor new");
                    old.assert_only(&tree, TOUCHED, PARENTS);
                    written.assert_sound(&scratch);
                }
                if finished {
                    assert!(at > 5, "{what}: there are more steps than these");
                    break;
                }
            }
        }
    }
}
