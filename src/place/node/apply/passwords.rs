//! Passwords of a change: what `passwords.sh` is told, and its failures.
//!
//! ```text
//! users BASE64                   the command that makes the users
//! password set|check USER
//! …
//! VALUE                          after the files' values: the hash of each, a line for printf
//!                                -> bad users STATUS | bad password NUMBER set|missing|differs
//!                                   again users          it fails after the rollback too
//!                                   still password NUMBER
//! ```

use std::fmt::Write as _;

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use super::value::{lines_of, value};
use super::{NodeRun, messages::shown_program};
use crate::place::node::error::NodeError;
use crate::place::node::output::HiddenValues;
use crate::place::node::text;

/// A user's password, which must be in force after the change.
#[derive(Debug, Clone)]
pub struct NodePassword {
    /// The user.
    pub user: String,
    /// True if chpasswd sets it; else a unit or a program of the run reads its file.
    pub sets: bool,
    /// The hash.
    pub hash: Secret,
    /// The field that stands in the shadow file.
    pub old: Option<Secret>,
}

/// The lines about passwords.
pub(super) fn lines(run: &NodeRun<'_>) -> Result<String, NodeError> {
    let mut lines = String::new();
    // OK throughout: writing to a String cannot fail.
    if let Some(command) = &run.users_program {
        let _ = writeln!(lines, "users {}", *text::base64(text::quoted(command).as_bytes()));
    }
    for password in &run.passwords {
        let user = &password.user;
        if user.is_empty() || user.contains([':', '\n', '\0']) || user.starts_with('-') {
            return Err(NodeError::refused(
                format!("`{}` is not the name of a user", deaddrop_core::shown::text(user)),
                "correct `used_by`",
            ));
        }
        let _ = writeln!(lines, "password {} {user}", if password.sets { "set" } else { "check" });
    }
    Ok(lines)
}

/// The hash of each.
pub(super) fn values(run: &NodeRun<'_>) -> Result<Vec<Zeroizing<Vec<u8>>>, NodeError> {
    let line = |password: &NodePassword| match lines_of(&password.hash).as_str() {
        "p" => Ok(value(&password.hash)),
        _ => Err(NodeError::Garbled("a hash that is too long")),
    };
    run.passwords.iter().map(line).collect()
}

/// The message about a failure.
pub(super) fn fault_text(run: &NodeRun<'_>, values: &HiddenValues, words: &[&str]) -> Option<String> {
    Some(match words {
        ["users", how] => {
            let program = shown_program(run.users_program.as_ref()?.get(2..)?);
            match *how {
                "hung" => format!("`{program}`, which makes the users, did not end within 900 s"),
                status => {
                    format!("`{program}`, which makes the users, ended with status {}", status.parse::<u32>().ok()?)
                }
            }
        }
        ["password", number, how] => {
            let number: usize = number.parse().ok()?;
            let password = run.passwords.get(number.checked_sub(1)?)?;
            let user = values.word(&password.user);
            match *how {
                "set" => format!("chpasswd did not set the password of {user}"),
                "missing" => format!("the password of {user} is not in force: /etc/shadow has no line of {user}"),
                "differs" => format!("the password of {user} is not in force: /etc/shadow has another hash"),
                _ => return None,
            }
        }
        _ => return None,
    })
}
