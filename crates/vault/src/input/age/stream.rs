//! Decrypts an age file while reading. Format: age-encryption.org/v1 (C2SP, age.md), binary or armored.
//!
//! The age crate's reader bounds neither the header nor the lines of an armored file. Both are bounded here first.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::iter;
use std::path::Path;
use std::rc::Rc;

use age::armor::ArmoredReader;
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Identity, scrypt};
use deaddrop_core::contain::contain;

use super::identity::Identities;
use crate::error::shown_path;
use crate::input::password::Password;
use crate::input::read::ReadError;
use crate::{KdfLimit, OpenError};

/// Start of a binary file; of an armored one.
const MAGIC: &[u8] = b"age-encryption.org/";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// Maximum length of a header, in bytes: about 2000 recipients.
const LONGEST_HEADER: usize = 256 << 10;
/// Maximum length of a line of an armored file, in bytes. The format has 64.
const LONGEST_LINE: usize = 1000;
/// Maximum white space before an armored file and after it, in bytes, as age itself takes it (C2SP, age.md, "ASCII
/// armor": it may be there).
const MOST_SPACE: usize = 1024;
/// Length of the nonce that follows the header, in bytes.
const NONCE: u64 = 16;

/// Hint for a file that only the program age can open.
pub(crate) const AGE_HINT: &str = "let age itself decrypt it: an `exec` source with `argv: [age, -d, …]`, or \
    `path: /dev/fd/3` and `3< <(age -d …)`";

/// A key for a file.
#[derive(Clone, Copy)]
pub(crate) enum Key<'k> {
    /// Identities; any of them may fit.
    Identities(&'k Identities),
    /// A passphrase. If it is wrong, the user may type another one, which then stays.
    Password(&'k RefCell<Password>),
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
    bytes.starts_with(MAGIC) || bytes.trim_ascii_start().starts_with(ARMOR)
}

/// The decrypted content of `file`. Damage after the header becomes an error of the returned reader.
///
/// # Errors
/// It is not an age file, or `key` does not fit.
pub(crate) fn decrypt(file: Box<dyn Read>, key: Key<'_>) -> Result<Box<dyn Read>, AgeError> {
    let ended = Rc::new(Cell::new(false));
    let mut file = Watched { inner: file, ended: Rc::clone(&ended), armor: None };
    let (space, start) = start(&mut file).map_err(AgeError::Io)?;
    if start.is_empty() && space <= MOST_SPACE {
        return refused("the file is empty", "");
    }
    if !is_age(&start) || (space > 0 && !start.starts_with(ARMOR)) {
        let hint = "is it the right file? the name of one that is not encrypted does not end in `.age`";
        return refused("this is not an age file", hint);
    }
    let mut input: Box<dyn BufRead> = if start.starts_with(ARMOR) {
        file.armor = Some(Armor::default());
        Box::new(ArmoredReader::new(Cursor::new(start).chain(file)))
    } else {
        Box::new(BufReader::new(Cursor::new(start).chain(file)))
    };
    contain(|| {
        let header = header(&mut input, &ended)?;
        let mut nonce = Vec::new();
        let read = (&mut input).take(NONCE).read_to_end(&mut nonce);
        read.map_err(|error| broken(&error, ended.get()).map_or(AgeError::Io(error), AgeError::what))?;
        unlock(&Headed { header, nonce: Cursor::new(nonce), input: Rc::new(RefCell::new(input)) }, key, ended)
    })
    .unwrap_or_else(|| refused("this makes the age decoder fail", ""))
}

/// The length of the white space before the file, and then its first bytes, as many as [`ARMOR`] has.
fn start(file: &mut Watched) -> io::Result<(usize, Vec<u8>)> {
    let mut start = Vec::new();
    let mut space = 0_usize;
    while start.len() < ARMOR.len() && space <= MOST_SPACE {
        let wanted = ARMOR.len().saturating_sub(start.len());
        let read = file.take(wanted.try_into().unwrap_or(u64::MAX)).read_to_end(&mut start)?;
        let left = start.trim_ascii_start().len();
        space = space.saturating_add(start.len().saturating_sub(left));
        start.drain(..start.len().saturating_sub(left));
        if read == 0 {
            break;
        }
    }
    Ok((space, start))
}

/// Checks the first line: `age-encryption.org/v1`. The crate takes damage anywhere in the header for another version.
fn check_version(line: &[u8]) -> Result<(), AgeError> {
    let digits = line.strip_prefix(MAGIC).and_then(|version| version.strip_prefix(b"v")).unwrap_or_default();
    match digits {
        b"1" => Ok(()),
        [_, ..] if digits.len() < 4 && digits.iter().all(u8::is_ascii_digit) => {
            refused("this version of the age format is not known: version 1 is", AGE_HINT)
        }
        _ => refused(DAMAGED_HEADER, ""),
    }
}

const DAMAGED_HEADER: &str = "its header is damaged";

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
            [first @ .., b'\n'] if line == 0 => check_version(first)?,
            [.., b'\n'] => {}
            _ if ended.get() => return refused("the file is cut off in its header", ""),
            _ => return refused("its header is over 256 KiB, the longest that is taken", ""),
        }
    }
}

/// The work factor of deriving a key from a passphrase, within `limit`. Header line: `-> scrypt SALT WORK_FACTOR`
/// (C2SP, age.md, "The scrypt recipient type").
fn work_factor(header: &[u8], limit: KdfLimit) -> Result<u8, AgeError> {
    let stanza = header.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"-> scrypt "));
    let factor = stanza.and_then(|arguments| arguments.split(|&byte| byte == b' ').nth(1)).unwrap_or_default();
    let factor: u8 = match std::str::from_utf8(factor).ok().and_then(|factor| factor.parse().ok()) {
        Some(factor) => factor,
        None => return refused("its header is damaged: the work factor of scrypt is no number", ""),
    };
    // scrypt memory: N = 2^factor blocks of 128 * r bytes, with r = 8.
    let memory = 1_u64.checked_shl(factor.into()).and_then(|blocks| blocks.checked_mul(1024)).unwrap_or(u64::MAX);
    match limit.check_memory(memory, 1) {
        Ok(()) => Ok(factor),
        Err((what, hint)) => refused(
            format!("its scrypt work factor is {factor}: {what}"),
            format!("encrypt it again: age itself takes 18; {hint}"),
        ),
    }
}

/// Opens the payload with `key`.
fn unlock(input: &Headed, key: Key<'_>, ended: Rc<Cell<bool>>) -> Result<Box<dyn Read>, AgeError> {
    let open = || Decryptor::new_buffered(input.clone()).map_err(|error| in_header(error, ended.get()));
    let decryptor = open()?;
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
            let mut password = password.borrow_mut();
            let factor = work_factor(&input.header, password.derivation.limit)?;
            let cost = format!("scrypt with the work factor {factor}");
            let mut decryptor = decryptor;
            loop {
                let Ok(text) = std::str::from_utf8(password.secret().expose()) else {
                    return refused("its password is not UTF-8, and age takes no other", "");
                };
                let mut identity = scrypt::Identity::new(SecretString::from(text.to_owned()));
                identity.set_max_work_factor(factor);
                let decrypt = || decryptor.decrypt(iter::once::<&dyn Identity>(&identity));
                match password.derivation.run(&cost, decrypt) {
                    Err(DecryptError::DecryptionFailed) if password.was_wrong() => decryptor = open()?,
                    Err(DecryptError::DecryptionFailed) => return refused("the password does not open it", ""),
                    result => {
                        password.was_right();
                        break result;
                    }
                }
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
        // Also `UnknownFormat`: the version was checked before.
        _ => DAMAGED_HEADER,
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

/// The encrypted file: records its end, and checks the lines if it is armored.
struct Watched {
    inner: Box<dyn Read>,
    ended: Rc<Cell<bool>>,
    /// `None` for a binary file.
    armor: Option<Armor>,
}

/// The lines of an armored file so far.
#[derive(Default)]
struct Armor {
    /// Length of the current line.
    line: usize,
    /// The first bytes of the current line, as many as the end marker has.
    head: Vec<u8>,
    /// White space after the end marker, once it was read.
    after: Option<usize>,
}

impl Armor {
    const END: &[u8] = b"-----END AGE ENCRYPTED FILE-----";

    /// Takes the next bytes; returns the number of those that are for the crate, which takes nothing after the end.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut count = 0_usize;
        for byte in bytes {
            if let Some(after) = &mut self.after {
                *after = after.saturating_add(1);
                if !byte.is_ascii_whitespace() || *after > MOST_SPACE {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "something follows the end"));
                }
                continue;
            }
            count = count.saturating_add(1);
            self.line = self.line.saturating_add(1);
            if *byte == b'\n' {
                (self.line, self.head) = (0, Vec::new());
            } else if self.head.len() < Self::END.len() {
                self.head.push(*byte);
            }
            if self.line == Self::END.len() && self.head == Self::END {
                self.after = Some(0);
            } else if self.line > LONGEST_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
        }
        Ok(count)
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.inner.read(buffer)?;
            if count == 0 && !buffer.is_empty() {
                self.ended.set(true);
            }
            let Some(armor) = &mut self.armor else { return Ok(count) };
            let taken = armor.take(buffer.get(..count).unwrap_or_default())?;
            // Nothing but white space after the end: the rest is read here, so that it is checked.
            if taken > 0 || count == 0 {
                return Ok(taken);
            }
        }
    }
}

/// The file from its start: the whole header in one piece, then the rest. The crate parses the header again for each
/// piece that it gets. A clone is for another passphrase: the crate reads the nonce before it tries the first, and the
/// rest only after it fits.
#[derive(Clone)]
struct Headed {
    header: Vec<u8>,
    nonce: Cursor<Vec<u8>>,
    input: Rc<RefCell<Box<dyn BufRead>>>,
}

impl Read for Headed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.nonce.read(buffer)? {
            0 => self.input.borrow_mut().read(buffer),
            count => Ok(count),
        }
    }
}

impl BufRead for Headed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.header)
    }

    fn consume(&mut self, amount: usize) {
        self.header.drain(..amount.min(self.header.len()));
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
