//! Passwords that open sources: from a variable, a file, a program, or the terminal.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use super::child::Program;
use super::context::Context;
use super::{read, terminal};
use crate::{OpenError, PasswordSpec};

/// Maximum length of a password, in bytes.
const LONGEST: usize = 1 << 20;

/// Time limit of a program that prints a password: long, because the user may have to touch a hardware key.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The password for the source called `source`.
///
/// # Errors
/// The password is not available, or is empty.
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
        PasswordSpec::Ask => match terminal::ask(&format!("Password for {source}: ")) {
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
    if password.is_empty() {
        let hint = "no vault that is worth the name has an empty password".to_owned();
        return refused("its password is empty".to_owned(), hint);
    }
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
