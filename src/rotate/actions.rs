//! The actions on a node after its files have changed: each unit and program once, in the manifest's order.

use std::time::Duration;

use deaddrop_core::near;
use deaddrop_core::shown::quoted;

use crate::manifest::SecretSpec;
use crate::place::node::{Action, NodeRun, Unit};

/// Adds to `run` what the changed secrets declare.
pub(super) fn collect(changed: &[&SecretSpec], run: &mut NodeRun<'_>) {
    let mut settle = Duration::ZERO;
    for spec in changed {
        let asks = &spec.on_change;
        if asks.hides_output {
            run.conceals.get_or_insert_with(|| spec.name.clone());
        }
        // With a health check there is no need to watch the units too.
        let watch = asks.health.is_none();
        let names =
            [(Action::Restart, &asks.restart), (Action::TryRestart, &asks.try_restart), (Action::Reload, &asks.reload)];
        for (action, names) in names {
            for name in names {
                add_unit(&mut run.units, Unit { name: name.clone(), action, watch });
                if watch {
                    settle = settle.max(asks.settle);
                }
            }
        }
        for program in &asks.run_after {
            if !run.programs.contains(program) {
                run.programs.push(program.clone());
            }
        }
        if let Some(health) = &asks.health {
            match run.checks.iter_mut().find(|(_, command)| *command == health.command) {
                Some((timeout, _)) => *timeout = (*timeout).max(health.timeout),
                None => run.checks.push((health.timeout, health.command.clone())),
            }
        }
    }
    run.settle = settle;
}

/// The actions of a run, before they are carried out: "would restart k3s.service and run `curl`"; empty for none. `first`
/// has what is done before the units.
pub(super) fn announced(first: Vec<String>, run: &NodeRun<'_>) -> String {
    let units = |action: Action| {
        let names = run.units.iter().filter(move |unit| unit.action == action).map(|unit| unit.name.as_str());
        near::list(names)
    };
    // A program's arguments may contain values.
    let programs = |argv: Vec<&Vec<String>>| {
        let names: Vec<String> = argv.iter().filter_map(|argv| Some(quoted(argv.first()?))).collect();
        near::list(names.iter().map(String::as_str))
    };
    let health = run.checks.iter().map(|(_, command)| command).collect();
    let parts = [
        ("restart ", units(Action::Restart), ""),
        ("restart ", units(Action::TryRestart), " if running"),
        ("reload ", units(Action::Reload), ""),
        ("run ", programs(run.programs.iter().collect()), ""),
        ("check health by ", programs(health), ""),
    ];
    let parts = parts.iter().filter(|(_, what, _)| !what.is_empty());
    let parts = parts.map(|(verb, what, when)| format!("{verb}{what}{when}"));
    let parts: Vec<String> = first.into_iter().chain(parts).collect();
    if parts.is_empty() { String::new() } else { format!("would {}", parts.join(", then ")) }
}

/// A unit that several secrets name is acted on once, with the strongest action.
fn add_unit(units: &mut Vec<Unit>, unit: Unit) {
    fn strength(action: Action) -> u8 {
        match action {
            Action::Restart => 2,
            Action::TryRestart => 1,
            Action::Reload => 0,
        }
    }
    match units.iter_mut().find(|other| other.name == unit.name) {
        None => units.push(unit),
        Some(other) => {
            other.watch |= unit.watch;
            if strength(unit.action) > strength(other.action) {
                other.action = unit.action;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::Manifest;

    #[test]
    fn each_unit_and_program_comes_once_in_the_manifests_order_and_by_the_strongest_wish() {
        let manifest = Manifest::parse(
            "version: 1
secrets:
  a: { path: /a, from: env:A, reload: [x, y], run_after: [[p, '1']], settle: 3 }
  b: { path: /b, from: env:A, try_restart: [y], restart: [x, z], run_after: [[p, '1'], [q]], settle: 9 }
  c: { path: /c, from: env:A, restart: [w, y], health: { command: [h], timeout: 4 }, settle: 100 }
  d: { path: /d, from: env:A, health: { command: [h], timeout: 8 }, output: hide }
",
            Path::new("m"),
        )
        .unwrap();
        let specs: Vec<&SecretSpec> = manifest.secrets.iter().collect();
        let mut run = NodeRun::default();
        collect(&specs, &mut run);
        let units: Vec<(&str, Action, bool)> =
            run.units.iter().map(|unit| (unit.name.as_str(), unit.action, unit.watch)).collect();
        assert_eq!(
            units,
            [
                ("x.service", Action::Restart, true),
                ("y.service", Action::Restart, true),
                ("z.service", Action::Restart, true),
                ("w.service", Action::Restart, false),
            ]
        );
        assert_eq!(run.programs, [vec!["p", "1"], vec!["q"]]);
        assert_eq!(run.checks, [(Duration::from_secs(8), vec!["h".to_owned()])]);
        assert_eq!(run.settle, Duration::from_secs(9));
        assert_eq!(run.conceals.as_deref(), Some("d"));
    }
}
