//! Each form of a value, each at its place, and values that are not searched for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::Root;
use crate::kit::hex;

#[test]
fn each_form_is_found_in_a_file_of_etc_and_in_the_store() {
    let root = Root::new();
    let token = root.token.bytes();
    let mut want = Vec::new();
    for (name, form, content) in [
        ("raw", "raw", token.to_vec()),
        ("raw-inside", "raw", [b"token = \"", token, b"\";\n"].concat()),
        ("base64", "base64", STANDARD.encode(token).into_bytes()),
        ("base64-one-before", "base64", STANDARD.encode([b":", token, b"\n"].concat()).into_bytes()),
        ("base64-two-before", "base64", URL_SAFE_NO_PAD.encode([b"a:", token].concat()).into_bytes()),
        ("hex", "hex", hex(token).into_bytes()),
        ("hex-upper", "hex", hex(token).to_uppercase().into_bytes()),
    ] {
        for directory in ["/etc", "/nix/store/p/share"] {
            let path = format!("{directory}/{name}");
            root.put(&path, 0o444, &content);
            want.push(format!("token {path} {form}"));
        }
    }
    root.put("/nix/store/p/share/half", 0o444, &token[..token.len() - 1]);
    want.sort();
    assert_eq!(root.findings(), want);
    let image = root.image("16M", "");
    assert_eq!(root.findings_in(&image, &[]), want);
}

#[test]
fn the_hash_is_found_by_its_text_and_in_the_store_by_the_value() {
    let root = Root::new();
    root.deaddrop(&["inject", "root"]).run().expect_code(0);
    let hash = fs::read_to_string(root.at("/etc/secrets/admin")).unwrap();
    root.put("/etc/shadow.old", 0o644, format!("root:!:1::::::\nadmin:{}:1::::::\n", hash.trim()));
    // Hashes of the same value and of another one, with salts of their own.
    fs::remove_file(root.at("/etc/secrets/admin")).unwrap();
    root.deaddrop(&["inject", "root"]).run().expect_code(0);
    let again = fs::read_to_string(root.at("/etc/secrets/admin")).unwrap();
    assert_ne!(hash, again);
    let users = |hash: &str| format!("{{\"users\":[{{\"hashedPassword\":\"{}\",\"name\":\"admin\"}}]}}", hash.trim());
    root.put("/nix/store/a-users-groups.json", 0o444, users(&hash));
    root.put("/nix/store/b-userborn.json", 0o444, users(&again));
    root.put("/nix/store/c-users-groups.json", 0o444, users(OTHER));
    root.put("/nix/store/d.json", 0o444, users(&hash));
    root.put("/etc/e-users-groups.json", 0o444, users(&hash));
    let want = ["admin /nix/store/a-users-groups.json hash", "admin /nix/store/b-userborn.json hash"];
    assert_eq!(root.findings(), want);
    // The text that stands at the secret's path.
    root.put("/etc/secrets/admin", 0o400, &hash);
    let want = [
        "admin /etc/e-users-groups.json hash",
        "admin /etc/shadow.old hash",
        "admin /nix/store/a-users-groups.json hash",
        "admin /nix/store/b-userborn.json hash",
        "admin /nix/store/d.json hash",
    ];
    assert_eq!(root.findings(), want);
    assert_eq!(root.findings_in(root.image("16M", ""), &[]), want);
}

/// Of the word `other`, with yescrypt's least cost.
const OTHER: &str = "$y$j75$S8IKpWYUpVSfTsHOhjuBN1$.5bwSM2DumfPO9QyvGPN4sWpUyxFZaRGxPzGHTbHWl1";

#[test]
fn values_are_found_across_the_borders_of_pieces_and_in_sparse_files() {
    let root = Root::new();
    let token = root.token.bytes();
    let piece = 1 << 20;
    for (name, before) in [("before", piece - token.len()), ("across", piece - 1), ("after", piece)] {
        let content = [&vec![b'x'; before][..], token, &vec![b'y'; piece]].concat();
        root.put(&format!("/etc/{name}"), 0o644, content);
    }
    let sparse = File::create(root.at("/etc/sparse")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    sparse.write_all_at(token, (2 << 30) - 17).unwrap();
    root.set_mode("/etc/sparse", 0o644);
    let want = ["across", "after", "before", "sparse"].map(|name| format!("token /etc/{name} raw"));
    assert_eq!(root.findings(), want);
    for options in ["-b 1024 -O ^extents,^64bit", "-b 4096"] {
        assert_eq!(root.findings_in(root.image("64M", options), &[]), want, "{options}");
    }
}

#[test]
fn small_files_are_searched_inside_their_inodes_too() {
    let root = Root::new();
    root.put("/etc/inside", 0o644, root.token.bytes());
    let image = root.image("16M", "-O inline_data -I 512");
    assert_eq!(root.findings_in(image, &[]), ["token /etc/inside raw"]);
}

#[test]
fn a_final_newline_does_not_matter_and_lines_of_a_key_are_found_by_themselves() {
    let root = Root::new();
    root.declare(&["token: { path: /etc/secrets/token, from: env:LINES, OWNER }"]);
    let key = format!("# a comment\n{}\n\n", root.token.text());
    root.put("/etc/whole", 0o644, key.trim_end());
    root.put("/etc/indented", 0o644, format!("key: |\n    {}\n", root.token.text()));
    root.put("/etc/comment", 0o644, "# a comment\n");
    let run = root.deaddrop(&["scan", "root", "--json"]).env("LINES", &key).run();
    assert_eq!(super::findings(run), ["token /etc/indented raw", "token /etc/whole raw"]);
}

#[test]
fn a_short_value_is_not_searched_for_and_counted() {
    let root = Root::new();
    root.declare(&[
        "a: { path: /etc/secrets/a, from: env:SHORT, OWNER }",
        "b: { path: /etc/secrets/b, from: env:SHORT, OWNER }",
        "c: { path: /etc/secrets/c, from: env:LONGER, OWNER }",
        "d: { path: /etc/secrets/d, template: \"{{ secret('env:TOKEN') }} {{ secret('env:SHORT') }}\", OWNER }",
    ]);
    root.put("/etc/file", 0o644, "1234567 12345678");
    let run = || root.deaddrop(&["scan", "root"]).env("SHORT", "1234567\n").env("LONGER", "12345678");
    let object = run().args(["--json"]).run().expect_code(3).json();
    assert_eq!(object["summary"], serde_json::json!({ "findings": 1, "skipped": 1 }));
    assert_eq!(object["findings"], serde_json::json!([{ "secret": "c", "path": "/etc/file", "form": "raw" }]));
    run().run().expect_code(3).expect_output("2 values searched for in 1 file").expect_output("1 under 8 bytes not");
}

#[test]
fn a_key_that_the_target_generated_is_searched_for() {
    let root = Root::new();
    root.declare(&["key: { path: /etc/secrets/key, generate: { kind: token, length: 32 }, OWNER }"]);
    assert!(root.findings().is_empty(), "there is none yet");
    root.deaddrop(&["inject", "root"]).run().expect_code(0);
    assert!(root.findings().is_empty());
    root.put("/etc/copy", 0o644, fs::read(root.at("/etc/secrets/key")).unwrap());
    assert_eq!(root.findings(), ["key /etc/copy raw"]);
}

#[test]
fn an_encoded_value_is_searched_for_as_the_file_has_it() {
    let root = Root::new();
    root.declare(&["token: { path: /etc/secrets/token, from: env:CODED, encoding: base64, OWNER }"]);
    root.put("/etc/decoded", 0o644, root.token.bytes());
    root.put("/etc/coded", 0o644, STANDARD.encode(root.token.bytes()));
    let run = root.deaddrop(&["scan", "root", "--json"]).env("CODED", STANDARD.encode(root.token.bytes())).run();
    assert_eq!(super::findings(run), ["token /etc/coded base64", "token /etc/decoded raw"]);
}
