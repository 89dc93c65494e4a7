//! SELinux labels on every layout: in the inode where they fit, in a block where they do not, judged by e2fsck and
//! debugfs.

use std::fs;

use deaddrop_core::tree::{Label, Tree, TreeChange};

use super::layouts::LAYOUTS;
use crate::kit::ext4::{Image, assert_applied, changes, directory, find, remove, tree, write};

/// A label of so many bytes, with the NUL that ends a usual one.
fn label(length: usize) -> Label {
    let text = "system_u:object_r:".bytes().chain("deaddrop_".bytes().cycle());
    Label::new(text.take(length - 1).chain([0]).collect()).unwrap()
}

/// The same change with a label.
fn labelled(change: TreeChange, with: Label) -> TreeChange {
    let mut change = change;
    if let TreeChange::MakeDirectory { label, .. } | TreeChange::WriteFile { label, .. } = &mut change {
        *label = Some(with);
    }
    change
}

/// What debugfs reads of the labels of files, byte for byte; empty where there is none.
fn by_debugfs(image: &Image, paths: &[&str]) -> Vec<Vec<u8>> {
    let out = |number: usize| image.directory.path().join(format!("label-{number}"));
    let get = |(number, path): (usize, &&str)| {
        let _ = fs::remove_file(out(number));
        format!("ea_get -f {} \"{path}\" security.selinux", out(number).display())
    };
    image.debugfs(&paths.iter().enumerate().map(get).collect::<Vec<_>>());
    (0..paths.len()).map(|number| fs::read(out(number)).unwrap_or_default()).collect()
}

fn assert_labels(image: &Image, changes: &[TreeChange], name: &str) {
    let made: Vec<&TreeChange> = changes.iter().filter(|change| change.label().is_some()).collect();
    let paths: Vec<&str> = made.iter().map(|change| change.path()).collect();
    let ext4 = image.open().unwrap();
    for ((change, path), shown) in made.iter().zip(&paths).zip(by_debugfs(image, &paths)) {
        let want = change.label().unwrap();
        let (node, _) = find(&ext4, path).unwrap();
        assert_eq!(ext4.label(&node).unwrap().as_ref(), Some(want), "{name}: {path}");
        assert!(shown == want.value(), "{name}: debugfs sees another label of {path}");
    }
}

#[test]
fn every_layout_takes_labels_of_every_length() {
    // Enough names that no directory on a way lies inside its inode (`inline_data`).
    let tree = tree(60);
    std::thread::scope(|scope| {
        for half in LAYOUTS.chunks(LAYOUTS.len().div_ceil(2)) {
            let tree = &tree;
            scope.spawn(move || half.iter().for_each(|layout| check(layout, tree.path())));
        }
    });
}

fn check(&(name, arguments, size): &(&str, &str, &str), tree: &std::path::Path) {
    let image = Image::make(arguments, size, Some(tree));
    let block_size = usize::try_from(image.open().unwrap().summary().block_size).unwrap();
    // 64 bytes are the last that fit into an inode of 256, 320 into one of 512.
    let lengths = [27, 30, 63, 64, 65, 66, 120, 320, 321, 900];
    let all: Vec<TreeChange> = changes(block_size)
        .into_iter()
        .zip(lengths.into_iter().cycle())
        .map(|(change, length)| labelled(change, label(length)))
        .collect();
    image.apply(&all).unwrap_or_else(|error| panic!("{name}: {error}"));
    image.assert_clean(name);
    assert_applied(&image, &all, name);
    assert_labels(&image, &all, name);

    // Replaced and removed again: blocks of labels come and go.
    let again = [
        labelled(write("/etc/new/deep/size-0", b"one", 0o400, 0, 0), label(900)),
        labelled(write("/etc/new/deep/size-1", b"two", 0o400, 0, 0), label(27)),
        labelled(write("/etc/new/deep/size-200", b"three", 0o400, 0, 0), label(120)),
        write("/etc/new/deep/size-1000", b"four", 0o400, 0, 0),
        remove("/etc/new/deep/size-59"),
        remove("/etc/new/deep/size-60"),
        remove("/etc/new/deep/size-61"),
    ];
    image.apply(&again).unwrap_or_else(|error| panic!("{name}, again: {error}"));
    image.assert_clean(&format!("{name}, again"));
    assert_applied(&image, &again, name);
    assert_labels(&image, &again, name);
    assert!(by_debugfs(&image, &["/etc/new/deep/size-1000"])[0].is_empty(), "{name}: a label that nobody asked for");
}

#[test]
fn a_block_of_attributes_that_files_share_loses_one_user_and_stays() {
    let tree = tree(0);
    let image = Image::make("-t ext4", "32M", Some(tree.path()));
    let Some(mount) = image.mounted("loop", "blocks that the kernel shares were not tried") else { return };
    let long = label(300);
    for name in ["old-small", "old-large", "gone-small"] {
        xattr::set(mount.at("etc/secrets").join(name), Label::ATTRIBUTE, long.value()).unwrap();
    }
    drop(mount);
    image.assert_clean("labelled by the kernel");
    let ext4 = image.open().unwrap();
    for name in ["old-small", "old-large", "gone-small"] {
        let (node, _) = find(&ext4, &format!("/etc/secrets/{name}")).unwrap();
        assert_eq!(ext4.label(&node).unwrap().as_ref(), Some(&long), "{name}");
    }
    let changes = [
        labelled(write("/etc/secrets/old-small", b"new", 0o400, 0, 0), long.clone()),
        remove("/etc/secrets/gone-small"),
    ];
    image.apply(&changes).unwrap();
    image.assert_clean("one user less");
    assert_labels(&image, &changes, "one user less");
    let left = by_debugfs(&image, &["/etc/secrets/old-large"]);
    assert!(left[0] == long.value(), "the other user's label");
}

#[test]
fn a_full_file_system_has_no_block_for_a_label_and_says_so() {
    let image = Image::make("-t ext4 -b 1024 -I 128 -O ^metadata_csum,^has_journal -m 0", "2M", None);
    image.apply(&[directory("/etc")]).unwrap();
    let filler = image.directory.path().join("filler");
    let free = usize::try_from(image.open().unwrap().summary().free_blocks).unwrap();
    // All but the filler's own map, and one.
    fs::write(&filler, vec![1; (free - 1) * 1024]).unwrap();
    image.debugfs_write(&format!("write {} filler", filler.display()));
    let before = image.bytes();
    let free = image.open().unwrap().summary().free_blocks;
    assert_eq!(free, 1);
    let change = labelled(write("/etc/x", b"value", 0o400, 0, 0), label(27));
    let error = image.apply(&[change]).unwrap_err().to_string();
    assert_eq!(error, "/etc/x needs 2 blocks, and the file system has 1 free");
    assert!(image.bytes() == before);
    image.apply(&[write("/etc/x", b"value", 0o400, 0, 0)]).unwrap();
    image.assert_clean("full");
}
