//! What is said of findings, exit codes, and signals.

use serde_json::json;

use super::Root;

#[test]
fn findings_are_told_to_people_and_to_programs() {
    let root = Root::new();
    root.put("/etc/motd", 0o644, [b"welcome ", root.admin.bytes()].concat());
    root.put("/nix/store/p/share/config", 0o444, root.token.bytes());
    let run = root.deaddrop(&["scan", "root"]).run().expect_code(3);
    assert_eq!(
        run.stdout(),
        "root, a directory\n\n\
         \x20 ! /etc/motd                   admin   raw\n\
         \x20 ! /nix/store/p/share/config   token   raw\n\n\
         root: 2 findings in 2 files; 2 values searched for in 2 files (88 B)\n\
         hint: whoever can read such a file has the value: take it out of what writes the file, and change it\n"
    );
    assert!(run.stderr().is_empty(), "{}", run.stderr());
    let object = root.deaddrop(&["scan", "root", "--json"]).run().expect_code(3).json();
    let want = json!({
        "version": 1, "command": "scan", "target": "root", "changes": [],
        "findings": [
            { "secret": "admin", "path": "/etc/motd", "form": "raw" },
            { "secret": "token", "path": "/nix/store/p/share/config", "form": "raw" },
        ],
        "warnings": [], "summary": { "findings": 2, "skipped": 0 },
    });
    assert_eq!(object, want);
    assert_eq!(root.deaddrop(&["scan", "root", "-q"]).run().expect_code(3).stdout(), "");
}

#[test]
fn nothing_found_is_one_line_and_exit_0() {
    let root = Root::new();
    root.put("/etc/motd", 0o644, "welcome\n");
    let run = root.deaddrop(&["scan", "root"]).run().expect_code(0);
    let want = "root: no value in a file that others can read; 2 values searched for in 1 file (8 B)\n";
    assert_eq!((run.stdout(), run.stderr()), (want.to_owned(), String::new()));
    let object = root.deaddrop(&["scan", "root", "--json"]).run().expect_code(0).json();
    assert_eq!((&object["findings"], &object["summary"]), (&json!([]), &json!({ "findings": 0, "skipped": 0 })));
}

#[test]
fn a_name_that_holds_a_value_is_left_out_of_its_path() {
    let root = Root::new();
    root.put(&format!("/etc/{}/below/file", root.token.text()), 0o644, root.token.bytes());
    assert_eq!(root.findings(), ["token /etc/… raw"]);
    root.deaddrop(&["scan", "root", "-vv"]).run().expect_code(3).expect_output("/etc/…");
}

#[test]
fn a_node_is_refused_and_wrong_usage_is_told() {
    let root = Root::new();
    for (args, code, text) in [
        (&["scan", "@node1"][..], 2, "@node1: the files of a running node are not searched"),
        (&["scan"], 2, "TARGET"),
        (&["scan", "root", "--host", "node1"], 2, "unknown host `node1`"),
        (&["scan", "root", "--only", "tokn"], 2, "did you mean `token`?"),
        (&["scan", "root", "-m", "missing.yaml"], 2, "missing.yaml"),
        (&["scan", "missing.img"], 1, "missing.img"),
        (&["scan", "root", "--root-partition", "2"], 1, "--root-partition is for images"),
        (&["scan", "root", "--backend", "mount"], 1, "--backend mount is for images"),
    ] {
        root.deaddrop(args).run().expect_refusal(&format!("{args:?}"), code, &[text]);
    }
}

#[test]
fn a_signal_ends_it_at_once() {
    let root = Root::new();
    root.put("/etc/large", 0o644, vec![b'x'; 8 << 20]);
    let image = root.image("32M", "");
    for target in ["root", image.to_str().unwrap()] {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let run = root.deaddrop(&["scan", target]).tampered(&format!("pread64:signal={signal}:when=5")).run();
            assert_eq!(run.code(), Some(code), "{target}: {}", run.stderr());
            assert!(run.stdout().is_empty(), "{target}");
        }
    }
}
