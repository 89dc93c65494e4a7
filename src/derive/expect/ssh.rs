//! SSH private keys: which values are taken for one without `expect`, and what ssh requires of them.

use super::kinds::WrongKind;
use super::pem;

/// The protection of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// It can be used as it is.
    None,
    /// It is encrypted with a passphrase.
    Passphrase,
}

/// The reason and hint for a key with a passphrase where `expect` is written out.
pub(super) const PASSPHRASE: WrongKind =
    WrongKind { reason: "it is protected by a passphrase, which no service can type", hint: WITHOUT_PASSPHRASE };

/// How a passphrase is removed.
pub(super) const WITHOUT_PASSPHRASE: &str = "ssh-keygen -p -N '' -f KEY takes the passphrase away";

/// The reason for a key that ssh does not find in the text.
const AROUND: WrongKind = WrongKind {
    reason: "there are spaces or text around its lines, and ssh does not read it so",
    hint: "store it without spaces, and without text before it",
};

/// The first and the last line of OpenSSH's own format, each with its newline (openssh-portable, sshkey.c, `MARK_BEGIN`
/// and `MARK_END`).
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
const END: &str = "\n-----END OPENSSH PRIVATE KEY-----\n";

/// True if the text begins as a private key that only SSH uses, or mostly: OpenSSH's own format, and the older one of
/// RSA, ECDSA and DSA. White space before it is ignored, so that [`check`] can refuse it.
pub(super) fn begins_as_a_key(value: &[u8]) -> bool {
    ["OPENSSH", "RSA", "EC", "DSA"]
        .iter()
        .any(|label| value.trim_ascii_start().starts_with(format!("-----BEGIN {label} PRIVATE KEY-----").as_bytes()))
}

/// Checks that ssh reads the text as a private key: OpenSSH's own format (openssh-portable, PROTOCOL.key), and the PEM
/// formats that OpenSSL reads for it. `newline`: one will be appended to it.
///
/// # Errors
/// Why ssh would not read it.
pub(super) fn check(text: &str, newline: bool) -> Result<Protection, WrongKind> {
    if ["ssh-", "ecdsa-", "sk-"].iter().any(|start| text.starts_with(start)) {
        return Err("it is a public key".into());
    }
    if text.starts_with("PuTTY-User-Key-File") {
        let hint = "puttygen KEY -O private-openssh -o OUT converts it";
        return Err(WrongKind { reason: "it is in PuTTY's format", hint });
    }
    if text.contains('\r') {
        return Err(WrongKind {
            reason: "its lines end in CR LF, which ssh does not read",
            hint: "store it with LF only",
        });
    }
    if text.lines().any(|line| line.starts_with([' ', '\t']) && line.trim_start().starts_with("-----")) {
        return Err(AROUND);
    }
    let blocks = pem::blocks(text)?;
    let [key] = blocks.as_slice() else { return Err("it has several blocks".into()) };
    let protection = match key.label {
        "OPENSSH PRIVATE KEY" => protection(key.bytes.expose()).ok_or("it is damaged")?,
        "ENCRYPTED PRIVATE KEY" => Protection::Passphrase,
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | "DSA PRIVATE KEY" => match key.is_encrypted {
            true => Protection::Passphrase,
            false => Protection::None,
        },
        _ => return Err("it is another kind of PEM".into()),
    };
    // ssh rejects a key without a final newline ("error in libcrypto", "invalid format").
    if !text.ends_with('\n') && !newline {
        let hint = "remove `newline: false`, and it is added: many vaults cut it off";
        return Err(WrongKind { reason: "the newline at its end is missing, and ssh does not read it so", hint });
    }
    if key.label == "OPENSSH PRIVATE KEY" && !is_framed(text, newline) {
        return Err(AROUND);
    }
    Ok(protection)
}

/// The protection of a key in OpenSSH's format: the magic, then the cipher's name as a string with a 4-byte length.
fn protection(bytes: &[u8]) -> Option<Protection> {
    let (length, rest) = bytes.strip_prefix(b"openssh-key-v1\0")?.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    Some(if rest.get(..length)? == b"none" { Protection::None } else { Protection::Passphrase })
}

/// True if a key in OpenSSH's format is all that stands before its last line, with nothing around its lines.
fn is_framed(text: &str, newline: bool) -> bool {
    let Some(rest) = text.strip_prefix(BEGIN) else { return false };
    let body = match rest.split_once(END) {
        Some((body, _)) => body,
        None if newline => match rest.strip_suffix(END.trim_end()) {
            Some(body) => body,
            None => return false,
        },
        None => return false,
    };
    !body.contains([' ', '\t'])
}
