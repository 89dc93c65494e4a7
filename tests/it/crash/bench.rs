//! Images with old values in them, and the changes that are cut off.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{Label, Stat, Tree, TreeChange};
use deaddrop_image::ext4::Ext4;
use deaddrop_image::journal::commit::Transaction;
use deaddrop_image::journal::{crc32c, put_be32};
use tempfile::TempDir;

use super::log::{Memory, Op, Recorder};
use crate::kit::mount::Mount;
use crate::kit::program;

/// Seconds since 1970 of every change.
pub const TIME: u64 = 1_700_000_000;

pub fn time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(TIME)
}

/// A directory in memory if there is one, for there is a lot to write.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("deaddrop-crash.").to_owned();
    builder().tempdir_in(memory).or_else(|_| builder().tempdir()).expect("making a scratch directory")
}

/// Runs one of e2fsprogs; panics when it fails.
pub fn tool(name: &str, arguments: &[&str]) -> String {
    let output = run(name, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

pub fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    command.args(arguments).env("LC_ALL", "C");
    command.output().unwrap_or_else(|error| panic!("running {name}: {error}"))
}

/// What the journal is before the change.
#[derive(Clone, Copy, PartialEq)]
pub enum Journal {
    /// As mke2fs leaves it: no features.
    Fresh,
    /// With these feature bits.
    Features(u32),
    /// With these feature bits, and a fast commit of earlier times behind the log: nobody clears it.
    Outdated(u32),
    /// As a mount of the kernel leaves it; as mke2fs does where there are no mounts.
    Mounted,
    /// With a transaction in it by debugfs, opened with these options.
    Pending(&'static str),
    /// A copy that was taken while the kernel had it mounted; with a pending transaction where there are no mounts.
    Live,
    /// The same, while files were open that had been deleted.
    Orphans,
}

/// What is changed.
#[derive(Clone, Copy, PartialEq)]
pub enum Change {
    /// New files in new directories.
    First,
    /// Old values replaced by ones of more blocks.
    Longer,
    /// Old values replaced by shorter ones.
    Shorter,
    /// All of it, files that are removed, and a change of mode.
    Mixed,
}

/// One kind of image, and what is done to it.
#[derive(Clone, Copy)]
pub struct Layout {
    pub name: &'static str,
    /// For mke2fs.
    pub arguments: &'static str,
    pub size: &'static str,
    pub journal: Journal,
    pub change: Change,
    /// How many values.
    pub values: usize,
    /// Blocks that stay free beside what the change needs; `None`: all that there are.
    pub spare: Option<u64>,
    /// What is written gets SELinux labels, some of them in blocks of their own.
    pub labelled: bool,
}

/// A value, before and after.
pub struct Value {
    pub path: String,
    pub old: Option<Vec<u8>>,
    pub new: Option<Vec<u8>>,
}

/// An image, and everything about one change to it.
pub struct Case {
    pub name: String,
    pub base: Vec<u8>,
    pub values: Vec<Value>,
    /// The mode of `/etc/file-3` before and after.
    pub modes: Option<(u32, u32)>,
    /// Whether the image before the change has old values in its journal.
    pub old_in_journal: bool,
    pub block_size: usize,
    /// The journal's blocks, its superblock first.
    pub journal: Vec<u64>,
    /// What is written gets SELinux labels.
    pub labelled: bool,
}

/// A value of `lines` lines that are found again: each is in no other value, and twice in none. No lines: a short
/// value.
pub fn value(tag: &str, number: usize, lines: usize) -> Vec<u8> {
    if lines == 0 {
        return format!("{tag}{number:03}-").into_bytes();
    }
    (0..lines)
        .flat_map(|line| format!("{tag}{number:03}-{line:06}-{:015x}\n", number * 7 + line).into_bytes())
        .collect()
}

pub const OLD: &str = "DDOLD";
pub const NEW: &str = "DDNEW";

impl Layout {
    fn values(&self) -> (Vec<Value>, Option<(u32, u32)>) {
        // 32 bytes a line: from less than a sector to some blocks.
        let sizes = [1, 0, 40, 3, 160, 300];
        let values = (0..self.values).map(|number| {
            let lines = sizes[number % sizes.len()];
            let (old, new) = match (self.change, number % 3) {
                (Change::Mixed, _) if number % 6 == 5 => (Some(lines), None),
                (Change::First, _) | (Change::Mixed, 0) => (None, Some(lines)),
                (Change::Longer, _) | (Change::Mixed, 1) => (Some(lines), Some(lines * 2 + 20)),
                (Change::Shorter, _) | (Change::Mixed, _) => (Some(lines * 2 + 20), Some(lines)),
            };
            let path = match old {
                None => format!("/etc/new/deep/value-{number}"),
                Some(_) => format!("/etc/secrets/value-{number}"),
            };
            Value {
                path,
                old: old.map(|lines| value(OLD, number, lines)),
                new: new.map(|lines| value(NEW, number, lines)),
            }
        });
        (values.collect(), (self.change == Change::Mixed).then_some((0o644, 0o640)))
    }

    /// Makes the image.
    pub fn make(&self) -> Case {
        let (values, modes) = self.values();
        let directory = scratch();
        let image = directory.path().join("image");
        let tree = directory.path().join("tree");
        plant(&tree, &values);
        self.mke2fs(&image, &tree);
        if let Some(spare) = self.spare {
            let facts = open(Arc::new(fs::read(&image).unwrap())).unwrap().summary();
            let block = facts.block_size;
            let need: u64 =
                values.iter().map(|value| (value.new.as_ref().map_or(0, Vec::len) as u64).div_ceil(block) + 1).sum();
            let filler = (facts.free_blocks - need - spare) * block;
            // One that is no run of zeros: those become holes.
            fs::write(tree.join("filler"), vec![b'f'; filler as usize]).unwrap();
            self.mke2fs(&image, &tree);
        }
        self.prepare_journal(&image, directory.path());
        let case = Case::new(self.name, fs::read(&image).unwrap(), values, modes);
        Case { labelled: self.labelled, ..case }
    }

    fn mke2fs(&self, image: &Path, tree: &Path) {
        let _ = fs::remove_file(image);
        let mut arguments = vec!["-q", "-F", "-m", "0"];
        let fixed = "-E hash_seed=2b6a8c1e-0000-4000-8000-000000000001 -U 2b6a8c1e-0000-4000-8000-000000000002";
        arguments.extend(fixed.split_whitespace());
        arguments.extend(self.arguments.split_whitespace());
        arguments.extend(["-d", tree.to_str().unwrap(), image.to_str().unwrap(), self.size]);
        tool("mke2fs", &arguments);
    }

    fn prepare_journal(&self, image: &Path, directory: &Path) {
        match self.journal {
            Journal::Fresh => {}
            Journal::Features(bits) => set_journal_features(image, bits),
            Journal::Outdated(bits) => {
                set_journal_features(image, bits);
                leave_outdated(image);
            }
            Journal::Mounted => {
                mounted(image, |_| {});
            }
            Journal::Pending(options) => leave_pending(image, directory, options),
            Journal::Live | Journal::Orphans => {
                let copy = directory.join("copy");
                let taken = mounted(image, |root| {
                    fs::write(root.join("etc/live"), "written while it was mounted").unwrap();
                    fs::remove_file(root.join("etc/file-2")).unwrap();
                    fs::create_dir(root.join("etc/live-directory")).unwrap();
                    let open: Vec<fs::File> = (0..if self.journal == Journal::Orphans { 4 } else { 0 })
                        .map(|number| {
                            let path = root.join(format!("etc/open-{number}"));
                            fs::write(&path, "of a file that is deleted while it is open\n".repeat(number * 700))
                                .unwrap();
                            let file = fs::File::open(&path).unwrap();
                            fs::remove_file(&path).unwrap();
                            file
                        })
                        .collect();
                    Command::new("sync").arg("-f").arg(root).status().unwrap();
                    fs::copy(image, &copy).unwrap();
                    drop(open);
                });
                match taken {
                    true => drop(fs::rename(copy, image)),
                    false => leave_pending(image, directory, "-c -v 3"),
                }
            }
        }
    }
}

/// A tree with files that stay, and the old values.
pub fn plant(tree: &Path, values: &[Value]) {
    for path in ["etc/secrets", "nix/store", "var/lib"] {
        fs::create_dir_all(tree.join(path)).unwrap();
    }
    for number in 0..24 {
        // Also: no directory on the way is so small that `inline_data` keeps it in its inode.
        for path in ["etc/file", "etc/secrets/standing"] {
            let file = tree.join(format!("{path}-{number}"));
            fs::write(&file, standing(number)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    for value in values {
        if let Some(old) = &value.old {
            fs::write(tree.join(&value.path[1..]), old).unwrap();
        }
    }
}

/// What files hold that are never changed.
fn standing(number: usize) -> Vec<u8> {
    format!("this file stays as it is, number {number}\n").repeat(number).into_bytes()
}

/// Mounts the image, lets `work` loose in it, unmounts it. False when this machine cannot.
pub fn mounted(image: &Path, work: impl FnOnce(&Path)) -> bool {
    mounted_with(image, "loop", work)
}

pub fn mounted_with(image: &Path, options: &str, work: impl FnOnce(&Path)) -> bool {
    let mount = Mount::with(image, &["-t", "ext4", "-o", options]);
    mount.map(|mount| work(mount.root())).is_ok()
}

/// The journal's blocks in their order, by debugfs.
fn journal_blocks(image: &Path) -> Vec<u64> {
    let said = tool("debugfs", &["-R", "blocks <8>", image.to_str().unwrap()]);
    said.split_whitespace().map(|number| number.parse().expect("debugfs prints block numbers")).collect()
}

/// Writes feature bits into an empty journal's superblock.
pub fn set_journal_features(image: &Path, bits: u32) {
    let mut bytes = fs::read(image).unwrap();
    let block_size = 1024 << bytes[1024 + 0x18];
    let at = journal_blocks(image)[0] as usize * block_size;
    let superblock = &mut bytes[at..at + 1024];
    put_be32(superblock, 0x28, bits);
    superblock[0x50] = if bits & 0x18 == 0 { 0 } else { 4 };
    put_be32(superblock, 0xFC, 0);
    if bits & 0x18 != 0 {
        let checksum = crc32c(!0, superblock);
        put_be32(superblock, 0xFC, checksum);
    }
    fs::write(image, bytes).unwrap();
}

/// Puts the head of a fast commit of transaction 77 into the journal's area for them.
fn leave_outdated(image: &Path) {
    let mut bytes = fs::read(image).unwrap();
    let block_size = 1024_usize << bytes[1024 + 0x18];
    let journal = journal_blocks(image);
    let at = journal[0] as usize * block_size;
    let field = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    // `s_maxlen` - `s_num_fc_blks` + 1.
    let first = journal[(field(at + 0x10) - field(at + 0x54) + 1) as usize] as usize * block_size;
    bytes[first..first + 12].copy_from_slice(&[9, 0, 8, 0, 0, 0, 0, 0, 77, 0, 0, 0]);
    fs::write(image, bytes).unwrap();
}

/// Leaves a transaction in the journal: it gives `/etc/file-20` another first block, of the same bytes as before but
/// one.
fn leave_pending(image: &Path, directory: &Path, options: &str) {
    let shown = image.to_str().unwrap();
    let blocks = tool("debugfs", &["-R", "blocks /etc/file-20", shown]);
    let block = blocks.split_whitespace().next().unwrap();
    let bytes = fs::read(image).unwrap();
    let block_size = 1024_usize << bytes[1024 + 0x18];
    let at = block.parse::<usize>().unwrap() * block_size;
    // Empty as far as anybody reads it: at home it is overwritten, and the replay brings it back.
    let right = directory.join("right");
    fs::write(&right, &bytes[at..at + block_size]).unwrap();
    let script = directory.join("script");
    fs::write(&script, format!("jo {options}\njw -b {block} {}\njc\n", right.display())).unwrap();
    tool("debugfs", &["-w", "-f", script.to_str().unwrap(), shown]);
    let mut bytes = fs::read(image).unwrap();
    bytes[at..at + block_size].fill(b'w');
    fs::write(image, bytes).unwrap();
}

/// Opens a whole image.
pub fn open(image: Arc<Vec<u8>>) -> Result<Ext4, StorageError> {
    Ext4::open(image)
}

impl Case {
    /// For an image that was made by other means.
    pub fn new(name: &str, base: Vec<u8>, values: Vec<Value>, modes: Option<(u32, u32)>) -> Self {
        let directory = scratch();
        let image = directory.path().join("image");
        fs::write(&image, &base).unwrap();
        let journal = journal_blocks(&image);
        let block_size = 1024 << base[1024 + 0x18];
        let mut case = Self {
            name: name.to_owned(),
            base,
            values,
            modes,
            old_in_journal: false,
            block_size,
            journal,
            labelled: false,
        };
        case.old_in_journal = case.in_journal(&case.base, OLD);
        case
    }

    /// The changes of one run.
    pub fn changes(&self) -> Vec<TreeChange> {
        let mut changes = Vec::new();
        // In the inode, and in a block of its own.
        let label = |length: usize| Label::new(vec![b'l'; length]).filter(|_| self.labelled);
        if self.values.iter().any(|value| value.old.is_none()) {
            for path in ["/etc/new", "/etc/new/deep"] {
                changes.push(TreeChange::MakeDirectory {
                    path: path.into(),
                    mode: 0o700,
                    uid: 0,
                    gid: 0,
                    label: label(40),
                });
            }
        }
        for (value, length) in self.values.iter().zip([30, 120].into_iter().cycle()) {
            let path = value.path.clone();
            changes.push(match &value.new {
                Some(new) => TreeChange::WriteFile {
                    path,
                    content: Secret::new(new.clone()),
                    mode: 0o400,
                    uid: 0,
                    gid: 0,
                    label: label(length),
                },
                None => TreeChange::RemoveFile { path },
            });
        }
        if let Some((_, mode)) = self.modes {
            changes.push(TreeChange::SetMetadata { path: "/etc/file-3".into(), mode, uid: 0, gid: 0 });
        }
        changes
    }

    /// The transaction that changes `image`.
    pub fn transaction(&self, image: &Arc<Vec<u8>>) -> Result<Transaction, StorageError> {
        let mut ext4 = open(Arc::clone(image))?;
        ext4.apply(&self.changes(), time())?;
        Ok(ext4.transaction()?.expect("the layouts have a journal"))
    }

    /// What its commit does, in order.
    pub fn log(&self) -> Vec<Op> {
        let transaction =
            self.transaction(&Arc::new(self.base.clone())).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        assert!(transaction.fits(), "{}: the change is larger than the journal", self.name);
        record(transaction)
    }

    /// Finishes or undoes what an earlier run left, and changes nothing else: as `recover` does.
    pub fn recover(&self, image: &mut Arc<Vec<u8>>) -> Result<(), String> {
        let ext4 = open(Arc::clone(image)).map_err(|e| format!("opening it: {e}"))?;
        let transaction = ext4.transaction().map_err(|e| format!("recovering it: {e}"))?;
        drop(ext4);
        commit(transaction, image)
    }

    /// Makes the changes, as a second run does.
    pub fn change(&self, image: &mut Arc<Vec<u8>>) -> Result<(), String> {
        commit(self.transaction(image).map(Some).map_err(|e| format!("changing it: {e}"))?, image)
    }

    /// True when a block of the journal holds `tag`.
    pub fn in_journal(&self, image: &[u8], tag: &str) -> bool {
        self.journal.iter().any(|number| {
            let at = *number as usize * self.block_size;
            count(&image[at..at + self.block_size], tag.as_bytes()) > 0
        })
    }

    /// Where the journal's superblock is, in bytes.
    pub fn journal_at(&self) -> u64 {
        self.journal[0] * self.block_size as u64
    }

    /// The places of writes that may tear a superblock.
    pub fn superblocks(&self) -> Vec<u64> {
        let block = if self.block_size == 1024 { 1024 } else { 0 };
        vec![1024, block, self.journal_at()]
    }

    /// The write of the log that is the commit point: the journal's superblock, its `s_start` (0x1C) not zero.
    pub fn commit_point(&self, log: &[Op]) -> usize {
        let is_it = |op: &Op| match op {
            Op::Write(offset, bytes) => *offset == self.journal_at() && bytes[0x1C..0x20] != [0; 4],
            Op::Flush => false,
        };
        log.iter().rposition(is_it).expect("the commit points at its log")
    }
}

/// Notes what a commit does.
pub fn record(transaction: Transaction) -> Vec<Op> {
    let mut recorder = Recorder::default();
    transaction.commit(&mut recorder, 0, TIME).expect("a recorder does not fail");
    recorder.0
}

fn commit(transaction: Option<Transaction>, image: &mut Arc<Vec<u8>>) -> Result<(), String> {
    let transaction = transaction.ok_or("it has no journal")?;
    transaction.commit(&mut Memory(Arc::make_mut(image)), 0, TIME).map_err(|e| format!("committing: {e}"))
}

/// How often `needle` is in `bytes`.
pub fn count(bytes: &[u8], needle: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, needle).count()
}

/// Content and metadata of the file at a path that has no links on its way; `None` when there is no such file.
pub fn read(ext4: &Ext4, path: &str) -> Result<Option<(Vec<u8>, Stat)>, String> {
    let said = |e: StorageError| format!("reading {path}: {e}");
    let mut node = ext4.root().map_err(said)?;
    let mut stat = None;
    for name in path.split('/').skip(1) {
        let Some((next, found)) = ext4.child(&node, name.as_bytes()).map_err(said)? else { return Ok(None) };
        (node, stat) = (next, Some(found));
    }
    let content = ext4.read(&node, 1 << 24).map_err(said)?.expect("a test's files are small");
    Ok(stat.map(|stat| (content.expose().to_vec(), stat)))
}

/// Panics unless the files that are never changed are as they were.
pub fn others(ext4: &Ext4) -> Result<(), String> {
    for number in [0, 1, 7, 20, 23] {
        for path in ["/etc/file", "/etc/secrets/standing"] {
            let path = format!("{path}-{number}");
            if read(ext4, &path)?.is_none_or(|(content, _)| content != standing(number)) {
                return Err(format!("{path} is not as it was"));
            }
        }
    }
    Ok(())
}

/// A file that tools are run on.
pub struct Desk {
    directory: TempDir,
    pub image: PathBuf,
    /// What is in it, as far as it is known.
    content: RefCell<Vec<u8>>,
}

impl Desk {
    pub fn new() -> Self {
        let directory = scratch();
        let image = directory.path().join("image");
        Self { directory, image, content: RefCell::new(Vec::new()) }
    }

    /// Makes the file this. Writes only what differs from what it was before.
    pub fn lay(&self, bytes: &[u8]) {
        const PIECE: usize = 1 << 16;
        let mut content = self.content.borrow_mut();
        if content.len() != bytes.len() {
            fs::write(&self.image, bytes).expect("writing an image");
            bytes.clone_into(&mut content);
            return;
        }
        let file = File::options().write(true).open(&self.image).expect("opening an image");
        for (place, (is, want)) in content.chunks_mut(PIECE).zip(bytes.chunks(PIECE)).enumerate() {
            if is != want {
                file.write_all_at(want, (place * PIECE) as u64).expect("writing an image");
                is.copy_from_slice(want);
            }
        }
    }

    /// What a tool made of the file.
    pub fn take(&self) -> Vec<u8> {
        let mut content = self.content.borrow_mut();
        File::open(&self.image).and_then(|file| file.read_exact_at(&mut content, 0)).expect("reading an image");
        content.clone()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
