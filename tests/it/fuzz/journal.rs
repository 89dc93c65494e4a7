//! Journals: a log of our own making, its blocks turned into lies, replayed. However it lies, what a replay reads and
//! brings is bounded by the log, and stays in the file system and out of the journal.

use std::cell::Cell;

use deaddrop_image::journal::superblock::JournalSuperblock;
use deaddrop_image::journal::transaction::{self, Logged};
use deaddrop_image::journal::{Map, REVOKE, Run, crc32c, replay};

use super::engine::Target;
use super::input::{Edit, Input};
use super::rng::Rng;
use super::table::first_words;

const BLOCK: usize = 1024;
/// Blocks of the journal, and where they lie in the file system.
const JOURNAL: u32 = 48;
const AT: u64 = 500;
const FS_BLOCKS: u64 = 2000;

pub struct Journals;

impl Target for Journals {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        let incompat = [0, 2, 8, 10, 16, 18, 1, 3, 19, 0x31][rng.below(10)];
        let start = 1 + rng.next() as u32 % (JOURNAL - 1);
        let mut bytes = superblock(incompat, start);
        bytes.resize(BLOCK * JOURNAL as usize, 0);
        lay_log(rng, &mut bytes, incompat, start);
        let mut input = Input { sealed: !rng.one_in(4), ..Input::made(bytes) };
        let bytes = input.made.as_ref().unwrap();
        for _ in 0..rng.below(5) {
            let width = [1, 2, 4, 4][rng.below(4)];
            let block = if rng.one_in(3) { 0 } else { rng.below(JOURNAL as usize) };
            // What matters is at the start of a block.
            let size = [16, 80, BLOCK][rng.below(3)];
            let inside = rng.below(if block == 0 { 0x100 } else { size });
            let at = (block * BLOCK + inside) / width * width;
            let mut new = rng.field(&bytes[at..at + width], width);
            if rng.one_in(2) {
                new.reverse();
            }
            let edit = Edit::over(at, new);
            input.edits.push(edit);
        }
        input
    }

    fn run(&mut self, input: &Input) -> String {
        let bytes = self.bytes(input);
        let superblock = match JournalSuperblock::parse(&bytes[..BLOCK], BLOCK as u32, u64::from(JOURNAL)) {
            Ok(superblock) => superblock,
            Err(error) => return format!("refused: {}", first_words(&error.to_string())),
        };
        // In two runs, so that the second is elsewhere.
        let runs = [(0, AT, 20), (20, AT + 100, JOURNAL - 20)];
        let runs = runs.map(|(logical, physical, count)| Run { logical, physical, count });
        let map = Map::new(runs.to_vec(), &[AT + 50]).expect("no block twice");
        let (reads, mut puts) = (Cell::new(0_u64), 0_u64);
        let read = |block: u64, buffer: &mut [u8]| {
            reads.set(reads.get() + 1);
            let logical = (0..JOURNAL).find(|logical| map.physical(*logical) == Some(block));
            let at = logical.expect("only the journal is read") as usize * BLOCK;
            buffer.copy_from_slice(&bytes[at..at + BLOCK]);
            Ok(())
        };
        let result = replay::replay(&superblock, &map, BLOCK, FS_BLOCKS, &read, &mut |block, bytes| {
            puts += 1;
            assert!(block < FS_BLOCKS && !map.contains(block), "a replay writes to {block}");
            assert_eq!(bytes.len(), BLOCK);
            Ok(())
        });
        let most = u64::from(JOURNAL);
        assert!(reads.get() <= 5 * most + 5 && puts <= most, "{} blocks read, {puts} brought", reads.get());
        match result {
            Ok(replayed) => {
                assert!(u64::from(replayed.transactions) <= most, "{replayed:?}");
                format!("replayed {} transactions", replayed.transactions.min(3))
            }
            Err(error) => format!("refused: {}", first_words(&error.to_string())),
        }
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        let mut bytes = input.bytes(&[]);
        if input.sealed {
            seal(&mut bytes, &input.edits);
        }
        bytes
    }
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn get(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn superblock(incompat: u32, start: u32) -> Vec<u8> {
    let mut raw = vec![0; BLOCK];
    let fields = [(0, 0xC03B_3998), (4, 4), (0xC, BLOCK as u32), (0x10, JOURNAL), (0x14, 1), (0x18, 7), (0x1C, start)];
    for (at, value) in fields.into_iter().chain([(0x28, incompat), (0x54, u32::from(incompat & 0x20 != 0) * 5)]) {
        put(&mut raw, at, value);
    }
    raw[0x30..0x40].copy_from_slice(b"fedcba9876543210");
    raw[0x50] = 4;
    let sum = crc32c(!0, &raw);
    put(&mut raw, 0xFC, sum);
    raw
}

/// Up to four transactions, some of them with a revoke block, from `start` on and around the ring's end.
fn lay_log(rng: &mut Rng, bytes: &mut [u8], incompat: u32, start: u32) {
    let superblock = JournalSuperblock::parse(&bytes[..BLOCK], BLOCK as u32, u64::from(JOURNAL)).ok();
    let Some(superblock) = superblock else { return };
    let mut at = start;
    for sequence in 7..7 + rng.below(5) as u32 {
        let images: Vec<(u64, Vec<u8>)> = (0..rng.between(1, 6))
            .map(|_| {
                let mut image = vec![rng.next() as u8; BLOCK];
                if rng.one_in(4) {
                    image[..4].copy_from_slice(&0xC03B_3998_u32.to_be_bytes());
                }
                (rng.next() % 400, image)
            })
            .collect();
        let images: Vec<Logged<'_>> = images.iter().map(|(block, bytes)| Logged { block: *block, bytes }).collect();
        let mut log = transaction::encode(&superblock, BLOCK, sequence, &images, 1);
        if rng.one_in(3) {
            let mut revoke = vec![0; BLOCK];
            for (at, value) in [(0, 0xC03B_3998), (4, REVOKE), (8, sequence), (12, 32), (16, 5), (20, 77)] {
                put(&mut revoke, at, value);
            }
            log.insert(0, revoke);
        }
        for block in log {
            let place = at as usize * BLOCK;
            bytes[place..place + BLOCK].copy_from_slice(&block);
            at = if at + 1 >= superblock.end() { 1 } else { at + 1 };
        }
    }
    if incompat & 0x20 != 0 && rng.one_in(2) {
        let area = superblock.end() as usize * BLOCK;
        bytes[area..area + 2].copy_from_slice(&[9, 0]);
        bytes[area + 8] = 7 + rng.below(5) as u8;
    }
}

/// Makes right the checksums of the superblock, and of each descriptor, revoke and commit block that was edited.
fn seal(bytes: &mut [u8], edits: &[Edit]) {
    let has_checksums = get(bytes, 0x28) & 0x18 != 0;
    if !has_checksums {
        return;
    }
    put(bytes, 0xFC, 0);
    let sum = crc32c(!0, &bytes[..1024]);
    put(bytes, 0xFC, sum);
    let seed = crc32c(!0, &bytes[0x30..0x40]);
    for block in edits.iter().map(|edit| edit.at / BLOCK).filter(|block| *block > 0) {
        let whole = &mut bytes[block * BLOCK..(block + 1) * BLOCK];
        let field = match get(whole, 4) {
            1 | 5 => BLOCK - 4,
            2 => 16,
            _ => continue,
        };
        put(whole, field, 0);
        let sum = crc32c(seed, whole);
        put(whole, field, sum);
    }
}
