//! The one type that contains a value: zeroized on drop, never printed, compared in constant time.
//!
//! Every module that carries a value carries a [`Secret`]. Its plaintext is only available through [`Secret::expose`],
//! which is easy to search for. [`Wiped`] is for data that may contain values, such as blocks of an image.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::sys;

/// A value from a source, or a file's content read from a target.
///
/// The bytes are locked against swap if the system allows it, and zeroized when the last clone is dropped. Clones share
/// the bytes, so that a value used by many files is in memory once. There is no `Display`, and `Debug` shows neither
/// content nor length.
#[derive(Clone)]
pub struct Secret(Arc<Wiped>);

impl Secret {
    /// Takes the bytes. No copy of them stays in the old allocation of `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let mut bytes = Wiped(bytes);
        if bytes.capacity() != bytes.len() {
            // Shrinking could move the bytes and leave the old ones behind: copy exactly, zeroize the source.
            bytes = Wiped(bytes.to_vec());
        }
        sys::lock_memory(&bytes);
        Self(Arc::new(bytes))
    }

    /// The plaintext. The caller must not copy it into anything that is not zeroized.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for an empty value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl PartialEq for Secret {
    /// Constant time in the content; a difference in length may be observable.
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Bytes that may be secret, zeroized on drop with one memset. `zeroize::Zeroizing` writes the bytes of a vector one by
/// one; for the 16 MiB of a compressed frame that costs a tenth of the compression time.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// `size` zero bytes.
    #[must_use]
    pub fn zeros(size: usize) -> Self {
        Self(vec![0; size])
    }
}

impl From<Vec<u8>> for Wiped {
    /// Takes the bytes.
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// Set if the program's allocator wipes what is freed.
static ALLOCATOR_WIPES: AtomicBool = AtomicBool::new(false);

/// For a program whose allocator wipes everything that is freed: [`Wiped`] leaves it to it, since twice takes time and
/// gives nothing.
pub fn leave_wiping_to_the_allocator() {
    ALLOCATOR_WIPES.store(true, Ordering::Relaxed);
}

impl Drop for Wiped {
    fn drop(&mut self) {
        if ALLOCATOR_WIPES.load(Ordering::Relaxed) {
            return;
        }
        // Now the whole capacity is spare, which is zeroized in one call.
        self.0.clear();
        self.0.spare_capacity_mut().zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_content_nor_length() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(…)");
    }

    #[test]
    fn equal_only_when_every_byte_is() {
        let mut roomy = Vec::with_capacity(64);
        roomy.extend_from_slice(b"abc");
        assert_eq!(Secret::new(roomy), Secret::new(b"abc".to_vec()));
        assert_ne!(Secret::new(b"abc".to_vec()), Secret::new(b"abd".to_vec()));
        assert_ne!(Secret::new(b"abc".to_vec()), Secret::new(b"ab".to_vec()));
    }
}
