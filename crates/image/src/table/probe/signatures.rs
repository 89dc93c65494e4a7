//! Signatures at the start of a partition, one function per file system or layer. `head` is the start of the partition.

use deaddrop_core::bytes::{array, be16, be32, be64, le16, le32, le64, slice};
use deaddrop_core::text;

use super::{ContentKind, Probe};
use crate::device::ReadAt;

/// Offset and size of the uberblocks in the first ZFS label. OpenZFS, `vdev_impl.h`: `vdev_label_t`, `vl_uberblock`.
const UBERBLOCKS: (u64, usize) = (0x20000, 0x20000);

/// Documentation/filesystems/ext4, "The Super Block"; the superblock is at 1024.
pub(super) fn ext(head: &[u8]) -> Option<Probe> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEV: u32 = 0x8;
    const IS_64BIT: u32 = 0x80;
    /// Features of ext2 and ext3: filetype, recover and meta_bg.
    const OLD_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    /// Features of ext2 and ext3: sparse_super, large_file and btree_dir.
    const OLD_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;

    let sb = slice(head, 0x400, 0x400)?;
    if le16(sb, 0x38)? != 0xEF53 {
        return None;
    }
    let (compat, incompat, ro_compat) = (le32(sb, 0x5C)?, le32(sb, 0x60)?, le32(sb, 0x64)?);
    let kind = if incompat & JOURNAL_DEV != 0 {
        ContentKind::Ext4Journal
    } else if incompat & !OLD_INCOMPAT != 0 || ro_compat & !OLD_RO_COMPAT != 0 {
        ContentKind::Ext4
    } else if compat & HAS_JOURNAL != 0 {
        ContentKind::Ext3
    } else {
        ContentKind::Ext2
    };
    // s_log_block_size; the format ends at 64 KiB.
    let block = 1024_u64.checked_shl(le32(sb, 0x18)?).filter(|block| (1024..=65536).contains(block));
    let wide = |low: usize, high: usize| {
        let high = if incompat & IS_64BIT != 0 { le32(sb, high)? } else { 0 };
        Some(u64::from(high) << 32 | u64::from(le32(sb, low)?))
    };
    // s_blocks_count and s_free_blocks_count.
    let (blocks, free) = (wide(0x4, 0x150)?, wide(0xC, 0x158)?);
    let size = block.and_then(|block| blocks.checked_mul(block));
    let used = block.zip(blocks.checked_sub(free)).and_then(|(block, used)| used.checked_mul(block));
    Some(Probe::new(kind).named(slice(sb, 0x78, 16), array(sb, 0x68)).sized(size, used))
}

/// fs/btrfs, `struct btrfs_super_block` at 64 KiB.
pub(super) fn btrfs(head: &[u8]) -> Option<Probe> {
    let sb = slice(head, 0x10000, 0x1000)?;
    (slice(sb, 0x40, 8)? == b"_BHRfS_M").then(|| {
        Probe::new(ContentKind::Btrfs)
            .named(slice(sb, 0x12B, 256), array(sb, 0x20))
            .sized(le64(sb, 0x70), le64(sb, 0x78))
    })
}

/// fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb` at 0, big-endian.
pub(super) fn xfs(head: &[u8]) -> Option<Probe> {
    if slice(head, 0, 4)? != b"XFSB" {
        return None;
    }
    // sb_blocksize, sb_dblocks, sb_fdblocks.
    let (block, blocks, free) = (u64::from(be32(head, 4)?), be64(head, 8)?, be64(head, 144)?);
    let used = blocks.checked_sub(free).and_then(|used| used.checked_mul(block));
    Some(
        Probe::new(ContentKind::Xfs)
            .named(slice(head, 108, 12), array(head, 32))
            .sized(blocks.checked_mul(block), used),
    )
}

/// include/linux/f2fs_fs.h, `struct f2fs_super_block` at 1024; the label is UTF-16.
pub(super) fn f2fs(head: &[u8]) -> Option<Probe> {
    let sb = slice(head, 0x400, 0xC00)?;
    (le32(sb, 0)? == 0xF2F5_2010).then(|| {
        let mut probe = Probe::new(ContentKind::F2fs).named(None, array(sb, 108));
        probe.label = slice(sb, 124, 1024).and_then(text::shown_utf16);
        probe
    })
}

/// fs/bcachefs/bcachefs_format.h, `struct bch_sb` at 4096: magic at 24, user_uuid at 56, label at 72.
pub(super) fn bcachefs(head: &[u8]) -> Option<Probe> {
    const MAGIC: [u8; 16] =
        [0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef];
    let sb = slice(head, 4096, 256)?;
    (array(sb, 24)? == MAGIC).then(|| Probe::new(ContentKind::Bcachefs).named(slice(sb, 72, 32), array(sb, 56)))
}

/// fs/erofs/erofs_fs.h, `struct erofs_super_block` at 1024.
pub(super) fn erofs(head: &[u8]) -> Option<Probe> {
    let sb = slice(head, 0x400, 128)?;
    (le32(sb, 0)? == 0xE0F5_E1E2).then(|| Probe::new(ContentKind::Erofs).named(slice(sb, 64, 16), array(sb, 48)))
}

/// fs/squashfs/squashfs_fs.h, `struct squashfs_super_block` at 0; bytes_used at 40.
pub(super) fn squashfs(head: &[u8]) -> Option<Probe> {
    (slice(head, 0, 4)? == b"hsqs").then(|| Probe::new(ContentKind::Squashfs).sized(le64(head, 40), le64(head, 40)))
}

/// include/linux/swap.h, `union swap_header`: the magic ends the first page, the rest is at 1024.
pub(super) fn swap(head: &[u8]) -> Option<Probe> {
    // Page sizes of the machines NixOS runs on: 4, 16 and 64 KiB.
    let found = [0x1000, 0x4000, 0x10000].into_iter().any(|page| slice(head, page - 10, 10) == Some(b"SWAPSPACE2"));
    found.then(|| Probe::new(ContentKind::Swap).named(slice(head, 1052, 16), array(head, 1036)))
}

/// ECMA-119, 8.4: the primary volume descriptor is sector 16; the volume identifier is at 40 in it.
pub(super) fn iso9660(head: &[u8]) -> Option<Probe> {
    let sector = slice(head, 0x8000, 2048)?;
    (slice(sector, 1, 5)? == b"CD001").then(|| Probe::new(ContentKind::Iso9660).named(slice(sector, 40, 32), None))
}

/// "LUKS2 On-Disk Format Specification", section 2.1; version 1 has its UUID at the same place, and no label.
pub(super) fn luks(head: &[u8]) -> Option<Probe> {
    if slice(head, 0, 6)? != b"LUKS\xba\xbe" {
        return None;
    }
    let mut probe = Probe::new(ContentKind::Luks);
    if be16(head, 6)? >= 2 {
        probe.label = slice(head, 24, 48).and_then(text::shown);
    }
    probe.uuid = slice(head, 168, 40).and_then(text::shown);
    Some(probe)
}

/// LVM2, `struct label_header` in one of the first four sectors; the type is at 24 in it. LVM1: "HM", then its version.
pub(super) fn lvm(head: &[u8]) -> Option<Probe> {
    if slice(head, 0, 2)? == b"HM" && matches!(le16(head, 2)?, 1 | 2) {
        return Some(Probe::new(ContentKind::Lvm));
    }
    let found = [0, 512, 1024, 1536]
        .into_iter()
        .any(|at| slice(head, at, 8) == Some(b"LABELONE") && slice(head, at + 24, 8) == Some(b"LVM2 001"));
    found.then(|| Probe::new(ContentKind::Lvm))
}

/// cryptsetup, lib/verity/verity.c, `struct verity_sb` at 0.
pub(super) fn verity(head: &[u8]) -> Option<Probe> {
    (slice(head, 0, 8)? == b"verity\0\0").then(|| Probe::new(ContentKind::Verity))
}

/// "FAT: General Overview of On-Disk Format" 1.03, "Boot Sector and BPB"; exFAT and NTFS name themselves at 3.
pub(super) fn dos(head: &[u8]) -> Option<Probe> {
    match slice(head, 3, 8)? {
        b"EXFAT   " => return Some(Probe::new(ContentKind::Exfat)),
        b"NTFS    " => return Some(Probe::new(ContentKind::Ntfs)),
        _ => {}
    }
    // BS_FilSysType of FAT32, then of FAT12 and FAT16; label and serial number are before it.
    let at = [82, 54].into_iter().find(|&at| {
        matches!(slice(head, at, 8), Some(b"FAT32   ")) && at == 82
            || matches!(slice(head, at, 8), Some(b"FAT12   " | b"FAT16   ")) && at == 54
    })?;
    if le16(head, 510)? != 0xAA55 {
        return None;
    }
    let serial = le32(head, at - 15)?;
    let mut probe =
        Probe::new(ContentKind::Vfat).named(slice(head, at - 11, 11).filter(|label| *label != b"NO NAME    "), None);
    probe.uuid = Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff));
    Some(probe)
}

/// OpenZFS, `uberblock_impl.h`: 0x00bab10c, in native byte order of the writing machine.
pub(super) fn zfs(device: &dyn ReadAt) -> Option<Probe> {
    let (offset, length) = UBERBLOCKS;
    let mut ring = vec![0; length];
    device.read_exact_at(offset, &mut ring).ok()?;
    let magic = |bytes: &[u8]| le64(bytes, 0) == Some(0x00ba_b10c) || be64(bytes, 0) == Some(0x00ba_b10c);
    ring.chunks_exact(1024).any(magic).then(|| Probe::new(ContentKind::Zfs))
}
