//! Derives the keys of a database from a password and a key file.

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use argon2::{Algorithm, Argon2, Params};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deaddrop_core::secret::Secret;
use quick_xml::Reader;
use quick_xml::events::Event;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::header::Kdf;

/// 32 bytes, zeroized on drop.
pub(super) type Key = Zeroizing<[u8; 32]>;

fn sha256(parts: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    Zeroizing::new(hash.finalize().into())
}

/// The composite keys to try. An empty password beside a key file is a part of the key for some programs (KeePass 2,
/// KeeWeb) and none for others, so both are tried, as KeePassXC does.
pub(super) fn composites(password: Option<&Secret>, key_file: Option<&[u8]>) -> Vec<Key> {
    let given = password.map(Secret::expose);
    match (given.unwrap_or_default(), key_file) {
        ([], Some(_)) => {
            let other = if given.is_some() { None } else { Some(&[][..]) };
            vec![composite(given, key_file), composite(other, key_file)]
        }
        _ => vec![composite(given, key_file)],
    }
}

/// The composite key: of the password, of the key file, or of both in this order.
fn composite(password: Option<&[u8]>, key_file: Option<&[u8]>) -> Key {
    let password = password.map(|password| sha256(&[password]));
    let parts: Vec<&[u8]> = password.iter().map(|key| key.as_slice()).chain(key_file).collect();
    sha256(&parts)
}

/// The key in a key file, by the first form that matches, in KeePass's order: XML, 32 bytes, 64 hexadecimal digits,
/// otherwise the hash of the file.
///
/// # Errors
/// A message about a damaged XML key file.
pub(super) fn key_file(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    if let Some(key) = xml(bytes)? {
        return Ok(key);
    }
    if bytes.len() == 32 {
        return Ok(Zeroizing::new(bytes.to_vec()));
    }
    if bytes.len() == 64
        && let Some(key) = hex(bytes)
    {
        return Ok(key);
    }
    Ok(Zeroizing::new(sha256(&[bytes]).to_vec()))
}

/// The key in an XML key file: base64 in version 1, hexadecimal with the start of its hash in version 2. `None` if it
/// is not an XML key file.
fn xml(bytes: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, &'static str> {
    const DAMAGED: &str = "the key file is damaged";
    let mut reader = Reader::from_reader(bytes);
    let mut path: Vec<String> = Vec::new();
    let (mut version, mut data, mut hash) = (String::new(), Zeroizing::new(String::new()), None);
    let mut buffer = Zeroizing::new(Vec::new());
    loop {
        buffer.clear();
        let is_ours = path.first().is_some_and(|root| root == "KeyFile");
        let event = match reader.read_event_into(&mut buffer) {
            Ok(event) => event,
            Err(_) if is_ours => return Err(DAMAGED),
            Err(_) => return Ok(None),
        };
        match event {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                    ["KeyFile", "Key", "Data"] => {
                        let attribute = start.try_get_attribute("Hash").map_err(|_| DAMAGED)?;
                        hash = attribute.map(|attribute| attribute.value.to_string());
                    }
                    [root, ..] if *root != "KeyFile" => return Ok(None),
                    path if path.len() > 8 => return Err(DAMAGED),
                    _ => {}
                }
            }
            Event::Text(text) => match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["KeyFile", "Meta", "Version"] => version.push_str(text.xml10_content().trim()),
                ["KeyFile", "Key", "Data"] => {
                    data.extend(text.xml10_content().chars().filter(|c| !c.is_ascii_whitespace()));
                }
                _ => {}
            },
            Event::End(_) => drop(path.pop()),
            Event::Eof => break,
            _ => {}
        }
        if path.is_empty() && !data.is_empty() {
            break;
        }
    }
    if data.is_empty() && version.is_empty() {
        return Ok(None);
    }
    let key = match version.split('.').next() {
        Some("1") => STANDARD.decode(data.as_bytes()).ok().map(Zeroizing::new),
        Some("2") => hex(data.as_bytes()),
        _ => return Err("the key file is of a version that is not known"),
    };
    let key = key.filter(|key| !key.is_empty()).ok_or(DAMAGED)?;
    if let Some(hash) = hash {
        let start = hex(hash.trim().as_bytes()).ok_or(DAMAGED)?;
        if start.is_empty() || !sha256(&[&key]).starts_with(&start) {
            return Err("the key file is damaged: its key does not have the hash that it says");
        }
    }
    Ok(Some(key))
}

/// Decodes hexadecimal digits.
fn hex(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    text.chunks(2).map(byte).collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

/// The transformed key: `composite` through the header's key derivation.
///
/// # Errors
/// A message: there is not enough memory.
pub(super) fn transform(composite: &Key, kdf: &Kdf) -> Result<Key, &'static str> {
    match kdf {
        Kdf::Aes { seed, rounds } => {
            let Ok(cipher) = Aes256::new_from_slice(seed) else { return Err("its header is damaged") };
            let (left, right) = composite.split_at(16);
            // OK to default: both halves have 16 bytes.
            let block = |half: &[u8]| <[u8; 16]>::try_from(half).unwrap_or_default().into();
            let mut blocks = [block(left), block(right)];
            for _ in 0..*rounds {
                cipher.encrypt_blocks(&mut blocks);
            }
            let key = sha256(&[blocks[0].as_slice(), blocks[1].as_slice()]);
            blocks.iter_mut().for_each(|block| block.as_mut_slice().zeroize());
            Ok(key)
        }
        Kdf::Argon2 { id, version, salt, iterations, kib, lanes } => {
            let algorithm = if *id { Algorithm::Argon2id } else { Algorithm::Argon2d };
            let version = if *version == 0x10 { argon2::Version::V0x10 } else { argon2::Version::V0x13 };
            let params = Params::new(*kib, *iterations, *lanes, Some(32)).map_err(|_| "its header is damaged")?;
            let mut key = Key::default();
            let argon2 = Argon2::new(algorithm, version, params);
            argon2.hash_password_into(composite.as_slice(), salt, key.as_mut_slice()).map_err(|error| match error {
                argon2::Error::OutOfMemory => "there is not enough memory to derive its key",
                _ => "its header is damaged",
            })?;
            Ok(key)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_are_what_keepass_takes_them_for() {
        let raw = [7_u8; 32];
        let digits = "07".repeat(32);
        let v1 = format!(
            "<KeyFile><Meta><Version>1.00</Version></Meta><Key><Data>{}</Data></Key></KeyFile>",
            STANDARD.encode(raw)
        );
        let hash: String = sha256(&[&raw])[..4].iter().map(|byte| format!("{byte:02X}")).collect();
        let v2 = |digits: &str, hash: &str| {
            format!(
                "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n\
                <KeyFile>\r\n\t<Meta><Version>2.0</Version></Meta>\
                 <Key><Data Hash=\"{hash}\">\r\n {} {}\r\n</Data></Key></KeyFile>",
                &digits[..8],
                &digits[8..]
            )
        };
        let hashed = |bytes: &[u8]| Ok(sha256(&[bytes]).to_vec());
        for (name, bytes, want) in [
            ("32 bytes", raw.to_vec(), Ok(raw.to_vec())),
            ("64 digits", digits.clone().into_bytes(), Ok(raw.to_vec())),
            ("version 1", v1.clone().into_bytes(), Ok(raw.to_vec())),
            ("version 2", v2(&digits, &hash).into_bytes(), Ok(raw.to_vec())),
            ("empty", vec![], hashed(b"")),
            ("64 other letters", vec![b'x'; 64], hashed(&[b'x'; 64])),
            ("other XML", b"<a><b>x</b></a>".to_vec(), hashed(b"<a><b>x</b></a>")),
            ("text", b"planted\n".to_vec(), hashed(b"planted\n")),
            (
                "wrong hash",
                v2(&digits, "00000000").into_bytes(),
                Err("the key file is damaged: its key does not have the hash that it says"),
            ),
            ("odd digits", v2(&digits[..61], &hash).into_bytes(), Err("the key file is damaged")),
            ("cut off", v1.as_bytes()[..v1.len() - 20].to_vec(), Err("the key file is damaged")),
            (
                "version 3",
                v1.replace("1.00", "3.0").into_bytes(),
                Err("the key file is of a version that is not known"),
            ),
        ] {
            assert_eq!(key_file(&bytes).map(|key| key.to_vec()), want, "{name}");
        }
    }
}
