//! SSH private keys: checked also without `expect`, and written with the last newline without which ssh refuses them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use super::Place;
use crate::kit::{skipped_without_root, tool};

/// A new key, as ssh-keygen writes it.
fn key(place: &Place, name: &str, words: &[&str]) -> String {
    let path = place.scratch.join(name);
    tool(Command::new("ssh-keygen").args(["-q", "-C", "x"]).args(words).arg("-f").arg(&path));
    fs::read_to_string(path).expect("reading a key")
}

/// True if ssh-keygen reads this text as a private key.
fn ssh_reads(place: &Place, text: &str) -> bool {
    let path = place.scratch.join("as-written");
    fs::write(&path, text).expect("writing a key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("setting a mode");
    let run = Command::new("ssh-keygen").args(["-y", "-P", "", "-f"]).arg(path).output();
    run.expect("running ssh-keygen").status.success()
}

/// The codes and secrets of a run's warnings.
fn warnings(json: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let warnings = json["warnings"].as_array().expect("a list");
    let of_secrets = warnings.iter().filter(|warning| !warning["secret"].is_null());
    of_secrets.map(|warning| (text(&warning["code"]), text(&warning["secret"]))).collect()
}

#[test]
fn a_key_without_its_last_newline_is_written_with_it_and_verified() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    // Each is taken for a key for another reason; the last ones are none, or say what they want.
    let place = Place::new(
        "sources: { vault: { type: bitwarden, path: export.json } }\nsecrets:\n  \
         host: { path: /etc/ssh/ssh_host_ed25519_key, from: file:values/cut }\n  \
         user: { path: /root/.ssh/id_ed25519, from: file:values/cut }\n  \
         option: { path: /etc/k1, from: file:values/cut, used_by: services.openssh.hostKeys }\n  \
         field: { path: /etc/k2, from: 'vault:Key#private_key' }\n  \
         expected: { path: /etc/k3, from: file:values/cut, expect: ssh-private-key }\n  \
         rendered: { path: /root/.ssh/id_t, template: \"{{ secret('file:values/cut') }}\" }\n  \
         whole: { path: /root/.ssh/id_w, from: file:values/whole }\n  \
         ensured: { path: /root/.ssh/id_e, from: file:values/cut, newline: ensure }\n  \
         ensured2: { path: /etc/e2, from: file:values/whole, newline: ensure }\n  \
         other: { path: /etc/k4, from: file:values/cut }\n  \
         none: { path: /root/.ssh/id_n, from: file:values/cut, expect: none }\n  \
         public: { path: /root/.ssh/id_x.pub, from: file:values/public }\n  \
         tls: { path: /etc/tls, from: 'vault:TLS#private_key' }\n",
    );
    fs::create_dir_all(place.at("/root")).unwrap();
    let whole = key(&place, "key", &["-t", "ed25519", "-N", ""]);
    let cut = whole.trim_end();
    place.value("whole", &whole).value("cut", cut).value("public", "ssh-ed25519 AAAA x\n");
    let tls = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
    let item = |name: &str, key: &str| {
        json!({ "id": name, "type": 5, "name": name, "sshKey": {
            "privateKey": key, "publicKey": "x", "keyFingerprint": "x" } })
    };
    let export = json!({ "encrypted": false, "items": [item("Key", cut), item("TLS", tls)] });
    place.scratch.write("export.json", export.to_string());

    let added = ["host", "user", "option", "field", "expected", "rendered"];
    let want: Vec<(String, String)> = added.iter().map(|name| ("DD307".into(), (*name).into())).collect();
    for command in [&["check", "--values", "--json"][..], &["plan", "root", "--json"], &["inject", "root", "--json"]] {
        let run = place.run(command).run().expect_code(0);
        assert_eq!(warnings(&run.json()), want, "{command:?}");
    }
    for path in ["/etc/ssh/ssh_host_ed25519_key", "/root/.ssh/id_ed25519", "/etc/k1", "/etc/k2", "/etc/k3"] {
        assert!(place.read(path) == whole, "{path}");
    }
    for path in ["/root/.ssh/id_t", "/root/.ssh/id_w", "/root/.ssh/id_e", "/etc/e2"] {
        assert!(place.read(path) == whole, "{path}");
    }
    for path in ["/etc/k4", "/root/.ssh/id_n"] {
        assert!(place.read(path) == cut, "{path}");
    }
    assert_eq!(place.read("/etc/tls"), tls);
    place.run(&["verify", "root"]).run().expect_code(0);
    // Changed by one byte, the newline included.
    fs::write(place.at("/etc/k2"), cut).unwrap();
    place.run(&["verify", "root"]).run().expect_code(3);
}

#[test]
fn what_ssh_would_refuse_is_refused_unless_expect_none_says_so() {
    let place = Place::new("secrets: {}\n");
    let whole = key(&place, "key", &["-t", "ed25519", "-N", ""]);
    let (first, rest) = whole.split_once('\n').unwrap();
    let (body, last) = rest.trim_end().rsplit_once('\n').unwrap();
    let spaced = body.replace('\n', " ");
    for (name, text, reason) in [
        ("one line", format!("{first} {spaced} {last}"), "it is on one line"),
        ("one line and a newline", format!("{first}{}{last}\n", body.replace('\n', "")), "it is on one line"),
        ("escaped", whole.trim_end().replace('\n', "\\n"), "it is on one line"),
        ("windows", whole.replace('\n', "\r\n"), "CR LF"),
        ("a space before", format!(" {whole}"), "there are spaces or text around"),
        ("indented", whole.lines().map(|line| format!("  {line}\n")).collect(), "there are spaces or text around"),
        ("spaces after its lines", whole.replace('\n', "  \n"), "there are spaces or text around"),
        ("a space at its end", format!("{} ", whole.trim_end()), "there are spaces or text around"),
        ("text before", format!("my key\n{whole}"), "there are spaces or text around"),
        ("half of it", format!("{first}\n{body}\n"), "a block begins and never ends"),
        ("a password", "hunter2".to_owned(), "it has no line `-----BEGIN"),
        ("its public part", "ssh-ed25519 AAAA x\n".to_owned(), "it is a public key"),
    ] {
        assert!(!ssh_reads(&place, &text), "{name}: ssh reads it");
        place.value("a", &text);
        place.declare("secrets:\n  a: { path: /root/.ssh/id_a, from: file:values/a }\n");
        let wanted = ["a: the value is no SSH private key, as a file `.ssh/id_*` is", reason, "`expect: none`"];
        let run = place.run(&["check", "--values"]).run().expect_refusal(name, 1, &wanted);
        assert!(name != "one line" || run.stderr().contains("base64 -w0"), "{name}");
        place.declare("secrets:\n  a: { path: /root/.ssh/id_a, from: file:values/a, expect: none }\n");
        place.run(&["check", "--values"]).run().expect_code(0);
    }
    for (name, text) in [("as it is", whole.clone()), ("text after", format!("{whole}my key"))] {
        assert!(ssh_reads(&place, &text), "{name}: ssh refuses it");
        place.value("a", &text);
        place.declare("secrets:\n  a: { path: /root/.ssh/id_a, from: file:values/a, newline: false }\n");
        let run = place.run(&["check", "--values"]).run();
        match text.ends_with('\n') {
            true => drop(run.expect_code(0)),
            false => drop(run.expect_refusal(name, 1, &["the newline at its end is missing", "`newline: false`"])),
        }
    }
}

#[test]
fn a_passphrase_is_a_warning_unless_expect_is_written_out() {
    let place = Place::new("secrets:\n  a: { path: /root/.ssh/id_a, from: file:values/a }\n");
    for words in [&["-t", "ed25519"][..], &["-t", "rsa", "-b", "2048", "-m", "PEM"], &["-t", "ecdsa", "-m", "PKCS8"]] {
        let _ = fs::remove_file(place.scratch.join("key"));
        let text = key(&place, "key", &[&["-N", "passphrase"], words].concat());
        place.value("a", &text);
        let run = place.run(&["check", "--values", "--json"]).run().expect_code(0);
        assert_eq!(warnings(&run.json()), [("DD310".to_owned(), "a".to_owned())], "{words:?}");
        run.expect_error("ssh-keygen -p");
        place.value("a", text.trim_end());
        let run = place.run(&["check", "--values", "--json"]).run().expect_code(0);
        assert_eq!(warnings(&run.json()).len(), 2, "{words:?}: DD307 as well");
    }
}

#[test]
fn a_file_that_is_to_be_absent_made_or_empty_is_no_key_to_check() {
    let place = Place::new(
        "secrets:\n  a: { path: /root/.ssh/id_a, absent: true }\n  \
         b: { path: /etc/ssh/ssh_host_x_key, generate: ssh-host-ed25519 }\n  \
         c: { path: /root/.ssh/id_c, from: file:values/c, allow_empty: true }\n  \
         d: { path: /root/.ssh/id_d, from: file:values/d, encoding: base64 }\n  \
         e: { path: /root/.ssh/id_e, from: file:values/d, expect: { min_length: 3 }, encoding: base64 }\n",
    );
    key(&place, "key", &["-t", "ed25519", "-N", ""]);
    let encoded = tool(Command::new("base64").arg("-w0").arg(place.scratch.join("key"))).stdout;
    place.value("c", "").value("d", encoded);
    let run = place.run(&["check", "--values", "--json"]).run().expect_code(0);
    assert_eq!(warnings(&run.json()), []);
    // What is decoded is checked.
    place.value("d", "aHVudGVyMg==");
    place.run(&["check", "--values"]).run().expect_refusal(
        "decoded",
        1,
        &["d: the value is no SSH private key", "e: the value is no SSH private key"],
    );
}
