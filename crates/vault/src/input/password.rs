//! Passwords that open sources: from a variable, a file, a program, or the terminal.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use super::child::Program;
use super::context::Context;
use super::kdf::Derivation;
use super::{read, terminal};
use crate::{OpenError, PasswordSpec};

/// Maximum length of a password, in bytes.
const LONGEST: usize = 1 << 20;

/// Time limit of a program that prints a password: long, because the user may have to touch a hardware key.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often a wrong password on the terminal is asked for again.
const MORE_TRIES: u8 = 2;

/// A password that opens a source, while it is tried.
pub(crate) struct Password {
    secret: Secret,
    /// How a key is derived from it.
    pub(crate) derivation: Derivation,
    /// The question on the terminal, and how often it may be asked again; `None` if the password is not typed.
    again: Option<(String, u8)>,
}

impl Password {
    /// The password for the source called `source`. It may be empty.
    pub(crate) fn new(secret: Secret, source: &str, spec: &PasswordSpec, derivation: Derivation) -> Self {
        let again = (*spec == PasswordSpec::Ask).then(|| (question(source), MORE_TRIES));
        Self { secret, derivation, again }
    }

    /// A password that was typed as the answer to `question`.
    pub(crate) fn typed(secret: Secret, question: String, derivation: Derivation) -> Self {
        Self { secret, derivation, again: Some((question, MORE_TRIES)) }
    }

    /// Its bytes.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The password, unless it is empty.
    ///
    /// # Errors
    /// It is empty.
    pub(crate) fn not_empty(self) -> Result<Self, OpenError> {
        if self.secret.is_empty() {
            let hint = "no vault that is worth the name has an empty password".to_owned();
            return Err(OpenError::Password { what: "its password is empty".to_owned(), hint });
        }
        Ok(self)
    }

    /// The password has opened something: what it does not open after this is not asked for again.
    pub(crate) fn was_right(&mut self) {
        self.again = None;
    }

    /// The password was wrong. True if the user has given another one, which is to be tried.
    pub(crate) fn was_wrong(&mut self) -> bool {
        while let Some((question, left)) = &mut self.again
            && let Some(fewer) = left.checked_sub(1)
        {
            *left = fewer;
            match terminal::ask(&format!("Wrong password. {question}")) {
                Ok(secret) if secret.is_empty() => {}
                Ok(secret) => {
                    self.secret = secret;
                    return true;
                }
                Err(_) => return false,
            }
        }
        false
    }
}

/// The question for the password of the source called `source`.
fn question(source: &str) -> String {
    format!("Password for {source}: ")
}

/// The password for the source called `source`. It may be empty.
///
/// # Errors
/// The password is not available.
pub(crate) fn get(source: &str, spec: &PasswordSpec, context: &Context<'_>) -> Result<Secret, OpenError> {
    let refused = |what: String, hint: String| Err(OpenError::Password { what, hint });
    let password = match spec {
        PasswordSpec::Env(name) => match std::env::var_os(name) {
            Some(value) => Secret::new(value.into_vec()),
            None => {
                let hint = format!("set it for this run only: `read -rs {name}; export {name}`");
                return refused(format!("its password: ${name} is not set"), hint);
            }
        },
        PasswordSpec::File(path) => {
            let path = context.at(path);
            let bytes = read::read(&path, LONGEST).map_err(|problem| OpenError::Read { path, problem })?;
            without_newline(bytes)
        }
        PasswordSpec::Exec(argv) => {
            let argv: Vec<&OsStr> = argv.iter().map(OsStr::new).collect();
            let program = Program { argv: &argv, variables: &[], input: &[], timeout: TIMEOUT, limit: LONGEST };
            let output = program.run(context.surroundings()).map_err(|error| OpenError::Password {
                what: format!("its password: {} {error}", program.name()),
                hint: "run the program by itself to see what it says".to_owned(),
            })?;
            without_newline(output)
        }
        PasswordSpec::Ask => match terminal::ask(&question(source)) {
            Ok(password) => password,
            Err(error) => {
                let hint = format!(
                    "run it in a terminal, or say in the manifest where the password comes from: \
                    sources.{source}.password: \
                     {{ env: NAME }}, {{ file: PATH }} or {{ exec: [PROGRAM, …] }}"
                );
                return refused(format!("its password: `password: ask` needs a terminal ({error})"), hint);
            }
        },
    };
    Ok(password)
}

/// `bytes` less one final newline.
fn without_newline(mut bytes: Zeroizing<Vec<u8>>) -> Secret {
    let length = match bytes.as_slice() {
        [text @ .., b'\r', b'\n'] | [text @ .., b'\n'] => text.len(),
        text => text.len(),
    };
    bytes.truncate(length);
    Secret::new(std::mem::take(&mut *bytes))
}
