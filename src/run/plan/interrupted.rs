//! Leftovers of an interrupted `rotate` on a disk that is written offline: the changes that finish it, and the messages
//! about it. For a path that is declared in this run, the declaration wins.

use std::collections::HashSet;

use deaddrop_core::tree::{TreeChange, walk};
use deaddrop_core::warning::Warning;

use super::{Change, Plan};
use crate::place::Interrupted;

impl Plan {
    /// The changes that finish an interrupted `rotate`.
    pub(crate) fn finishing(&self) -> Vec<TreeChange> {
        let Some(interrupted) = &self.interrupted else { return Vec::new() };
        // Each path once, even if the list repeats it.
        let mut seen = declared(&self.changes);
        let mut all = Vec::new();
        let mut directories = Vec::new();
        for leftover in &interrupted.leftovers {
            if let Some(change) = &leftover.restore
                && seen.insert(&leftover.path)
            {
                let to = if matches!(change, TreeChange::RemoveDirectory { .. }) { &mut directories } else { &mut all };
                to.push(change.clone());
            }
            let names = leftover.drop.iter().filter(|name| seen.insert(name.as_str()));
            all.extend(names.map(|name| TreeChange::RemoveFile { path: name.clone() }));
        }
        all.extend(interrupted.clear.iter().cloned());
        all.extend(directories);
        all.extend(interrupted.forget.iter().cloned());
        all
    }

    /// The message about a finished `rotate`; `None` if there was none.
    #[must_use]
    pub fn finished_message(&self) -> Option<String> {
        let interrupted = self.interrupted.as_ref()?;
        let declared = declared(&self.changes);
        let open = interrupted.leftovers.iter().filter(|leftover| !declared.contains(leftover.path.as_str()));
        let is_file = |change: &TreeChange| !matches!(change, TreeChange::RemoveDirectory { .. });
        let restored = open.filter(|leftover| leftover.restore.as_ref().is_some_and(is_file)).count();
        let what = match (interrupted.done, restored) {
            (true, _) => {
                "a rotate that was cut off was finished: its new files stay, the leftovers of the old ones are removed"
                    .to_owned()
            }
            (false, 0) => {
                "a rotate that was cut off was finished: nothing had to be rolled back except what is declared here"
                    .to_owned()
            }
            (false, 1) => "a rotate that was cut off was taken back: 1 file is as before it".to_owned(),
            (false, count) => format!("a rotate that was cut off was taken back: {count} files are as before it"),
        };
        Some(match interrupted.missing.len() {
            0 => what,
            1 => format!("{what}; 1 name was given up"),
            count => format!("{what}; {count} names were given up"),
        })
    }
}

/// The physical paths of all files of this run.
fn declared(changes: &[Change]) -> HashSet<&str> {
    changes.iter().map(|change| change.physical.as_str()).collect()
}

/// DD504: a `rotate` was interrupted; DD503: one of its files was changed by another program since.
pub(super) fn warnings(changes: &[Change], interrupted: Option<&Interrupted>) -> Vec<Warning> {
    let Some(interrupted) = interrupted else { return Vec::new() };
    let what = match interrupted.done {
        true => "its new files stay, and the leftovers of the old ones are removed",
        false => "its old files are restored, except those that are declared in this run",
    };
    let mut found = vec![Warning {
        code: "DD504",
        secret: None,
        message: format!("a rotate that was cut off has left its list in /var/lib/deaddrop: {what}"),
        hint: "inject finishes it in the same step; or the next rotate does, once the node runs".into(),
    }];
    let declared = declared(changes);
    let foreign = interrupted.leftovers.iter().filter(|left| left.foreign && !declared.contains(left.path.as_str()));
    found.extend(foreign.map(|leftover| Warning {
        code: "DD503",
        secret: None,
        message: format!(
            "{} is neither the old nor the new file of the rotate that was cut off: it is left unchanged",
            walk::shown(&leftover.path)
        ),
        hint: "somebody has written it since: compare it with what it should be".into(),
    }));
    // Without --forget-list there is no plan then.
    found.extend(interrupted.missing.iter().map(|missing| Warning {
        code: "DD503",
        secret: None,
        message: format!("{} was given up: {}", walk::shown(&missing.path), missing.what),
        hint: "old values may be left in `.deaddrop-…` beside it: look at it where it is".into(),
    }));
    found
}
