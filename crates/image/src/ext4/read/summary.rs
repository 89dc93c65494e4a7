//! What `inspect` shows of a file system. Lenient: a superblock with its magic is enough.

use deaddrop_core::error::StorageError;

use crate::device::ReadAt;
use crate::ext4::format::features::{Compat, Incompat};
use crate::ext4::format::journal::Journal;
use crate::ext4::format::reader::read_superblock;
use crate::ext4::format::superblock::Superblock;
use crate::journal::replay::Waiting;

/// A file system's own word about itself. Nothing of it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// `ext2`, `ext3` or `ext4`.
    pub kind: &'static str,
    /// The volume's label; empty when it has none.
    pub label: String,
    /// The UUID, in its usual form.
    pub uuid: String,
    /// Bytes a block.
    pub block_size: u64,
    /// Blocks in the file system.
    pub blocks: u64,
    /// Free blocks, those reserved for root among them.
    pub free_blocks: u64,
    /// Blocks reserved for root.
    pub reserved_blocks: u64,
    /// Inodes in the file system.
    pub inodes: u32,
    /// Free inodes.
    pub free_inodes: u32,
    /// Names of the features, as `tune2fs -O` spells them.
    pub features: Vec<String>,
    /// The journal.
    pub journal: JournalState,
    /// What waits in it to be replayed; `None` when nothing can, or when it could not be read.
    pub waiting: Option<Waiting>,
    /// Cleanly unmounted, without recorded errors.
    pub clean: bool,
    /// Errors are recorded.
    pub has_errors: bool,
    /// Where it was mounted last; empty when never.
    pub last_mounted: String,
    /// Seconds since 1970 of the last mount; 0 when never.
    pub mount_time: u64,
    /// Seconds since 1970 of the last write.
    pub write_time: u64,
}

/// The state of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalState {
    /// There is none.
    None,
    /// It is on another device.
    External,
    /// Nothing waits in it.
    Clean {
        /// Bytes; `None` when the journal could not be read.
        size: Option<u64>,
    },
    /// Changes wait in it.
    NeedsRecovery {
        /// Bytes; `None` when the journal could not be read.
        size: Option<u64>,
    },
}

impl Summary {
    pub(in crate::ext4) fn new(superblock: &Superblock, journal: Option<Journal>, waiting: Option<Waiting>) -> Self {
        let features = superblock.features;
        let has_journal = features.compat.has(Compat::HAS_JOURNAL);
        let size = journal.map(|journal| journal.size);
        // As blkid tells them apart: any feature that ext3 does not know makes it ext4.
        let old = Incompat::FILETYPE | Incompat::NEEDS_RECOVERY | Incompat::META_BG | Incompat::JOURNAL_DEV;
        let is_ext4 = features.incompat.0 & !old != 0 || features.ro_compat.0 & !0x7 != 0;
        Self {
            kind: match (is_ext4, has_journal) {
                (true, _) => "ext4",
                (false, true) => "ext3",
                (false, false) => "ext2",
            },
            label: superblock.label.clone(),
            uuid: uuid_text(&superblock.uuid),
            block_size: 1024_u64.checked_shl(superblock.log_block_size).filter(|size| *size <= 65536).unwrap_or(0),
            blocks: superblock.blocks,
            free_blocks: superblock.free_blocks,
            reserved_blocks: superblock.reserved_blocks,
            inodes: superblock.inodes,
            free_inodes: superblock.free_inodes,
            features: features.names(),
            journal: match (has_journal, superblock.journal_inode) {
                (false, _) => JournalState::None,
                (true, 0) => JournalState::External,
                (true, _) if features.incompat.has(Incompat::NEEDS_RECOVERY) => JournalState::NeedsRecovery { size },
                (true, _) => JournalState::Clean { size },
            },
            waiting,
            clean: superblock.is_clean(),
            has_errors: superblock.has_errors(),
            last_mounted: superblock.last_mounted.clone(),
            mount_time: superblock.mount_time,
            write_time: superblock.write_time,
        }
    }
}

/// Looks for an ext2, ext3 or ext4 superblock on `device`; `None` when there is none. The journal's size is not read.
///
/// # Errors
/// When the device cannot be read.
pub fn probe(device: &dyn ReadAt) -> Result<Option<Summary>, StorageError> {
    Ok(read_superblock(device)?.map(|superblock| Summary::new(&superblock, None, None)))
}

/// A UUID as people write it.
fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
