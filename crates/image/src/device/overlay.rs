//! A block device that keeps every written block in memory, over a device that is only read.
//!
//! A file-system writer runs on it, so that nothing is written to the image before the whole change is made, checked
//! and read back. Written blocks may contain values: they are locked against swap and zeroized on drop.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use deaddrop_core::secret::Wiped;
use deaddrop_core::sys;

use crate::device::ReadAt;

/// A block to write: its offset in bytes, and its bytes.
pub type DirtyBlock = (u64, Wiped);

/// One block's bytes: zeroized on drop.
type Block = Wiped;

/// Number of blocks that are allocated and locked together.
const BATCH: usize = 32;

/// Writes to memory over reads from a base. Shared between threads; each call is atomic per block.
pub struct Overlay {
    base: Arc<dyn ReadAt>,
    /// Block size of the file system, in bytes.
    block_size: usize,
    /// Maximum size of all written blocks, in bytes; a write beyond it fails.
    limit: usize,
    /// Set by the first write that the limit refused.
    full: AtomicBool,
    /// Block number (byte offset divided by block size) to content.
    blocks: RwLock<BTreeMap<u64, Block>>,
    /// Locked blocks that are not used yet.
    spare: Mutex<Vec<Block>>,
}

/// A write would exceed the overlay's limit.
#[derive(Debug, thiserror::Error)]
#[error("the changes need more than {0} bytes of memory")]
pub struct OverlayFull(usize);

impl Overlay {
    /// An overlay without a written block. `block_size` is in bytes and not zero; `limit` is the maximum size of all
    /// written blocks together, in bytes.
    #[must_use]
    pub fn new(base: Arc<dyn ReadAt>, block_size: u32, limit: usize) -> Self {
        let block_size = usize::try_from(block_size).unwrap_or(usize::MAX).max(1);
        Self {
            base,
            block_size,
            limit,
            full: AtomicBool::new(false),
            blocks: RwLock::default(),
            spare: Mutex::default(),
        }
    }

    /// The block size, in bytes.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// True once a write was refused because of the limit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// Writes `bytes` at `offset` (bytes from the start). A block that is written in part is read from the base first.
    ///
    /// # Errors
    /// `UnexpectedEof` if the range is not completely inside the device, [`OverlayFull`] (as `Other`) over the limit,
    /// otherwise the error of reading the base. Blocks before the failing one may have been written.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_range(offset, bytes.len())?;
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces(offset, bytes.len(), self.block_size) {
            if !blocks.contains_key(&piece.block) {
                let size = blocks.len().saturating_add(1).saturating_mul(self.block_size);
                if size > self.limit {
                    self.full.store(true, Ordering::SeqCst);
                    return Err(io::Error::other(OverlayFull(self.limit)));
                }
                let mut block = self.locked_block();
                self.read_base(piece.block, &mut block)?;
                blocks.insert(piece.block, block);
            }
            if let Some(block) = blocks.get_mut(&piece.block)
                && let Some(to) = block.get_mut(piece.inside..piece.inside + piece.length)
                && let Some(from) = bytes.get(piece.at..piece.at + piece.length)
            {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// The written blocks whose bytes differ from the base, as (byte offset, bytes), in order. A last block beyond the
    /// end of the device is truncated there.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn dirty(&self) -> io::Result<Vec<DirtyBlock>> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let mut base = Wiped::zeros(self.block_size);
        let mut dirty = Vec::new();
        for (&number, block) in blocks.iter() {
            self.read_base(number, &mut base)?;
            if base == *block {
                continue;
            }
            let offset = self.block_offset(number)?;
            let length = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX).min(block.len());
            // Never less than was changed: a block that is not listed here is not written to the image.
            let bytes = block.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
            dirty.push((offset, Wiped::from(bytes.to_vec())));
        }
        sys::lock_all(dirty.iter().map(|(_, bytes)| bytes.as_slice()));
        Ok(dirty)
    }

    /// Numbers of the blocks whose bytes differ from the base, in order.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn dirty_numbers(&self) -> io::Result<Vec<u64>> {
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let mut base = Wiped::zeros(self.block_size);
        let mut dirty = Vec::new();
        for (&number, block) in blocks.iter() {
            self.read_base(number, &mut base)?;
            if base != *block {
                dirty.push(number);
            }
        }
        Ok(dirty)
    }

    /// Numbers of all written blocks, in order, including those that equal the base.
    #[must_use]
    pub fn written_numbers(&self) -> Vec<u64> {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn block_offset(&self, number: u64) -> io::Result<u64> {
        let size = u64::try_from(self.block_size).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        number.checked_mul(size).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// A block of zeros that is locked against swap.
    fn locked_block(&self) -> Block {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_empty() {
            spare.resize_with(BATCH, || Wiped::zeros(self.block_size));
            sys::lock_all(spare.iter().map(|block| block.as_slice()));
        }
        spare.pop().unwrap_or_else(|| Wiped::zeros(self.block_size))
    }

    /// Reads a whole block of the base into `block`; bytes beyond the end of the device are zero.
    fn read_base(&self, number: u64, block: &mut Block) -> io::Result<()> {
        let offset = self.block_offset(number)?;
        let inside = usize::try_from(self.base.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (part, beyond) = block.split_at_mut(inside.min(self.block_size));
        beyond.fill(0);
        self.base.read_exact_at(offset, part)
    }

    fn check_range(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
        if end.is_some_and(|end| end <= self.size()) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl ReadAt for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check_range(offset, buf.len())?;
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        // A range whose blocks are all written need not be read from the base.
        if pieces(offset, buf.len(), self.block_size).any(|piece| !blocks.contains_key(&piece.block)) {
            self.base.read_exact_at(offset, buf)?;
        }
        for piece in pieces(offset, buf.len(), self.block_size) {
            if let Some(block) = blocks.get(&piece.block)
                && let Some(from) = block.get(piece.inside..piece.inside + piece.length)
                && let Some(to) = buf.get_mut(piece.at..piece.at + piece.length)
            {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let below = self.base.next_data(range.clone())?;
        let size = u64::try_from(self.block_size).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let first = blocks.range(range.start / size..range.end.div_ceil(size)).next();
        // At most one block size beyond the end of the device, which is far below u64::MAX.
        let written = first.map(|(number, _)| (number * size).max(range.start)..((number + 1) * size).min(range.end));
        Ok(match (below, written) {
            (Some(below), Some(written)) if written.start < below.start => Some(written),
            (below, written) => below.or(written),
        })
    }
}

/// The part of a range in one block.
struct Piece {
    /// Block number.
    block: u64,
    /// Bytes from the block's start.
    inside: usize,
    /// Bytes from the range's start.
    at: usize,
    /// Length in bytes.
    length: usize,
}

/// Splits a range (already known to be inside the device) at block boundaries.
fn pieces(offset: u64, length: usize, block_size: usize) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= length {
            return None;
        }
        // Cannot end early: all of these numbers are below the device's size.
        let size = u64::try_from(block_size).ok()?;
        let position = offset.checked_add(u64::try_from(at).ok()?)?;
        let inside = usize::try_from(position % size).ok()?;
        let piece = Piece { block: position / size, inside, at, length: (block_size - inside).min(length - at) };
        at += piece.length;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(size: usize, limit: usize) -> Overlay {
        Overlay::new(Arc::new((0..size).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<u8>>()), 16, limit)
    }

    #[test]
    fn reads_see_writes_and_the_base_around_them() {
        let overlay = overlay(64, 1024);
        overlay.write_at(14, &[0xAA; 5]).unwrap();
        let mut got = [0; 8];
        overlay.read_exact_at(12, &mut got).unwrap();
        assert_eq!(got, [12, 13, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 19]);
    }

    #[test]
    fn only_blocks_that_differ_are_dirty_and_they_come_in_order() {
        let overlay = overlay(64, 1024);
        overlay.write_at(40, &[1]).unwrap();
        overlay.write_at(3, &[0xFF]).unwrap();
        overlay.write_at(16, &[16, 17]).unwrap();
        let dirty = overlay.dirty().unwrap();
        assert_eq!(dirty.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 32]);
        assert_eq!(dirty[0].1[3], 0xFF);
        assert_eq!(overlay.dirty_numbers().unwrap(), [0, 2]);
    }

    #[test]
    fn the_limit_stands_at_its_last_block() {
        let overlay = overlay(64, 32);
        overlay.write_at(0, &[1; 32]).unwrap();
        assert!(!overlay.is_full());
        let error = overlay.write_at(32, &[1]).unwrap_err();
        assert_eq!(error.to_string(), "the changes need more than 32 bytes of memory");
        assert!(overlay.is_full());
        overlay.write_at(5, &[2]).unwrap();
    }

    #[test]
    fn a_last_block_that_is_cut_off_by_the_end_works() {
        let overlay = overlay(40, 1024);
        overlay.write_at(36, &[9; 4]).unwrap();
        assert_eq!(overlay.write_at(36, &[9; 5]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let dirty = overlay.dirty().unwrap();
        assert_eq!((dirty[0].0, dirty[0].1.len()), (32, 8));
        let mut byte = [0];
        assert!(overlay.read_exact_at(40, &mut byte).is_err());
        assert!(overlay.read_exact_at(u64::MAX, &mut byte).is_err());
    }
}
