//! Decrypts an age file as it is read. The format: age-encryption.org/v1 (C2SP, age.md), binary or armored.
//!
//! The crate's own reader takes as long a header and as long an armored line as a file has; both are bounded here first.

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

/// How a file begins, in its two forms.
const MAGIC: &[u8] = b"age-encryption.org/";
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
/// The longest header, in bytes: about 2000 recipients.
const LONGEST_HEADER: usize = 256 << 10;
/// The longest line of an armored file, in bytes. The format has 64.
const LONGEST_LINE: usize = 1000;
/// The largest work factor of scrypt: 2^20 times 1 KiB of memory is [`kdf::MAX_MEMORY`]. age itself takes 2^18.
const MAX_WORK_FACTOR: u8 = 20;

/// What to do about what only age itself can open.
pub(crate) const AGE_HINT: &str =
    "let age itself decrypt it: an `exec` source with `argv: [age, -d, …]`, or `path: /dev/fd/3` and `3< <(age -d …)`";

/// What opens a file.
#[derive(Clone, Copy)]
pub(crate) enum Key<'k> {
    /// One of these.
    Identities(&'k Identities),
    /// A passphrase.
    Password(&'k Secret),
}

/// Why a file cannot be decrypted.
pub(crate) enum Failure {
    /// It cannot be read.
    Io(io::Error),
    /// What is wrong with it, and what to do, which may be empty.
    Refused(String, String),
}

impl Failure {
    /// The error for the file at `path`.
    pub(crate) fn at(self, path: &Path) -> OpenError {
        match self {
            Self::Io(error) => OpenError::Read { path: path.to_owned(), problem: ReadError::Io(error) },
            Self::Refused(what, hint) => OpenError::refused(path, what, hint),
        }
    }

    /// What is wrong, and what to do, which may be empty.
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

fn refused<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(what.into(), hint.into()))
}

/// True for what begins as an age file does.
pub(crate) fn is_age(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(ARMOR)
}

/// What `file` holds. What is found to be wrong later is an error of the reader that is returned.
///
/// # Errors
/// It is not an age file, or `key` does not open it.
pub(crate) fn decrypt(file: Box<dyn Read>, key: Key<'_>) -> Result<Box<dyn Read>, Failure> {
    let ended = Rc::new(Cell::new(false));
    let mut file = Watched { inner: file, ended: Rc::clone(&ended), line: None };
    let mut start = Vec::new();
    (&mut file).take(ARMOR.len().try_into().unwrap_or(u64::MAX)).read_to_end(&mut start).map_err(Failure::Io)?;
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

/// The file's header, to the end of its last line.
fn header(input: &mut dyn BufRead, ended: &Cell<bool>) -> Result<Vec<u8>, Failure> {
    let mut header = Vec::new();
    loop {
        let line = header.len();
        let left = LONGEST_HEADER.saturating_sub(line);
        let read = input.take(left.try_into().unwrap_or(u64::MAX)).read_until(b'\n', &mut header);
        read.map_err(|error| broken(&error, ended.get()).map_or(Failure::Io(error), Failure::what))?;
        match header.get(line..).unwrap_or_default() {
            [b'-', b'-', b'-', b' ', .., b'\n'] => return Ok(header),
            [.., b'\n'] => {}
            _ if ended.get() => return refused("the file is cut off in its header", ""),
            _ => return refused("its header is over 256 KiB, the longest that is taken", ""),
        }
    }
}

/// Judges what deriving a key from the passphrase would cost, if there is one: `-> scrypt SALT WORK_FACTOR`.
fn check_work(header: &[u8]) -> Result<(), Failure> {
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
    // N = 2^factor blocks of 128 * r bytes, where r is 8.
    let memory = 1024_u64 << factor;
    kdf::fits(memory).map_err(Failure::what)
}

/// Opens the file's stream with `key`.
fn unlock(input: Headed, key: Key<'_>, ended: Rc<Cell<bool>>) -> Result<Box<dyn Read>, Failure> {
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

/// What an error in the header means.
fn in_header(error: DecryptError, ended: bool) -> Failure {
    let what = match error {
        DecryptError::Io(error) => return broken(&error, ended).map_or(Failure::Io(error), Failure::what),
        DecryptError::UnknownFormat => "this version of the age format is not known",
        _ => "its header is damaged",
    };
    Failure::what(what.to_owned())
}

/// What an error of age's own readers means, in our words; `None` for one of the system. `ended` says whether the file
/// was read to its end.
fn broken(error: &io::Error, ended: bool) -> Option<String> {
    match (error.kind(), ended) {
        (io::ErrorKind::UnexpectedEof, _) => Some("the file is cut off".to_owned()),
        (io::ErrorKind::InvalidData, true) => Some("the file is cut off, or its last part is damaged".to_owned()),
        (io::ErrorKind::InvalidData, false) => Some("the file is damaged".to_owned()),
        _ => None,
    }
}

/// The file itself: notes its end, and bounds its lines if it is armored.
struct Watched {
    inner: Box<dyn Read>,
    ended: Rc<Cell<bool>>,
    /// The length so far of the line that is being read; `None` for a file without lines.
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

/// The file again from its beginning: its header, all at once, then the rest. The crate parses what it has of a header
/// anew with each line that it gets.
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

    /// The header. A second call finds the end: what comes after the header has no lines.
    fn read_until(&mut self, _: u8, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let count = self.header.len();
        buffer.append(&mut self.header);
        Ok(count)
    }
}

/// What the file holds. Errors of the file's content are told in our words.
struct Plain<R> {
    inner: R,
    ended: Rc<Cell<bool>>,
    /// What went wrong: nothing can be read any more.
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
