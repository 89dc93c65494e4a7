//! Which file system a partition holds: its kind, label, UUID and size, from a few bytes at its start. And which layer it
//! lies in, if any: `layers` also looks at the end.
//!
//! Called by [`crate::table`] for each partition. Looks at magics only; whether the file system is sound is for its
//! own reader. Offsets are bytes from the partition's start, on-disk names those of the Linux headers.

mod layers;

use std::io;
use std::sync::{Mutex, PoisonError};

use deaddrop_core::bytes::{array, be16, be32, be64, le16, le32, le64, length, slice};
use deaddrop_core::text;
use serde::Serialize;

use crate::device::ReadAt;

/// What can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // Each is the name of a file system or a layer below one, as `name` gives it.
pub enum ContentKind {
    Ext2,
    Ext3,
    Ext4,
    /// A journal of an ext4 that lies elsewhere.
    Ext4Journal,
    Btrfs,
    Xfs,
    F2fs,
    Bcachefs,
    Squashfs,
    Erofs,
    Iso9660,
    Vfat,
    Exfat,
    Ntfs,
    Swap,
    Luks,
    Lvm,
    Zfs,
    Raid,
    Verity,
    Jfs,
    Nilfs2,
    Reiserfs,
    Reiser4,
    Ubifs,
    Ubi,
    Bcache,
    Drbd,
    Stratis,
    Vdo,
    Integrity,
    Bluestore,
    SnapshotCow,
    Bitlocker,
    Ddf,
    Intel,
    Nvidia,
    Adaptec,
    HighPoint,
    Jmicron,
    Lsi,
    Promise,
    Silicon,
    Via,
}

impl ContentKind {
    /// Its name, as blkid and mount call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Ext4Journal => "ext4 journal",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
            Self::F2fs => "f2fs",
            Self::Bcachefs => "bcachefs",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Iso9660 => "iso9660",
            Self::Vfat => "vfat",
            Self::Exfat => "exfat",
            Self::Ntfs => "ntfs",
            Self::Swap => "swap",
            Self::Luks => "LUKS",
            Self::Lvm => "LVM",
            Self::Zfs => "ZFS",
            Self::Raid => "Linux RAID",
            Self::Verity => "dm-verity",
            Self::Jfs => "jfs",
            Self::Nilfs2 => "nilfs2",
            Self::Reiserfs => "reiserfs",
            Self::Reiser4 => "reiser4",
            Self::Ubifs => "ubifs",
            Self::Ubi => "UBI",
            Self::Bcache => "bcache",
            Self::Drbd => "DRBD",
            Self::Stratis => "Stratis",
            Self::Vdo => "VDO",
            Self::Integrity => "dm-integrity",
            Self::Bluestore => "Ceph BlueStore",
            Self::SnapshotCow => "dm-snapshot",
            Self::Bitlocker => "BitLocker",
            Self::Ddf => "DDF RAID",
            Self::Intel => "Intel RAID",
            Self::Nvidia => "NVIDIA RAID",
            Self::Adaptec => "Adaptec RAID",
            Self::HighPoint => "HighPoint RAID",
            Self::Jmicron => "JMicron RAID",
            Self::Lsi => "LSI MegaRAID",
            Self::Promise => "Promise FastTrack RAID",
            Self::Silicon => "Silicon Image RAID",
            Self::Via => "VIA RAID",
        }
    }

    /// True for ext2, ext3 and ext4: what the native writer is for.
    #[must_use]
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4)
    }

    /// True for a member of a RAID or a replica: written alone, it would differ from the others.
    #[must_use]
    pub fn is_member(self) -> bool {
        matches!(
            self,
            Self::Raid
                | Self::Drbd
                | Self::Ddf
                | Self::Intel
                | Self::Nvidia
                | Self::Adaptec
                | Self::HighPoint
                | Self::Jmicron
                | Self::Lsi
                | Self::Promise
                | Self::Silicon
                | Self::Via
        )
    }

    /// True for what a Linux root can lie on, or in: everything but boot partitions, swap, and hash trees.
    #[must_use]
    pub fn can_hold_root(self) -> bool {
        !matches!(
            self,
            Self::Ext4Journal
                | Self::Iso9660
                | Self::Vfat
                | Self::Exfat
                | Self::Ntfs
                | Self::Bitlocker
                | Self::Swap
                | Self::Verity
        )
    }
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// Which file system.
    pub kind: ContentKind,
    /// Its label, made harmless for a terminal.
    pub label: Option<String>,
    /// Its UUID, or the serial number of a FAT.
    pub uuid: Option<String>,
    /// Its size in bytes, as it says itself; where that is cheap to tell.
    pub size: Option<u64>,
    /// Bytes in use, as it says itself; where that is cheap to tell.
    pub used: Option<u64>,
}

impl Probe {
    fn new(kind: ContentKind) -> Self {
        Self { kind, label: None, uuid: None, size: None, used: None }
    }

    /// Adds label and UUID, where they are.
    fn named(mut self, label: Option<&[u8]>, uuid: Option<[u8; 16]>) -> Self {
        self.label = label.and_then(text::shown);
        self.uuid = uuid.and_then(|uuid| text::uuid(&uuid));
        self
    }

    /// Adds size and use, both in bytes.
    fn sized(mut self, size: Option<u64>, used: Option<u64>) -> Self {
        (self.size, self.used) = (size, used);
        self
    }
}

/// What is read of a partition's start: up to the end of btrfs' superblock (0x10000 + 0x1000).
const HEAD: usize = 0x11000;
/// Where the first ZFS label keeps its uberblocks, and how many bytes of them there are.
/// OpenZFS, `vdev_impl.h`: `vdev_label_t`, `vl_uberblock`.
const UBERBLOCKS: (u64, usize) = (0x20000, 0x20000);

/// What the partition `device` holds. `None` when it is nothing that we know.
///
/// # Errors
/// When a place that would tell cannot be read: a member of a RAID must not pass for a file system of its own.
pub fn probe(device: &dyn ReadAt) -> io::Result<Option<Probe>> {
    Noting::ask(device, |device| look(device, false))
}

/// The same for a whole disk, which a RAID controller may have its metadata on.
///
/// # Errors
/// As [`probe`].
pub fn probe_disk(device: &dyn ReadAt) -> io::Result<Option<Probe>> {
    Noting::ask(device, |device| look(device, true))
}

/// A device that notes when it cannot be read, for those who ask whether something is there.
struct Noting<'d> {
    device: &'d dyn ReadAt,
    failed: Mutex<Option<io::Error>>,
}

impl<'d> Noting<'d> {
    /// Asks, and prefers an error of the device to the answer.
    fn ask<T>(device: &'d dyn ReadAt, ask: impl FnOnce(&dyn ReadAt) -> T) -> io::Result<T> {
        let noting = Self { device, failed: Mutex::new(None) };
        let answer = ask(&noting);
        match noting.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }
}

impl ReadAt for Noting<'_> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Whoever asks for what lies behind the end gets no answer, which is one.
        if offset.checked_add(length(buf)).is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.device.read_exact_at(offset, buf).map_err(|error| {
            let kind = error.kind();
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            kind.into()
        })
    }
}

/// Whether a layer's signature lies at the end of `device`, and where; see [`layers::at_the_end`].
///
/// # Errors
/// As [`probe`].
pub(crate) fn at_the_end(device: &dyn ReadAt, whole: bool) -> io::Result<Option<(Probe, u64)>> {
    Noting::ask(device, |device| layers::at_the_end(device, whole))
}

fn look(device: &dyn ReadAt, whole: bool) -> Option<Probe> {
    let mut head = vec![0; usize::try_from(device.size()).unwrap_or(HEAD).min(HEAD)];
    device.read_exact_at(0, &mut head).ok()?;
    // Layers below a file system first: what they cover may still look like what stood there before.
    let layers = [luks, lvm, verity, bcachefs].iter().find_map(|probe| probe(&head));
    if let Some(layer) = layers.or_else(|| layers::at_the_start(device, &head)) {
        return Some(layer);
    }
    let known = [btrfs, xfs, ext, f2fs, erofs, squashfs, layers::reiserfs, layers::jfs, swap, iso9660, dos];
    let known = layers::nilfs2(device, 1024).or_else(|| known.iter().find_map(|probe| probe(&head)));
    let known = known.or_else(|| zfs(device));
    // What lies inside of a file system is a part of it: of an earlier use, or a file's.
    let inside = |at: u64| known.as_ref().and_then(|found| found.size).is_some_and(|size| at < size);
    if let Some((layer, at)) = layers::at_the_end(device, whole)
        && !inside(at)
    {
        return Some(layer);
    }
    known.or_else(|| layers::luks_copy(device)).or_else(|| layers::nilfs2_copy(device))
}

/// Documentation/filesystems/ext4, "The Super Block"; the superblock is at 1024.
fn ext(head: &[u8]) -> Option<Probe> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEV: u32 = 0x8;
    const IS_64BIT: u32 = 0x80;
    /// filetype, recover and meta_bg: what ext2 and ext3 know as well.
    const OLD_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    /// sparse_super, large_file and btree_dir, likewise.
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
fn btrfs(head: &[u8]) -> Option<Probe> {
    let sb = slice(head, 0x10000, 0x1000)?;
    (slice(sb, 0x40, 8)? == b"_BHRfS_M").then(|| {
        Probe::new(ContentKind::Btrfs)
            .named(slice(sb, 0x12B, 256), array(sb, 0x20))
            .sized(le64(sb, 0x70), le64(sb, 0x78))
    })
}

/// fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb` at 0, big-endian.
fn xfs(head: &[u8]) -> Option<Probe> {
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
fn f2fs(head: &[u8]) -> Option<Probe> {
    let sb = slice(head, 0x400, 0xC00)?;
    (le32(sb, 0)? == 0xF2F5_2010).then(|| {
        let mut probe = Probe::new(ContentKind::F2fs).named(None, array(sb, 108));
        probe.label = slice(sb, 124, 1024).and_then(text::shown_utf16);
        probe
    })
}

/// fs/bcachefs/bcachefs_format.h, `struct bch_sb` at 4096: magic at 24, user_uuid at 56, label at 72.
fn bcachefs(head: &[u8]) -> Option<Probe> {
    const MAGIC: [u8; 16] =
        [0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef];
    let sb = slice(head, 4096, 256)?;
    (array(sb, 24)? == MAGIC).then(|| Probe::new(ContentKind::Bcachefs).named(slice(sb, 72, 32), array(sb, 56)))
}

/// fs/erofs/erofs_fs.h, `struct erofs_super_block` at 1024.
fn erofs(head: &[u8]) -> Option<Probe> {
    let sb = slice(head, 0x400, 128)?;
    (le32(sb, 0)? == 0xE0F5_E1E2).then(|| Probe::new(ContentKind::Erofs).named(slice(sb, 64, 16), array(sb, 48)))
}

/// fs/squashfs/squashfs_fs.h, `struct squashfs_super_block` at 0; bytes_used at 40.
fn squashfs(head: &[u8]) -> Option<Probe> {
    (slice(head, 0, 4)? == b"hsqs").then(|| Probe::new(ContentKind::Squashfs).sized(le64(head, 40), le64(head, 40)))
}

/// include/linux/swap.h, `union swap_header`: the magic ends the first page, the rest is at 1024.
fn swap(head: &[u8]) -> Option<Probe> {
    // Page sizes of the machines NixOS runs on: 4, 16 and 64 KiB.
    let found = [0x1000, 0x4000, 0x10000].into_iter().any(|page| slice(head, page - 10, 10) == Some(b"SWAPSPACE2"));
    found.then(|| Probe::new(ContentKind::Swap).named(slice(head, 1052, 16), array(head, 1036)))
}

/// ECMA-119, 8.4: the primary volume descriptor is sector 16; the volume identifier is at 40 in it.
fn iso9660(head: &[u8]) -> Option<Probe> {
    let sector = slice(head, 0x8000, 2048)?;
    (slice(sector, 1, 5)? == b"CD001").then(|| Probe::new(ContentKind::Iso9660).named(slice(sector, 40, 32), None))
}

/// "LUKS2 On-Disk Format Specification", section 2.1; version 1 has its UUID at the same place, and no label.
fn luks(head: &[u8]) -> Option<Probe> {
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
fn lvm(head: &[u8]) -> Option<Probe> {
    if slice(head, 0, 2)? == b"HM" && matches!(le16(head, 2)?, 1 | 2) {
        return Some(Probe::new(ContentKind::Lvm));
    }
    let found = [0, 512, 1024, 1536]
        .into_iter()
        .any(|at| slice(head, at, 8) == Some(b"LABELONE") && slice(head, at + 24, 8) == Some(b"LVM2 001"));
    found.then(|| Probe::new(ContentKind::Lvm))
}

/// cryptsetup, lib/verity/verity.c, `struct verity_sb` at 0.
fn verity(head: &[u8]) -> Option<Probe> {
    (slice(head, 0, 8)? == b"verity\0\0").then(|| Probe::new(ContentKind::Verity))
}

/// "FAT: General Overview of On-Disk Format" 1.03, "Boot Sector and BPB"; exFAT and NTFS name themselves at 3.
fn dos(head: &[u8]) -> Option<Probe> {
    match slice(head, 3, 8)? {
        b"EXFAT   " => return Some(Probe::new(ContentKind::Exfat)),
        b"NTFS    " => return Some(Probe::new(ContentKind::Ntfs)),
        _ => {}
    }
    // BS_FilSysType of FAT32, then of FAT12 and FAT16; label and serial number stand before it.
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

/// OpenZFS, `uberblock_impl.h`: 0x00bab10c, in the byte order of the machine that wrote it.
fn zfs(device: &dyn ReadAt) -> Option<Probe> {
    let (offset, length) = UBERBLOCKS;
    let mut ring = vec![0; length];
    device.read_exact_at(offset, &mut ring).ok()?;
    let magic = |bytes: &[u8]| le64(bytes, 0) == Some(0x00ba_b10c) || be64(bytes, 0) == Some(0x00ba_b10c);
    ring.chunks_exact(1024).any(magic).then(|| Probe::new(ContentKind::Zfs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of 512 KiB with `pieces` (offset, bytes) in it.
    fn device(pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let mut device = vec![0; 512 << 10];
        for (offset, bytes) in pieces {
            device[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        device
    }

    #[test]
    fn each_magic_gives_its_kind_and_label() {
        let label = |text: &'static str| text.as_bytes();
        for (want, want_label, pieces) in [
            (ContentKind::Ext2, "nixos", vec![(0x438, &b"\x53\xef"[..]), (0x478, label("nixos"))]),
            (ContentKind::Ext3, "", vec![(0x438, b"\x53\xef"), (0x45C, b"\x04")]),
            (ContentKind::Ext4, "", vec![(0x438, b"\x53\xef"), (0x460, b"\x40")]),
            (ContentKind::Ext4Journal, "", vec![(0x438, b"\x53\xef"), (0x460, b"\x08")]),
            (ContentKind::Btrfs, "root", vec![(0x10040, b"_BHRfS_M"), (0x1012B, label("root"))]),
            (ContentKind::Xfs, "x", vec![(0, b"XFSB"), (108, label("x"))]),
            (ContentKind::F2fs, "f", vec![(0x400, b"\x10\x20\xf5\xf2"), (0x47C, b"f\0")]),
            (
                ContentKind::Bcachefs,
                "b",
                vec![
                    (4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
                    (4096 + 72, label("b")),
                ],
            ),
            (ContentKind::Squashfs, "", vec![(0, b"hsqs")]),
            (ContentKind::Erofs, "e", vec![(0x400, b"\xe2\xe1\xf5\xe0"), (0x440, label("e"))]),
            (ContentKind::Swap, "s", vec![(4086, b"SWAPSPACE2"), (1052, label("s"))]),
            (ContentKind::Swap, "", vec![(0x4000 - 10, b"SWAPSPACE2")]),
            (ContentKind::Iso9660, "CD", vec![(0x8001, b"CD001"), (0x8028, label("CD   "))]),
            (ContentKind::Luks, "crypt", vec![(0, b"LUKS\xba\xbe\0\x02"), (24, label("crypt"))]),
            (ContentKind::Luks, "", vec![(0, b"LUKS\xba\xbe\0\x01"), (24, label("xts-plain"))]),
            (ContentKind::Lvm, "", vec![(512, b"LABELONE"), (536, b"LVM2 001")]),
            (ContentKind::Verity, "", vec![(0, b"verity\0\0")]),
            (ContentKind::Vfat, "ESP", vec![(71, label("ESP        FAT32   ")), (510, b"\x55\xaa")]),
            (ContentKind::Vfat, "", vec![(43, label("NO NAME    FAT16   ")), (510, b"\x55\xaa")]),
            (ContentKind::Ntfs, "", vec![(3, label("NTFS    "))]),
            (ContentKind::Exfat, "", vec![(3, label("EXFAT   "))]),
            (ContentKind::Zfs, "", vec![(0x20400, b"\x0c\xb1\xba\0\0\0\0\0")]),
        ] {
            let probe = probe(&device(&pieces)).unwrap().unwrap_or_else(|| panic!("{want:?} not found"));
            assert_eq!((probe.kind, probe.label.as_deref().unwrap_or("")), (want, want_label));
        }
        assert_eq!(probe(&device(&[])).unwrap(), None);
    }

    #[test]
    fn a_layer_wins_over_what_was_there_before_it() {
        let stale = device(&[(0, b"LUKS\xba\xbe\0\x02"), (0x438, b"\x53\xef")]);
        assert_eq!(probe(&stale).unwrap().unwrap().kind, ContentKind::Luks);
    }

    #[test]
    fn no_length_and_no_field_can_make_it_panic() {
        for length in [0, 1, 511, 512, 1024, 1080, 1082, 2047, 4095, 4096, 65536, 0x11000] {
            for fill in [0x00, 0xff] {
                let _ = probe(&vec![fill; length]);
            }
        }
        for value in [0_u32, 3, 65535, u32::MAX] {
            for field in (0..0x400).step_by(4).filter(|field| *field != 0x38) {
                let found = probe(&device(&[(0x438, b"\x53\xef"), (0x400 + field, &value.to_le_bytes())]));
                assert!(found.unwrap().is_some(), "field {field:#x} at {value}");
            }
        }
    }

    #[test]
    fn an_end_that_cannot_be_read_is_an_error_and_not_the_absence_of_a_layer() {
        struct Failing(Vec<u8>);
        impl ReadAt for Failing {
            fn size(&self) -> u64 {
                self.0.size()
            }

            fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
                if offset >= 256 << 10 {
                    Err(io::Error::other("a bad sector"))
                } else {
                    self.0.read_exact_at(offset, buf)
                }
            }
        }
        let failing = Failing(device(&[(0x438, b"\x53\xef")]));
        assert_eq!(probe(&failing).unwrap_err().to_string(), "a bad sector");
        assert_eq!(at_the_end(&failing, true).unwrap_err().to_string(), "a bad sector");
    }
}
