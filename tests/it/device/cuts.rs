//! A rewrite with an undo file, cut off at every place that a power cut can find: what `restore` makes of it is old or
//! new, clean to e2fsck, and a second run ends with all new. And the same judge finds what is broken on purpose.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::{Tree, TreeChange};
use deaddrop_image::device::{ReadAt, Section};
use deaddrop_image::ext4::Ext4;
use deaddrop_image::journal::commit::Medium;
use deaddrop_image::table::Table;
use deaddrop_image::undo::{Disk, restore};
use sha2::{Digest, Sha256};

use crate::kit::ext4::{Image, pattern, time, tree, write};

/// Where the file system starts on the device; some bytes of another's lie before it.
const START: u64 = 64 << 10;
const SECTOR: usize = 512;

/// What reached the medium, each with the undo file as it was just before.
type Events = Vec<(Event, Option<Vec<u8>>)>;

enum Event {
    Write(u64, Vec<u8>),
    Flush,
}

/// A device in memory.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl ReadAt for Memory {
    fn size(&self) -> u64 {
        self.0.lock().unwrap().size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.lock().unwrap().read_exact_at(offset, buf)
    }
}

/// Writes to a device, and keeps a record.
struct Recorder<'a> {
    device: &'a Memory,
    directory: &'a Path,
    events: Events,
    /// Fails after so many events.
    budget: usize,
}

impl Recorder<'_> {
    fn note(&mut self, event: Event) -> io::Result<()> {
        if self.events.len() == self.budget {
            return Err(io::Error::other("the cable was pulled"));
        }
        self.events.push((event, undo_file(self.directory)));
        Ok(())
    }
}

impl Medium for Recorder<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.note(Event::Write(offset, bytes.to_vec()))?;
        apply(&mut self.device.0.lock().unwrap(), offset, bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.note(Event::Flush)
    }
}

fn undo_file(directory: &Path) -> Option<Vec<u8>> {
    let entry = fs::read_dir(directory).unwrap().next()?.unwrap();
    Some(fs::read(entry.path()).unwrap())
}

const UNDO: &str = "deaddrop-2b6a8c1e-0000-4000-8000-000000000002.undo";

/// A device, and the directory of its undo file.
struct Bench {
    directory: tempfile::TempDir,
    device: Memory,
}

impl Bench {
    fn new(device: &[u8], undo: Option<&[u8]>) -> Self {
        let device = Memory(Arc::new(Mutex::new(device.to_vec())));
        // In memory where that is possible: every state syncs its undo file a few times.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let bench = Self { directory, device };
        if let Some(undo) = undo {
            let path = bench.undo().join(UNDO);
            fs::write(&path, undo).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        bench
    }

    fn undo(&self) -> &Path {
        self.directory.path()
    }

    fn ext4(&self) -> Result<Ext4, StorageError> {
        let device: Arc<dyn ReadAt> = Arc::new(self.device.clone());
        let size = device.size() - START;
        Ext4::open(Arc::new(Section::new(device, START, size).unwrap()))
    }

    fn recorder(&self, budget: usize) -> Recorder<'_> {
        Recorder { device: &self.device, directory: self.undo(), events: Vec::new(), budget }
    }

    /// Runs a change to its end, or to where the budget ends. The record, and how it went.
    fn rewrite(&self, changes: &[TreeChange], budget: usize) -> (Events, Result<(), StorageError>) {
        let mut ext4 = self.ext4().unwrap();
        ext4.apply(changes, time()).unwrap();
        let mut medium = self.recorder(budget);
        let mut disk = disk(&self.device, &mut medium);
        let result = ext4.rewrite().unwrap().commit(&mut disk, self.undo(), START, 7);
        (medium.events, result)
    }

    fn restore(&self, budget: usize) -> Result<bool, StorageError> {
        let device: Arc<dyn ReadAt> = Arc::new(self.device.clone());
        let mut partitions = Table::read(&device, "device").unwrap().partitions;
        // The device has no table, and the file system does not begin where it does.
        let partition = partitions.first_mut().unwrap();
        (partition.start, partition.size) = (START, device.size() - START);
        let mut medium = self.recorder(budget);
        restore(&mut disk(&self.device, &mut medium), &partitions, self.undo())
    }

    fn bytes(&self) -> Vec<u8> {
        self.device.0.lock().unwrap().clone()
    }
}

fn disk<'a>(device: &'a Memory, medium: &'a mut Recorder<'_>) -> Disk<'a> {
    Disk { name: "device", path: Path::new("/dev/bench"), reader: device, medium }
}

/// One way to lay out the file system, and how its journal is.
struct Case {
    name: &'static str,
    options: &'static str,
    dirty: bool,
}

const CASES: [Case; 5] = [
    Case { name: "ext2, 1 KiB", options: "-t ext2 -b 1024", dirty: false },
    Case {
        name: "no journal, 4 KiB, checksums",
        options: "-t ext4 -b 4096 -O ^has_journal,metadata_csum",
        dirty: false,
    },
    Case { name: "no journal, 2 KiB", options: "-t ext4 -b 2048 -O ^has_journal,^metadata_csum", dirty: false },
    Case { name: "journal, 1 KiB", options: "-t ext4 -b 1024 -O 64bit -J size=1", dirty: false },
    Case { name: "dirty journal, 1 KiB", options: "-t ext4 -b 1024 -O ^metadata_csum -J size=1", dirty: true },
];

impl Case {
    fn device(&self) -> Vec<u8> {
        let tree = tree(0);
        let image = Image::make(self.options, "3M", Some(tree.path()));
        if self.dirty {
            // The block of a file that nobody changes, as it is: to be replayed all the same.
            let shown = image.debugfs(&["blocks /etc/file-20".to_owned()]);
            let block = shown.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
            image.leave_transaction("jo", block, &[b'J'; 1024]);
        }
        let mut device = vec![0x5A; START as usize];
        device.extend(image.bytes());
        device
    }

    fn changes(&self) -> Vec<TreeChange> {
        vec![
            write("/etc/secrets/old-small", b"NEW-SMALL", 0o400, 0, 0),
            write("/etc/secrets/old-large", &pattern(9000, 9), 0o400, 0, 0),
            write("/etc/secrets/one-more", b"NEW-ONE", 0o440, 3, 4),
        ]
    }
}

/// What the files of the change hold: all old, all new, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Old,
    New,
}

fn holds(bench: &Bench, changes: &[TreeChange]) -> Result<Holds, String> {
    let ext4 = bench.ext4().map_err(|error| error.to_string())?;
    ext4.check_writable().map_err(|error| error.to_string())?;
    let old = [Some(b"OLD-VALUE-SMALL".to_vec()), Some(b"OLD-VALUE-LARGE ".repeat(8000)), None];
    let read = |change: &TreeChange| -> Result<Option<Vec<u8>>, StorageError> {
        let mut node = ext4.root()?;
        for component in change.path().split('/').skip(1) {
            let Some((next, _)) = ext4.child(&node, component.as_bytes())? else { return Ok(None) };
            node = next;
        }
        Ok(ext4.read(&node, 1 << 20)?.map(|content| content.expose().to_vec()))
    };
    let now: Result<Vec<_>, StorageError> = changes.iter().map(read).collect();
    let now = now.map_err(|error| error.to_string())?;
    let new = |change: &TreeChange| match change {
        TreeChange::WriteFile { content, .. } => Some(content.expose().to_vec()),
        _ => None,
    };
    if now == old {
        Ok(Holds::Old)
    } else if now == changes.iter().map(new).collect::<Vec<_>>() {
        Ok(Holds::New)
    } else {
        Err("some files are old, some new, some neither".into())
    }
}

/// e2fsck's word on the file system.
fn fsck(device: &[u8]) -> Result<(), String> {
    let image = Image::empty();
    fs::write(&image.path, &device[START as usize..]).unwrap();
    // Replays a journal, and repairs nothing that it would have to ask for.
    let preen = std::process::Command::new("e2fsck").arg("-p").arg(&image.path).output().unwrap();
    if preen.status.code() > Some(1) {
        return Err(String::from_utf8_lossy(&preen.stdout).into_owned());
    }
    match image.fsck() {
        (0, said) if said.is_empty() => Ok(()),
        (code, said) => Err(format!("e2fsck ends with {code}: {said:?}")),
    }
}

/// A state that a cut can leave: the device, and the undo file.
#[derive(Clone)]
struct State {
    device: Vec<u8>,
    undo: Option<Vec<u8>>,
}

/// Judges states, each different result once.
struct Judge<'a> {
    changes: &'a [TreeChange],
    known: BTreeSet<[u8; 32]>,
    states: usize,
    ended: [usize; 2],
}

impl<'a> Judge<'a> {
    fn new(changes: &'a [TreeChange]) -> Self {
        Self { changes, known: BTreeSet::new(), states: 0, ended: [0, 0] }
    }

    /// Restores a state; what is wrong with what comes out.
    fn judge(&mut self, state: &State) -> Result<(), String> {
        self.states += 1;
        let bench = Bench::new(&state.device, state.undo.as_deref());
        self.refuses_or_is_whole(&bench)?;
        bench.restore(usize::MAX).map_err(|error| format!("restoring: {error}"))?;
        if undo_file(bench.undo()).is_some() {
            return Err("the undo file is still there".into());
        }
        let result = bench.bytes();
        if result[..START as usize] != state.device[..START as usize] {
            return Err("it wrote beside the file system".into());
        }
        let ended = holds(&bench, self.changes)?;
        self.ended[usize::from(ended == Holds::New)] += 1;
        if self.known.insert(Sha256::digest(&result).into()) {
            fsck(&result)?;
            let (_, done) = bench.rewrite(self.changes, usize::MAX);
            done.map_err(|error| format!("the second run: {error}"))?;
            if holds(&bench, self.changes)? != Holds::New || undo_file(bench.undo()).is_some() {
                return Err("the second run did not end with all new".into());
            }
            fsck(&bench.bytes())?;
        }
        Ok(())
    }

    /// Who does not know of the undo file must not take a device that is half changed for a sound one.
    fn refuses_or_is_whole(&self, bench: &Bench) -> Result<(), String> {
        match bench.ext4().and_then(|ext4| ext4.check_writable()) {
            Err(_) => Ok(()),
            Ok(()) => holds(bench, self.changes)
                .and_then(|_| fsck(&bench.bytes()))
                .map_err(|what| format!("half changed, and says that it is clean: {what}")),
        }
    }
}

/// A small generator of numbers (xorshift64), so that a seed gives the same states everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn apply(device: &mut [u8], offset: u64, bytes: &[u8]) {
    device[offset as usize..][..bytes.len()].copy_from_slice(bytes);
}

/// Visits every prefix of the record, its last write whole and torn at every 512 bytes, and seeded subsets of the
/// writes since the last flush, torn as well.
fn visit_states(base: &[u8], events: &Events, subsets: usize, seed: u64, visit: &mut dyn FnMut(&State)) {
    let mut durable = base.to_vec();
    let mut now = base.to_vec();
    let mut pending: Vec<(u64, &[u8])> = Vec::new();
    let mut random = Random(seed);
    for (event, undo) in events {
        let mut state = State { device: now.clone(), undo: undo.clone() };
        visit(&state);
        match event {
            Event::Write(offset, bytes) => {
                for length in (SECTOR..bytes.len()).step_by(SECTOR) {
                    apply(&mut state.device, *offset, &bytes[..length]);
                    visit(&state);
                }
                apply(&mut now, *offset, bytes);
                pending.push((*offset, bytes));
            }
            Event::Flush => {
                for _ in 0..subsets {
                    state.device.clone_from(&durable);
                    for (offset, bytes) in &pending {
                        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                            if random.below(2) == 0 {
                                apply(&mut state.device, offset + (index * SECTOR) as u64, sector);
                            }
                        }
                    }
                    visit(&state);
                }
                pending.clear();
                durable.clone_from(&now);
            }
        }
    }
}

#[test]
fn cut_anywhere_it_is_old_or_new_and_clean() {
    let subsets = std::env::var("DEADDROP_CRASH_STATES").map_or(12, |count| count.parse().unwrap());
    for (case, seed) in CASES.iter().zip(1..) {
        let base = case.device();
        let changes = case.changes();
        let bench = Bench::new(&base, None);
        let (events, result) = bench.rewrite(&changes, usize::MAX);
        result.unwrap();
        assert!(undo_file(bench.undo()).is_none(), "{}", case.name);
        assert_eq!(holds(&bench, &changes), Ok(Holds::New), "{}", case.name);
        fsck(&bench.bytes()).unwrap_or_else(|said| panic!("{}: {said}", case.name));
        let mut judge = Judge::new(&changes);
        let mut judged = |state: &State| {
            let index = judge.states;
            judge.judge(state).unwrap_or_else(|what| panic!("{}, seed {seed}, state {index}: {what}", case.name));
        };
        let mut first_use = None;
        visit_states(&base, &events, subsets, seed, &mut |state| {
            if first_use.is_none() && state.undo.is_some() {
                first_use = Some(state.clone());
            }
            judged(state);
        });
        let State { device: before, undo: whole } = first_use.unwrap();
        let whole = whole.unwrap();
        // While the undo file is written: the device as it is before its first use.
        for length in [0, 1, 15, 16, 67, 68, 100, whole.len() / 2, whole.len() - 33, whole.len() - 1] {
            judged(&State { device: before.clone(), undo: Some(whole[..length].to_vec()) });
        }
        // While it is overwritten, and before that.
        for length in [0, 1, 512, whole.len() / 2, whole.len()] {
            let mut shredded = whole.clone();
            shredded[..length].fill(0);
            judged(&State { device: bench.bytes(), undo: Some(shredded) });
        }
        eprintln!("{}: {} states, {} ended old and {} new", case.name, judge.states, judge.ended[0], judge.ended[1]);
        assert!(judge.ended.iter().all(|count| *count > 0), "{}: both ends must occur", case.name);
    }
}

#[test]
fn taking_back_can_be_cut_as_well() {
    let case = &CASES[1];
    let (base, changes) = (case.device(), case.changes());
    let (events, _) = Bench::new(&base, None).rewrite(&changes, usize::MAX);
    let mut number = 0;
    visit_states(&base, &events, 3, 7, &mut |state| {
        number += 1;
        if state.undo.is_none() || number % 9 != 0 {
            return;
        }
        let whole = Bench::new(&state.device, state.undo.as_deref());
        whole.restore(usize::MAX).unwrap();
        for budget in 0.. {
            let bench = Bench::new(&state.device, state.undo.as_deref());
            if bench.restore(budget).is_ok() {
                break;
            }
            assert!(undo_file(bench.undo()).is_some(), "an undo file is kept until it is all done");
            Judge::new(&changes).refuses_or_is_whole(&bench).unwrap();
            bench.restore(usize::MAX).unwrap();
            assert!(bench.bytes() == whole.bytes(), "cut after {budget} events");
        }
    });
}

#[test]
fn an_error_before_the_device_is_half_changed_leaves_nothing_and_one_after_it_says_so() {
    for case in [&CASES[0], &CASES[4]] {
        let (base, changes) = (case.device(), case.changes());
        let (events, _) = Bench::new(&base, None).rewrite(&changes, usize::MAX);
        let mut half = 0;
        for budget in 0..events.len() {
            let bench = Bench::new(&base, None);
            match bench.rewrite(&changes, budget).1.unwrap_err() {
                error @ StorageError::HalfDone { .. } => {
                    half += 1;
                    assert!(
                        deaddrop::run::remedy::hint(&error).contains("deaddrop recover device --undo "),
                        "{}",
                        case.name
                    );
                    assert_eq!(bench.restore(usize::MAX).unwrap(), half > 1, "{}: {budget}", case.name);
                }
                StorageError::Io { .. } => {
                    assert_eq!(half, 0, "{}: {budget}", case.name);
                    assert!(undo_file(bench.undo()).is_none(), "{}: {budget}", case.name);
                }
                other => panic!("{}: {budget}: {other}", case.name),
            }
            assert_eq!(holds(&bench, &changes), Ok(Holds::Old), "{}: {budget}", case.name);
        }
        assert!(half > 5, "{}", case.name);
    }
}

/// The record of a commit that is broken on purpose must not pass.
#[test]
fn what_is_broken_on_purpose_is_found() {
    let case = &CASES[1];
    let (base, changes) = (case.device(), case.changes());
    let record = || Bench::new(&base, None).rewrite(&changes, usize::MAX).0;
    let fails = |events: &Events| {
        let mut judge = Judge::new(&changes);
        let mut failed = false;
        visit_states(&base, events, 20, 5, &mut |state| failed = failed || judge.judge(state).is_err());
        failed
    };
    assert!(!fails(&record()), "as it is, it passes");
    let flushes: Vec<usize> =
        record().iter().enumerate().filter(|(_, (event, _))| matches!(event, Event::Flush)).map(|(at, _)| at).collect();
    // The last flush keeps the undo file until the device is new; it is judged by the states below.
    for (name, at) in [("the mark", flushes[0]), ("the home writes", flushes[1])] {
        let mut events = record();
        events.remove(at);
        assert!(fails(&events), "without the flush after {name}");
    }
    let mut events = record();
    events.iter_mut().for_each(|(_, undo)| *undo = None);
    assert!(fails(&events), "without an undo file");
    let mut events = record();
    // The last write: the superblock as it is to be. Taken for the first, it clears the mark.
    let last = events.iter().rposition(|(event, _)| matches!(event, Event::Write(..))).unwrap();
    let write = events.remove(last);
    events.insert(flushes[0] + 1, write);
    assert!(fails(&events), "the mark cleared before the home writes");
    // A power cut in the last step, with the undo file gone already.
    let mut events = record();
    let undo_gone = flushes[1] + 1;
    events[undo_gone..].iter_mut().for_each(|(_, undo)| *undo = None);
    assert!(fails(&events), "the undo file removed before the last flush");
}
