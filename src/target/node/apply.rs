//! What `apply.sh` and `units.sh` are told, and what they tell: the change itself.
//!
//! ```text
//! apply
//! run NUMBER                     names the temporary files of this run
//! KIND MODE MASK …               an item a change, as apply.sh describes them
//! unit ACTION WATCH NAME         program BASE64     check SECONDS BASE64     settle SECONDS     keep
//! .
//! VALUE …                        for each new file, in order: a line for printf, or lines of base64
//! go NONCE                       so that it is known that nothing is missing
//!                                -> refused WHY           nothing was changed
//!                                   step NAME
//!                                   acted UNIT
//!                                   bad WHAT, then `output`, base64 and `,`
//!                                   stuck PATH, still WHAT, again WHAT
//!                                   end done | kept | rolled-back | stuck
//!                                   .
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::NodeError;
use super::protocol;
use super::text;
use super::transport::Session;
use super::tree::NodeTree;
use crate::image::tree::TreeChange;
use crate::image::walk;
use crate::secret::Secret;

/// The length of a line of a value with its end, in bytes: one block of what `dd` reads on the node.
const VALUE_LINE: usize = 4096;
/// How long one step on the node may take; a unit may take 90 s to start by default, and some take longer.
const PATIENCE: Duration = Duration::from_secs(900);
/// The most steps that a node tells of, but for units.
const STEPS: usize = 8;
/// The most bytes that a node says about a change.
const LONGEST_REPORT: usize = 1 << 20;

/// What is done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Restarted, or started.
    Restart,
    /// Restarted if it runs.
    TryRestart,
    /// Reloaded if it runs.
    Reload,
}

/// A unit that uses what is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its whole name.
    pub name: String,
    /// What is done to it.
    pub action: Action,
    /// It is watched for [`Work::settle`].
    pub watch: bool,
}

/// Everything that happens to a node in one run.
#[derive(Default)]
pub struct Work<'a> {
    /// Files and directories.
    pub changes: &'a [TreeChange],
    /// Units, in their order.
    pub units: Vec<Unit>,
    /// Programs with their arguments that run after the units.
    pub programs: Vec<Vec<String>>,
    /// Programs that must succeed after that, and within which time.
    pub checks: Vec<(Duration, Vec<String>)>,
    /// How long units are watched.
    pub settle: Duration,
    /// The new files stay, whatever happens then.
    pub keep: bool,
}

/// How far the node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Files are written.
    Writing,
    /// Units and programs are told.
    Restarting,
    /// Units are watched, checks run.
    Settling,
    /// The old files come back.
    Restoring,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Units that were acted on, in order.
    pub acted: Vec<String>,
    /// What was not well.
    pub bad: Option<Bad>,
    /// What is not well after the old files came back.
    pub still: Vec<Bad>,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The new files are in place, and all is well.
    Done,
    /// The new files are in place, and something is not well.
    Kept,
    /// The old files are back.
    RolledBack,
    /// This file could not be put back.
    Stuck(String),
    /// Nothing was changed.
    Refused(NodeError),
    /// Nobody knows: the session was lost after the change could have begun.
    Unknown(NodeError),
}

/// Something that is not well after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// In a sentence's place: "k3s.service failed after the restart".
    pub what: String,
    /// The last lines of what it said.
    pub said: Vec<String>,
}

/// Sends a change and reads what comes of it.
pub(super) fn apply(session: &mut Session, tree: &NodeTree, work: &Work<'_>, on_phase: &dyn Fn(Phase)) -> Outcome {
    let mut outcome = Outcome { end: End::Done, acted: Vec::new(), bad: None, still: Vec::new() };
    session.hide(work.changes.iter().filter_map(content));
    if let Err(error) = send(session, tree, work) {
        outcome.end = End::Refused(error);
        return outcome;
    }
    let waits = work.checks.iter().fold(work.settle, |sum, (limit, _)| sum.saturating_add(*limit));
    // Each unit is acted on twice where the old files come back.
    let steps = work.units.len().saturating_mul(2).saturating_add(STEPS);
    session.expect_change(LONGEST_REPORT, PATIENCE.saturating_add(waits), steps);
    match report(session, work, &mut outcome, on_phase) {
        Ok(end) => outcome.end = end,
        // What was not shown to have begun may have begun: the last word that is missing could have said so.
        Err(error) => outcome.end = End::Unknown(error),
    }
    outcome
}

fn content(change: &TreeChange) -> Option<&Secret> {
    match change {
        TreeChange::WriteFile { content, .. } => Some(content),
        _ => None,
    }
}

fn send(session: &mut Session, tree: &NodeTree, work: &Work<'_>) -> Result<(), NodeError> {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random).map_err(|error| NodeError::Start {
        program: "randomness",
        source: std::io::Error::other(error.to_string()),
    })?;
    let mut head = format!("apply\nrun {:016x}\n", u64::from_ne_bytes(random));
    // OK throughout: writing to a String cannot fail.
    for change in work.changes {
        let _ = writeln!(head, "{}", item(tree, change)?);
    }
    head.push_str(&units(&work.units));
    for program in &work.programs {
        let _ = writeln!(head, "program {}", *text::base64(text::quoted(program).as_bytes()));
    }
    for (limit, program) in &work.checks {
        let _ = writeln!(head, "check {} {}", limit.as_secs(), *text::base64(text::quoted(program).as_bytes()));
    }
    let _ = writeln!(head, "settle {}", work.settle.as_secs());
    if work.keep {
        head.push_str("keep\n");
    }
    head.push_str(".\n");
    session.queue(head.as_bytes());
    for content in work.changes.iter().filter_map(content) {
        session.queue(&value(content));
    }
    let go = format!("go {}\n", session.nonce());
    session.queue(go.as_bytes());
    Ok(())
}

/// A longer value goes in base64, in bytes: the shell reads a line byte by byte, and an escape has four.
const LONGEST_FOR_PRINTF: usize = 256;

/// True for a short text: the shell's own printf writes it. (Not every printf can write a NUL byte.)
fn is_for_printf(content: &Secret) -> bool {
    content.len() <= LONGEST_FOR_PRINTF && !content.expose().contains(&0)
}

/// A value as the node's `value` reads it: a line for printf, every byte that is no letter and no digit as `\ooo`; or lines of
/// base64, the last one shorter than [`VALUE_LINE`].
fn value(content: &Secret) -> Zeroizing<Vec<u8>> {
    if is_for_printf(content) {
        let mut line = Zeroizing::new(Vec::with_capacity(content.len().saturating_mul(4).saturating_add(1)));
        for byte in content.expose() {
            if byte.is_ascii_alphanumeric() {
                line.push(*byte);
            } else {
                line.push(b'\\');
                line.extend([byte >> 6, byte >> 3 & 7, byte & 7].map(|digit| b'0' + digit));
            }
        }
        line.push(b'\n');
        return line;
    }
    let encoded = text::base64(content.expose());
    let encoded = encoded.as_bytes();
    let mut lines =
        Zeroizing::new(Vec::with_capacity(encoded.len().saturating_add(full_lines(content)).saturating_add(1)));
    let mut rest = encoded;
    while let Some((line, after)) = rest.split_at_checked(VALUE_LINE - 1) {
        lines.extend_from_slice(line);
        lines.push(b'\n');
        rest = after;
    }
    lines.extend_from_slice(rest);
    lines.push(b'\n');
    lines
}

fn full_lines(content: &Secret) -> usize {
    base64::encoded_len(content.len(), true).unwrap_or(0) / (VALUE_LINE - 1)
}

fn item(tree: &NodeTree, change: &TreeChange) -> Result<String, NodeError> {
    let path = change.path();
    if path.contains('\n') {
        return Err(NodeError::Garbled("a path with a line end"));
    }
    let standing = tree.at(path);
    let state = standing.map_or("-", |known| known.state.as_str());
    Ok(match change {
        TreeChange::MakeDirectory { mode, uid, gid, .. } => format!("d {mode:o} - {uid} {gid} - 0 - {path}"),
        TreeChange::WriteFile { content, mode, uid, gid, .. } => {
            let kind = if standing.is_some() { "r" } else { "c" };
            let mask = 0o777 & !mode;
            let size = content.len();
            let lines = if is_for_printf(content) { "p".to_owned() } else { full_lines(content).to_string() };
            format!("{kind} {mode:o} {mask:03o} {uid} {gid} {size} {lines} {state} {path}")
        }
        TreeChange::SetMetadata { mode, uid, gid, .. } => {
            let was = standing.ok_or(NodeError::Garbled("a file that is not there"))?.stat;
            let (narrow, old) = (was.mode & mode, format!("{:o}:{}:{}", was.mode, was.uid, was.gid));
            format!("m {mode:o} {narrow:o} {uid} {gid} {old} 0 {state} {path}")
        }
        TreeChange::RemoveFile { .. } => format!("x 0 - 0 0 - 0 {state} {path}"),
        // The node takes back by itself what a run of its own has begun.
        TreeChange::RemoveDirectory { .. } => return Err(NodeError::Garbled("a directory that is to go")),
    })
}

fn units(units: &[Unit]) -> String {
    units.iter().fold(String::new(), |mut text, unit| {
        let action = match unit.action {
            Action::Restart => "restart",
            Action::TryRestart => "try",
            Action::Reload => "reload",
        };
        let _ = writeln!(text, "unit {action} {} {}", u8::from(unit.watch), unit.name);
        text
    })
}

/// The question whether these units are there.
pub(super) fn unit_question(asked: &[Unit]) -> String {
    format!("check\n{}.\n", units(asked))
}

/// Reads the answer to [`unit_question`].
pub(super) fn fine(session: &mut Session) -> Result<(), NodeError> {
    let line = session.line()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    match line.split_once(' ') {
        _ if line == "fine" => {}
        Some(("refused", why)) => return Err(refused(why, &[])),
        _ => return Err(NodeError::Garbled("the answer about units")),
    }
    match session.line()?.as_slice() {
        b"." => Ok(()),
        _ => Err(NodeError::Garbled("the answer about units")),
    }
}

fn report(
    session: &mut Session,
    work: &Work<'_>,
    outcome: &mut Outcome,
    on_phase: &dyn Fn(Phase),
) -> Result<End, NodeError> {
    const GARBLED: NodeError = NodeError::Garbled("a line about the change");
    let mut end = None;
    let mut stuck = None;
    loop {
        let line = match session.line() {
            Ok(line) => line,
            // Without the last word that we send, nothing is changed.
            Err(error) if !session.all_is_sent() => return Ok(End::Refused(error)),
            Err(error) => return Err(error),
        };
        let line = String::from_utf8_lossy(&line).into_owned();
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        if matches!(word, "step" | "acted") {
            session.next_step();
        }
        match word {
            "." => return end.ok_or(GARBLED),
            "step" => on_phase(match rest {
                "writing" => Phase::Writing,
                "restarting" => Phase::Restarting,
                "settling" => Phase::Settling,
                "restoring" => Phase::Restoring,
                _ => return Err(GARBLED),
            }),
            // Once with the new files, once with the old ones.
            "acted" if outcome.acted.len() < work.units.len().saturating_mul(2) => {
                outcome.acted.push(unit_name(work, rest).ok_or(GARBLED)?);
            }
            "refused" => {
                let error = refused(rest, &session.said());
                end = Some(match stuck.take() {
                    Some(path) => End::Stuck(path),
                    None => End::Refused(error),
                });
            }
            "bad" => outcome.bad = Some(Bad { what: bad(work, rest).ok_or(GARBLED)?, said: Vec::new() }),
            "output" => {
                let said = output(session)?;
                if let Some(bad) = outcome.bad.as_mut() {
                    bad.said.extend(said);
                }
            }
            "still" | "again" => {
                let rest = rest.strip_prefix("program").map_or(rest.to_owned(), |number| format!("program{number} 1"));
                outcome.still.push(Bad { what: bad(work, &rest).ok_or(GARBLED)?, said: Vec::new() });
            }
            "stuck" => stuck = text::lines(rest).pop(),
            "end" => {
                end = Some(match rest {
                    "done" => End::Done,
                    "kept" => End::Kept,
                    "rolled-back" => End::RolledBack,
                    "stuck" => End::Stuck(stuck.take().unwrap_or_default()),
                    _ => return Err(GARBLED),
                });
            }
            _ => return Err(GARBLED),
        }
    }
}

/// Base64 up to the line `,`, as lines for people.
fn output(session: &mut Session) -> Result<Vec<String>, NodeError> {
    let mut encoded = Zeroizing::new(Vec::new());
    loop {
        let line = session.line()?;
        if line.as_slice() == b"," {
            let bytes = text::from_base64(&encoded).unwrap_or_default();
            let said = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
            return Ok(session.fit(text::lines(&said)));
        }
        encoded.extend_from_slice(&line);
    }
}

/// A unit of ours by its name: what the node says is not repeated unseen.
fn unit_name(work: &Work<'_>, name: &str) -> Option<String> {
    work.units.iter().find(|unit| unit.name == name).map(|unit| unit.name.clone())
}

/// What is not well, in words.
fn bad(work: &Work<'_>, what: &str) -> Option<String> {
    let words: Vec<&str> = what.split(' ').collect();
    Some(match words.as_slice() {
        ["restart", unit] => format!("{} could not be restarted", unit_name(work, unit)?),
        ["try-restart", unit] => format!("{} could not be restarted", unit_name(work, unit)?),
        ["reload", unit] => format!("{} could not be reloaded", unit_name(work, unit)?),
        ["state", unit, "unknown", _] => format!("nothing is known of {} after the change", unit_name(work, unit)?),
        ["state", unit, active, sub] => {
            let (unit, state) = (unit_name(work, unit)?, text::lines(active).pop()?);
            match text::lines(sub).pop().filter(|sub| *sub != state) {
                Some(sub) => format!("{unit} is {state} ({sub}) after the change"),
                None => format!("{unit} is {state} after the change"),
            }
        }
        ["again", unit] => format!("{} ended after the change, and was started again", unit_name(work, unit)?),
        ["program", number, status] => {
            let (program, status) = (program(&work.programs, number)?, status.parse::<u32>().ok()?);
            format!("`{program}` of `run_after` ended with status {status}")
        }
        ["check", number, how] => {
            let number: usize = number.parse().ok()?;
            let (limit, argv) = work.checks.get(number.checked_sub(1)?)?;
            let (name, seconds) = (shown_program(argv), limit.as_secs());
            match *how {
                "hung" => format!("`{name}` of `health` did not end within {seconds} s"),
                _ => format!("`{name}` of `health` did not succeed within {seconds} s"),
            }
        }
        _ => return None,
    })
}

fn program(programs: &[Vec<String>], number: &str) -> Option<String> {
    let number: usize = number.parse().ok()?;
    programs.get(number.checked_sub(1)?).map(|argv| shown_program(argv))
}

/// A program's name; its arguments are nobody's business.
fn shown_program(argv: &[String]) -> String {
    argv.first().and_then(|name| text::lines(name).pop()).unwrap_or_default()
}

/// Why nothing was changed.
fn refused(why: &str, said: &[String]) -> NodeError {
    let (word, rest) = why.split_once(' ').unwrap_or((why, ""));
    let path = walk::shown(rest);
    let because = if said.is_empty() { String::new() } else { format!(":\n{}", said.join("\n")) };
    match word {
        "locked" => protocol::locked(),
        "unfinished" => NodeError::refused(
            "another run was interrupted there meanwhile",
            "run it again: that one is taken back first",
        ),
        "changed" => NodeError::refused(
            format!("{path} changed while deaddrop was at work"),
            "does somebody else work there? run it again when they are done",
        ),
        "no-systemd" => NodeError::refused(
            "it has no systemd, and the manifest names units",
            "name what restarts a service there in `run_after`, or leave the units out",
        ),
        "units" => NodeError::refused("systemd does not answer there", "does `systemctl status` work on the node?"),
        "unit" => {
            let units: Vec<String> = rest
                .split(' ')
                .filter_map(|unit| {
                    let (name, state) = unit.split_once('=')?;
                    let (name, state) = (text::lines(name).pop()?, text::lines(state).pop()?);
                    Some(match state.as_str() {
                        "not-found" => format!("there is no unit {name}"),
                        _ => format!("the unit {name} is {state}"),
                    })
                })
                .collect();
            NodeError::refused(
                units.join(", "),
                "is the name right? `systemctl list-units` on the node shows what there is",
            )
        }
        "list" => NodeError::refused(
            format!("its list of temporary files cannot be written to /var/lib/deaddrop{because}"),
            "is the file system full, or read-only?",
        ),
        "parent" => NodeError::refused(
            format!("{path} changed while deaddrop was at work, or cannot be entered{because}"),
            "does somebody else work there?",
        ),
        "write" | "commit" | "label" => {
            NodeError::refused(format!("{path} cannot be written{because}"), "is the file system full, or read-only?")
        }
        "link" => NodeError::refused(
            format!("the old {path} cannot be kept under a second name{because}"),
            "the file system must know hard links, and the file must not be immutable",
        ),
        "differs" => NodeError::refused(
            format!("a new file does not have the mode, owner or size that it was given{because}"),
            "is the file system full? one without owners (vfat) cannot hold secrets",
        ),
        "cut" => NodeError::refused("not all of what was sent arrived", "run it again"),
        _ => NodeError::Garbled("why it did nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_lines_of_one_block_and_a_shorter_one() {
        for length in [1, 3071, 3072, 3073, 6142, 10_000] {
            let secret = Secret::new(vec![0; length]);
            let lines = value(&secret);
            let lines: Vec<&[u8]> = lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
            assert_eq!(lines.len(), full_lines(&secret) + 1, "{length}");
            let (last, full) = lines.split_last().unwrap();
            assert!(full.iter().all(|line| line.len() == VALUE_LINE - 1) && last.len() < VALUE_LINE - 1, "{length}");
            assert_eq!(text::from_base64(&lines.concat()).unwrap().as_slice(), secret.expose(), "{length}");
        }
    }

    #[test]
    fn a_short_text_is_one_line_that_the_printf_of_every_shell_makes_it_from() {
        let every: Vec<u8> = (1..=255).collect();
        for bytes in [b"".as_slice(), b"-n %s 100%\\n\n", b"\x011\x0777", &every] {
            let line = value(&Secret::new(bytes.to_vec()));
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            for shell in [&["sh"][..], &["bash", "--posix"], &["busybox", "sh"]] {
                let mut child = std::process::Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-c", "IFS= read -r line && printf \"$line\""])
                    .env("LC_ALL", "C")
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                std::io::Write::write_all(&mut child.stdin.take().unwrap(), &line).unwrap();
                assert_eq!(child.wait_with_output().unwrap().stdout, bytes, "{shell:?}");
            }
        }
        assert!(is_for_printf(&Secret::new(vec![1; LONGEST_FOR_PRINTF])));
        assert!(!is_for_printf(&Secret::new(vec![1; LONGEST_FOR_PRINTF + 1])));
        assert!(!is_for_printf(&Secret::new(b"a\0b".to_vec())));
    }

    #[test]
    fn what_a_node_says_is_told_in_our_words_and_with_our_names_only() {
        let unit = |name: &str| Unit { name: name.into(), action: Action::Restart, watch: true };
        let work = Work {
            units: vec![unit("k3s.service")],
            programs: vec![vec!["curl".into(), "secret".into()]],
            checks: vec![(Duration::from_secs(9), vec!["true".into()])],
            ..Work::default()
        };
        for (said, want) in [
            ("restart k3s.service", Some("k3s.service could not be restarted")),
            ("state k3s.service failed failed", Some("k3s.service is failed after the change")),
            (
                "state k3s.service activating auto-restart",
                Some("k3s.service is activating (auto-restart) after the change"),
            ),
            ("again k3s.service", Some("k3s.service ended after the change, and was started again")),
            ("program 1 7", Some("`curl` of `run_after` ended with status 7")),
            ("check 1 hung", Some("`true` of `health` did not end within 9 s")),
            ("program 2 7", None),
            ("program 0 7", None),
            ("restart other.service", None),
            ("nonsense", None),
        ] {
            assert_eq!(bad(&work, said).as_deref(), want, "{said}");
        }
        let error = refused("unit a.service=not-found b.service=masked", &[]);
        assert_eq!(error.to_string(), "there is no unit a.service, the unit b.service is masked");
    }
}
