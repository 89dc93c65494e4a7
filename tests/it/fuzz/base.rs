//! The file systems that are damaged: small ones of each layout, made by mke2fs and debugfs, some of them with a
//! journal that waits for its replay.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{Label, TreeChange};
use deaddrop_image::ext4::Ext4;
use deaddrop_image::journal::commit::Medium;
use tempfile::TempDir;

use super::input::Pages;
use super::seal::{Layout, Part, seal};

/// A sound file system, and where its structures lie.
pub struct Base {
    /// What it was made with.
    pub name: String,
    pub bytes: Arc<Vec<u8>>,
    pub layout: Layout,
}

/// mke2fs' arguments, and how many MiB. Small blocks and small journals: more structures in fewer bytes.
const LAYOUTS: &[(&str, usize)] = &[
    ("-t ext4 -b 1024 -O 64bit,metadata_csum", 6),
    ("-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg,^64bit", 6),
    ("-t ext4 -b 4096 -O 64bit,metadata_csum,metadata_csum_seed,orphan_file", 18),
    ("-t ext3 -b 1024", 6),
    ("-t ext2 -b 1024", 4),
    ("-t ext4 -b 2048 -O ^has_journal,^resize_inode,^metadata_csum,^uninit_bg -g 2048", 8),
    ("-t ext4 -b 1024 -I 128 -O metadata_csum,^filetype", 6),
    ("-t ext4 -b 1024 -I 256 -O inline_data,ea_inode,large_dir", 6),
    ("-t ext4 -b 1024 -O ^flex_bg,sparse_super2 -g 1024 -N 512", 6),
];

/// When `changes` are made, in seconds since 1970.
pub const TIME: u64 = 2_000_000_000;

pub fn time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(TIME)
}

/// All of them.
pub fn bases() -> Vec<Base> {
    let directory = TempDir::new().expect("making a directory");
    let mut bases: Vec<Base> =
        LAYOUTS.iter().map(|(arguments, mib)| Base::new(arguments, make(directory.path(), arguments, *mib))).collect();
    for number in [0, 1, 2, 3] {
        let dirty = left_dirty(&bases[number]);
        bases.push(dirty);
    }
    bases
}

impl Base {
    fn new(name: &str, bytes: Vec<u8>) -> Self {
        let layout = Layout::of(&bytes);
        assert!(layout.parts.iter().any(|part| matches!(part, Part::Directory { .. })), "{name}: nothing found");
        // The proof that what is made right here is right: a sound image stays as it is.
        let bytes = Arc::new(bytes);
        let mut pages = Pages::new(Arc::clone(&bytes));
        seal(&mut pages, &layout, &layout.parts.iter().map(Part::start).collect::<Vec<_>>());
        let whole = pages.whole();
        let differs = whole.iter().zip(bytes.iter()).position(|(one, other)| one != other);
        assert_eq!(differs, None, "{name}: our checksums are not those of e2fsprogs");
        Self { name: name.to_owned(), bytes, layout }
    }
}

fn make(directory: &Path, arguments: &str, mib: usize) -> Vec<u8> {
    let image = directory.join("image");
    let _ = fs::remove_file(&image);
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).env("E2FSPROGS_FAKE_TIME", "1700000000").args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let path = image.to_str().expect("a test's paths are UTF-8");
    let mut all = vec!["-q", "-F", "-U", "2b6a8c1e-0000-4000-8000-000000000002"];
    all.extend(["-E", "hash_seed=2b6a8c1e-0000-4000-8000-000000000001"]);
    all.extend(arguments.split_whitespace());
    let size = format!("{mib}M");
    all.extend([path, &size]);
    run("mke2fs", &all);

    let small = directory.join("small");
    fs::write(&small, "content of a small file\n".repeat(8)).unwrap();
    let large = directory.join("large");
    fs::write(&large, (0..30_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect::<Vec<_>>()).unwrap();
    let tiny = directory.join("tiny");
    fs::write(&tiny, "tiny").unwrap();
    let mut script = String::from("set_current_time 20230101000000\n");
    for path in ["etc", "etc/secrets", "etc/ssh", "var", "var/lib", "nix", "nix/store", "big", "root"] {
        script += &format!("mkdir /{path}\n");
    }
    let mut write = |from: &Path, to: &str| script += &format!("write {} {to}\n", from.display());
    for number in 0..12 {
        write(&small, &format!("/etc/secrets/standing-{number}"));
        write(&tiny, &format!("/var/lib/filler-{number}"));
        write(&tiny, &format!("/root-{number}"));
        write(&tiny, &format!("/etc/filler-{number}"));
    }
    for number in 0..150 {
        write(&tiny, &format!("/big/a-rather-long-name-for-a-file-{number:05}"));
    }
    write(&large, "/etc/secrets/old-large");
    write(&small, "/etc/secrets/old-small");
    write(&small, "/etc/secrets/linked");
    write(&small, "/etc/passwd");
    script += "symlink /etc/short static/x\n";
    script += &format!("symlink /etc/long /nix/store/{}\n", "l".repeat(150));
    script += "link /etc/secrets/linked /var/lib/other-name\nsif /etc/secrets/linked links_count 2\n";
    script += &format!("ea_set /etc/secrets/old-small user.note {}\n", "v".repeat(200));
    let file = directory.join("script");
    fs::write(&file, script).unwrap();
    run("debugfs", &["-w", "-f", file.to_str().unwrap(), path]);
    // Indexes the large directory, and mends the counts that debugfs leaves to others.
    let _ = Command::new("e2fsck").args(["-fyD", path]).output();
    let output = Command::new("e2fsck").args(["-fn", path]).output().expect("e2fsck");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stdout));
    fs::read(&image).unwrap()
}

/// An image that a power cut left right after the commit point of a change: all of it waits in the journal.
fn left_dirty(base: &Base) -> Base {
    let device = Arc::new(Pages::new(Arc::clone(&base.bytes)));
    let mut ext4 = Ext4::open(device.clone()).expect("a sound image");
    ext4.apply(&changes(1), time()).expect("changes to a sound image");
    let transaction = ext4.transaction().expect("a sound image").expect("a journal");
    let mut cut = Cut { pages: (*device).clone(), flushes: 2 };
    transaction.commit(&mut cut, 0, TIME).expect("writing in memory");
    let bytes = cut.pages.whole();
    // Incompat, `needs_recovery`: it must be dirty.
    assert!(bytes[1024 + 0x60] & 4 != 0, "{}", base.name);
    Base::new(&format!("{}, dirty", base.name), bytes)
}

/// Lets e2fsprogs replay a journal, and do nothing else (which `e2fsck -E journal_only` of 1.47.0 does not); what it
/// complains about.
pub fn replay(image: &Path) -> String {
    let output = Command::new("debugfs").args(["-w", "-R", "jr"]).arg(image).output().expect("debugfs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().filter(|line| !line.starts_with("debugfs 1.")).collect()
}

/// What a commit is written to. Loses what comes after some flushes.
pub struct Cut {
    pub pages: Pages,
    /// How many flushes reach the medium.
    pub flushes: usize,
}

impl Medium for Cut {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.flushes > 0 {
            assert!(offset + bytes.len() as u64 <= self.pages.len() as u64, "a write beyond the end");
            self.pages.put(offset as usize, bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes = self.flushes.saturating_sub(1);
        Ok(())
    }
}

fn write(path: &str, content: &[u8]) -> TreeChange {
    labelled(path, content, 0)
}

/// With a SELinux label of so many bytes, if any.
fn labelled(path: &str, content: &[u8], label: usize) -> TreeChange {
    TreeChange::WriteFile {
        path: path.into(),
        content: Secret::new(content.to_vec()),
        mode: 0o400,
        uid: 0,
        gid: 0,
        label: Label::new(vec![b'l'; label]),
    }
}

/// Sets of changes: each kind of change, alone or together.
pub fn changes(choice: u64) -> Vec<TreeChange> {
    let directory =
        |path: &str| TreeChange::MakeDirectory { path: path.into(), mode: 0o700, uid: 0, gid: 0, label: None };
    let remove = |path: &str| TreeChange::RemoveFile { path: path.into() };
    match choice % 8 {
        0 => vec![write("/etc/secrets/new", b"one new value")],
        1 => vec![
            directory("/etc/new"),
            write("/etc/new/a", &[7; 5000]),
            write("/etc/secrets/old-small", b"shorter"),
            write("/etc/secrets/old-large", &[9; 40_000]),
        ],
        2 => vec![TreeChange::SetMetadata { path: "/etc/secrets/standing-3".into(), mode: 0o440, uid: 0, gid: 30_000 }],
        3 => (0..20).map(|number| write(&format!("/big/one-more-name-{number}"), b"big")).collect(),
        4 => vec![write("/etc/secrets/linked", b"no longer shared"), write("/var/lib/filler-3", b"")],
        6 => vec![labelled("/etc/secrets/new", b"x", 30), labelled("/etc/secrets/old-small", b"y", 120)],
        5 => vec![remove("/etc/secrets/old-small"), write("/etc/secrets/new", b"x"), remove("/etc/secrets/old-large")],
        _ => vec![write("/top", &[1; 1024]), directory("/nix/x"), write("/nix/x/y", &[2; 1025])],
    }
}
