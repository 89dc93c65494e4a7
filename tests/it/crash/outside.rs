//! The program itself, seen from outside by strace: in which order it writes, and what is left when it is killed,
//! stopped or refused at each call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::bench::{Case, Change, Desk, Journal, Layout, NEW, TIME};
use super::judge::{Depth, Side, fsck, settled, side};
use super::log::{Op, flushes, prefixes};
use super::states::check;
use crate::kit::manifest::{Item, Manifest};
use crate::kit::mount::assert_fsck_clean;
use crate::kit::run::{Deaddrop, Finished};
use crate::kit::tree::Tree;
use crate::kit::{images, sha256_of};

/// The calls that change a file, and those that order them.
const CALLS: &str = "pwrite64,write,pwritev,writev,fsync,fdatasync,fallocate,ftruncate,fchmod,copy_file_range";

/// What strace shows of a string, as bytes.
fn unescaped(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = shown.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next().expect("an escape goes on") {
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            b'v' => bytes.push(0x0B),
            b'f' => bytes.push(0x0C),
            digit @ b'0'..=b'7' => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(digit) = rest.next_if(|byte| matches!(byte, b'0'..=b'7')) else { break };
                    value = value * 8 + u32::from(digit - b'0');
                }
                bytes.push(value as u8);
            }
            other => bytes.push(other),
        }
    }
    bytes
}

/// The operations on the file of this name, in order; any other call that changes it is a failure. The second is how
/// many came before its mode was changed.
fn operations(run: &Finished, name: &str) -> (Vec<Op>, Option<usize>) {
    let mut log = Vec::new();
    let mut narrowed = None;
    for line in run.trace().lines() {
        let Some((call, rest)) = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').split_once('(')
        else {
            continue;
        };
        let Some((file, rest)) = rest.split_once('>') else { continue };
        if !file.ends_with(&format!("/{name}")) {
            continue;
        }
        match call {
            "pwrite64" => {
                let (start, end) = (rest.find('"').unwrap() + 1, rest.rfind('"').unwrap());
                assert!(!rest[end..].starts_with("\"..."), "strace shows all of it");
                let bytes = unescaped(&rest[start..end]);
                let numbers: Vec<&str> = rest[end + 1..].trim_start_matches(", ").split([',', ')']).collect();
                assert_eq!(numbers[0].parse(), Ok(bytes.len()), "{}", &rest[end..]);
                log.push(Op::Write(numbers[1].trim().parse().unwrap(), bytes));
            }
            "fdatasync" => log.push(Op::Flush),
            "fchmod" => narrowed = Some(log.len()),
            "execve" | "openat" | "pread64" | "read" => {}
            other => panic!("{other} on the image"),
        }
    }
    (log, narrowed)
}

#[test]
fn it_writes_in_the_order_that_is_proven_and_only_within_its_partition() {
    let manifest = Manifest::new(vec![
        Item::new("one", "/etc/secrets/one").bytes(&super::bench::value(NEW, 1, 1)),
        Item::new("many", "/srv/new/many").bytes(&super::bench::value(NEW, 2, 1000)),
    ]);
    let layout = images::RAW_EFI;
    let image = layout.committed(&manifest.scratch);
    fs::set_permissions(&image.path, fs::Permissions::from_mode(0o644)).unwrap();
    let before = fs::read(&image.path).unwrap();
    let run = manifest.deaddrop(&["inject", "raw-efi.img"]).traced(CALLS).run().expect_code(0);
    let (log, narrowed) = operations(&run, "raw-efi.img");
    assert_eq!(narrowed, Some(0), "its mode is 0600 before the first write");
    assert_eq!(flushes(&log), 5);
    assert!(matches!(log.last(), Some(Op::Flush)));

    // The partition, cut out, and the log's offsets in it.
    let start = layout.root_offset;
    let after = fs::read(&image.path).unwrap();
    let mut inside = Vec::new();
    for op in &log {
        inside.push(match op {
            Op::Flush => Op::Flush,
            Op::Write(offset, bytes) => Op::Write(offset.checked_sub(start).expect("not before it"), bytes.clone()),
        });
    }
    let blocks = u32::from_le_bytes(before[start as usize + 1024 + 4..][..4].try_into().unwrap());
    let block_size = 1024_usize << before[start as usize + 1024 + 0x18];
    let size = blocks as usize * block_size;
    for op in &inside {
        if let Op::Write(offset, bytes) = op {
            assert!(*offset as usize + bytes.len() <= size, "beyond the file system");
        }
    }
    assert!(
        before[..start as usize] == after[..start as usize]
            && before[start as usize + size..] == after[start as usize + size..]
    );
    let case = Case::new("raw-efi", before[start as usize..][..size].to_vec(), Vec::new(), None);
    let all = prefixes(&inside).pop().unwrap().image(&case.base, &inside);
    assert!(all == after[start as usize..][..size], "strace saw every write");

    // 1 and 2: values, log; 3: the flag; then flush, point, flush, home, flush, empty, flush, flag, log, flush.
    let point = case.commit_point(&inside);
    let kinds: Vec<char> = inside
        .iter()
        .enumerate()
        .map(|(index, op)| match op {
            Op::Flush => '|',
            Op::Write(1024, _) => 's',
            Op::Write(offset, _) if *offset == case.journal_at() => {
                if index == point {
                    'P'
                } else {
                    'E'
                }
            }
            Op::Write(offset, _) if case.journal.contains(&(offset / block_size as u64)) => 'l',
            Op::Write(..) => 'b',
        })
        .collect();
    let mut shape: Vec<char> = kinds.clone();
    shape.dedup();
    assert_eq!(shape.into_iter().collect::<String>(), "bls|P|b|E|sl|");
    for state in prefixes(&inside) {
        assert!(!case.in_journal(&state.image(&case.base, &inside), NEW), "{state:?}: a value in the journal");
    }
    assert_fsck_clean(&image);
    manifest.assert_in(&image, &Tree::of(&image));
}

/// A small image, and a manifest for all of its values.
struct Bench {
    case: Case,
    manifest: Manifest,
}

const NAME: &str = "node.img";

impl Bench {
    fn new(layout: Layout) -> Self {
        let case = layout.make();
        let leak = |text: String| -> &'static str { text.leak() };
        let item = |(number, value): (usize, &super::bench::Value)| {
            Item::new(leak(format!("value-{number}")), leak(value.path.clone()))
                .bytes(value.new.as_ref().expect("a value that is not removed"))
        };
        let manifest = Manifest::new(case.values.iter().enumerate().map(item).collect());
        let bench = Self { case, manifest };
        bench.renew();
        bench
    }

    fn path(&self) -> PathBuf {
        self.manifest.scratch.join(NAME)
    }

    fn renew(&self) {
        let path = self.path();
        let _ = fs::remove_file(&path);
        fs::write(&path, &self.case.base).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn image(&self) -> Arc<Vec<u8>> {
        Arc::new(fs::read(self.path()).unwrap())
    }

    /// A run at a fixed time: else which blocks change depends on the second that it is.
    fn deaddrop(&self, args: &[&str]) -> Deaddrop<'_> {
        self.manifest.deaddrop(args).env("SOURCE_DATE_EPOCH", TIME.to_string())
    }

    fn inject(&self, tampering: &str) -> Finished {
        self.deaddrop(&["inject", NAME]).tampered(tampering).run()
    }

    /// The next run, which makes all new whatever was before it, and leaves nothing.
    fn assert_next_run_finishes(&self, what: &str, desk: &Desk) {
        self.deaddrop(&["inject", NAME]).run().expect_code(0);
        let image = self.image();
        assert_eq!(side(&self.case, &image), Ok(Side::New), "{what}: after the next run");
        settled(&self.case, &image).unwrap_or_else(|e| panic!("{what}: after the next run: {e}"));
        fsck(&image, desk).unwrap_or_else(|e| panic!("{what}: after the next run: {e}"));
    }

    /// The calls of this name on the image, by number from 1, in a run that is not disturbed. Panics when there are
    /// others: strace counts them all.
    fn calls(&self, log: &[Op]) -> [(&'static str, usize); 2] {
        [("pwrite64", log.len() - flushes(log)), ("fdatasync", flushes(log))]
    }
}

/// Two values: one new, one that takes another's place.
const SMALL: Layout = Layout {
    name: "small",
    arguments: "-t ext4 -b 4096 -J size=4",
    size: "12M",
    journal: Journal::Features(16 | 2),
    change: Change::Mixed,
    values: 2,
    spare: None,
    labelled: false,
};

#[test]
fn what_strace_sees_is_what_the_other_tests_cut_off() {
    let bench = Bench::new(SMALL);
    let run = bench.deaddrop(&["inject", NAME]).traced(CALLS).run().expect_code(0);
    let (log, narrowed) = operations(&run, NAME);
    assert_eq!(narrowed, Some(0));
    let desk = Desk::new();
    let mut case = Layout { ..SMALL }.make();
    // The manifest has no change of mode.
    case.modes = None;
    for state in prefixes(&log) {
        check(&case, &log, &state, Depth::Light, &desk).unwrap_or_else(|e| panic!("{state:?}: {e}"));
    }
}

/// The log of an undisturbed run, and the number of the write that commits, from 1.
fn undisturbed(bench: &Bench) -> (Vec<Op>, usize) {
    let run = bench.deaddrop(&["inject", NAME]).traced(CALLS).run().expect_code(0);
    let (log, _) = operations(&run, NAME);
    let point = bench.case.commit_point(&log);
    bench.renew();
    let number = log[..=point].iter().filter(|op| matches!(op, Op::Write(..))).count();
    (log, number)
}

#[test]
fn killed_at_each_call_the_next_run_finishes() {
    let mut bench = Bench::new(SMALL);
    bench.case.modes = None;
    let (log, point) = undisturbed(&bench);
    let desk = Desk::new();
    let mut sides = Vec::new();
    for (call, count) in bench.calls(&log).into_iter().chain([("fchmod", 1)]) {
        for number in 1..=count {
            let what = format!("killed at {call} {number} of {count}");
            let run = bench.inject(&format!("{call}:signal=SIGKILL:when={number}"));
            assert_eq!(run.status().signal(), Some(9), "{what}");
            let found = side(&bench.case, &bench.image()).unwrap_or_else(|e| panic!("{what}: {e}"));
            if call == "pwrite64" {
                assert!(number >= point || found == Side::Old, "{what}: new before the commit point");
                assert!(number <= point || found == Side::New, "{what}: old after the commit point");
            }
            sides.push(found);
            bench.assert_next_run_finishes(&what, &desk);
            bench.renew();
        }
    }
    assert!(sides.contains(&Side::Old) && sides.contains(&Side::New));
    eprintln!("killed at {} calls", sides.len());
}

#[test]
fn killed_at_each_call_an_output_is_whole_or_not_there() {
    let mut bench = Bench::new(SMALL);
    bench.case.modes = None;
    let before = sha256_of(&bench.path());
    let out = bench.manifest.scratch.join("out.img");
    let args = ["inject", NAME, "-o", "out.img"];
    let all = "openat,ioctl,copy_file_range,pwrite64,ftruncate,fsync,linkat";
    let run = bench.deaddrop(&args).traced(all).run().expect_code(0);
    // Only those from the output's on: before, nothing is there.
    let counts: Vec<(&str, usize)> = ["copy_file_range", "pwrite64", "ftruncate", "fsync", "linkat"]
        .into_iter()
        .map(|call| (call, run.trace().calls(call).len()))
        .collect();
    assert!(counts.iter().any(|(call, count)| *call == "pwrite64" && *count > 10), "{counts:?}");
    let desk = Desk::new();
    let mut tried = 0;
    for (call, count) in counts {
        for number in (1..=count).step_by(count.div_ceil(40).max(1)) {
            let _ = fs::remove_file(&out);
            let what = format!("-o, killed at {call} {number} of {count}");
            let injection = format!("{call}:signal=SIGKILL:when={number}");
            let run = bench.deaddrop(&args).tampered(&injection).run();
            // strace counts in each thread: those of another than the main one are fewer.
            if run.status().signal() == Some(9) {
                tried += 1;
            }
            if let Ok(bytes) = fs::read(&out) {
                let image = Arc::new(bytes);
                assert_eq!(side(&bench.case, &image), Ok(Side::New), "{what}");
                settled(&bench.case, &image).unwrap_or_else(|e| panic!("{what}: {e}"));
                fsck(&image, &desk).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600, "{what}");
            }
            assert_eq!(sha256_of(&bench.path()), before, "{what}: the input was touched");
            let others: Vec<String> = fs::read_dir(bench.manifest.scratch.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.starts_with(".deaddrop"))
                .collect();
            assert!(others.is_empty(), "{what}: left beside it: {others:?}");
        }
    }
    assert!(tried > 15, "{tried} runs were killed");
    eprintln!("-o: killed at {tried} calls");
}

#[test]
fn stopped_during_the_commit_it_finishes() {
    let mut bench = Bench::new(SMALL);
    bench.case.modes = None;
    let (log, _) = undisturbed(&bench);
    let desk = Desk::new();
    for (call, count) in bench.calls(&log) {
        for number in (1..=count).step_by(3) {
            let signal = if number % 2 == 0 { "SIGINT" } else { "SIGTERM" };
            let what = format!("{signal} at {call} {number}");
            bench.inject(&format!("{call}:signal={signal}:when={number}")).expect_code(0);
            let image = bench.image();
            assert_eq!(side(&bench.case, &image), Ok(Side::New), "{what}");
            settled(&bench.case, &image).unwrap_or_else(|e| panic!("{what}: {e}"));
            fsck(&image, &desk).unwrap_or_else(|e| panic!("{what}: {e}"));
            bench.renew();
        }
    }
}

#[test]
fn an_error_at_each_call_leaves_the_image_as_it_was_or_is_told_as_half_done() {
    let mut bench = Bench::new(SMALL);
    bench.case.modes = None;
    let (log, point) = undisturbed(&bench);
    let before = sha256_of(&bench.path());
    let desk = Desk::new();
    for (call, count) in bench.calls(&log) {
        for number in 1..=count {
            for (error, when) in [("EIO", ""), ("ENOSPC", "+")] {
                let what = format!("{error} at {call} {number}{when} of {count}");
                let run = bench.inject(&format!("{call}:error={error}:when={number}{when}"));
                let for_ever = !when.is_empty();
                // The write that commits, and its flush, are taken back if that is possible.
                let half_done = match call {
                    "pwrite64" => number > point || (number == point && for_ever),
                    _ => number > 2 || (number == 2 && for_ever),
                };
                let code = run.code();
                assert_eq!(code, Some(if half_done { 5 } else { 1 }), "{what}: {}", run.stderr());
                let mode = fs::metadata(bench.path()).unwrap().permissions().mode() & 0o777;
                let same = sha256_of(&bench.path()) == before;
                if !half_done && (!for_ever || call == "fdatasync") {
                    assert!(same && mode == 0o644, "{what}: mode {mode:o}, the same: {same}");
                }
                if !half_done && !same {
                    // A new value may be in it: it is for nobody else to read.
                    assert_eq!(mode, 0o600, "{what}");
                }
                let found = side(&bench.case, &bench.image()).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(half_done || found == Side::Old, "{what}: {found:?}");
                if half_done {
                    bench.manifest.deaddrop_alone(&["recover", NAME]).run().expect_code(0);
                    let image = bench.image();
                    fsck(&image, &desk).unwrap_or_else(|e| panic!("{what}: after recover: {e}"));
                    assert_eq!(side(&bench.case, &image), Ok(found), "{what}: after recover");
                }
                bench.assert_next_run_finishes(&what, &desk);
                bench.renew();
            }
        }
    }
}

#[test]
fn a_hash_that_is_replaced_is_nowhere() {
    let hashed =
        |value: &[u8]| Item::new("admin", "/etc/secrets/admin").bytes(value).keys("hash: yescrypt").hashed("$y$j");
    let mut manifest = Manifest::new(vec![hashed(b"first password")]);
    let image = images::NONE.committed(&manifest.scratch);
    manifest.deaddrop(&["inject", "none.img"]).run().expect_code(0);
    let old = Tree::of(&image);
    assert!(old.0.contains_key("/etc/secrets/admin"));
    let hash = crate::kit::mount::debugfs(&image, &["cat /etc/secrets/admin".to_owned()]).concat();
    assert!(hash.len() > 30);
    manifest.replace(hashed(b"second password"));
    for out in [Some("out.img"), None] {
        let args: Vec<&str> =
            ["inject", "none.img"].into_iter().chain(out.into_iter().flat_map(|out| ["-o", out])).collect();
        manifest.deaddrop(&args).run().expect_code(0);
        let written = fs::read(manifest.scratch.join(out.unwrap_or("none.img"))).unwrap();
        assert_eq!(super::bench::count(&written, hash.trim().as_bytes()), 0, "{out:?}: the whole hash");
        assert_eq!(super::bench::count(&written, &hash.trim().as_bytes()[..24]), 0, "{out:?}: its salt");
    }
}
