//! The public side of a private key that something is decrypted with: of SSH (ed25519, RSA) or of age.
//!
//! RSA in PEM: RFC 8017, appendix A.1.2; DER: X.690, 8.1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{SshPublicKey, age_identity, ssh};

/// Maximum number of identities in a file of age.
const MOST_IDENTITIES: usize = 100;

/// What others may know of a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicSide {
    /// An SSH key of type ed25519.
    Ed25519(SshPublicKey),
    /// The wire form of an RSA key (RFC 4253, section 6.6).
    Rsa(Vec<u8>),
    /// The recipients of a file of age's identities.
    Age(Vec<String>),
}

/// The public side of a private key's file; `None` if it is no such key, or one that a passphrase protects. The file
/// is hostile input.
#[must_use]
pub fn public_side(file: &[u8]) -> Option<PublicSide> {
    if let Ok(key) = ssh::decode(file) {
        return Some(PublicSide::Ed25519(key));
    }
    if let Some(blob) = ssh::rsa_blob(file).or_else(|| pem_rsa_blob(file)) {
        return Some(PublicSide::Rsa(blob));
    }
    let recipients = age_identity::recipients(file).ok()?;
    (1..=MOST_IDENTITIES).contains(&recipients.len()).then_some(PublicSide::Age(recipients))
}

/// The wire form of an RSA key in the older format of ssh-keygen (`-m PEM`).
fn pem_rsa_blob(file: &[u8]) -> Option<Vec<u8>> {
    const BEGIN: &[u8] = b"-----BEGIN RSA PRIVATE KEY-----";
    let body = file.strip_prefix(BEGIN)?;
    let end = body.windows(5).position(|window| window == b"-----")?;
    let base64: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.get(..end)?.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    // With a passphrase there are headers, which are no base64.
    let der = Zeroizing::new(STANDARD.decode(&*base64).ok()?);
    let mut sequence = element(&mut &der[..], 0x30)?;
    let _version = element(&mut sequence, 0x02)?;
    let (modulus, exponent) = (element(&mut sequence, 0x02)?, element(&mut sequence, 0x02)?);
    Some(ssh::rsa_blob_of(exponent, modulus))
}

/// The content of a DER element with this tag, at the beginning of the bytes, which it is taken off.
fn element<'b>(from: &mut &'b [u8], tag: u8) -> Option<&'b [u8]> {
    let (&first, rest) = from.split_first()?;
    let (&length, mut rest) = rest.split_first()?;
    let length = match length {
        0..=0x7f => usize::from(length),
        // Two bytes are enough for 64 KiB.
        0x81 | 0x82 => {
            let (bytes, after) = rest.split_at_checked(usize::from(length & 0x0f))?;
            rest = after;
            bytes.iter().fold(0, |length: usize, byte| (length << 8) | usize::from(*byte))
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *from = rest;
    (first == tag).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_private_key_has_no_public_side() {
        for text in [
            "",
            "# only a comment\n",
            "AGE-SECRET-KEY-1QQQQ\n",
            "AGE-PLUGIN-TPM-1QQQ\n",
            "-----BEGIN RSA PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n-----END RSA PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nMIL//wIBAA==\n-----END RSA PRIVATE KEY-----\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n",
            "ssh-ed25519 AAAA",
        ] {
            assert_eq!(public_side(text.as_bytes()), None, "{text}");
        }
        let der = [0x30, 0x09, 0x02, 0x01, 0x00, 0x02, 0x01, 0x23, 0x02, 0x01, 0x03];
        let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", STANDARD.encode(der));
        let blob = b"\0\0\0\x07ssh-rsa\0\0\0\x01\x03\0\0\0\x01\x23".to_vec();
        assert_eq!(public_side(pem.as_bytes()), Some(PublicSide::Rsa(blob)));
        for cut in 0..der.len() {
            let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END", STANDARD.encode(&der[..cut]));
            assert_eq!(public_side(pem.as_bytes()), None, "{cut}");
        }
    }
}
