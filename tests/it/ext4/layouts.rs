//! Every layout that we write to.

use std::process::Command;

use deaddrop_core::tree::{Tree, TreeChange};
use memchr::memmem;

use crate::kit::ext4::{
    Image, all_inodes, assert_applied, changes, directory, find, pattern, remove, time, tree, write,
};

/// Name, mke2fs arguments, size.
pub const LAYOUTS: &[(&str, &str, &str)] = &[
    ("defaults", "-t ext4", "64M"),
    ("1 KiB blocks", "-t ext4 -b 1024", "24M"),
    ("2 KiB blocks", "-t ext4 -b 2048", "32M"),
    ("4 KiB blocks", "-t ext4 -b 4096", "64M"),
    ("no 64bit", "-t ext4 -O ^64bit", "64M"),
    ("64bit, no checksums", "-t ext4 -O 64bit,^metadata_csum", "64M"),
    ("no checksums, 1 KiB", "-t ext4 -b 1024 -O ^metadata_csum,^64bit", "24M"),
    ("metadata_csum_seed", "-t ext4 -O metadata_csum_seed", "64M"),
    ("orphan_file", "-t ext4 -O orphan_file", "64M"),
    ("orphan_file and seed", "-t ext4 -b 1024 -O orphan_file,metadata_csum_seed", "24M"),
    ("uninit_bg", "-t ext4 -O ^metadata_csum,uninit_bg", "64M"),
    ("uninit_bg, 64bit, many groups", "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,64bit", "40M"),
    ("no flex_bg", "-t ext4 -b 1024 -O ^flex_bg", "40M"),
    ("no flex_bg, no checksums", "-t ext4 -b 1024 -O ^flex_bg,^metadata_csum", "40M"),
    ("inline_data", "-t ext4 -O inline_data -I 256", "64M"),
    ("ext2", "-t ext2", "64M"),
    ("ext2, 1 KiB", "-t ext2 -b 1024", "24M"),
    ("ext3", "-t ext3", "64M"),
    ("ext3, 1 KiB", "-t ext3 -b 1024", "24M"),
    ("ext4 without extents", "-t ext4 -O ^extent,^64bit", "64M"),
    ("no dir_index", "-t ext4 -O ^dir_index", "64M"),
    ("no journal", "-t ext4 -O ^has_journal", "64M"),
    ("sparse_super2", "-t ext4 -b 1024 -O sparse_super2", "40M"),
    ("no sparse_super", "-t ext4 -b 1024 -O ^sparse_super,^resize_inode", "40M"),
    ("no resize_inode", "-t ext4 -O ^resize_inode", "64M"),
    ("128-byte inodes", "-t ext4 -I 128 -O ^metadata_csum", "64M"),
    ("128-byte inodes, checksums", "-t ext4 -I 128 -O metadata_csum", "64M"),
    ("128-byte inodes, checksums, 1 KiB", "-t ext4 -b 1024 -I 128 -O metadata_csum,64bit", "24M"),
    ("no filetype", "-t ext4 -O ^filetype", "64M"),
    ("no filetype, ext2, 1 KiB", "-t ext2 -b 1024 -O ^filetype", "24M"),
    ("no filetype, no checksums", "-t ext4 -O ^filetype,^metadata_csum,^64bit,^dir_index", "64M"),
    ("512-byte inodes", "-t ext4 -I 512", "64M"),
    ("1024-byte inodes", "-t ext4 -I 1024", "64M"),
    ("ea_inode", "-t ext4 -O ea_inode", "64M"),
    ("large_dir", "-t ext4 -O large_dir", "64M"),
    ("small groups", "-t ext4 -b 1024 -g 1024 -N 8192", "32M"),
];

#[test]
fn every_layout_takes_the_changes_and_e2fsck_finds_nothing() {
    let tree = tree(1500);
    std::thread::scope(|scope| {
        for half in LAYOUTS.chunks(LAYOUTS.len().div_ceil(2)) {
            let tree = &tree;
            scope.spawn(move || half.iter().for_each(|layout| check(layout, tree.path())));
        }
    });
}

fn check(&(name, arguments, size): &(&str, &str, &str), tree: &std::path::Path) {
    // Not more inodes than needed: debugfs shows every one of them, twice.
    let arguments = if arguments.contains("-N ") { arguments.to_owned() } else { format!("{arguments} -N 4096") };
    let image = Image::make(&arguments, size, Some(tree));
    image.assert_clean(name);
    let before = all_inodes(&image);
    let ext4 = image.open().unwrap();
    let block_size = usize::try_from(ext4.summary().block_size).unwrap();
    let changes = changes(block_size);
    image.apply(&changes).unwrap_or_else(|error| panic!("{name}: {error}"));
    image.assert_clean(name);
    assert_applied(&image, &changes, name);
    assert_others_unchanged(&before, &all_inodes(&image), name);

    // The old values are nowhere: their inodes' blocks were zeroed.
    let bytes = image.bytes();
    assert!(memmem::find(&bytes, b"OLD-VALUE").is_none(), "{name}: an old value is still there");
    // The other name of a replaced file keeps the old content.
    let ext4 = image.open().unwrap();
    let (other, stat) = find(&ext4, "/var/lib/other-name").unwrap();
    assert_eq!(stat.links, 1, "{name}");
    assert_eq!(ext4.read(&other, 100).unwrap().unwrap().expose(), b"shared content", "{name}");
    // So does the other name of a removed one.
    let (other, stat) = find(&ext4, "/var/lib/stays").unwrap();
    assert_eq!(stat.links, 1, "{name}");
    assert_eq!(ext4.read(&other, 100).unwrap().unwrap().expose(), b"still wanted elsewhere", "{name}");

    // Once more: other values in what we wrote, into the large directory, and out of it.
    let again = [
        write("/etc/secrets/new-1", &pattern(30_000, 5), 0o400, 0, 0),
        write("/etc/new/deep/size-0", b"now something", 0o400, 0, 0),
        write("/big/another", b"", 0o400, 0, 0),
        remove("/etc/new/deep/size-1000"),
        remove("/big/a-rather-long-name-for-a-file-00000"),
        remove("/big/a-rather-long-name-for-a-file-01234"),
    ];
    image.apply(&again).unwrap_or_else(|error| panic!("{name}, again: {error}"));
    image.assert_clean(name);
    assert_applied(&image, &again, name);
}

/// Inodes that were in use and that nothing was asked of are shown by debugfs as before.
fn assert_others_unchanged(before: &[String], after: &[String], name: &str) {
    let in_use = |shown: &str| !shown.contains("Type: bad type") && !shown.contains("Links: 0 ");
    let mut differ = 0;
    for (old, new) in before.iter().zip(after) {
        if !in_use(old) || old == new {
            continue;
        }
        differ += 1;
        let may = old.contains("Type: directory")
            // Replaced, changed in mode, or one name fewer.
            || !in_use(new)
            || new.contains("Mode:  0640")
            || (old.contains("Links: 2 ") && new.contains("Links: 1 "));
        assert!(may, "{name}: before {old}\nafter {new}");
    }
    // Root, /etc, /etc/secrets, /var/lib, /big; old-small, old-large, old-linked; two of mode; the four that are gone.
    assert_eq!(differ, 14, "{name}: inodes that differ");
}

#[test]
fn a_large_directory_grows_and_stays_whole() {
    let tree = tree(4000);
    for (name, arguments) in [
        ("hash tree", "-t ext4 -b 1024"),
        ("no checksums", "-t ext4 -b 1024 -O ^metadata_csum"),
        ("list", "-t ext4 -b 1024 -O ^dir_index"),
        ("ext3", "-t ext3 -b 1024"),
    ] {
        let image = Image::make(arguments, "40M", Some(tree.path()));
        // mke2fs -d makes lists; e2fsck -D makes trees of them.
        Command::new("e2fsck").args(["-fyD"]).arg(&image.path).output().unwrap();
        image.assert_clean(name);
        let changes: Vec<TreeChange> = (0..300)
            .map(|number| {
                write(&format!("/big/new-name-{number:04}-{}", "n".repeat(60)), &pattern(9, number), 0o400, 0, 0)
            })
            .collect();
        image.apply(&changes).unwrap_or_else(|error| panic!("{name}: {error}"));
        image.assert_clean(name);
        let ext4 = image.open().unwrap();
        for change in &changes {
            assert!(find(&ext4, change.path()).is_some(), "{name}: {}", change.path());
        }
        for number in [0, 1999, 3999] {
            assert!(find(&ext4, &format!("/big/a-rather-long-name-for-a-file-{number:05}")).is_some(), "{name}");
        }

        // And loses names again, whole blocks of them.
        let changes: Vec<TreeChange> =
            (1000..1300).map(|number| remove(&format!("/big/a-rather-long-name-for-a-file-{number:05}"))).collect();
        image.apply(&changes).unwrap_or_else(|error| panic!("{name}, removing: {error}"));
        image.assert_clean(&format!("{name}, removed"));
        let ext4 = image.open().unwrap();
        for (number, stands) in [(0, true), (999, true), (1000, false), (1299, false), (1300, true), (3999, true)] {
            let path = format!("/big/a-rather-long-name-for-a-file-{number:05}");
            assert_eq!(find(&ext4, &path).is_some(), stands, "{name}: {path}");
        }
    }
}

#[test]
fn full_groups_are_passed_over() {
    let tree = tree(0);
    let image = Image::make("-t ext4 -b 1024 -g 2048 -N 4096 -O ^resize_inode", "24M", Some(tree.path()));
    // Fills the first groups.
    let filler = image.directory.path().join("filler");
    std::fs::write(&filler, vec![1; 9 << 20]).unwrap();
    image.debugfs_write(&format!("write {} filler", filler.display()));
    image.assert_clean("filled");
    let changes = changes(1024);
    let changes: Vec<TreeChange> = changes.into_iter().collect();
    image.apply(&changes).unwrap();
    image.assert_clean("full groups");
    assert_applied(&image, &changes, "full groups");
}

#[test]
fn an_empty_file_system_takes_files_too() {
    let image = Image::make("-t ext4 -m 0", "16M", None);
    let changes = [directory("/etc"), directory("/etc/secrets"), write("/etc/secrets/a", b"b", 0o400, 0, 0)];
    image.apply(&changes).unwrap();
    image.assert_clean("empty");
    assert_applied(&image, &changes, "empty");
}

#[test]
fn the_same_run_on_the_same_image_writes_the_same_bytes() {
    let tree = tree(10);
    let image = Image::make("-t ext4", "32M", Some(tree.path()));
    let run = || {
        let mut ext4 = image.open().unwrap();
        ext4.apply(&changes(4096), time()).unwrap();
        ext4.dirty().unwrap()
    };
    assert!(run() == run());
}

#[test]
fn nothing_to_do_leaves_nothing_to_write() {
    let image = Image::make("-t ext4", "16M", None);
    let mut ext4 = image.open().unwrap();
    ext4.apply(&[], time()).unwrap();
    assert!(ext4.dirty().unwrap().is_empty());
}

#[test]
fn a_failed_apply_leaves_nothing_and_a_second_one_builds_on_the_first() {
    let tree = tree(0);
    let image = Image::make("-t ext4", "16M", Some(tree.path()));
    let mut ext4 = image.open().unwrap();
    assert!(ext4.apply(&[write("/no/such/place", b"x", 0o400, 0, 0)], time()).is_err());
    assert!(ext4.dirty().unwrap().is_empty());
    let first = [directory("/etc/a"), write("/etc/a/b", b"first", 0o400, 0, 0)];
    let second = [write("/etc/a/b", b"second", 0o400, 0, 0), write("/etc/a/c", b"third", 0o400, 0, 0)];
    ext4.apply(&first, time()).unwrap();
    ext4.apply(&second, time()).unwrap();
    image.commit(&ext4);
    image.assert_clean("two in a row");
    assert_applied(&image, &second, "two in a row");
}

#[test]
fn the_kernel_sees_the_files() {
    for arguments in ["-t ext4", "-t ext4 -I 128 -O metadata_csum", "-t ext4 -O ^filetype", "-t ext2 -O ^filetype"] {
        see_by_the_kernel(arguments);
    }
}

fn see_by_the_kernel(arguments: &str) {
    let tree = tree(100);
    let image = Image::make(arguments, "32M", Some(tree.path()));
    let changes = changes(usize::try_from(image.open().unwrap().summary().block_size).unwrap());
    image.apply(&changes).unwrap();
    let Some(mount) = image.mounted("loop", "the kernel's word on ext4 was not asked for") else { return };
    let seen: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            TreeChange::WriteFile { path, content, .. } => {
                Some((path.clone(), std::fs::read(mount.at(path)).ok().as_deref() == Some(content.expose())))
            }
            TreeChange::RemoveFile { path } => Some((path.clone(), !mount.at(path).exists())),
            _ => None,
        })
        .collect();
    let wrote = std::fs::write(mount.at("etc/by-the-kernel"), b"x");
    drop(mount);
    wrote.unwrap();
    for (path, same) in seen {
        assert!(same, "{arguments}: {path}: the kernel sees other content");
    }
    image.assert_clean("after the kernel");
}

#[test]
fn attributes_of_a_replaced_file_go_with_it() {
    let tree = tree(0);
    for (arguments, length) in [("-t ext4", 20), ("-t ext4", 900), ("-t ext3", 900), ("-t ext4 -O ^metadata_csum", 900)]
    {
        let image = Image::make(arguments, "32M", Some(tree.path()));
        image.debugfs_write(&format!("ea_set /etc/secrets/old-small user.note {}", "v".repeat(length)));
        image.assert_clean(arguments);
        let changes = changes(image.open().unwrap().summary().block_size as usize);
        image.apply(&changes).unwrap();
        image.assert_clean(&format!("{arguments}, an attribute of {length} bytes"));
        assert_applied(&image, &changes, arguments);
    }
}

#[test]
fn values_up_to_the_limit_are_written() {
    for arguments in ["-t ext4 -b 4096", "-t ext4 -b 1024", "-t ext2 -b 4096"] {
        let image = Image::make(arguments, "96M", None);
        let changes = [write("/large", &pattern(16 << 20, 1), 0o400, 0, 0), write("/small", b"x", 0o400, 0, 0)];
        image.apply(&changes).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        image.assert_clean(arguments);
        assert!(image.dump("/large") == pattern(16 << 20, 1), "{arguments}");
    }
}

#[test]
fn what_genext2fs_makes_is_written() {
    // Revision 0: no features at all, `filetype` among them.
    for options in [&[][..], &["-B", "4096"]] {
        let (tree, image) = (tree(100), Image::empty());
        let mut genext2fs = Command::new("genext2fs");
        genext2fs.arg("-d").arg(tree.path()).args(["-b", "16384", "-N", "2048"]).args(options).arg(&image.path);
        let output = genext2fs.output().expect("genext2fs (Debian package genext2fs)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        image.assert_clean("genext2fs");
        let changes = changes(usize::try_from(image.open().unwrap().summary().block_size).unwrap());
        image.apply(&changes).unwrap();
        image.assert_clean("genext2fs, written");
        assert_applied(&image, &changes, "genext2fs");
    }
}

#[test]
fn unused_inodes_in_descriptors_without_checksums_hide_none_of_ours() {
    // As github.com/pilat/go-ext4fs writes them: the kernel does not look, and e2fsck ends with 0.
    for flags in [0, 3] {
        let tree = tree(10);
        let image = Image::make("-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg -N 4096", "32M", Some(tree.path()));
        let free = image.debugfs(&["show_super_stats".into()]);
        let first = free.split(" free inodes").next().unwrap().rsplit([',', ' ']).next().unwrap().trim().to_owned();
        image.debugfs_write(&format!("set_bg 0 itable_unused {first}"));
        for group in 1..4 {
            image.debugfs_write(&format!("set_bg {group} itable_unused 1024"));
            image.debugfs_write(&format!("set_bg {group} flags {flags}"));
        }
        let (code, before) = image.fsck();
        assert_eq!(code, 0);
        image.apply(&[directory("/etc/new"), write("/etc/new/x", b"value", 0o400, 0, 0)]).unwrap();
        let (code, said) = image.fsck();
        // What it says of groups that nobody touched, it said before.
        let new = said.iter().find(|line| !before.contains(line));
        assert_eq!((code, new), (0, None), "{flags}: {said:?}");
        assert_eq!(image.dump("/etc/new/x"), b"value");
        // Again, where the first run has been.
        image.apply(&[write("/etc/new/y", b"value", 0o400, 0, 0)]).unwrap();
        assert_eq!(image.fsck().0, 0, "{flags}");
    }
}

#[test]
fn without_extents_a_value_must_fit_into_one_free_piece() {
    // A group of 1 KiB blocks has 8 MiB, and no piece is larger.
    let image = Image::make("-t ext3 -b 1024", "96M", None);
    let error = image.apply(&[write("/large", &pattern(16 << 20, 1), 0o400, 0, 0)]).unwrap_err();
    assert!(error.to_string().ends_with("blocks in one piece, and the file system has no such piece"), "{error}");
    image.apply(&[write("/fits", &pattern(6 << 20, 1), 0o400, 0, 0)]).unwrap();
    image.assert_clean("6 MiB in ext3");
}

#[test]
#[ignore = "prints times; run with --release -- --ignored --nocapture"]
fn times() {
    let tree = tree(8000);
    for size in ["4G", "64G"] {
        let image = Image::make("-t ext4 -b 4096", size, Some(tree.path()));
        for round in 0..3 {
            let start = std::time::Instant::now();
            let mut ext4 = image.open().unwrap();
            let opened = start.elapsed();
            let changes: Vec<TreeChange> = (0..20)
                .map(|number| {
                    write(&format!("/etc/secrets/secret-{number}"), &pattern(80, number + round), 0o400, 0, 0)
                })
                .collect();
            for change in &changes {
                let _ = find(&ext4, change.path());
            }
            let surveyed = start.elapsed();
            ext4.apply(&changes, time()).unwrap();
            let applied = start.elapsed();
            let dirty = ext4.dirty().unwrap().len();
            println!(
                "{size}, round {round}: open {opened:?}, survey {surveyed:?}, apply and check {applied:?}, {dirty} \
                 blocks"
            );
            image.commit(&ext4);
        }
        image.assert_clean(size);
    }
}

#[test]
fn a_directory_that_is_emptied_goes_and_one_that_is_not_stays() {
    let gone = |path: &str| TreeChange::RemoveDirectory { path: path.into() };
    for arguments in [
        "-t ext4 -b 1024",
        "-t ext4 -b 4096 -O orphan_file,metadata_csum_seed",
        "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg",
        "-t ext4 -I 128",
        "-t ext4 -O ^filetype",
        "-t ext3 -b 1024",
        "-t ext2 -b 4096",
    ] {
        let tree = tree(100);
        std::fs::create_dir_all(tree.path().join("etc/emptied/deep")).unwrap();
        std::fs::create_dir_all(tree.path().join("etc/kept")).unwrap();
        for number in 0..60 {
            std::fs::write(tree.path().join(format!("etc/emptied/deep/a-name-{number}")), b"old").unwrap();
        }
        std::fs::write(tree.path().join("etc/kept/file"), b"old").unwrap();
        let image = Image::make(arguments, "32M", Some(tree.path()));
        let mut changes: Vec<TreeChange> =
            (0..60).map(|number| remove(&format!("/etc/emptied/deep/a-name-{number}"))).collect();
        changes.extend([gone("/etc/emptied/deep"), gone("/etc/emptied")]);
        let all: Vec<TreeChange> = changes.iter().cloned().chain([gone("/etc/kept")]).collect();
        image.apply(&all).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        image.assert_clean(arguments);
        assert_applied(&image, &changes, arguments);
        assert!(find(&image.open().unwrap(), "/etc/kept/file").is_some(), "{arguments}");
    }
}
