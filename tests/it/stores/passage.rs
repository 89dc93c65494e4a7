//! passage: its layout, made by `age`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{inject, values};
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, skipped_without_root, tool};

/// An entry of the store `.passage/store`.
fn entry(scratch: &Scratch, name: &str, content: &str) {
    let path = scratch.join(format!(".passage/store/{name}.age"));
    fs::create_dir_all(path.parent().expect("a directory")).expect("making it");
    let recipient = tool(Command::new("age-keygen").arg("-y").arg(scratch.join(".passage/identities"))).stdout;
    let recipient = String::from_utf8(recipient).expect("text");
    let mut age = Command::new("age");
    age.args(["-r", recipient.trim(), "-o"]).arg(path).stdin(Stdio::piped());
    let mut child = age.spawn().expect("running age");
    child.stdin.take().expect("a pipe").write_all(content.as_bytes()).expect("writing to age");
    assert!(child.wait().expect("waiting for age").success());
}

#[test]
fn a_store_of_passage_is_read_with_its_own_identities_or_named_ones() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let scratch = Scratch::new();
    fs::create_dir(scratch.join(".passage")).expect("making a directory");
    tool(Command::new("age-keygen").arg("-o").arg(scratch.join(".passage/identities")));
    entry(&scratch, "web/site", "pw $x 'ü'\nlogin: me\n");
    entry(&scratch, "mail/site", "other");
    entry(&scratch, "top", "topmost\n");
    let wanted = ["s:web/site", "s:web/site#username", "s:mail/site", "s:top"];
    let want = ["pw $x 'ü'", "me", "other", "topmost"];
    let run = inject(&scratch, "{ s: { type: passage } }", &wanted).run();
    assert_eq!(values(&scratch, run, wanted.len()), want);
    fs::rename(scratch.join(".passage/identities"), scratch.join("ids")).expect("moving them");
    let store = scratch.join(".passage/store");
    let named = format!("{{ s: {{ type: passage, path: {}, identity: ids }} }}", store.display());
    let run = inject(&scratch, &named, &wanted).run();
    assert_eq!(values(&scratch, run, wanted.len()), want);
    let by_variable = inject(&scratch, "{ s: { type: passage } }", &wanted).env("PASSAGE_DIR", &store);
    let by_variable = by_variable.env("PASSAGE_IDENTITIES_FILE", scratch.join("ids")).run();
    assert_eq!(values(&scratch, by_variable, wanted.len()), want);

    let run = inject(&scratch, "{ s: { type: passage } }", &["s:top"]).run();
    run.expect_refusal("no identities", 1, &[".passage/identities: there is no such file"]);
    tool(Command::new("age-keygen").arg("-o").arg(scratch.join("other")));
    let other = named.replace("identity: ids", "identity: other");
    let run = inject(&scratch, &other, &["s:top"]).run();
    run.expect_refusal("other identities", 1, &["\"top\": no identity in ", "other opens it"]);
    fs::write(store.join("bad.age"), "planted").expect("a file");
    let run = inject(&scratch, &named, &["s:bad", "s:top"]).run();
    run.expect_refusal("no age file", 1, &["\"bad\": this is not an age file"]);
}

#[test]
fn a_store_of_gopass_with_age_is_read_with_gopass_s_own_identities_or_named_ones() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let scratch = Scratch::new();
    fs::create_dir(scratch.join(".passage")).expect("making a directory");
    tool(Command::new("age-keygen").arg("-o").arg(scratch.join(".passage/identities")));
    entry(&scratch, "web/site", "pw $x 'ü'\nlogin: me\n");
    entry(&scratch, "file", "\nContent-Transfer-Encoding: Base64\ncGxhbnRlZA==");
    let store = scratch.join("gp");
    fs::rename(scratch.join(".passage/store"), &store).expect("moving the store");
    fs::write(store.join(".age-recipients"), "age1…\n").expect("a file");
    let config = scratch.join(".config/gopass");
    fs::create_dir_all(config.join("age")).expect("making a directory");
    fs::rename(scratch.join(".passage/identities"), config.join("age/identities")).expect("moving them");
    fs::write(config.join("config"), format!("[mounts]\n\tpath = {}\n", store.display())).expect("a file");

    let wanted = ["s:web/site", "s:site#username", "s:file", "s:file#content"];
    let want = ["pw $x 'ü'", "me", "planted", "planted"];
    for source in ["{ s: { type: gopass } }", "{ s: { type: gopass, path: gp } }"] {
        let run = inject(&scratch, source, &wanted).run();
        assert_eq!(values(&scratch, run, wanted.len()), want, "{source}");
    }
    let listed = Deaddrop::new(&scratch).args(["sources", "list", "s"]).run().expect_code(0);
    assert_eq!(listed.stdout(), "file\nweb/site\n");
    fs::rename(config.join("age/identities"), scratch.join("ids")).expect("moving them");
    let named = "{ s: { type: gopass, path: gp, identity: ids } }";
    let run = inject(&scratch, named, &wanted).run();
    assert_eq!(values(&scratch, run, wanted.len()), want);

    // gopass encrypts its identities with a passphrase.
    let age = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports/age");
    fs::copy(age.join("identity.age"), config.join("age/identities")).expect("a copy");
    fs::copy(age.join("document.age"), store.join("document.age")).expect("a copy");
    scratch.write("pw", "correct horse ünïcödé");
    let locked = "{ s: { type: gopass, path: gp, password: { file: pw } } }";
    let run = inject(&scratch, locked, &["s:document"]).run();
    assert!(values(&scratch, run, 1)[0].starts_with("{\"token\": "));

    // Of another kind, or with the keys of the other back end.
    let run = inject(&scratch, "{ s: { type: pass, path: gp } }", &["s:file"]).run();
    run.expect_refusal("pass", 1, &["gp: its entries are encrypted by age", "hint: `type: passage` reads it"]);
    fs::create_dir(scratch.join("gpg")).expect("making a directory");
    fs::write(scratch.join("gpg/.gpg-id"), "x\n").expect("a file");
    fs::write(scratch.join("gpg/x.gpg"), "planted").expect("a file");
    let run = inject(&scratch, "{ s: { type: passage, path: gpg, identity: ids } }", &["s:x"]).run();
    run.expect_refusal("passage", 1, &["gpg: its entries are encrypted by gpg", "hint: `type: pass` reads it"]);
    let run = inject(&scratch, &named.replace("path: gp,", "path: gpg,"), &["s:x"]).run();
    run.expect_refusal("identity", 1, &["its entries are encrypted by gpg, and not by age", "remove `identity`"]);
}
