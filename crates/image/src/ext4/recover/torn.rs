//! Repairs a superblock that a power cut left half written.
//!
//! It is 1,024 bytes, and its checksum is in the second half: on a medium that only guarantees 512-byte writes, a power
//! cut in the middle leaves a superblock that neither the kernel nor e2fsck accepts, although nothing is lost. The
//! geometry is equal in both halves, so the journal can be found; docs/safety.md has the cases.

use std::sync::Arc;

use deaddrop_core::error::StorageError;

use crate::device::ReadAt;
use crate::device::overlay::Overlay;
use crate::ext4::format::features::Incompat;
use crate::ext4::format::reader::{Reader, usize_of};
use crate::ext4::format::superblock::{self, Superblock};

/// Checks the superblock of `device`; returns an overlay with an intact one, `needs_recovery` set, if it is torn and
/// can be repaired exactly. `None` for a superblock that is intact, or damaged in another way.
///
/// # Errors
/// If the device cannot be read.
pub(in crate::ext4) fn repair_superblock(device: &Arc<dyn ReadAt>) -> Result<Option<Arc<Overlay>>, StorageError> {
    let mut raw = [0; superblock::SIZE];
    if device.size() < superblock::OFFSET + 1024 {
        return Ok(None);
    }
    device
        .read_exact_at(superblock::OFFSET, &mut raw)
        .map_err(|error| StorageError::io("reading the ext4 superblock", error))?;
    let Some(torn) = Superblock::parse(&raw) else { return Ok(None) };
    if !torn.has_checksums() || torn.checksum == Superblock::checksum_of(&raw) {
        return Ok(None);
    }
    let Some(whole) = flag_flipped(&raw).or_else(|| logged_copy(device, torn)) else { return Ok(None) };
    let overlay = Overlay::new(Arc::clone(device), 1024, 4096);
    overlay
        .write_at(superblock::OFFSET, &superblock::with_recovery(&whole, true))
        .map_err(|error| StorageError::io("mending the ext4 superblock in memory", error))?;
    Ok(Some(Arc::new(overlay)))
}

/// Setting and clearing the flag writes a superblock that differs in nothing else: with the flag flipped back, the
/// checksum in the other half matches.
fn flag_flipped(raw: &[u8; superblock::SIZE]) -> Option<[u8; superblock::SIZE]> {
    let mut flipped = *raw;
    // `s_feature_incompat`, 0x60: the bit is in its first byte.
    flipped[0x60] ^= Incompat::NEEDS_RECOVERY.to_le_bytes()[0];
    let sound = Superblock::parse(&flipped).is_some_and(|whole| whole.checksum == Superblock::checksum_of(&flipped));
    sound.then_some(flipped)
}

/// While a transaction is in force, its log contains the new superblock.
///
/// `None` also if it cannot be read: then the superblock stays torn, and is refused.
fn logged_copy(device: &Arc<dyn ReadAt>, torn: Superblock) -> Option<[u8; superblock::SIZE]> {
    let reader = Reader::open_torn(Arc::clone(device), torn).ok()?;
    let journal = reader.journal().ok()??;
    let home = superblock::OFFSET / u64::from(reader.geometry.block_size);
    let inside = if home == 0 { usize_of(1024) } else { 0 };
    let mut found = None;
    let replayed = super::replay_log(&reader, &journal, &mut |block, bytes| {
        if block == home {
            found = bytes.get(inside..).and_then(|rest| rest.first_chunk::<{ superblock::SIZE }>()).copied();
        }
        Ok(())
    });
    replayed.ok()?;
    found.filter(|raw| {
        Superblock::parse(raw)
            .is_some_and(|whole| whole.checksum == Superblock::checksum_of(raw) && whole.uuid == reader.superblock.uuid)
    })
}
