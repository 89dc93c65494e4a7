//! System calls that no safe crate covers. The only module where `unsafe` is allowed; one small safe function a call.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use nix::sys::{mman, prctl, resource};

/// Switches core dumps off for this process. Called first in `main`, before any value can be in memory.
pub fn harden() {
    // Best effort: a system that refuses these still runs us, and the manual does not promise more.
    let _ = resource::setrlimit(resource::Resource::RLIMIT_CORE, 0, 0);
    let _ = prctl::set_dumpable(false);
}

/// Asks the kernel to keep `bytes` out of swap. Best effort: RLIMIT_MEMLOCK may be small. Never unlocked, since
/// locks cover whole pages and a neighbour on the page may still need them; the process is short-lived.
pub fn lock_memory(bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let address = NonNull::from(bytes).cast();
    // SAFETY: mlock only changes residency of pages that hold `bytes`, which is a valid, mapped slice.
    let _ = unsafe { mman::mlock(address, bytes.len()) };
}
