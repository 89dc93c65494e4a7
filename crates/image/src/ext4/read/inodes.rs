//! The inodes of a group that are in use, each with its map: for whoever asks which of them claims a block. Bounded, however
//! a file system lies.

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use crate::ext4::format::bytes::le16;
use crate::ext4::format::group::INODE_UNINIT;
use crate::ext4::format::inode::Inode;
use crate::ext4::format::mapping::BlockMap;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::read::layout::damaged;

/// Blocks of inode tables and of maps that are read before we give up: more than the groups of a journal of 20 GiB have. A
/// second or two.
const MOST_BLOCKS: usize = 100_000;

/// Blocks of an inode table that are read at a time.
const RUN: u32 = 32;

/// What one look at inodes has cost, in blocks that were read.
pub(in crate::ext4) struct Effort {
    read: usize,
    most: usize,
}

impl Effort {
    /// An effort that ends in a refusal before it takes more than some seconds.
    pub fn bounded() -> Self {
        Self { read: 0, most: MOST_BLOCKS }
    }

    /// An effort that grows with the file system.
    pub fn unbounded() -> Self {
        Self { read: 0, most: usize::MAX }
    }

    /// Counts `blocks` that are about to be read, or were.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when it is enough.
    pub fn spend(&mut self, blocks: usize) -> Result<(), StorageError> {
        self.read = self.read.saturating_add(blocks);
        if self.read <= self.most {
            return Ok(());
        }
        Err(damaged("the maps of its files are too large to be compared with each other".into()))
    }
}

impl Reader {
    /// Visits every inode of a group that is in use.
    ///
    /// # Errors
    /// [`StorageError::Refused`] when one of them is damaged, or when looking at them takes too long; what `visit` says; when
    /// they cannot be read.
    pub fn each_inode(
        &self,
        number: u32,
        effort: &mut Effort,
        visit: &mut dyn FnMut(&Inode, &BlockMap) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let unreadable = |error: StorageError| match error {
            StorageError::Corrupt(what) => damaged(what),
            other => other,
        };
        // Its descriptor and its bitmap.
        effort.spend(2)?;
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
        // One inode's bytes, and its map: kept, since there are thousands.
        let mut bytes = Wiped::default();
        let mut map = BlockMap::default();
        let mut block = 0;
        while block < self.geometry.inode_table_blocks {
            let run =
                (block..self.geometry.inode_table_blocks).take(usize_of(RUN)).take_while(|block| holds_one(*block));
            let count = u32::try_from(run.count()).unwrap_or(RUN);
            effort.spend(usize_of(count))?;
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
                effort.spend(map.nodes.len())?;
                visit(&inode, &map)?;
                bytes = inode.raw;
            }
            // The block behind the run is the run's end: it holds none, or comes next.
            block = block.saturating_add(count.max(1));
        }
        Ok(())
    }
}
