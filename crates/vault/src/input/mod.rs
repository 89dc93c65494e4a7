//! Input of sources: files (also from a pipe or standard input, decrypted if they end in `.age`), archives, programs,
//! passwords, and the limits on all of them.

pub(crate) mod age;
pub(crate) mod archive;
pub(crate) mod child;
pub(crate) mod context;
mod exposed;
pub(crate) mod kdf;
pub(crate) mod meter;
pub(crate) mod opened;
pub(crate) mod openpgp;
pub(crate) mod password;
pub(crate) mod read;
pub(crate) mod terminal;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use self::kdf::Derivation;
use self::password::Password;
use self::read::ReadError;
use super::OpenError;
use crate::FileSpec;
use crate::input::context::Context;
use crate::input::opened::Opened;

/// The file of a source. Opened once.
pub(crate) struct Input<'m> {
    source: &'m str,
    spec: &'m FileSpec,
    context: &'m Context<'m>,
    path: PathBuf,
    /// The source is of kind `age`: the file is an age file whatever its name, and has no password inside.
    is_age_source: bool,
}

impl<'m> Input<'m> {
    /// The file of `spec`, for the source called `source`.
    pub(crate) fn new(source: &'m str, spec: &'m FileSpec, context: &'m Context<'m>) -> Self {
        let path = match spec.is_standard_input() {
            true => PathBuf::from("standard input"),
            false => context.at(&spec.path),
        };
        Self { source, spec, context, path, is_age_source: false }
    }

    /// The file of a source of kind `age`, which is encrypted whatever its name.
    pub(crate) fn age(source: &'m str, spec: &'m FileSpec, context: &'m Context<'m>) -> Self {
        Self { is_age_source: true, ..Self::new(source, spec, context) }
    }

    /// True if it was created by [`Input::age`].
    pub(crate) fn is_age_source(&self) -> bool {
        self.is_age_source
    }

    fn is_age(&self) -> bool {
        self.is_age_source || self.spec.is_age()
    }

    /// Reports if the file is open to others. Called by the reader of each format once it knows that the values in the
    /// file are not encrypted; an age file never is it.
    pub(crate) fn holds_clear_text(&self) {
        if !self.spec.is_standard_input() && !self.is_age() {
            exposed::findings(&self.path).into_iter().for_each(|finding| self.context.report(finding));
        }
    }

    /// The name for messages: the path, or "standard input".
    pub(crate) fn name(&self) -> &Path {
        &self.path
    }

    /// Opens the file for reading once from start to end, decrypted if it is an age file.
    ///
    /// # Errors
    /// It cannot be opened or decrypted.
    pub(crate) fn open(&self) -> Result<Box<dyn Read>, OpenError> {
        let file: Box<dyn Read> = match self.spec.is_standard_input() {
            true => Box::new(io::stdin()),
            false => Box::new(read::open(&self.path).map_err(|problem| self.failed(problem))?),
        };
        if self.is_age() { age::decrypt(file, self) } else { Ok(file) }
    }

    /// Opens the file as a seekable file if it is one, otherwise as a stream.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub(crate) fn opened(&self) -> Result<Opened, OpenError> {
        if !self.spec.is_standard_input() && !self.spec.is_age() {
            let file = read::open(&self.path).map_err(|problem| self.failed(problem))?;
            if file.metadata().is_ok_and(|data| data.is_file()) {
                return Ok(Opened::File(file));
            }
            return Ok(Opened::Stream(Box::new(file)));
        }
        self.open().map(Opened::Stream)
    }

    /// Reads the whole file, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Input::open`]; and if the file is longer.
    pub(crate) fn read(&self, limit: usize) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if !self.spec.is_standard_input() && !self.is_age() {
            return read::read(&self.path, limit).map_err(|problem| self.failed(problem));
        }
        read::to_end(self.open()?, 0, limit).map_err(|problem| self.failed(problem))
    }

    /// The password of the content that [`Input::open`] returns; `None` if the manifest has none.
    ///
    /// # Errors
    /// The password is not available, or is empty.
    pub(crate) fn password(&self) -> Result<Option<Password>, OpenError> {
        self.password_even_empty()?.map(Password::not_empty).transpose()
    }

    /// The same, for a format where an empty password is one.
    ///
    /// # Errors
    /// The password is not available.
    pub(crate) fn password_even_empty(&self) -> Result<Option<Password>, OpenError> {
        // Without an identity, the password belongs to the age file itself.
        let inner = !self.is_age() || self.spec.identity.is_some();
        match self.spec.password.as_ref().filter(|_| inner) {
            Some(password) => self.context.password(self.source, password, self.spec.kdf_limit).map(Some),
            None => Ok(None),
        }
    }

    /// How the key of the file is derived, from a password or without one.
    pub(crate) fn derivation(&self) -> Derivation {
        self.context.derivation(self.source, self.spec.kdf_limit)
    }

    /// The error for a file that cannot be used. Neither `what` nor `hint` holds a part of a value.
    pub(crate) fn refused(&self, what: impl Into<String>, hint: impl Into<String>) -> OpenError {
        OpenError::refused(&self.path, what, hint)
    }

    /// Its spec.
    pub(crate) fn spec(&self) -> &FileSpec {
        self.spec
    }

    /// The state that the sources of this run share.
    pub(crate) fn context(&self) -> &Context<'m> {
        self.context
    }

    /// The source's name in the manifest.
    pub(crate) fn source(&self) -> &str {
        self.source
    }

    /// The error for a failed read of this file.
    pub(crate) fn failed(&self, problem: ReadError) -> OpenError {
        OpenError::Read { path: self.path.clone(), problem }
    }
}
