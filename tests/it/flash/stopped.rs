//! Signals at every write: the device is as it was, or has no table, or is done.

use std::fs;

use super::{Case, OLD, assert_no_table, assert_written, is_all};
use crate::kit::disk::zstd;

/// How many calls of each kind a run makes.
fn calls(case: &Case, image: &str, name: &'static str) -> usize {
    case.file("device", 28 << 20);
    case.flash(image, "device").traced(name).run().expect_code(0).trace().calls(name).len()
}

#[test]
fn a_signal_leaves_the_device_as_it_was_or_without_a_table_or_done() {
    let case = Case::small();
    zstd(&case.scratch.join("small.img"));
    let wanted = case.injected("small.img");
    for image in ["small.img", "small.img.zst"] {
        for name in ["pwrite64", "fdatasync"] {
            let calls = calls(&case, image, name);
            assert!(calls >= 3, "{calls}");
            for call in 1..=calls {
                for (signal, code) in [("INT", 130), ("TERM", 143), ("KILL", 137)] {
                    let device = case.file("device", 28 << 20);
                    let what = format!("{image}: SIG{signal} at {name} {call} of {calls}");
                    let run =
                        case.flash(image, "device").tampered(&format!("{name}:signal={signal}:when={call}")).run();
                    match run.shell_code() {
                        0 => assert_written(&device, &wanted, &what),
                        5 => {
                            assert_no_table(&device, &what);
                            assert!(run.stderr().contains("was stopped by a signal; device holds no"), "{what}");
                            assert!(run.stderr().contains("run the same command again"), "{what}");
                        }
                        137 if code == 137 => {
                            let found = fs::read(&device).unwrap();
                            let head = &found[..1 << 20];
                            // The very last call: the first MiB is there, and all else as well.
                            let done = head == &wanted[..1 << 20];
                            let untouched = is_all(head, OLD);
                            assert!(done || untouched || is_all(head, 0), "{what}");
                            if done {
                                assert!(found[..wanted.len()] == wanted, "{what}: it looks whole and is not");
                            }
                        }
                        other => {
                            assert_eq!(other, code, "{what}: {}", run.stderr());
                            assert!(is_all(&fs::read(&device).unwrap(), OLD), "{what}");
                        }
                    }
                }
            }
        }
        // And then it is finished by the same command.
        let device = case.file("device", 28 << 20);
        case.flash(image, "device").tampered("pwrite64:signal=TERM:when=4").run().expect_code(5);
        case.flash(image, "device").run().expect_code(0);
        let found = fs::read(&device).unwrap();
        assert!(found[..wanted.len()] == wanted);
    }
}

#[test]
fn a_signal_before_the_first_write_ends_as_everywhere() {
    let case = Case::small();
    let device = case.file("device", 28 << 20);
    // The value is read, the image planned: nothing is written.
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let run = case.flash("small.img", "device").tampered(&format!("flock:signal={signal}:when=1")).run();
        assert_eq!(run.shell_code(), code, "{}", run.stderr());
        assert!(is_all(&fs::read(&device).unwrap(), OLD));
    }
}
