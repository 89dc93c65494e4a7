//! Little-endian (and, for the journal, big-endian) integers out of byte slices. A field outside the slice reads as
//! zero: callers hand over whole structures, whose length was checked when they were read.

/// Up to eight bytes at `at`, the first one lowest.
fn little(bytes: &[u8], at: usize, size: usize) -> u64 {
    let field = at.checked_add(size).and_then(|end| bytes.get(at..end)).unwrap_or_default();
    field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// u16, little-endian.
pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::try_from(little(bytes, at, 2)).unwrap_or(0)
}

/// u32, little-endian.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(little(bytes, at, 4)).unwrap_or(0)
}

/// A number that ext4 keeps in two halves.
pub(super) fn halves(low: u32, high: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

/// A NUL-padded text field, as far as it is text.
pub(super) fn text(field: &[u8]) -> String {
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
