//! SELinux labels and access ACLs, which are extended attributes.
//!
//! Reads any inode's label, and defines byte for byte how a new inode with only a label must look: the audit compares
//! the writer's result with that.

use deaddrop_core::error::StorageError;
use deaddrop_core::tree::{Label, acl};

use super::attributes::{BLOCK_HEADER, CHECKSUM, XATTR_MAGIC, block_attributes, inline_attributes};
use super::bytes::le32;
use super::features::Compat;
use super::inode::{GOOD_OLD_SIZE, Inode};
use super::reader::{Reader, usize_of};

/// `e_name_index` of "system.posix_acl_access"; the name is empty.
const ACCESS_ACL: u8 = 2;
/// `e_name_index` of "security.".
const SECURITY: u8 = 6;
/// The name after that prefix.
const NAME: &[u8] = b"selinux";
/// Size of an entry: 16 bytes of fields, and the name, padded to a multiple of four.
const ENTRY: usize = 16 + NAME.len().next_multiple_of(4);
/// The four zero bytes after the last entry.
const END: usize = 4;
/// Size of the fields that a new inode has after its first 128 bytes: up to `i_projid`, as mke2fs and the kernel write
/// them.
const EXTRA_SIZE: usize = 32;

impl Reader {
    /// The label of an inode; `None` if it has none.
    ///
    /// # Errors
    /// If its attributes are damaged or cannot be read, or the label is too long, or has its own inode.
    pub fn label(&self, inode: &Inode) -> Result<Option<Label>, StorageError> {
        let Some(value) = self.attribute(inode, SECURITY, NAME)?.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        Label::new(value).map(Some).ok_or_else(|| {
            let what = format!("the SELinux label of inode {} has over {} bytes", inode.number, Label::LONGEST);
            StorageError::unsupported(what, "give it a usual one: `chcon`, or `restorecon` where the system runs")
        })
    }

    /// True if the access ACL of an inode lets a user write whom its mode does not name; also for an unknown form of
    /// ACL.
    ///
    /// # Errors
    /// If its attributes are damaged or cannot be read.
    pub fn acl_lets_write(&self, inode: &Inode) -> Result<bool, StorageError> {
        let acl = self.attribute(inode, ACCESS_ACL, b"")?;
        Ok(acl.is_some_and(|value| acl::lets_write(&value, acl::Form::Ext4).unwrap_or(true)))
    }

    /// The value of an extended attribute; `None` if it does not exist.
    ///
    /// # Errors
    /// If the attributes are damaged or cannot be read, or this one has its own inode.
    fn attribute(&self, inode: &Inode, index: u8, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let block = match inode.xattr_block {
            0 => None,
            number => Some(self.attribute_block(inode, number)?),
        };
        let inside = inline_attributes(inode)?;
        let outside = match &block {
            None => Vec::new(),
            Some(block) => block_attributes(block).ok_or_else(|| damaged(inode))?,
        };
        let mut all = inside.iter().chain(&outside);
        match all.find(|attribute| attribute.index == index && attribute.name == name) {
            None => Ok(None),
            Some(found) if found.has_own_inode() => {
                let what = format!(
                    "ext4 feature `ea_inode`: an attribute of inode {} lies in an inode of its own",
                    inode.number
                );
                Err(StorageError::unsupported(what, "remove the attribute (setfattr -x) first"))
            }
            Some(found) => Ok(Some(found.value.to_vec())),
        }
    }

    /// The attribute block of an inode, with its header checked.
    fn attribute_block(&self, inode: &Inode, number: u64) -> Result<Vec<u8>, StorageError> {
        let block = self.block(number)?.to_vec();
        let has_sum = self.superblock.has_checksums();
        let sound = le32(&block, 0) == XATTR_MAGIC
            && le32(&block, 0x8) == 1
            && (!has_sum || self.attribute_checksum(number, &block) == le32(&block, CHECKSUM));
        if sound { Ok(block) } else { Err(damaged(inode)) }
    }
}

/// True if a new inode has room for the label, and needs no attribute block.
pub(in crate::ext4) fn fits_inode(reader: &Reader, label: &Label) -> bool {
    let size = usize::from(reader.superblock.inode_size);
    let room = size.saturating_sub(GOOD_OLD_SIZE).saturating_sub(EXTRA_SIZE);
    4 + ENTRY + END + label.value().len().next_multiple_of(4) <= room
}

/// Refuses a label that does not fit into a new inode if there are no attribute blocks; the longest label fits into the
/// smallest block.
///
/// # Errors
/// `Unsupported` in a file system without attribute blocks.
pub(in crate::ext4) fn check_room(reader: &Reader, label: &Label, path: &str) -> Result<(), StorageError> {
    if fits_inode(reader, label) || reader.superblock.features.compat.has(Compat::EXT_ATTR) {
        return Ok(());
    }
    Err(StorageError::unsupported(
        format!("ext4 without the feature `ext_attr`: {path} cannot have its SELinux label"),
        "`tune2fs -O ext_attr` on it first",
    ))
}

/// True if the new inode `inode` has `label` as its only attribute, or no attribute if `label` is `None`, byte for byte
/// as expected.
///
/// # Errors
/// If its attributes cannot be read.
pub(in crate::ext4) fn is_only_attribute(
    reader: &Reader,
    inode: &Inode,
    label: Option<&Label>,
) -> Result<bool, StorageError> {
    let area = inode.raw.get(GOOD_OLD_SIZE + usize::from(inode.extra_size)..).unwrap_or_default();
    let area = if inode.extra_size == 0 { &[] } else { area };
    match (label, inode.xattr_block) {
        (None, 0) => Ok(area.iter().all(|byte| *byte == 0)),
        (None, _) => Ok(false),
        (Some(label), 0) => Ok(inode_area(area.len(), label).is_some_and(|want| want == area)),
        (Some(label), number) => {
            let block = reader.block(number)?;
            let want = whole_block(reader, number, label);
            Ok(area.iter().all(|byte| *byte == 0) && want.is_some_and(|want| *block == want))
        }
    }
}

/// The `size` bytes after an inode's fields, with a label. `None` if it does not fit.
fn inode_area(size: usize, label: &Label) -> Option<Vec<u8>> {
    let mut area = XATTR_MAGIC.to_le_bytes().to_vec();
    // Value offsets count from the first entry. No hash: attributes inside an inode are not shared.
    area.extend(entries(size.checked_sub(4)?, 0, label, 0)?);
    Some(area)
}

/// An attribute block with a label, used by one inode.
fn whole_block(reader: &Reader, number: u64, label: &Label) -> Option<Vec<u8>> {
    let size = usize_of(reader.geometry.block_size);
    let hash = hash(label.value());
    let mut block = entries(size, BLOCK_HEADER, label, hash)?;
    // The block's hash combines its entries' hashes; with one entry they are equal.
    for (at, field) in [(0, XATTR_MAGIC), (4, 1), (8, 1), (0xC, hash)] {
        block.get_mut(at..at + 4)?.copy_from_slice(&field.to_le_bytes());
    }
    if reader.superblock.has_checksums() {
        let checksum = reader.attribute_checksum(number, &block);
        block.get_mut(CHECKSUM..CHECKSUM + 4)?.copy_from_slice(&checksum.to_le_bytes());
    }
    Some(block)
}

/// `size` bytes with the label's entry at `first`, and its value at the end.
fn entries(size: usize, first: usize, label: &Label, hash: u32) -> Option<Vec<u8>> {
    let value = label.value();
    let offset = size.checked_sub(value.len().next_multiple_of(4))?;
    if first + ENTRY + END > offset {
        return None;
    }
    let mut bytes = vec![0; size];
    let mut entry = vec![u8::try_from(NAME.len()).ok()?, SECURITY];
    entry.extend(u16::try_from(offset).ok()?.to_le_bytes());
    // `e_value_inum` 0: the value is in the same place as its name.
    entry.extend(0_u32.to_le_bytes());
    entry.extend(u32::try_from(value.len()).ok()?.to_le_bytes());
    entry.extend(hash.to_le_bytes());
    entry.extend(NAME);
    bytes.get_mut(first..first + entry.len())?.copy_from_slice(&entry);
    bytes.get_mut(offset..offset + value.len())?.copy_from_slice(value);
    Some(bytes)
}

/// `e_hash`: the name's bytes, each after a rotation by 5, then the value's words (little-endian, the last padded with
/// zeros), each after a rotation by 16.
fn hash(value: &[u8]) -> u32 {
    let name = NAME.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
    value.chunks(4).fold(name, |hash, part| {
        let mut word = [0; 4];
        // OK to index: a chunk has at most four bytes.
        word[..part.len()].copy_from_slice(part);
        hash.rotate_left(16) ^ u32::from_le_bytes(word)
    })
}

fn damaged(inode: &Inode) -> StorageError {
    StorageError::Corrupt(format!("ext4: inode {}: damaged attributes", inode.number))
}
