//! Files with holes: where the parts of one lie that are in the archive. The GNU tar manual, "Storing Sparse Files".

use super::header::{BLOCK, Block, GNU_MORE, GNU_REAL_SIZE, GNU_SPARSE, STEP, number, put_number};
use super::records::{self, Record, decimal};

/// Maximum number of parts of a file.
pub(super) const MOST_PARTS: usize = 1 << 18;
/// Maximum number of blocks of an old GNU map, each of 21 parts.
const MOST_BLOCKS: u64 = 1 << 14;
/// Maximum size of a file, in bytes: ext4's, with blocks of 4 KiB.
const MOST_SIZE: u64 = 16 << 40;

/// The parts of a file that are in the archive, and the size of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// Size of the file with its holes, in bytes.
    pub(super) size: u64,
    /// Offset in the file and number of bytes of each part; sorted, and they do not overlap.
    pub(super) parts: Vec<(u64, u64)>,
    /// Bytes that precede the parts in the entry's data.
    pub(super) skip: u64,
}

/// Reads the block at an offset in the entry's data; `None` if it is not there.
pub(super) type ReadBlock<'a> = &'a dyn Fn(u64) -> Option<[u8; BLOCK]>;

impl Map {
    /// Checks the parts of a file of `size` bytes, whose entry has `stored` bytes of data.
    fn checked(size: u64, parts: Vec<(u64, u64)>, skip: u64, stored: u64) -> Option<Self> {
        let mut end = 0;
        let mut sum = skip;
        for (offset, length) in &parts {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        let fits = end <= size && size <= MOST_SIZE && sum == stored && parts.len() <= MOST_PARTS;
        fits.then_some(Self { size, parts, skip })
    }

    /// The map of an old GNU sparse entry, which is in the header and in blocks that follow it. Returns the number of
    /// these blocks too. `stored` are the bytes of data behind them.
    pub(super) fn of_gnu(block: &Block, stored: u64, read: ReadBlock<'_>) -> Option<(Self, u64)> {
        let mut parts = Vec::new();
        let mut more = block.0[GNU_MORE] != 0;
        add_parts(&block.0[GNU_SPARSE], &mut parts)?;
        let mut blocks = 0_u64;
        while more {
            let next = read(blocks.checked_mul(STEP)?).filter(|_| blocks < MOST_BLOCKS)?;
            blocks = blocks.checked_add(1)?;
            add_parts(&next[..504], &mut parts)?;
            more = next[504] != 0;
        }
        let size = u64::try_from(block.number(GNU_REAL_SIZE)?).ok()?;
        Self::checked(size, parts, 0, stored).map(|map| (map, blocks))
    }

    /// True if these records are of a sparse file.
    pub(super) fn is_in(records: &[Record]) -> bool {
        records.iter().any(|(key, _)| key.starts_with(b"GNU.sparse."))
    }

    /// The map of a sparse entry in pax form: versions 0.0, 0.1 and 1.0.
    pub(super) fn of_pax(records: &[Record], stored: u64, read: ReadBlock<'_>) -> Option<Self> {
        if let Some(major) = records::get(records, "GNU.sparse.major") {
            let known = major == b"1" && records::get(records, "GNU.sparse.minor") == Some(b"0");
            let size = decimal(records::get(records, "GNU.sparse.realsize")?).filter(|_| known)?;
            let (numbers, skip) = leading_numbers(stored, read)?;
            return Self::checked(size, pairs(&numbers)?, skip, stored);
        }
        let size = decimal(records::get(records, "GNU.sparse.size")?)?;
        let numbers = match records::get(records, "GNU.sparse.map") {
            Some(b"") => Vec::new(),
            Some(map) => map.split(|byte| *byte == b',').map(decimal).collect::<Option<Vec<u64>>>()?,
            None => {
                let of_map = |key: &[u8]| key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes";
                records.iter().filter(|(key, _)| of_map(key)).map(|(_, value)| decimal(value)).collect::<Option<_>>()?
            }
        };
        Self::checked(size, pairs(&numbers)?, 0, stored)
    }
}

/// Parts of an old GNU map: two numbers of 12 bytes each. The first without a size and an offset is the end.
fn add_parts(bytes: &[u8], parts: &mut Vec<(u64, u64)>) -> Option<()> {
    for pair in bytes.chunks_exact(24) {
        if pair.iter().all(|byte| *byte == 0) {
            break;
        }
        let (offset, length) = pair.split_at(12);
        parts.push((u64::try_from(number(offset)?).ok()?, u64::try_from(number(length)?).ok()?));
    }
    (parts.len() <= MOST_PARTS).then_some(())
}

/// The map of version 1.0: decimal numbers, each with a newline, the first one how many parts follow; padded to a whole
/// block. Returns the numbers of the parts, and the size of it all.
fn leading_numbers(stored: u64, read: ReadBlock<'_>) -> Option<(Vec<u64>, u64)> {
    let mut numbers: Vec<u64> = Vec::new();
    let mut digits = Vec::new();
    let mut at = 0_u64;
    loop {
        if at.checked_add(STEP)? > stored {
            return None;
        }
        let block = read(at)?;
        at = at.checked_add(STEP)?;
        for byte in block {
            match byte {
                b'\n' => {
                    numbers.push(decimal(&digits)?);
                    digits.clear();
                    let count = usize::try_from(*numbers.first()?).ok().filter(|count| *count <= MOST_PARTS)?;
                    if numbers.len() == count.checked_mul(2)?.checked_add(1)? {
                        numbers.remove(0);
                        return Some((numbers, at));
                    }
                }
                _ if digits.len() < 20 => digits.push(byte),
                _ => return None,
            }
        }
    }
}

/// Writes a map into a header of old GNU form; returns the blocks that follow it.
pub(super) fn put_gnu(block: &mut Block, parts: &[(u64, u64)]) -> Vec<u8> {
    let put = |field: &mut [u8], parts: &[(u64, u64)]| {
        field.fill(0);
        for (pair, (offset, size)) in field.chunks_exact_mut(24).zip(parts) {
            let (first, second) = pair.split_at_mut(12);
            put_number(first, *offset, true);
            put_number(second, *size, true);
        }
    };
    let (own, more) = parts.split_at(parts.len().min(4));
    put(&mut block.0[GNU_SPARSE], own);
    block.0[GNU_MORE] = u8::from(!more.is_empty());
    let mut blocks = Vec::new();
    let mut chunks = more.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut next = [0; BLOCK];
        put(&mut next[..504], chunk);
        next[504] = u8::from(chunks.peek().is_some());
        blocks.extend(next);
    }
    blocks
}

/// A map in pax form.
pub(super) struct Written {
    /// All records of the entry.
    pub(super) records: Vec<Record>,
    /// What precedes the parts in the entry's data.
    pub(super) leading: Vec<u8>,
}

/// Writes a map in the form that the records of an entry have: version 0.0, 0.1 or 1.0.
pub(super) fn put_pax(records: &[Record], parts: &[(u64, u64)]) -> Written {
    let mut leading = Vec::new();
    let is_of_map = |key: &[u8]| {
        matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes" | b"GNU.sparse.map" | b"GNU.sparse.numblocks")
    };
    let mut kept: Vec<Record> = records.iter().filter(|(key, _)| !is_of_map(key)).cloned().collect();
    let mut add = |key: &str, value: String| kept.push((key.into(), value.into_bytes()));
    if records::get(records, "GNU.sparse.major").is_some() {
        let numbers = parts.iter().map(|(offset, size)| format!("{offset}\n{size}\n"));
        leading = format!("{}\n{}", parts.len(), numbers.collect::<String>()).into_bytes();
        leading.resize(leading.len().next_multiple_of(BLOCK), 0);
    } else {
        add("GNU.sparse.numblocks", parts.len().to_string());
        if records::get(records, "GNU.sparse.map").is_some() {
            let numbers: Vec<String> = parts.iter().map(|(offset, size)| format!("{offset},{size}")).collect();
            add("GNU.sparse.map", numbers.join(","));
        } else {
            for (offset, size) in parts {
                add("GNU.sparse.offset", offset.to_string());
                add("GNU.sparse.numbytes", size.to_string());
            }
        }
    }
    Written { records: kept, leading }
}

fn pairs(numbers: &[u64]) -> Option<Vec<(u64, u64)>> {
    let whole = numbers.len().is_multiple_of(2);
    whole.then(|| numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_overlap_or_claim_too_much_are_none() {
        for (size, parts, stored, good) in [
            (10, vec![(0, 5), (5, 5)], 10, true),
            (10, vec![(0, 5), (10, 0)], 5, true),
            (10, vec![(0, 5), (4, 5)], 10, false),
            (10, vec![(5, 5), (0, 5)], 10, false),
            (10, vec![(0, 5), (8, 5)], 10, false),
            (10, vec![(0, 5)], 6, false),
            (u64::MAX, vec![(u64::MAX, 1)], 1, false),
            (100 << 40, vec![(0, 1)], 1, false),
        ] {
            assert_eq!(Map::checked(size, parts.clone(), 0, stored).is_some(), good, "{parts:?}");
        }
    }

    #[test]
    fn the_map_of_version_1_may_fill_several_blocks() {
        let mut text = String::from("100\n");
        (0..100).for_each(|part| text += &format!("{}\n1\n", part * 10_000));
        let padded = text.len().next_multiple_of(BLOCK);
        let mut data = text.into_bytes();
        data.resize(padded, 0);
        let read = |at: u64| data.get(usize::try_from(at).ok()?..)?.first_chunk().copied();
        let stored = u64::try_from(padded).unwrap() + 100;
        let (numbers, skip) = leading_numbers(stored, &read).unwrap();
        assert_eq!((numbers.len(), skip), (200, stored - 100));
        assert!(leading_numbers(stored - 101, &read).is_none(), "a map behind the entry's end");
    }
}
