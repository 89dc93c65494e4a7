//! The superblock: 1,024 bytes at byte 1,024. Kernel documentation, ext4, "Super Block".
//!
//! Parsing is separate from checking: [`Superblock::parse`] accepts any block with the magic, [`Superblock::geometry`]
//! checks its counts against a device of a given size, and `features` checks whether the writer supports it.

use deaddrop_core::error::StorageError;

use super::bytes::{halves, le16, le32, text};
use super::checksum::crc32c;
use super::features::{Compat, Features, Incompat, RoCompat};

/// Offset of the superblock on the device, in bytes.
pub const OFFSET: u64 = 1024;
/// Size of a superblock, in bytes.
pub const SIZE: usize = 1024;
/// `s_state`: cleanly unmounted.
const STATE_VALID: u16 = 1;
/// `s_state`: the kernel found errors.
const STATE_ERRORS: u16 = 2;

/// The superblock's fields as stored. Counts are not checked yet.
#[derive(Clone)]
pub struct Superblock {
    /// The superblock as stored.
    pub raw: [u8; SIZE],
    /// Inodes in the file system. `s_inodes_count`, 0x0, u32.
    pub inodes: u32,
    /// Blocks in the file system. `s_blocks_count_lo`, 0x4, and, with `64bit`, `s_blocks_count_hi`, 0x150.
    pub blocks: u64,
    /// Blocks that only root may use. `s_r_blocks_count_lo`, 0x8, and `s_r_blocks_count_hi`, 0x154.
    pub reserved_blocks: u64,
    /// Free blocks. `s_free_blocks_count_lo`, 0xC, and `s_free_blocks_count_hi`, 0x158.
    pub free_blocks: u64,
    /// Free inodes. `s_free_inodes_count`, 0x10, u32.
    pub free_inodes: u32,
    /// Number of the block that group 0 starts at. `s_first_data_block`, 0x14, u32.
    pub first_data_block: u32,
    /// Block size is 2^(10 + this) bytes. `s_log_block_size`, 0x18, u32.
    pub log_block_size: u32,
    /// Cluster size is 2^(10 + this) bytes. `s_log_cluster_size`, 0x1C, u32.
    pub log_cluster_size: u32,
    /// Blocks per group. `s_blocks_per_group`, 0x20, u32.
    pub blocks_per_group: u32,
    /// Clusters per group; equal to the blocks per group without `bigalloc`. `s_clusters_per_group`, 0x24, u32.
    pub clusters_per_group: u32,
    /// Inodes per group. `s_inodes_per_group`, 0x28, u32.
    pub inodes_per_group: u32,
    /// Time of the last mount, in seconds since 1970. `s_mtime`, 0x2C, u32, and `s_mtime_hi`, 0x275, u8.
    pub mount_time: u64,
    /// Time of the last write, in seconds since 1970. `s_wtime`, 0x30, u32, and `s_wtime_hi`, 0x274, u8.
    pub write_time: u64,
    /// 1: cleanly unmounted, 2: errors seen, 4: orphans being recovered. `s_state`, 0x3A, u16.
    pub state: u16,
    /// The operating system that created it; 0 is Linux. `s_creator_os`, 0x48, u32.
    pub creator: u32,
    /// Revision; 0 has no feature words and 128-byte inodes. `s_rev_level`, 0x4C, u32.
    pub revision: u32,
    /// First inode that is not reserved. `s_first_ino`, 0x54, u32.
    pub first_inode: u32,
    /// Size of an inode, in bytes. `s_inode_size`, 0x58, u16.
    pub inode_size: u16,
    /// The three feature words, 0x5C, 0x60, 0x64.
    pub features: Features,
    /// `s_uuid`, 0x68, 16 bytes.
    pub uuid: [u8; 16],
    /// `s_volume_name`, 0x78, 16 bytes.
    pub label: String,
    /// Last mount point. `s_last_mounted`, 0x88, 64 bytes.
    pub last_mounted: String,
    /// Blocks reserved for the growth of the descriptor table. `s_reserved_gdt_blocks`, 0xCE, u16.
    pub reserved_descriptor_blocks: u16,
    /// Inode of the journal. `s_journal_inum`, 0xE0, u32.
    pub journal_inode: u32,
    /// True if an external journal is named, by its device (`s_journal_dev`, 0xE4, u32) or its UUID (`s_journal_uuid`,
    /// 0xD0, 16 bytes).
    pub names_external_journal: bool,
    /// Head of the list of orphan inodes. `s_last_orphan`, 0xE8, u32.
    pub last_orphan: u32,
    /// Size of a group descriptor with `64bit`, in bytes. `s_desc_size`, 0xFE, u16.
    pub descriptor_size: u16,
    /// First block of descriptors under `meta_bg`. `s_first_meta_bg`, 0x104, u32.
    pub first_meta_group: u32,
    /// The checksum algorithm; 1 is crc32c. `s_checksum_type`, 0x175, u8.
    pub checksum_type: u8,
    /// Groups with a backup superblock, with `sparse_super2`. `s_backup_bgs`, 0x24C, two u32.
    pub backup_groups: [u32; 2],
    /// Seed of metadata checksums: `s_checksum_seed`, 0x270, u32, with `metadata_csum_seed`, otherwise derived from the
    /// UUID.
    pub checksum_seed: u32,
    /// Inode of the orphan file. `s_orphan_file_inum`, 0x280, u32.
    pub orphan_file_inode: u32,
    /// crc32c over the bytes before it, with `metadata_csum`. `s_checksum`, 0x3FC, u32.
    pub checksum: u32,
}

impl Superblock {
    /// Decodes the fields of `raw`. `None` if the magic (`s_magic`, 0x38, 0xEF53) is missing.
    #[must_use]
    pub fn parse(raw: &[u8; SIZE]) -> Option<Self> {
        if le16(raw, 0x38) != 0xEF53 {
            return None;
        }
        let revision = le32(raw, 0x4C);
        let features = if revision == 0 {
            Features::default()
        } else {
            Features {
                compat: Compat(le32(raw, 0x5C)),
                incompat: Incompat(le32(raw, 0x60)),
                ro_compat: RoCompat(le32(raw, 0x64)),
            }
        };
        let wide = features.incompat.has(Incompat::BITS_64);
        let count = |low: usize, high: usize| halves(le32(raw, low), if wide { le32(raw, high) } else { 0 });
        let seconds = |low: usize, high: usize| halves(le32(raw, low), u32::from(raw[high]));
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        let checksum_seed =
            if features.incompat.has(Incompat::METADATA_CSUM_SEED) { le32(raw, 0x270) } else { crc32c(!0, &uuid) };
        Some(Self {
            raw: *raw,
            inodes: le32(raw, 0x0),
            blocks: count(0x4, 0x150),
            reserved_blocks: count(0x8, 0x154),
            free_blocks: count(0xC, 0x158),
            free_inodes: le32(raw, 0x10),
            first_data_block: le32(raw, 0x14),
            log_block_size: le32(raw, 0x18),
            log_cluster_size: le32(raw, 0x1C),
            blocks_per_group: le32(raw, 0x20),
            clusters_per_group: le32(raw, 0x24),
            inodes_per_group: le32(raw, 0x28),
            mount_time: seconds(0x2C, 0x275),
            write_time: seconds(0x30, 0x274),
            state: le16(raw, 0x3A),
            creator: le32(raw, 0x48),
            revision,
            first_inode: if revision == 0 { 11 } else { le32(raw, 0x54) },
            inode_size: if revision == 0 { 128 } else { le16(raw, 0x58) },
            features,
            uuid,
            label: text(&raw[0x78..0x88]),
            last_mounted: text(&raw[0x88..0xC8]),
            reserved_descriptor_blocks: le16(raw, 0xCE),
            journal_inode: le32(raw, 0xE0),
            names_external_journal: le32(raw, 0xE4) != 0 || raw[0xD0..0xE0] != [0; 16],
            last_orphan: le32(raw, 0xE8),
            descriptor_size: if wide { le16(raw, 0xFE) } else { 32 },
            first_meta_group: le32(raw, 0x104),
            checksum_type: raw[0x175],
            backup_groups: [le32(raw, 0x24C), le32(raw, 0x250)],
            checksum_seed,
            orphan_file_inode: le32(raw, 0x280),
            checksum: le32(raw, 0x3FC),
        })
    }

    /// True with `metadata_csum`: every structure has a crc32c.
    #[must_use]
    pub fn has_checksums(&self) -> bool {
        self.features.ro_compat.has(RoCompat::METADATA_CSUM)
    }

    /// True if it was cleanly unmounted, and the kernel found no errors.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.state & STATE_VALID != 0 && !self.has_errors()
    }

    /// True if the kernel found errors in this file system.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.state & STATE_ERRORS != 0
    }

    /// The correct crc32c for the last four bytes of `raw`.
    #[must_use]
    pub fn checksum_of(raw: &[u8; SIZE]) -> u32 {
        crc32c(!0, &raw[..0x3FC])
    }

    /// Checks every size and count against each other and against a device of `device_size` bytes.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] with the first contradiction; [`StorageError::Unsupported`] for an unknown revision or
    /// checksum algorithm.
    pub fn geometry(&self, device_size: u64) -> Result<Geometry, StorageError> {
        if self.has_checksums() && self.checksum_type == 1 && self.checksum != Self::checksum_of(&self.raw) {
            return Err(StorageError::corrupt("ext4 superblock: its checksum does not match"));
        }
        self.unsealed_geometry(device_size)
    }

    /// Like [`Superblock::geometry`], for a superblock whose checksum is known not to match.
    ///
    /// # Errors
    /// As [`Superblock::geometry`].
    pub fn unsealed_geometry(&self, device_size: u64) -> Result<Geometry, StorageError> {
        let wrong = |what: String| Err(StorageError::Corrupt(format!("ext4 superblock: {what}")));
        if self.revision > 1 {
            return Err(StorageError::unsupported(
                format!("ext4 revision {}", self.revision),
                "deaddrop knows revisions 0 and 1",
            ));
        }
        if self.has_checksums() && self.checksum_type != 1 {
            return Err(StorageError::unsupported(
                format!("ext4 checksum algorithm {}", self.checksum_type),
                "deaddrop knows crc32c only",
            ));
        }
        if self.log_block_size > 6 {
            return wrong(format!("a block size of 2^{} bytes", u64::from(self.log_block_size) + 10));
        }
        let block_size = 1024_u32 << self.log_block_size;
        let big_clusters = self.features.ro_compat.has(RoCompat::BIGALLOC);
        if self.log_cluster_size > 20 || (!big_clusters && self.log_cluster_size != self.log_block_size) {
            return wrong(format!("a cluster size of 2^{} bytes", u64::from(self.log_cluster_size) + 10));
        }
        let Some(cluster_ratio) = self.log_cluster_size.checked_sub(self.log_block_size).map(|log| 1_u32 << log) else {
            return wrong("clusters smaller than blocks".into());
        };
        if self.first_data_block != u32::from(block_size == 1024 && !big_clusters) {
            return wrong(format!("first data block {}", self.first_data_block));
        }
        if !self.inode_size.is_power_of_two() || self.inode_size < 128 || u32::from(self.inode_size) > block_size {
            return wrong(format!("an inode size of {} bytes", self.inode_size));
        }
        if !self.descriptor_size.is_power_of_two()
            || u32::from(self.descriptor_size) > block_size
            || self.descriptor_size < if self.features.incompat.has(Incompat::BITS_64) { 64 } else { 32 }
        {
            return wrong(format!("a descriptor size of {} bytes", self.descriptor_size));
        }
        // `s_desc_size`, 0xFE, u16, is not used without `64bit`, but e2fsck checks it anyway.
        let unused_size = le16(&self.raw, 0xFE);
        if unused_size != 0 && (unused_size > 1024 || !unused_size.is_power_of_two()) {
            return wrong(format!("a descriptor size of {unused_size} bytes"));
        }
        if self.raw[0x174] > 31 {
            return wrong(format!("2^{} groups in a flexible group", self.raw[0x174]));
        }
        if self.reserved_blocks > self.blocks / 2 {
            return wrong(format!("{} of {} blocks are reserved", self.reserved_blocks, self.blocks));
        }
        if !self.features.incompat.has(Incompat::BITS_64) && le32(&self.raw, 0x150) != 0 {
            return wrong("a 64-bit block count without `64bit`".into());
        }
        let bits = block_size * 8;
        let most_blocks = u64::from(bits) * u64::from(cluster_ratio);
        if self.blocks_per_group < 256
            || !self.blocks_per_group.is_multiple_of(8)
            || u64::from(self.blocks_per_group) > most_blocks
        {
            return wrong(format!("{} blocks a group", self.blocks_per_group));
        }
        // e2fsprogs opens no file system in which these two differ.
        if u64::from(self.clusters_per_group) * u64::from(cluster_ratio) != u64::from(self.blocks_per_group) {
            return wrong(format!(
                "{} blocks a group, but {} clusters",
                self.blocks_per_group, self.clusters_per_group
            ));
        }
        let inodes_per_block = block_size / u32::from(self.inode_size);
        if self.inodes_per_group > bits || self.inodes_per_group < inodes_per_block {
            return wrong(format!("{} inodes a group", self.inodes_per_group));
        }
        if u32::from(self.reserved_descriptor_blocks) > block_size / 4 {
            return wrong(format!("{} reserved descriptor blocks", self.reserved_descriptor_blocks));
        }
        let Some(in_groups) = self.blocks.checked_sub(u64::from(self.first_data_block)).filter(|blocks| *blocks > 0)
        else {
            return wrong(format!("{} blocks", self.blocks));
        };
        if self.blocks > device_size / u64::from(block_size) {
            return wrong(format!(
                "{} blocks of {block_size} bytes, but the device has {device_size} bytes; the image is cut off, or its \
                 partition is too small",
                self.blocks
            ));
        }
        let Ok(groups) = u32::try_from(in_groups.div_ceil(u64::from(self.blocks_per_group))) else {
            return wrong(format!("{} blocks", self.blocks));
        };
        if u64::from(groups) * u64::from(self.inodes_per_group) != u64::from(self.inodes) {
            return wrong(format!("{} inodes, but {groups} groups of {} each", self.inodes, self.inodes_per_group));
        }
        if self.first_inode < 11 || self.first_inode >= self.inodes {
            return wrong(format!("first inode {}", self.first_inode));
        }
        let descriptors_per_block = block_size / u32::from(self.descriptor_size);
        let table_blocks = groups.div_ceil(descriptors_per_block);
        let table_start = u64::from(self.first_data_block) + 1;
        if !self.features.incompat.has(Incompat::META_BG) && table_start + u64::from(table_blocks) > self.blocks {
            return wrong("the group descriptors reach beyond the end".into());
        }
        if self.features.incompat.has(Incompat::META_BG) && self.first_meta_group > table_blocks {
            return wrong(format!("first meta group {}", self.first_meta_group));
        }
        Ok(Geometry {
            block_size,
            groups,
            inodes_per_block,
            descriptors_per_block,
            descriptor_blocks: table_blocks,
            inode_table_blocks: self.inodes_per_group.div_ceil(inodes_per_block),
        })
    }
}

/// A copy of a superblock with `needs_recovery` (`s_feature_incompat`, 0x60, bit 2) set or clear, and an updated
/// checksum.
#[must_use]
pub fn with_recovery(raw: &[u8; SIZE], needed: bool) -> [u8; SIZE] {
    let mut copy = *raw;
    let word = le32(raw, 0x60);
    let word = if needed { word | Incompat::NEEDS_RECOVERY } else { word & !Incompat::NEEDS_RECOVERY };
    copy[0x60..0x64].copy_from_slice(&word.to_le_bytes());
    seal(&mut copy);
    copy
}

/// Copies the error records of `found` into `raw`, whose checksum must be updated afterwards: the bit in `s_state`, and
/// the fields from `s_error_count`, 0x194, up to but not including `s_mount_opts`, 0x200.
pub fn keep_errors(raw: &mut [u8; SIZE], found: &Superblock) {
    let state = le16(raw, 0x3A) | (found.state & STATE_ERRORS);
    raw[0x3A..0x3C].copy_from_slice(&state.to_le_bytes());
    raw[0x194..0x200].copy_from_slice(&found.raw[0x194..0x200]);
}

/// A copy of a superblock that says "not cleanly unmounted" (`s_state`, 0x3A, bit 0 clear), with an updated checksum:
/// e2fsck then checks the whole file system, and deaddrop refuses to write to it.
#[must_use]
pub fn marked_unclean(raw: &[u8; SIZE]) -> [u8; SIZE] {
    let mut copy = *raw;
    let state = le16(raw, 0x3A) & !STATE_VALID;
    copy[0x3A..0x3C].copy_from_slice(&state.to_le_bytes());
    seal(&mut copy);
    copy
}

/// The superblock in file-system block `number`, if that is its block: 1,024 bytes into block 0, or, with blocks of 1
/// KiB, all of block 1.
pub fn in_block(block: &mut [u8], number: u64) -> Option<&mut [u8; SIZE]> {
    let size = u64::try_from(block.len()).ok()?;
    let at = OFFSET.checked_sub(number.checked_mul(size)?)?;
    block.get_mut(usize::try_from(at).ok()?..)?.first_chunk_mut()
}

/// Updates the checksum of a superblock, if its features include one.
pub fn seal(raw: &mut [u8; SIZE]) {
    if le32(raw, 0x4C) > 0 && RoCompat(le32(raw, 0x64)).has(RoCompat::METADATA_CSUM) {
        let checksum = Superblock::checksum_of(raw);
        raw[0x3FC..].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Sizes that follow from a superblock whose counts were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Block size: 1,024 to 65,536 bytes.
    pub block_size: u32,
    /// Number of block groups.
    pub groups: u32,
    /// Inodes per block of an inode table.
    pub inodes_per_block: u32,
    /// Descriptors per block of the descriptor table.
    pub descriptors_per_block: u32,
    /// Number of blocks of the descriptor table.
    pub descriptor_blocks: u32,
    /// Number of blocks of each group's inode table.
    pub inode_table_blocks: u32,
}
