//! A block map, by which bmaptool writes only a part of a disk: bmap-tools, `BmapCreate.py`, format 2.0.
//!
//! A block that is left out keeps what the medium had there. So only zeros are left out that nobody reads: free blocks
//! of an ext2, ext3 or ext4, and what lies outside of every partition and of the tables. (bmaptool itself leaves out all
//! holes of a file, also those that a file on the disk needs as zeros.)

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use deaddrop_core::error::StorageError;
use sha2::{Digest, Sha256};

use super::hexadecimal;
use crate::ext4::Ext4;
use crate::open::disk::DiskImage;
use crate::open::spool::is_zero;

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Blocks that are read at a time.
const MANY: u64 = 256;
/// What may have partition tables, at the start and at the end of a disk: more than any has.
const TABLES: u64 = 1 << 20;

/// The block map of the disk of `image`.
pub(super) fn of(image: &DiskImage) -> Result<String, StorageError> {
    let size = image.size();
    let unused = unused(image);
    let (mut mapped, mut body) = (0_u64, String::new());
    let mut range: Option<(u64, u64, Sha256)> = None;
    let mut close = |range: Option<(u64, u64, Sha256)>| {
        if let Some((first, last, hasher)) = range {
            let digest = hexadecimal(hasher);
            mapped = mapped.saturating_add(last.saturating_sub(first)).saturating_add(1);
            let blocks = if first == last { first.to_string() } else { format!("{first}-{last}") };
            // Writing to a string does not fail.
            let _ = writeln!(body, "        <Range chksum=\"{digest}\"> {blocks} </Range>");
        }
    };
    let disk = image.disk();
    let reading = |e| StorageError::io(format!("reading {}", image.name()), e);
    let mut buffer = vec![0; usize::try_from(BLOCK * MANY).unwrap_or_default()];
    let mut at = 0;
    while at < size {
        let end = at.saturating_add(BLOCK * MANY).min(size);
        let chunk = buffer.get_mut(..usize::try_from(end - at).unwrap_or_default()).unwrap_or_default();
        match disk.next_data(at..end).map_err(reading)? {
            None if covers(&unused, &(at..end)) => {
                close(range.take());
                at = end;
                continue;
            }
            None => chunk.fill(0),
            Some(_) => disk.read_exact_at(at, chunk).map_err(reading)?,
        }
        for (number, bytes) in (at / BLOCK..).zip(chunk.chunks(usize::try_from(BLOCK).unwrap_or(usize::MAX))) {
            let start = number.saturating_mul(BLOCK);
            if is_zero(bytes) && covers(&unused, &(start..start.saturating_add(BLOCK).min(size))) {
                close(range.take());
                continue;
            }
            let (first, _, mut hasher) = range.take().unwrap_or_else(|| (number, number, Sha256::new()));
            hasher.update(bytes);
            range = Some((first, number, hasher));
        }
        at = end;
    }
    close(range);
    Ok(text(size, mapped, &body))
}

/// With the digest of itself: "calculated with this field being zeros".
fn text(size: u64, mapped: u64, body: &str) -> String {
    let with = |digest: &str| {
        format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n    <ImageSize> {size} </ImageSize>\n    <BlockSize> \
             {BLOCK} </BlockSize>\n    <BlocksCount> {} </BlocksCount>\n    <MappedBlocksCount> {mapped} \
             </MappedBlocksCount>\n    <ChecksumType> sha256 </ChecksumType>\n    <BmapFileChecksum> {digest} \
             </BmapFileChecksum>\n    <BlockMap>\n{body}    </BlockMap>\n</bmap>\n",
            size.div_ceil(BLOCK)
        )
    };
    let zeros = with(&"0".repeat(64));
    with(&hexadecimal(Sha256::new_with_prefix(zeros)))
}

/// The parts of a disk whose content means nothing, in order. Empty if that is not known.
fn unused(image: &DiskImage) -> Vec<Range<u64>> {
    let mut unused = Vec::new();
    let mut partitions: Vec<_> = image.table().partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.start);
    let last = image.size().saturating_sub(TABLES);
    let mut end = TABLES;
    for partition in &partitions {
        if end < partition.start {
            unused.push(end..partition.start.min(last).max(end));
        }
        end = end.max(partition.start.saturating_add(partition.size));
        let is_ext = partition.file_system.as_ref().is_some_and(|found| found.kind.is_ext());
        let section = image.partition(partition).ok().filter(|_| is_ext);
        if let Some(free) = section.and_then(|section| Ext4::open(Arc::new(section)).ok()?.free_ranges().ok()) {
            let start = partition.start;
            unused.extend(
                free.into_iter().map(|range| start.saturating_add(range.start)..start.saturating_add(range.end)),
            );
        }
    }
    if end < last {
        unused.push(end..last);
    }
    unused
}

/// True if one of the sorted `ranges` covers all of `part`.
fn covers(ranges: &[Range<u64>], part: &Range<u64>) -> bool {
    let before = ranges.partition_point(|range| range.start <= part.start);
    before.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| part.end <= range.end)
}
