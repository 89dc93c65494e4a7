//! The two checksums of ext4. Kernel documentation, ext4, "Checksums".

pub use crate::journal::crc32c;

/// crc16 (polynomial 0x8005, reflected bits) of group descriptors under `uninit_bg` without `metadata_csum`.
#[must_use]
pub fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // Castagnoli's check value is 0xE3069283 with both inversions.
        assert_eq!(crc32c(!0, b"123456789"), !0xE306_9283);
        assert_eq!(crc32c(crc32c(!0, b"1234"), b"56789"), !0xE306_9283);
        // CRC-16/MODBUS and CRC-16/ARC.
        assert_eq!(crc16(0xFFFF, b"123456789"), 0x4B37);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
    }
}
