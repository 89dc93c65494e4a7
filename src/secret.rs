//! The one type that holds a value: zeroized on drop, never printed, compared in constant time.
//!
//! Every module that carries a value carries a [`Secret`]. Plaintext leaves it only through [`Secret::expose`],
//! which is easy to search for.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::sys;

/// A value from a source, or a file's content read from a target.
///
/// Its bytes are locked against swap where the system allows, and zeroized when the last clone is dropped: a clone shares
/// them, so a value that many files want is in memory once. It has no `Display`, and its `Debug` shows neither content
/// nor length.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Box<[u8]>>>);

impl Secret {
    /// Takes the bytes over. No copy of them stays in `bytes`' old allocation.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let bytes = if bytes.capacity() == bytes.len() {
            bytes.into_boxed_slice()
        } else {
            // Shrinking may move the bytes and leave the old ones behind: copy exactly, wipe the source.
            let bytes = Zeroizing::new(bytes);
            Box::from(bytes.as_slice())
        };
        sys::lock_memory(&bytes);
        Self(Arc::new(Zeroizing::new(bytes)))
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
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
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
