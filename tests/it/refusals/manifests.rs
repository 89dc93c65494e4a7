//! Manifests that are wrong: exit 2, and no target or source is touched.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;

use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use crate::kit::tree::Tree;
use crate::kit::{Scratch, skipped_without_root};

/// A manifest with one secret, whose keys are these.
fn one(keys: &str) -> String {
    format!("version: 1\nsecrets:\n  a: {{ {keys} }}\n")
}

/// A manifest with one secret at this path.
fn at(path: &str) -> String {
    one(&format!("path: {path}, from: env:A"))
}

#[test]
fn a_manifest_that_cannot_be_read_is_refused_by_its_kind_and_nothing_waits() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("directory")).unwrap();
    nix::unistd::mkfifo(&scratch.join("fifo"), Mode::S_IRWXU).unwrap();
    scratch.write("latin", b"version: 1\nsecrets: {}\n# caf\xe9\n");
    scratch.write("utf-16", b"\xff\xfev\0e\0r\0");
    fs::File::create(scratch.join("huge")).unwrap().set_len((16 << 20) + 1).unwrap();
    symlink("loop", scratch.join("loop")).unwrap();
    for (name, want) in [
        ("missing", "missing: there is no such file"),
        ("directory", "directory: is a directory, and a manifest is a regular file"),
        ("fifo", "fifo: is a FIFO, and a manifest is a regular file"),
        ("/dev/zero", "/dev/zero: is a device, and a manifest is a regular file"),
        ("latin", "latin:3:6: byte 0xe9 is not UTF-8"),
        ("utf-16", "utf-16:1:1: byte 0xff is not UTF-8"),
        ("huge", "huge: is over 16 MiB, the limit of a manifest"),
        ("loop", "loop: cannot be opened"),
        ("latin/below", "latin/below: cannot be opened: Not a directory"),
    ] {
        for command in [&["check"][..], &["inject", "no.img"]] {
            let run = Deaddrop::new(&scratch).args(command).args(["-m", name]).limited().run();
            run.expect_refusal(name, 2, &[want]);
        }
    }
}

#[test]
fn a_hostile_manifest_ends_within_bounds() {
    let many = |count: usize, line: &dyn Fn(usize) -> String| {
        let lines: String = (0..count).map(line).collect();
        format!("version: 1\nsecrets:\n{lines}")
    };
    let secret = |at: usize| format!("  s{at}: {{ path: /etc/x/{at}, from: env:A }}\n");
    let bomb: String = (1..60).map(|at| format!("  a{at}: &a{at} [*a{0}, *a{0}, *a{0}, *a{0}]\n", at - 1)).collect();
    let merges: String =
        (1..60).map(|at| format!("  a{at}: &a{at} {{ <<: [*a{0}, *a{0}], k{at}: 1 }}\n", at - 1)).collect();
    let hosts: String = (0..100_001).map(|at| format!("  h{at}:\n")).collect();
    for (name, text, want) in [
        ("200,000 secrets", many(200_000, &secret), "over 10,000 secrets, the limit of a manifest"),
        ("a bomb of aliases", format!("version: 1\nsecrets:\n  a0: &a0 [x, x]\n{bomb}"), "this is a list"),
        (
            "a bomb that goes off",
            format!("version: 1\nx:\n  a0: &a0 [x, x]\n{bomb}hosts: {{ h: {{ tags: *a59 }} }}\n"),
            "error",
        ),
        ("a bomb of merge keys", format!("version: 1\nsecrets:\n  a0: &a0 {{ x: 1 }}\n{merges}"), "error"),
        ("nested lists", format!("version: 1\nsecrets: {}{}\n", "[".repeat(100_000), "]".repeat(100_000)), "32"),
        ("nested mappings", format!("version: 1\nsecrets: {}x", "{a: ".repeat(100_000)), "32"),
        ("one long line", format!("version: 1\nsecrets: {{ a: \"{}\" }}\n", "x".repeat(15 << 20)), "secret"),
        ("100,001 hosts", format!("version: 1\nsecrets: {{}}\nhosts:\n{hosts}"), "over 100,000 hosts"),
        ("only newlines", "\n".repeat(16 << 20), "version"),
        ("only anchors", "&a ".repeat(1 << 20), "error"),
        ("only dashes", "- ".repeat(1 << 20), "error"),
        ("only NULs", "\0".repeat(1 << 20), "error"),
        ("one alias of itself", "a: &a [*a]\n".to_owned(), "error"),
        ("a document after another", "version: 1\nsecrets: {}\n---\nversion: 1\nsecrets: {}\n".to_owned(), "error"),
        ("all the same key", format!("version: 1\nsecrets:\n{}", "  a: {}\n".repeat(100_000)), "a"),
        (
            "all the same path",
            many(10_000, &|at| format!("  s{at}: {{ path: /etc/x, from: env:A }}\n")),
            "declared twice",
        ),
    ] {
        let scratch = Scratch::new();
        scratch.write("m", text);
        let run = Deaddrop::new(&scratch).args(["check", "-m", "m"]).limited().run();
        let run = run.expect_refusal(name, 2, &["m", want]);
        assert!(run.stderr().len() < 200_000, "{name}: {} bytes of errors", run.stderr().len());
    }
}

#[test]
fn a_path_that_cannot_be_is_refused_with_its_code_and_its_place() {
    let long = format!("/etc/{}", "x".repeat(256));
    let deep = "/d".repeat(2100);
    for (path, want) in [
        ("/nix/store/x", "NX001"),
        ("/nix/var/x", "NX001"),
        ("/run/x", "NX002"),
        ("/run", "NX002"),
        ("/var/run/x", "NX002"),
        ("/proc/x", "NX002"),
        ("/sys/x", "NX002"),
        ("/dev/x", "NX002"),
        ("/tmp/x", "NX003"),
        ("/etc/static/x", "NX004"),
        ("/etc/passwd", "NX005"),
        ("/etc/shadow", "NX005"),
        ("/etc/group", "NX005"),
        ("/boot/x", "NX009"),
        ("/boot/loader/keys/x", "NX009"),
        ("/etc/../etc/x", "`..` is not allowed in a path"),
        ("/..", "`..` is not allowed in a path"),
        ("/etc/./x", "`.` is not allowed in a path"),
        ("/etc//x", "`//` is not allowed in a path"),
        ("etc/x", "a path starts with `/`"),
        ("/", "does not end with `/`"),
        ("/etc/x/", "does not end with `/`"),
        ("\"/etc/a\\0b\"", "a path cannot hold a NUL byte"),
        ("\"/etc/a\\eb\"", "a path cannot hold a control character"),
        ("\"/etc/a\\nb\"", "a path cannot hold a control character"),
        (long.as_str(), "a name in a path has at most 255 bytes"),
        (deep.as_str(), "a path has at most 4095 bytes"),
        ("\"\"", "a path starts with `/`"),
    ] {
        let scratch = Scratch::new();
        scratch.write("m", at(path));
        let run = Deaddrop::new(&scratch).args(["check", "-m", "m"]).run();
        run.expect_refusal(path, 2, &["error: m:3:14: ", want, "    3 | "]);
    }
}

#[test]
fn what_a_manifest_cannot_say_is_an_error_at_its_place() {
    let ok = "path: /etc/x, from: env:A";
    for (name, text, want) in [
        ("a kind of key that there is not", one("path: /etc/x, generate: { kind: rsa }"), "m:3:40: unknown kind `rsa`"),
        ("never: value", one("path: /etc/x, value: hunter2"), "unknown key `value`"),
        ("a typo", one(&format!("{ok}, onwer: root")), "unknown key `onwer`"),
        ("a typo at the top", format!("{}secret: {{}}\n", one(ok)), "unknown key `secret`"),
        ("a key twice", one(&format!("{ok}, path: /etc/y")), "path"),
        ("a secret twice", format!("{}  a: {{ {ok} }}\n", one("path: /etc/y, from: env:A")), "a"),
        ("a path twice", format!("{}  b: {{ {ok} }}\n", one(ok)), "declared twice"),
        ("a path below a file", format!("{}  b: {{ path: /etc/x/y, from: env:A }}\n", one(ok)), "is below"),
        ("no version", "secrets: {}\n".to_owned(), "`version` is missing"),
        ("another version", "version: 2\nsecrets: {}\n".to_owned(), "version 2 of the manifest is not known"),
        ("no path", one("from: env:A"), "has no `path`"),
        ("no from", one("path: /etc/x"), "has no `from`"),
        (
            "from and absent",
            one(&format!("{ok}, absent: true")),
            "m:3:28: `from` and `absent: true` do not go together",
        ),
        ("neither from nor absent", one("path: /etc/x, absent: false"), "has no `from`"),
        ("a mode of no file", one("path: /etc/x, absent: true, mode: \"0400\""), "`mode` and `absent: true`"),
        ("an unknown source", one("path: /etc/x, from: vualt:A"), "m:3:28: unknown source `vualt`"),
        ("an unknown host", one(&format!("{ok}, hosts: [node1]")), "node1"),
        ("an unknown tag", one(&format!("{ok}, hosts: [\"tag:server\"]")), "server"),
        ("readable by others", one(&format!("{ok}, mode: \"0444\"")), "lets everybody on the host read"),
        ("set-id", one(&format!("{ok}, mode: \"4400\"")), "set-user"),
        ("execute", one(&format!("{ok}, mode: \"0500\"")), "execute bit"),
        ("group write", one(&format!("{ok}, mode: \"0660\"")), "write"),
        ("a mode without quotes", one(&format!("{ok}, mode: 0400")), "mode"),
        ("a mode of letters", one(&format!("{ok}, mode: \"rw-\"")), "is not an octal mode"),
        ("an owner that chown cannot give", one(&format!("{ok}, owner: 4294967295")), "4294967294"),
        ("an unknown hash", one(&format!("{ok}, hash: md5")), "hash"),
        ("hash and newline", one(&format!("{ok}, hash: yescrypt, newline: true")), "`newline` and `hash`"),
        ("a list for a mapping", "version: 1\nsecrets: [a]\n".to_owned(), "m:2:10"),
        ("not YAML", "version: 1\nsecrets: {\n".to_owned(), "never closed"),
        ("nothing", String::new(), "version"),
    ] {
        let scratch = Scratch::new();
        scratch.write("m", text);
        let run = Deaddrop::new(&scratch).args(["check", "-m", "m"]).run();
        let run = run.expect_refusal(name, 2, &["error: m", want]);
        assert!(!run.stderr().contains("hunter2"), "{name}: a value was shown");
    }
}

#[test]
fn all_errors_of_a_manifest_come_at_once_in_its_order() {
    let scratch = Scratch::new();
    let text = "version: 1\nsecrets:\n  a: { path: /run/a, from: env:A }\n  b: { path: /etc/b, from: no:B }\n  \
                c: { path: c, form: x }\n";
    scratch.write("m", text);
    let run = Deaddrop::new(&scratch).args(["check", "-m", "m"]).run();
    let said = run.expect_refusal("four errors", 2, &["NX002", "unknown source `no`", "unknown key `form`"]).stderr();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: m:")).collect();
    let mut sorted = lines.clone();
    sorted.sort_by_key(|line| line.split(':').nth(2).and_then(|number| number.parse::<u32>().ok()));
    assert!(lines.len() >= 4 && lines == sorted, "{said}");
    assert!(said.contains(&format!("{} errors", lines.len())), "{said}");
}

#[test]
fn a_host_that_is_missing_or_unknown_is_wrong_usage() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    let text = "version: 1\nsecrets:\n  a: { path: /etc/a, from: env:A, hosts: [node1] }\nhosts: { node1: , node2: }\n";
    scratch.write("secrets.yaml", text);
    for (name, args, texts) in [
        ("none", &[][..], &["no host was named", "--host NAME", "node1, node2"][..]),
        ("unknown", &["--host", "nod1"], &["unknown host `nod1`", "did you mean `node1`?", "node1, node2"]),
        ("empty", &["--host", ""], &["unknown host", "node1, node2"]),
    ] {
        for command in ["plan", "inject", "verify"] {
            let run = Deaddrop::new(&scratch).args([command, "root"]).args(args).env("A", "a value").run();
            run.expect_refusal(name, 2, texts);
        }
    }
    assert_eq!(fs::read_dir(scratch.join("root/etc")).unwrap().count(), 0);
    Deaddrop::new(&scratch).args(["check"]).run().expect_code(0).expect_output("1 secret, 2 hosts, no errors");
}

#[test]
fn an_only_that_names_no_secret_of_the_host_is_wrong_usage() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    let text = "version: 1\nsecrets:\n  apple: { path: /etc/a, from: env:A, hosts: [node1] }\n  pear: { path: /etc/p, \
                from: env:P }\nhosts: { node1: , node2: }\n";
    scratch.write("secrets.yaml", text);
    for (name, args, texts) in [
        ("unknown", &["--only", "appel"][..], &["unknown secret `appel`", "did you mean `apple`?", "apple, pear"][..]),
        ("one of two", &["--only", "pear", "--only", "x"], &["unknown secret `x`"]),
        ("another host's", &["--host", "node2", "--only", "apple"], &["`apple` is not for host `node2`", "are node1"]),
        ("needs a host", &["--only", "apple"], &["no host was named", "--host NAME"]),
        ("nothing", &["--only"], &["--only <SECRET>"]),
    ] {
        for command in ["plan", "inject", "verify"] {
            let run = Deaddrop::new(&scratch).args([command, "root"]).args(args).env("A", "v").env("P", "v").run();
            run.expect_refusal(name, 2, texts);
        }
    }
    assert_eq!(fs::read_dir(scratch.join("root/etc")).unwrap().count(), 0);
    let check = |args: &[&str]| Deaddrop::new(&scratch).args(["check"]).args(args).env("P", "v").run();
    check(&["--values", "--only", "pear"]).expect_code(0).expect_output("1 secret, 2 hosts, no errors; every value");
    check(&["--only", "plum"]).expect_refusal("check", 2, &["unknown secret `plum`"]);
    // The rest of the manifest is looked at all the same.
    scratch.write("secrets.yaml", text.replace("env:A", "nowhere:A"));
    check(&["--only", "pear"]).expect_refusal("the rest", 2, &["unknown source `nowhere`"]);
}

#[test]
fn a_refused_manifest_leaves_the_target_alone() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    let before = Tree::of_directory(&scratch.join("root"));
    scratch.write("m", at("/run/x"));
    for command in ["plan", "inject", "verify"] {
        let run = Deaddrop::new(&scratch).args([command, "root", "-m", "m", "--json"]).env("A", "a value").run();
        run.expect_refusal(command, 2, &["NX002"]);
    }
    before.assert_same(&Tree::of_directory(&scratch.join("root")), false);
}

#[test]
fn check_opens_no_source_and_check_values_opens_each_once() {
    if skipped_without_root("looking into a process that lets nobody look") {
        return;
    }
    let scratch = Scratch::new();
    let value = Canary::new("from the export");
    let export = format!("{{\"items\":[{{\"name\":\"x\",\"login\":{{\"password\":\"{}\"}}}}]}}", value.text());
    scratch.write("vault.json", export);
    scratch.write("plain", value.bytes());
    let text = "version: 1\nsources: { vault: { type: bitwarden, path: vault.json } }\nsecrets:\n  \
                a: { path: /etc/a, from: vault:x }\n  b: { path: /etc/b, from: vault:x }\n  \
                c: { path: /etc/c, from: file:plain }\n";
    scratch.write("secrets.yaml", text);
    for (args, opened) in [(&["check"][..], 0), (&["check", "--values"], 1)] {
        let run = Deaddrop::new(&scratch).args(args).plant(&value).traced("%file").run().expect_code(0);
        for file in ["vault.json", "plain"] {
            let opens = run.trace().calls("openat").iter().filter(|line| line.contains(file)).count();
            assert_eq!(opens, opened, "{args:?} {file}");
        }
    }
    fs::remove_file(scratch.join("plain")).unwrap();
    Deaddrop::new(&scratch).args(["check"]).run().expect_code(0);
    let run = Deaddrop::new(&scratch).args(["check", "--values"]).plant(&value).run();
    run.expect_refusal("a source's file is gone", 1, &["file: ", "plain: there is no such file", "(for c)"]);
}

#[test]
fn ten_thousand_secrets_are_checked_planned_and_written() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    let lines: String = (0..10_000).map(|at| format!("  s{at}: {{ path: /etc/x/{at}, from: env:A }}\n")).collect();
    scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{lines}"));
    Deaddrop::new(&scratch).args(["check"]).limited().run().expect_code(0).expect_output("10000 secrets");
    let plan = Deaddrop::new(&scratch).args(["plan", "root", "--json"]).env("A", "some value").limited().run();
    assert_eq!(plan.expect_code(0).json()["summary"]["create"], 10_000);
    if skipped_without_root("giving files to root") {
        return;
    }
    // Each file is synced, so 10,000 take their time: these show that the usual limit of 1024 open files is none.
    let lines: String = (0..1100).map(|at| format!("  s{at}: {{ path: /etc/x/{at}, from: env:A }}\n")).collect();
    scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{lines}"));
    let run = Deaddrop::new(&scratch).args(["inject", "root"]).env("A", "some value").run();
    run.expect_code(0).expect_error("1100 secrets written");
}
