//! A journal that shares a block with something else: a commit writes the journal without asking, and would damage it.

use std::fs;
use std::process::Command;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::Tree;
use deaddrop_image::ext4::Ext4;
use deaddrop_image::journal::commit::Medium;
use deaddrop_image::progress::quiet;

use crate::kit::ext4::{Image, changes, remove, time, tree, write};
use crate::kit::tool;

/// An image with 1 KiB blocks and an ext3 journal, whose map has no checksums, and where its map lies.
struct Lie {
    image: Image,
    bytes: Vec<u8>,
    /// Journal blocks 12 to 267 are named by this block.
    indirect: u64,
}

/// Block `index` of what is at `path`.
fn block_of(image: &Image, path: &str, index: usize) -> u32 {
    let shown = image.debugfs(&[format!("blocks {path}")]);
    shown.lines().nth(1).unwrap().split_whitespace().nth(index).unwrap().parse().unwrap()
}

impl Lie {
    fn new() -> Self {
        let tree = tree(50);
        let image = Image::make("-t ext3 -b 1024 -N 4096", "32M", Some(tree.path()));
        let bytes = image.bytes();
        let stat = image.debugfs(&["stat <8>".into()]);
        let indirect = stat.split("(IND):").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        Self { image, bytes, indirect }
    }

    /// A number that `dumpe2fs` shows of group 0, behind `label`.
    fn group_0(&self, label: &str) -> u32 {
        let output = Command::new("dumpe2fs").arg(&self.image.path).output().expect("dumpe2fs");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let behind = shown.split(label).nth(1).unwrap_or_else(|| panic!("{label}: {shown}"));
        behind.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()).unwrap().parse().unwrap()
    }

    /// Makes journal block 100 lie in `block`, and everything else as it was.
    fn tell(&self, block: u32) {
        self.image.patch(0, &self.bytes);
        self.image.patch(self.indirect * 1024 + (100 - 12) * 4, &block.to_le_bytes());
    }
}

/// What is said about a change to the image, which stays as it is.
fn refusal(image: &Image, name: &str) -> String {
    let before = image.bytes();
    let mut ext4 = image.open().unwrap_or_else(|error| panic!("{name}: {error}"));
    // A removal makes the whole idle log be zeroed.
    let wanted = [write("/etc/secrets/x", b"value", 0o400, 0, 0), remove("/etc/secrets/old-small")];
    let Err(error) = ext4.apply(&wanted, time()) else { panic!("{name}: it was written to") };
    assert!(ext4.dirty().unwrap().is_empty(), "{name}");
    assert!(matches!(error, StorageError::Refused { .. }), "{name}: {error:?}");
    assert!(deaddrop::run::remedy::hint(&error).contains("e2fsck"), "{name}: {}", deaddrop::run::remedy::hint(&error));
    assert!(image.bytes() == before, "{name}");
    error.to_string()
}

#[test]
fn a_journal_that_shares_a_block_is_refused_by_what_it_shares_it_with() {
    let lie = Lie::new();
    let root = block_of(&lie.image, "/", 0);
    let big = block_of(&lie.image, "/big", 1);
    let file = block_of(&lie.image, "/etc/secrets/gone-large", 3);
    let map = lie.indirect as u32;
    let other = block_of(&lie.image, "<8>", 300);
    let [table, bitmap] = ["Inode table at ", "Block bitmap at "].map(|label| lie.group_0(label));
    let free = lie.group_0("Free blocks: ");
    let inode = |path: &str| {
        let stat = lie.image.debugfs(&[format!("stat {path}")]);
        stat.split("Inode: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let damaged = "the ext4 file system is damaged: ";
    let uses = |path: &str, block: u32| format!("{damaged}inode {} uses block {block} of the journal", inode(path));
    let twice = |block: u32| format!("its journal is damaged: the journal uses block {block} twice");
    for (name, block, want) in [
        ("the root directory", root, uses("/", root)),
        ("a directory that nobody asks for", big, uses("/big", big)),
        ("a file that nobody asks for", file, uses("/etc/secrets/gone-large", file)),
        ("its own map", map, twice(map)),
        ("another of its blocks", other, twice(other)),
        ("an inode table", table, format!("{damaged}an inode table and the journal share block {table}")),
        ("a bitmap", bitmap, format!("{damaged}a block bitmap and the journal share block {bitmap}")),
        (
            "a copy of the superblock",
            8193,
            format!("{damaged}a copy of the superblock and the group descriptors and the journal share block 8193"),
        ),
        (
            "a copy of the descriptors",
            8194,
            format!("{damaged}a copy of the superblock and the group descriptors and the journal share block 8194"),
        ),
        ("a free block", free, format!("{damaged}block {free} of the journal is marked as free")),
    ] {
        lie.tell(block);
        assert_eq!(refusal(&lie.image, name), want, "{name}");
    }
    // The same journal, honest.
    lie.image.patch(0, &lie.bytes);
    lie.image.apply(&changes(1024)).unwrap();
    lie.image.assert_clean("the honest image");
}

#[test]
fn a_journal_of_extents_that_reaches_too_far_is_refused() {
    let image = Image::make("-t ext4 -b 1024 -O ^metadata_csum", "32M", Some(tree(0).path()));
    let shown = image.debugfs(&["imap <8>".into()]);
    // "located at block N, offset 0xM"
    let mut words = shown.split("located at block ").nth(1).unwrap().split(", offset 0x");
    let block: u64 = words.next().unwrap().parse().unwrap();
    let offset = u64::from_str_radix(words.next().unwrap().trim(), 16).unwrap();
    // The first extent's length: behind the inode's first fields, the tree's header and the extent's first block.
    let at = block * 1024 + offset + 0x28 + 12 + 4;
    let length = image.bytes()[at as usize..][..2].try_into().map(u16::from_le_bytes).unwrap();
    image.patch(at, &(length + 1).to_le_bytes());
    let said = refusal(&image, "one block more");
    assert!(said.contains("of the journal") || said.contains("the journal uses"), "{said}");
}

#[test]
fn what_waits_in_such_a_journal_is_not_brought_home() {
    let lie = Lie::new();
    lie.image.leave_transaction("jo", block_of(&lie.image, "/etc/file-20", 0), &[b'J'; 1024]);
    let dirty = Lie { bytes: lie.image.bytes(), ..lie };

    let transaction = |ext4: &Ext4| ext4.transaction().map(|transaction| transaction.is_some_and(|t| !t.is_empty()));
    assert!(transaction(&dirty.image.open().unwrap()).unwrap(), "the journal is not dirty");
    for (name, path) in [("a directory", "/big"), ("a file", "/etc/secrets/gone-large")] {
        dirty.tell(block_of(&dirty.image, path, 0));
        let ext4 = dirty.image.open().unwrap();
        assert!(ext4.was_replayed(), "{name}");
        for error in [transaction(&ext4).unwrap_err(), ext4.check_writable().unwrap_err()] {
            assert!(error.to_string().ends_with("of the journal"), "{name}: {error}");
        }
    }
    // What is read is what the log was to be written over.
    dirty.tell(block_of(&dirty.image, "/", 0));
    let ext4 = dirty.image.open().unwrap();
    assert!(ext4.root().and_then(|root| ext4.child(&root, b"etc")).is_err());
}

/// Counts what is written.
#[derive(Default)]
struct Counted(usize);

impl Medium for Counted {
    fn write_at(&mut self, _: u64, _: &[u8]) -> std::io::Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn free_blocks_are_not_zeroed_while_a_file_uses_one() {
    for arguments in ["-t ext3 -b 1024", "-t ext4 -b 1024 -O ^metadata_csum"] {
        let image = Image::make(arguments, "32M", Some(tree(50).path()));
        let scrub = || {
            let mut medium = Counted::default();
            let result = image.open().unwrap().scrub(&mut medium, 0, &quiet);
            (medium.0, result.map_err(|error| error.to_string()))
        };
        image.debugfs_write("rm /etc/secrets/old-large");
        let (written, result) = scrub();
        assert!(written > 100 && result.is_ok(), "{arguments}: {written} blocks, {result:?}");
        let block = block_of(&image, "/etc/secrets/gone-large", 3);
        image.debugfs_write(&format!("freeb {block}"));
        let (written, result) = scrub();
        let error = result.unwrap_err();
        assert!(error.contains(&format!("block {block} of inode ")) && error.ends_with("is marked as free"), "{error}");
        assert_eq!(written, 0, "{arguments}");
    }
}

/// Takes the usual changes, in either way of writing them.
fn assert_taken(image: &Image, name: &str) {
    image.assert_clean(name);
    let wanted = changes(image.open().unwrap().summary().block_size as usize);
    let mut ext4 = image.open().unwrap();
    ext4.apply(&wanted, time()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(ext4.transaction().unwrap_or_else(|error| panic!("{name}: {error}")).is_some(), "{name}");
    image.commit(&ext4);
    image.assert_clean(name);
}

/// Runs one of e2fsprogs on the image.
fn change(image: &Image, name: &str, before: &[&str], after: &[&str]) {
    tool(Command::new(name).args(before).arg(&image.path).args(after));
}

#[test]
fn a_journal_in_many_pieces_is_taken() {
    let image = Image::make("-t ext3 -b 1024 -O ^has_journal", "32M", Some(tree(50).path()));
    let filler = image.directory.path().join("filler");
    fs::write(&filler, vec![b'f'; 12 << 10]).unwrap();
    let all = (0..1500).map(|number| format!("write {} /big/f-{number}", filler.display()));
    let every_other = (0..1500).step_by(2).map(|number| format!("rm /big/f-{number}"));
    image.debugfs_write(&all.chain(every_other).collect::<Vec<_>>().join("\n"));
    change(&image, "tune2fs", &["-J", "size=4"], &[]);
    let shown = image.debugfs(&["stat <8>".into()]);
    assert!(shown.matches("):").count() > 50, "the journal is in too few pieces: {shown}");
    assert_taken(&image, "in many pieces");
}

#[test]
fn file_systems_that_were_resized_are_taken() {
    for (arguments, sizes) in [
        ("-t ext4", &["600M", "100M"][..]),
        ("-t ext4 -b 1024", &["600M", "60M"]),
        ("-t ext4", &["300M", "40M", "120M"]),
        ("-t ext4 -b 1024", &["40M", "300M"]),
        ("-t ext3 -b 1024", &["40M", "300M"]),
        ("-t ext4 -O ^resize_inode,^flex_bg", &["40M", "300M"]),
        ("-t ext4 -b 1024 -O sparse_super2,^resize_inode", &["50M", "70M"]),
    ] {
        let image = Image::make(arguments, sizes[0], Some(tree(50).path()));
        for size in &sizes[1..] {
            change(&image, "e2fsck", &["-fp"], &[]);
            change(&image, "resize2fs", &[], &[size]);
        }
        assert_taken(&image, &format!("{arguments}, {sizes:?}"));
    }
}
