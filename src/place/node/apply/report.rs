//! The node's report of a change.

use zeroize::Zeroizing;

use super::messages::{fault_text, hidden_output_hint, output_heading, refused};
use super::request::in_order;
use super::{ApplyStep, Fault, MadeKey, NodeChange, NodeRun, Outcome, OutcomeKind};
use crate::place::node::error::NodeError;
use crate::place::node::session::Session;
use crate::place::node::text;

/// Maximum length of the public part of a key with its comment, in bytes.
const LONGEST_PUBLIC: usize = 1 << 10;

/// Reads the reply to [`super::unit_question`].
pub(in crate::place::node) fn units_reply(session: &mut Session) -> Result<(), NodeError> {
    let line = session.line()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    match line.split_once(' ') {
        _ if line == "fine" => {}
        Some(("refused", why)) => return Err(refused(why, &[], &session.values)),
        _ => return Err(NodeError::Garbled("the answer about units")),
    }
    match session.line()?.as_slice() {
        b"." => Ok(()),
        _ => Err(NodeError::Garbled("the answer about units")),
    }
}

/// Reads the report into `outcome`; returns its kind.
pub(super) fn report(
    session: &mut Session,
    run: &NodeRun<'_>,
    outcome: &mut Outcome,
    on_step: &dyn Fn(ApplyStep),
    are_served: &dyn Fn(&[MadeKey]) -> bool,
) -> Result<OutcomeKind, NodeError> {
    const GARBLED: NodeError = NodeError::Garbled("a line about the change");
    let mut end = None;
    let mut stuck = None;
    let mut fault_word = String::new();
    let mut has_begun = false;
    loop {
        let line = match session.line() {
            Ok(line) => line,
            // Without the final `go` line nothing is changed.
            Err(error) if !has_begun && !session.all_is_sent() => return Ok(OutcomeKind::Refused(error)),
            Err(error) => return Err(error),
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if matches!(word, "step" | "acted") {
            session.limits().next_step();
        }
        match word {
            "." => return end.ok_or(GARBLED),
            "step" if rest == "serving" && !has_begun => {
                has_begun = true;
                on_step(ApplyStep::Restarting);
                let answer = if are_served(&outcome.made) { session.nonce().to_owned() } else { "not".to_owned() };
                session.queue(format!("served {answer}\n").as_bytes());
                session.limits().next_step();
            }
            "public" if outcome.made.len() < run.changes.len() => {
                outcome.made.push(made_key(run, rest).ok_or(GARBLED)?);
            }
            // The subshell of a session that goes on has ended before its time.
            "gone" => return Err(NodeError::Ended { output: session.error_lines() }),
            "step" => on_step(match rest {
                "writing" => ApplyStep::Writing,
                "restarting" => ApplyStep::Restarting,
                "settling" => ApplyStep::Settling,
                "restoring" => ApplyStep::Restoring,
                _ => return Err(GARBLED),
            }),
            // Once with the new files, once with the old ones.
            "acted" if outcome.acted.len() < run.units.len().saturating_add(1).saturating_mul(2) => {
                outcome.acted.push(unit_name(run, rest).ok_or(GARBLED)?);
            }
            "refused" => {
                let error = refused(rest, &session.error_lines(), &session.values);
                end = Some(match stuck.take() {
                    Some(path) => OutcomeKind::NotRestored(path),
                    None => OutcomeKind::Refused(error),
                });
            }
            "bad" => {
                fault_word = rest.to_owned();
                let what = fault_text(run, &session.values, rest).ok_or(GARBLED)?;
                outcome.fault = Some(Fault { what, output: Vec::new() });
            }
            "output" => {
                let unit = if rest.is_empty() { None } else { Some(unit_name(run, rest).ok_or(GARBLED)?) };
                let output = read_output(session, &hidden_output_hint(unit.as_deref()))?;
                if let Some(fault) = outcome.fault.as_mut().filter(|_| !output.is_empty()) {
                    fault.output.push(output_heading(&fault_word, unit.as_deref()));
                    fault.output.extend(output);
                }
            }
            "still" | "again" => {
                let rest = match rest.split_once(' ') {
                    None if rest == "sshd-reload" => rest.to_owned(),
                    None if rest == "users" => "users 1".to_owned(),
                    Some(("program", number)) => format!("program {number} 1"),
                    Some(("password", number)) => format!("password {number} differs"),
                    _ => rest.to_owned(),
                };
                outcome
                    .remaining_faults
                    .push(Fault { what: fault_text(run, &session.values, &rest).ok_or(GARBLED)?, output: Vec::new() });
            }
            "left" => outcome.changed_by_others.push(session.values.word(rest)),
            "stays" => outcome.unremoved_directories.push(session.values.word(rest)),
            "stuck" => stuck = Some(session.values.word(rest)),
            "end" => {
                end = Some(match rest {
                    "done" => OutcomeKind::Done,
                    "kept" => OutcomeKind::NewFilesKept,
                    _ if rest.starts_with("uncleared ") => {
                        OutcomeKind::LeftoversRemain(session.values.word(rest.trim_start_matches("uncleared ")))
                    }
                    "rolled-back" => OutcomeKind::RolledBack,
                    "stuck" => OutcomeKind::NotRestored(stuck.take().ok_or(GARBLED)?),
                    _ => return Err(GARBLED),
                });
            }
            _ => return Err(GARBLED),
        }
    }
}

/// Base64 up to the line `,`, decoded to lines for people.
pub(in crate::place::node) fn read_output(session: &mut Session, elsewhere: &str) -> Result<Vec<String>, NodeError> {
    let mut encoded = Zeroizing::new(Vec::new());
    loop {
        let line = session.line()?;
        if line.as_slice() == b"," {
            // A placeholder shows that output exists and could not be decoded.
            return Ok(match text::from_base64(&encoded) {
                Some(output) => session.values.lines(&output, elsewhere),
                None => vec![format!("(its output could not be decoded{elsewhere})")],
            });
        }
        encoded.extend_from_slice(&line);
    }
}

/// One of our units by its name: text of the node is not repeated unfiltered.
pub(super) fn unit_name(run: &NodeRun<'_>, name: &str) -> Option<String> {
    let sshd = run.sshd.as_ref().map(|sshd| format!("{}.service", sshd.unit)).filter(|sshd| sshd == name);
    if sshd.is_some() {
        return sshd;
    }
    run.units.iter().find(|unit| unit.name == name).map(|unit| unit.name.clone())
}

/// `ITEM TEXT`: the path of a key that was made, and its public part.
fn made_key(run: &NodeRun<'_>, line: &str) -> Option<MadeKey> {
    let (number, public) = line.split_once(' ')?;
    let number: usize = number.parse().ok()?;
    let changes = in_order(run.changes);
    match changes.get(number.checked_sub(1)?)? {
        NodeChange::MakeKey { path, .. } if public.len() <= LONGEST_PUBLIC => {
            Some(MadeKey { path: path.clone(), public: public.to_owned() })
        }
        _ => None,
    }
}
