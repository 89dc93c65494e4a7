//! The used inodes of a group, each with its map: for checks of which inode claims a block. Bounded even for a hostile
//! file system.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use crate::ext4::format::bytes::le16;
use crate::ext4::format::group::INODE_UNINIT;
use crate::ext4::format::inode::Inode;
use crate::ext4::format::mapping::BlockMap;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::read::layout::damaged;

/// Maximum number of blocks of inode tables and maps that are read: more than the groups of a journal of 20 GiB have.
/// Takes a second or two.
const MOST_BLOCKS: usize = 100_000;

/// Number of blocks of an inode table read at a time.
const RUN: u32 = 32;

/// The cost of reading inodes, in blocks read.
pub(in crate::ext4) struct ReadBudget {
    read: usize,
    most: usize,
    stop: Arc<AtomicBool>,
}

impl ReadBudget {
    /// A budget of some seconds, after which reading is refused; at once when `stop` is set.
    pub fn bounded(stop: Arc<AtomicBool>) -> Self {
        Self { read: 0, most: MOST_BLOCKS, stop }
    }

    /// A budget that grows with the file system.
    pub fn unbounded() -> Self {
        Self { read: 0, most: usize::MAX, stop: Arc::default() }
    }

    /// Counts `blocks` that are about to be read, or were.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if the budget is used up.
    pub fn spend(&mut self, blocks: usize) -> Result<(), StorageError> {
        self.read = self.read.saturating_add(blocks);
        if self.read <= self.most && !self.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(damaged("the maps of its files are too large to be compared with each other".into()))
    }
}

impl Reader {
    /// Visits every used inode of a group.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if one of them is damaged, or reading them exceeds the budget; the error of `visit`;
    /// if they cannot be read.
    pub fn each_inode(
        &self,
        number: u32,
        budget: &mut ReadBudget,
        visit: &mut dyn FnMut(&Inode, &BlockMap) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let unreadable = |error: StorageError| match error {
            StorageError::Corrupt(what) => damaged(what),
            other => other,
        };
        // Its descriptor and its bitmap.
        budget.spend(2)?;
        let group = self.group(number)?;
        if group.flags & INODE_UNINIT != 0 {
            return Ok(());
        }
        let used = self.inode_bitmap(&group)?;
        let (in_block, all) = (self.geometry.inodes_per_block, self.superblock.inodes_per_group);
        let holds_one = |block: u32| {
            let first = block.saturating_mul(in_block);
            (first..first.saturating_add(in_block).min(all)).any(|index| used.get(index))
        };
        let mut buffer = Wiped::zeros(usize_of(RUN * self.geometry.block_size));
        // The buffers for one inode's bytes and map are reused: there are thousands of inodes.
        let mut bytes = Wiped::default();
        let mut map = BlockMap::default();
        let mut block = 0;
        while block < self.geometry.inode_table_blocks {
            let run =
                (block..self.geometry.inode_table_blocks).take(usize_of(RUN)).take_while(|block| holds_one(*block));
            let count = u32::try_from(run.count()).unwrap_or(RUN);
            budget.spend(usize_of(count))?;
            // OK to index: at most RUN blocks, as in the buffer.
            let table = &mut buffer[..usize_of(count * self.geometry.block_size)];
            self.read_blocks(group.inode_table + u64::from(block), table)?;
            let indexes = block.saturating_mul(in_block)..all;
            for (index, raw) in indexes.zip(table.chunks_exact(usize::from(self.superblock.inode_size))) {
                // Reserved inodes are marked as used, but most of them are empty.
                if !used.get(index) || le16(raw, 0x0) == 0 {
                    continue;
                }
                bytes.clear();
                bytes.extend_from_slice(raw);
                // Cannot overflow: all inodes are counted by a u32.
                let inode = self.parse_inode(number * all + index + 1, bytes).map_err(unreadable)?;
                self.map_into(&inode, &mut map).map_err(unreadable)?;
                budget.spend(map.nodes.len())?;
                visit(&inode, &map)?;
                bytes = inode.raw;
            }
            // The block after the run: not in the journal, or the start of the next run.
            block = block.saturating_add(count.max(1));
        }
        Ok(())
    }
}
