//! The request for a change: its items, units and values, as `apply.sh` reads them.

use std::fmt::Write as _;

use deaddrop_core::secret::Secret;
use deaddrop_core::tree::{TreeChange, walk};

use super::value::{lines_of, value};
use super::{Action, NodeChange, NodeRun, Unit, passwords};
use crate::place::node::error::NodeError;
use crate::place::node::session::Session;
use crate::place::node::tree::NodeTree;
use crate::place::node::{keys, text};

/// Queues the whole request.
pub(super) fn send(session: &mut Session, tree: &NodeTree, run: &NodeRun<'_>) -> Result<(), NodeError> {
    // `apply` runs already if the session goes on.
    let call = if run.stays { "" } else { "apply\n" };
    let mut head = format!("{call}run {}\nmark {}\n", text::random::<8>()?, text::random::<8>()?);
    let changes = in_order(run.changes);
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
    head.push_str(&units(&run.units));
    for program in &run.programs {
        let _ = writeln!(head, "program {}", *text::base64(text::quoted(program).as_bytes()));
    }
    for (limit, program) in &run.checks {
        let _ = writeln!(head, "check {} {}", limit.as_secs(), *text::base64(text::quoted(program).as_bytes()));
    }
    head.push_str(&passwords::lines(run)?);
    if let Some(sshd) = &run.sshd {
        let _ = writeln!(head, "sshd {} {}", sshd.unit, u8::from(sshd.is_verified()));
    }
    let _ = writeln!(head, "settle {}", run.settle.as_secs());
    if run.keep {
        head.push_str("keep\n");
    }
    if run.forward {
        head.push_str("forward\n");
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
    for hash in passwords::values(run)? {
        session.queue(&hash);
    }
    let go = format!("go {}\n", session.nonce());
    session.queue(go.as_bytes());
    Ok(())
}

/// The new content; also for a change of mode or owner, if the file was read.
fn content<'a>(change: &'a TreeChange, tree: &'a NodeTree) -> Option<&'a Secret> {
    match change {
        TreeChange::WriteFile { content, .. } => Some(content),
        TreeChange::SetMetadata { path, .. } => tree.at(path)?.content.as_ref(),
        _ => None,
    }
}

/// Directories first, then files, grouped by directory.
pub(super) fn in_order(changes: &[NodeChange]) -> Vec<&NodeChange> {
    let mut all: Vec<&NodeChange> = changes.iter().collect();
    all.sort_by_key(|change| match change {
        NodeChange::Tree(TreeChange::MakeDirectory { .. }) => None,
        _ => Some(walk::parent(change.path())),
    });
    all
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
            // A new file, because the owner of the directory could replace the old one in the meantime. With the
            // content that was compared here, if it was read: the owner of the file could write to it, and reset its
            // time.
            let known = standing.ok_or(NodeError::Garbled("a file that is not there"))?;
            let mask = 0o777 & !mode;
            let (size, lines) = match content(change, tree) {
                Some(content) => (content.len().to_string(), lines_of(content)),
                None => (known.stat.size.to_string(), "=".to_owned()),
            };
            format!("r {mode:o} {mask:03o} {uid} {gid} {size} {lines} {state} {path}")
        }
        TreeChange::RemoveFile { .. } => format!("x 0 - 0 0 - 0 {state} {path}"),
        // The node rolls back its own runs.
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

/// Asks whether the units of a run exist, and whether its passwords can be set.
pub(in crate::place::node) fn unit_question(run: &NodeRun<'_>) -> Result<String, NodeError> {
    Ok(format!("check\n{}{}.\n", units(&run.units), passwords::lines(run)?))
}
