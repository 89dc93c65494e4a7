//! Counter-proofs: the check must refuse every result that differs from the plan.
#![allow(clippy::as_conversions)]

use std::process::Command;
use std::time::UNIX_EPOCH;

use super::*;
use crate::ext4::change::apply::Lookup;

/// A file system without checksums, so that only the audit can detect a flipped byte; 1 KiB blocks, several groups.
fn image() -> Arc<dyn ReadAt> {
    let directory = tempfile::TempDir::new().unwrap();
    let tree = directory.path().join("tree");
    std::fs::create_dir_all(tree.join("etc/secrets")).unwrap();
    std::fs::create_dir_all(tree.join("etc/emptied/deep")).unwrap();
    std::fs::create_dir_all(tree.join("etc/kept")).unwrap();
    for name in [
        "etc/secrets/old",
        "etc/secrets/other",
        "etc/secrets/mode",
        "etc/secrets/gone",
        "standing",
        "etc/emptied/deep/file",
        "etc/kept/file",
    ] {
        std::fs::write(tree.join(name), vec![b'o'; 3000]).unwrap();
    }
    let path = directory.path().join("image");
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg,^64bit", "-N", "512", "-d"])
        .args([&tree, &path])
        .arg("20M")
        .output()
        .expect("mke2fs");
    assert!(made.status.success());
    Arc::new(std::fs::read(path).unwrap())
}

/// A label that fits into the inode, and one that needs a block.
fn label(length: usize) -> Option<Label> {
    Label::new(vec![b'l'; length])
}

fn changes() -> Vec<TreeChange> {
    let write = |path: &str, size: usize, label: Option<Label>| TreeChange::WriteFile {
        path: path.into(),
        content: Secret::new(vec![b'n'; size]),
        mode: 0o400,
        uid: 0,
        gid: 0,
        label,
    };
    vec![
        TreeChange::MakeDirectory { path: "/etc/made".into(), mode: 0o700, uid: 0, gid: 0, label: label(30) },
        write("/etc/made/new", 5000, None),
        write("/etc/made/labelled", 1, label(30)),
        write("/etc/made/long", 1, label(200)),
        write("/etc/secrets/old", 10, label(30)),
        TreeChange::SetMetadata { path: "/etc/secrets/mode".into(), mode: 0o400, uid: 5, gid: 6 },
        TreeChange::RemoveFile { path: "/etc/secrets/gone".into() },
        TreeChange::RemoveFile { path: "/etc/emptied/deep/file".into() },
        TreeChange::RemoveDirectory { path: "/etc/emptied/deep".into() },
        TreeChange::RemoveDirectory { path: "/etc/emptied".into() },
        TreeChange::RemoveDirectory { path: "/etc/kept".into() },
    ]
}

fn inode_at(reader: &Reader, path: &str) -> Result<Inode, StorageError> {
    Lookup::new(reader).find(path)
}

/// The state that a test corrupts after the writer has finished.
struct Scene {
    before: Reader,
    after: Reader,
    overlay: Arc<Overlay>,
}

impl Scene {
    fn flip(&self, block: u64, at: usize, bits: u8) {
        let mut bytes = self.after.block(block).unwrap();
        bytes[at] ^= bits;
        self.overlay.write_at(self.after.block_offset(block).unwrap(), &bytes).unwrap();
    }

    fn flip_inode(&self, path: &str, at: usize, bits: u8) {
        let (block, offset) = self.after.inode_place(inode_at(&self.after, path).unwrap().number).unwrap();
        self.flip(block, offset + at, bits);
    }

    fn first_block(&self, path: &str) -> u64 {
        self.after.map(&inode_at(&self.after, path).unwrap()).unwrap().find(0).unwrap()
    }

    fn group(&self, number: u32) -> crate::ext4::format::group::Group {
        self.after.group(number).unwrap()
    }
}

/// The attribute block of the label that does not fit into its inode.
fn label_block(scene: &Scene) -> u64 {
    inode_at(&scene.after, "/etc/made/long").unwrap().xattr_block
}

/// Runs everything up to the check, corrupts the result, and returns the check's result.
fn verdict(device: &Arc<dyn ReadAt>, breaking: impl FnOnce(&Scene)) -> Result<(), String> {
    let before = Reader::open(Arc::clone(device)).unwrap();
    let overlay = Arc::new(Overlay::new(Arc::clone(device), before.geometry.block_size, OVERLAY_LIMIT));
    let changes = changes();
    let time = UNIX_EPOCH + std::time::Duration::from_secs(1_900_000_000);
    let resolved = Resolved::new(&before, &changes, time).unwrap();
    apply::write(&before, &overlay, &resolved).unwrap();
    let after = Reader::open(overlay.clone()).unwrap();
    let scene = Scene { before, after, overlay };
    breaking(&scene);
    let layout = crate::ext4::read::layout::Layout::of(&scene.before).map_err(|error| error.to_string())?;
    let mut claims = Reading::start(&scene.before, true).map_err(|error| error.to_string())?;
    claims.read(&scene.before, &resolved).map_err(|error| error.to_string())?;
    check(&scene.before, &layout, claims, &scene.overlay, &resolved).map_err(|error| error.to_string())
}

#[test]
fn the_check_refuses_every_result_that_was_not_asked_for() {
    let device = image();
    assert_eq!(verdict(&device, |_| {}), Ok(()));
    type Break = fn(&Scene);
    let breaks: &[(&str, Break)] = &[
        ("a byte of an inode that nothing was asked of", |scene| scene.flip_inode("/standing", 0x10, 1)),
        ("a neighbour's inode in the same table block", |scene| scene.flip_inode("/etc/secrets/other", 0x0, 1)),
        ("a changed file's size", |scene| scene.flip_inode("/etc/secrets/mode", 0x4, 1)),
        ("a changed file's owner", |scene| scene.flip_inode("/etc/secrets/mode", 0x2, 1)),
        ("a directory's owner", |scene| scene.flip_inode("/etc/secrets", 0x2, 1)),
        ("a directory's number of links", |scene| scene.flip_inode("/etc", 0x1A, 1)),
        ("a directory's time", |scene| scene.flip_inode("/etc", 0x10, 1)),
        ("a new file's mode", |scene| scene.flip_inode("/etc/made/new", 0x0, 0o4)),
        ("a new file's size", |scene| scene.flip_inode("/etc/made/new", 0x4, 1)),
        ("a new file's number of blocks", |scene| scene.flip_inode("/etc/made/new", 0x1C, 2)),
        ("a new file's flags", |scene| scene.flip_inode("/etc/made/new", 0x20, 0x10)),
        ("a new file's content", |scene| scene.flip(scene.first_block("/etc/made/new"), 7, 1)),
        ("a byte after the content of a new file's neighbour", |scene| {
            scene.flip(scene.first_block("/standing"), 5, 1)
        }),
        ("a new directory's back link", |scene| scene.flip(scene.first_block("/etc/made"), 12, 1)),
        ("another name in a changed directory", |scene| {
            let block = scene.first_block("/etc/secrets");
            let bytes = scene.after.block(block).unwrap();
            let at = bytes.windows(5).position(|name| name == b"other").unwrap();
            scene.flip(block, at, 1);
        }),
        ("a block that is free and stays free", |scene| {
            let last = scene.after.superblock.blocks - 2;
            scene.flip(last, 0, 1);
        }),
        ("a bit of the block bitmap", |scene| scene.flip(scene.group(0).block_bitmap, 1000, 1)),
        ("the block bitmap of another group", |scene| scene.flip(scene.group(2).block_bitmap, 1000, 1)),
        ("a bit of the inode bitmap", |scene| scene.flip(scene.group(0).inode_bitmap, 15, 0x40)),
        ("a group's count of free blocks", |scene| {
            let (block, at) = scene.after.descriptor_place(0).unwrap();
            scene.flip(block, at + 0xC, 1);
        }),
        ("the descriptor of another group", |scene| {
            let (block, at) = scene.after.descriptor_place(2).unwrap();
            scene.flip(block, at + 0xC, 1);
        }),
        ("a descriptor's field that has no meaning here", |scene| {
            let (block, at) = scene.after.descriptor_place(0).unwrap();
            scene.flip(block, at + 0x18, 1);
        }),
        ("the superblock's count of free blocks", |scene| scene.flip(1, 0xC, 1)),
        ("the superblock's count of free inodes", |scene| scene.flip(1, 0x10, 1)),
        ("the superblock's state", |scene| scene.flip(1, 0x3A, 2)),
        ("the label", |scene| scene.flip(1, 0x78, 1)),
        ("a backup of the superblock", |scene| scene.flip(8193, 0x78, 1)),
        ("the boot block", |scene| scene.flip(0, 0, 1)),
        ("the journal", |scene| {
            let journal = scene.after.inode(scene.after.superblock.journal_inode).unwrap();
            scene.flip(scene.after.map(&journal).unwrap().find(3).unwrap(), 0, 1);
        }),
        ("what an old value left", |scene| {
            let old = inode_at(&scene.before, "/etc/secrets/old").unwrap();
            scene.flip(scene.before.map(&old).unwrap().find(0).unwrap(), 0, 1);
        }),
        ("what a removed file left", |scene| {
            let gone = inode_at(&scene.before, "/etc/secrets/gone").unwrap();
            scene.flip(scene.before.map(&gone).unwrap().find(2).unwrap(), 900, 1);
        }),
        ("what a removed file's inode left", |scene| {
            let gone = inode_at(&scene.before, "/etc/secrets/gone").unwrap();
            let (block, offset) = scene.after.inode_place(gone.number).unwrap();
            scene.flip(block, offset + 0xA0, 1);
        }),
        ("a byte of a label", |scene| scene.flip_inode("/etc/made/labelled", 250, 1)),
        ("a byte of a directory's label", |scene| scene.flip_inode("/etc/made", 250, 1)),
        ("the name of a label", |scene| scene.flip_inode("/etc/secrets/old", 0xA0 + 4 + 16, 1)),
        ("a byte between a label's name and its value", |scene| scene.flip_inode("/etc/made/labelled", 0xD0, 1)),
        ("a label where none was asked for", |scene| {
            let labelled = inode_at(&scene.after, "/etc/made/labelled").unwrap();
            (0xA0..256).for_each(|at| scene.flip_inode("/etc/made/new", at, labelled.raw[at]));
        }),
        ("a byte of a label in a block", |scene| scene.flip(label_block(scene), 1000, 1)),
        ("the hash of a label in a block", |scene| scene.flip(label_block(scene), 32 + 12, 1)),
        ("the number of users of a label's block", |scene| scene.flip(label_block(scene), 4, 3)),
        ("a byte beside a label in its block", |scene| scene.flip(label_block(scene), 500, 1)),
        ("another block for a label", |scene| scene.flip_inode("/etc/made/long", 0x68, 1)),
        ("no block for a label", |scene| {
            let long = inode_at(&scene.after, "/etc/made/long").unwrap();
            (0x68..0x6C).for_each(|at| scene.flip_inode("/etc/made/long", at, long.raw[at]));
        }),
        ("another name in place of the removed one", |scene| {
            let block = scene.first_block("/etc/secrets");
            let bytes = scene.after.block(block).unwrap();
            let at = bytes.windows(4).position(|name| name == b"mode").unwrap();
            (0..4).for_each(|byte| scene.flip(block, at + byte, b"mode"[byte] ^ b"gone"[byte]));
        }),
    ];
    for (name, breaking) in breaks {
        let verdict = verdict(&device, breaking);
        assert!(
            verdict.as_ref().is_err_and(|error| error.starts_with("internal check failed, nothing was written")),
            "{name}: {verdict:?}"
        );
    }
}

#[test]
fn labels_of_all_lengths_are_written_and_read() {
    let device = image();
    // 64 bytes is the longest that fits into an inode of 256.
    for (length, in_block) in [(1, false), (27, false), (64, false), (65, true), (100, true), (Label::LONGEST, true)] {
        let mut ext4 = Ext4::open(Arc::clone(&device)).unwrap();
        let write = |path: &str| TreeChange::WriteFile {
            path: path.into(),
            content: Secret::new(vec![b'x'; 100]),
            mode: 0o400,
            uid: 0,
            gid: 0,
            label: label(length),
        };
        ext4.apply(&[write("/etc/new"), write("/etc/secrets/old")], UNIX_EPOCH).unwrap();
        for path in ["/etc/new", "/etc/secrets/old"] {
            let inode = inode_at(&ext4.reader, path).unwrap();
            assert_eq!(ext4.reader.label(&inode).unwrap(), label(length), "{path}, {length}");
            assert_eq!(inode.xattr_block != 0, in_block, "{path}, {length}");
        }
        assert_eq!(ext4.reader.label(&inode_at(&ext4.reader, "/standing").unwrap()).unwrap(), None);
    }
    assert_eq!((label(0), label(Label::LONGEST + 1)), (None, None));
}

#[test]
fn a_damaged_label_is_an_error_and_a_foreign_attribute_is_none() {
    let device = image();
    let mut ext4 = Ext4::open(Arc::clone(&device)).unwrap();
    ext4.apply(&changes(), UNIX_EPOCH).unwrap();
    let labelled = inode_at(&ext4.reader, "/etc/made/labelled").unwrap();
    let changed = |inode: &Inode, at: usize, byte: u8| {
        let mut raw = inode.raw.clone();
        raw[at] = byte;
        let inode = ext4.reader.parse_inode(inode.number, raw).unwrap();
        ext4.reader.label(&inode).map_err(|error| error.to_string())
    };
    let damaged = Err(format!("ext4: inode {}: damaged attributes", labelled.number));
    // The entry starts at 0xA4: length and prefix of the name, offset and size of the value.
    for (name, at, byte, want) in [
        ("no attributes", 0xA0, 0xFF, Ok(None)),
        ("another kind of name", 0xA5, 1, Ok(None)),
        ("another name", 0xB4, b'S', Ok(None)),
        ("a name beyond the inode", 0xA4, 0xFF, damaged.clone()),
        ("a value beyond the inode", 0xA7, 0x7F, damaged.clone()),
        ("a value larger than the inode", 0xAC, 0xFF, damaged.clone()),
        ("an empty value", 0xAC, 0, Ok(None)),
    ] {
        assert_eq!(changed(&labelled, at, byte), want, "{name}");
    }
    let long = inode_at(&ext4.reader, "/etc/made/long").unwrap();
    for (name, at, byte) in [("a block of something else", 0x68, 20), ("a block beyond the end", 0x6B, 0x7F)] {
        assert!(changed(&long, at, byte).is_err(), "{name}");
    }
}

#[test]
fn a_block_that_a_file_uses_though_the_bitmap_calls_it_free_is_not_taken() {
    let base = image();
    let before = Reader::open(Arc::clone(&base)).unwrap();
    // Marks the blocks of an existing file as free, with matching counts: a damaged bitmap.
    let damaged = Arc::new(Overlay::new(base, 1024, OVERLAY_LIMIT));
    let standing = inode_at(&before, "/standing").unwrap();
    for block in before.map(&standing).unwrap().content() {
        let group = before.group(0).unwrap();
        let bit = (block - before.first_block_of(0)) as usize;
        let reader = Reader::open(damaged.clone()).unwrap();
        let mut bitmap = reader.block(group.block_bitmap).unwrap();
        bitmap[bit / 8] &= !(1 << (bit % 8));
        damaged.write_at(reader.block_offset(group.block_bitmap).unwrap(), &bitmap).unwrap();
    }
    let mut ext4 = Ext4::open(damaged).unwrap();
    let error = ext4.apply(&changes(), UNIX_EPOCH).unwrap_err();
    assert!(error.to_string().contains("which is marked as free"), "{error}");
    assert!(ext4.dirty().unwrap().is_empty());
}

#[test]
fn a_removed_name_that_still_stands_is_seen_by_both_readers() {
    let device = image();
    let before = Reader::open(Arc::clone(&device)).unwrap();
    let overlay = Arc::new(Overlay::new(Arc::clone(&device), before.geometry.block_size, OVERLAY_LIMIT));
    let changes = [TreeChange::RemoveFile { path: "/etc/secrets/gone".into() }];
    let resolved = Resolved::new(&before, &changes, UNIX_EPOCH).unwrap();
    // The writer did not run: the name and the inode are unchanged.
    let audit = audit::audit(&before, &overlay, &resolved).err().unwrap();
    assert!(audit.to_string().contains("is still in use"), "{audit}");
    let read_back = read_back::read_back(&overlay, &resolved).unwrap().wait().unwrap_err();
    assert_eq!(read_back.to_string(), "/etc/secrets/gone: the read-back still sees it");
}

#[test]
fn only_a_regular_file_that_stands_is_removed() {
    let device = image();
    for (path, want) in [
        ("/etc/secrets/nothing", "/etc/secrets/nothing: it does not exist"),
        ("/etc/secrets", "/etc/secrets: it is a directory"),
    ] {
        let mut ext4 = Ext4::open(Arc::clone(&device)).unwrap();
        let error = ext4.apply(&[TreeChange::RemoveFile { path: path.into() }], UNIX_EPOCH).unwrap_err();
        assert_eq!(error.to_string(), want);
        assert!(ext4.dirty().unwrap().is_empty());
    }
}
