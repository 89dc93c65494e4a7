//! Tokens: random characters, chosen uniformly from an alphabet.

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use super::{NoRandomness, random};
use crate::derive::generate::TokenSpec;

/// Generates a token.
///
/// # Errors
/// The system returns no random bytes.
pub(super) fn make(spec: &TokenSpec) -> Result<Secret, NoRandomness> {
    let mut token = Zeroizing::new(Vec::with_capacity(spec.length()));
    while token.len() < spec.length() {
        let bytes = random::<64>()?;
        let chosen = bytes.iter().filter_map(|byte| choose(*byte, spec.alphabet()));
        let missing = spec.length().saturating_sub(token.len());
        token.extend(chosen.take(missing));
    }
    Ok(Secret::new(std::mem::take(&mut *token)))
}

/// The character for a random byte. `None` for bytes at or above the largest multiple of the alphabet's length, which
/// would make its first characters more frequent.
fn choose(byte: u8, alphabet: &[u8]) -> Option<u8> {
    let size = alphabet.len();
    let bound = 256_usize.saturating_sub(256_usize.checked_rem(size)?);
    let byte = usize::from(byte);
    if byte < bound { alphabet.get(byte.checked_rem(size)?).copied() } else { None }
}

/// True if `content` is a token of this length and alphabet, with an optional newline.
pub(super) fn fits(spec: &TokenSpec, content: &[u8]) -> bool {
    let token = content.strip_suffix(b"\n").unwrap_or(content);
    token.len() == spec.length() && token.iter().all(|byte| spec.alphabet().contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::generate::{GenerateSpec, KeyKind, KeySpec};

    fn spec(length: u64, alphabet: &str) -> TokenSpec {
        match GenerateSpec::new(KeyKind::Token, Some(length), Some(alphabet), None).unwrap().kind {
            KeySpec::Token(token) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_character_is_chosen_by_as_many_bytes_as_every_other() {
        for size in 2..=94_usize {
            let alphabet: Vec<u8> = (b'!'..=b'~').take(size).collect();
            let mut counts = vec![0; size];
            for character in (0..=u8::MAX).filter_map(|byte| choose(byte, &alphabet)) {
                counts[alphabet.iter().position(|other| *other == character).unwrap()] += 1;
            }
            assert!(counts.iter().all(|count| *count == 256 / size), "{size}: {counts:?}");
        }
    }

    #[test]
    fn a_token_has_its_length_and_is_another_one_each_time() {
        let mut seen = std::collections::HashSet::new();
        for length in [64, 65, 1000, 4096] {
            let spec = spec(length, "01");
            for _ in 0..8 {
                let token = make(&spec).unwrap();
                assert!(fits(&spec, token.expose()), "{length}");
                assert!(seen.insert(token.expose().to_vec()), "{length}");
            }
        }
        assert!(!fits(&spec(64, "01"), &[b'0'; 63]));
        assert!(!fits(&spec(64, "01"), &[b'2'; 64]));
    }
}
