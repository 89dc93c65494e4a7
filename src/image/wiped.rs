//! Bytes of an image, any of which may be secret.

use std::ops::{Deref, DerefMut};

use zeroize::Zeroize;

/// Bytes that are zeroized on drop, all in one go. `zeroize::Zeroizing` writes one byte after the other: of a run that reads
/// whole inode tables it was a twentieth of the time, and without optimisation half of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// So many zeros.
    #[must_use]
    pub fn zeros(size: usize) -> Self {
        Self(vec![0; size])
    }
}

/// Takes the bytes over, and the care for them.
impl From<Vec<u8>> for Wiped {
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
