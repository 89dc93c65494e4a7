//! pass and gopass.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{inject, values};
use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, fed, skipped_without_root};

/// A scratch directory with a GnuPG home and a key in it. Its agent ends with it.
struct Keys {
    scratch: Scratch,
}

impl Keys {
    /// With a key that has this passphrase.
    fn new(passphrase: &str) -> Self {
        let keys = Self { scratch: Scratch::new() };
        fs::create_dir(keys.home()).expect("making a directory");
        fs::set_permissions(keys.home(), fs::Permissions::from_mode(0o700)).expect("closing it to others");
        // Nobody is there to be asked.
        fs::write(keys.home().join("gpg-agent.conf"), "pinentry-program /bin/false\n").expect("configuring the agent");
        keys.run(
            "gpg",
            &[
                "--batch",
                "--quiet",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                passphrase,
                "--quick-generate-key",
                "t@example.org",
                "default",
                "default",
                "never",
            ],
            b"",
        );
        keys
    }

    fn home(&self) -> PathBuf {
        self.scratch.join("gnupg")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("GNUPGHOME", self.home()).env("HOME", self.scratch.path()).env("PATH", "/usr/bin:/bin");
        command.env("PASSWORD_STORE_DIR", self.scratch.join("store")).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs a program that must succeed.
    fn run(&self, program: &str, args: &[&str], input: &[u8]) {
        fed(self.command(program).args(args), input);
    }

    /// Makes an entry of a store by `gpg` itself.
    fn entry(&self, path: &str, content: &[u8]) {
        let path = self.scratch.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("making it");
        let path = path.to_str().expect("text");
        self.run(
            "gpg",
            &["--batch", "--quiet", "--trust-model", "always", "-r", "t@example.org", "-o", path, "-e"],
            content,
        );
    }

    /// A run of deaddrop with these keys.
    fn with<'s>(&self, run: Deaddrop<'s>) -> Deaddrop<'s> {
        run.env("GNUPGHOME", self.home())
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        for arguments in [&["--kill", "all"][..], &["--remove-socketdir"]] {
            let _ = self.command("gpgconf").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

#[test]
fn what_pass_has_stored_is_read_by_name_and_field() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let keys = Keys::new("");
    let scratch = &keys.scratch;
    keys.run("pass", &["init", "t@example.org"], b"");
    let long = format!("{}\n", "planted".repeat(150_000));
    for (name, content) in [
        ("web/site", "pw $x 'ü'\nlogin: me\npin: 12: 34\nhttps://x/\notpauth://totp/x?secret=Y\n"),
        ("mail/site", "other\n"),
        ("top", "topmost\n"),
        ("web/top", "not topmost\n"),
        ("a/b/c", "deep"),
        ("empty", "\nnotes only\n"),
        ("long", &long),
        ("key", "-----BEGIN KEY-----\nYWJj\n-----END KEY-----\n"),
        ("yaml", "pw\n---\nquoted: \"a: b\"\nblock: |\n  one\n  two\n"),
    ] {
        keys.run("pass", &["insert", "-m", name], content.as_bytes());
    }
    let wanted = [
        ("s:web/site", "pw $x 'ü'"),
        ("s:web/site#username", "me"),
        ("s:web/site#login", "me"),
        ("s:web/site#pin", "12: 34"),
        ("s:web/site#totp", "otpauth://totp/x?secret=Y"),
        ("s:mail/site", "other"),
        ("s:mail/site#notes", ""),
        ("s:top", "topmost"),
        ("s:web/top", "not topmost"),
        ("s:c", "deep"),
        ("s:a/b/c", "deep"),
        ("s:empty", ""),
        ("s:empty#notes", "notes only\n"),
        ("s:long", long.trim_end()),
        ("s:key#content", "-----BEGIN KEY-----\nYWJj\n-----END KEY-----\n"),
        ("s:yaml#quoted", "a: b"),
        ("s:yaml#block", "one\ntwo\n"),
    ];
    let (items, want): (Vec<&str>, Vec<&str>) = wanted.into_iter().unzip();
    let own = keys.with(inject(scratch, "{ s: { type: pass, path: store } }", &items)).run();
    assert!(values(scratch, own, items.len()) == want);
    // The default store, and its variable.
    let by_variable = keys.with(inject(scratch, "{ s: { type: pass } }", &["s:top"]));
    let by_variable = by_variable.env("PASSWORD_STORE_DIR", scratch.join("store")).run();
    assert_eq!(values(scratch, by_variable, 1), ["topmost"]);
    fs::rename(scratch.join("store"), scratch.join(".password-store")).expect("moving the store");
    let by_default = keys.with(inject(scratch, "{ s: { type: pass } }", &["s:top"])).run();
    assert_eq!(values(scratch, by_default, 1), ["topmost"]);

    let listed = Deaddrop::new(scratch).args(["sources", "list", "s"]).traced("openat").run().expect_code(0);
    assert!(listed.trace().children().is_empty(), "listing decrypts nothing");
    let want = "empty\nkey\nlong\ntop\nyaml\na/b/c\nmail/site\nweb/site\nweb/top\n";
    assert_eq!(listed.stdout(), want);
}

#[test]
fn what_pass_does_not_have_is_told() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let keys = Keys::new("");
    let scratch = &keys.scratch;
    let value = Canary::new("stored");
    keys.run("pass", &["init", "t@example.org"], b"");
    let old = Canary::new("an old password");
    let free = format!("{}\nold ones\n{}: until May\nhost: nas\n", value.text(), old.text());
    keys.run("pass", &["insert", "-m", "free"], free.as_bytes());
    for name in ["web/site", "mail/site", "other"] {
        keys.run("pass", &["insert", "-m", name], format!("{}\nkey: {}\n", value.text(), value.text()).as_bytes());
    }
    let store = scratch.join("store");
    keys.entry("outside.gpg", value.bytes());
    symlink("../outside.gpg", store.join("link.gpg")).expect("a link");
    symlink("..", store.join("up")).expect("a link");
    fs::write(store.join("damaged.gpg"), value.bytes()).expect("a file");
    fs::write(store.join("nothing.gpg"), "").expect("a file");
    let site: &[&str] = &["two items are called \"site\"", "mail/site", "web/site"];
    for (wanted, texts) in [
        ("s:site", site),
        ("s:web/sit", &["no item \"web/sit\"", "did you mean `s:web/site`"]),
        ("s:web/site#pin", &["item \"web/site\" has no field \"pin\"; it has: password, notes, content, key"]),
        (
            "s:free#pin",
            &["has no field \"pin\"; it has: password, notes, content, host (not shown, because they may be \
                values: 1 more)"],
        ),
        ("s:link", &["\"link\": this is a symbolic link, and those are not followed"]),
        ("s:up/outside", &["no item \"up/outside\""]),
        ("s:../outside", &["no item \"../outside\""]),
        ("s:damaged", &["s: gpg: ended with status 2, at \"damaged\"", "hint: gpg says above why"]),
        ("s:nothing", &["\"nothing\": its file is empty"]),
    ] {
        let run = keys.with(inject(scratch, "{ s: { type: pass, path: store } }", &[wanted])).plant(&value);
        let run = run.plant(&old).run();
        let said = run.stderr();
        assert_eq!(run.code(), Some(1), "{wanted}: {said}");
        assert!(texts.iter().all(|text| said.contains(text)), "{wanted}: {said}");
    }
    for (path, text) in
        [("none", "there is no such store"), ("secrets.yaml", "this is a file, and a store is a directory")]
    {
        let source = format!("{{ s: {{ type: pass, path: {path} }} }}");
        keys.with(inject(scratch, &source, &["s:x"])).run().expect_refusal(path, 1, &[text]);
    }
    // Several, of which one fails after the first.
    let source = "{ s: { type: pass, path: store } }";
    let run =
        keys.with(inject(scratch, source, &["s:other", "s:web/site", "s:mail/site", "s:nothing"])).plant(&value).run();
    run.expect_refusal("several", 1, &["\"nothing\": its file is empty"]);
}

#[test]
fn a_locked_key_and_a_missing_gpg_are_told_with_what_to_do() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let keys = Keys::new("a passphrase");
    let scratch = &keys.scratch;
    keys.entry("store/x.gpg", b"planted-locked\n");
    // What it was made with is forgotten.
    keys.run("gpgconf", &["--kill", "all"], b"");
    let run = keys.with(inject(scratch, "{ s: { type: pass, path: store } }", &["s:x"])).run();
    let said = run.stderr();
    assert_eq!(run.code(), Some(1), "{said}");
    assert!(said.contains("s: gpg: ended with status 2, at \"x\"") && said.contains("export GPG_TTY=$(tty)"), "{said}");

    let run = keys.with(inject(scratch, "{ s: { type: pass, path: store } }", &["s:x"])).env("PATH", "/nowhere").run();
    run.expect_refusal("no gpg", 1, &["s: gpg: there is no such program", "hint: install GnuPG"]);
}

#[test]
fn gopass_is_found_by_its_configuration_and_has_yaml() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let keys = Keys::new("");
    let scratch = &keys.scratch;
    keys.entry("gp/web/site.gpg", "pw\nkey: line\n---\nuser: me\nnumber: 0x1F\ntext: |\n  ü\n  x\n".as_bytes());
    keys.entry("gp/.public-keys/hidden.gpg", b"x");
    fs::create_dir_all(scratch.join(".config/gopass")).expect("making a directory");
    let path = scratch.join("gp");
    scratch.write(".config/gopass/config", format!("[mounts]\n\tpath = {}\n", path.display()));
    let wanted = ["s:web/site", "s:site#key", "s:site#username", "s:site#number", "s:site#text"];
    let run = keys.with(inject(scratch, "{ s: { type: gopass } }", &wanted)).run();
    assert_eq!(values(scratch, run, wanted.len()), ["pw", "line", "me", "0x1F", "ü\nx\n"]);
    let listed = Deaddrop::new(scratch).args(["sources", "list", "s"]).run().expect_code(0);
    assert_eq!(listed.stdout(), "web/site\n");
    // Its default place.
    fs::remove_dir_all(scratch.join(".config")).expect("removing a directory");
    fs::create_dir_all(scratch.join(".local/share/gopass/stores")).expect("making a directory");
    fs::rename(path, scratch.join(".local/share/gopass/stores/root")).expect("moving the store");
    let run = keys.with(inject(scratch, "{ s: { type: gopass } }", &["s:site"])).run();
    assert_eq!(values(scratch, run, 1), ["pw"]);
    // A configuration that cannot be read may name another store, with other values under these names.
    fs::create_dir_all(scratch.join(".config/gopass/config")).expect("making a directory");
    let run = keys.with(inject(scratch, "{ s: { type: gopass } }", &["s:site"])).run();
    run.expect_refusal("unreadable", 1, &[".config/gopass/config: this is a directory, not a file"]);
}

#[test]
fn an_entry_of_gopass_without_a_first_line_has_the_password_of_its_yaml_or_none() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let keys = Keys::new("");
    let scratch = &keys.scratch;
    keys.entry("gp/api.gpg", b"---\nusername: joe\npassword: made-up-pw\n");
    keys.entry("gp/otp.gpg", b"made-up-pw\n---\notpauth://totp/x?secret=JBSWY3DPEHPK3PXP\n");
    keys.entry("gp/none.gpg", b"---\nusername: joe\n");
    for kind in ["gopass", "pass"] {
        let source = format!("{{ s: {{ type: {kind}, path: gp }} }}");
        let wanted = ["s:api", "s:api#password", "s:api#username", "s:otp", "s:otp#totp"];
        let run = keys.with(inject(scratch, &source, &wanted)).run();
        let want = ["made-up-pw", "made-up-pw", "joe", "made-up-pw", "otpauth://totp/x?secret=JBSWY3DPEHPK3PXP"];
        assert_eq!(values(scratch, run, wanted.len()), want, "{kind}");
        let run = keys.with(inject(scratch, &source, &["s:none"])).run();
        run.expect_refusal(kind, 1, &["item \"none\" has no password; it has: "]);
    }
}
