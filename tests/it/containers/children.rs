//! What needs a process of its own: another user, a limit, a signal. Each test runs this test program again, for one of
//! the ignored tests below, in the directory that it is given.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deaddrop_core::sys;
use deaddrop_image::open::disk::DiskImage;
use deaddrop_image::progress::quiet;

use crate::kit::disk::*;
use crate::kit::files::{fingerprint, mode, names};
use crate::kit::run::NOBODY;
use crate::kit::skipped_without_root;

const DIRECTORY: &str = "DEADDROP_TEST_DIRECTORY";

/// Runs the ignored test `name` with `wrapper` before it. The program is copied, since another user may not reach it
/// where it was built.
fn child(name: &str, wrapper: &[&str], directory: &Path) -> Output {
    let programs = tempfile::tempdir().unwrap();
    fs::set_permissions(programs.path(), Permissions::from_mode(0o755)).unwrap();
    let program = programs.path().join("test");
    // By another process: a fork of another test, while we held it open for writing, would make it "text file busy".
    run("cp", &[env::current_exe().unwrap().to_str().unwrap(), program.to_str().unwrap()]);
    // The first part is the name of this program, which is no part of a test's.
    let (_, here) = module_path!().split_once("::").unwrap();
    Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(&program)
        .args(["--ignored", "--exact", &format!("{here}::{name}")])
        .env(DIRECTORY, directory)
        .env("TMPDIR", "/var/tmp")
        .current_dir("/")
        .output()
        .unwrap()
}

fn must_pass(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// The directory that a child was given; none when somebody runs the ignored tests by themselves.
fn directory() -> Option<PathBuf> {
    env::var_os(DIRECTORY).map(PathBuf::from)
}

/// The refusal of a change in place, and that -o is offered.
fn refused_in_place(path: &Path) -> String {
    let error = commit(path, &in_place()).unwrap_err();
    assert!(deaddrop::run::remedy::hint(&error).contains("-o OUT"), "{error}");
    error.to_string()
}

#[test]
fn a_user_without_rights_is_told_what_is_missing() {
    if skipped_without_root("becoming somebody else") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    for place in ["mine", "closed", "sticky"] {
        let place = directory.path().join(place);
        fs::create_dir(&place).unwrap();
        small_disk(&place.join("raw.img"));
        zstd(&place.join("raw.img"));
        for name in ["raw.img", "raw.img.zst"] {
            fs::set_permissions(place.join(name), Permissions::from_mode(0o644)).unwrap();
        }
    }
    for path in ["mine", "mine/raw.img", "mine/raw.img.zst", "closed/raw.img", "closed/raw.img.zst"] {
        chown(directory.path().join(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let sticky = directory.path().join("sticky");
    fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(sticky.join("raw.img"), Permissions::from_mode(0o666)).unwrap();
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    must_pass(&child("as_nobody", &nobody, directory.path()));
    for name in ["raw.img", "raw.img.zst"] {
        assert_eq!(mode(&directory.path().join("closed").join(name)), 0o644);
    }
}

#[test]
#[ignore = "run as another user by a_user_without_rights_is_told_what_is_missing"]
fn as_nobody() {
    let Some(directory) = directory() else { return };
    // As the program does: it must not take away the way to name an unnamed file.
    sys::harden();
    let (mine, closed, sticky) = (directory.join("mine"), directory.join("closed"), directory.join("sticky"));
    let disk = fs::read(mine.join("raw.img")).unwrap();
    for name in ["raw.img", "raw.img.zst"] {
        assert_eq!(commit(&mine.join(name), &in_place()).unwrap().mode_was, Some(0o644));
        let words = refused_in_place(&closed.join(name));
        assert!(words.contains("its directory") && words.ends_with("Permission denied"), "{words}");
        let out = mine.join(format!("out-{name}"));
        commit(&closed.join(name), &new_file(&out)).unwrap();
        assert_eq!(mode(&out), 0o600);
        // To look at a compressed image, a spool goes elsewhere.
        assert_eq!(DiskImage::open(&closed.join(name), &quiet).unwrap().table().partitions.len(), 2);
        let error = commit(&mine.join(name), &new_file(&closed.join("out.img"))).unwrap_err().to_string();
        assert!(error.ends_with("cannot be written: Permission denied"), "{error}");
    }
    assert!(fs::read(mine.join("raw.img")).unwrap() == changed(&disk));
    let words = refused_in_place(&sticky.join("raw.img"));
    assert!(words.contains("only its owner may do that"), "{words}");
    let words = refused_in_place(&sticky.join("raw.img.zst"));
    assert!(words.ends_with("cannot be written: Permission denied"), "{words}");
    fs::set_permissions(mine.join("raw.img"), Permissions::from_mode(0o000)).unwrap();
    assert!(DiskImage::open(&mine.join("raw.img"), &quiet).is_err());
}

#[test]
fn no_space_is_an_error_that_names_the_file_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    small_disk(&directory.path().join("raw.img"));
    zstd(&directory.path().join("raw.img"));
    let before: Vec<_> = ["raw.img", "raw.img.zst"].map(|name| fingerprint(&directory.path().join(name))).into();
    // A limit on the size of files stands in for a full disk: both fail in the middle of writing.
    must_pass(&child("without_space", &["prlimit", "--fsize=9000000"], directory.path()));
    assert_eq!(names(directory.path()), ["raw.img", "raw.img.zst"]);
    for (name, before) in ["raw.img", "raw.img.zst"].iter().zip(before) {
        assert!(fingerprint(&directory.path().join(name)) == before, "{name}");
    }
}

#[test]
#[ignore = "run under a limit by no_space_is_an_error_that_names_the_file_and_leaves_nothing"]
fn without_space() {
    let Some(directory) = directory() else { return };
    sys::harden();
    for (from, destination, want) in [
        ("raw.img", in_place(), "writing D/raw.img"),
        ("raw.img", new_file(&directory.join("out.img")), "writing D/out.img"),
        ("raw.img.zst", in_place(), "writing the decompressed D/raw.img.zst in D"),
        ("raw.img.zst", new_file(&directory.join("out.img")), "writing the decompressed D/raw.img.zst in D"),
    ] {
        let error = commit(&directory.join(from), &destination).unwrap_err();
        assert_eq!(error.to_string().replace(directory.to_str().unwrap(), "D"), want);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "File too large (os error 27)");
    }
}

#[test]
fn no_space_for_frames_is_an_error_that_names_the_place_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw.img");
    // Nothing but noise, and what tells a disk: compressed, it has more bytes than before.
    let mut disk = noise(7 << 20);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&raw, disk).unwrap();
    zstd(&raw);
    let limit = format!("--fsize={}", 7 * MIB);
    must_pass(&child("without_space_for_frames", &["prlimit", &limit], directory.path()));
    assert_eq!(names(directory.path()), ["raw.img", "raw.img.zst"]);
}

#[test]
#[ignore = "run under a limit by no_space_for_frames_is_an_error_that_names_the_place_and_leaves_nothing"]
fn without_space_for_frames() {
    let Some(directory) = directory() else { return };
    sys::harden();
    for destination in [in_place(), new_file(&directory.join("out.img.zst"))] {
        let error = commit(&directory.join("raw.img.zst"), &destination).unwrap_err();
        let words = error.to_string().replace(directory.to_str().unwrap(), "D");
        assert_eq!(words, "compressing what D/raw.img.zst holds, in D");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "File too large (os error 27)");
    }
}

#[test]
fn a_signal_removes_the_name_of_an_unfinished_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("unfinished"), "secret").unwrap();
    let output = child("ended_by_sigterm", &["env"], directory.path());
    assert_eq!(output.status.code(), Some(143), "it ends as a shell shows the signal");
    assert!(names(directory.path()).is_empty());
}

#[test]
#[ignore = "ends itself; run by a_signal_removes_the_name_of_an_unfinished_file"]
fn ended_by_sigterm() {
    let Some(directory) = directory() else { return };
    sys::end_cleanly_on_signals();
    let other = sys::RemoveOnSignal::new(Path::new("/nonexistent/other"));
    assert!(sys::RemoveOnSignal::new(Path::new("/nonexistent/second")).is_none(), "one at a time");
    drop(other);
    let _guard = sys::RemoveOnSignal::new(&directory.join("unfinished")).unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
}
