//! Superblocks that the kernel is not asked to mount: those that would make it open another device of this machine, and
//! file systems that it would not write.
//!
//! The superblock is hostile, and the kernel reads it as root. The rest of the file system is parsed by the kernel.

use deaddrop_core::bytes::{be64, le16, le32, le64, slice};
use deaddrop_core::error::{Remedy, StorageError};
use deaddrop_core::text;

use crate::device::ReadAt;
use crate::table::probe::ContentKind;

/// Checks the file system of this kind on `partition`, before it is mounted for reading or (`writes`) for a change.
///
/// # Errors
/// `Unsupported` for a file system on more than this device; `Refused` for one with recorded errors that is to be
/// changed.
pub fn check_superblock(partition: &dyn ReadAt, kind: ContentKind, writes: bool) -> Result<(), StorageError> {
    match kind {
        ContentKind::Btrfs => btrfs(&superblock(partition, super::btrfs::SUPERBLOCK)?, writes),
        ContentKind::Xfs => xfs(&superblock(partition, 0)?),
        _ => ext4(&superblock(partition, 1024)?, writes),
    }
}

/// Number of bytes read of a superblock.
const LENGTH: usize = 1024;

fn superblock(partition: &dyn ReadAt, offset: u64) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; LENGTH];
    let read = partition.read_exact_at(offset, &mut bytes);
    read.map(|()| bytes).map_err(|error| StorageError::io("reading a superblock", error))
}

fn cut_off() -> StorageError {
    StorageError::corrupt("the superblock is truncated")
}

/// Kernel documentation, ext4, "The Super Block".
fn ext4(raw: &[u8], writes: bool) -> Result<(), StorageError> {
    const HAS_JOURNAL: u32 = 0x4;
    const ERRORS: u16 = 0x2;
    let state = le16(raw, 0x3A).ok_or_else(cut_off)?;
    let (compat, journal_inode) = le32(raw, 0x5C).zip(le32(raw, 0xE0)).ok_or_else(cut_off)?;
    if compat & HAS_JOURNAL != 0 && journal_inode == 0 {
        // The kernel would open the device numbered by `s_journal_dev`, or report a missing one.
        return Err(StorageError::unsupported(
            "ext4 with an external journal",
            "make its journal an internal one: `tune2fs -O ^has_journal`, then `tune2fs -j`",
        ));
    }
    let options = slice(raw, 0x200, 64).and_then(text::shown).unwrap_or_default();
    if options.split(',').any(|option| option.trim().starts_with("journal_")) {
        return Err(StorageError::unsupported(
            format!("ext4 whose superblock has mount options for its journal: {options}"),
            "remove them: `tune2fs -E clear_mntopts`, or `tune2fs -E mount_opts=`",
        ));
    }
    if writes && state & ERRORS != 0 {
        return Err(StorageError::refused("the ext4 file system has errors recorded", Remedy::CheckFileSystem));
    }
    Ok(())
}

/// fs/btrfs, `struct btrfs_super_block`: flags at 0x38, num_devices at 0x88.
fn btrfs(raw: &[u8], writes: bool) -> Result<(), StorageError> {
    const SEEDING: u64 = 1 << 32;
    let (flags, devices) = le64(raw, 0x38).zip(le64(raw, 0x88)).ok_or_else(cut_off)?;
    if devices != 1 {
        // The kernel would search for the others among this machine's disks.
        return Err(StorageError::unsupported(
            format!("a btrfs that lies on {devices} devices"),
            "build the image with a btrfs of one device",
        ));
    }
    if writes && flags & SEEDING != 0 {
        return Err(StorageError::unsupported(
            "a btrfs seed device, which is read-only by design",
            "`btrfstune -S 0` makes it an ordinary one",
        ));
    }
    Ok(())
}

/// fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`: sb_logstart at 48, big-endian.
fn xfs(raw: &[u8]) -> Result<(), StorageError> {
    if be64(raw, 48).ok_or_else(cut_off)? == 0 {
        return Err(StorageError::unsupported(
            "an xfs whose log lies on another device",
            "build the image with an internal log",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with `pieces` (offset, bytes) in it.
    fn device(pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut device = vec![0; 128 << 10];
        for (offset, bytes) in pieces {
            device[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        device
    }

    #[test]
    fn what_would_lead_the_kernel_to_another_device_is_refused_by_name() {
        const ONE: (usize, &[u8]) = (0x10088, b"\x01");
        for (name, kind, pieces, reads, writes) in [
            ("ext4 without a journal", ContentKind::Ext4, vec![], "", ""),
            ("ext4, internal", ContentKind::Ext4, vec![(0x45C, &b"\x04"[..]), (0x4E0, b"\x08")], "", ""),
            (
                "ext4, external",
                ContentKind::Ext4,
                vec![(0x45C, b"\x04"), (0x4E4, b"\x01\x08")],
                "ext4 with an external journal",
                "ext4 with an external journal",
            ),
            (
                "ext4, journal by option",
                ContentKind::Ext3,
                vec![(0x600, b"nodelalloc,journal_path=/dev/sda")],
                "ext4 whose superblock has mount options for its journal: nodelalloc,journal_path=/dev/sda",
                "ext4 whose superblock has mount options for its journal: nodelalloc,journal_path=/dev/sda",
            ),
            ("ext4, another option", ContentKind::Ext4, vec![(0x600, b"nodelalloc")], "", ""),
            ("ext4, errors", ContentKind::Ext2, vec![(0x43A, b"\x02")], "", "the ext4 file system has errors recorded"),
            ("btrfs", ContentKind::Btrfs, vec![ONE], "", ""),
            (
                "btrfs, two devices",
                ContentKind::Btrfs,
                vec![(0x10088, b"\x02")],
                "a btrfs that lies on 2 devices",
                "a btrfs that lies on 2 devices",
            ),
            (
                "btrfs, seed",
                ContentKind::Btrfs,
                vec![ONE, (0x1003C, b"\x01")],
                "",
                "a btrfs seed device, which is read-only by design",
            ),
            ("xfs", ContentKind::Xfs, vec![(55, b"\x01")], "", ""),
            (
                "xfs, external",
                ContentKind::Xfs,
                vec![],
                "an xfs whose log lies on another device",
                "an xfs whose log lies on another device",
            ),
        ] {
            let said = |writes| {
                check_superblock(&device(&pieces), kind, writes).err().map(|e| e.to_string()).unwrap_or_default()
            };
            assert_eq!((said(false).as_str(), said(true).as_str()), (reads, writes), "{name}");
        }
        assert!(check_superblock(&vec![0; 100], ContentKind::Ext4, false).is_err(), "too short");
    }
}
