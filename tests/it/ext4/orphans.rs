//! Files that were deleted while open, in a copy of a running system's disk: they are released as e2fsck does it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use xattr::FileExt as _;

use crate::kit::ext4::{Image, assert_applied, changes, tree};

const LAYOUTS: &[&str] = &[
    "-t ext3 -b 1024",
    "-t ext3 -b 4096",
    "-t ext4 -b 1024",
    "-t ext4 -b 4096",
    "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit",
    "-t ext4 -b 1024 -O orphan_file,metadata_csum_seed",
    "-t ext4 -b 4096 -O orphan_file",
    "-t ext4 -b 4096 -O inline_data -I 256",
];

/// Makes files of every kind of map, and takes their names while they are open. What is returned keeps them so.
fn delete_open_files(root: &Path) -> Vec<File> {
    let mut open = Vec::new();
    let at = |name: &str| root.join("var").join(name);
    let lay = |name: &str| File::options().read(true).write(true).create_new(true).open(at(name)).unwrap();
    for number in 0..5_usize {
        let mut small = lay(&format!("small-{number}"));
        small.write_all(&vec![b's'; number * 40]).unwrap();
        open.push(small);
    }
    let mut large = lay("large");
    large.write_all(&vec![b'l'; 3_000_000]).unwrap();
    open.push(large);
    // Many pieces: an extent tree of some levels, all levels of indirect blocks.
    let pieces = lay("pieces");
    for number in 0..400_u64 {
        pieces.write_all_at(b"piece", number * 400_000).unwrap();
    }
    open.push(pieces);
    // Attributes: in a block of its own, in one that a file shares that stays, in one that two orphans share.
    let value = vec![b'a'; 700];
    for name in ["attribute-1", "attribute-2", "attribute-3", "attribute-stays"] {
        let file = lay(name);
        let shared = if name.ends_with('1') { "user.own" } else { "user.shared" };
        file.set_xattr(shared, &value).unwrap();
        open.push(file);
    }
    symlink("l".repeat(200), at("link")).unwrap();
    fs::remove_file(at("link")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    open.push(File::open(at("directory")).unwrap());
    // A name too many: it loses one, and stays.
    fs::hard_link(at("large"), at("large-too")).unwrap();
    fs::remove_file(at("large-too")).unwrap();
    for file in ["small-0", "small-1", "small-2", "small-3", "small-4", "large", "pieces"] {
        fs::remove_file(at(file)).unwrap();
    }
    for file in ["attribute-1", "attribute-2", "attribute-3"] {
        fs::remove_file(at(file)).unwrap();
    }
    fs::remove_dir(at("directory")).unwrap();
    open
}

/// A copy of the file system while such files are open; `None` without mounts.
fn copy_with_orphans(arguments: &str) -> Option<Image> {
    // No directory of some blocks: e2fsck -f makes an index for such, which takes a block.
    let tree = tree(if arguments.contains("4096") { 50 } else { 0 });
    let live = Image::make(arguments, "48M", Some(tree.path()));
    let mount = live.mounted("loop", "orphans were not tried")?;
    let open = delete_open_files(mount.root());
    Command::new("sync").arg("-f").arg(mount.root()).status().unwrap();
    let copy = Image::empty();
    fs::copy(&live.path, &copy.path).unwrap();
    drop(open);
    Some(copy)
}

fn preened(image: &Image) -> Image {
    let other = Image::empty();
    fs::copy(&image.path, &other.path).unwrap();
    let output = Command::new("e2fsck").arg("-fp").arg(&other.path).output().unwrap();
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    other.assert_clean("e2fsck's own");
    other
}

#[test]
fn files_that_were_deleted_while_open_are_released_as_e2fsck_does() {
    for arguments in LAYOUTS {
        let Some(image) = copy_with_orphans(arguments) else { return };
        let other = preened(&image);
        let ext4 = image.open().unwrap();
        ext4.check_writable().unwrap_or_else(|error| panic!("{arguments}: {error}"));
        // Nothing else is changed: what e2fsck makes of it.
        let recovered = Image::empty();
        fs::copy(&image.path, &recovered.path).unwrap();
        recovered.commit(&ext4);
        recovered.assert_clean(arguments);
        let (ours, theirs) = (recovered.open().unwrap().summary(), other.open().unwrap().summary());
        assert_eq!((ours.free_blocks, ours.free_inodes), (theirs.free_blocks, theirs.free_inodes), "{arguments}");
        for command in ["ls -l /var", "ls -l /", "ea_get -V /var/attribute-stays user.shared"] {
            let [mine, theirs] = [&recovered, &other].map(|image| image.debugfs(&[command.to_owned()]));
            assert_eq!(mine, theirs, "{arguments}: {command}");
        }
        // With changes on top, which may take what was freed.
        let changes: Vec<_> = changes(ours.block_size as usize).into_iter().collect();
        image.apply(&changes).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        image.assert_clean(arguments);
        assert_applied(&image, &changes, arguments);
    }
}
