//! Damage to file systems: which bytes are changed. What the reader and the writer are tried with.

use std::sync::Arc;

use super::base::{Base, bases};
use super::input::{Edit, Input, Pages};
use super::rng::Rng;
use super::seal::{Part, seal};

/// Sound file systems, to be damaged.
pub struct Damage {
    bases: Vec<Base>,
}

/// Inodes whose words matter, so that they are chosen more often: names that the tests' changes meet.
const FIRST_INODES: u32 = 40;

impl Damage {
    pub fn new() -> Self {
        Self { bases: bases() }
    }

    pub fn base(&self, input: &Input) -> &Base {
        &self.bases[input.base]
    }

    /// One to six changes to structures of one of the bases; mostly with their checksums made right.
    pub fn generate(&self, rng: &mut Rng) -> Input {
        let base = rng.below(self.bases.len());
        let mut input = Input { base, sealed: !rng.one_in(5), choice: rng.next(), ..Input::default() };
        for _ in 0..rng.between(1, 6) {
            let edit = self.edit(rng, &self.bases[base]);
            input.edits.push(edit);
        }
        input
    }

    fn edit(&self, rng: &mut Rng, base: &Base) -> Edit {
        if rng.one_in(20) {
            let at = rng.below(base.bytes.len());
            return Edit::over(at, vec![rng.next() as u8]);
        }
        let part = loop {
            let kind = rng.below(8);
            let parts: Vec<&Part> = base.layout.parts.iter().filter(|part| part.kind() == kind).collect();
            let Some(part) = (!parts.is_empty()).then(|| parts[rng.below(parts.len())]) else { continue };
            match part {
                Part::Inode { number, .. } if *number > FIRST_INODES && !rng.one_in(8) => {}
                part => break part,
            }
        };
        let width = [1, 2, 4, 4][rng.below(4)];
        let at = part.start() + Self::inside(rng, part, &base.bytes) / width * width;
        let old = &base.bytes[at..at + width];
        let mut new = match part {
            // Block numbers of elsewhere in the same file system are the lies that go furthest.
            Part::Inode { .. } | Part::Extents { .. } | Part::Indirect { .. } | Part::Descriptor { .. }
                if width == 4 && rng.one_in(3) =>
            {
                let other = &base.layout.parts[rng.below(base.layout.parts.len())];
                let block = 1024 << base.bytes[1024 + 0x18];
                ((other.start() / block) as u32).to_le_bytes().to_vec()
            }
            _ => rng.field(old, width),
        };
        if matches!(part, Part::Journal { .. } | Part::Log { .. }) && rng.one_in(2) {
            new.reverse();
        }
        Edit::over(at, new)
    }

    /// A byte of `part`, the used ones more often.
    fn inside(rng: &mut Rng, part: &Part, bytes: &[u8]) -> usize {
        match part {
            Part::Superblock if rng.one_in(2) => SUPERBLOCK[rng.below(SUPERBLOCK.len())],
            Part::Inode { .. } if rng.one_in(2) => rng.below(0x64),
            Part::Log { .. } if rng.one_in(2) => rng.below(64),
            // One of the first entries: names before it keep the walk on its way.
            Part::Directory { at, size, .. } if rng.one_in(2) => {
                let mut entry = 0;
                for _ in 0..rng.below(12) {
                    let length = usize::from(u16::from_le_bytes([bytes[at + entry + 4], bytes[at + entry + 5]]));
                    if length < 8 || entry + length >= *size {
                        break;
                    }
                    entry += length;
                }
                (entry + rng.below(10)).min(size - 4)
            }
            part => rng.below(part.size() - 3),
        }
    }

    /// The image of an input.
    pub fn image(&self, input: &Input) -> Pages {
        let base = self.base(input);
        let mut image = Pages::new(Arc::clone(&base.bytes));
        for edit in &input.edits {
            image.put(edit.at, &edit.insert);
        }
        if input.sealed {
            seal(&mut image, &base.layout, &input.edits.iter().map(|edit| edit.at).collect::<Vec<_>>());
        }
        image
    }
}

/// Offsets of sizes, counts and flags in the superblock.
const SUPERBLOCK: &[usize] = &[
    0x0, 0x4, 0x8, 0xC, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x38, 0x3A, 0x4C, 0x54, 0x58, 0x5A, 0x5C, 0x60, 0x64,
    0xCE, 0xE0, 0xE4, 0xE8, 0xFC, 0xFE, 0x100, 0x104, 0x150, 0x154, 0x158, 0x15C, 0x15E, 0x174, 0x175, 0x24C, 0x250,
    0x270, 0x280,
];
