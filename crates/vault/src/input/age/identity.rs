//! Files of age identities: age's own format, and SSH keys; both also encrypted with a passphrase.

use std::cell::RefCell;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use age::secrecy::SecretString;
use age::ssh::{Identity as SshIdentity, UnsupportedKey};
use age::x25519;
use deaddrop_core::contain::contain;
use zeroize::Zeroizing;

use super::stream::{self, Key};
use crate::error::shown_path;
use crate::input::context::Context;
use crate::input::password::Password;
use crate::input::{kdf, read, terminal};
use crate::{KdfLimit, OpenError, PasswordSpec};

/// Maximum length of a file of identities, in bytes.
const LONGEST: usize = 1 << 20;
/// Maximum number of identities in a file: each is tried on each recipient.
const MOST: usize = 100;
/// Maximum bcrypt rounds of an SSH key; `ssh-keygen` writes 16 or 24. One round takes about 5 ms.
const MOST_ROUNDS: u32 = 1000;

/// The identities that decrypt age files. The keys are zeroized on drop.
pub(crate) struct Identities {
    /// The file that contains them.
    pub(crate) path: PathBuf,
    pub(crate) list: Vec<Box<dyn age::Identity>>,
    /// The kind of unsupported identities in the file (`AGE-PLUGIN-…`), for messages; `None` if there is none.
    pub(crate) unused: Option<&'static str>,
}

/// The identities in the file `path`, opened once per run. If the file is encrypted, `password` opens it; without one,
/// the user is asked. `limit`: that of deriving a key.
///
/// # Errors
/// The file cannot be read, has no identity, or has another passphrase.
pub(crate) fn open(
    context: &Context<'_>,
    source: &str,
    path: &Path,
    password: Option<&PasswordSpec>,
    limit: KdfLimit,
) -> Result<Rc<Identities>, OpenError> {
    let path = context.at(path);
    if let Some(known) = context.identities.borrow().iter().find(|known| known.path == path) {
        return Ok(Rc::clone(known));
    }
    let bytes = read::read(&path, LONGEST).map_err(|problem| OpenError::Read { path: path.clone(), problem })?;
    let passphrase = || match password {
        Some(password) => context.password(source, password, limit)?.not_empty(),
        None => {
            let question = format!("Passphrase for {}: ", shown_path(&path));
            let secret = terminal::ask(&question).map_err(|error| OpenError::Password {
                what: format!(
                    "{} is encrypted, and its passphrase cannot be asked for: no terminal ({error})",
                    shown_path(&path)
                ),
                hint: "run it in a terminal; an `age` or `passage` source takes the passphrase from `password`"
                    .to_owned(),
            })?;
            Ok(Password::typed(secret, question, context.derivation(source, limit)))
        }
    };
    let identities = Rc::new(parse(&path, &bytes, limit, passphrase)?);
    context.identities.borrow_mut().push(Rc::clone(&identities));
    Ok(identities)
}

/// Parses the content of a file of identities.
fn parse(
    path: &Path,
    bytes: &[u8],
    limit: KdfLimit,
    passphrase: impl FnOnce() -> Result<Password, OpenError>,
) -> Result<Identities, OpenError> {
    let refused = |what: &str, hint: &str| OpenError::refused(path, what, hint);
    if stream::is_age(bytes) {
        let passphrase = RefCell::new(passphrase()?);
        let file: Box<dyn Read> = Box::new(std::io::Cursor::new(bytes.to_vec()));
        let plain = stream::decrypt(file, Key::Password(&passphrase)).map_err(|failure| failure.at(path))?;
        let inner =
            read::to_end(plain, 0, LONGEST).map_err(|problem| OpenError::Read { path: path.to_owned(), problem })?;
        return age_identities(path, &inner);
    }
    let text = bytes.trim_ascii_start();
    if !text.starts_with(b"-----BEGIN ") {
        return age_identities(path, bytes);
    }
    let unreadable = || refused("this is no SSH key that age takes (ed25519 or RSA), or it is damaged", SSH_HINT);
    let rounds = openssh_rounds(text);
    match rounds {
        Some(rounds) if rounds > MOST_ROUNDS && !limit.is_lifted() => {
            let what =
                format!("its key is derived in {rounds} rounds of bcrypt, over {MOST_ROUNDS}, the most that is taken");
            let hint = format!("give it another passphrase with `ssh-keygen -p -a 100 -f FILE`; {}", kdf::LIFT);
            return Err(refused(&what, &hint));
        }
        _ => {}
    }
    let key = contain(|| SshIdentity::from_buffer(BufReader::new(text), None));
    let identity: SshIdentity = match key.and_then(Result::ok).ok_or_else(unreadable)? {
        SshIdentity::Encrypted(key) => {
            let mut passphrase = passphrase()?;
            let cost = format!("{} rounds of bcrypt", rounds.unwrap_or_default());
            loop {
                let Ok(text) = std::str::from_utf8(passphrase.secret().expose()) else {
                    return Err(refused("its passphrase is not UTF-8, and age takes no other", ""));
                };
                let text = SecretString::from(text.to_owned());
                match passphrase.derivation.run(&cost, || contain(|| key.decrypt(text))) {
                    Some(Ok(key)) => break key.into(),
                    Some(Err(_)) if passphrase.was_wrong() => {}
                    Some(Err(_)) | None => {
                        let hint = "the passphrase is the one of `ssh-keygen -y -f FILE`";
                        return Err(refused("the password does not open this SSH key", hint));
                    }
                }
            }
        }
        SshIdentity::Unsupported(kind) => {
            let what = match kind {
                UnsupportedKey::EncryptedPem => "this SSH key is encrypted in an old way that age does not take",
                UnsupportedKey::EncryptedSsh(_) => "this SSH key is encrypted with a cipher that age does not take",
                UnsupportedKey::Hardware(_) => "this SSH key is on a security key, which cannot decrypt",
                UnsupportedKey::Type(_) => "this SSH key is of a type that cannot decrypt",
            };
            return Err(refused(what, SSH_HINT));
        }
        key @ SshIdentity::Unencrypted(_) => key,
    };
    Ok(Identities { path: path.to_owned(), list: vec![Box::new(identity)], unused: None })
}

const SSH_HINT: &str = "age takes ed25519 and RSA keys in OpenSSH's format: `ssh-keygen -p -f FILE` writes it anew";

/// Parses age's own format: one identity a line, empty lines, and comments with `#`.
fn age_identities(path: &Path, bytes: &[u8]) -> Result<Identities, OpenError> {
    let refused = |what: String, hint: &str| Err(OpenError::refused(path, what, hint));
    let mut identities = Identities { path: path.to_owned(), list: Vec::new(), unused: None };
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let number = index.saturating_add(1);
        let text = Zeroizing::new(String::from_utf8_lossy(line).into_owned());
        let upper = text.get(..20).unwrap_or(&text).to_ascii_uppercase();
        if upper.starts_with("AGE-PLUGIN-") {
            identities.unused = Some("identities of plugins in it were not tried: deaddrop runs no plugin");
        } else if upper.starts_with("AGE-SECRET-KEY-PQ-") {
            identities.unused = Some("post-quantum identities in it were not tried: deaddrop cannot use them yet");
        } else if upper.starts_with("AGE1") || upper.starts_with("SSH-") {
            let hint = "a recipient encrypts; the identity that decrypts begins with AGE-SECRET-KEY-1";
            return refused(format!("line {number} is a recipient (a public key), not an identity"), hint);
        } else if let Ok(identity) = text.parse::<x25519::Identity>() {
            if identities.list.len() >= MOST {
                return refused(format!("over {MOST} identities, the most of a file"), "keep those that are in use");
            }
            identities.list.push(Box::new(identity));
        } else {
            let hint = "a file of identities is what `age-keygen` writes, or one SSH private key";
            return refused(format!("line {number} is no identity of age"), hint);
        }
    }
    match (identities.list.is_empty(), identities.unused) {
        (true, Some(unused)) => refused(unused.to_owned(), stream::AGE_HINT),
        (true, None) => refused("there is no identity in it".to_owned(), "`age-keygen -o FILE` makes one"),
        (false, _) => Ok(identities),
    }
}

/// The bcrypt rounds of an encrypted SSH key in OpenSSH's format (PROTOCOL.key: magic, cipher, KDF, KDF options with
/// salt and rounds). `None` if the key is not encrypted, or not in this format.
fn openssh_rounds(text: &[u8]) -> Option<u32> {
    fn string<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (string, rest) = rest.split_at_checked(length)?;
        *bytes = rest;
        Some(string)
    }
    let body = text.strip_prefix(b"-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let end = body.windows(5).position(|window| window == b"-----")?;
    let base64: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.get(..end)?.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let bytes = Zeroizing::new(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &*base64).ok()?);
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let (_cipher, kdf, mut options) = (string(&mut rest)?, string(&mut rest)?, string(&mut rest)?);
    if kdf != b"bcrypt" {
        return None;
    }
    string(&mut options)?;
    options.first_chunk::<4>().map(|rounds| u32::from_be_bytes(*rounds))
}
