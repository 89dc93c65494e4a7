//! The kinds of content of a partition: their names, and what each means for the choice of a root.

use serde::Serialize;

/// The kinds of content that are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // Each is the name of a file system or a layer below one, as `name` gives it.
pub enum ContentKind {
    Ext2,
    Ext3,
    Ext4,
    /// The external journal of an ext4.
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
    /// Its name in blkid and mount.
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

    /// True for ext2, ext3 and ext4, which the native writer supports.
    #[must_use]
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4)
    }

    /// True for a member of a RAID or a replica: a write to one member would make it differ from the others.
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

    /// True for content that can be, or contain, a Linux root: everything except boot partitions, swap, and hash trees.
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
