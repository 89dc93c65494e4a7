//! WireGuard keys, as `wg genkey` and `wg pubkey` print them: base64 of 32 bytes of Curve25519, and a newline (wg(8)).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::clamp_integer;
use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

/// The private file for these random bytes, clamped (RFC 7748, section 5) as by `wg genkey`, and the public key.
pub(super) fn encode(random: Zeroizing<[u8; 32]>) -> (Secret, String) {
    let scalar = Zeroizing::new(clamp_integer(*random));
    let base64 = Zeroizing::new(STANDARD.encode(*scalar));
    let mut line = Vec::with_capacity(base64.len().saturating_add(1));
    line.extend_from_slice(base64.as_bytes());
    line.push(b'\n');
    (Secret::new(line), public(&scalar))
}

/// Reason: not a WireGuard key.
pub const OTHER: &str = "it is no key of WireGuard (base64 of 32 bytes)";

/// The public key of a private file. A key that is not clamped is valid, because every use clamps it.
///
/// # Errors
/// The reason [`OTHER`].
pub(super) fn decode(file: &[u8]) -> Result<String, &'static str> {
    let bytes = Zeroizing::new(STANDARD.decode(file.trim_ascii_end()).map_err(|_| OTHER)?);
    let scalar = <&[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| OTHER)?;
    Ok(public(scalar))
}

/// True for the output of `wg pubkey` without its newline.
#[must_use]
pub fn is_public(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}

fn public(scalar: &[u8; 32]) -> String {
    STANDARD.encode(MontgomeryPoint::mul_base_clamped(*scalar).to_bytes())
}
