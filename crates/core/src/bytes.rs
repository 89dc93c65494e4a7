//! Fields of on-disk structures. Every getter returns `None` for a range outside the bytes, so no offset can panic.

/// `N` bytes at `offset`.
pub fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// `length` bytes at `offset`.
pub fn slice(bytes: &[u8], offset: usize, length: usize) -> Option<&[u8]> {
    bytes.get(offset..)?.get(..length)
}

/// A little-endian u16 at `offset`.
pub fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

/// A little-endian u32 at `offset`.
pub fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

/// A little-endian u64 at `offset`.
pub fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

/// A big-endian u16 at `offset`.
pub fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_be_bytes)
}

/// A big-endian u32 at `offset`.
pub fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_be_bytes)
}

/// A big-endian u64 at `offset`.
pub fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_be_bytes)
}

/// The length of a buffer, in bytes, as a device offset type.
pub fn length(bytes: &[u8]) -> u64 {
    // A slice is never longer than isize::MAX, so this never falls back.
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
