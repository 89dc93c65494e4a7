//! What is not written to: each by its name, with the image as it was.

use std::fs;

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::Tree;

use crate::kit::ext4::{Image, remove, time, tree, write};

/// Opens, tries to write, and returns the error's words and hint. Asserts that nothing would be written.
fn refusal(image: &Image) -> (String, String) {
    let mut ext4 = image.open().unwrap();
    let change = [write("/etc/secrets/x", b"value", 0o400, 0, 0)];
    let error = ext4.apply(&change, time()).unwrap_err();
    assert!(ext4.dirty().unwrap().is_empty());
    (error.to_string(), deaddrop::run::remedy::hint(&error))
}

#[test]
fn features_that_we_do_not_write_are_refused_by_their_names() {
    let tree = tree(0);
    for (name, arguments) in [
        ("encrypt", "-O encrypt"),
        ("casefold", "-O casefold"),
        ("bigalloc", "-O bigalloc"),
        ("quota", "-O quota"),
        ("project", "-O project,quota"),
        ("mmp", "-O mmp"),
        ("verity", "-O verity"),
        ("meta_bg", "-O meta_bg,^resize_inode"),
    ] {
        let image = Image::make(&format!("-t ext4 {arguments}"), "64M", Some(tree.path()));
        let (what, hint) = refusal(&image);
        assert!(what.starts_with("ext4 feature") && what.contains(&format!("`{name}`")), "{name}: {what}");
        assert!(!hint.is_empty(), "{name}");
        let facts = image.open().unwrap().summary();
        assert!(facts.features.iter().any(|feature| feature == name), "{name}: {:?}", facts.features);
    }
}

#[test]
fn the_kernel_is_named_where_it_writes_what_we_do_not() {
    // What was built into the kernel of this machine: it says so itself.
    let there = |name: &str| std::path::Path::new("/sys/fs/ext4").join(name).exists();
    for (arguments, kernel) in [
        ("-O bigalloc", there("")),
        ("-O mmp", there("")),
        ("-O meta_bg,^resize_inode", there("")),
        ("-O encrypt", there("features/encryption")),
        ("-O casefold", there("features/casefold")),
        ("-b 65536", there("features/blocksize_gt_pagesize")),
        // Whether quotas were built in is told nowhere.
        ("-O quota", false),
    ] {
        let (what, hint) = refusal(&Image::make(&format!("-t ext4 {arguments}"), "64M", None));
        assert_eq!(hint.contains("--backend mount"), kernel, "{arguments}: {what}: {hint}");
    }
}

#[test]
fn what_our_reader_cannot_read_is_named_before_it_is_read() {
    for arguments in ["-O bigalloc", "-O bigalloc,^metadata_csum,^uninit_bg"] {
        let image = Image::make(&format!("-t ext4 {arguments}"), "64M", None);
        image.assert_clean(arguments);
        let error = image.open().unwrap().root().err().unwrap();
        assert_eq!(error.to_string(), "ext4 feature `bigalloc`", "{arguments}");
    }
    // And before a journal that waits, which e2fsck would bring home for nothing.
    let image = Image::make("-t ext4 -O encrypt", "16M", None);
    image.debugfs_write("feature needs_recovery");
    assert_eq!(image.open().unwrap().root().err().unwrap().to_string(), "ext4 feature `encrypt`");
}

#[test]
fn feature_bits_without_a_tool_are_refused_by_their_names() {
    // Without checksums, bits can be set by hand: word (offset in the superblock), bit, name.
    for (word, bit, name) in [
        (0x60, 0, "compression"),
        (0x60, 3, "journal_dev"),
        (0x60, 12, "dirdata"),
        (0x60, 20, "FEATURE_I20"),
        (0x64, 7, "snapshot"),
        (0x64, 11, "replica"),
        (0x64, 12, "read-only"),
        (0x64, 14, "shared_blocks"),
        (0x64, 30, "FEATURE_R30"),
    ] {
        let image = Image::make("-t ext4 -O ^metadata_csum", "16M", None);
        let bytes = image.bytes();
        let at = 1024 + word;
        let value = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) | (1 << bit);
        image.patch(at as u64, &value.to_le_bytes());
        let (what, _) = refusal(&image);
        assert!(what.contains(&format!("`{name}`")), "{name}: {what}");
    }
}

#[test]
fn other_formats_are_refused_by_what_they_are() {
    assert_eq!(refusal(&Image::make("-t ext4 -b 8192", "16M", None)).0, "ext4 blocks of 8 KiB");
    let image = Image::make("-t ext4", "16M", None);
    image.debugfs_write("set_super_value journal_inum 0");
    assert_eq!(refusal(&image).0, "ext4 with an external journal");
}

#[test]
fn what_e2fsck_does_not_open_is_not_written_to() {
    for (field, at, bytes, want) in [
        ("s_r_blocks_count", 0x8, &60_000_u32.to_le_bytes()[..], "60000 of 16384 blocks are reserved"),
        ("s_clusters_per_group", 0x24, &48_u32.to_le_bytes(), "8192 blocks a group, but 48 clusters"),
        ("s_desc_size", 0xFE, &4096_u16.to_le_bytes(), "a descriptor size of 4096 bytes"),
        ("s_log_groups_per_flex", 0x174, &[32], "2^32 groups in a flexible group"),
    ] {
        let image = Image::make("-t ext4 -b 1024 -O ^metadata_csum,^64bit", "16M", None);
        image.patch(1024 + at, bytes);
        assert_ne!(image.fsck(), (0, vec![]), "{field}: e2fsck opens it, and not a copy");
        let error = image.open().err().unwrap_or_else(|| panic!("{field}: it was opened"));
        assert_eq!(error.to_string(), format!("ext4 superblock: {want}"), "{field}");
    }
    for (field, at) in [("s_journal_uuid", 0xD3), ("s_journal_dev", 0xE4)] {
        for arguments in ["-t ext4 -O ^metadata_csum", "-t ext2"] {
            let image = Image::make(arguments, "16M", None);
            image.patch(1024 + at, &[7]);
            assert_eq!(refusal(&image).0, "ext4 with an external journal", "{arguments}: {field}");
        }
    }
}

#[test]
fn a_journal_that_the_features_deny_is_refused() {
    let image = Image::make("-t ext4 -O ^metadata_csum", "16M", None);
    image.debugfs_write("feature -has_journal");
    let want = "its superblock names a journal, and says that there is none (`has_journal`)";
    assert_eq!(refusal(&image), (want.to_owned(), "run `e2fsck -f` on it first".to_owned()));
}

#[test]
fn a_journal_whose_size_e2fsck_does_not_take_is_not_written_to() {
    let image = Image::make("-t ext4 -b 1024 -J size=1 -O ^metadata_csum,^64bit", "16M", None);
    let shown = image.debugfs(&["blocks <8>".into()]);
    let first: u64 = shown.lines().nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let inode = image.debugfs(&["imap <8>".into()]);
    let (block, offset) = inode.split("located at block ").nth(1).unwrap().trim().split_once(", offset 0x").unwrap();
    let inode = block.parse::<u64>().unwrap() * 1024 + u64::from_str_radix(offset, 16).unwrap();
    let bytes = image.bytes();
    for (name, at, value, want) in [
        // `s_feature_incompat`: a fast-commit area of the usual 256 blocks.
        ("fast commits", first * 1024 + 0x28, 0x20_u32.to_be_bytes(), "ext4: a journal of 768 blocks"),
        (
            "a short inode",
            inode + 4,
            (1000_u32 << 10).to_le_bytes(),
            "the journal's superblock contradicts itself or the journal's inode",
        ),
        (
            "a long inode",
            inode + 4,
            ((1024_u32 << 10) + 1).to_le_bytes(),
            "ext4: the journal's inode is longer than its blocks",
        ),
    ] {
        image.patch(at, &value);
        assert_eq!(refusal(&image).0, format!("its journal is damaged: {want}"), "{name}");
        assert_ne!(image.fsck().0, 0, "{name}: e2fsck takes it");
        image.patch(0, &bytes);
    }
}

#[test]
fn an_inode_that_its_group_says_was_never_used_is_not_read() {
    let image = Image::make("-t ext4 -b 1024 -O ^metadata_csum,^64bit,uninit_bg", "16M", None);
    image.apply(&[write("/x", b"y", 0o400, 0, 0)]).unwrap();
    let unused = |to: u32| {
        image.debugfs_write(&format!("set_bg 0 itable_unused {to}"));
        image.debugfs_write("set_bg 0 checksum calc");
    };
    let inodes = image.open().unwrap().summary().inodes / 2;
    // Inodes 1 to 5: the root is among them, and the journal is not.
    for (to, want) in [(inodes - 5, "inode 8: a directory leads to it, but"), (inodes + 1, "more unused inodes than")] {
        unused(to);
        let (what, _) = refusal(&image);
        assert!(what.contains(want), "{to}: {what}");
    }
}

#[test]
fn states_that_need_e2fsck_say_so() {
    for (command, want) in [
        ("set_super_value state 3", "the ext4 file system has errors recorded"),
        ("set_super_value state 0", "the ext4 file system was not unmounted cleanly"),
        ("set_super_value last_orphan 12", "files that were deleted while open still take space (orphans)"),
    ] {
        let image = Image::make("-t ext4", "16M", None);
        image.debugfs_write(command);
        assert_eq!(refusal(&image), (want.to_owned(), "run `e2fsck -p` on it first".to_owned()));
    }
}

#[test]
fn protected_directories_and_files_are_refused() {
    let tree = tree(0);
    for (command, want) in [
        ("set_inode_field /etc/secrets flags 0x80010", "/etc/secrets is immutable"),
        ("set_inode_field /etc/secrets flags 0x80020", "/etc/secrets is append-only"),
    ] {
        let image = Image::make("-t ext4", "32M", Some(tree.path()));
        image.debugfs_write(command);
        assert_eq!(refusal(&image).0, want);
    }
    let image = Image::make("-t ext4", "32M", Some(tree.path()));
    image.debugfs_write("set_inode_field /etc/secrets/old-small flags 0x80010");
    let error = image.apply(&[write("/etc/secrets/old-small", b"x", 0o400, 0, 0)]).unwrap_err();
    assert_eq!(error.to_string(), "/etc/secrets/old-small is immutable");
    let error = image.apply(&[remove("/etc/secrets/old-small")]).unwrap_err();
    assert_eq!(error.to_string(), "/etc/secrets/old-small is immutable");
}

#[test]
fn a_file_that_is_too_large_to_be_zeroed_is_not_removed() {
    let tree = tree(0);
    for (size, want) in [(64 << 20, Ok(())), ((64 << 20) + 1, Err("/etc/large is over 64 MiB"))] {
        fs::write(tree.path().join("etc/large"), vec![1; size]).unwrap();
        let image = Image::make("-t ext4 -O ^has_journal", "80M", Some(tree.path()));
        match (image.apply(&[remove("/etc/large")]).map_err(|error| error.to_string()), want) {
            (Ok(()), Ok(())) => image.assert_clean("a large file removed"),
            (Err(error), Err(want)) => assert!(error.starts_with(want), "{error}"),
            (result, _) => panic!("{size} bytes: {result:?}"),
        }
    }
}

#[test]
fn a_directory_inside_its_inode_is_refused_by_its_feature() {
    let directory = tempfile::TempDir::new().unwrap();
    fs::create_dir_all(directory.path().join("etc/secrets")).unwrap();
    let image = Image::make("-t ext4 -O inline_data -I 256", "32M", Some(directory.path()));
    let (what, _) = refusal(&image);
    assert!(what.contains("`inline_data`") && what.contains("/etc"), "{what}");
}

#[test]
fn no_space_says_how_much_is_missing() {
    let tree = tree(0);
    let image = Image::make("-t ext4 -b 4096 -m 5 -O ^has_journal", "16M", Some(tree.path()));
    let free = image.open().unwrap().summary().free_blocks;
    let filler = image.directory.path().join("filler");
    // All blocks, those reserved for root too.
    fs::write(&filler, vec![1; (free * 4096) as usize]).unwrap();
    image.debugfs_write(&format!("write {} filler", filler.display()));
    assert_eq!(image.open().unwrap().summary().free_blocks, 0);
    let error = image.apply(&[write("/etc/secrets/wifi.env", b"x", 0o400, 0, 0)]).unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }));
    assert_eq!(error.to_string(), "/etc/secrets/wifi.env needs 1 block, and the file system has 0 free");
    assert!(deaddrop::run::remedy::hint(&error).contains("additionalSpace"));
    // A file without content needs none.
    image.apply(&[write("/etc/secrets/empty", b"", 0o400, 0, 0)]).unwrap();
    image.assert_clean("an empty file in a full file system");
}

#[test]
fn the_last_blocks_can_be_used_and_one_more_is_refused() {
    let tree = tree(0);
    let image = Image::make("-t ext4 -b 4096 -m 5 -O ^has_journal", "16M", Some(tree.path()));
    let free = image.open().unwrap().summary().free_blocks;
    let filler = image.directory.path().join("filler");
    fs::write(&filler, vec![1; ((free - 3) * 4096) as usize]).unwrap();
    image.debugfs_write(&format!("write {} filler", filler.display()));
    let left = image.open().unwrap().summary().free_blocks;
    assert!(left > 0 && left < 4, "{left}");
    let fits = write("/etc/secrets/a", &vec![7; (left * 4096) as usize], 0o400, 0, 0);
    let one_more = write("/etc/secrets/b", b"1", 0o400, 0, 0);
    let error = image.apply(&[write("/etc/secrets/a", &vec![7; (left * 4096) as usize], 0o400, 0, 0), one_more]);
    assert_eq!(error.unwrap_err().to_string(), "/etc/secrets/b needs 1 block, and the file system has 0 free");
    image.apply(&[fits]).unwrap();
    image.assert_clean("the last block");
}

#[test]
fn no_inodes_is_refused() {
    let image = Image::make("-t ext4 -N 32", "16M", None);
    let free = image.open().unwrap().summary().free_inodes;
    let changes: Vec<_> = (0..=free).map(|number| write(&format!("/f{number}"), b"x", 0o400, 0, 0)).collect();
    let error = image.apply(&changes).unwrap_err();
    assert_eq!(error.to_string(), format!("/f{free} needs 1 inode, and the file system has 0 free"));
    image.apply(&changes[..free as usize]).unwrap();
    image.assert_clean("all inodes in use");
}

#[test]
fn an_attribute_in_an_inode_of_its_own_is_refused_by_its_feature() {
    let tree = tree(0);
    let image = Image::make("-t ext4 -O ea_inode", "32M", Some(tree.path()));
    let value = image.directory.path().join("value");
    fs::write(&value, vec![b'v'; 8000]).unwrap();
    image.debugfs_write(&format!("ea_set -f {} /etc/secrets/old-small user.note", value.display()));
    // debugfs 1.47.0 leaves a wrong i_blocks in such files, so e2fsck is not asked here.
    let error = image.apply(&[write("/etc/secrets/old-small", b"x", 0o400, 0, 0)]).unwrap_err();
    assert!(error.to_string().contains("`ea_inode`"), "{error}");
}
