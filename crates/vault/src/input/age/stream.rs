//! Decrypts an age file while reading. Format: age-encryption.org/v1 (C2SP, age.md), binary or armored.
//!
//! The age crate's reader bounds neither the header nor the lines of an armored file. Both are bounded here first.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::iter;
use std::path::Path;
use std::rc::Rc;

use age::armor::ArmoredReader;
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Identity, scrypt};
use deaddrop_core::contain::contain;
use deaddrop_core::secret::Secret;

use super::identity::Identities;
use crate::OpenError;
use crate::error::shown_path;
use crate::input::kdf;
use crate::input::read::ReadError;

/// Start of a binary file; of an armored one.
const MAGIC: &[u8] = b"age-encryption.org/";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// Maximum length of a header, in bytes: about 2000 recipients.
const LONGEST_HEADER: usize = 256 << 10;
/// Maximum length of a line of an armored file, in bytes. The format has 64.
const LONGEST_LINE: usize = 1000;
/// Maximum scrypt work factor: 2^20 times 1 KiB of memory is [`kdf::MAX_MEMORY`]. age itself writes 18.
const MAX_WORK_FACTOR: u8 = 20;

/// Hint for a file that only the program age can open.
pub(crate) const AGE_HINT: &str = "let age itself decrypt it: an `exec` source with `argv: [age, -d, …]`, or \
    `path: /dev/fd/3` and `3< <(age -d …)`";

/// A key for a file.
#[derive(Clone, Copy)]
pub(crate) enum Key<'k> {
    /// Identities; any of them may fit.
    Identities(&'k Identities),
    /// A passphrase.
    Password(&'k Secret),
}

/// A file that cannot be decrypted.
pub(crate) enum AgeError {
    /// A read failed.
    Io(io::Error),
    /// The message, and a hint that may be empty.
    Refused(String, String),
}

impl AgeError {
    /// The error for the file `path`.
    pub(crate) fn at(self, path: &Path) -> OpenError {
        match self {
            Self::Io(error) => OpenError::Read { path: path.to_owned(), problem: ReadError::Io(error) },
            Self::Refused(what, hint) => OpenError::refused(path, what, hint),
        }
    }

    /// The message, and a hint that may be empty.
    pub(crate) fn words(self) -> (String, String) {
        match self {
            Self::Io(error) => (format!("its file cannot be read: {error}"), String::new()),
            Self::Refused(what, hint) => (what, hint),
        }
    }

    fn what(what: impl Into<String>) -> Self {
        Self::Refused(what.into(), String::new())
    }
}

fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, AgeError> {
    Err(AgeError::Refused(what.into(), hint.into()))
}

/// True if `bytes` start like an age file.
pub(crate) fn is_age(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(ARMOR)
}

/// The decrypted content of `file`. Damage after the header becomes an error of the returned reader.
///
/// # Errors
/// It is not an age file, or `key` does not fit.
pub(crate) fn decrypt(file: Box<dyn Read>, key: Key<'_>) -> Result<Box<dyn Read>, AgeError> {
    let ended = Rc::new(Cell::new(false));
    let mut file = Watched { inner: file, ended: Rc::clone(&ended), line: None };
    let mut start = Vec::new();
    (&mut file).take(ARMOR.len().try_into().unwrap_or(u64::MAX)).read_to_end(&mut start).map_err(AgeError::Io)?;
    if start.is_empty() {
        return refused("the file is empty", "");
    }
    if !is_age(&start) {
        let hint = "is it the right file? the name of one that is not encrypted does not end in `.age`";
        return refused("this is not an age file", hint);
    }
    let mut input: Box<dyn BufRead> = if start.starts_with(ARMOR) {
        file.line = Some(0);
        Box::new(ArmoredReader::new(Cursor::new(start).chain(file)))
    } else {
        Box::new(BufReader::new(Cursor::new(start).chain(file)))
    };
    contain(|| {
        let header = header(&mut input, &ended)?;
        check_work(&header)?;
        unlock(Headed { header, input }, key, ended)
    })
    .unwrap_or_else(|| refused("this makes the age decoder fail", ""))
}

/// The file's header, up to the end of its last line.
fn header(input: &mut dyn BufRead, ended: &Cell<bool>) -> Result<Vec<u8>, AgeError> {
    let mut header = Vec::new();
    loop {
        let line = header.len();
        let left = LONGEST_HEADER.saturating_sub(line);
        let read = input.take(left.try_into().unwrap_or(u64::MAX)).read_until(b'\n', &mut header);
        read.map_err(|error| broken(&error, ended.get()).map_or(AgeError::Io(error), AgeError::what))?;
        match header.get(line..).unwrap_or_default() {
            [b'-', b'-', b'-', b' ', .., b'\n'] => return Ok(header),
            [.., b'\n'] => {}
            _ if ended.get() => return refused("the file is cut off in its header", ""),
            _ => return refused("its header is over 256 KiB, the longest that is taken", ""),
        }
    }
}

/// Checks the cost of deriving a key from a passphrase. Header line: `-> scrypt SALT WORK_FACTOR` (C2SP, age.md, "The
/// scrypt recipient type").
fn check_work(header: &[u8]) -> Result<(), AgeError> {
    let stanza = header.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"-> scrypt "));
    let Some(factor) = stanza.and_then(|arguments| arguments.split(|&byte| byte == b' ').nth(1)) else { return Ok(()) };
    let factor: u8 = match std::str::from_utf8(factor).ok().and_then(|factor| factor.parse().ok()) {
        Some(factor) => factor,
        None => return refused("its header is damaged: the work factor of scrypt is no number", ""),
    };
    if factor > MAX_WORK_FACTOR {
        let what = format!(
            "its scrypt work factor is {factor}, over {MAX_WORK_FACTOR} (1 GiB of memory), the largest that is taken"
        );
        return refused(what, "encrypt it again: age itself takes 18");
    }
    // scrypt memory: N = 2^factor blocks of 128 * r bytes, with r = 8.
    let memory = 1024_u64 << factor;
    kdf::fits(memory).map_err(AgeError::what)
}

/// Opens the payload with `key`.
fn unlock(input: Headed, key: Key<'_>, ended: Rc<Cell<bool>>) -> Result<Box<dyn Read>, AgeError> {
    let decryptor = Decryptor::new_buffered(input).map_err(|error| in_header(error, ended.get()))?;
    let result = match key {
        Key::Identities(_) if decryptor.is_scrypt() => {
            let hint = "say `password` in place of `identity`";
            return refused("it is encrypted to a passphrase, not to an identity", hint);
        }
        Key::Password(_) if !decryptor.is_scrypt() => {
            let hint = "say `identity: FILE`, a file of age identities or an SSH key";
            return refused("it is encrypted to identities, not to a passphrase", hint);
        }
        Key::Identities(identities) => match decryptor.decrypt(identities.list.iter().map(|identity| &**identity)) {
            Err(DecryptError::NoMatchingKeys) => {
                let from = shown_path(&identities.path);
                return match identities.unused {
                    None => refused(format!("no identity in {from} opens it"), "was it encrypted to another one?"),
                    Some(unused) => refused(format!("no identity in {from} opens it; {unused}"), AGE_HINT),
                };
            }
            result => result,
        },
        Key::Password(password) => {
            let password = std::str::from_utf8(password.expose());
            let Ok(password) = password.map(|text| SecretString::from(text.to_owned())) else {
                return refused("its password is not UTF-8, and age takes no other", "");
            };
            let mut identity = scrypt::Identity::new(password);
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            match decryptor.decrypt(iter::once::<&dyn Identity>(&identity)) {
                Err(DecryptError::DecryptionFailed) => return refused("the password does not open it", ""),
                result => result,
            }
        }
    };
    let inner = result.map_err(|error| in_header(error, ended.get()))?;
    Ok(Box::new(Plain { inner, ended, failed: None }))
}

/// The failure for an error of the crate while it reads the header.
fn in_header(error: DecryptError, ended: bool) -> AgeError {
    let what = match error {
        DecryptError::Io(error) => return broken(&error, ended).map_or(AgeError::Io(error), AgeError::what),
        DecryptError::UnknownFormat => "this version of the age format is not known",
        _ => "its header is damaged",
    };
    AgeError::what(what.to_owned())
}

/// A message for an error of age's own readers; `None` for an error of a system call. `ended`: the file was read to its
/// end.
fn broken(error: &io::Error, ended: bool) -> Option<String> {
    match (error.kind(), ended) {
        (io::ErrorKind::UnexpectedEof, _) => Some("the file is cut off".to_owned()),
        (io::ErrorKind::InvalidData, true) => Some("the file is cut off, or its last part is damaged".to_owned()),
        (io::ErrorKind::InvalidData, false) => Some("the file is damaged".to_owned()),
        _ => None,
    }
}

/// The encrypted file: records its end, and bounds the lines if it is armored.
struct Watched {
    inner: Box<dyn Read>,
    ended: Rc<Cell<bool>>,
    /// Length of the current line so far; `None` for a binary file.
    line: Option<usize>,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            self.ended.set(true);
        }
        if let Some(line) = &mut self.line {
            for piece in buffer.get(..count).unwrap_or_default().split_inclusive(|&byte| byte == b'\n') {
                *line = line.saturating_add(piece.len());
                if *line > LONGEST_LINE {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
                }
                if piece.ends_with(b"\n") {
                    *line = 0;
                }
            }
        }
        Ok(count)
    }
}

/// The file from its start: the whole header in one piece, then the rest. The crate parses the header again for each
/// piece that it gets.
struct Headed {
    header: Vec<u8>,
    input: Box<dyn BufRead>,
}

impl Read for Headed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl BufRead for Headed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.input.consume(amount);
    }

    /// The header. The second call returns the end, because the payload has no lines.
    fn read_until(&mut self, _: u8, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let count = self.header.len();
        buffer.append(&mut self.header);
        Ok(count)
    }
}

/// The decrypted content. Errors of the content get our messages, because the crate's may quote it.
struct Plain<R> {
    inner: R,
    ended: Rc<Cell<bool>>,
    /// The first error; reading fails from then on.
    failed: Option<String>,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            match contain(|| self.inner.read(buffer)) {
                Some(Ok(count)) => return Ok(count),
                Some(Err(error)) => match broken(&error, self.ended.get()) {
                    None => return Err(error),
                    what => self.failed = what,
                },
                None => self.failed = Some("this makes the age decoder fail".to_owned()),
            }
        }
        Err(io::Error::other(self.failed.clone().unwrap_or_default()))
    }
}
