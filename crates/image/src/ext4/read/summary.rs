//! The summary of a file system for `inspect`. Lenient: a superblock with its magic is enough.

use deaddrop_core::error::StorageError;
use deaddrop_core::text;

use crate::device::ReadAt;
use crate::ext4::format::features::{Compat, Incompat};
use crate::ext4::format::journal::Journal;
use crate::ext4::format::reader::read_superblock;
use crate::ext4::format::superblock::Superblock;
use crate::journal::replay::Pending;

/// A file system's description of itself. Not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// `ext2`, `ext3` or `ext4`.
    pub kind: &'static str,
    /// The volume's label; empty if it has none.
    pub label: String,
    /// The UUID, in its usual form.
    pub uuid: String,
    /// Block size, in bytes.
    pub block_size: u64,
    /// Blocks in the file system.
    pub blocks: u64,
    /// Free blocks, including those reserved for root.
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
    /// Pending transactions and fast commits in it; `None` if there are none, or if it could not be read.
    pub pending: Option<Pending>,
    /// True if it was cleanly unmounted and no errors are recorded.
    pub clean: bool,
    /// True if errors are recorded.
    pub has_errors: bool,
    /// Last mount point; empty if it was never mounted.
    pub last_mounted: String,
    /// Time of the last mount, in seconds since 1970; 0 if it was never mounted.
    pub mount_time: u64,
    /// Time of the last write, in seconds since 1970.
    pub write_time: u64,
}

/// The state of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalState {
    /// There is no journal.
    None,
    /// It is on another device.
    External,
    /// Nothing needs a replay.
    Clean {
        /// Size in bytes; `None` if the journal could not be read.
        size: Option<u64>,
    },
    /// Transactions need a replay.
    NeedsRecovery {
        /// Size in bytes; `None` if the journal could not be read.
        size: Option<u64>,
    },
}

impl Summary {
    pub(in crate::ext4) fn new(superblock: &Superblock, journal: Option<Journal>, pending: Option<Pending>) -> Self {
        let features = superblock.features;
        let has_journal = features.compat.has(Compat::HAS_JOURNAL);
        let size = journal.map(|journal| journal.size);
        // As in blkid: any feature unknown to ext3 makes it ext4.
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
            pending,
            clean: superblock.is_clean(),
            has_errors: superblock.has_errors(),
            last_mounted: superblock.last_mounted.clone(),
            mount_time: superblock.mount_time,
            write_time: superblock.write_time,
        }
    }
}

/// Searches for an ext2, ext3 or ext4 superblock on `device`; `None` if there is none. The journal's size is not read.
///
/// # Errors
/// If the device cannot be read.
pub fn probe(device: &dyn ReadAt) -> Result<Option<Summary>, StorageError> {
    Ok(read_superblock(device)?.map(|superblock| Summary::new(&superblock, None, None)))
}

/// A UUID as text.
fn uuid_text(uuid: &[u8; 16]) -> String {
    text::uuid(uuid).unwrap_or_else(|| "00000000-0000-0000-0000-000000000000".to_owned())
}
