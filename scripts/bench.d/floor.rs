//! The floor: the cost of the disk alone. As many scattered 4 KiB reads and writes, and as many flushes, as a run of
//! deaddrop makes, in one process; and nothing else.
//!
//!     floor FILE READS WRITES FLUSHES SEED
//!
//! The places are the same in every run with the same SEED, and lie anywhere in FILE, as those of a file system do.

use std::env;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 4096;

/// Numbers without a pattern (Steele, Lea, Flood: SplitMix).
struct Places {
    state: u64,
    blocks: u64,
}

impl Places {
    /// Where the next block starts, in bytes.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % self.blocks) * BLOCK
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let (Some(path), Some(reads), Some(writes), Some(flushes), Some(seed)) =
        (arguments.first(), number(1), number(2), number(3), number(4))
    else {
        return Err(io::Error::other("usage: floor FILE READS WRITES FLUSHES SEED"));
    };
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut places = Places { state: seed, blocks: file.metadata()?.len() / BLOCK };
    let mut block = [0; BLOCK as usize];
    for _ in 0..reads {
        file.read_exact_at(&mut block, places.next())?;
    }
    for flush in 1..=flushes {
        for write in writes * (flush - 1) / flushes..writes * flush / flushes {
            block.fill((seed + write) as u8);
            file.write_all_at(&block, places.next())?;
        }
        file.sync_data()?;
    }
    Ok(())
}
