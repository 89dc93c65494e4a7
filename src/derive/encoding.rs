//! `encoding`: decodes a value that its source has as base64 or hexadecimal text. ASCII white space in the text is
//! ignored: a final line end, or line breaks after 76 characters.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use deaddrop_core::secret::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Misfit;

/// RFC 4648, section 4; the `=` padding is optional, because many programs omit it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The encoding of a value in its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "encoding")]
pub enum Encoding {
    /// Base64 of RFC 4648 (`+` and `/`), with or without `=` at the end.
    Base64,
    /// Two hexadecimal digits a byte, of either case.
    Hex,
}

impl Encoding {
    /// Decodes `text`.
    ///
    /// # Errors
    /// The text is not valid in this encoding.
    pub fn decode(self, text: &[u8]) -> Result<Secret, Misfit> {
        let mut letters = Zeroizing::new(Vec::with_capacity(text.len()));
        letters.extend(text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
        match self {
            Self::Base64 => base64(&letters),
            Self::Hex => hex(&letters),
        }
    }
}

/// Decodes base64 without white space.
pub(super) fn base64(letters: &[u8]) -> Result<Secret, Misfit> {
    // Exact capacity: the buffer never moves, so no copy remains.
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(letters.len())]);
    match BASE64.decode_slice(letters, &mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(Secret::new(std::mem::take(&mut *bytes)))
        }
        Err(_) => Err(Misfit::new(
            "the value is not base64, which `encoding` says it is",
            "base64 has letters, digits, `+`, `/` and `=` only; is this the right item and field?",
        )),
    }
}

fn hex(letters: &[u8]) -> Result<Secret, Misfit> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => letter.checked_sub(b'0'),
        b'a'..=b'f' => letter.checked_sub(b'a').and_then(|digit| digit.checked_add(10)),
        b'A'..=b'F' => letter.checked_sub(b'A').and_then(|digit| digit.checked_add(10)),
        _ => None,
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(letters.len() / 2));
    for pair in letters.chunks(2) {
        let byte = match pair {
            [high, low] => digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4) | low),
            _ => None,
        };
        bytes.push(byte.ok_or_else(|| {
            Misfit::new(
                "the value is not hexadecimal, which `encoding` says it is",
                "hexadecimal has an even number of digits from 0 to 9 and a to f; is this the right item and field?",
            )
        })?);
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_decoded_with_white_space_anywhere_and_nothing_else_is() {
        for (encoding, text, want) in [
            // RFC 4648, section 10.
            (Encoding::Base64, "Zm9vYmFy", Some(b"foobar".as_slice())),
            (Encoding::Base64, "Zm9vYg==", Some(b"foob")),
            (Encoding::Base64, "Zm9vYg", Some(b"foob")),
            (Encoding::Base64, "  Zm9v\r\nYmE=\n", Some(b"fooba")),
            (Encoding::Base64, "", Some(b"")),
            (Encoding::Base64, "//79", Some(b"\xff\xfe\xfd")),
            (Encoding::Base64, "__79", None),
            (Encoding::Base64, "Zm9vY", None),
            (Encoding::Base64, "Zm9vYh==", None),
            (Encoding::Base64, "Zm9v=YmFy", None),
            (Encoding::Base64, "Zm9\u{a0}v", None),
            (Encoding::Hex, "00fFaB", Some(b"\x00\xff\xab")),
            (Encoding::Hex, " 00 ff\n", Some(b"\x00\xff")),
            (Encoding::Hex, "", Some(b"")),
            (Encoding::Hex, "0", None),
            (Encoding::Hex, "0x00", None),
            (Encoding::Hex, "0g", None),
            (Encoding::Hex, "00:ff", None),
        ] {
            let got = encoding.decode(text.as_bytes());
            assert_eq!(got.as_ref().ok().map(Secret::expose), want, "{encoding:?} {text:?}");
            if let Err(misfit) = got {
                assert!(text.len() < 2 || !format!("{misfit:?}").contains(text), "{text:?}");
            }
        }
    }
}
