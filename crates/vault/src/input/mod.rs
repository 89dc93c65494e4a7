//! The file of a source: a path, a pipe or standard input, decrypted first when it is a `.age`.

pub(crate) mod age;
pub(crate) mod archive;
pub(crate) mod child;
pub(crate) mod context;
pub(crate) mod kdf;
pub(crate) mod meter;
pub(crate) mod opened;
pub(crate) mod openpgp;
pub(crate) mod password;
pub(crate) mod read;
pub(crate) mod terminal;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use self::read::ReadError;
use super::OpenError;
use crate::FileSpec;
use crate::input::context::Context;
use crate::input::opened::Opened;

/// A source's file. Opened once.
pub(crate) struct Input<'m> {
    source: &'m str,
    spec: &'m FileSpec,
    context: &'m Context<'m>,
    path: PathBuf,
    /// It is an age file whatever its name is, and nothing inside has a password.
    is_age_source: bool,
}

impl<'m> Input<'m> {
    /// The file that `spec` of the source called `source` names; relative paths start at the manifest's directory.
    pub(crate) fn new(source: &'m str, spec: &'m FileSpec, context: &'m Context<'m>) -> Self {
        let path = match spec.is_standard_input() {
            true => PathBuf::from("standard input"),
            false => context.at(&spec.path),
        };
        Self { source, spec, context, path, is_age_source: false }
    }

    /// The file of an `age` source: what age has encrypted, whatever its name.
    pub(crate) fn age(source: &'m str, spec: &'m FileSpec, context: &'m Context<'m>) -> Self {
        Self { is_age_source: true, ..Self::new(source, spec, context) }
    }

    /// True for one made by [`Input::age`].
    pub(crate) fn is_age_source(&self) -> bool {
        self.is_age_source
    }

    fn is_age(&self) -> bool {
        self.is_age_source || self.spec.is_age()
    }

    /// What messages call it: its path, or "standard input".
    pub(crate) fn name(&self) -> &Path {
        &self.path
    }

    /// Opens it for reading from the beginning to the end: what an age file holds, where it is one.
    ///
    /// # Errors
    /// It cannot be opened, or not decrypted.
    pub(crate) fn open(&self) -> Result<Box<dyn Read>, OpenError> {
        let file: Box<dyn Read> = match self.spec.is_standard_input() {
            true => Box::new(io::stdin()),
            false => Box::new(read::open(&self.path).map_err(|problem| self.failed(problem))?),
        };
        if self.is_age() { age::decrypt(file, self) } else { Ok(file) }
    }

    /// Opens it as what it is: a file that can be read anywhere, or a stream.
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

    /// Reads all of it, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Input::open`]; and when it is longer.
    pub(crate) fn read(&self, limit: usize) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if !self.spec.is_standard_input() && !self.is_age() {
            return read::read(&self.path, limit).map_err(|problem| self.failed(problem));
        }
        read::to_end(self.open()?, 0, limit).map_err(|problem| self.failed(problem))
    }

    /// The password that opens what [`Input::open`] gives; `None` when the manifest names none.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) fn password(&self) -> Result<Option<Secret>, OpenError> {
        // Without an identity, the password of an age file has opened that.
        let inner = !self.is_age() || self.spec.identity.is_some();
        match self.spec.password.as_ref().filter(|_| inner) {
            Some(password) => self.context.password(self.source, password).map(Some),
            None => Ok(None),
        }
    }

    /// A refusal of this file: `what` holds no value.
    pub(crate) fn refused(&self, what: impl Into<String>, hint: impl Into<String>) -> OpenError {
        OpenError::refused(&self.path, what, hint)
    }

    /// What the manifest says of it.
    pub(crate) fn spec(&self) -> &FileSpec {
        self.spec
    }

    /// The run's surroundings.
    pub(crate) fn context(&self) -> &Context<'m> {
        self.context
    }

    /// The source's name in the manifest.
    pub(crate) fn source(&self) -> &str {
        self.source
    }

    /// What the system says of it, or a limit of its length.
    pub(crate) fn failed(&self, problem: ReadError) -> OpenError {
        OpenError::Read { path: self.path.clone(), problem }
    }
}
