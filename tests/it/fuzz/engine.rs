//! Runs a target case by case, and judges each: no panic, no hang, bounded memory.
//!
//! A case is its seed and its index. What is found is saved below target/fuzz-failures (the message, the input, the
//! same input with as few changes as still fail), and printed as a line that runs it again: `FUZZ_CASE=SEED:INDEX
//! scripts/fuzz TARGET`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};

use super::input::Input;
use super::rng::Rng;

/// The seed of the cases that every test run tries.
const SEED: u64 = 0x5EED;
/// Hostile input ends within this time.
const LONGEST: Duration = Duration::from_secs(10);
/// A case that waits instead of computing is given up after this time: the machine may just be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Address space that a long run may take on top of what it has when it is ready.
const SPACE: u64 = 600 << 20;

/// One kind of input, and what must hold for it.
pub trait Target {
    /// Draws an input.
    fn generate(&mut self, rng: &mut Rng) -> Input;

    /// Tries it; panics when something does not hold. Says in a word or two what became of it, for the statistics.
    fn run(&mut self, input: &Input) -> String;

    /// The bytes of an input, to be saved.
    fn bytes(&self, input: &Input) -> Vec<u8>;
}

/// A target's name, and how it is made.
pub type Entry = (&'static str, fn() -> Box<dyn Target>);

/// Runs the fixed first `cases` of a target.
pub fn short((name, make): Entry, cases: u64) {
    let mut target = make();
    let watch = Watch::new(name);
    for index in 0..cases {
        if let Err(found) = try_case(target.as_mut(), &watch, SEED, index) {
            let place = save(name, target.as_mut(), SEED, index, &found);
            panic!("{name}: {found}\nagain: FUZZ_CASE={SEED}:{index} scripts/fuzz {name}\nsaved: {}", place.display());
        }
    }
}

/// Runs a target for FUZZ_SECONDS with the seed FUZZ_SEED, or the one case FUZZ_CASE; prints what it took and what it
/// found.
pub fn long((name, make): Entry) {
    let mut target = make();
    let watch = Watch::new(name);
    if let Some((seed, index)) = one_case() {
        let outcome = try_case(target.as_mut(), &watch, seed, index);
        println!("{name}, seed {seed}, case {index}: {}", outcome.clone().unwrap_or_else(|found| found));
        assert!(outcome.is_ok());
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = Duration::from_secs(number("FUZZ_SECONDS").expect("FUZZ_SECONDS: a number"));
    let seed = number("FUZZ_SEED").expect("FUZZ_SEED: a number");
    bound_address_space();
    let start = Instant::now();
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut index = 0;
    while start.elapsed() < seconds {
        match try_case(target.as_mut(), &watch, seed, index) {
            Ok(outcome) => *outcomes.entry(outcome).or_default() += 1,
            Err(message) => {
                let times = found.entry(kind_of(&message)).or_default();
                *times += 1;
                if *times == 1 {
                    let place = save(name, target.as_mut(), seed, index, &message);
                    println!("FOUND: {name}: {message}");
                    println!("again: FUZZ_CASE={seed}:{index} scripts/fuzz {name}\nsaved: {}", place.display());
                }
            }
        }
        index += 1;
    }
    let (own, children) = (cpu_time(UsageWho::RUSAGE_SELF), cpu_time(UsageWho::RUSAGE_CHILDREN));
    let peak = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss()) / 1024;
    println!(
        "{name}: seed {seed}, {index} cases in {:.0} s; CPU {:.1} s and {:.1} s of e2fsck and others; peak {peak} MiB; \
         {} kinds of failure",
        start.elapsed().as_secs_f64(),
        own.as_secs_f64(),
        children.as_secs_f64(),
        found.len()
    );
    for (outcome, times) in &outcomes {
        println!("  {times:9}  {outcome}");
    }
    for (message, times) in &found {
        println!("  {times:9}  FAILED: {message}");
    }
    assert!(found.is_empty(), "{name}: see above");
}

/// FUZZ_CASE=SEED:INDEX.
fn one_case() -> Option<(u64, u64)> {
    let text = std::env::var("FUZZ_CASE").ok().filter(|text| !text.is_empty())?;
    let (seed, index) = text.split_once(':').expect("FUZZ_CASE: SEED:INDEX");
    Some((seed.parse().expect("FUZZ_CASE: a seed"), index.parse().expect("FUZZ_CASE: an index")))
}

/// A failure without its numbers: what makes two of them the same finding.
fn kind_of(message: &str) -> String {
    let line: String = message.lines().next().unwrap_or_default().chars().take(200).collect();
    line.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

fn try_case(target: &mut dyn Target, watch: &Watch, seed: u64, index: u64) -> Result<String, String> {
    watch.begin(seed, index);
    let input = caught(|| target.generate(&mut Rng::of_case(seed, index)))
        .map_err(|message| format!("making the input: {message}"))?;
    let outcome = caught(|| target.run(&input));
    let took = watch.end();
    match outcome {
        Ok(_) if took > LONGEST => Err(format!("took {took:?}")),
        other => other,
    }
}

thread_local! {
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; a panic comes back as its message and place.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.with_borrow(|catching| *catching) {
                let place = info.location().map_or(String::new(), |at| format!(" ({}:{})", at.file(), at.line()));
                let payload = info.payload();
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                MESSAGE.set(Some(format!("{text}{place}")));
            } else {
                before(info);
            }
        }));
    });
    CATCHING.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(false);
    result.map_err(|_| MESSAGE.take().unwrap_or_else(|| "a panic".into()))
}

thread_local! {
    static CATCHING: RefCell<bool> = const { RefCell::new(false) };
}

/// Ends the process when a case does not end. Leaves a note of the case that runs, in case the process is ended by
/// others.
struct Watch {
    name: &'static str,
    note: Option<File>,
    running: Arc<Mutex<Option<Running>>>,
    done: Arc<AtomicBool>,
}

#[derive(Clone, Copy)]
struct Running {
    seed: u64,
    index: u64,
    start: Instant,
    cpu: Duration,
}

impl Running {
    /// Time that counts: that on the clock, but no more than this process has computed.
    fn took(&self) -> Duration {
        self.start.elapsed().min(cpu_time(UsageWho::RUSAGE_SELF).saturating_sub(self.cpu))
    }
}

impl Watch {
    fn new(name: &'static str) -> Self {
        let running = Arc::new(Mutex::new(None::<Running>));
        let done = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&running), Arc::clone(&done));
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(200));
                let Some(case) = *seen.lock().unwrap() else { continue };
                if case.took() > 2 * LONGEST || case.start.elapsed() > PATIENCE {
                    let (seed, index) = (case.seed, case.index);
                    eprintln!("{name}: hangs\nagain: FUZZ_CASE={seed}:{index} scripts/fuzz {name}");
                    std::process::exit(101);
                }
            }
        });
        let note = std::env::var_os("FUZZ_NOTE").map(|path| File::create(path).expect("FUZZ_NOTE: a file"));
        Self { name, note, running, done }
    }

    fn begin(&self, seed: u64, index: u64) {
        if let Some(note) = &self.note {
            // Of a fixed length, so that nothing of an earlier one is left.
            let text = format!("FUZZ_CASE={seed}:{index:<20} {}\n", self.name);
            note.write_all_at(text.as_bytes(), 0).expect("writing FUZZ_NOTE");
        }
        let cpu = cpu_time(UsageWho::RUSAGE_SELF);
        *self.running.lock().unwrap() = Some(Running { seed, index, start: Instant::now(), cpu });
    }

    fn end(&self) -> Duration {
        self.running.lock().unwrap().take().map_or(Duration::ZERO, |case| case.took())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
    }
}

fn cpu_time(who: UsageWho) -> Duration {
    let Ok(usage) = getrusage(who) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// An allocation over the limit ends the process; FUZZ_NOTE then names the case.
fn bound_address_space() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
    let Some(kib) = size.and_then(|size| size.trim().parse::<u64>().ok()) else { return };
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).expect("reading a limit of ours");
    setrlimit(Resource::RLIMIT_AS, kib * 1024 + SPACE, hard).expect("lowering a limit of ours");
}

/// Writes a new file in the place of an old one. (Overwriting one makes some file systems wait for the disk.)
pub fn write_anew(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).expect("writing a file of ours");
}

/// Saves what failed, whole and with as few edits as still fail in the same way.
fn save(name: &str, target: &mut dyn Target, seed: u64, index: u64, message: &str) -> PathBuf {
    let place = failures().join(format!("{name}-{seed}-{index}"));
    fs::create_dir_all(&place).expect("making a directory for what failed");
    let Ok(input) = caught(|| target.generate(&mut Rng::of_case(seed, index))) else { return place };
    let mut text = format!("{message}\n\nFUZZ_CASE={seed}:{index} scripts/fuzz {name}\n");
    fs::write(place.join("input"), target.bytes(&input)).expect("saving what failed");
    let smallest = smaller(target, input, message);
    fs::write(place.join("smallest"), target.bytes(&smallest)).expect("saving what failed");
    let _ = writeln!(text, "\nbase {}, sealed {}, choice {}", smallest.base, smallest.sealed, smallest.choice);
    for edit in &smallest.edits {
        let _ = writeln!(text, "at {:#x}: {} bytes became {:02x?}", edit.at, edit.remove, edit.insert);
    }
    fs::write(place.join("message"), text).expect("saving what failed");
    place
}

/// Leaves out edits, in halves, quarters and so on, as long as it fails in the same way.
fn smaller(target: &mut dyn Target, mut input: Input, message: &str) -> Input {
    let wanted = kind_of(message);
    let start = Instant::now();
    let mut size = input.edits.len();
    while size > 0 {
        let mut at = 0;
        while at < input.edits.len() && start.elapsed() < Duration::from_secs(30) {
            let fewer = input.without(at..(at + size).min(input.edits.len()));
            match caught(|| target.run(&fewer)) {
                Err(found) if kind_of(&found) == wanted => input = fewer,
                _ => at += size,
            }
        }
        size /= 2;
    }
    input
}

fn failures() -> PathBuf {
    let given = std::env::var_os("FUZZ_FAILURES").map(PathBuf::from);
    given.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("../fuzz-failures"))
}
