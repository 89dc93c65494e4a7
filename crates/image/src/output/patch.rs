//! The bytes that a commit writes to the disk, checked against their partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use deaddrop_core::bytes::length;
use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use crate::table::Partition;

/// The changed bytes of one partition, by their offset on the disk. Borrowed; they may be secret.
#[derive(Default)]
pub struct Patch<'a> {
    /// Offset on the disk, and bytes; sorted, not adjacent, none empty.
    runs: Vec<(u64, &'a [u8])>,
}

impl<'a> Patch<'a> {
    /// A patch from `(offset in the partition, bytes)`, in any order: the dirty blocks of an overlay.
    ///
    /// # Errors
    /// `Corrupt` if a run is not completely inside the partition, or two runs overlap: nothing may ever be written
    /// outside the partition, whatever a file-system writer does.
    pub fn new(partition: &Partition, blocks: impl IntoIterator<Item = (u64, &'a [u8])>) -> Result<Self, StorageError> {
        let mut runs = Vec::new();
        for (offset, bytes) in blocks {
            let inside = offset.checked_add(length(bytes)).is_some_and(|end| end <= partition.size);
            let Some(start) = partition.start.checked_add(offset).filter(|_| inside) else {
                return Err(StorageError::corrupt(format!(
                    "{} bytes at {offset} would be written beside {}",
                    bytes.len(),
                    partition.title()
                )));
            };
            if !bytes.is_empty() {
                runs.push((start, bytes));
            }
        }
        runs.sort_unstable_by_key(|(start, _)| *start);
        let shared = runs.windows(2).any(|pair| match pair {
            [(first, bytes), (second, _)] => first.saturating_add(length(bytes)) > *second,
            _ => false,
        });
        if shared {
            return Err(StorageError::corrupt(format!("two changes to one place of {}", partition.title())));
        }
        Ok(Self { runs })
    }

    /// True if there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of bytes to write.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.runs.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(length(bytes)))
    }

    /// Writes all of it to a raw disk.
    pub(crate) fn write_to(&self, disk: &File) -> io::Result<()> {
        self.runs.iter().try_for_each(|(start, bytes)| disk.write_all_at(bytes, *start))
    }

    /// Copies the bytes that overlap `chunk`, which was read from `offset` on, into it.
    pub(crate) fn lay_over(&self, offset: u64, chunk: &mut [u8]) {
        let end = offset.saturating_add(length(chunk));
        // The first run that may overlap the chunk: runs do not overlap, so it is at most one before those that start
        // in it.
        let from = self.runs.partition_point(|(start, _)| *start < offset).saturating_sub(1);
        for (start, bytes) in self.runs.iter().skip(from).take_while(|(start, _)| *start < end) {
            let skip = usize::try_from(offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            let at = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let (Some(bytes), Some(room)) = (bytes.get(skip..), chunk.get_mut(at..)) {
                let count = bytes.len().min(room.len());
                // OK to index: `count` is at most the length of both.
                room[..count].copy_from_slice(&bytes[..count]);
            }
        }
    }

    /// True if `chunk`, which was read from `offset` on, has the bytes of the patch that overlap it.
    pub(crate) fn is_in(&self, offset: u64, chunk: &[u8]) -> bool {
        if !self.touches(offset, length(chunk)) {
            return true;
        }
        let mut with = Wiped::from(chunk.to_vec());
        self.lay_over(offset, &mut with);
        with.as_slice() == chunk
    }

    /// True if a byte of the patch is in the `size` bytes from `offset` on.
    pub(crate) fn touches(&self, offset: u64, size: u64) -> bool {
        let end = offset.saturating_add(size);
        let before = self.runs.partition_point(|(start, _)| *start < end);
        let last = before.checked_sub(1).and_then(|last| self.runs.get(last));
        last.is_some_and(|(start, bytes)| start.saturating_add(length(bytes)) > offset)
    }

    /// How many of the `size` bytes from `offset` on come before the first byte of the patch in them.
    pub(crate) fn untouched(&self, offset: u64, size: u64) -> u64 {
        let next = self.runs.partition_point(|(start, bytes)| start.saturating_add(length(bytes)) <= offset);
        self.runs.get(next).map_or(size, |(start, _)| start.saturating_sub(offset).min(size))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::as_conversions)]

    use super::*;

    fn partition(start: u64, size: u64) -> Partition {
        Partition { number: Some(2), start, size, ..Partition::default() }
    }

    #[test]
    fn nothing_is_ever_written_beside_the_partition() {
        let partition = partition(1000, 100);
        for (name, blocks, sound) in [
            ("inside", vec![(0, &b"ab"[..]), (98, b"yz")], true),
            ("out of order", vec![(98, &b"yz"[..]), (0, b"ab")], true),
            ("side by side", vec![(0, &b"ab"[..]), (2, b"cd")], true),
            ("over the end", vec![(99, &b"yz"[..])], false),
            ("after the end", vec![(100, &b"y"[..])], false),
            ("overflow", vec![(u64::MAX, &b"y"[..])], false),
            ("twice", vec![(5, &b"ab"[..]), (6, b"c")], false),
        ] {
            assert_eq!(Patch::new(&partition, blocks).is_ok(), sound, "{name}");
        }
    }

    #[test]
    fn laid_over_chunks_it_is_the_same_as_written_to_the_disk() {
        let partition = partition(10, 90);
        let bytes: Vec<u8> = (1..=60).collect();
        let blocks = vec![(0, &bytes[..7]), (7, &bytes[7..8]), (30, &bytes[10..40]), (89, &bytes[59..])];
        let patch = Patch::new(&partition, blocks).unwrap();
        let mut want = vec![0; 100];
        for (start, bytes) in &patch.runs {
            want[*start as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        for chunk in 1..=100 {
            let mut got = vec![0; 100];
            for (index, piece) in got.chunks_mut(chunk).enumerate() {
                patch.lay_over((index * chunk) as u64, piece);
            }
            assert_eq!(got, want, "chunks of {chunk}");
        }
        for offset in 0..100 {
            assert_eq!(patch.touches(offset, 1), want[offset as usize] != 0, "{offset}");
        }
        for offset in 0..100 {
            let next = want[offset as usize..].iter().position(|byte| *byte != 0);
            assert_eq!(patch.untouched(offset, 25), next.unwrap_or(100).min(25) as u64, "{offset}");
        }
        assert!(patch.touches(0, 100) && patch.touches(20, 21) && !patch.touches(18, 22));
    }
}
