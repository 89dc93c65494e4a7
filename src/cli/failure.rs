//! The errors of commands, as messages with an exit code.

use deaddrop_core::error::StorageError;

use crate::place::PlaceError;
use crate::run::message::{Exit, Failure, Message};
use crate::run::remedy;

/// The error of a change of a target.
#[must_use]
pub fn failed(target: &str, error: &PlaceError) -> Failure {
    if error.is_usage() {
        return Failure::usage(Message::new(error.to_string()).hint(remedy::place_hint(error)));
    }
    let (exit, message) = match error.is_half_done() {
        true => (Exit::HalfDone, Message::new(format!("{target}: stopped in the middle"))),
        false => (Exit::Refused, Message::nothing_changed(target)),
    };
    Failure { exit, messages: vec![message.caused_by(error).hint(remedy::place_hint(error))] }
}

/// The error of a command that changes nothing.
#[must_use]
pub fn error_message(error: &StorageError) -> Message {
    Message::from_error(error).hint(remedy::hint(error))
}

/// The error of a command that only reads `target`.
#[must_use]
pub fn place_message(target: &str, error: &PlaceError) -> Message {
    Message::new(format!("{target}: not searched")).caused_by(error).hint(remedy::place_hint(error))
}

/// The error of an operation before anything was written to `target`.
#[must_use]
pub fn nothing_changed(target: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::refused(vec![Message::nothing_changed(target).caused_by(error)])
}

/// A target that does not exist, and is the name of a host.
#[must_use]
pub fn not_a_file_but_a_host(name: &str) -> Failure {
    let hint = format!("did you mean @{name}? plan and verify take it, and `deaddrop rotate {name}` changes that node");
    Failure::refused(vec![Message::new(format!("{name}: there is no such image, device or directory")).hint(hint)])
}

/// A change of a node also restarts units, which only `rotate` does.
#[must_use]
pub fn only_rotate(target: &str) -> Failure {
    let message =
        format!("{target}: files of a running node are changed by `rotate`, which also tells the units that use them");
    Failure::usage(Message::new(message).hint(format!("deaddrop rotate {}", target.trim_start_matches('@'))))
}
