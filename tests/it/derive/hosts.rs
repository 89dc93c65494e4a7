//! `{host}` in references, and `host` in templates.

use super::Place;
use crate::kit::canary::Canary;
use crate::kit::skipped_without_root;

const MANIFEST: &str = "sources:
  vault: { type: bitwarden, path: export.json }
secrets:
  short: { path: /etc/short, from: 'vault:k3s-{host}#{host}-field' }
  long: { path: /etc/long, from: { source: file, item: 'values/{host}' } }
  template: { path: /etc/template, template: \"{{ host }}={{ secret('file:values/{host}') }} {x}\\n\" }
hosts: { node1: , node2: { tags: [x] } }
";

fn place() -> Place {
    let place = Place::new(MANIFEST);
    let item = |host: &str| {
        serde_json::json!({ "id": host, "type": 2, "name": format!("k3s-{host}"),
            "fields": [{ "name": format!("{host}-field"), "value": format!("field of {host}"), "type": 1 }] })
    };
    let export = serde_json::json!({ "encrypted": false, "items": [item("node1"), item("node2")] });
    place.scratch.write("export.json", export.to_string());
    place.value("node1", "one").value("node2", "two");
    place
}

#[test]
fn the_hosts_name_is_put_into_items_fields_and_templates() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let place = place();
    for (host, value) in [("node1", "one"), ("node2", "two")] {
        let plan = place.run(&["plan", "root", "--host", host]).run().expect_code(0);
        plan.expect_output(&format!("from vault:k3s-{host}#{host}-field")).expect_output("template, from template");
        place.run(&["inject", "root", "--host", host]).run().expect_code(0);
        assert_eq!(place.read("/etc/short"), format!("field of {host}"));
        assert_eq!(place.read("/etc/long"), value);
        assert_eq!(place.read("/etc/template"), format!("{host}={value} {{x}}\n"));
        place.run(&["verify", "root", "--host", host]).run().expect_code(0);
    }
}

#[test]
fn without_a_host_such_a_secret_is_refused_and_others_are_not() {
    let place = place();
    for command in ["plan", "inject", "verify"] {
        let run = place.run(&[command, "root"]).run();
        let want = ["secret `short` differs from host to host", "hint: add `--host NAME`; hosts here: node1, node2"];
        run.expect_refusal(command, 2, &want);
        place.run(&[command, "root", "--only", "template"]).run().expect_refusal(
            command,
            2,
            &["secret `template` differs"],
        );
    }
    place.run(&["check"]).run().expect_code(0);
}

#[test]
fn check_reads_the_values_of_every_host() {
    let place = place();
    place.run(&["check", "--values"]).run().expect_code(0);
    std::fs::remove_file(place.scratch.join("values/node2")).unwrap();
    let run = place.run(&["check", "--values"]).run();
    run.expect_refusal("one is missing", 1, &["values/node2: there is no such file"]);
    place.run(&["check", "--values", "--host", "node1"]).run().expect_code(0);
}

#[test]
fn no_child_sees_the_variables_of_any_host() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let place = Place::new(
        "sources:\n  other: { type: exec, argv: [sh, -c, 'echo {}'] }\n  ci: { type: env, prefix: CI_ }\nsecrets:\n  \
         a: { path: /etc/a, from: 'ci:TOKEN_{host}_X' }\n  \
         b: { path: /etc/b, template: \"{{ secret('env:OTHER') }}\" }\n  \
         c: { path: /etc/c, from: other:x }\nhosts: { node1: , node2: }\n",
    );
    let (mine, theirs, other) = (Canary::new("mine"), Canary::new("theirs"), Canary::new("other"));
    let run = place.run(&["inject", "root", "--host", "node1"]).traced("%file");
    let run =
        run.env("CI_TOKEN_node1_X", mine.text()).env("CI_TOKEN_node2_X", theirs.text()).env("OTHER", other.text());
    // The program prints no such item: exit 1, after it ran.
    let run = run.plant(&mine).plant(&theirs).plant(&other).run().expect_code(1);
    assert!(!run.trace().children().is_empty(), "the program of `other` ran");
}
