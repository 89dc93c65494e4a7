//! Memory that is kept out of swap.

use std::ptr::NonNull;

use nix::sys::mman;

/// Asks the kernel to keep `bytes` out of swap. Best effort: RLIMIT_MEMLOCK may be small. Never unlocked, because locks
/// cover whole pages and other data on the page may still need the lock; the process is short-lived.
pub fn lock_memory(bytes: &[u8]) {
    lock_all([bytes]);
}

/// [`lock_memory`] for many pieces: pieces on the same or adjacent pages are locked by one call. A call costs as much
/// as writing a block.
pub fn lock_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) {
    /// If pages are larger, pieces that are adjacent by this size are adjacent too.
    const PAGE: usize = 4096;
    let mut pieces: Vec<&[u8]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    pieces.sort_unstable_by_key(|piece| piece.as_ptr().addr());
    let end = |piece: &[u8]| piece.as_ptr().addr().saturating_add(piece.len());
    for run in pieces.chunk_by(|one, next| next.as_ptr().addr() / PAGE <= end(one).saturating_sub(1) / PAGE + 1) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let length = end(last).saturating_sub(first.as_ptr().addr());
        // SAFETY: mlock only changes residency. Each page of the range contains a byte of a piece, so it is mapped.
        let _ = unsafe { mman::mlock(NonNull::from(*first).cast(), length) };
    }
}
