//! Where the structures of an ext4 image lie, and how their checksums are made right: so that a lie in one of them is
//! not found by its checksum, but has to be found by what it says. Written for the tests, from the kernel's
//! documentation of ext4 ("Checksums"), so that it shares nothing with what it tests.

use super::input::Pages;

/// A structure: where it starts, in bytes, and how long it is.
#[derive(Clone, Debug)]
pub enum Part {
    Superblock,
    Descriptor {
        at: usize,
        group: u32,
        size: usize,
    },
    BlockBitmap {
        at: usize,
        size: usize,
        descriptor: usize,
    },
    InodeBitmap {
        at: usize,
        size: usize,
        descriptor: usize,
    },
    Inode {
        at: usize,
        number: u32,
        size: usize,
    },
    Directory {
        at: usize,
        owner: usize,
        number: u32,
        size: usize,
    },
    Extents {
        at: usize,
        owner: usize,
        number: u32,
        size: usize,
    },
    Indirect {
        at: usize,
        size: usize,
    },
    /// The journal's superblock.
    Journal {
        at: usize,
    },
    /// A block of its log.
    Log {
        at: usize,
        size: usize,
    },
}

impl Part {
    pub fn start(&self) -> usize {
        match self {
            Self::Superblock => 1024,
            Self::Descriptor { at, .. }
            | Self::BlockBitmap { at, .. }
            | Self::InodeBitmap { at, .. }
            | Self::Inode { at, .. }
            | Self::Directory { at, .. }
            | Self::Extents { at, .. }
            | Self::Indirect { at, .. }
            | Self::Journal { at }
            | Self::Log { at, .. } => *at,
        }
    }

    pub fn size(&self) -> usize {
        match self {
            Self::Superblock => 1024,
            Self::Journal { .. } => 0x100,
            Self::Descriptor { size, .. }
            | Self::BlockBitmap { size, .. }
            | Self::InodeBitmap { size, .. }
            | Self::Inode { size, .. }
            | Self::Directory { size, .. }
            | Self::Extents { size, .. }
            | Self::Indirect { size, .. }
            | Self::Log { size, .. } => *size,
        }
    }

    /// Kinds, so that each is chosen as often as the others.
    pub fn kind(&self) -> usize {
        match self {
            Self::Superblock => 0,
            Self::Descriptor { .. } => 1,
            Self::BlockBitmap { .. } | Self::InodeBitmap { .. } => 2,
            Self::Inode { .. } => 3,
            Self::Directory { .. } => 4,
            Self::Extents { .. } | Self::Indirect { .. } => 5,
            Self::Journal { .. } => 6,
            Self::Log { .. } => 7,
        }
    }
}

/// The structures of a sound image.
pub struct Layout {
    pub parts: Vec<Part>,
    has_checksums: bool,
    is_64bit: bool,
    inode_size: usize,
}

fn le16(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Layout {
    /// Finds them. Of an image that the tests made: whatever is odd is a panic.
    pub fn of(image: &[u8]) -> Self {
        let sb = &image[1024..2048];
        let block = 1024_usize << le32(sb, 0x18);
        let is_64bit = le32(sb, 0x60) & 0x80 != 0;
        let descriptor_size = if is_64bit { le16(sb, 0xFE) as usize } else { 32 };
        let inode_size = le16(sb, 0x58) as usize;
        let per_group = le32(sb, 0x28);
        let first_block = le32(sb, 0x14) as usize;
        let blocks_per_group = le32(sb, 0x20) as usize;
        let groups = (le32(sb, 0x4) as usize - first_block).div_ceil(blocks_per_group);
        let meta_bg = le32(sb, 0x60) & 0x10 != 0;
        let has_checksums = le32(sb, 0x64) & 0x400 != 0;
        let mut layout = Self { parts: vec![Part::Superblock], has_checksums, is_64bit, inode_size };
        let per_block = block / descriptor_size;
        for group in 0..groups {
            let table = if meta_bg {
                // The first group of each meta group holds its descriptors, behind a superblock if it has one.
                let first = group / per_block * per_block;
                let start = first_block + first * blocks_per_group;
                start + usize::from(first == 0 || has_backup(first))
            } else {
                first_block + 1 + group / per_block
            };
            let at = table * block + group % per_block * descriptor_size;
            layout.parts.push(Part::Descriptor { at, group: group as u32, size: descriptor_size });
            let flags = le16(image, at + 0x12);
            if flags & 2 == 0 {
                let place = le32(image, at) as usize * block;
                layout.parts.push(Part::BlockBitmap { at: place, size: blocks_per_group / 8, descriptor: at });
            }
            if flags & 1 == 0 {
                let place = le32(image, at + 4) as usize * block;
                layout.parts.push(Part::InodeBitmap { at: place, size: per_group as usize / 8, descriptor: at });
                layout.add_inodes(
                    image,
                    block,
                    le32(image, at + 8) as usize * block,
                    group as u32 * per_group,
                    per_group,
                );
            }
        }
        layout
    }

    fn add_inodes(&mut self, image: &[u8], block: usize, table: usize, before: u32, count: u32) {
        for index in 0..count {
            let number = before + index + 1;
            let at = table + index as usize * self.inode_size;
            let mode = le16(image, at);
            let in_use = mode != 0 && le16(image, at + 0x1A) != 0;
            if !in_use || (number < 11 && !matches!(number, 2 | 8)) {
                continue;
            }
            self.parts.push(Part::Inode { at, number, size: self.inode_size });
            let flags = le32(image, at + 0x20);
            if flags & 0x1000_0000 != 0 || (mode & 0xF000 == 0xA000 && le32(image, at + 4) < 60) {
                continue;
            }
            let mut blocks = Vec::new();
            if flags & 0x8_0000 != 0 {
                self.extents(image, block, at + 0x28, (at, number), &mut blocks);
            } else {
                for slot in 0..15 {
                    let place = le32(image, at + 0x28 + 4 * slot) as usize;
                    if place != 0 {
                        self.indirect(image, block, place, slot.saturating_sub(11), &mut blocks);
                    }
                }
            }
            for (order, place) in blocks.into_iter().enumerate() {
                let place = place * block;
                if mode & 0xF000 == 0x4000 {
                    self.parts.push(Part::Directory { at: place, owner: at, number, size: block });
                } else if number == 8 && order == 0 {
                    self.parts.push(Part::Journal { at: place });
                } else if number == 8 && order < 40 {
                    self.parts.push(Part::Log { at: place, size: block });
                }
            }
        }
    }

    fn extents(&mut self, image: &[u8], block: usize, node: usize, owner: (usize, u32), blocks: &mut Vec<usize>) {
        let (entries, depth) = (le16(image, node + 2) as usize, le16(image, node + 6));
        for entry in (0..entries).map(|entry| node + 12 + 12 * entry) {
            if depth == 0 {
                let first = le32(image, entry + 8) as usize;
                blocks.extend(first..first + le16(image, entry + 4) as usize);
            } else {
                let at = le32(image, entry + 4) as usize * block;
                self.parts.push(Part::Extents { at, owner: owner.0, number: owner.1, size: block });
                self.extents(image, block, at, owner, blocks);
            }
        }
    }

    fn indirect(&mut self, image: &[u8], block: usize, place: usize, depth: usize, blocks: &mut Vec<usize>) {
        if depth == 0 {
            blocks.push(place);
            return;
        }
        self.parts.push(Part::Indirect { at: place * block, size: block });
        for slot in 0..block / 4 {
            let next = le32(image, place * block + 4 * slot) as usize;
            if next != 0 {
                self.indirect(image, block, next, depth - 1, blocks);
            }
        }
    }
}

/// `sparse_super`: groups 0, 1 and the powers of 3, 5 and 7.
fn has_backup(group: usize) -> bool {
    group <= 1
        || [3, 5, 7]
            .iter()
            .any(|base| std::iter::successors(Some(*base), |n| Some(n * base)).take(8).any(|n| n == group))
}

/// The kernel's crc32c: seeded, not inverted at the end.
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Makes the checksums right of every structure in which one of `touched` (bytes from the start) lies.
pub fn seal(image: &mut Pages, layout: &Layout, touched: &[usize]) {
    let is_touched = |part: &&Part| touched.iter().any(|at| (part.start()..part.start() + part.size()).contains(at));
    let parts: Vec<&Part> = layout.parts.iter().filter(is_touched).collect();
    for part in &parts {
        if let Part::Journal { at } = part {
            seal_journal(image, *at);
        }
    }
    if !layout.has_checksums {
        return;
    }
    let seed = if image.u32(1024 + 0x60) & 0x2000 != 0 {
        image.u32(1024 + 0x270)
    } else {
        crc(!0, &image.get(1024 + 0x68, 16))
    };
    for part in &parts {
        match **part {
            Part::Inode { at, number, size } => seal_inode(image, seed, at, number, size),
            Part::Directory { at, owner, number, size } => {
                let seed = owned(image, seed, owner, number);
                seal_directory(image, seed, at, size);
            }
            Part::Extents { at, owner, number, size } => {
                let seed = owned(image, seed, owner, number);
                let end = (12 + 12 * usize::from(image.u16(at + 4))).min(size - 4);
                let sum = crc(seed, &image.get(at, end));
                image.put(at + end, &sum.to_le_bytes());
            }
            Part::BlockBitmap { at, size, descriptor } => {
                let sum = crc(seed, &image.get(at, size)).to_le_bytes();
                put_halves(image, layout, descriptor, 0x18, 0x38, sum);
            }
            Part::InodeBitmap { at, size, descriptor } => {
                let sum = crc(seed, &image.get(at, size)).to_le_bytes();
                put_halves(image, layout, descriptor, 0x1A, 0x3A, sum);
            }
            _ => {}
        }
    }
    // A bitmap's checksum is in its descriptor.
    let descriptors = parts.iter().filter_map(|part| match part {
        Part::Descriptor { at, .. } => Some(*at),
        Part::BlockBitmap { descriptor, .. } | Part::InodeBitmap { descriptor, .. } => Some(*descriptor),
        _ => None,
    });
    for wanted in descriptors {
        for part in &layout.parts {
            if let Part::Descriptor { at, group, size } = part
                && *at == wanted
            {
                let mut bytes = image.get(*at, *size);
                bytes[0x1E..0x20].fill(0);
                let sum = crc(crc(seed, &group.to_le_bytes()), &bytes).to_le_bytes();
                image.put(*at + 0x1E, &sum[..2]);
            }
        }
    }
    if parts.iter().any(|part| matches!(part, Part::Superblock)) {
        let sum = crc(!0, &image.get(1024, 0x3FC));
        image.put(1024 + 0x3FC, &sum.to_le_bytes());
    }
}

fn put_halves(image: &mut Pages, layout: &Layout, descriptor: usize, low: usize, high: usize, sum: [u8; 4]) {
    image.put(descriptor + low, &sum[..2]);
    if layout.is_64bit {
        image.put(descriptor + high, &sum[2..]);
    }
}

/// The seed of what an inode owns: its number, then its generation (0x64).
fn owned(image: &Pages, seed: u32, inode: usize, number: u32) -> u32 {
    crc(crc(seed, &number.to_le_bytes()), &image.get(inode + 0x64, 4))
}

fn seal_inode(image: &mut Pages, seed: u32, at: usize, number: u32, size: usize) {
    let seed = owned(image, seed, at, number);
    let mut bytes = image.get(at, size);
    // `i_extra_isize`: the upper half is there from four bytes on.
    let has_high = size > 128 && le16(&bytes, 0x80) >= 4;
    bytes[0x7C..0x7E].fill(0);
    if has_high {
        bytes[0x82..0x84].fill(0);
    }
    let sum = crc(seed, &bytes).to_le_bytes();
    image.put(at + 0x7C, &sum[..2]);
    if has_high {
        image.put(at + 0x82, &sum[2..]);
    }
}

/// A block of names ends with a tail that looks like an entry; a block of an index has its tail behind the entries.
fn seal_directory(image: &mut Pages, seed: u32, at: usize, size: usize) {
    let tail = image.get(at + size - 12, 8);
    if tail == [0, 0, 0, 0, 12, 0, 0, 0xDE] {
        let sum = crc(seed, &image.get(at, size - 12));
        image.put(at + size - 4, &sum.to_le_bytes());
        return;
    }
    let is_node = usize::from(image.u16(at + 4)) == size;
    let counts = if is_node { 8 } else { 0x20 };
    let (limit, count) = (usize::from(image.u16(at + counts)), usize::from(image.u16(at + counts + 2)));
    let tail = counts + 8 * limit;
    if count > limit || tail + 8 > size {
        return;
    }
    let sum = crc(seed, &image.get(at, counts + 8 * count));
    let sum = crc(crc(sum, &image.get(at + tail, 4)), &[0; 4]);
    image.put(at + tail + 4, &sum.to_le_bytes());
}

/// The journal is big-endian, its checksums too; versions 2 and 3 have one in the superblock.
fn seal_journal(image: &mut Pages, at: usize) {
    if u32::from_be_bytes(image.get(at + 0x28, 4).try_into().unwrap()) & 0x18 == 0 {
        return;
    }
    image.put(at + 0xFC, &[0; 4]);
    let sum = crc(!0, &image.get(at, 1024));
    image.put(at + 0xFC, &sum.to_be_bytes());
}
