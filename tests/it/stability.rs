//! What every command prints with --json. The kit holds it, here and in all other tests, to the published schema
//! (docs/json.schema.json), with no key beside it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::kit::canary::Canary;
use crate::kit::disk::small_disk;
use crate::kit::images;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, is_root};

#[test]
fn what_every_command_prints_fits_the_published_schema() {
    let scratch = Scratch::new();
    let value = Canary::new("a");
    let (owner, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let keys = |path: &str| format!("{{ path: {path}, from: env:A, owner: {owner}, group: {group} }}");
    let text = format!(
        "version: 1\nsources: {{ d: {{ type: dotenv, path: values.env }} }}\nsecrets:\n  a: {}\n  b: {}\nhosts: {{ node1: {{ ssh: \
         'nobody@192.0.2.2' }}, node2: {{ ssh: 'nobody@192.0.2.1' }} }}\n",
        keys("/etc/secrets/a"),
        keys("/srv/b")
    );
    scratch.write("secrets.yaml", text);
    scratch.write_private("values.env", "NAME=x\n");
    small_disk(&scratch.join("small.img"));
    fs::write(scratch.join("device"), vec![7; 28 << 20]).unwrap();
    let compressed = images::RAW_EFI.compressed();
    fs::copy(&compressed, scratch.join("base.img.zst")).unwrap();
    let json = |args: &[&str]| {
        let run = Deaddrop::new(&scratch).args(args).args(["--json"]).env("A", value.text());
        run.env("XDG_RUNTIME_DIR", "/dev/shm").plant(&value).run()
    };
    let one = ["--host", "node1"];
    for (args, code, command) in [
        (&["check"][..], 0, "check"),
        (&["inspect", "small.img"], 0, "inspect"),
        (&["inspect", "base.img.zst"], 0, "inspect"),
        (&["plan", "small.img", one[0], one[1]], 0, "plan"),
        (&["verify", "small.img", one[0], one[1]], 3, "verify"),
        (&["inject", "small.img", one[0], one[1], "-o", "one.img"], 0, "inject"),
        (&["inject", "small.img", "--all-hosts", "-o", "{host}.img"], 0, "inject"),
        (&["plan", "{host}.img", "--all-hosts"], 0, "plan"),
        (&["verify", "{host}.img", "--all-hosts"], 0, "verify"),
        (&["flash", "small.img", "device", one[0], one[1], "--yes"], 0, "flash"),
        (&["flash"], 0, "flash"),
        (&["tree", "tree", one[0], one[1], "--for", "nixos-anywhere"], 0, "tree"),
        (&["lint", "base.img.zst", one[0], one[1]], 0, "lint"),
        (&["scan", "one.img", one[0], one[1]], 0, "scan"),
        (&["recover", "one.img"], 0, "recover"),
        (&["scrub", "one.img"], 0, "scrub"),
        (&["sources", "list", "d"], 0, "sources list"),
        // Nobody is there.
        (&["rotate", "node2", "--timeout", "1"], 1, "rotate"),
        (&["rotate", "node2", "--timeout", "1", "--dry-run"], 1, "rotate"),
        (&["plan", "--all", "--timeout", "1"], 1, "plan"),
        (&["init", "-o", "new.yaml", "--yes"], 0, "init"),
    ] {
        // The owners of the tree are the caller's own, which --chown gives.
        if command == "tree" && !is_root() {
            continue;
        }
        assert_eq!(json(args).expect_code(code).json()["command"], command);
    }
}

/// Adds the names of keys, and the texts that a value can be, in a schema.
fn words(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            let texts = map.get("enum").into_iter().flat_map(|all| all.as_array().unwrap()).chain(map.get("const"));
            found.extend(texts.filter_map(|value| value.as_str().map(str::to_owned)));
            found.extend(map.get("properties").into_iter().flat_map(|keys| keys.as_object().unwrap().keys().cloned()));
            map.values().for_each(|value| words(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| words(item, found)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_schema_and_every_word_of_a_value_is_described() {
    let read = |name: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let mut found = BTreeSet::new();
    words(&serde_json::from_str(&read("docs/json.schema.json")).unwrap(), &mut found);
    assert!(found.contains("rolled-back") && found.contains("written_to"), "{found:?}");
    let page = read("docs/json.md");
    found.retain(|word| !page.contains(&format!("`{word}`")));
    assert_eq!(found, BTreeSet::new(), "not in docs/json.md");
}
