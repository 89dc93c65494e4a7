//! The one type that holds a value: zeroized on drop, never printed, compared in constant time.
//!
//! Every module that carries a value carries a [`Secret`]. Plaintext leaves it only through [`Secret::expose`],
//! which is easy to search for. [`Wiped`] is for what may hold values among other things: blocks of an image.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::sys;

/// A value from a source, or a file's content read from a target.
///
/// Its bytes are locked against swap where the system allows, and zeroized when the last clone is dropped: a clone shares
/// them, so a value that many files want is in memory once. It has no `Display`, and its `Debug` shows neither content
/// nor length.
#[derive(Clone)]
pub struct Secret(Arc<Wiped>);

impl Secret {
    /// Takes the bytes over. No copy of them stays in `bytes`' old allocation.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let mut bytes = Wiped(bytes);
        if bytes.capacity() != bytes.len() {
            // Shrinking may move the bytes and leave the old ones behind: copy exactly, wipe the source.
            bytes = Wiped(bytes.to_vec());
        }
        sys::lock_memory(&bytes);
        Self(Arc::new(bytes))
    }

    /// The plaintext. Whoever calls this must not copy it into anything that is not zeroized.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for a value of no bytes.
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
    /// Constant time in the content; the lengths may be told apart.
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

/// Bytes that may be secret: zeroized on drop, all in one go. `zeroize::Zeroizing` writes a vector's bytes one after the other,
/// which for the 16 MiB of a compressed frame takes as long as a tenth of the compressing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// So many zeros.
    #[must_use]
    pub fn zeros(size: usize) -> Self {
        Self(vec![0; size])
    }
}

impl From<Vec<u8>> for Wiped {
    /// Takes the bytes over.
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

impl Drop for Wiped {
    fn drop(&mut self) {
        // All of it is spare then, which is zeroized in one go.
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
