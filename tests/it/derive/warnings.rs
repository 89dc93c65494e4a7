//! Characters that are probably not meant: warned about by the secret's name and the kind of character, and written as
//! they are.

use serde_json::json;

use super::Place;
use crate::kit::canary::Canary;
use crate::kit::skipped_without_root;

#[test]
fn what_is_odd_about_a_value_is_told_and_written_as_it_is() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    // Told are neither a value that is trimmed, nor files of lines, nor a second secret with the same value.
    let place = Place::new(
        "sources: { vault: { type: bitwarden, path: export.json } }\nsecrets:\n  \
         newline: { path: /etc/newline, from: vault:newline }\n  \
         windows: { path: /etc/windows, from: vault:windows }\n  \
         invisible: { path: /etc/invisible, from: vault:invisible }\n  \
         spaces: { path: /etc/spaces, from: vault:spaces }\n  \
         pem: { path: /etc/pem, from: vault:pem }\n  \
         file: { path: /etc/file, from: file:values/file }\n  \
         usual: { path: /etc/usual, from: vault:usual }\n  \
         template: { path: /etc/template, template: \"{{ secret('vault:newline') }}\" }\n  \
         template2: { path: /etc/template2, template: \"{{ secret('vault:line') }}{{ secret('vault:line') }}\" }\n  \
         trimmed: { path: /etc/trimmed, template: \"{{ secret('vault:trimmed') | trim }}\\n\" }\n  \
         known: { path: /root/known_hosts, from: vault:known }\n  \
         public: { path: /root/k.pub, from: vault:public }\n  \
         user: { path: /etc/ssh/authorized_keys.d/me, from: vault:user }\n  \
         env: { path: /etc/x, from: vault:env, format: dotenv }\n",
    );
    let canary = Canary::new("all values");
    let word = canary.text();
    let values = [
        ("newline", format!("{word}\n")),
        ("windows", format!("a\r\n{word}\r\n")),
        ("invisible", format!("{word}\u{200b}\u{202e}x\u{200b}")),
        ("spaces", format!(" {word}")),
        ("pem", format!("-----BEGIN X-----\n{word}\n-----END X-----\n")),
        ("usual", format!("pä {word} 🔑")),
        ("line", format!("{word} in a template\n")),
        ("trimmed", format!(" {word} \r\n")),
        ("known", format!("host {word}\n")),
        ("public", format!("ssh-ed25519 {word}\n")),
        ("user", format!("ssh-ed25519 {word} me\n")),
        ("env", format!("A={word}\n")),
    ];
    let items: Vec<_> = values
        .iter()
        .map(|(name, value)| json!({ "id": name, "type": 1, "name": name, "login": { "password": value } }))
        .collect();
    place.scratch.write_private("export.json", json!({ "encrypted": false, "items": items }).to_string());
    place.value("file", format!("{word}\n"));

    let want = [
        ("DD301", "newline", "the value of vault:newline is one line and ends with a newline"),
        ("DD302", "windows", "the value of vault:windows holds carriage returns (CR)"),
        ("DD303", "invisible", "U+200B zero width space, U+202E bidirectional control"),
        ("DD304", "spaces", "the value of vault:spaces begins or ends with a space or tab"),
        ("DD301", "template2", "the value of vault:line is one line and ends with a newline"),
    ];
    for command in [&["check", "--values", "--json"][..], &["plan", "root", "--json"], &["inject", "root", "--json"]] {
        let run = place.run(command).plant(&canary).run().expect_code(0);
        let json = run.json();
        let warnings = json["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), want.len(), "{command:?}: {warnings:?}");
        for (warning, (code, secret, message)) in warnings.iter().zip(want) {
            assert_eq!(
                (warning["code"].as_str(), warning["secret"].as_str()),
                (Some(code), Some(secret)),
                "{command:?}"
            );
            assert!(warning["message"].as_str().unwrap().contains(message), "{warning}");
        }
        run.expect_error("! DD303").expect_error("U+200B");
    }
    for (name, value) in values.iter().take(6) {
        assert!(place.read(&format!("/etc/{name}")) == *value, "{name} was changed");
    }
    assert!(place.read("/etc/trimmed") == format!("{word}\n"));
    // Without reading values there is nothing to tell.
    assert_eq!(place.run(&["check", "--json"]).run().expect_code(0).json()["warnings"], json!([]));
}
