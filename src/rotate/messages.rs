//! Messages about the result of a host.

use deaddrop_core::warning::Warning;

use crate::manifest::{SecretKind, SecretSpec};
use crate::nixos;
use crate::place::node::{Fault, NodeError, NodeRun, Outcome};
use crate::run::message::Message;
use crate::run::plan::{self, Action, Plan};

/// No file was changed.
pub(super) fn unchanged(name: &str, error: &NodeError) -> Message {
    let what = if error.is_unreachable() { "could not be entered" } else { "nothing was changed" };
    Message::new(format!("{name}: {what}")).caused_by(error).hint(error.hint())
}

/// The result of the host is unknown.
pub(super) fn unknown(name: &str, error: &NodeError) -> Message {
    Message::new(format!("{name}: the session was lost, and it is not known whether the new files are in place"))
        .caused_by(error)
        .hint("the node goes on by itself if it can; run it again: it finds out, and does what is left")
}

/// Files that must not be written where they are declared.
pub(super) fn refused(name: &str, refused: &[plan::Refused]) -> Message {
    let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let message = Message::nothing_changed(name).cause(lines.join("\n"));
    // One hint per kind of refusal.
    let mut hints: Vec<&str> = refused.iter().map(|refused| refused.refusal.hint.as_str()).collect();
    hints.dedup();
    hints.into_iter().fold(message, Message::hint)
}

/// The old files were restored.
pub(super) fn rolled_back(name: &str, outcome: &Outcome) -> Message {
    let what = outcome.fault.as_ref().map_or("something failed", |fault| fault.what.as_str());
    let well = match (outcome.remaining_faults.is_empty(), outcome.acted.as_slice()) {
        (false, _) => String::new(),
        (true, []) => String::new(),
        (true, [unit]) => format!(", {unit} runs again"),
        (true, [first, rest @ ..]) => format!(", {first} and {} more run again", rest.len()),
    };
    let mut message = Message::new(format!("{name}: {what}: the old files are back{well}"));
    message = with_output(message, outcome.fault.as_ref());
    for fault in &outcome.remaining_faults {
        message = message.cause(format!("with the old files too: {}", fault.what));
    }
    message.hint(log_hint(name, outcome))
}

/// The new files stay although something failed.
pub(super) fn kept(name: &str, outcome: &Outcome) -> Message {
    let what = outcome.fault.as_ref().map_or("something failed", |fault| fault.what.as_str());
    let message = Message::new(format!("{name}: {what}: the new files stay, as --no-rollback says"));
    with_output(message, outcome.fault.as_ref()).hint(log_hint(name, outcome))
}

/// The new files are in place, and old values may remain.
pub(super) fn uncleared(name: &str, directory: &str) -> Message {
    let what = format!(
        "{name}: the new files are in place, but what is left of the run in {directory} could not be removed: it is \
         not where it was, or is read-only"
    );
    Message::new(what).hint(
        "old values may stand there in `.deaddrop-…`: the next run removes them once the directory is there again",
    )
}

/// A file could not be restored.
pub(super) fn stuck(name: &str, path: &str, outcome: &Outcome) -> Message {
    let message = Message::new(format!("{name}: stopped in the middle: the old {path} could not be restored"));
    let why = outcome.fault.as_ref().map_or(String::new(), |fault| fault.what.clone());
    let message = if why.is_empty() { message } else { message.cause(why) };
    with_output(message, outcome.fault.as_ref())
        .hint("check the file system there, then run it again: the next run restores the old files first")
}

pub(super) fn with_output(message: Message, fault: Option<&Fault>) -> Message {
    match fault {
        Some(fault) if !fault.output.is_empty() => message.cause(fault.output.join("\n")),
        _ => message,
    }
}

fn log_hint(name: &str, outcome: &Outcome) -> String {
    match outcome.acted.last() {
        Some(unit) => format!("journalctl -u {unit} on {name}"),
        None => String::new(),
    }
}

/// DD505: sshd was not told of its new host key.
pub(super) fn sshd_not_told(run: &NodeRun<'_>) -> Warning {
    let paths: Vec<&str> = run.host_keys.iter().map(|key| key.path.as_str()).collect();
    Warning {
        code: "DD505",
        secret: None,
        message: format!("{} is in place, and sshd serves the old host key until it is restarted", paths.join(", ")),
        hint: "the node has no systemd: restart sshd there by hand".into(),
    }
}

/// Warnings about secrets for which a new file is not enough on a running node.
pub(super) fn warnings(plan: &Plan, specs: &[&SecretSpec]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for change in plan.changes.iter().filter(|change| matches!(change.action, Action::Create | Action::Replace)) {
        let Some(spec) = specs.iter().find(|spec| spec.name == change.secret) else { continue };
        if is_k3s_token(spec) {
            warnings.push(nixos::k3s::token_changed(&change.path).warning(&change.secret));
        }
        let is_applied = plan.in_force.contains(&change.secret)
            || plan.passwords.iter().any(|password| password.secret == change.secret);
        if spec.is_hashed_password_file() && !is_applied {
            let user = spec.password_users().next();
            warnings.push(nixos::passwords::read_at_activation(&change.path, user).warning(&change.secret));
        }
    }
    warnings
}

/// True if the manifest says so, or if an option of k3s or rke2 reads the file.
fn is_k3s_token(spec: &SecretSpec) -> bool {
    spec.kind == Some(SecretKind::K3sToken) || spec.used_by.iter().any(|option| nixos::k3s::reads_token(option))
}
