//! A run that fails or is killed at any step: nothing is changed, or all is, and no value is left under another name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Root;
use crate::kit::canary::search_files;
use crate::kit::{skipped_without_root, tool};

/// A root and a manifest that creates, replaces, removes, changes a mode, and makes directories.
fn several() -> Root {
    let root = Root::new();
    root.write("etc/old", "another value");
    root.write("etc/older", "yet another value");
    root.write("etc/open", root.value.text());
    root.write("etc/gone", "a value that has to go");
    root.write("root/gone", "another one");
    root.declare(&[
        "path: /etc/new",
        "path: /etc/old",
        "path: /etc/open, owner: admin",
        "path: /srv/x/y/deep, owner: admin",
        "path: /etc/older",
        "path: /var/last",
        "path: /etc/gone, absent: true",
        "path: /root/gone, absent: true",
    ]);
    root
}

#[test]
fn a_system_call_that_fails_anywhere_leaves_everything_as_it_was() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    for (call, error, times) in [
        ("mkdirat", "ENOSPC", 1..=3),
        ("write", "ENOSPC", 1..=5),
        ("utimensat", "EPERM", 1..=2),
        ("fchown", "EPERM", 1..=2),
        ("fchmod", "EIO", 1..=9),
        // Files, and from the seventh on directories.
        ("fsync", "EIO", 1..=13),
        ("linkat", "EIO", 1..=7),
        ("linkat", "EROFS", 3..=3),
        ("renameat2", "EIO", 1..=4),
    ] {
        for time in times {
            let name = format!("{call} {error}, the {time}th");
            let root = several();
            let before = root.tree();
            let run = root.deaddrop(&["inject", "root"]).tampered(&format!("{call}:error={error}:when={time}")).run();
            run.expect_refusal(&name, 1, &["error: root: nothing was changed", "cause: "]);
            before.assert_same(&root.tree(), true);
            // Whatever stopped it is over: the next run does it all.
            root.inject().expect_code(0).expect_error("6 secrets written, 2 removed");
            assert_eq!(root.leftovers(), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_taken_back_is_not_called_unchanged() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = several();
    let run = root.deaddrop(&["inject", "root"]).tampered("renameat2:error=EIO:when=2+").run();
    let texts = [
        "error: root: stopped in the middle",
        "could not be taken back: /etc/old (I/O error)",
        "hint: run the command again",
    ];
    run.expect_refusal("renameat2 fails from the second on", 5, &texts);
    root.inject().expect_code(0);
    root.deaddrop(&["verify", "root"]).run().expect_code(0);
}

#[test]
fn a_directory_that_cannot_be_synced_at_the_end_is_told() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = several();
    let run = root.deaddrop(&["inject", "root"]).tampered("fsync:error=EIO:when=14").run();
    let texts = [
        "error: root: stopped in the middle",
        "all files are as declared, but syncing /",
        "hint: is the disk in order?",
    ];
    run.expect_refusal("a directory at the end", 5, &texts);
    root.deaddrop(&["verify", "root"]).run().expect_code(0);
}

#[test]
fn an_old_file_that_stays_is_told() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = several();
    let run = root.deaddrop(&["inject", "root"]).tampered("unlinkat:error=EIO:when=1").run().expect_code(0);
    let left = root.leftovers();
    assert_eq!(left.len(), 1, "{left:?}");
    run.expect_error("the old /etc/old").expect_error(&left[0]);
}

#[test]
fn a_kill_before_the_first_name_leaves_no_value_at_all() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    for (call, time) in [("write", 1), ("fchown", 1), ("fchmod", 3), ("fsync", 3), ("linkat", 1)] {
        let root = several();
        fs::remove_file(root.at("etc/open")).unwrap();
        root.deaddrop(&["inject", "root"]).tampered(&format!("{call}:signal=KILL:when={time}")).run().expect_signal();
        let finds = search_files(&root.scratch.join("root"), std::slice::from_ref(&root.value));
        assert_eq!((finds, root.leftovers()), (Vec::new(), Vec::new()), "{call}");
        root.inject().expect_code(0);
        root.deaddrop(&["verify", "root"]).run().expect_code(0);
    }
}

#[test]
fn a_kill_between_two_names_is_finished_by_the_next_run() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let steps = [("linkat", 2..=3), ("renameat2", 1..=4), ("unlinkat", 1..=4)];
    for (call, time) in steps.into_iter().flat_map(|(call, times)| times.map(move |time| (call, time))) {
        let root = several();
        root.deaddrop(&["inject", "root"]).tampered(&format!("{call}:signal=KILL:when={time}")).run().expect_signal();
        // Each file is wholly old or wholly new.
        for (path, old) in [("etc/old", "another value"), ("etc/older", "yet another value")] {
            let now = fs::read_to_string(root.at(path)).unwrap();
            assert!(now == old || now == root.value.text(), "{path} is neither, after {call} {time}");
        }
        root.inject().expect_code(0);
        root.deaddrop(&["verify", "root"]).run().expect_code(0);
    }
}

#[test]
fn a_signal_in_the_middle_waits_for_the_end() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let root = several();
        let run = root.deaddrop(&["inject", "root"]).tampered(&format!("renameat2:signal={signal}:when=1")).run();
        run.expect_code(0).expect_error("6 secrets written, 2 removed");
        root.deaddrop(&["verify", "root"]).run().expect_code(0);
        assert_eq!(root.leftovers(), Vec::<String>::new());
        // Before the first change it ends the run, as anywhere.
        let root = several();
        let before = root.tree();
        let run = root.deaddrop(&["inject", "root"]).tampered(&format!("readlinkat:signal={signal}:when=1")).run();
        run.expect_code(code);
        before.assert_same(&root.tree(), false);
    }
}

/// A directory that nothing may be made in, until it is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: PathBuf) -> Option<Self> {
        let done = Command::new("chattr").arg("+i").arg(&path).output().is_ok_and(|output| output.status.success());
        done.then(|| Self(path))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

#[test]
fn one_directory_that_cannot_be_written_stops_all() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    let root = several();
    let before = root.tree();
    let Some(immutable) = Immutable::new(root.at("var")) else {
        eprintln!("SKIPPED: this file system knows no immutable directories");
        return;
    };
    let run = root.deaddrop(&["inject", "root"]).run();
    run.expect_refusal("an immutable directory", 1, &["nothing was changed", "/var/last", "hint: ", "lsattr"]);
    drop(immutable);
    before.assert_same(&root.tree(), true);
    assert_eq!(root.leftovers(), Vec::<String>::new());
}

/// A small tmpfs, unmounted when it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "deaddrop-test"]).arg(&path);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_without_room_is_told_and_left_alone() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    for (name, options) in [("no space", "size=64k"), ("no inodes", "nr_inodes=9"), ("read-only", "size=1m")] {
        let root = several();
        let Some(_mounted) = Tmpfs::new(root.at("srv"), options) else {
            eprintln!("SKIPPED: no tmpfs can be mounted here");
            return;
        };
        let texts = match name {
            "no space" => {
                fs::write(root.at("srv/full"), vec![0; 60 << 10]).unwrap();
                let _ = fs::write(root.at("srv/fuller"), vec![0; 60 << 10]);
                ["No space left on device", "hint: make room there"]
            }
            "no inodes" => {
                (0..7).for_each(|at| fs::write(root.at(&format!("srv/{at}")), "").unwrap());
                ["No space left on device", "hint: make room there"]
            }
            _ => {
                tool(Command::new("mount").args(["-o", "remount,ro"]).arg(root.at("srv")));
                ["Read-only file system", "hint: mount it writable"]
            }
        };
        let before = root.tree();
        root.deaddrop(&["inject", "root"]).run().expect_refusal(name, 1, &texts).expect_error("nothing was changed");
        before.assert_same(&root.tree(), true);
        assert_eq!(root.leftovers(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    if skipped_without_root("giving files to other users") {
        return;
    }
    // Held up where everything is staged and nothing has a name: somebody swaps a directory for a link out of the root.
    let root = Root::new();
    fs::create_dir_all(root.at("srv/x")).unwrap();
    fs::create_dir(root.scratch.join("outside")).unwrap();
    root.declare(&["path: /srv/x/a", "path: /etc/b"]);
    let before = root.tree();
    std::thread::scope(|threads| {
        let run = threads.spawn(|| root.deaddrop(&["inject", "root"]).tampered("linkat:delay_enter=2s:when=1").run());
        while unnamed_files(root.scratch.path()) < 2 {
            assert!(!run.is_finished(), "the program never staged two files");
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::rename(root.at("srv/x"), root.at("srv/moved")).unwrap();
        symlink(root.scratch.join("outside"), root.at("srv/x")).unwrap();
        let run = run.join().unwrap();
        run.expect_refusal("a swap", 1, &["nothing was changed", "/srv/x changed while deaddrop was at work"]);
    });
    assert_eq!(fs::read_dir(root.scratch.join("outside")).unwrap().count(), 0, "written outside");
    fs::remove_file(root.at("srv/x")).unwrap();
    fs::rename(root.at("srv/moved"), root.at("srv/x")).unwrap();
    before.assert_same(&root.tree(), true);
}

/// How many files without a name the `deaddrop` that works in `directory` has open.
fn unnamed_files(directory: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let ours = processes.filter(|process| {
        let is_deaddrop = fs::read_to_string(process.join("comm")).is_ok_and(|name| name == "deaddrop\n");
        is_deaddrop && fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == directory)
    });
    let open_files = ours.flat_map(|process| fs::read_dir(process.join("fd")).into_iter().flatten().flatten());
    open_files
        .filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().ends_with(" (deleted)")))
        .count()
}
