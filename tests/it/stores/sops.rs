//! sops.

use std::fs;
use std::process::Command;

use super::{inject, values};
use crate::kit::canary::Canary;
use crate::kit::{Scratch, skipped_without_root, tool};

/// PATH with the directory of the real sops, which is no Debian package.
fn path() -> String {
    format!("{}:/usr/bin:/bin", std::env::var("PATH").unwrap_or_default())
}

/// A scratch directory with an age identity, and these files encrypted to it.
fn encrypted(files: &[(&str, &str)]) -> Scratch {
    let scratch = Scratch::new();
    tool(Command::new("age-keygen").arg("-o").arg(scratch.join("keys.txt")));
    let recipient = tool(Command::new("age-keygen").arg("-y").arg(scratch.join("keys.txt"))).stdout;
    let recipient = String::from_utf8(recipient).expect("text");
    for (name, content) in files {
        let file = scratch.write(name, content);
        tool(Command::new("sops").args(["--encrypt", "--in-place", "--age", recipient.trim()]).arg(file));
    }
    scratch
}

#[test]
fn what_the_real_sops_has_encrypted_is_read_in_every_format() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let scratch = encrypted(&[
        ("a.yaml", "db:\n  password: pw $x 'ü'\n  port: 5432\nlist: [one, two]\ntoken: |\n  a\n  b\n"),
        ("b.json", "{\"token\": \"from json\"}"),
        ("c.env", "TOKEN=from dotenv\n"),
    ]);
    let sources =
        "{ a: { type: sops, path: a.yaml }, b: { type: sops, path: b.json }, c: { type: sops, path: c.env } }";
    let wanted = ["a:db#password", "a:/db/port", "a:/list/1", "a:token", "b:token", "c:TOKEN"];
    let run = inject(&scratch, sources, &wanted).env("SOPS_AGE_KEY_FILE", scratch.join("keys.txt"));
    let run = run.env("PATH", path()).traced("openat").run();
    // One call for each file, whatever is wanted of it, and no shell.
    let calls = run.trace().children().into_iter().filter(|call| call.contains("\"--output-type\", \"json\"")).count();
    let found = run.trace().children().into_iter().filter(|call| call.contains(") = 0")).count();
    assert!(calls >= 3 && found == 3, "{calls} {found}");
    let want = ["pw $x 'ü'", "5432", "two", "a\nb\n", "from json", "from dotenv"];
    assert_eq!(values(&scratch, run, wanted.len()), want);
}

#[test]
fn a_binary_file_is_read_byte_for_byte_and_a_text_that_lost_bytes_is_refused() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let content = b"\x05\x02\0\xff\xfekeytab \xe4\r\n";
    let scratch = encrypted(&[]);
    let encrypt = |name: &str, kind: &str, content: &[u8]| {
        let recipient = tool(Command::new("age-keygen").arg("-y").arg(scratch.join("keys.txt"))).stdout;
        let recipient = String::from_utf8(recipient).expect("text");
        let mut sops = Command::new("sops");
        sops.args(["--encrypt", "--in-place", "--input-type", kind, "--output-type", kind, "--age", recipient.trim()]);
        tool(sops.arg(scratch.write(name, content)));
    };
    encrypt("a.keytab", "binary", content);
    encrypt("b.json", "binary", content);
    encrypt("c.secret", "json", b"{\"token\": \"from json\", \"data\": \"not all\"}");
    encrypt("d", "binary", "text with U+FFFD, \u{fffd}".as_bytes());
    let keys = scratch.join("keys.txt");
    let sources = "{ a: { type: sops, path: a.keytab }, b: { type: sops, path: b.json }, \
                   c: { type: sops, path: c.secret }, d: { type: sops, path: d } }";
    let wanted = ["c:token", "c:data", "d:data", "a:data"];
    let run = inject(&scratch, sources, &wanted).env("SOPS_AGE_KEY_FILE", &keys).env("PATH", path()).run();
    assert_eq!(values(&scratch, run, 3), ["from json", "not all", "text with U+FFFD, \u{fffd}"]);
    assert_eq!(fs::read(scratch.join("root/etc/s/s3")).expect("a secret"), content);
    // The name tells sops that it is JSON, where no such byte can be.
    let run = inject(&scratch, sources, &["b:data"]).env("SOPS_AGE_KEY_FILE", &keys).env("PATH", path()).run();
    run.expect_refusal("lost", 1, &["b: \"data\": it holds U+FFFD", "hint: encrypt it as a file of its own"]);
}

#[test]
fn what_sops_cannot_decrypt_and_a_missing_sops_are_told() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let value = Canary::new("encrypted");
    let scratch = encrypted(&[("a.yaml", &format!("token: {}\n", value.text()))]);
    let source = "{ s: { type: sops, path: a.yaml } }";
    let run = inject(&scratch, source, &["s:token"]).env("PATH", path()).plant(&value).run();
    let said = run.stderr();
    assert_eq!(run.code(), Some(1), "{said}");
    assert!(said.contains("s: sops ended with status 128") && said.contains("hint: sops says above why"), "{said}");
    let run = inject(&scratch, source, &["s:token"]).plant(&value).env("PATH", "/nowhere").run();
    run.expect_refusal("no sops", 1, &["s: sops there is no such program", "hint: install sops"]);
    let run = inject(&scratch, "{ s: { type: sops, path: none.yaml } }", &["s:token"]).env("PATH", path()).run();
    run.expect_refusal("no file", 1, &["none.yaml: there is no such file"]);
    let keys = scratch.join("keys.txt");
    let run =
        inject(&scratch, source, &["s:tokn"]).env("PATH", path()).env("SOPS_AGE_KEY_FILE", keys).plant(&value).run();
    run.expect_refusal("no item", 1, &["no item \"tokn\"", "did you mean `s:token`?"]);
    fs::remove_file(scratch.join("a.yaml")).expect("removing a file");
}
