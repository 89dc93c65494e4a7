//! What a mount left behind.

use std::fs;
use std::process::Command;

use deaddrop_core::tree::Tree;
use deaddrop_image::ext4::JournalState;

use crate::kit::ext4::{Image, assert_applied, changes, find, time, tree, write};

/// A copy of a file system that the kernel has mounted and written to, as of a running machine; `None` without mounts.
fn copy_of_a_mounted(arguments: &str) -> Option<Image> {
    let tree = tree(50);
    let live = Image::make(arguments, "32M", Some(tree.path()));
    let mount = live.mounted("loop", "dirty journals were not tried")?;
    for number in 0..20 {
        fs::write(mount.at(&format!("etc/live-{number}")), format!("written live {number}")).unwrap();
    }
    fs::remove_file(mount.at("etc/file-9")).unwrap();
    Command::new("sync").arg("-f").arg(mount.root()).status().unwrap();
    let copy = Image::empty();
    fs::copy(&live.path, &copy.path).unwrap();
    Some(copy)
}

#[test]
fn a_copy_of_a_mounted_file_system_is_replayed_and_written() {
    for arguments in ["-t ext4", "-t ext4 -O orphan_file,metadata_csum_seed", "-t ext3", "-t ext4 -b 1024 -O ^64bit"] {
        let Some(image) = copy_of_a_mounted(arguments) else { return };
        let raw = image.bytes();
        let ext4 = image.open().unwrap();
        assert!(matches!(ext4.summary().journal, JournalState::Clean { size: Some(_) }), "{arguments}");
        ext4.check_writable().unwrap_or_else(|error| panic!("{arguments}: {error}"));
        let (node, _) = find(&ext4, "/etc/live-7").unwrap_or_else(|| panic!("{arguments}: not replayed"));
        assert_eq!(ext4.read(&node, 100).unwrap().unwrap().expose(), b"written live 7", "{arguments}");
        assert!(find(&ext4, "/etc/file-9").is_none(), "{arguments}");
        assert!(raw == image.bytes(), "{arguments}: opening wrote");

        let changes: Vec<_> = changes(ext4.summary().block_size as usize).into_iter().collect();
        image.apply(&changes).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        image.assert_clean(arguments);
        assert_applied(&image, &changes, arguments);
    }
}

/// A file's first block, by debugfs.
pub fn first_block(image: &Image, path: &str) -> u64 {
    let shown = image.debugfs(&[format!("blocks {path}")]);
    shown.lines().nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Leaves a transaction in the journal that gives `/etc/file-20` another first block.
pub fn leave_transaction(image: &Image, open: &str, block_size: usize) -> Vec<u8> {
    let block = first_block(image, "/etc/file-20");
    let bytes = vec![b'J'; block_size];
    image.leave_transaction(open, block, &bytes);
    bytes
}

#[test]
fn every_kind_of_journal_is_replayed_as_e2fsck_does() {
    let tree = tree(0);
    for (arguments, open) in [
        ("-t ext4 -O ^metadata_csum,^64bit", "jo"),
        ("-t ext4 -O ^metadata_csum,64bit", "jo"),
        ("-t ext4", "jo -c -v 3"),
        ("-t ext4 -O ^64bit", "jo -c -v 2"),
        ("-t ext3", "jo"),
    ] {
        let image = Image::make(arguments, "32M", Some(tree.path()));
        let block_size = image.open().unwrap().summary().block_size as usize;
        let bytes = leave_transaction(&image, open, block_size);
        let ext4 = image.open().unwrap();
        assert_ne!(ext4.dirty().unwrap().len(), 0, "{arguments} {open}: the journal was not dirty");
        let (node, stat) = find(&ext4, "/etc/file-20").unwrap();
        let read = ext4.read(&node, 10_000).unwrap().unwrap();
        assert!(read.expose() == &bytes[..stat.size as usize], "{arguments} {open}");
        // e2fsck's own replay makes the same of it.
        let other = Image::empty();
        fs::copy(&image.path, &other.path).unwrap();
        Command::new("e2fsck").arg("-p").arg(&other.path).output().unwrap();
        image.commit(&ext4);
        image.assert_clean(arguments);
        assert!(image.dump("/etc/file-20") == other.dump("/etc/file-20"), "{arguments} {open}");
    }
}

#[test]
fn a_journal_that_was_stopped_by_an_error_is_refused() {
    let tree = tree(0);
    let image = Image::make("-t ext4 -O ^metadata_csum", "32M", Some(tree.path()));
    leave_transaction(&image, "jo", 1024);
    let journal = first_block(&image, "<8>") * image.open().unwrap().summary().block_size;
    // `s_errno`, 0x20, u32, big-endian.
    image.patch(journal + 0x20, &5_u32.to_be_bytes());
    let mut ext4 = image.open().unwrap();
    let error = ext4.apply(&[write("/x", b"y", 0o400, 0, 0)], time()).unwrap_err();
    assert!(error.to_string().ends_with("the journal records an error of an earlier mount"), "{error}");
    assert_eq!(deaddrop::run::remedy::hint(&error), "run `e2fsck -p` on it first");
    assert!(ext4.root().is_err(), "what lies under a journal must not be shown");
    assert!(matches!(ext4.summary().journal, JournalState::NeedsRecovery { .. }));
    assert!(ext4.dirty().unwrap().is_empty());
}

#[test]
fn a_mark_of_orphans_without_orphans_is_cleared_and_with_orphans_refused() {
    let tree = tree(0);
    let image = Image::make("-t ext4 -O orphan_file,^metadata_csum", "32M", Some(tree.path()));
    let word = u32::from_le_bytes(image.bytes()[1024 + 0x64..1024 + 0x68].try_into().unwrap());
    image.patch(1024 + 0x64, &(word | 1 << 16).to_le_bytes());
    let changes = [write("/x", b"y", 0o400, 0, 0)];
    let ext4 = image.open().unwrap();
    ext4.check_writable().unwrap();
    image.apply(&changes).unwrap();
    image.assert_clean("orphan_present");

    image.patch(1024 + 0x64, &(word | 1 << 16).to_le_bytes());
    let inode = u32::from_le_bytes(image.bytes()[1024 + 0x280..1024 + 0x284].try_into().unwrap());
    let block = first_block(&image, &format!("<{inode}>")) * image.open().unwrap().summary().block_size;
    // No such inode.
    image.patch(block + 8, &4_000_000_u32.to_le_bytes());
    let error = image.open().unwrap().check_writable().unwrap_err();
    assert_eq!(error.to_string(), "files that were deleted while open still take space (orphans)");
}

#[test]
fn fast_commits_that_wait_are_refused_by_their_number_and_older_ones_are_not() {
    let freeze = |mount: &std::path::Path| {
        for how in ["-f", "-u"] {
            assert!(Command::new("fsfreeze").arg(how).arg(mount).status().unwrap().success());
        }
    };
    let fsynced = |mount: &std::path::Path| {
        for number in 0..5 {
            let path = mount.join(format!("etc/fsynced-{number}"));
            fs::write(&path, "fsynced").unwrap();
            fs::File::open(&path).unwrap().sync_all().unwrap();
        }
    };
    let synced = |mount: &std::path::Path| {
        // Not one of the things that a fast commit can say.
        std::os::unix::fs::chown(mount.join("etc"), Some(7), None).unwrap();
        assert!(Command::new("sync").arg("-f").arg(mount).status().unwrap().success());
    };
    type Step<'a> = &'a dyn Fn(&std::path::Path);
    let cases: [(&str, &[Step<'_>], Option<u32>); 3] = [
        ("waiting", &[&synced, &fsynced], Some(5)),
        ("waiting behind a freeze", &[&synced, &freeze, &fsynced], Some(5)),
        ("of earlier times", &[&synced, &fsynced, &synced], None),
    ];
    for (name, steps, want) in cases {
        let tree = tree(0);
        // Somebody else on this machine may sync all file systems meanwhile: then nothing waits.
        let image = (0..20).find_map(|_| {
            let live = Image::make("-t ext4 -O fast_commit", "32M", Some(tree.path()));
            let Some(mount) = live.mounted("loop,commit=600", "fast commits were not tried") else { return Some(None) };
            steps.iter().for_each(|step| step(mount.root()));
            let image = Image::empty();
            fs::copy(&live.path, &image.path).unwrap();
            drop(mount);
            let waiting = image.open().unwrap().summary().pending;
            waiting.is_some_and(|waiting| waiting.fast_commits == want).then_some(Some(image))
        });
        let Some(image) = image.unwrap_or_else(|| panic!("{name}: never {want:?} fast commits")) else {
            return;
        };
        let raw = image.bytes();
        let ext4 = image.open().unwrap();
        let answer = ext4.check_writable();
        match want {
            Some(_) => {
                let error = answer.unwrap_err();
                assert_eq!(error.to_string(), "its journal holds 5 fast commits, which deaddrop does not replay");
                assert!(deaddrop::run::remedy::hint(&error).contains("e2fsck -p"), "{name}");
                assert!(image.apply(&[write("/x", b"y", 0o400, 0, 0)]).is_err() && ext4.root().is_err(), "{name}");
                assert!(raw == image.bytes() && ext4.dirty().unwrap().is_empty(), "{name}");
            }
            None => {
                answer.unwrap_or_else(|error| panic!("{name}: {error}"));
                image.apply(&[write("/x", b"y", 0o400, 0, 0)]).unwrap();
                image.assert_clean(name);
                assert_eq!(image.dump("/etc/fsynced-4"), b"fsynced", "{name}");
            }
        }
    }
}
