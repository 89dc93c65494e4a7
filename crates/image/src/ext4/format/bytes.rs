//! Little-endian integers in byte slices. A field outside the slice reads as zero: callers pass whole structures, whose
//! length was checked when they were read.

/// `N` bytes at `at`; zeros if they are not all in the slice.
#[inline]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).unwrap_or([0; N])
}

/// u16, little-endian.
#[inline]
pub(in crate::ext4) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

/// u32, little-endian.
#[inline]
pub(in crate::ext4) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// A number that ext4 stores in two halves.
pub(in crate::ext4) fn halves(low: u32, high: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

/// A NUL-padded text field.
pub(in crate::ext4) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_their_byte_order() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(le16(&bytes, 1), 0x0302);
        assert_eq!(le32(&bytes, 1), 0x0504_0302);
        assert_eq!(le32(&bytes, 3), 0);
        assert_eq!(le32(&bytes, usize::MAX), 0);
        assert_eq!(halves(1, 2), 0x2_0000_0001);
        assert_eq!(text(b"nixos\0\0x"), "nixos");
    }
}
