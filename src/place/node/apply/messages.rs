//! Messages about a change: its faults, and why it was refused. Words of the node are filtered.

use super::NodeRun;
use super::report::unit_name;
use crate::place::node::error::NodeError;
use crate::place::node::output::HiddenValues;

/// How the user can read the output that is not shown here: of a unit, or of a program.
pub(in crate::place::node) fn hidden_output_hint(unit: Option<&str>) -> String {
    match unit {
        Some(unit) => format!(": `journalctl -u {unit}` on the node shows it"),
        None => ": run it by hand on the node".to_owned(),
    }
}

/// The line above the output of a unit or a program. `fault` is the failure in the node's words.
pub(super) fn output_heading(fault: &str, unit: Option<&str>) -> String {
    let mut words = fault.split(' ');
    match (words.next(), unit) {
        (Some("check"), Some(unit)) => format!("last lines of the log of {unit}:"),
        (_, Some(_)) => "last lines of its log:".to_owned(),
        (Some("program" | "check" | "users" | "password" | "sshd-test"), None) => {
            "last lines of its output:".to_owned()
        }
        (Some("down"), None) => "last lines of the output of `health`:".to_owned(),
        (_, None) => "systemctl said:".to_owned(),
    }
}

/// States of a unit (systemctl(1), `ActiveState`), which are never filtered as values.
const STATES: [&str; 8] =
    ["active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance", "refreshing"];

/// The message about a failure.
pub(super) fn fault_text(run: &NodeRun<'_>, values: &HiddenValues, what: &str) -> Option<String> {
    let words: Vec<&str> = what.split(' ').collect();
    Some(match words.as_slice() {
        ["restart", unit] => format!("{} could not be restarted", unit_name(run, unit)?),
        ["try-restart", unit] => format!("{} could not be restarted", unit_name(run, unit)?),
        ["reload", unit] => format!("{} could not be reloaded", unit_name(run, unit)?),
        ["state", unit, "unknown", _] => format!("nothing is known of {} after the change", unit_name(run, unit)?),
        ["state", unit, active, sub] => {
            let unit = unit_name(run, unit)?;
            match (STATES.contains(active), sub == active || STATES.contains(sub)) {
                (true, true) => format!("{unit} is {active} after the change"),
                (true, false) => format!("{unit} is {active} ({}) after the change", values.word(sub)),
                (false, _) => format!("{unit} is {} after the change", values.word(active)),
            }
        }
        ["down", unit, active, _, number] => {
            let unit = unit_name(run, unit)?;
            let active = if STATES.contains(active) { (*active).to_owned() } else { values.word(active) };
            let (_, argv) = run.checks.get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
            format!("{unit} is {active} after the change, and `{}` of `health` does not succeed", shown_program(argv))
        }
        ["again", unit] => format!("{} ended after the change, and was started again", unit_name(run, unit)?),
        ["mark"] => "/var/lib/deaddrop/done, which says that the new files stay, cannot be written".to_owned(),
        ["program", number, "hung"] => {
            format!("`{}` of `run_after` did not end within 900 s", program(&run.programs, number)?)
        }
        ["program", number, status] => {
            let (program, status) = (program(&run.programs, number)?, status.parse::<u32>().ok()?);
            format!("`{program}` of `run_after` ended with status {status}")
        }
        ["check", number, how] => {
            let number: usize = number.parse().ok()?;
            let (limit, argv) = run.checks.get(number.checked_sub(1)?)?;
            let (name, seconds) = (shown_program(argv), limit.as_secs());
            match *how {
                "hung" => format!("`{name}` of `health` did not end within {seconds} s"),
                _ => format!("`{name}` of `health` did not succeed within {seconds} s"),
            }
        }
        ["sshd-test"] => "`sshd -t` does not accept its configuration with the new host key".to_owned(),
        ["sshd-reload"] => format!("{}.service could not be reloaded", run.sshd.as_ref()?.unit),
        ["not-served"] => "sshd does not serve the new host key".to_owned(),
        words => return super::passwords::fault_text(run, values, words),
    })
}

fn program(programs: &[Vec<String>], number: &str) -> Option<String> {
    let number: usize = number.parse().ok()?;
    programs.get(number.checked_sub(1)?).map(|argv| shown_program(argv))
}

/// A program's name; its arguments may contain values.
pub(super) fn shown_program(argv: &[String]) -> String {
    argv.first().and_then(|name| deaddrop_core::text::shown_text(name)).unwrap_or_default()
}

/// The error for a refused change.
pub(super) fn refused(why: &str, output: &[String], values: &HiddenValues) -> NodeError {
    let (word, rest) = why.split_once(' ').unwrap_or((why, ""));
    let path = values.word(rest);
    let because = if output.is_empty() { String::new() } else { format!(":\n{}", output.join("\n")) };
    match word {
        "locked" => NodeError::locked(),
        "unfinished" => NodeError::refused(
            "another run was interrupted there meanwhile",
            "run it again: that one is rolled back first",
        ),
        "changed" => NodeError::refused(
            format!("{path} changed while deaddrop was at work"),
            "is another program changing it? run it again when that one is done",
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
        "no-chpasswd" => NodeError::refused(
            "it has no chpasswd, which `apply_password` needs",
            "set users.mutableUsers = false, or services.userborn.enable = true; or leave `apply_password` out, and \
             `allow: { NX101: \"the reason\" }`",
        ),
        "no-user" => NodeError::refused(
            format!("its /etc/shadow has no line of {path}, whose password is to be set"),
            "has the system that declares the user been activated?",
        ),
        "list" => NodeError::refused(
            format!("its list of temporary files cannot be written to /var/lib/deaddrop{because}"),
            "is the file system full, or read-only?",
        ),
        "parent" => NodeError::refused(
            format!("{path} changed while deaddrop was at work, or cannot be entered{because}"),
            "is another program changing it?",
        ),
        "write" | "commit" | "label" => {
            NodeError::refused(format!("{path} cannot be written{because}"), "is the file system full, or read-only?")
        }
        "modes" => NodeError::refused(
            format!("a file that is made in {path} does not get the mode that it is made with{because}"),
            "a default ACL, and no `setfacl` on the node to leave it out? a file system without modes (vfat) cannot \
             hold secrets",
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
    use std::time::Duration;

    use deaddrop_core::secret::Secret;

    use super::super::{Action, Unit};
    use super::*;

    #[test]
    fn what_a_node_says_is_told_in_our_words_and_with_our_names_only() {
        let unit = |name: &str| Unit { name: name.into(), action: Action::Restart, watch: true };
        let run = NodeRun {
            units: vec![unit("k3s.service")],
            programs: vec![vec!["curl".into(), "secret".into()]],
            checks: vec![(Duration::from_secs(9), vec!["true".into()])],
            ..NodeRun::default()
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
            assert_eq!(fault_text(&run, &HiddenValues::default(), said).as_deref(), want, "{said}");
        }
        // A value in place of a state or a path.
        let values = HiddenValues::of_password(Some(&Secret::new(b"hunter2".to_vec())));
        let left_out = "(a line that holds a value is not shown)";
        for (said, want) in [
            ("state k3s.service hunter2 hunter2", format!("k3s.service is {left_out} after the change")),
            ("state k3s.service failed xhunter2", format!("k3s.service is failed ({left_out}) after the change")),
        ] {
            assert_eq!(fault_text(&run, &values, said), Some(want));
        }
        for said in ["changed /etc/hunter2", "unit a.service=hunter2", "unit hunter2=masked", "write /x hunter2"] {
            assert!(!refused(said, &[], &values).to_string().contains("hunter2"), "{said}");
        }
        let error = refused("unit a.service=not-found b.service=masked", &[], &HiddenValues::default());
        assert_eq!(error.to_string(), "there is no unit a.service, the unit b.service is masked");
    }
}
