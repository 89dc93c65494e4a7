//! Extended attributes: entries in the inode after its fields, or in an attribute block. Kernel documentation, ext4,
//! "Extended Attributes".

use deaddrop_core::error::StorageError;

use super::bytes::{le16, le32};
use super::checksum::crc32c;
use super::inode::{GOOD_OLD_SIZE, Inode};
use super::reader::{Reader, usize_of};

/// `h_magic` of extended attributes.
pub(in crate::ext4) const XATTR_MAGIC: u32 = 0xEA02_0000;
/// The header of an attribute block. Entries follow.
pub(in crate::ext4) const BLOCK_HEADER: usize = 32;
/// `h_refcount`, 0x4, u32: the number of inodes that use the block. `h_blocks`, 0x8, u32: always 1. `h_hash`, 0xC, u32.
/// `h_checksum`, 0x10, u32.
pub(in crate::ext4) const CHECKSUM: usize = 0x10;

/// One extended attribute.
pub(in crate::ext4) struct Attribute<'a> {
    /// `e_name_index`, 0x1, u8: the prefix, as a number.
    pub index: u8,
    /// The name without its prefix.
    pub name: &'a [u8],
    /// The value, if it is in the same place as its name; empty if it has its own inode.
    pub value: &'a [u8],
    /// `e_value_inum`, 0x4, u32: the inode of the value; 0 if it is in the same place as its name.
    pub value_inode: u32,
}

impl Attribute<'_> {
    /// True if the value has its own inode (`ea_inode`).
    pub fn has_own_inode(&self) -> bool {
        self.value_inode != 0
    }
}

/// The attributes after an inode's fields.
///
/// # Errors
/// If they are damaged.
pub(in crate::ext4) fn inline_attributes(inode: &Inode) -> Result<Vec<Attribute<'_>>, StorageError> {
    let start = GOOD_OLD_SIZE + usize::from(inode.extra_size);
    let area = inode.raw.get(start..).unwrap_or_default();
    if inode.extra_size == 0 || area.len() < 8 || le32(area, 0) != XATTR_MAGIC {
        return Ok(Vec::new());
    }
    // Value offsets count from the first entry, which is after the magic.
    attributes(area.get(4..).unwrap_or_default(), 0)
        .ok_or_else(|| StorageError::Corrupt(format!("ext4: inode {}: damaged attributes", inode.number)))
}

/// The attributes of an attribute block; value offsets count from the block's start. `None` if something is outside.
pub(in crate::ext4) fn block_attributes(block: &[u8]) -> Option<Vec<Attribute<'_>>> {
    attributes(block, BLOCK_HEADER)
}

/// Reads attribute entries from `area`, whose first entry is at `first`; value offsets count from the start of `area`.
/// `None` if something is outside. Kernel documentation, ext4, "Extended Attributes".
fn attributes(area: &[u8], first: usize) -> Option<Vec<Attribute<'_>>> {
    let mut found = Vec::new();
    let mut at = first;
    // The list ends with four zero bytes.
    while at + 4 <= area.len() && le32(area, at) != 0 {
        let name_length = usize::from(*area.get(at)?);
        let name = area.get(at + 16..at + 16 + name_length)?;
        let value_inode = le32(area, at + 4);
        let value = if value_inode == 0 {
            let offset = usize::from(le16(area, at + 2));
            area.get(offset..offset.checked_add(usize_of(le32(area, at + 8)))?)?
        } else {
            &[]
        };
        found.push(Attribute { index: *area.get(at + 1)?, name, value, value_inode });
        at += 16 + name_length.next_multiple_of(4);
    }
    Some(found)
}

impl Reader {
    /// crc32c of the block's number and its bytes, with the field itself as zero. Kernel documentation, ext4,
    /// "Checksums".
    pub fn attribute_checksum(&self, number: u64, block: &[u8]) -> u32 {
        let seed = crc32c(self.superblock.checksum_seed, &number.to_le_bytes());
        let before = crc32c(seed, block.get(..CHECKSUM).unwrap_or_default());
        crc32c(crc32c(before, &[0; 4]), block.get(CHECKSUM + 4..).unwrap_or_default())
    }
}
