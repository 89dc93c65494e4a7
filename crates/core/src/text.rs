//! Text for people: labels of an image, sizes, UUIDs and times.

/// A text from an image (a label, a partition name), safe for a terminal ([`crate::shown`]). Bytes that are not UTF-8
/// become U+FFFD. The text ends at the first NUL; trailing spaces are removed (FAT pads with them). `None` if nothing
/// remains.
#[must_use]
pub fn shown(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    // OK to index: `end` is at most the length.
    shown_text(&String::from_utf8_lossy(&bytes[..end]))
}

/// Like [`shown`], for decoded text.
#[must_use]
pub fn shown_text(text: &str) -> Option<String> {
    let text = crate::shown::text(text);
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Like [`shown`], for little-endian UTF-16, the encoding of f2fs labels.
#[must_use]
pub fn shown_utf16(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units.take_while(|&unit| unit != 0))
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    shown_text(&text)
}

/// A number of bytes for people: `512 B`, `16 MiB`, `3.7 GiB` (binary units, one decimal, truncated).
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = "B";
    let (mut whole, mut rest) = (bytes, 0);
    for larger in UNITS {
        if whole < 1024 {
            break;
        }
        (whole, rest, unit) = (whole / 1024, whole % 1024, larger);
    }
    // Cannot overflow: `rest` is below 1024.
    match rest * 10 / 1024 {
        0 => format!("{whole} {unit}"),
        tenths => format!("{whole}.{tenths} {unit}"),
    }
}

/// 16 bytes as a UUID in stored order (for file systems; a GPT's GUIDs are mixed-endian, and not for this function).
/// `None` if all bytes are zero.
#[must_use]
pub fn uuid(bytes: &[u8; 16]) -> Option<String> {
    use std::fmt::Write;

    if bytes.iter().all(|&byte| byte == 0) {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

/// A duration for people: `38 ms`, `3.1 s`, `2 min 5 s` (one decimal, truncated).
#[must_use]
pub fn duration(time: std::time::Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds @ 1..60 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_labels_cannot_reach_a_terminal() {
        for (name, bytes, want) in [
            ("plain", &b"nixos"[..], Some("nixos")),
            ("ends at NUL", b"nixos\0junk", Some("nixos")),
            ("FAT padding", b"ESP        ", Some("ESP")),
            ("escape sequence", b"\x1b[2Jx", Some("\u{FFFD}[2Jx")),
            ("not UTF-8", b"a\xffb", Some("a\u{FFFD}b")),
            ("right-to-left override", "a\u{202E}b".as_bytes(), Some("a\u{FFFD}b")),
            ("C1 control", "a\u{9b}b".as_bytes(), Some("a\u{FFFD}b")),
            ("other scripts stay", "päckchen 箱".as_bytes(), Some("päckchen 箱")),
            ("empty", b"", None),
            ("blank", b"   ", None),
        ] {
            assert_eq!(shown(bytes).as_deref(), want, "{name}");
        }
        assert_eq!(shown_utf16(&[0x66, 0, 0x32, 0, 0, 0, 0x41, 0]).as_deref(), Some("f2"));
        assert_eq!(shown_utf16(&[0x00, 0xd8, 0x41, 0]).as_deref(), Some("\u{FFFD}A"), "a lone surrogate");
    }

    #[test]
    fn no_hidden_character_is_left() {
        for hidden in crate::shown::all_hidden().filter(|hidden| *hidden != '\0') {
            let text = format!("a{hidden}b");
            let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            for shown in [shown(text.as_bytes()), shown_text(&text), shown_utf16(&utf16)] {
                assert_eq!(shown.as_deref(), Some("a\u{fffd}b"), "{hidden:?}");
            }
        }
    }

    #[test]
    fn sizes_have_one_decimal_at_most() {
        for (bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (8 << 20, "8 MiB"),
            (3_972_844_748, "3.6 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }
}
