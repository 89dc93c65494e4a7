//! The header of a file of age: its stanzas, one for each recipient. C2SP, age.md, "File format" and "ASCII armor"; the
//! types of SSH keys: the package `agessh` of age.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{LONGEST_RECIPIENT, MOST_RECIPIENTS, Recipient, Recipients};

const VERSION: &[u8] = b"age-encryption.org/v1\n";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// Maximum size of a header that is read, in bytes.
const LIMIT: usize = 1 << 20;

/// For whom a file is encrypted.
///
/// # Errors
/// Why this is no file of age.
pub fn recipients(file: &[u8]) -> Result<Recipients, &'static str> {
    let decoded = file.trim_ascii_start().strip_prefix(ARMOR).map(dearmored);
    let file = decoded.as_deref().unwrap_or(file);
    let header = file.strip_prefix(VERSION).ok_or("it is no file of age")?;
    let header = header.get(..header.len().min(LIMIT)).unwrap_or_default();
    let mut keys = Vec::new();
    for line in header.split(|byte| *byte == b'\n') {
        if line.starts_with(b"---") {
            return Ok(Recipients { keys: Some(keys), pgp: false, others: false });
        }
        let Some(stanza) = line.strip_prefix(b"-> ") else { continue };
        if keys.len() >= MOST_RECIPIENTS {
            return Err("its header has too many recipients");
        }
        keys.extend(recipient(stanza));
    }
    Err("its header has no end")
}

/// The recipient of a stanza's first line; `None` for one that nothing opens, which rage adds.
fn recipient(stanza: &[u8]) -> Option<Recipient> {
    let stanza = std::str::from_utf8(stanza).ok().filter(|stanza| stanza.len() <= LONGEST_RECIPIENT);
    let mut words = stanza.unwrap_or_default().split(' ');
    match (words.next().unwrap_or_default(), words.next()) {
        (algorithm @ ("ssh-ed25519" | "ssh-rsa"), Some(tag)) => Some(Recipient::Ssh(format!("{algorithm} {tag}"))),
        (kind, _) if kind.ends_with("-grease") => None,
        _ => Some(Recipient::Hidden),
    }
}

/// The beginning of what the lines below an armor's first hold.
fn dearmored(body: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for line in body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).skip_while(|line| line.is_empty()) {
        // The last one, or no base64: what was read is the file.
        let Ok(bytes) = STANDARD.decode(line) else { break };
        file.extend(bytes);
        if file.len() > LIMIT {
            break;
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "age-encryption.org/v1\n-> ssh-ed25519 mhrhFA 2iBx\nAAAA\n-> X25519 SVrz\nBBBB\n\
                          -> ssh-rsa eVa0Sg\nCCCC\nDD\n-> @h-grease x\n\n--- mac\nbinary";

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Recipient>, &'static str> {
        recipients(text.as_ref()).map(|recipients| recipients.keys.unwrap())
    }

    #[test]
    fn each_stanza_is_a_recipient() {
        let want =
            [Recipient::Ssh("ssh-ed25519 mhrhFA".into()), Recipient::Hidden, Recipient::Ssh("ssh-rsa eVa0Sg".into())];
        assert_eq!(read(HEADER).unwrap(), want);
        let base64 = STANDARD.encode(HEADER);
        let lines: Vec<&str> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let armored =
            format!("-----BEGIN AGE ENCRYPTED FILE-----\n{}\n-----END AGE ENCRYPTED FILE-----\n", lines.join("\n"));
        assert_eq!(read(armored).unwrap(), want);
    }

    #[test]
    fn what_is_no_header_is_said_so() {
        for text in [
            "",
            "age-encryption.org/v2\n-> X25519 a\n--- m",
            "-----BEGIN AGE ENCRYPTED FILE-----",
            "-----BEGIN AGE ENCRYPTED FILE-----\n\n%%%%\n",
            "age-encryption.org/v1\n-> X25519 a\n",
            "age-encryption.org/v1\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let many = format!("age-encryption.org/v1\n{}--- m", "-> X25519 a\n".repeat(MOST_RECIPIENTS + 1));
        assert!(read(many).is_err());
        let endless = format!("age-encryption.org/v1\n-> {}", "x".repeat(2 * LIMIT));
        assert!(read(endless).is_err());
        // Bytes that are no text, and stanzas without arguments.
        let odd = b"age-encryption.org/v1\n-> \xff\n-> \n-> ssh-ed25519\n--- m";
        assert_eq!(read(odd).unwrap(), [Recipient::Hidden, Recipient::Hidden, Recipient::Hidden]);
    }
}
