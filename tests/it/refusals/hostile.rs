//! Images made to hurt: tables with impossible numbers, superblocks with impossible fields. Each run of `inspect` and
//! `inject` ends within bounds, without a panic, and leaves the image as it was or no worse for e2fsck.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{MIB, disk, small_root};
use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, crc32, program};

/// A scratch directory with a manifest of one secret, from $A.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("secrets.yaml", "version: 1\nsecrets:\n  a: { path: /etc/secrets/a, from: env:A }\n");
    scratch
}

/// Runs `inspect` and these commands that write on a file of these bytes; panics when one panics, takes too long or too
/// much, changes what it refused, or leaves it worse for e2fsck than it was. True when `inject` did its work.
#[track_caller]
fn survive(scratch: &Scratch, name: &str, bytes: &[u8], commands: &[&str]) -> bool {
    let path = scratch.write("h.img", bytes);
    let inspect = Deaddrop::new(scratch).args(["inspect", "h.img"]).limited().run();
    assert!(matches!(inspect.code(), Some(0 | 1)), "{name}: inspect {:?}: {}", inspect.code(), inspect.stderr());
    assert!(!inspect.stderr().contains("panicked"), "{name}: {}", inspect.stderr());
    let value = Canary::new("a");
    let mut injected = false;
    for command in commands {
        let run = Deaddrop::new(scratch).args([*command, "h.img"]).env("A", value.text()).plant(&value).limited().run();
        if run.code() != Some(0) {
            run.expect_refusal(&format!("{name}: {command}"), 1, &["h.img: nothing was changed", "cause: "]);
            assert!(fs::read(&path).unwrap() == bytes, "{name}: {command} refused, and changed all the same");
            continue;
        }
        injected |= *command == "inject";
        if fs::read(&path).unwrap() != bytes {
            let (before, after) = (fsck(&scratch.write("before.img", bytes)), fsck(&path));
            assert!(after <= before, "{name}: e2fsck said {before:?}, and after {command} says {after:?}");
            fs::write(&path, bytes).unwrap();
        }
    }
    injected
}

/// e2fsck's exit code: 0 clean, 4 errors left, 8 it cannot be checked, …
fn fsck(path: &Path) -> Option<i32> {
    Command::new(program("e2fsck")).args(["-fn"]).arg(path).output().unwrap().status.code()
}

fn put(bytes: &mut [u8], at: usize, value: u64, size: usize) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// Fields of the superblock (offset in it, bytes): sizes, counts, block numbers and lengths. The kernel's
/// Documentation/filesystems/ext4/super.rst.
const FIELDS: [(&str, usize, usize); 37] = [
    ("s_inodes_count", 0x0, 4),
    ("s_blocks_count_lo", 0x4, 4),
    ("s_r_blocks_count_lo", 0x8, 4),
    ("s_free_blocks_count_lo", 0xC, 4),
    ("s_free_inodes_count", 0x10, 4),
    ("s_first_data_block", 0x14, 4),
    ("s_log_block_size", 0x18, 4),
    ("s_log_cluster_size", 0x1C, 4),
    ("s_blocks_per_group", 0x20, 4),
    ("s_clusters_per_group", 0x24, 4),
    ("s_inodes_per_group", 0x28, 4),
    ("s_first_ino", 0x54, 4),
    ("s_inode_size", 0x58, 2),
    ("s_block_group_nr", 0x5A, 2),
    ("s_reserved_gdt_blocks", 0xCE, 2),
    ("s_journal_inum", 0xE0, 4),
    ("s_journal_dev", 0xE4, 4),
    ("s_last_orphan", 0xE8, 4),
    ("s_def_hash_version", 0xFC, 1),
    ("s_desc_size", 0xFE, 2),
    ("s_first_meta_bg", 0x104, 4),
    ("s_jnl_blocks (size)", 0x14C, 4),
    ("s_blocks_count_hi", 0x150, 4),
    ("s_r_blocks_count_hi", 0x154, 4),
    ("s_free_blocks_count_hi", 0x158, 4),
    ("s_min_extra_isize", 0x15C, 2),
    ("s_want_extra_isize", 0x15E, 2),
    ("s_raid_stride", 0x164, 2),
    ("s_mmp_block", 0x168, 4),
    ("s_raid_stripe_width", 0x170, 4),
    ("s_log_groups_per_flex", 0x174, 1),
    ("s_error_count", 0x194, 4),
    ("s_overhead_blocks", 0x248, 4),
    ("s_backup_bgs", 0x24C, 4),
    ("s_encrypt_algos", 0x254, 4),
    ("s_lpf_ino", 0x268, 4),
    ("s_orphan_file_inum", 0x280, 4),
];

#[test]
fn each_field_of_a_superblock_with_a_checksum_may_hold_anything() {
    damage_superblocks("metadata_csum,64bit,orphan_file", &["inject", "recover", "scrub"]);
}

#[test]
fn each_field_of_a_superblock_without_a_checksum_may_hold_anything() {
    damage_superblocks("^metadata_csum,^64bit", &["inject"]);
}

/// Puts odd values into each field of the superblock of a file system with these features, one at a time; its checksum,
/// if it has one, is set right.
fn damage_superblocks(features: &str, commands: &[&str]) {
    let scratch = scratch();
    let good = fs::read(small_root(&scratch, "good.img", 4 * MIB, "nixos", &["-O", features])).unwrap();
    for (name, field, size) in FIELDS {
        for value in [0, 3, 65535, u64::from(u32::MAX)] {
            let mut bytes = good.clone();
            put(&mut bytes, 1024 + field, value, size);
            if bytes == good {
                continue;
            }
            if !features.starts_with('^') {
                // s_checksum: CRC32C of all that stands before it, without the final inversion.
                let checksum = !crc32c::crc32c(&bytes[1024..1024 + 0x3FC]);
                put(&mut bytes, 1024 + 0x3FC, u64::from(checksum), 4);
            }
            survive(&scratch, &format!("{name} = {value}, {features}"), &bytes, commands);
        }
    }
}

/// Sets right the checksums of both headers, over a table of entries where the header says so, as far as that is
/// possible.
fn mend_gpt(bytes: &mut [u8]) {
    let checksum = |bytes: &[u8]| u64::from(!crc32(!0, bytes));
    let last = bytes.len() - 512;
    for header in [512, last] {
        let number = |at: usize, size: usize| {
            let mut raw = [0; 8];
            raw[..size].copy_from_slice(&bytes[header + at..header + at + size]);
            u64::from_le_bytes(raw)
        };
        let (start, count, size) = (number(72, 8).checked_mul(512), number(80, 4), number(84, 4));
        let end = count.checked_mul(size).and_then(|length| length.checked_add(start?));
        let range =
            start.zip(end).and_then(|(start, end)| Some((usize::try_from(start).ok()?, usize::try_from(end).ok()?)));
        let entries = range.and_then(|(start, end)| bytes.get(start..end)).map(checksum);
        if let Some(sum) = entries {
            put(bytes, header + 88, sum, 4);
        }
        put(bytes, header + 16, 0, 4);
        let sum = checksum(&bytes[header..header + 92]);
        put(bytes, header + 16, sum, 4);
    }
}

#[test]
fn a_gpt_may_hold_anything() {
    let scratch = scratch();
    let root = small_root(&scratch, "root.ext4", 4 * MIB, "nixos", &[]);
    let path = scratch.join("good.img");
    disk(&path, 6 * MIB, "label: gpt\n start=2048, size=8192, type=linux\n", &[(MIB, &root)]);
    let good = fs::read(&path).unwrap();
    assert!(survive(&scratch, "as it was made", &good, &["inject"]));
    let entries = 1024;
    let big = 1_u64 << 31;
    let most = u64::MAX;
    for (name, at, values, size) in [
        ("header size", 524, &[0, 91, 93, 512, 513, big][..], 4),
        ("revision", 520, &[0, big], 4),
        ("this header's place", 536, &[0, 2, most, big], 8),
        ("the other header's place", 544, &[0, 1, most, big], 8),
        ("first usable", 552, &[0, most, big], 8),
        ("last usable", 560, &[0, most, big], 8),
        ("place of the entries", 584, &[0, 1, 12_287, 12_288, most, most / 512, big], 8),
        ("number of entries", 592, &[0, 1, 3, 65535, big, u64::from(u32::MAX)], 4),
        ("size of an entry", 596, &[0, 1, 3, 127, 129, 256, 4096, 65535, big, u64::from(u32::MAX)], 4),
        ("start of a partition", entries + 32, &[0, 1, 12_287, 12_288, big, most], 8),
        ("end of a partition", entries + 40, &[0, 2047, 2048, 12_288, big, most], 8),
        ("attributes", entries + 48, &[most], 8),
    ] {
        for value in values {
            let mut bytes = good.clone();
            put(&mut bytes, at, *value, size);
            survive(&scratch, &format!("{name} = {value}, checksum wrong"), &bytes, &["inject"]);
            mend_gpt(&mut bytes);
            survive(&scratch, &format!("{name} = {value}, checksum right"), &bytes, &["inject"]);
            // The other copy as well, so that it cannot help out.
            let last = bytes.len() - 512;
            if at < 1024 && at != 536 && at != 544 && at != 584 {
                put(&mut bytes, last + at - 512, *value, size);
                mend_gpt(&mut bytes);
                survive(&scratch, &format!("{name} = {value}, in both copies"), &bytes, &["inject"]);
            }
        }
    }
    // Every entry the same partition, every name of 36 odd letters.
    let mut bytes = good.clone();
    let mut entry = good[entries..entries + 128].to_vec();
    entry[56..].fill(0x1b);
    (0..128).for_each(|at| bytes[entries + at * 128..entries + (at + 1) * 128].copy_from_slice(&entry));
    mend_gpt(&mut bytes);
    survive(&scratch, "128 partitions in one place", &bytes, &["inject"]);
}

#[test]
fn an_mbr_may_hold_anything() {
    let scratch = scratch();
    let root = small_root(&scratch, "root.ext4", 4 * MIB, "nixos", &[]);
    let path = scratch.join("good.img");
    disk(&path, 6 * MIB, "label: dos\n start=2048, size=8192, type=83\n", &[(MIB, &root)]);
    let good = fs::read(&path).unwrap();
    assert!(survive(&scratch, "as it was made", &good, &["inject"]));
    /// One entry of a table: its kind, its first sector, its length.
    fn entry(bytes: &mut [u8], table: usize, slot: usize, kind: u8, start: u64, length: u64) {
        let at = table + 446 + slot * 16;
        bytes[at..at + 16].fill(0);
        bytes[at + 4] = kind;
        put(bytes, at + 8, start, 4);
        put(bytes, at + 12, length, 4);
        bytes[table + 510..table + 512].copy_from_slice(&[0x55, 0xaa]);
    }
    let most = u64::from(u32::MAX);
    for (name, kind, start, length) in [
        ("nothing at the start", 0x83, 0, 8192),
        ("no length", 0x83, 2048, 0),
        ("all there is", 0x83, most, most),
        ("outside", 0x83, 1 << 31, 1 << 31),
        ("beyond the end", 0x83, 2048, 1 << 31),
        ("a GPT that is not there", 0xEE, 1, most),
        ("extended at the table itself", 0x05, 0, most),
        ("extended outside", 0x0F, 1 << 31, 1 << 31),
        ("extended into the root", 0x05, 2048, 8192),
    ] {
        let mut bytes = good.clone();
        entry(&mut bytes, 0, 0, kind, start, length);
        survive(&scratch, name, &bytes, &["inject"]);
        entry(&mut bytes, 0, 1, 0x83, 2048, 8192);
        survive(&scratch, &format!("{name}, and the root"), &bytes, &["inject"]);
    }
    // Logical partitions in a ring: of one table, of two, and of as many as there is room for.
    for ring in [1, 2, 1000] {
        let mut bytes = good.clone();
        let start = 10_000;
        entry(&mut bytes, 0, 1, 0x05, start, 2000);
        for at in 0..ring {
            let table = usize::try_from(start).unwrap() * 512 + at * 512;
            entry(&mut bytes, table, 0, 0x83, 1, 1);
            entry(&mut bytes, table, 1, 0x05, u64::try_from((at + 1) % ring).unwrap(), 1);
        }
        survive(&scratch, &format!("a ring of {ring}"), &bytes, &["inject"]);
    }
    let mut bytes = good;
    (0..4).for_each(|slot| entry(&mut bytes, 0, slot, 0x0F, 10_000, 2000));
    survive(&scratch, "four extended partitions", &bytes, &["inject"]);
}

#[test]
fn compressed_images_that_lie_about_their_size_are_bounded() {
    let scratch = scratch();
    // RFC 8878, 3.1.1.1: magic, a descriptor with an 8-byte content size and no checksum, a window of 2 GiB, that size.
    let mut lie = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1100_0000, 0b1010_1000];
    lie.extend_from_slice(&u64::MAX.to_le_bytes());
    lie.extend_from_slice(&[1, 0, 0]);
    assert!(!survive(&scratch, "2^64 - 1 bytes, a window of 2 GiB", &lie, &["inject"]));
    // A terabyte of zeros in a few kilobytes: as large as it says, and sparse.
    let mut zeros = vec![0x28, 0xb5, 0x2f, 0xfd, 0b0000_0000, 0b0101_1000];
    for _ in 0..20_000 {
        // A block of 128 KiB that repeats one byte.
        zeros.extend_from_slice(&[0x02, 0x00, 0x10, 0x00]);
    }
    zeros.extend_from_slice(&[0x03, 0x00, 0x10, 0x00]);
    survive(&scratch, "2.5 GiB of zeros", &zeros, &["inject"]);
    survive(&scratch, "only a magic", &zeros[..4], &["inject"]);
    survive(&scratch, "a skippable frame", &[0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff], &["inject"]);
}
