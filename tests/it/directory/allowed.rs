//! `allow`: a warning is not shown, a refusal becomes a warning with the reason; for a secret, a host, or everywhere.

use super::Root;

impl Root {
    /// A manifest of one secret at `path`, with `allow` at the top, of node1, or of the secret.
    fn declare_allowed(&self, path: &str, top: &str, host: &str, secret: &str) {
        let entry = |allow: &str| if allow.is_empty() { String::new() } else { format!("allow: {{ {allow} }}") };
        let text = format!(
            "version: 1\n{}\nhosts: {{ node1: {{ {} }}, node2: }}\nsecrets:\n  a: {{ path: {path}, from: env:A, {} }}\n",
            entry(top),
            entry(host),
            entry(secret)
        );
        self.scratch.write("secrets.yaml", text);
    }

    fn planned(&self, host: &str) -> crate::kit::run::Finished {
        self.deaddrop(&["plan", "root", "--host", host]).run()
    }
}

#[test]
fn a_warning_that_is_allowed_is_not_shown_and_is_not_in_json() {
    let root = Root::new();
    root.write("etc/shadow", "root:!:1::::::\nadmin:x:1::::::\n");
    for (top, host, secret, on) in [
        ("", "", "", ["node1", "node2"].as_slice()),
        ("NX003: 'it is short'", "", "", &[]),
        ("", "NX003: 'it is short'", "", &["node2"]),
        ("", "", "NX003: 'it is short'", &[]),
        ("NX101: 'another code'", "DD301: 'another'", "DD303: 'another'", &["node1", "node2"]),
    ] {
        root.declare_allowed("/var/tmp/a", top, host, secret);
        for name in ["node1", "node2"] {
            let run = root.planned(name).expect_code(0);
            assert_eq!(run.stdout().contains("NX003"), on.contains(&name), "{top}/{host}/{secret}: {}", run.stdout());
            let run = root.deaddrop(&["inject", "root", "--host", name, "--json"]).run().expect_code(0);
            assert_eq!(run.stdout().contains("NX003"), on.contains(&name), "{top}/{host}/{secret}: {}", run.stdout());
        }
    }
}

#[test]
fn a_refusal_that_is_allowed_becomes_a_warning_with_the_reason() {
    let root = Root::new();
    for (path, code) in [("/tmp/a", "NX003"), ("/etc/hosts/x", "NX004"), ("/etc/machine-id", "NX005")] {
        // Of a host: only there.
        root.declare_allowed(path, "", &format!("{code}: 'because I say so'"), "");
        root.planned("node2").expect_refusal(path, 1, &[code, &format!("allow: {{ {code}: \"the reason\" }}")]);
    }
    for (path, code) in [("/tmp/a", "NX003"), ("/etc/machine-id", "NX005")] {
        let allow = format!("{code}: 'because I say so'");
        for (top, host, secret) in [(allow.as_str(), "", ""), ("", &allow, ""), ("", "", &allow)] {
            root.declare_allowed(path, top, host, secret);
            let run = root.deaddrop(&["inject", "root", "--host", "node1"]).run().expect_code(0);
            run.expect_error(&format!("! {code}")).expect_error("that is allowed: because I say so");
            assert_eq!(root.stat(&path[1..]), "0400 0:0");
            std::fs::remove_file(root.at(&path[1..])).unwrap();
        }
    }
    // A name of /etc/static that is not in /etc yet, as in an image that was never booted.
    std::fs::remove_file(root.at("etc/hosts")).unwrap();
    root.declare_allowed("/etc/hosts", "", "", "NX004: 'the etc entry goes soon'");
    let run = root.deaddrop(&["inject", "root", "--host", "node1"]).run().expect_code(0);
    run.expect_error("! NX004").expect_error("the etc entry goes soon");
}

#[test]
fn what_would_harm_cannot_be_allowed_and_a_code_must_be_known() {
    let root = Root::new();
    for code in ["NX001", "NX002", "NX009", "NX010", "NX012", "NX107", "NX999", "dd301"] {
        for (top, host, secret) in [(code, "", ""), ("", code, ""), ("", "", code)] {
            let allow = |code: &str| if code.is_empty() { String::new() } else { format!("{code}: reason") };
            root.declare_allowed("/etc/a", &allow(top), &allow(host), &allow(secret));
            root.planned("node1").expect_refusal(code, 2, &[code]);
            root.deaddrop(&["check"]).run().expect_refusal(code, 2, &[code]);
        }
    }
    root.declare_allowed("/etc/a", "DD301: ''", "DD301: ' '", "DD301: ");
    let run = root.deaddrop(&["check"]).run().expect_refusal("reasons", 2, &["3 errors"]);
    assert_eq!(run.stderr().matches("the reason is empty").count(), 2, "{}", run.stderr());
}
