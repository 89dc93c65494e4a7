//! Recovery of an interrupted run: the reply of `recover.sh`.
//!
//! ```text
//! recover                -> left PATH              a file that is neither the run's old nor its new one
//! or recover forget         gave-up PATH           an entry in a missing directory (only with `forget`)
//!                           recovered HOW          back, finished or nothing
//!                           refused WHY            instead of `recovered`
//!                           .
//! ```

use super::error::NodeError;
use super::session::Session;

/// Maximum number of files of an interrupted run that are named: that of a manifest's secrets.
const MOST_LEFT: usize = 10_000;

/// What was done about an interrupted run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// It was rolled back; otherwise it was finished, and its new files stay.
    pub rolled_back: bool,
    /// Files that were neither old nor new, and were not changed.
    pub changed_by_others: Vec<String>,
    /// Abandoned entries, in missing directories.
    pub abandoned: Vec<String>,
}

/// Reads the answer to `recover`; `None` if there was nothing to do.
pub(super) fn recovery(session: &mut Session) -> Result<Option<Recovery>, NodeError> {
    let (mut changed_by_others, mut abandoned) = (Vec::new(), Vec::new());
    let line = loop {
        let line = session.line()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.split_once(' ') {
            Some(("left" | "gave-up", _)) if changed_by_others.len().saturating_add(abandoned.len()) >= MOST_LEFT => {
                return Err(NodeError::Garbled("the answer to `recover`"));
            }
            Some(("left", path)) => changed_by_others.push(session.values.word(path)),
            Some(("gave-up", path)) => abandoned.push(session.values.word(path)),
            _ => break line,
        }
    };
    match (session.line()?.as_slice(), line.as_str()) {
        (b".", "recovered nothing") => Ok(None),
        (b".", "recovered back") => Ok(Some(Recovery { rolled_back: true, changed_by_others, abandoned })),
        (b".", "recovered finished") => Ok(Some(Recovery { rolled_back: false, changed_by_others, abandoned })),
        (b".", "refused locked") => Err(NodeError::locked()),
        (b".", refused) if refused.starts_with("refused missing ") => {
            let directory = session.values.word(refused.trim_start_matches("refused missing "));
            Err(NodeError::refused(
                format!(
                    "an interrupted run cannot be taken back: {directory} is not there, or is another directory \
                     than then"
                ),
                "mount what was there and run it again; or give up the files in it, and finish the others: \
                 --forget-list",
            ))
        }
        (b".", refused) if refused.starts_with("refused stuck ") => {
            let path = session.values.word(refused.trim_start_matches("refused stuck "));
            Err(NodeError::refused(
                format!("an interrupted run cannot be taken back: {path} cannot be put back"),
                "look at the file system there; /var/lib/deaddrop/list says what the run was about",
            ))
        }
        _ => Err(NodeError::Garbled("the answer to `recover`")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_done_about_an_interrupted_run_is_told_with_its_names() {
        let recovery = |rolled_back, changed: &[&str], abandoned: &[&str]| {
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Some(Recovery { rolled_back, changed_by_others: names(changed), abandoned: names(abandoned) })
        };
        for (said, want) in [
            ("recovered nothing", Ok(None)),
            ("recovered finished", Ok(recovery(false, &[], &[]))),
            ("left /a b\ngave-up /c\nrecovered back", Ok(recovery(true, &["/a b"], &["/c"]))),
            ("refused locked", Err("another deaddrop is at work there")),
            (
                "refused missing /srv/x",
                Err("an interrupted run cannot be taken back: /srv/x is not there, or is another directory than then"),
            ),
            ("refused stuck /x", Err("an interrupted run cannot be taken back: /x cannot be put back")),
            ("gave-up", Err("it does not answer as deaddrop's program does")),
        ] {
            let mut session = Session::answering(format!("{said}\n.\n").as_bytes(), Duration::from_secs(60));
            session.limits().expect(1000, Duration::from_secs(60));
            match (super::recovery(&mut session), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{said}"),
                (Err(NodeError::Garbled(_)), Err(want)) => assert!(want.starts_with("it does not answer"), "{said}"),
                (Err(error), Err(want)) => assert_eq!(error.to_string(), want, "{said}"),
                (found, _) => panic!("{said}: {found:?}"),
            }
        }
    }
}
