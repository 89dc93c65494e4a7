//! The location of the file system's own structures: superblock and descriptors and their copies, bitmaps, inode
//! tables, the journal. On a damaged file system two of them may overlap, or a file may use a block of one; a change to
//! one would then damage the other. Reads every group's descriptor, as the kernel does when it mounts.

use deaddrop_core::error::{Remedy, StorageError};

use crate::ext4::format::features::{Compat, Incompat};
use crate::ext4::format::reader::Reader;

/// Block ranges with the name of their structure, sorted, without overlap.
pub(in crate::ext4) struct Layout(Vec<Structure>);

struct Structure {
    first: u64,
    /// One past the last.
    end: u64,
    what: &'static str,
}

impl Layout {
    /// Collects the structures. `reader` is one that guards its journal.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if two of them share a block; if a descriptor is damaged or cannot be read.
    pub fn of(reader: &Reader) -> Result<Self, StorageError> {
        let mut claims = Vec::new();
        let blocks = reader.superblock.blocks;
        let mut claim = |first: u64, count: u64, what| {
            claims.push(Structure { first, end: first.saturating_add(count).min(blocks), what });
        };
        let meta = reader.superblock.features.incompat.has(Incompat::META_BG);
        let table = match meta {
            true => reader.superblock.first_meta_group.min(reader.geometry.descriptor_blocks),
            false => reader.geometry.descriptor_blocks,
        };
        let first = u64::from(reader.superblock.first_data_block);
        // Blocks for the growth of the table belong to the resize inode; they follow the table and each copy of it.
        let reserved = match reader.superblock.features.compat.has(Compat::RESIZE_INODE) && !meta {
            true => reader.superblock.reserved_descriptor_blocks,
            false => 0,
        };
        let with_table = u64::from(table).saturating_add(u64::from(reserved)).saturating_add(1);
        claim(first, with_table, "the superblock and the group descriptors");
        let mut known = None;
        for number in 0..reader.geometry.groups {
            let (place, _) = reader.descriptor_place(number)?;
            if place > first.saturating_add(u64::from(table)) && known != Some(place) {
                claim(place, 1, "a group descriptor");
                known = Some(place);
            }
            if number > 0 && reader.has_backup(number) {
                claim(reader.first_block_of(number), with_table, "a copy of the superblock and the group descriptors");
            }
            let group = reader.group(number)?;
            claim(group.block_bitmap, 1, "a block bitmap");
            claim(group.inode_bitmap, 1, "an inode bitmap");
            claim(group.inode_table, u64::from(reader.geometry.inode_table_blocks), "an inode table");
        }
        if let Some(journal) = &reader.journal_place {
            for place in journal.places() {
                claim(place.start, place.end.saturating_sub(place.start), "the journal");
            }
        }
        claims.sort_by_key(|claim| claim.first);
        for (one, next) in claims.iter().zip(claims.iter().skip(1)) {
            if one.end > next.first {
                return Err(damaged(format!("{} and {} share block {}", one.what, next.what, next.first)));
            }
        }
        Ok(Self(claims))
    }

    /// The structure in `block`; `None` for blocks of files and free blocks.
    pub fn at(&self, block: u64) -> Option<&'static str> {
        let after = self.0.partition_point(|claim| claim.first <= block);
        let claim = self.0.get(after.checked_sub(1)?)?;
        (block < claim.end).then_some(claim.what)
    }
}

/// The refusal of a file system that contradicts itself.
pub(in crate::ext4) fn damaged(what: String) -> StorageError {
    StorageError::refused(format!("the ext4 file system is damaged: {what}"), Remedy::RepairFileSystem)
}
