//! Block groups: their descriptors and their bitmaps. Kernel documentation, ext4, "Block Group Descriptors" and "Block
//! and inode Bitmaps". Descriptors are read one at a time, on demand.

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;

use super::bytes::{halves, le16, le32};
use super::checksum::{crc16, crc32c};
use super::features::{Compat, Incompat, RoCompat};
use super::reader::{Reader, usize_of};

/// Offset of the descriptor's own checksum. `bg_checksum`, 0x1E.
const CHECKSUM: usize = 0x1E;
/// The group's inode table and inode bitmap were never written. `bg_flags`, bit 0.
pub(in crate::ext4) const INODE_UNINIT: u16 = 1;
/// The group's block bitmap was never written. `bg_flags`, bit 1.
pub(in crate::ext4) const BLOCK_UNINIT: u16 = 2;

/// One group's descriptor.
#[derive(Debug, Clone)]
pub(in crate::ext4) struct Group {
    /// The group's number, from 0.
    pub number: u32,
    /// The descriptor as stored, 32 bytes or more.
    pub raw: Vec<u8>,
    /// Block of the block bitmap. `bg_block_bitmap_lo`, 0x0, u32, and `_hi`, 0x20.
    pub block_bitmap: u64,
    /// Block of the inode bitmap. `bg_inode_bitmap_lo`, 0x4, u32, and `_hi`, 0x24.
    pub inode_bitmap: u64,
    /// First block of the inode table. `bg_inode_table_lo`, 0x8, u32, and `_hi`, 0x28.
    pub inode_table: u64,
    /// Free blocks. `bg_free_blocks_count_lo`, 0xC, u16, and `_hi`, 0x2C.
    pub free_blocks: u32,
    /// Free inodes. `bg_free_inodes_count_lo`, 0xE, u16, and `_hi`, 0x2E.
    pub free_inodes: u32,
    /// Directories. `bg_used_dirs_count_lo`, 0x10, u16, and `_hi`, 0x30.
    pub directories: u32,
    /// [`INODE_UNINIT`], [`BLOCK_UNINIT`], 4: the inode table is zeroed. `bg_flags`, 0x12, u16.
    pub flags: u16,
    /// Inodes at the end of the table that were never used. `bg_itable_unused_lo`, 0x1C, u16, and `_hi`, 0x32.
    pub unused_inodes: u32,
    /// crc32c of the block bitmap, or its low half. `bg_block_bitmap_csum_lo`, 0x18, u16, and `_hi`, 0x38.
    block_bitmap_checksum: u32,
    /// crc32c of the inode bitmap, or its low half. `bg_inode_bitmap_csum_lo`, 0x1A, u16, and `_hi`, 0x3A.
    inode_bitmap_checksum: u32,
}

impl Reader {
    /// Block, and byte offset in it, of group `number`'s descriptor. Kernel documentation, ext4, "Meta Block Groups".
    ///
    /// # Errors
    /// If there is no such group.
    pub fn descriptor_place(&self, number: u32) -> Result<(u64, usize), StorageError> {
        if number >= self.geometry.groups {
            return Err(StorageError::Corrupt(format!("ext4: there is no group {number}")));
        }
        let in_block = self.geometry.descriptors_per_block;
        let table_block = number / in_block;
        let offset = usize_of(number % in_block) * usize::from(self.superblock.descriptor_size);
        let block = if self.superblock.features.incompat.has(Incompat::META_BG)
            && table_block >= self.superblock.first_meta_group
        {
            let first_group = table_block * in_block;
            self.first_block_of(first_group) + u64::from(self.has_backup(first_group))
        } else {
            u64::from(self.superblock.first_data_block) + 1 + u64::from(table_block)
        };
        Ok((block, offset))
    }

    /// Number of the group's first block.
    pub fn first_block_of(&self, group: u32) -> u64 {
        u64::from(self.superblock.first_data_block) + u64::from(group) * u64::from(self.superblock.blocks_per_group)
    }

    /// Number of blocks in the group: fewer in the last one.
    pub fn blocks_in(&self, group: u32) -> u32 {
        let rest = self.superblock.blocks.saturating_sub(self.first_block_of(group));
        u32::try_from(rest).unwrap_or(u32::MAX).min(self.superblock.blocks_per_group)
    }

    /// The group of block `number`.
    ///
    /// # Errors
    /// If there is no such block, or it is before the first group.
    pub fn group_of_block(&self, number: u64) -> Result<u32, StorageError> {
        let outside = || StorageError::Corrupt(format!("ext4: block {number} is in no group"));
        let inside = number.checked_sub(u64::from(self.superblock.first_data_block)).ok_or_else(outside)?;
        let group = u32::try_from(inside / u64::from(self.superblock.blocks_per_group)).map_err(|_| outside())?;
        if group < self.geometry.groups && number < self.superblock.blocks { Ok(group) } else { Err(outside()) }
    }

    /// The group of inode `number`, and its index there, from 0.
    ///
    /// # Errors
    /// If there is no such inode.
    pub fn group_of_inode(&self, number: u32) -> Result<(u32, u32), StorageError> {
        match number.checked_sub(1) {
            Some(index) if number <= self.superblock.inodes => {
                Ok((index / self.superblock.inodes_per_group, index % self.superblock.inodes_per_group))
            }
            _ => Err(StorageError::Corrupt(format!("ext4: there is no inode {number}"))),
        }
    }

    /// True if the group has a copy of the superblock (group 0: the superblock itself). Kernel documentation, ext4,
    /// "Layout" and `sparse_super`, `sparse_super2`.
    pub fn has_backup(&self, group: u32) -> bool {
        let features = self.superblock.features;
        let power_of = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        if group == 0 {
            true
        } else if features.compat.has(Compat::SPARSE_SUPER2) {
            self.superblock.backup_groups.contains(&group)
        } else {
            group == 1
                || !features.ro_compat.has(RoCompat::SPARSE_SUPER)
                || (!group.is_multiple_of(2) && (power_of(3) || power_of(5) || power_of(7)))
        }
    }

    /// Reads group `number`'s descriptor and checks it: its checksum, and that its block numbers are in the file
    /// system.
    ///
    /// # Errors
    /// If there is no such group, its descriptor is damaged, or it cannot be read.
    pub fn group(&self, number: u32) -> Result<Group, StorageError> {
        let (block, offset) = self.descriptor_place(number)?;
        let size = usize::from(self.superblock.descriptor_size);
        let mut raw = vec![0; size];
        self.read_part(block, offset, &mut raw)?;
        let wide = size >= 64;
        let place = |low: usize, high: usize| halves(le32(&raw, low), if wide { le32(&raw, high) } else { 0 });
        let count = |low: usize, high: usize| {
            (u32::from(if wide { le16(&raw, high) } else { 0 }) << 16) | u32::from(le16(&raw, low))
        };
        let group = Group {
            number,
            block_bitmap: place(0x0, 0x20),
            inode_bitmap: place(0x4, 0x24),
            inode_table: place(0x8, 0x28),
            free_blocks: count(0xC, 0x2C),
            free_inodes: count(0xE, 0x2E),
            directories: count(0x10, 0x30),
            flags: if self.has_group_checksums() { le16(&raw, 0x12) } else { 0 },
            unused_inodes: if self.has_group_checksums() { count(0x1C, 0x32) } else { 0 },
            block_bitmap_checksum: count(0x18, 0x38),
            inode_bitmap_checksum: count(0x1A, 0x3A),
            raw,
        };
        if let Some(checksum) = self.descriptor_checksum(&group)
            && checksum != le16(&group.raw, CHECKSUM)
        {
            return Err(StorageError::Corrupt(format!(
                "ext4: the checksum of group {number}'s descriptor does not match"
            )));
        }
        if group.unused_inodes > self.superblock.inodes_per_group {
            return Err(StorageError::Corrupt(format!(
                "ext4: group {number}'s descriptor has more unused inodes than inodes"
            )));
        }
        let table_end = group.inode_table.checked_add(u64::from(self.geometry.inode_table_blocks));
        let first = u64::from(self.superblock.first_data_block);
        let blocks = first + 1..self.superblock.blocks;
        if !blocks.contains(&group.block_bitmap)
            || !blocks.contains(&group.inode_bitmap)
            || !blocks.contains(&group.inode_table)
            || table_end.is_none_or(|end| end > self.superblock.blocks)
        {
            return Err(StorageError::Corrupt(format!(
                "ext4: group {number}'s descriptor points outside the file system"
            )));
        }
        Ok(group)
    }

    /// True if descriptors have checksums, and with them the flags of unused groups.
    pub fn has_group_checksums(&self) -> bool {
        self.superblock.has_checksums() || self.superblock.features.ro_compat.has(RoCompat::UNINIT_BG)
    }

    /// The correct checksum of the descriptor; `None` if descriptors have none. With `metadata_csum` the field counts
    /// as zero; with `uninit_bg` alone it is omitted.
    fn descriptor_checksum(&self, group: &Group) -> Option<u16> {
        let (before, after) = (group.raw.get(..CHECKSUM)?, group.raw.get(CHECKSUM + 2..)?);
        let number = group.number.to_le_bytes();
        if self.superblock.has_checksums() {
            let seed = crc32c(self.superblock.checksum_seed, &number);
            let checksum = crc32c(crc32c(crc32c(seed, before), &[0, 0]), after);
            u16::try_from(checksum & 0xFFFF).ok()
        } else if self.superblock.features.ro_compat.has(RoCompat::UNINIT_BG) {
            let seed = crc16(crc16(!0, &self.superblock.uuid), &number);
            Some(crc16(crc16(seed, before), after))
        } else {
            None
        }
    }

    /// The new descriptor: with the counts of `group`, and with checksums of the given bitmaps.
    pub fn edited_descriptor(&self, group: &Group, blocks: Option<&Bitmap>, inodes: Option<&Bitmap>) -> Vec<u8> {
        let mut edited = group.clone();
        let wide = edited.raw.len() >= 64;
        let mut put = |low: usize, high: usize, value: u32| {
            let [a, b, c, d] = value.to_le_bytes();
            for (at, half) in [(low, [a, b]), (high, [c, d])] {
                if let Some(field) = edited.raw.get_mut(at..at + 2).filter(|_| at == low || wide) {
                    field.copy_from_slice(&half);
                }
            }
        };
        put(0xC, 0x2C, group.free_blocks);
        put(0xE, 0x2E, group.free_inodes);
        put(0x10, 0x30, group.directories);
        if self.superblock.has_checksums() {
            let checksum = |bitmap: &Bitmap, bits: u32| {
                crc32c(self.superblock.checksum_seed, bitmap.0.get(..usize_of(bits / 8)).unwrap_or_default())
            };
            if let Some(bitmap) = blocks {
                put(0x18, 0x38, checksum(bitmap, self.superblock.blocks_per_group));
            }
            if let Some(bitmap) = inodes {
                put(0x1A, 0x3A, checksum(bitmap, self.superblock.inodes_per_group));
            }
        }
        if let Some(checksum) = self.descriptor_checksum(&edited)
            && let Some(field) = edited.raw.get_mut(CHECKSUM..CHECKSUM + 2)
        {
            field.copy_from_slice(&checksum.to_le_bytes());
        }
        edited.raw
    }

    /// The group's block bitmap: bit n is block `first_block_of(group) + n`. Computed if it was never written.
    ///
    /// # Errors
    /// If its checksum does not match, or it cannot be read.
    pub fn block_bitmap(&self, group: &Group) -> Result<Bitmap, StorageError> {
        if group.flags & BLOCK_UNINIT != 0 {
            return self.unwritten_block_bitmap(group);
        }
        let bits = self.block(group.block_bitmap)?;
        let covered = usize_of(self.superblock.blocks_per_group / 8);
        self.check_bitmap(&bits, covered, group.block_bitmap_checksum, "block", group.number)?;
        Ok(Bitmap(bits))
    }

    /// The group's inode bitmap: bit n is inode `group * inodes_per_group + n + 1`. Computed if it was never written.
    ///
    /// # Errors
    /// If its checksum does not match, or it cannot be read.
    pub fn inode_bitmap(&self, group: &Group) -> Result<Bitmap, StorageError> {
        if group.flags & INODE_UNINIT != 0 {
            let mut bitmap = Bitmap(Wiped::zeros(usize_of(self.geometry.block_size)));
            bitmap.set_from(self.superblock.inodes_per_group);
            return Ok(bitmap);
        }
        let bits = self.block(group.inode_bitmap)?;
        let covered = usize_of(self.superblock.inodes_per_group / 8);
        self.check_bitmap(&bits, covered, group.inode_bitmap_checksum, "inode", group.number)?;
        Ok(Bitmap(bits))
    }

    fn check_bitmap(&self, bits: &[u8], covered: usize, want: u32, what: &str, group: u32) -> Result<(), StorageError> {
        if !self.superblock.has_checksums() {
            return Ok(());
        }
        let checksum = crc32c(self.superblock.checksum_seed, bits.get(..covered).unwrap_or_default());
        let stored = if self.superblock.descriptor_size >= 64 { checksum } else { checksum & 0xFFFF };
        if stored == want {
            Ok(())
        } else {
            Err(StorageError::Corrupt(format!("ext4: the checksum of group {group}'s {what} bitmap does not match")))
        }
    }

    /// The block bitmap that the kernel would create for an unused group: the group's own metadata and the bits beyond
    /// its end are set.
    fn unwritten_block_bitmap(&self, group: &Group) -> Result<Bitmap, StorageError> {
        let mut bitmap = Bitmap(Wiped::zeros(usize_of(self.geometry.block_size)));
        let first = self.first_block_of(group.number);
        let size = self.blocks_in(group.number);
        let mut set = |block: u64| {
            if let Some(bit) = block.checked_sub(first).and_then(|bit| u32::try_from(bit).ok())
                && bit < size
            {
                bitmap.set(bit);
            }
        };
        let meta = self.superblock.features.incompat.has(Incompat::META_BG);
        let (place, _) = self.descriptor_place(group.number)?;
        if self.has_backup(group.number) {
            set(first);
            let table = if meta && self.superblock.first_meta_group < self.geometry.descriptor_blocks {
                u64::from(self.superblock.first_meta_group)
            } else {
                u64::from(self.geometry.descriptor_blocks) + u64::from(self.superblock.reserved_descriptor_blocks)
            };
            (first + 1..=first + table).for_each(&mut set);
        }
        if meta {
            set(place);
        }
        set(group.block_bitmap);
        set(group.inode_bitmap);
        (group.inode_table..group.inode_table + u64::from(self.geometry.inode_table_blocks)).for_each(&mut set);
        bitmap.set_from(size);
        Ok(bitmap)
    }
}

/// A bitmap of one group.
#[derive(Clone)]
pub(in crate::ext4) struct Bitmap(pub Wiped);

impl Bitmap {
    /// True if `bit` is set, or is beyond the bitmap.
    pub fn get(&self, bit: u32) -> bool {
        self.0.get(usize_of(bit / 8)).is_none_or(|byte| byte & (1 << (bit % 8)) != 0)
    }

    /// Clears `bit`, if it is in the bitmap.
    pub fn clear(&mut self, bit: u32) {
        if let Some(byte) = self.0.get_mut(usize_of(bit / 8)) {
            *byte &= !(1 << (bit % 8));
        }
    }

    fn set(&mut self, bit: u32) {
        if let Some(byte) = self.0.get_mut(usize_of(bit / 8)) {
            *byte |= 1 << (bit % 8);
        }
    }

    /// True if every bit from `first` up to but not including `end` is set, or is beyond the bitmap.
    pub fn all(&self, first: u32, end: u32) -> bool {
        let mut bit = first;
        while bit < end {
            let whole = bit.is_multiple_of(8) && end - bit >= 8;
            if whole && self.0.get(usize_of(bit / 8)).is_none_or(|byte| *byte == 0xFF) {
                bit += 8;
            } else if self.get(bit) {
                bit += 1;
            } else {
                return false;
            }
        }
        true
    }

    /// Sets `first` and every bit after it.
    fn set_from(&mut self, first: u32) {
        let whole = first.next_multiple_of(8);
        (first..whole).for_each(|bit| self.set(bit));
        self.0.get_mut(usize_of(whole / 8)..).unwrap_or_default().fill(0xFF);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_bits_are_judged_and_set_at_any_place() {
        for (first, end) in [(0, 0), (0, 1), (3, 9), (8, 16), (5, 32), (31, 32), (7, 25)] {
            let mut bitmap = Bitmap(Wiped::zeros(4));
            (first..end).for_each(|bit| bitmap.set(bit));
            for from in 0..=32 {
                for to in from..=32 {
                    assert_eq!(
                        bitmap.all(from, to),
                        (from..to).all(|bit| bitmap.get(bit)),
                        "{first}..{end}: {from}..{to}"
                    );
                }
            }
            // Bits beyond the bitmap count as set.
            assert_eq!(bitmap.all(first, 100), (first..32).all(|bit| bitmap.get(bit)));
        }
        for first in 0..40 {
            let mut bitmap = Bitmap(Wiped::zeros(4));
            bitmap.set_from(first);
            assert!((0..32).all(|bit| bitmap.get(bit) == (bit >= first)), "{first}");
        }
    }
}
