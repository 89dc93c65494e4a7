//! Sources and values that are wrong: exit 1, the target untouched, and no value in what is said.

use std::fs;
use std::path::Path;

use nix::sys::stat::Mode;

use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use crate::kit::tree::Tree;
use crate::kit::{Scratch, skipped_without_root};

/// One wrong run: its name, the files and variables that it finds, its manifest's sources and the secret's keys, and
/// what is said. `VALUE` stands for the planted value.
struct Case {
    name: &'static str,
    file: &'static str,
    content: String,
    keys: &'static str,
    texts: &'static [&'static str],
}

/// A case whose source is an export called `vault.json`.
fn export(name: &'static str, content: &str, keys: &'static str, texts: &'static [&'static str]) -> Case {
    Case { name, file: "vault.json", content: content.to_owned(), keys, texts }
}

const X: &str = "from: vault:x";
const ITEMS: &str = r#"{"encrypted":false,"folders":[{"id":"f1","name":"home"},{"id":"f2","name":"work"}],"items":[
 {"id":"id-1","folderId":"f1","name":"Router","login":{"password":"VALUE"}},
 {"id":"id-2","folderId":"f2","name":"Router","login":{"password":"VALUE"}},
 {"id":"id-3","name":"Wifi","notes":"VALUE","fields":[{"name":"pin","value":"VALUE"},{"name":"pin","value":"VALUE"}]},
 {"id":"id-4","name":"Empty","login":{"password":""}},
 {"id":"id-5","name":"Hash","login":{"password":"$6$salt$HASH"}},
 {"id":"id-6","name":"Good","login":{"password":"VALUE"}}]}"#;

fn cases() -> Vec<Case> {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports");
    let committed = |name: &str| fs::read_to_string(exports.join(name)).unwrap();
    let protected = committed("password-protected.json");
    let restricted = committed("account-restricted.json");
    let cut = &ITEMS[..ITEMS.len() / 2];
    vec![
        export("not JSON", "VALUE", X, &["vault: ", "vault.json:1:", "hint: "]),
        export("cut off", cut, X, &["vault: ", "vault.json:", "hint: "]),
        export("empty", "", X, &["vault.json: the file is empty", "hint: "]),
        export("no items", "{\"logins\":[\"VALUE\"]}", X, &["not a Bitwarden export", "`items`"]),
        export("CSV", "folder,favorite,type,name,notes\n,,login,x,VALUE\n", X, &["CSV", "JSON and ZIP"]),
        export("ZIP", "PK\u{3}\u{4}VALUE", X, &["the ZIP file has no end", "file format `.zip`"]),
        export(
            "protected by a password",
            &protected,
            X,
            &["protected by a password", "hint: say where the password comes from"],
        ),
        export(
            "for the account only",
            &restricted,
            X,
            &["encrypted for your account only", "hint: export again with \"Password protected\""],
        ),
        export("no such item", ITEMS, "from: vault:Wfi", &["no item \"Wfi\"", "did you mean `vault:Wifi`?", "(for a)"]),
        export(
            "nor one like it",
            ITEMS,
            "from: vault:Printer",
            &["no item \"Printer\"", "`deaddrop sources list vault`"],
        ),
        export(
            "two items",
            ITEMS,
            "from: vault:Router",
            &["two items are called \"Router\"", "home/Router", "id-1", "work/Router", "id-2"],
        ),
        export("no password", ITEMS, "from: vault:Wifi", &["item \"Wifi\" has no password", "it has: notes, pin"]),
        export("no such field", ITEMS, "from: \"vault:Good#pin\"", &["has no field \"pin\"", "it has: password"]),
        export("two fields", ITEMS, "from: \"vault:Wifi#pin\"", &["2 fields called \"pin\""]),
        export("an empty password", ITEMS, "from: vault:Empty", &["\"Empty\" is empty", "allow_empty: true"]),
        export(
            "an empty one to hash",
            ITEMS,
            "from: vault:Empty, allow_empty: true, hash: yescrypt",
            &["empty", "would let anybody in"],
        ),
        export(
            "no hash for a login",
            ITEMS,
            "from: vault:Good, used_by: users.users.admin.hashedPasswordFile",
            &["NX012", "hint: add `hash: yescrypt`"],
        ),
        export(
            "hashed already",
            ITEMS,
            "from: vault:Hash, hash: yescrypt",
            &["already is a password hash", "drop `hash:`"],
        ),
        Case {
            name: "not set",
            file: "other",
            content: String::new(),
            keys: "from: env:NOT_SET",
            texts: &["$NOT_SET is not set", "hint: "],
        },
        Case {
            name: "set to nothing",
            file: "other",
            content: String::new(),
            keys: "from: env:EMPTY",
            texts: &["\"EMPTY\" is empty", "allow_empty: true"],
        },
        Case {
            name: "no file",
            file: "other",
            content: String::new(),
            keys: "from: file:keys/x",
            texts: &["keys/x: there is no such file", "hint: "],
        },
        Case {
            name: "a home",
            file: "other",
            content: String::new(),
            keys: "from: \"file:~/x\"",
            texts: &["`~` is not expanded"],
        },
        Case {
            name: "a directory",
            file: "other",
            content: String::new(),
            keys: "from: file:.",
            texts: &["this is a directory, not a file"],
        },
        Case {
            name: "an empty FIFO",
            file: "other",
            content: String::new(),
            keys: "from: file:fifo",
            texts: &["\"fifo\" is empty"],
        },
        Case {
            name: "a device",
            file: "other",
            content: String::new(),
            keys: "from: file:/dev/zero",
            texts: &["this is a device, not a file"],
        },
        Case {
            name: "over 16 MiB",
            file: "other",
            content: "x".repeat((16 << 20) + 1),
            keys: "from: file:other",
            texts: &["16 MiB"],
        },
        Case {
            name: "a password of two lines",
            file: "other",
            content: "VALUE\nVALUE".into(),
            keys: "from: file:other, hash: yescrypt",
            texts: &["line break"],
        },
        Case {
            name: "a password with its newline",
            file: "other",
            content: "VALUE\n".into(),
            keys: "from: file:other, hash: yescrypt",
            texts: &["ends in a newline"],
        },
        Case {
            name: "two hashes",
            file: "other",
            content: "$6$s$VALUE\n$6$s$VALUE\n".into(),
            keys: "from: file:other, used_by: users.users.admin.hashedPasswordFile",
            texts: &["NX012"],
        },
        Case {
            name: "no such key",
            file: ".env",
            content: "TOKEN='VALUE'\n".into(),
            keys: "from: dotenv:TOKNE",
            texts: &["no item \"TOKNE\"", "did you mean `dotenv:TOKEN`?"],
        },
        Case {
            name: "no dotenv",
            file: "other",
            content: String::new(),
            keys: "from: dotenv:TOKEN",
            texts: &[".env: there is no such file"],
        },
        Case {
            name: "a quote that never ends",
            file: ".env",
            content: "TOKEN='VALUE\n".into(),
            keys: "from: dotenv:TOKEN",
            texts: &["no item \"TOKEN\"", "line 1 of the file"],
        },
    ]
}

#[test]
fn a_wrong_source_is_told_without_a_value_and_leaves_the_target_alone() {
    for case in cases() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.join("root/etc")).unwrap();
        nix::unistd::mkfifo(&scratch.join("fifo"), Mode::S_IRWXU).unwrap();
        let value = Canary::new(case.name);
        let hash = "h".repeat(86);
        scratch.write(case.file, case.content.replace("VALUE", value.text()).replace("HASH", &hash));
        let manifest = format!(
            "version: 1\nsources: {{ vault: {{ type: bitwarden, path: vault.json }}, dotenv: {{ type: dotenv, path: \
             .env }} }}\n\
             secrets:\n  a: {{ path: /etc/a, {} }}\n  good: {{ path: /etc/good, from: env:GOOD }}\n",
            case.keys
        );
        scratch.write("secrets.yaml", manifest);
        let before = Tree::of_directory(&scratch.join("root"));
        for args in [&["check", "--values", "-vv"][..], &["plan", "root", "-vv", "--json"], &["inject", "root", "-vv"]]
        {
            let run = Deaddrop::new(&scratch).args(args).plant(&value).limited();
            let run = run.env("EMPTY", "").env("GOOD", value.text()).env("RUST_BACKTRACE", "1").run();
            run.expect_refusal(case.name, 1, case.texts);
        }
        before.assert_same(&Tree::of_directory(&scratch.join("root")), false);
    }
}

#[test]
fn every_source_that_is_wrong_is_told_in_one_run() {
    let scratch = Scratch::new();
    let text = "version: 1\nsources: { vault: { type: bitwarden, path: vault.json } }\nsecrets:\n  \
                a: { path: /etc/a, from: vault:x }\n  \
                b: { path: /etc/b, from: env:B }\n  c: { path: /etc/c, from: file:c }\n  \
                d: { path: /etc/d, from: env:B }\n";
    scratch.write("secrets.yaml", text);
    let said = Deaddrop::new(&scratch).args(["check", "--values"]).run().expect_code(1).stderr();
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 3, "{said}");
    for text in ["(for a)", "(for b, d)", "(for c)"] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn values_that_are_meant_to_be_empty_or_odd_are_taken() {
    if skipped_without_root("giving files to root") {
        return;
    }
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    let odd: Vec<u8> = (0..=255).cycle().take(5000).collect();
    scratch.write("odd", &odd);
    let text = "version: 1\nsecrets:\n  empty: { path: /etc/empty, from: env:EMPTY, allow_empty: true }\n  \
                line: { path: /etc/line, from: env:EMPTY, allow_empty: true, newline: true }\n  \
                odd: { path: /etc/odd, from: file:odd }\n";
    scratch.write("secrets.yaml", text);
    Deaddrop::new(&scratch).args(["inject", "root"]).env("EMPTY", "").run().expect_code(0);
    for (name, want) in [("empty", &b""[..]), ("line", b"\n"), ("odd", &odd)] {
        assert_eq!(fs::read(scratch.join("root/etc").join(name)).unwrap(), want, "{name}");
    }
    Deaddrop::new(&scratch).args(["verify", "root"]).env("EMPTY", "").run().expect_code(0);
}

#[test]
fn values_of_a_run_are_bounded_together_and_shared_where_they_are_one() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
    fs::File::create(scratch.join("big")).unwrap().set_len(16 << 20).unwrap();
    let manifest = |count: usize| {
        let lines: String =
            (0..count).map(|at| format!("  s{at}: {{ path: /etc/x/{at}, from: file:big }}\n")).collect();
        format!("version: 1\nsecrets:\n{lines}")
    };
    scratch.write("secrets.yaml", manifest(500));
    let run = Deaddrop::new(&scratch).args(["inject", "root"]).limited().run();
    run.expect_refusal("500 of 16 MiB", 1, &["s4: ", "over 64 MiB", "hint: "]);
    scratch.write("secrets.yaml", manifest(4));
    let wants: &[&str] =
        if skipped_without_root("giving files to root") { &[] } else { &["4 secrets written", "nothing to do"] };
    for want in wants {
        Deaddrop::new(&scratch).args(["inject", "root"]).limited().run().expect_code(0).expect_error(want);
    }
    let files: String = (0..60).map(|at| format!("  s{at}: {{ path: /etc/y/{at}, from: file:big{at} }}\n")).collect();
    for at in 0..60 {
        fs::hard_link(scratch.join("big"), scratch.join(format!("big{at}"))).unwrap();
    }
    scratch.write("secrets.yaml", format!("version: 1\nsecrets:\n{files}"));
    let run = Deaddrop::new(&scratch).args(["check", "--values"]).limited().run();
    run.expect_refusal("60 files of 16 MiB", 1, &["over 64 MiB", "hint: "]);
}
