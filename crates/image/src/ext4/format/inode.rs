//! Inodes. Kernel documentation, ext4, "Index Nodes" and, for inline content, "Inline Data" and "Extended Attributes".

use deaddrop_core::error::StorageError;
use deaddrop_core::secret::Wiped;
use deaddrop_core::tree::{FileKind, Stat};

use super::attributes::inline_attributes;
use super::bytes::{halves, le16, le32};
use super::checksum::crc32c;
use super::group::{Group, INODE_UNINIT};
use super::reader::{Reader, usize_of};

/// `i_flags`: immutable.
pub(in crate::ext4) const IMMUTABLE: u32 = 0x10;
/// `i_flags`: append-only.
pub(in crate::ext4) const APPEND: u32 = 0x20;
/// `i_flags`: a directory with a hash tree.
pub(in crate::ext4) const INDEX: u32 = 0x1000;
/// `i_flags`: `i_blocks` counts file-system blocks.
const HUGE_FILE: u32 = 0x4_0000;
/// `i_flags`: mapped by extents.
pub(in crate::ext4) const EXTENTS: u32 = 0x8_0000;
/// `i_flags`: content inside the inode.
pub(in crate::ext4) const INLINE_DATA: u32 = 0x1000_0000;

/// Offset of `i_block`: block map, extent tree, short link or inline data. 0x28, 60 bytes.
pub(in crate::ext4) const BLOCK: usize = 0x28;
/// Size of `i_block`, in bytes.
pub(in crate::ext4) const BLOCK_SIZE: usize = 60;
/// Size of the part of an inode that every revision has, in bytes.
pub(in crate::ext4) const GOOD_OLD_SIZE: usize = 128;

/// An inode in use.
#[derive(Clone)]
pub(in crate::ext4) struct Inode {
    /// Its number, from 1.
    pub number: u32,
    /// All of its bytes, `s_inode_size` of them. May contain content (`inline_data`).
    pub raw: Wiped,
    /// Kind and permission bits. `i_mode`, 0x0, u16.
    pub mode: u16,
    /// `i_uid`, 0x2, u16, and `l_i_uid_high`, 0x78.
    pub uid: u32,
    /// `i_gid`, 0x18, u16, and `l_i_gid_high`, 0x7A.
    pub gid: u32,
    /// Size in bytes. `i_size_lo`, 0x4, u32, and `i_size_high`, 0x6C.
    pub size: u64,
    /// Number of names. `i_links_count`, 0x1A, u16.
    pub links: u16,
    /// Space in use, in units of 512 bytes. `i_blocks_lo`, 0x1C, u32, and `l_i_blocks_high`, 0x74, u16.
    pub sectors: u64,
    /// `i_flags`, 0x20, u32.
    pub flags: u32,
    /// `i_generation`, 0x64, u32.
    pub generation: u32,
    /// The attribute block; 0 if there is none. `i_file_acl_lo`, 0x68, u32, and `l_i_file_acl_high`, 0x76.
    pub xattr_block: u64,
    /// Size of the fields after the first 128 bytes. `i_extra_isize`, 0x80, u16; 0 in inodes of 128 bytes.
    pub extra_size: u16,
    /// The kind of file.
    pub kind: FileKind,
}

impl Inode {
    /// True if all of `flags` are set.
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// The 60 bytes of `i_block`.
    pub fn block_area(&self) -> &[u8] {
        self.raw.get(BLOCK..BLOCK + BLOCK_SIZE).unwrap_or_default()
    }

    /// The metadata that a tree shows.
    pub fn stat(&self) -> Stat {
        Stat {
            kind: self.kind,
            mode: u32::from(self.mode) & 0o7777,
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            links: u32::from(self.links),
            inode: u64::from(self.number),
            modified: self.modified(),
        }
    }

    /// `i_mtime`, 0x10, and the two lowest bits of `i_mtime_extra`, 0x88, which extend the seconds to 34 bits. Kernel
    /// documentation, ext4, "Inode Timestamps".
    fn modified(&self) -> i64 {
        let low = i64::from(i32::from_ne_bytes(le32(&self.raw, 0x10).to_ne_bytes()));
        let epoch = if self.extra_size >= 12 { le32(&self.raw, 0x88) & 3 } else { 0 };
        low + (i64::from(epoch) << 32)
    }
}

impl Reader {
    /// Block, and byte offset in it, of inode `number`.
    ///
    /// # Errors
    /// If there is no such inode, or its group's descriptor is damaged.
    pub fn inode_place(&self, number: u32) -> Result<(u64, usize), StorageError> {
        let (group, index) = self.group_of_inode(number)?;
        Ok(self.place_in(&self.group(group)?, index))
    }

    fn place_in(&self, group: &Group, index: u32) -> (u64, usize) {
        let offset = usize_of(index % self.geometry.inodes_per_block) * usize::from(self.superblock.inode_size);
        // Cannot overflow: the whole table is in the file system (checked by `group`).
        (group.inode_table + u64::from(index / self.geometry.inodes_per_block), offset)
    }

    /// Reads inode `number`, which a directory or the superblock refers to: it must be in use.
    ///
    /// # Errors
    /// If there is no such inode, it is damaged or not in use, or cannot be read.
    pub fn inode(&self, number: u32) -> Result<Inode, StorageError> {
        let raw = self.inode_bytes(number)?;
        self.parse_inode(number, raw)
    }

    /// Like [`Reader::inode`], for an inode that may have no name any more.
    ///
    /// # Errors
    /// As [`Reader::inode`].
    pub fn orphan_inode(&self, number: u32) -> Result<Inode, StorageError> {
        let raw = self.inode_bytes(number)?;
        self.parse_named_or_not(number, raw)
    }

    fn inode_bytes(&self, number: u32) -> Result<Wiped, StorageError> {
        let (group, index) = self.group_of_inode(number)?;
        let group = self.group(group)?;
        // Cannot underflow: checked by `group`.
        let used = self.superblock.inodes_per_group - group.unused_inodes;
        if group.flags & INODE_UNINIT != 0 || index >= used {
            return Err(StorageError::Corrupt(format!(
                "ext4: inode {number}: a directory leads to it, but its group says that it was never used"
            )));
        }
        let (block, offset) = self.place_in(&group, index);
        let mut raw = Wiped::zeros(usize::from(self.superblock.inode_size));
        self.read_part(block, offset, &mut raw)?;
        Ok(raw)
    }

    /// Updates the checksum in an inode's bytes.
    pub fn seal_inode(&self, inode: &mut Inode) {
        let Some((_, checksum)) = self.inode_checksum(inode.number, &mut inode.raw, inode.extra_size) else { return };
        let [a, b, c, d] = checksum.to_le_bytes();
        for (at, half, is_there) in [(0x7C, [a, b], true), (0x82, [c, d], inode.extra_size >= 4)] {
            if let Some(field) = inode.raw.get_mut(at..at + 2).filter(|_| is_there) {
                field.copy_from_slice(&half);
            }
        }
    }

    /// Decodes an inode's bytes and checks them.
    ///
    /// # Errors
    /// If it is damaged or not in use.
    pub fn parse_inode(&self, number: u32, raw: Wiped) -> Result<Inode, StorageError> {
        let inode = self.parse_named_or_not(number, raw)?;
        if inode.links == 0 {
            return Err(StorageError::Corrupt(format!(
                "ext4: inode {number}: a directory leads to it, but it has no links"
            )));
        }
        Ok(inode)
    }

    fn parse_named_or_not(&self, number: u32, mut raw: Wiped) -> Result<Inode, StorageError> {
        let wrong = |what: &str| Err(StorageError::Corrupt(format!("ext4: inode {number}: {what}")));
        let mode = le16(&raw, 0x0);
        let extra_size = if raw.len() > GOOD_OLD_SIZE { le16(&raw, 0x80) } else { 0 };
        if GOOD_OLD_SIZE + usize::from(extra_size) > raw.len() || !extra_size.is_multiple_of(4) {
            return wrong("its extra size does not fit");
        }
        if let Some((stored, computed)) = self.inode_checksum(number, &mut raw, extra_size)
            && stored != computed
        {
            return wrong("its checksum does not match");
        }
        let kind = match mode >> 12 {
            0x1 => FileKind::Fifo,
            0x2 => FileKind::CharacterDevice,
            0x4 => FileKind::Directory,
            0x6 => FileKind::BlockDevice,
            0x8 => FileKind::File,
            0xA => FileKind::Symlink,
            0xC => FileKind::Socket,
            _ => return wrong("a directory leads to it, but it is not in use"),
        };
        let flags = le32(&raw, 0x20);
        let links = le16(&raw, 0x1A);
        let sectors = halves(le32(&raw, 0x1C), u32::from(le16(&raw, 0x74)));
        let unit = if flags & HUGE_FILE != 0 { u64::from(self.geometry.block_size / 512) } else { 1 };
        Ok(Inode {
            number,
            mode,
            uid: u32::from(le16(&raw, 0x2)) | (u32::from(le16(&raw, 0x78)) << 16),
            gid: u32::from(le16(&raw, 0x18)) | (u32::from(le16(&raw, 0x7A)) << 16),
            size: halves(le32(&raw, 0x4), le32(&raw, 0x6C)),
            links,
            sectors: sectors.saturating_mul(unit),
            flags,
            generation: le32(&raw, 0x64),
            xattr_block: halves(le32(&raw, 0x68), u32::from(le16(&raw, 0x76))),
            extra_size,
            kind,
            raw,
        })
    }

    /// An inode's stored checksum (`l_i_checksum_lo`, 0x7C, and `i_checksum_hi`, 0x82) and the correct one; `None`
    /// without `metadata_csum`. Covers the inode's number, its generation, and its bytes with both fields as zero:
    /// `raw` is restored before this returns.
    fn inode_checksum(&self, number: u32, raw: &mut [u8], extra_size: u16) -> Option<(u32, u32)> {
        if !self.superblock.has_checksums() {
            return None;
        }
        let seed = self.inode_seed(number, le32(raw, 0x64));
        // One call over all bytes: there are thousands of inodes, and most of the time of a checksum is its setup.
        let low = take_field(raw, 0x7C)?;
        let high = if extra_size >= 4 { take_field(raw, 0x82)? } else { [0; 2] };
        let computed = crc32c(seed, raw);
        raw.get_mut(0x7C..0x7E)?.copy_from_slice(&low);
        let stored = u32::from(u16::from_le_bytes(low));
        if extra_size < 4 {
            return Some((stored, computed & 0xFFFF));
        }
        raw.get_mut(0x82..0x84)?.copy_from_slice(&high);
        Some(((u32::from(u16::from_le_bytes(high)) << 16) | stored, computed))
    }

    /// The seed of all checksums that belong to one inode.
    pub fn inode_seed(&self, number: u32, generation: u32) -> u32 {
        let mut both = [0; 8];
        both[..4].copy_from_slice(&number.to_le_bytes());
        both[4..].copy_from_slice(&generation.to_le_bytes());
        crc32c(self.superblock.checksum_seed, &both)
    }

    /// Inline content: `i_block`, and the remainder in the attribute `system.data`.
    ///
    /// # Errors
    /// If the attributes are damaged.
    pub fn inline_content(&self, inode: &Inode) -> Result<InlineContent, StorageError> {
        let mut rest = Wiped::default();
        for attribute in inline_attributes(inode)? {
            // `e_name_index` 7 is "system.".
            if attribute.index == 7 && attribute.name == b"data" {
                rest = Wiped::from(attribute.value.to_vec());
            }
        }
        Ok(InlineContent { area: Wiped::from(inode.block_area().to_vec()), rest })
    }
}

/// Returns the two bytes at `at` and sets them to zero.
fn take_field(raw: &mut [u8], at: usize) -> Option<[u8; 2]> {
    let field = raw.get_mut(at..)?.first_chunk_mut()?;
    Some(std::mem::take(field))
}

/// Inline content, in its two places.
pub(in crate::ext4) struct InlineContent {
    /// `i_block`, 60 bytes.
    pub area: Wiped,
    /// The value of `system.data`; empty if there is none.
    pub rest: Wiped,
}
