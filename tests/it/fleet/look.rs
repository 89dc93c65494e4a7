//! Runs that only look: `--dry-run`, `plan --all`, `verify --all`.

use super::nodes::Nodes;
use super::{Values, assert_empty, manifest, statuses};

fn words(object: &serde_json::Value) -> Vec<String> {
    statuses(object).into_iter().map(|(_, status)| status).collect()
}

#[test]
fn what_only_looks_writes_nothing_and_tells_what_differs() {
    let mut nodes = Nodes::start(3);
    manifest(&nodes, "", ", restart: [app.service], settle: 0", "");
    let values = Values::old();
    for (args, code) in [
        (&["rotate", "--all", "--dry-run"][..], 0),
        (&["plan", "--all"], 0),
        (&["plan", "--all", "--exit-code"], 3),
        (&["verify", "--all"], 3),
    ] {
        let run = values.deaddrop(&nodes, args).args(["--json"]).run().expect_code(code);
        let object = run.json();
        assert_eq!(object["command"], args[0]);
        assert_eq!(object["dry_run"] == true, args[0] == "rotate");
        let status = if args[0] == "rotate" { "done" } else { "differs" };
        assert_eq!(words(&object), [status; 3], "{args:?}");
        assert_eq!(object["hosts"][0]["changes"][9]["action"], "create");
    }
    // What would be done after the files is told by all of them, and of one node alone too.
    let name = Nodes::name(0);
    let node = format!("@{name}");
    for (args, code) in [
        (&["rotate", "--all", "--dry-run"][..], 0),
        (&["plan", "--all"], 0),
        (&["verify", "--all"], 3),
        (&["plan", &node], 0),
        (&["verify", &node], 3),
    ] {
        let run = values.deaddrop(&nodes, args).run().expect_code(code);
        let said = if args[0] == "rotate" { run.stderr() } else { run.stdout() };
        assert!(said.contains("would restart app.service"), "{args:?}: {said}");
    }
    for number in 0..3 {
        assert_empty(&nodes, number);
        let calls = nodes.read(number, "/var/calls").unwrap_or_default();
        let calls = String::from_utf8(calls).unwrap();
        assert!(calls.lines().all(|call| call.starts_with("show ")), "a unit was touched: {calls}");
        assert!(!nodes.path(number, "/var/lib/deaddrop").exists(), "a list was left");
    }
    values.deaddrop(&nodes, &["rotate", "--all"]).run().expect_code(0);
    let run = values.deaddrop(&nodes, &["verify", "--all"]).run().expect_code(0);
    assert!(run.stdout().contains("3 of 3 hosts as declared"), "{}", run.stdout());
    nodes.shell(1, "chmod 0644 /etc/secrets/s04");
    let run = values.deaddrop(&nodes, &["verify", "--all", "-v"]).run().expect_code(3);
    assert!(run.stdout().contains("2 of 3 hosts as declared, 1 not"), "{}", run.stdout());
    assert!(run.stdout().contains("mode 0644 → 0400"), "{}", run.stdout());
    // What is known to differ is said, also where another could not be looked at.
    nodes.stop(2);
    let run = values.deaddrop(&nodes, &["verify", "--all", "--json"]).run().expect_code(3);
    assert_eq!(words(&run.json()), ["unchanged", "differs", "unreachable"]);
    nodes.shell(1, "chmod 0400 /etc/secrets/s04");
    values.deaddrop(&nodes, &["verify", "--all"]).run().expect_code(1);
    values.deaddrop(&nodes, &["rotate", "--all", "--dry-run"]).run().expect_code(1);
}
