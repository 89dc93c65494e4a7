//! Single transactions that are made by hand: what our log says, replayed by e2fsck and by the kernel; and logs that
//! reach around the ring's end, replayed by us and by them.

use std::fs;
use std::sync::Arc;

use deaddrop_core::secret::Wiped;
use deaddrop_image::journal::commit::Block;
use deaddrop_image::journal::superblock::JournalSuperblock;
use deaddrop_image::journal::transaction::{Logged, encode};
use deaddrop_image::journal::{MAGIC, put_be32};

use super::bench::{Case, Change, Desk, Journal, Layout, TIME, mounted, open, read, record, tool};
use super::judge::{fsck, preen};
use super::log::{Op, prefixes};
use crate::kit::shout;

/// Feature bits of a journal, and what mke2fs needs for it.
const JOURNALS: &[(&str, u32, &str)] = &[
    ("no checksums", 0, "-t ext4 -b 1024 -O ^metadata_csum,^64bit"),
    ("64bit", 2, "-t ext4 -b 1024 -O ^metadata_csum,64bit"),
    ("v2", 8, "-t ext4 -b 1024 -O ^64bit"),
    ("v2, 64bit", 8 | 2, "-t ext4 -b 2048"),
    ("v3", 16 | 1, "-t ext4 -b 2048 -O ^64bit"),
    ("v3, 64bit", 16 | 2, "-t ext4 -b 1024"),
];

fn case(features: u32, arguments: &'static str) -> Case {
    let journal = Journal::Features(features);
    Layout {
        name: "by hand",
        arguments,
        size: "6M",
        journal,
        change: Change::First,
        values: 1,
        spare: None,
        labelled: false,
    }
    .make()
}

/// The blocks of a file, by debugfs.
fn blocks_of(desk: &Desk, path: &str) -> Vec<u64> {
    let said = tool("debugfs", &["-R", &format!("blocks {path}"), desk.image.to_str().unwrap()]);
    said.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// A file's content, as each of the three replays it from `image`: by us, by e2fsck, by the kernel.
fn by_all(image: &[u8], path: &str, desk: &Desk) -> Vec<(&'static str, Vec<u8>)> {
    let ours = open(Arc::new(image.to_vec())).unwrap();
    ours.check_writable().unwrap();
    let (content, _) = read(&ours, path).unwrap().unwrap();
    let mut all = vec![("deaddrop", content)];
    let repaired = preen(image, desk).unwrap_or_else(|e| panic!("{e}"));
    fsck(&repaired, desk).unwrap_or_else(|e| panic!("{e}"));
    let (content, _) = read(&open(Arc::new(repaired)).unwrap(), path).unwrap().unwrap();
    all.push(("e2fsck", content));
    desk.lay(image);
    let mut content = None;
    if mounted(&desk.image, |root| content = fs::read(root.join(&path[1..])).ok()) {
        fsck(&desk.take(), desk).unwrap_or_else(|e| panic!("after the kernel: {e}"));
        all.push(("the kernel", content.unwrap_or_default()));
    } else {
        shout("SKIPPED: only root can mount an image: the kernel did not replay");
    }
    all
}

#[test]
fn a_logged_block_that_looks_like_the_journals_own_comes_back_whole() {
    for (name, features, arguments) in JOURNALS {
        let case = case(*features, arguments);
        let desk = Desk::new();
        desk.lay(&case.base);
        let blocks = blocks_of(&desk, "/etc/file-23");
        let mut transaction = case.transaction(&Arc::new(case.base.clone())).unwrap();
        // Nothing but this: the file's first block begins with the magic, as a log's block does.
        transaction.changes.new.clear();
        transaction.changes.logged.clear();
        let at = blocks[0] as usize * case.block_size;
        let mut bytes = case.base[at..at + case.block_size].to_vec();
        put_be32(&mut bytes, 0, MAGIC);
        put_be32(&mut bytes, 4, 2);
        let number = blocks[0];
        transaction.changes.logged.push(Block { number, bytes: Wiped::from(bytes.clone()) });
        let log = record(transaction);
        let point = case.commit_point(&log);
        // Up to the commit point: everything must come out of the log.
        let state = &prefixes(&log).into_iter().find(|state| state.has(point)).unwrap();
        for (who, content) in by_all(&state.image(&case.base, &log), "/etc/file-23", &desk) {
            let size = bytes.len().min(content.len());
            assert!(content[..size] == bytes[..size], "{name}: {who} replays something else");
        }
    }
}

#[test]
fn as_many_tags_as_a_descriptor_holds_and_one_more_are_replayed() {
    for (name, features, arguments) in JOURNALS {
        let case = case(*features, arguments);
        let desk = Desk::new();
        desk.lay(&case.base);
        // A file that is large enough for some descriptors full of its blocks.
        let content = desk.image.with_extension("content");
        fs::write(&content, vec![b'x'; 600 * case.block_size]).unwrap();
        let command = format!("write {} large", content.display());
        tool("debugfs", &["-w", "-R", &command, desk.image.to_str().unwrap()]);
        let case = Case::new("large", fs::read(&desk.image).unwrap(), case.values, None);
        let desk = Desk::new();
        desk.lay(&case.base);
        let blocks: Vec<u64> = blocks_of(&desk, "/large");
        let per_descriptor = tags_per_descriptor(*features, case.block_size);
        for count in [1, per_descriptor, per_descriptor + 1, 2 * per_descriptor].into_iter().filter(|n| *n < 580) {
            let mut transaction = case.transaction(&Arc::new(case.base.clone())).unwrap();
            transaction.changes.new.clear();
            transaction.changes.logged.clear();
            // Without extents a file's blocks that map others are listed among its own.
            let data: Vec<u64> =
                blocks.iter().copied().filter(|number| case.base[*number as usize * case.block_size] == b'x').collect();
            for number in &data[..count] {
                let bytes = Wiped::from(number.to_be_bytes().repeat(case.block_size / 8));
                transaction.changes.logged.push(Block { number: *number, bytes });
            }
            let log = record(transaction);
            let point = case.commit_point(&log);
            let state = &prefixes(&log).into_iter().find(|state| state.has(point)).unwrap();
            for (who, content) in by_all(&state.image(&case.base, &log), "/large", &desk) {
                for (number, block) in data.iter().zip(content.chunks(case.block_size)).take(count) {
                    assert!(block.starts_with(&number.to_be_bytes()), "{name}, {count} tags: {who}: block {number}");
                }
                assert_eq!(content[count * case.block_size], b'x', "{name}, {count} tags: {who}: one more");
            }
        }
    }
}

/// Kernel, `journal_tag_bytes`: by the number of its bytes, a UUID, a header and a tail left out.
fn tags_per_descriptor(features: u32, block_size: usize) -> usize {
    let (tag, tail) = match features & 0x1A {
        0 => (8, 0),
        2 => (12, 0),
        8 => (10, 4),
        10 => (14, 4),
        _ => (16, 4),
    };
    (block_size - 12 - 16 - tail) / tag
}

#[test]
fn a_log_around_the_rings_end_is_replayed_as_the_others_do() {
    for (name, features, arguments) in JOURNALS {
        let case = case(*features, arguments);
        let desk = Desk::new();
        desk.lay(&case.base);
        let file = blocks_of(&desk, "/etc/file-23")[0];
        let directory_block = file as usize * case.block_size;
        let mut image = case.base.clone();
        let at = case.journal_at() as usize;
        let mapped = case.journal.len() as u64;
        let mut superblock = JournalSuperblock::parse(&image[at..], case.block_size as u32, mapped).unwrap();
        // Two transactions; the second overtakes the first in the same block. The first reaches around the end.
        let start = superblock.end() - 2;
        let mut place = start;
        for (sequence, letter) in [(90_u32, b'1'), (91, b'2')] {
            let bytes = vec![letter; case.block_size];
            let others = &image[directory_block..directory_block + case.block_size].to_vec();
            let images = [Logged { block: file, bytes: others }, Logged { block: file, bytes: &bytes }];
            for block in encode(&superblock, case.block_size, sequence, &images, TIME) {
                let physical = case.journal[place as usize] as usize * case.block_size;
                image[physical..physical + case.block_size].copy_from_slice(&block);
                place = if place + 1 == superblock.end() { superblock.first } else { place + 1 };
            }
        }
        superblock.set_log(start, 90);
        image[at..at + superblock.bytes().len()].copy_from_slice(superblock.bytes());
        let raw: &[u8; 1024] = image[1024..2048].first_chunk().unwrap();
        let flagged = deaddrop_image::ext4::format::superblock::with_recovery(raw, true);
        image[1024..2048].copy_from_slice(&flagged);
        for (who, content) in by_all(&image, "/etc/file-23", &desk) {
            assert_eq!(content[0], b'2', "{name}: {who}");
        }
    }
}

#[test]
fn transactions_that_nothing_says_to_wait_are_not_ours_to_drop() {
    let case = case(0, "-t ext4 -b 1024 -O ^metadata_csum,^64bit");
    let log = case.log();
    let state = prefixes(&log).into_iter().find(|state| state.has(case.commit_point(&log))).unwrap();
    let mut image = state.image(&case.base, &log);
    image[1024 + 0x60] &= !4;
    let error = open(Arc::new(image)).unwrap().check_writable().unwrap_err();
    assert!(error.to_string().contains("its journal holds transactions"), "{error}");
    assert!(log.iter().any(|op| matches!(op, Op::Flush)));
}
