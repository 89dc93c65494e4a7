//! What `apply.sh` and `units.sh` are told, and what they tell: the change itself.
//!
//! ```text
//! apply
//! run NUMBER                     names the run's own directories
//! mark NUMBER                    by which it knows them
//! in INODE DIRECTORY             each directory that stands and in which a file changes
//! KIND MODE MASK …               an item a change, as apply.sh describes them: directories, then the files, those of one directory together
//! unit ACTION WATCH NAME         program BASE64     check SECONDS BASE64     settle SECONDS     keep
//! .
//! VALUE …                        for each new file, in order: a line for printf, or lines of base64
//! go NONCE                       so that it is known that nothing is missing
//!                                -> refused WHY           nothing was changed
//!                                   step NAME
//!                                   acted UNIT
//!                                   bad WHAT, then `output`, base64 and `,`
//!                                   left PATH            somebody has changed it meanwhile
//!                                   stays PATH           an empty directory of the run that cannot be removed
//!                                   stuck PATH, still WHAT, again WHAT
//!                                   end done | kept | uncleared DIRECTORY | rolled-back | stuck
//!                                   .
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{TreeChange, walk};
use zeroize::Zeroizing;

use super::error::NodeError;
use super::output::{RunFile, Values};
use super::transport::Session;
use super::tree::NodeTree;
use super::{keys, protocol, text};
use crate::derive::generate::Recipe;

/// The length of a line of a value with its end, in bytes: one block of what `dd` reads on the node.
const VALUE_LINE: usize = 4096;
/// How long one step on the node may take: a program of `run_after` is ended after 900 s (`program_limit` of units.sh).
const PATIENCE: Duration = Duration::from_secs(930);
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

/// One change of a node.
#[derive(Debug, Clone)]
pub enum NodeChange {
    /// A change of its files.
    Tree(TreeChange),
    /// A new file with a key in it that the node makes by itself.
    MakeKey {
        /// Absolute path.
        path: String,
        /// What is made.
        recipe: Recipe,
        /// Permission bits.
        mode: u32,
        /// Owning user.
        uid: u32,
        /// Owning group.
        gid: u32,
    },
}

impl NodeChange {
    /// The path that is changed.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Tree(change) => change.path(),
            Self::MakeKey { path, .. } => path,
        }
    }
}

/// Everything that happens to a node in one run.
#[derive(Default)]
pub struct Work<'a> {
    /// Files and directories.
    pub changes: &'a [NodeChange],
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
    /// All files of the run, also those that stay as they are: what programs say of them is not shown.
    pub files: Vec<RunFile>,
    /// A changed secret whose programs are not to be shown at all.
    pub conceals: Option<String>,
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
    /// Files that somebody has changed meanwhile, and that were left alone when the old ones came back.
    pub left: Vec<String>,
    /// Empty directories of the run that could not be removed.
    pub stays: Vec<String>,
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The new files are in place, and all is well.
    Done,
    /// The new files are in place, and something is not well.
    Kept,
    /// The new files are in place, and what is left of the run in this directory could not be removed.
    Uncleared(String),
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
    let mut outcome = Outcome {
        end: End::Done,
        acted: Vec::new(),
        bad: None,
        still: Vec::new(),
        left: Vec::new(),
        stays: Vec::new(),
    };
    session.values.add_run(tree, work);
    if let Err(error) = send(session, tree, work) {
        outcome.end = End::Refused(error);
        return outcome;
    }
    let waits = work.checks.iter().fold(work.settle, |sum, (limit, _)| sum.saturating_add(*limit));
    // Each unit is acted on twice, and each program run twice, where the old files come back.
    let steps = work.units.len().saturating_add(work.programs.len()).saturating_mul(2).saturating_add(STEPS);
    session.expect_change(LONGEST_REPORT, PATIENCE.saturating_add(waits), steps);
    match report(session, work, &mut outcome, on_phase) {
        Ok(end) => outcome.end = end,
        // What was not shown to have begun may have begun: the last word that is missing could have said so.
        Err(error) => outcome.end = End::Unknown(error),
    }
    outcome
}

fn send(session: &mut Session, tree: &NodeTree, work: &Work<'_>) -> Result<(), NodeError> {
    let mut head = format!("apply\nrun {}\nmark {}\n", text::random::<8>()?, text::random::<8>()?);
    let changes = in_order(work.changes);
    // OK throughout: writing to a String cannot fail.
    let mut before = None;
    for change in &changes {
        let directory = walk::parent(change.path());
        if before != Some(directory)
            && let Some(known) = tree.at(directory)
        {
            let _ = writeln!(head, "in {} {directory}", known.stat.inode);
        }
        before = Some(directory);
    }
    for change in &changes {
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
    for change in changes {
        match change {
            NodeChange::MakeKey { recipe, .. } => session.queue(keys::line(recipe)?.as_bytes()),
            NodeChange::Tree(change) => {
                if let Some(content) = content(change, tree) {
                    session.queue(&value(content));
                }
            }
        }
    }
    let go = format!("go {}\n", session.nonce());
    session.queue(go.as_bytes());
    Ok(())
}

/// What is written: also where mode or owner alone are changed, if the file was read.
fn content<'a>(change: &'a TreeChange, tree: &'a NodeTree) -> Option<&'a Secret> {
    match change {
        TreeChange::WriteFile { content, .. } => Some(content),
        TreeChange::SetMetadata { path, .. } => tree.at(path)?.content.as_ref(),
        _ => None,
    }
}

/// Directories first, then files, those of one directory together.
fn in_order(changes: &[NodeChange]) -> Vec<&NodeChange> {
    let mut all: Vec<&NodeChange> = changes.iter().collect();
    all.sort_by_key(|change| match change {
        NodeChange::Tree(TreeChange::MakeDirectory { .. }) => None,
        _ => Some(walk::parent(change.path())),
    });
    all
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

/// How `value` is to read it.
fn lines_of(content: &Secret) -> String {
    if is_for_printf(content) { "p".to_owned() } else { full_lines(content).to_string() }
}

fn full_lines(content: &Secret) -> usize {
    // OK to fall back: only a length near that of all memory has none.
    base64::encoded_len(content.len(), true).unwrap_or(0) / (VALUE_LINE - 1)
}

fn item(tree: &NodeTree, change: &NodeChange) -> Result<String, NodeError> {
    let path = change.path();
    if path.contains('\n') {
        return Err(NodeError::Garbled("a path with a line end"));
    }
    let standing = tree.at(path);
    let state = standing.map_or("-", |known| known.state.as_str());
    let change = match change {
        NodeChange::Tree(change) => change,
        NodeChange::MakeKey { mode, uid, gid, .. } => {
            let (kind, mask) = (if standing.is_some() { "r" } else { "c" }, 0o777 & !mode);
            return Ok(format!("{kind} {mode:o} {mask:03o} {uid} {gid} - g {state} {path}"));
        }
    };
    Ok(match change {
        TreeChange::MakeDirectory { mode, uid, gid, .. } => format!("d {mode:o} - {uid} {gid} - 0 - {path}"),
        TreeChange::WriteFile { content, mode, uid, gid, .. } => {
            let kind = if standing.is_some() { "r" } else { "c" };
            let mask = 0o777 & !mode;
            format!("{kind} {mode:o} {mask:03o} {uid} {gid} {} {} {state} {path}", content.len(), lines_of(content))
        }
        TreeChange::SetMetadata { mode, uid, gid, .. } => {
            // By a new file: whose directory it is could put something else in the place of the old one. With the content that was
            // compared here, where it was: whose file it is can write into it, and set back its time.
            let known = standing.ok_or(NodeError::Garbled("a file that is not there"))?;
            let mask = 0o777 & !mode;
            let (size, lines) = match content(change, tree) {
                Some(content) => (content.len().to_string(), lines_of(content)),
                None => (known.stat.size.to_string(), "=".to_owned()),
            };
            format!("r {mode:o} {mask:03o} {uid} {gid} {size} {lines} {state} {path}")
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
        Some(("refused", why)) => return Err(refused(why, &[], &session.values)),
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
    let mut elsewhere = String::new();
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
                let error = refused(rest, &session.said(), &session.values);
                end = Some(match stuck.take() {
                    Some(path) => End::Stuck(path),
                    None => End::Refused(error),
                });
            }
            "bad" => {
                elsewhere = where_it_is(work, rest);
                let what = bad(work, &session.values, rest).ok_or(GARBLED)?;
                outcome.bad = Some(Bad { what, said: Vec::new() });
            }
            "output" => {
                let said = output(session, &elsewhere)?;
                if let Some(bad) = outcome.bad.as_mut() {
                    bad.said.extend(said);
                }
            }
            "still" | "again" => {
                let rest = rest.strip_prefix("program").map_or(rest.to_owned(), |number| format!("program{number} 1"));
                outcome.still.push(Bad { what: bad(work, &session.values, &rest).ok_or(GARBLED)?, said: Vec::new() });
            }
            "left" => outcome.left.push(session.values.word(rest)),
            "stays" => outcome.stays.push(session.values.word(rest)),
            "stuck" => stuck = Some(session.values.word(rest)),
            "end" => {
                end = Some(match rest {
                    "done" => End::Done,
                    "kept" => End::Kept,
                    _ if rest.starts_with("uncleared ") => {
                        End::Uncleared(session.values.word(rest.trim_start_matches("uncleared ")))
                    }
                    "rolled-back" => End::RolledBack,
                    "stuck" => End::Stuck(stuck.take().ok_or(GARBLED)?),
                    _ => return Err(GARBLED),
                });
            }
            _ => return Err(GARBLED),
        }
    }
}

/// Base64 up to the line `,`, as lines for people.
fn output(session: &mut Session, elsewhere: &str) -> Result<Vec<String>, NodeError> {
    let mut encoded = Zeroizing::new(Vec::new());
    loop {
        let line = session.line()?;
        if line.as_slice() == b"," {
            // A line tells that nothing is known: what cannot be read is not nothing.
            return Ok(match text::from_base64(&encoded) {
                Some(said) => session.values.lines(&said, elsewhere),
                None => vec![format!("(what it said did not arrive as it was sent{elsewhere})")],
            });
        }
        encoded.extend_from_slice(&line);
    }
}

/// A unit of ours by its name: what the node says is not repeated unseen.
fn unit_name(work: &Work<'_>, name: &str) -> Option<String> {
    work.units.iter().find(|unit| unit.name == name).map(|unit| unit.name.clone())
}

/// How a person can read what is not shown here.
fn where_it_is(work: &Work<'_>, bad: &str) -> String {
    let mut words = bad.split(' ');
    match (words.next(), words.next().and_then(|name| unit_name(work, name))) {
        (Some("program" | "check"), _) => ": run it by hand on the node".to_owned(),
        (_, Some(unit)) => format!(": `journalctl -u {unit}` on the node shows it"),
        (_, None) => String::new(),
    }
}

/// States of a unit (systemctl(1), `ActiveState`): no value.
const STATES: [&str; 8] =
    ["active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance", "refreshing"];

/// What is not well, in words.
fn bad(work: &Work<'_>, values: &Values, what: &str) -> Option<String> {
    let words: Vec<&str> = what.split(' ').collect();
    Some(match words.as_slice() {
        ["restart", unit] => format!("{} could not be restarted", unit_name(work, unit)?),
        ["try-restart", unit] => format!("{} could not be restarted", unit_name(work, unit)?),
        ["reload", unit] => format!("{} could not be reloaded", unit_name(work, unit)?),
        ["state", unit, "unknown", _] => format!("nothing is known of {} after the change", unit_name(work, unit)?),
        ["state", unit, active, sub] => {
            let unit = unit_name(work, unit)?;
            match (STATES.contains(active), sub == active || STATES.contains(sub)) {
                (true, true) => format!("{unit} is {active} after the change"),
                (true, false) => format!("{unit} is {active} ({}) after the change", values.word(sub)),
                (false, _) => format!("{unit} is {} after the change", values.word(active)),
            }
        }
        ["again", unit] => format!("{} ended after the change, and was started again", unit_name(work, unit)?),
        ["mark"] => "/var/lib/deaddrop/done, which says that the new files stay, cannot be written".to_owned(),
        ["program", number, "hung"] => {
            format!("`{}` of `run_after` did not end within 900 s", program(&work.programs, number)?)
        }
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
    argv.first().and_then(|name| deaddrop_core::text::shown_text(name)).unwrap_or_default()
}

/// Why nothing was changed.
fn refused(why: &str, said: &[String], values: &Values) -> NodeError {
    let (word, rest) = why.split_once(' ').unwrap_or((why, ""));
    let path = values.word(rest);
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
                    let (name, state) = (values.word(name), values.word(state));
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
        "modes" => NodeError::refused(
            format!("a file that is made in {path} does not get the mode that it is made with{because}"),
            "a default ACL, and no `setfacl` on the node to leave it out? a file system without modes (vfat) cannot hold secrets",
        ),
        "sync" => NodeError::refused(
            format!("{path} cannot be brought to the disk{because}"),
            "look at the node's disk: `dmesg` says what is wrong with it",
        ),
        "link" => NodeError::refused(
            format!("the old {path} cannot be kept under a second name{because}"),
            "the file system must know hard links, and the file must be neither immutable nor a mount point",
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
            assert_eq!(bad(&work, &Values::default(), said).as_deref(), want, "{said}");
        }
        // A value in the place of one of these.
        let values = Values::of_password(Some(&Secret::new(b"hunter2".to_vec())));
        let left_out = "(a line that holds a value is not shown)";
        for (said, want) in [
            ("state k3s.service hunter2 hunter2", format!("k3s.service is {left_out} after the change")),
            ("state k3s.service failed xhunter2", format!("k3s.service is failed ({left_out}) after the change")),
        ] {
            assert_eq!(bad(&work, &values, said), Some(want));
        }
        for said in ["changed /etc/hunter2", "unit a.service=hunter2", "unit hunter2=masked", "write /x hunter2"] {
            assert!(!refused(said, &[], &values).to_string().contains("hunter2"), "{said}");
        }
        let error = refused("unit a.service=not-found b.service=masked", &[], &Values::default());
        assert_eq!(error.to_string(), "there is no unit a.service, the unit b.service is masked");
    }
}
