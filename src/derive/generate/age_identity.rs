//! age identities, as `age-keygen` prints them: two comments and the identity. Specification: C2SP, age.md, "The X25519
//! recipient type"; comments: age-keygen(1).

use std::time::SystemTime;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use deaddrop_core::day;
use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

/// Generates an identity; returns the file and the recipient. The `age` crate gets random bytes from the system, and
/// aborts if there are none.
pub(super) fn make(now: SystemTime) -> (Secret, String) {
    let identity = Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = identity.to_string();
    let mut text = Vec::with_capacity(256);
    let created = day::moment(now).unwrap_or_else(|| "unknown".to_owned());
    text.extend_from_slice(format!("# created: {created}\n# public key: {recipient}\n").as_bytes());
    text.extend_from_slice(secret.expose_secret().as_bytes());
    text.push(b'\n');
    (Secret::new(text), recipient)
}

/// The recipient of the first identity in a file of identities and comments.
///
/// # Errors
/// A message: the file contains something else, or no identity.
pub(super) fn decode(file: &[u8]) -> Result<String, &'static str> {
    recipients(file).and_then(|recipients| recipients.into_iter().next().ok_or(OTHER))
}

const OTHER: &str = "it is no file of age's X25519 identities";

/// The recipients of all identities in a file of identities and comments.
///
/// # Errors
/// A message: the file contains something else.
pub(super) fn recipients(file: &[u8]) -> Result<Vec<String>, &'static str> {
    let mut recipients = Vec::new();
    for line in file.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let text = Zeroizing::new(std::str::from_utf8(line).map_err(|_| OTHER)?.to_owned());
        let identity: Identity = text.parse().map_err(|_| OTHER)?;
        recipients.push(identity.to_public().to_string());
    }
    Ok(recipients)
}
