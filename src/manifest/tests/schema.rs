//! The JSON schema against what `check` says: whatever `check` accepts it accepts, and it refuses what it can express.

use std::sync::LazyLock;

use deaddrop_core::keys::NodeId;
use serde_json::{Value, json};

use super::super::scalar::{Meaning, meaning};
use super::super::tree::NodeKind;
use super::*;

#[path = "../../../tests/it/kit/json_schema.rs"]
mod json_schema;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(&json_schema()).unwrap());

/// True if the JSON schema accepts a manifest.
pub(super) fn accepts(text: &str) -> bool {
    let tree = Tree::parse(text, &mut Problems::default()).expect("YAML");
    json_schema::fits(&SCHEMA, &SCHEMA, &value(&tree, tree.root()))
}

/// A node as JSON.
fn value(tree: &Tree<'_>, id: NodeId) -> Value {
    match &tree.resolve(id).kind {
        NodeKind::Mapping(entries) => {
            let entry = |(key, node): &(NodeId, NodeId)| (tree.text(*key).unwrap().to_owned(), value(tree, *node));
            Value::Object(entries.iter().map(entry).collect())
        }
        NodeKind::Sequence(items) => items.iter().map(|item| value(tree, *item)).collect(),
        NodeKind::Scalar { text, plain } => match meaning(text, *plain) {
            Meaning::Null => Value::Null,
            Meaning::Bool(value) => value.into(),
            Meaning::Number => text.parse::<u64>().map_or_else(|_| json!(0.5), Value::from),
            Meaning::Text => text.to_string().into(),
        },
        NodeKind::Alias(_) => unreachable!("it is resolved"),
    }
}

#[test]
fn what_the_schema_can_express_it_refuses_as_check_does() {
    let secret = |keys: &str| format!("version: 1\nsecrets:\n  a: {{ {keys} }}\n");
    let valued = |keys: &str| secret(&format!("path: /a, from: env:A, {keys}"));
    let host = |keys: &str| format!("version: 1\nhosts:\n  n: {{ {keys} }}\n");
    let source = |keys: &str| format!("version: 1\nsources:\n  s: {{ {keys} }}\n");
    for (right, wrong) in [
        (secret("path: /a..b/.c, from: env:A"), secret("path: /a/../b, from: env:A")),
        (secret("path: /a/...d, from: env:A"), secret("path: /a/.., from: env:A")),
        (secret("path: /a.d/x, from: env:A"), secret("path: /a/./x, from: env:A")),
        (secret("path: /a/b, from: env:A"), secret("path: /a//b, from: env:A")),
        (secret("path: /a, from: env:A"), secret("path: /a/, from: env:A")),
        (secret("path: /nix/storex, from: env:A"), secret("path: /nix/store/x, from: env:A")),
        (secret("path: /runner/x, from: env:A"), secret("path: /run/x, from: env:A")),
        (secret("path: /x/boot/x, from: env:A"), secret("path: /boot/x, from: env:A")),
        (secret("path: /a, absent: true"), secret("path: /nix/store/x, absent: true")),
        (valued("hash: yescrypt"), valued("hash: yescrypt, format: json")),
        (valued("hash: yescrypt, newline: false"), valued("hash: yescrypt, newline: true")),
        (valued("newline: ensure"), valued("hash: yescrypt, newline: ensure")),
        (valued("newline: true"), valued("newline: yes")),
        (valued("expect: none"), valued("expect: nothing")),
        (secret("path: /a, generate: age"), secret("path: /a, generate: age, hash: yescrypt")),
        (secret("path: /a, generate: token, newline: true"), secret("path: /a, generate: age, newline: true")),
        (
            secret("path: /a, generate: { kind: token, per_host: true }, newline: ensure"),
            secret("path: /a, generate: { kind: age }, newline: false"),
        ),
        (secret("path: /a, generate: token"), secret("path: /a, generate: token, encoding: hex")),
        (secret("path: /a, generate: token"), secret("path: /a, generate: token, expect: pem")),
        (secret("path: /a, generate: token"), secret("path: /a, generate: token, format: json")),
        (secret("path: /a, generate: token"), secret("path: /a, generate: token, allow_empty: true")),
        (secret("path: /a, template: x"), secret("path: /a, template: x, newline: true")),
        (secret("path: /a, template: x"), secret("path: /a, template: x, newline: false")),
        (secret("path: /a, template: x, format: json"), secret("path: /a, template: x, encoding: hex")),
        (secret("path: /a, template: x"), secret("path: /a, template: x, hash: yescrypt")),
        (valued("encoding: hex"), secret("path: /a, template_file: /dev/null, encoding: hex")),
        (valued("mode: \"0440\""), valued("mode: \"0444\"")),
        (valued("mode: \"444\", allow_world_readable: true"), valued("mode: \"444\", allow_world_readable: false")),
        (
            "version: 1\ndefaults: { mode: \"0444\" }\nsecrets: { a: { path: /a, from: env:A, mode: \"0400\" } }\n"
                .into(),
            "version: 1\ndefaults: { mode: \"0444\" }\nsecrets: { a: { path: /a, from: env:A } }\n".into(),
        ),
        (
            "version: 1\ndefaults: { mode: \"0444\" }\nsecrets: { a: { path: /a, absent: true } }\n".into(),
            "version: 1\ndefaults: { mode: \"0404\" }\nsecrets: { a: { path: /a, absent: false, from: env:A } }\n"
                .into(),
        ),
        (valued("directory_owner: '1000:wheel'"), valued("directory_owner: '1000:'")),
        (valued("directory_owner: me"), valued("directory_owner: '1000'")),
        (valued("restart: k3s"), valued("restart: 'k3s*'")),
        (valued("restart: [a.service, getty@tty1]"), valued("restart: [a.service, getty@]")),
        (valued("reload: [a@b-c.service]"), valued("reload: a@.service")),
        (valued("try_restart: ['a:b\\c']"), valued("try_restart: [-a]")),
        (source("type: keepass, path: x, key_file: k"), source("type: keepass, path: x")),
        (source("type: keepass, path: x, password: ask"), source("type: keepass, path: x, identity: i")),
        (host("ssh: 'ssh://root@h:22'"), host("ssh: 'root@h:22'")),
        (host("ssh: 'root@fe80::1'"), host("ssh: 'root@[fe80::1]:22'")),
        (host("ssh: '::1'"), host("ssh: 'h:22'")),
        (host("become: sudo, become_password: ask"), host("become_password: ask")),
        (host("become: doas"), host("become: doas, become_password: ask")),
    ] {
        assert!(parse(&right).is_ok(), "{right}\n{}", parse(&right).unwrap_err());
        assert!(parse(&wrong).is_err(), "`check` accepts it:\n{wrong}");
        assert!(!accepts(&wrong), "the JSON schema accepts it:\n{wrong}");
    }
}

#[test]
fn the_schema_accepts_the_example_and_a_manifest_with_everything() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/secrets.example.yaml");
    let text = std::fs::read_to_string(example).unwrap();
    assert!(Manifest::load(Path::new(example)).is_ok() && accepts(&text));
    assert!(parse(FULL).is_ok());
}
