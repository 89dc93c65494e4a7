//! Whole manifests: what is accepted, and every way to be wrong with its place and words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use deaddrop_vault::Reference;

use super::*;
use crate::derive::password::HashScheme;

/// One of everything.
const FULL: &str = r##"# a comment
version: 1
sources:
  vault: { type: bitwarden, path: exports/homelab.json }
  ci:    { type: env, prefix: HOMELAB_ }
  dot:   { type: dotenv, path: /srv/secrets.env }
  keys:
    type: file
    path: keys
defaults: { owner: 0, group: keys, mode: "0440" }
secrets:
  admin-password:
    path: /etc/secrets/admin-password
    from: vault:Homelab admin
    hash: yescrypt
    owner: root
    group: root
    mode: "400"
    directory_mode: "0711"
    used_by: users.users.admin.hashedPasswordFile
  k3s-token:
    path: /etc/secrets/k3s-token
    from: { source: ci, item: "K3S:TOKEN#1" }
    hosts: &servers [node1, "tag:server"]
    newline: true
    allow_empty: true
    used_by: [services.k3s.tokenFile, services.k3s.agentTokenFile]
  public:
    path: /var/tmp/public
    from: "vault:home/Router#notes"
    mode: "0444"
    allow_world_readable: true
    hosts: *servers
  host-key-1: { path: /etc/ssh/key, from: keys:node1, hosts: [node1], hash: sha512crypt }
  host-key-2: { path: /etc/ssh/key, from: "env:KEY", hosts: [node2] }
hosts:
  node1: { ssh: root@192.168.1.11, tags: [server, rack1] }
  node2: { tags: [agent] }
  node3:
"##;

fn parse(text: &str) -> Result<Manifest, ManifestErrors> {
    Manifest::parse(text, Path::new("dir/secrets.yaml"))
}

/// The reference of a secret that has one.
fn from(secret: &SecretSpec) -> &Reference {
    match &secret.value {
        ValueSpec::From(reference) => reference,
        other => panic!("{}: {other:?}", secret.name),
    }
}

/// Every problem as `line:column+length message`.
fn complaints(text: &str) -> Vec<String> {
    let Err(errors) = parse(text) else { return Vec::new() };
    errors
        .problems()
        .iter()
        .map(|problem| match problem.location {
            Some(at) => format!("{}:{}+{} {}", at.line, at.column, problem.length, problem.message),
            None => problem.message.clone(),
        })
        .collect()
}

#[test]
fn a_manifest_with_everything_is_read_as_it_is_written() {
    let manifest = parse(FULL).unwrap();
    assert_eq!(manifest.directory, PathBuf::from("dir"));
    let sources: Vec<String> = manifest.sources.iter().map(|(name, source)| format!("{name} {source:?}")).collect();
    assert_eq!(
        sources,
        [
            "ci Env(EnvSpec { prefix: \"HOMELAB_\" })",
            "dot Dotenv(FileSpec { path: \"/srv/secrets.env\", identity: None, password: None })",
            "keys File(DirectorySpec { path: Some(\"keys\") })",
            "vault Bitwarden(FileSpec { path: \"exports/homelab.json\", identity: None, password: None })",
        ]
    );
    let names: Vec<&str> = manifest.secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["admin-password", "k3s-token", "public", "host-key-1", "host-key-2"]);

    let admin = &manifest.secrets[0];
    assert_eq!(admin.location, Location { line: 12, column: 3 });
    assert_eq!(admin.path.as_str(), "/etc/secrets/admin-password");
    assert_eq!(from(admin).to_string(), "vault:Homelab admin");
    assert_eq!(admin.hash, Some(HashScheme::Yescrypt));
    assert_eq!((admin.owner.to_string(), admin.group.to_string()), ("root".into(), "root".into()));
    assert_eq!((admin.mode, admin.directory_mode), (0o400, Some(0o711)));
    assert!(admin.is_hashed_password_file() && admin.hosts.is_empty() && !admin.newline && !admin.allow_empty);

    let token = &manifest.secrets[1];
    assert_eq!(*from(token), Reference { source: "ci".into(), item: "K3S:TOKEN#1".into(), field: None });
    assert_eq!((&token.owner, &token.group, token.mode), (&Owner::Id(0), &Owner::Name("keys".into()), 0o440));
    assert_eq!(token.hosts, [HostSelector::Host("node1".into()), HostSelector::Tag("server".into())]);
    assert_eq!(token.used_by, ["services.k3s.tokenFile", "services.k3s.agentTokenFile"]);
    assert!(token.newline && token.allow_empty && token.hash.is_none() && token.directory_mode.is_none());

    let public = &manifest.secrets[2];
    assert_eq!(from(public).field.as_deref(), Some("notes"));
    assert_eq!((public.mode, &public.hosts), (0o444, &token.hosts));
    assert_eq!(manifest.secrets[3].hash, Some(HashScheme::Sha512crypt));

    assert_eq!(manifest.hosts["node1"].ssh.as_deref(), Some("root@192.168.1.11"));
    assert_eq!(manifest.hosts["node1"].tags, ["server", "rack1"]);
    assert!(manifest.hosts["node3"].ssh.is_none() && manifest.hosts["node3"].tags.is_empty());

    let [warning] = manifest.warnings.as_slice() else { panic!("{:?}", manifest.warnings) };
    assert_eq!((warning.code, warning.secret.as_str(), warning.location.line), ("NX003", "public", 28));
}

#[test]
fn the_least_manifest_has_a_version_and_defaults_are_root_and_0400() {
    for text in ["version: 1", "version: 1\nsecrets:\n", "version: 1\nsecrets: {}\nsources:\nhosts:\ndefaults:\n"] {
        assert!(parse(text).unwrap().secrets.is_empty(), "{text}");
    }
    let manifest = parse("{version: 1, secrets: {a: {path: /a, from: 'env:A'}}}").unwrap();
    let secret = &manifest.secrets[0];
    assert_eq!((secret.mode, secret.owner.fixed_id(), secret.group.fixed_id()), (0o400, Some(0), Some(0)));
}

#[test]
fn a_file_that_must_not_be_there_needs_a_path_and_no_more() {
    // Defaults do not matter, not even one that no file may have without a word of its own.
    let text = "{version: 1, defaults: {mode: '0444', owner: nobody}, hosts: {n: }, secrets: {\
                a: {path: /a, absent: true, hosts: [n], used_by: services.x.file}, \
                b: {path: /b, absent: false, from: 'env:A', mode: '0400'}}}";
    let manifest = parse(text).unwrap();
    let absent: Vec<bool> = manifest.secrets.iter().map(SecretSpec::is_absent).collect();
    assert_eq!(absent, [true, false]);
    assert_eq!(manifest.secrets[0].hosts, [HostSelector::Host("n".into())]);
}

/// A manifest with the sources `vault` and `ci`, the hosts node1 and node2 (tag server), and these lines under
/// `secrets`, from line 9 on.
fn with_secrets(lines: &str) -> String {
    format!(
        "version: 1
sources:
  vault: {{ type: bitwarden, path: x.json }}
  ci: {{ type: env }}
hosts:
  node1: {{ tags: [server] }}
  node2:
secrets:
{lines}\n"
    )
}

#[test]
fn every_mistake_in_a_secret_is_told_at_its_place() {
    for (lines, want) in [
        // Keys
        ("  a: { path: /a, from: ci:A, mod: x }", vec!["9:30+3 unknown key `mod`"]),
        ("  a: { path: /a, from: ci:A, restarts: [x] }", vec!["9:30+8 unknown key `restarts`"]),
        ("  a: { path: /a, from: ci:A, colour: x }", vec!["9:30+6 unknown key `colour`"]),
        ("  a: { path: /a, from: ci:A, value: x }", vec!["9:30+5 unknown key `value`"]),
        ("  a: { path: /a, path: /b, from: ci:A }", vec!["9:18+4 duplicate key `path`, first on line 9"]),
        (
            "  a: { path: /a, from: ci:A, x: 1, x: 2 }",
            vec!["9:30+1 unknown key `x`", "9:36+1 duplicate key `x`, first on line 9"],
        ),
        (
            "  a: { path: /a, from: ci:A }\n  a: { path: /b, from: ci:A }",
            vec!["10:3+1 duplicate key `a`, first on line 9"],
        ),
        ("  a: { path: /a, from: ci:A, [x]: 1 }", vec!["9:30+1 a key is text, and this is a list or a mapping"]),
        ("  a: { path: /a, from: ci:A, <<: {} }", vec!["9:30+2 YAML merge keys (`<<`) have no meaning in a manifest"]),
        ("  <<: { path: /a, from: ci:A }", vec!["9:3+2 YAML merge keys (`<<`) have no meaning in a manifest"]),
        // A file that must not be there
        ("  a: { path: /a, absent: true, from: ci:A }", vec!["9:38+4 `from` and `absent: true` do not go together"]),
        (
            "  a: { path: /a, from: { source: no, item: A }, absent: true }",
            vec!["9:24+1 `from` and `absent: true` do not go together", "9:34+2 unknown source `no`"],
        ),
        (
            "  a: { path: /a, absent: true, hash: yescrypt, newline: false, owner: 1, group: root, mode: \"0400\" }",
            vec![
                "9:38+8 `hash` and `absent: true` do not go together",
                "9:57+5 `newline` and `absent: true` do not go together",
                "9:71+1 `owner` and `absent: true` do not go together",
                "9:81+4 `group` and `absent: true` do not go together",
                "9:93+6 `mode` and `absent: true` do not go together",
            ],
        ),
        (
            "  a: { path: /a, absent: true, directory_mode: \"0700\", allow_empty: true, allow_world_readable: true }",
            vec![
                "9:48+6 `directory_mode` and `absent: true` do not go together",
                "9:69+4 `allow_empty` and `absent: true` do not go together",
                "9:97+4 `allow_world_readable` and `absent: true` do not go together",
            ],
        ),
        ("  a: { path: /a, absent: false }", vec!["9:3+1 secret `a` has no `from`"]),
        ("  a: { path: /a, absent: 1 }", vec!["9:26+1 `absent` is `true` or `false`, and this is `1`"]),
        ("  a: { absent: true }", vec!["9:3+1 secret `a` has no `path`"]),
        ("  a: { path: /tmp/a, absent: true }", vec!["9:14+6 NX003: /tmp/a is emptied at boot"]),
        (
            "  a: { path: /a, absent: true, hosts: [node1] }\n  b: { path: /a, from: ci:A, hosts: [\"tag:server\"] }",
            vec!["10:14+2 `/a` is declared twice: `a` (line 9) has it as well"],
        ),
        // Shapes
        (
            "  a: text",
            vec![
                "9:6+4 a secret is a mapping (path, from, template, template_file, encoding, expect, format, generate, absent, hash, owner, group, mode, directory_mode, directory_owner, newline, hosts, \
             used_by, kind, restart, reload, try_restart, run_after, health, settle, output, allow_empty, allow_world_readable, allow), and this is text",
            ],
        ),
        (
            "  a: []",
            vec![
                "9:6+1 a secret is a mapping (path, from, template, template_file, encoding, expect, format, generate, absent, hash, owner, group, mode, directory_mode, directory_owner, newline, hosts, \
             used_by, kind, restart, reload, try_restart, run_after, health, settle, output, allow_empty, allow_world_readable, allow), and this is a list",
            ],
        ),
        ("  a:", vec!["9:3+1 secret `a` has no `path`", "9:3+1 secret `a` has no `from`"]),
        ("  a: { from: ci:A }", vec!["9:3+1 secret `a` has no `path`"]),
        ("  a: { path: /a }", vec!["9:3+1 secret `a` has no `from`"]),
        ("  a: { path: , from: ci:A }", vec!["9:12+1 `path` has no value"]),
        ("  a: { path: [/a], from: ci:A }", vec!["9:14+1 `path` is text, and this is a list"]),
        ("  a: { path: 1, from: ci:A }", vec!["9:14+1 `path` is text, and this is a number"]),
        ("  a: { path: /a, from: [] }", vec!["9:24+1 `from` is text or a mapping, and this is a list"]),
        ("  a: { path: /a, from: }", vec!["9:22+1 `from` has no value"]),
        (
            "  a: { path: /a, from: ci:A, used_by: {} }",
            vec!["9:39+1 `used_by` is text or a list, and this is a mapping"],
        ),
        ("  a: { path: /a, from: ci:A, used_by: [1] }", vec!["9:40+1 an option's name is text, and this is a number"]),
        ("  a: { path: /a, from: ci:A, used_by: '' }", vec!["9:39+2 the name of an option is empty"]),
        (
            "  a: { path: /a, from: ci:A, newline: yes }",
            vec!["9:39+3 `newline` is `true` or `false`, and this is `yes`"],
        ),
        (
            "  a: { path: /a, from: ci:A, allow_empty: \"true\" }",
            vec!["9:43+6 `allow_empty` is `true` or `false`, and this is `true`"],
        ),
        ("  '': { path: /a, from: ci:A }", vec!["9:3+2 a secret needs a name"]),
        ("  \"a\\eb\": { path: /a, from: ci:A }", vec!["9:3+6 the name of a secret cannot hold a control character"]),
        // Paths
        ("  a: { path: etc/a, from: ci:A }", vec!["9:14+5 a path starts with `/`"]),
        ("  a: { path: /etc/../a, from: ci:A }", vec!["9:14+9 `..` is not allowed in a path"]),
        ("  a: { path: \"/etc/a\\0b\", from: ci:A }", vec!["9:14+11 a path cannot hold a NUL byte"]),
        ("  a: { path: \"/etc/a\\nb\", from: ci:A }", vec!["9:14+11 a path cannot hold a control character"]),
        (
            "  a: { path: /nix/store/x, from: ci:A }",
            vec!["9:14+12 NX001: /nix/store/x is in the Nix store: world-readable, read-only and checked by hash"],
        ),
        (
            "  a: { path: /run/x, from: ci:A }",
            vec!["9:14+6 NX002: /run/x is on a file system that is empty at every boot"],
        ),
        ("  a: { path: /etc/shadow, from: ci:A }", vec!["9:14+11 NX005: /etc/shadow is rewritten by NixOS activation"]),
        (
            "  a: { path: /a, from: ci:A }\n  b: { path: /a, from: ci:A }",
            vec!["10:14+2 `/a` is declared twice: `a` (line 9) has it as well"],
        ),
        (
            "  a: { path: /a, from: ci:A, hosts: [node1] }\n  b: { path: /a, from: ci:A, hosts: [\"tag:server\"] }",
            vec!["10:14+2 `/a` is declared twice: `a` (line 9) has it as well"],
        ),
        ("  a: { path: /a, from: ci:A, hosts: [node1] }\n  b: { path: /a, from: ci:A, hosts: [node2] }", vec![]),
        ("  a: { path: /a, from: ci:A, hosts: [node1] }\n  b: { path: /a/b, from: ci:A, hosts: [node2] }", vec![]),
        (
            "  a: { path: /a/b, from: ci:A }\n  b: { path: /a, from: ci:A }",
            vec!["9:14+4 `/a/b` is below `/a`, a file of `b` (line 10)"],
        ),
        ("  a: { path: /a/b, from: ci:A }\n  b: { path: /a/bc, from: ci:A }", vec![]),
        // References
        ("  a: { path: /a, from: vualt:x }", vec!["9:24+5 unknown source `vualt`"]),
        ("  a: { path: /a, from: 'vualt:x' }", vec!["9:25+5 unknown source `vualt`"]),
        ("  a: { path: /a, from: \"v\\u0075alt:x\" }", vec!["9:25+10 unknown source `vualt`"]),
        ("  a: { path: /a, from: vault }", vec!["9:24+5 a reference has a source, a `:` and an item"]),
        ("  a: { path: /a, from: \"vault:\" }", vec!["9:30+1 there is no item after the `:`"]),
        ("  a: { path: /a, from: vault:a#b#c }", vec!["9:33+1 a second `#` in a reference"]),
        ("  a: { path: /a, from: ci:A#b }", vec!["9:29+1 what `ci` holds has no fields"]),
        ("  a: { path: /a, from: { source: vualt, item: x } }", vec!["9:34+5 unknown source `vualt`"]),
        ("  a: { path: /a, from: { source: ci } }", vec!["9:24+1 the long form of a reference needs `item`"]),
        (
            "  a: { path: /a, from: { itm: x } }",
            vec![
                "9:24+1 the long form of a reference needs `source`",
                "9:24+1 the long form of a reference needs `item`",
                "9:26+3 unknown key `itm`",
            ],
        ),
        ("  a: { path: /a, from: { source: ci, item: '' } }", vec!["9:44+2 the item is empty"]),
        ("  a: { path: /a, from: { source: ci, item: 12 } }", vec!["9:44+2 `item` is text, and this is a number"]),
        // Modes and owners
        ("  a: { path: /a, from: ci:A, mode: 0400 }", vec!["9:36+4 `mode` is text, and this is a number"]),
        ("  a: { path: /a, from: ci:A, mode: '0755' }", vec!["9:36+6 mode 0755 has an execute bit"]),
        (
            "  a: { path: /a, from: ci:A, mode: '4400' }",
            vec!["9:36+6 mode 4400 has a set-user, set-group or sticky bit"],
        ),
        ("  a: { path: /a, from: ci:A, mode: '0460' }", vec!["9:36+6 mode 0460 lets others than the owner write"]),
        (
            "  a: { path: /a, from: ci:A, mode: '0444' }",
            vec!["9:36+6 mode 0444 lets everybody on the host read the file"],
        ),
        (
            "  a: { path: /a, from: ci:A, directory_mode: '0777' }",
            vec!["9:46+6 directory_mode 0777 lets others than the owner write"],
        ),
        (
            "  a: { path: /d/a, from: ci:A, directory_mode: '0700' }\n  b: { path: /d/b, from: ci:A, directory_mode: '0711' }",
            vec!["10:48+6 `/d` cannot be 0711 here and 0700 for `a` (line 9)"],
        ),
        (
            "  a: { path: /d/a, from: ci:A, directory_mode: '0700' }\n  b: { path: /d/b, from: ci:A, directory_mode: '700' }",
            vec![],
        ),
        (
            "  a: { path: /d/a, from: ci:A, directory_owner: 'x:1' }\n  b: { path: /d/b, from: ci:A, directory_owner: x }",
            vec!["10:49+1 `/d` cannot belong to x here and x:1 for `a` (line 9)"],
        ),
        (
            "  a: { path: /a, from: ci:A, directory_owner: '1x:2' }",
            vec!["9:47+6 `1x` cannot be the name of a user or group"],
        ),
        ("  a: { path: /a, from: ci:A, directory_owner: 1000:100 }", vec![]),
        ("  a: { path: /a, from: ci:A, allow: { NX108: 'made at boot' } }", vec![]),
        (
            "  a: { path: /a, from: ci:A, allow: { NX001: x, NX108: '' } }",
            vec!["9:39+5 `NX001` cannot be allowed", "9:49+5 the reason is empty"],
        ),
        (
            "  a: { path: /d/a, from: ci:A, directory_mode: '0700', hosts: [node1] }
  b: { path: /d/b, from: ci:A, directory_mode: '0711', hosts: [node2] }",
            vec![],
        ),
        (
            "  a: { path: /a, from: ci:A, owner: 4294967295 }",
            vec!["9:37+10 4294967295 is over 4294967294, the highest id"],
        ),
        ("  a: { path: /a, from: ci:A, owner: -1 }", vec!["9:37+2 `-1` is no decimal number from 0 upward"]),
        ("  a: { path: /a, from: ci:A, owner: 010 }", vec!["9:37+3 `010` is no decimal number from 0 upward"]),
        (
            "  a: { path: /a, from: ci:A, group: \"100\" }",
            vec!["9:37+5 `100` in quotes is a name, and no name is all digits"],
        ),
        ("  a: { path: /a, from: ci:A, group: a b }", vec!["9:37+3 `a b` cannot be the name of a user or group"]),
        (
            "  a: { path: /a, from: ci:A, group: true }",
            vec!["9:37+4 `group` is text or a number, and this is true or false"],
        ),
        // Hashes
        ("  a: { path: /a, from: ci:A, hash: md5 }", vec!["9:36+3 unknown hash `md5`"]),
        ("  a: { path: /a, from: ci:A, hash: {} }", vec!["9:36+1 `hash` is text, and this is a mapping"]),
        (
            "  a: { path: /a, from: ci:A, hash: yescrypt, newline: true }",
            vec!["9:55+4 `newline` and `hash` do not go together"],
        ),
        ("  a: { path: /a, from: ci:A, hash: yescrypt, newline: false }", vec![]),
        // Hosts
        ("  a: { path: /a, from: ci:A, hosts: [node3] }", vec!["9:38+5 unknown host `node3`"]),
        ("  a: { path: /a, from: ci:A, hosts: ['tag:servers'] }", vec!["9:38+13 unknown tag `servers`"]),
        ("  a: { path: /a, from: ci:A, hosts: node1 }", vec!["9:37+5 `hosts` is a list, and this is text"]),
        ("  a: { path: /a, from: ci:A, hosts: [1] }", vec!["9:38+1 a host or tag is text, and this is a number"]),
        ("  a: { path: /a, from: ci:A, hosts: [] }", vec!["9:37+1 `hosts` is an empty list"]),
    ] {
        assert_eq!(complaints(&with_secrets(lines)), want, "{lines}");
    }
}

#[test]
fn every_mistake_elsewhere_is_told_at_its_place() {
    for (text, want) in [
        ("", vec!["is empty"]),
        ("secrets: {}\n", vec!["1:1+1 `version` is missing"]),
        ("version: 2\n", vec!["1:10+1 version 2 of the manifest is not known"]),
        ("version: \"1\"\n", vec!["1:10+3 `version` is a number, and this is text"]),
        ("version: 1.0\n", vec!["1:10+3 `version` is not `1.0`"]),
        (
            "- a\n",
            vec![
                "1:1+1 a manifest is a mapping (version, sources, defaults, secrets, hosts, serial), and this is a list",
            ],
        ),
        (
            "text\n",
            vec![
                "1:1+4 a manifest is a mapping (version, sources, defaults, secrets, hosts, serial), and this is text",
            ],
        ),
        ("version: 1\nsecret: {}\n", vec!["2:1+6 unknown key `secret`"]),
        ("version: 1\nsecrets: []\n", vec!["2:10+1 `secrets` is a mapping of names, and this is a list"]),
        ("version: 1\nsecrets: {}\nsecrets: {}\n", vec!["3:1+7 duplicate key `secrets`, first on line 2"]),
        ("version: 1\nsources: {v: {path: x}}\n", vec!["2:14+1 a source needs a `type`"]),
        ("version: 1\nsources: {v: {type: bitwadren, path: x}}\n", vec!["2:21+9 unknown type of source `bitwadren`"]),
        ("version: 1\nsources: {v: {type: keypass, path: x}}\n", vec!["2:21+7 unknown type of source `keypass`"]),
        ("version: 1\nsources: {v: {type: [], path: x}}\n", vec!["2:21+1 `type` is text, and this is a list"]),
        ("version: 1\nsources: {v: env}\n", vec!["2:14+3 a source is a mapping, and this is text"]),
        ("version: 1\nsources: {v: }\n", vec!["2:12+1 a source has no value"]),
        ("version: 1\nsources: {v: {type: bitwarden}}\n", vec!["2:11+1 a bitwarden source needs a `path`"]),
        ("version: 1\nsources: {v: {type: dotenv, path: ''}}\n", vec!["2:35+2 `path` is empty"]),
        ("version: 1\nsources: {v: {type: env, path: x}}\n", vec!["2:26+4 unknown key `path`"]),
        (
            "version: 1\nsources: {v: {type: bitwarden, path: x, colour: {env: X}}}\n",
            vec!["2:41+6 unknown key `colour`"],
        ),
        ("version: 1\nsources: {v: {type: env, type: file}}\n", vec!["2:26+4 duplicate key `type`, first on line 2"]),
        (
            "version: 1\nsources: {v: {type: env, prefix: 'A='}}\n",
            vec!["2:34+4 the name of an environment variable cannot hold this"],
        ),
        ("version: 1\nsources: {env: {type: file}}\n", vec!["2:11+3 `env` always is a source of type `env`"]),
        ("version: 1\nsources: {file: {type: env}}\n", vec!["2:11+4 `file` always is a source of type `file`"]),
        ("version: 1\nsources: {env: {type: env, prefix: A_}}\n", vec![]),
        ("version: 1\nsources: {\"a:b\": {type: env}}\n", vec!["2:11+5 `:` cannot be in the name of a source"]),
        ("version: 1\nsources: {\"a#b\": {type: env}}\n", vec!["2:11+5 `#` cannot be in the name of a source"]),
        ("version: 1\nhosts: {\"a:b\": }\n", vec!["2:9+5 `:` cannot be in the name of a host"]),
        ("version: 1\nhosts: {a: {tags: ['x:y']}}\n", vec!["2:20+5 `:` cannot be in the name of a tag"]),
        ("version: 1\nhosts: {a: {tags: x}}\n", vec!["2:19+1 `tags` is a list, and this is text"]),
        (
            "version: 1\nhosts: {a: {ssh: -oProxyCommand=x}}\n",
            vec!["2:18+16 `-oProxyCommand=x` is not an address for SSH"],
        ),
        ("version: 1\nhosts: {a: {shh: x}}\n", vec!["2:13+3 unknown key `shh`"]),
        ("version: 1\ndefaults: {path: /x}\n", vec!["2:12+4 unknown key `path`"]),
        ("version: 1\ndefaults: {mode: '0777'}\n", vec!["2:18+6 mode 0777 has an execute bit"]),
        (
            "version: 1\ndefaults: {mode: '0444'}\nsecrets:\n  a: {path: /a, from: 'env:A'}\n",
            vec!["4:3+1 mode 0444, from `defaults`, lets everybody on the host read the file"],
        ),
        (
            "version: 1\ndefaults: {mode: '0444'}\nsecrets:\n  a: {path: /a, from: 'env:A', allow_world_readable: true}\n",
            vec![],
        ),
        ("version: 1\nsecrets:\n  a: {path: /a, from: 'env:A', hosts: [x]}\n", vec!["3:40+1 unknown host `x`"]),
        // One mistake is told once: what refers to a wrong entry is not wrong itself.
        (
            "version: 1\nsources: []\nhosts: []\nsecrets:\n  a: {path: /a, from: v:A, hosts: [x]}\n",
            vec![
                "2:10+1 `sources` is a mapping of names, and this is a list",
                "3:8+1 `hosts` is a mapping of names, and this is a list",
            ],
        ),
        (
            "version: 1\nsources: {v: {type: x}}\nsecrets:\n  a: {path: /a, from: v:A#f}\n",
            vec!["2:21+1 unknown type of source `x`"],
        ),
        // Aliases
        (
            "version: 1\nhosts: &h {a: }\nsecrets: *h\n",
            vec!["2:12+1 secret `a` has no `path`", "2:12+1 secret `a` has no `from`"],
        ),
        (
            "version: 1\nhosts: {a: {ssh: &x 1}, b: {ssh: *x}}\n",
            vec!["2:21+1 `ssh` is text, and this is a number", "2:34+2 `ssh` is text, and this is a number"],
        ),
    ] {
        assert_eq!(complaints(text), want, "{text}");
    }
}

#[test]
fn hints_say_what_to_do() {
    for (text, want) in [
        (
            with_secrets("  a: { path: /a, from: vualt:A }"),
            "did you mean `vault`? sources here: ci, vault (and always env, file)",
        ),
        (
            with_secrets("  a: { path: /a, from: ci:A, mod: x }"),
            "did you mean `mode`? keys here: path, from, template, template_file, encoding, expect, format, generate, absent, hash, owner, group, mode, directory_mode, directory_owner, newline, hosts, used_by, \
             kind, restart, reload, try_restart, run_after, health, settle, output, allow_empty, allow_world_readable, allow",
        ),
        (with_secrets("  a: { path: /a, from: ci:A, mode: 0400 }"), "put it in quotes: \"0400\""),
        (with_secrets("  a: { path: /a, from: ci:A, newline: yes }"), "write `true`"),
        (
            with_secrets("  a: { path: /a, from: ci:A, hosts: [nod1] }"),
            "did you mean `node1`? hosts here: node1, node2",
        ),
        (with_secrets("  a: { path: /a, from: ci:A, hosts: [server] }"), "`server` is a tag: write `tag:server`"),
        (
            with_secrets("  a: { path: /a, from: ci:A, hosts: [\"tag:sever\"] }"),
            "did you mean `server`? tags here: server",
        ),
        (
            with_secrets("  a: { path: /a, from: vault:a#b#c }"),
            "write the long form if a name holds `:` or `#`: {source: …, item: …, field: …}",
        ),
        (with_secrets("  a: { path: /a, from: ci:A, hash: bcrypt }"), "there are: yescrypt, sha512crypt"),
        (
            with_secrets("  a: { path: /a, from: ci:A, password: x }"),
            "a manifest never holds a value: keep it in a source, and name it with `from: SOURCE:ITEM`",
        ),
        (with_secrets("  a: { path: /run/a, from: ci:A }"), "use /etc/secrets or /var/lib/secrets"),
        (
            "version: 1\nsources: {v: {type: bitwadren, path: x}}\n".into(),
            "did you mean `bitwarden`? there are: env, file, dotenv, bitwarden, onepassword, keepass, proton-pass, lastpass, csv, pass, \
             gopass, passage, age, sops, exec, bw, rbw, op, secretspec, vals, credentials",
        ),
        (
            "version: 1\nhosts: {a: {shh: x}}\n".into(),
            "did you mean `ssh`? keys here: ssh, tags, become, become_password, ssh_options",
        ),
        (
            "version: 1\nsecrets: {a: {path: /a, from: 'x:A'}}\n".into(),
            "sources here: env and file; others are named under `sources`",
        ),
    ] {
        let errors = parse(&text).unwrap_err();
        assert_eq!(errors.problems()[0].hint.as_deref(), Some(want), "{text}");
    }
}

#[test]
fn every_kind_of_source_takes_the_keys_that_it_needs_and_no_others() {
    let source = |keys: &str| format!("version: 1\nsources: {{v: {{{keys}}}}}\n");
    for keys in [
        "type: bitwarden, path: x, password: {env: A}",
        "type: bitwarden, path: x.json.age, identity: keys.txt, password: ask",
        "type: bitwarden, path: x.age, password: {exec: [pass, show, x]}",
        "type: dotenv, path: '-'",
        "type: onepassword, path: x.1pux",
        "type: keepass, path: x.kdbx, password: {file: p}",
        "type: keepass, path: x.kdbx, key_file: k",
        "type: keepass, path: x.kdbx, key_file: k, password: ask",
        "type: proton-pass, path: x.zip, password: ask",
        "type: lastpass, path: x.csv",
        "type: csv, path: x.csv, columns: {item: name, password: password, PIN: pin}",
        "type: pass",
        "type: gopass, path: /srv/store",
        "type: passage, path: store, identity: keys",
        "type: age, path: x.age, format: json, identity: k",
        "type: age, path: x.age, format: value, password: ask",
        "type: sops, path: x.yaml, timeout: 5",
        "type: exec, argv: [tool, --json]",
        "type: bw",
        "type: rbw, timeout: 3600",
        "type: op",
        "type: secretspec",
        "type: vals",
        "type: credentials",
    ] {
        let manifest = parse(&source(keys)).unwrap_or_else(|error| panic!("{keys}\n{error}"));
        assert!(keys.contains(&format!("type: {}", manifest.sources["v"].kind())), "{keys}");
    }
    for (keys, want) in [
        ("type: keepass, path: x", "a keepass source needs a `password` or a `key_file`"),
        ("type: onepassword, path: x, password: ask", "a onepassword file is not encrypted: it takes no `password`"),
        (
            "type: dotenv, path: x.age, identity: k, password: ask",
            "a dotenv file is not encrypted: it takes no `password`",
        ),
        ("type: dotenv, path: x.age", "nothing is said that opens the `.age` file"),
        ("type: dotenv, path: x, identity: k", "`identity` is for a path that ends in `.age`"),
        ("type: csv, path: x", "a csv source needs `columns`"),
        ("type: csv, path: x, columns: {password: p}", "`columns` needs an `item`: the column that names items"),
        ("type: age, path: x.age, format: json", "an age source needs an `identity` or a `password`"),
        ("type: age, path: x.age, password: ask", "an age source needs a `format`"),
        ("type: age, path: x.age, password: ask, format: toml", "unknown format `toml`"),
        ("type: exec", "an exec source needs an `argv`"),
        ("type: exec, argv: []", "there is no program in this list"),
        ("type: exec, argv: ['']", "there is no program in this list"),
        ("type: exec, argv: tool", "`argv` is a list, and this is text"),
        ("type: bw, timeout: 0", "no program can be given this time"),
        ("type: bw, timeout: 3601", "no program can be given this time"),
        ("type: bw, path: x", "unknown key `path`"),
        ("type: bitwarden, path: x, password: {}", "`password` needs one of `env`, `file` and `exec`"),
        ("type: bitwarden, path: x, password: {env: A, file: b}", "`password` needs one of `env`, `file` and `exec`"),
        ("type: bitwarden, path: x, password: {env: 'A=B'}", "the name of an environment variable cannot hold this"),
    ] {
        let errors = parse(&source(keys)).unwrap_err();
        assert_eq!(errors.problems()[0].message, want, "{keys}");
    }
    let both = "version: 1\nsources: {a: {type: dotenv, path: '-'}, b: {type: lastpass, path: '-'}}\n";
    assert_eq!(complaints(both), ["2:41+1 standard input (`-`) can be read once, and `a` reads it already"]);
}

#[test]
fn a_password_or_an_argument_in_a_wrong_place_is_not_shown() {
    for keys in [
        "type: bitwarden, path: x, password: hunter2",
        "type: bitwarden, path: x, password: [hunter2]",
        "type: bitwarden, path: x, password: {value: hunter2}",
        "type: bitwarden, path: x, password: {exec: [a, hunter2, 5]}",
        "type: exec, argv: [tool, hunter2, [hunter2]]",
        "type: exec, argv: [tool, hunter2, 7], timeout: 0",
        "type: exec, argv: {tool: hunter2}",
    ] {
        let shown = parse(&format!("version: 1\nsources: {{v: {{{keys}}}}}\n")).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{keys}\n{shown}");
    }
}

#[test]
fn all_errors_come_at_once_in_the_files_order() {
    let text = "version: 3
sources:
  vault: { type: bitwarden }
  bad: { type: nope }
secrets:
  a:
    path: etc/a
    from: vualt:x
    mode: 0400
    newline: on
    colour: red
  b: { path: /b, from: vault:y, hosts: [nodee1, node1], mode: '0777' }
  b: {}
hosts:
  node1: { ssh: 7, tags: [true] }
";
    let want = [
        "1:10+1 version 3 of the manifest is not known",
        "3:3+5 a bitwarden source needs a `path`",
        "4:16+4 unknown type of source `nope`",
        "7:11+5 a path starts with `/`",
        "8:11+5 unknown source `vualt`",
        "9:11+4 `mode` is text, and this is a number",
        "10:14+2 `newline` is `true` or `false`, and this is `on`",
        "11:5+6 unknown key `colour`",
        "12:41+6 unknown host `nodee1`",
        "12:63+6 mode 0777 has an execute bit",
        "13:3+1 duplicate key `b`, first on line 12",
        "15:17+1 `ssh` is text, and this is a number",
        "15:27+4 a tag is text, and this is true or false",
    ];
    assert_eq!(complaints(text), want);
}

#[test]
fn an_error_looks_as_the_manual_shows_it() {
    let text = with_secrets("  k3s-token:\n    path: /etc/x\n    from: vualt:Homelab admin");
    let want = "error: dir/secrets.yaml:11:11: unknown source `vualt`
   11 |     from: vualt:Homelab admin
      |           ^^^^^
hint: did you mean `vault`? sources here: ci, vault (and always env, file)";
    assert_eq!(parse(&text).unwrap_err().to_string(), want);
    let text = "secrets:\n\ta: b\n";
    let want = "error: dir/secrets.yaml:2:2: a tab indents this line
    2 |  a: b
      |  ^
hint: YAML is indented with spaces";
    assert_eq!(parse(text).unwrap_err().to_string(), want);
}

#[test]
fn names_in_hints_cannot_drive_a_terminal() {
    let text = "version: 1\nhosts: {\"a\\e[2J\": }\nsecrets: {a: {path: /a, from: 'env:A', hosts: [b]}}\n";
    let errors = parse(text).unwrap_err();
    let hints: Vec<&str> = errors.problems().iter().filter_map(|problem| problem.hint.as_deref()).collect();
    assert_eq!(hints, ["hosts here: a\u{fffd}[2J"]);
    assert!(!errors.to_string().contains('\u{1b}'));
}

#[test]
fn what_may_be_a_value_is_never_shown() {
    for lines in [
        "  a: { path: /a, from: ci:A, value: hunter2 }",
        "  a: { path: /a, from: ci:A, value: hunter2, mode: 0400 }",
        "  a: { mode: 0400, password: \"hunter2\", path: /a, from: ci:A }",
        "  a: { mode: 0400, wifi_psk: [hunter2, hunter2], path: /a, from: ci:A }",
        "  a: { path: /a, from: ci:A, pasword: hunter2 }",
        "  a: { path: /a, from: ci:A, secret: { nested: hunter2 } }",
        "  a: { path: /a, from: hunter2 }",
        "  a: hunter2",
        "  a: [hunter2]",
        "  hunter: { path: x, from: ci:A, token: >-\n    hunter2 }",
        "  a:\n    path: /a\n    value: |\n      hunter2\n     hunter2\n",
        "  a:\n    path: /a\n    password: \"hunter2",
        "  a: { path: /a, value: hunter2",
        "  a:\n    password: a: hunter2",
        "  a:\n    password: 'a' hunter2",
        "  a:\n    password:\n      - hunter2\n      - hunter2: hunter2: x",
        "  a:\n    colour: { password: hunter2 }",
    ] {
        let shown = parse(&with_secrets(lines)).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{lines}\n{shown}");
        assert!(shown.starts_with("error: dir/secrets.yaml:"), "{shown}");
    }
    assert!(!parse("version: 1\nsecrets: hunter2\n").unwrap_err().to_string().contains("hunter2"));
    assert!(!parse("version: 1\npasswords: {a: hunter2}\n").unwrap_err().to_string().contains("hunter2"));
    // And what is no value is.
    let shown = parse(&with_secrets("  a: { path: /a, from: ci:A, colour: red }")).unwrap_err().to_string();
    assert!(shown.contains("colour: red }"), "{shown}");
}

#[test]
fn the_manual_s_example_is_a_manifest_and_every_key_is_in_the_manual() {
    let manual = include_str!("../../docs/manifest.md");
    let example = manual.lines().skip_while(|line| !line.starts_with("    #"));
    let example: String =
        example.take_while(|line| line.starts_with("    ")).flat_map(|line| [&line[4..], "\n"]).collect();
    assert_eq!(parse(&example).unwrap().secrets.len(), 2);

    let mut rest: Vec<serde_json::Value> = vec![serde_json::from_str(&json_schema()).unwrap()];
    let mut keys = 0;
    while let Some(schema) = rest.pop() {
        if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
            for key in properties.keys() {
                assert!(manual.contains(&format!("`{key}`")), "{key}");
                keys += 1;
            }
        }
        match schema {
            serde_json::Value::Object(members) => rest.extend(members.into_iter().map(|(_, value)| value)),
            serde_json::Value::Array(items) => rest.extend(items),
            _ => {}
        }
    }
    assert!(keys > 25, "{keys}");
}

/// `count` secrets and, each with one tag of its own and one for all, `hosts` hosts.
fn large(count: usize, hosts: usize) -> String {
    let mut text = String::from("version: 1\nsecrets:\n");
    for at in 0..count {
        let host = at.checked_rem(hosts).map_or(String::new(), |host| format!(", hosts: [node{host}, \"tag:all\"]"));
        writeln!(text, "  s{at}: {{ path: /etc/secrets/s{at}, from: env:S{at}, mode: \"0440\"{host} }}").unwrap();
    }
    text.push_str("hosts:\n");
    for at in 0..hosts {
        writeln!(text, "  node{at}: {{ ssh: root@10.0.0.1, tags: [all, t{at}] }}").unwrap();
    }
    text
}

#[test]
fn ten_thousand_secrets_are_read_and_one_more_is_refused() {
    for count in [9_999, 10_000] {
        assert_eq!(parse(&large(count, 0)).unwrap().secrets.len(), count);
    }
    let want = ["10003:3+6 over 10,000 secrets, the limit of a manifest"];
    assert_eq!(complaints(&large(10_001, 0)), want);
    assert_eq!(complaints(&large(200_000, 0)), want);
    // Through an alias as well.
    let hosts: String = (0..10_001).map(|at| format!("  h{at}:\n")).collect();
    let text = format!("version: 1\nhosts: &x\n{hosts}secrets: *x\n");
    assert!(complaints(&text).iter().any(|line| line.ends_with("over 10,000 secrets, the limit of a manifest")));
}

#[test]
fn a_hundred_thousand_hosts_are_read_and_one_more_is_refused() {
    assert_eq!(parse(&large(10, 100_000)).unwrap().hosts.len(), 100_000);
    assert_eq!(complaints(&large(0, 100_001)), ["100004:3+10 over 100,000 hosts, the limit of a manifest"]);
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = String::from("version: 1\nhosts:\n  a0: &a0 { tags: [x, x, x, x, x, x, x, x, x] }\n");
    for at in 1..30 {
        let before = at - 1;
        writeln!(bomb, "  a{at}: &a{at} [{}]", vec![format!("*a{before}"); 9].join(", ")).unwrap();
    }
    // A list that is long enough, used often enough: valid by itself, and too much.
    let tags = vec!["t"; 50_000].join(", ");
    let mut wide = format!("version: 1\nhosts:\n  h: {{ tags: &t [{tags}] }}\n");
    (0..1_000).for_each(|at| writeln!(wide, "  h{at}: {{ tags: *t }}").unwrap());
    // And one long text.
    let mut long = format!("version: 1\nhosts:\n  h: {{ ssh: &s {} }}\n", "x".repeat(1 << 20));
    (0..10_000).for_each(|at| writeln!(long, "  h{at}: {{ ssh: *s }}").unwrap());
    for (bomb, want) in [
        (bomb, "a host is a mapping (ssh, tags, become, become_password, ssh_options), and this is a list"),
        (wide, "aliases repeat over 2,000,000 keys and values, the limit of a manifest"),
        (long, "aliases repeat over 2,000,000 keys and values, the limit of a manifest"),
    ] {
        let complaints = complaints(&bomb);
        assert!(complaints.iter().any(|line| line.ends_with(want)), "{:?}", complaints.first());
    }
}

#[test]
fn mutated_manifests_never_panic() {
    // splitmix64; the seed is fixed, and printed with the case that fails.
    let mut state: u64 = 4;
    let mut next = move |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below).unwrap()).unwrap()
    };
    let pieces = [
        "\n", "\t", " ", ":", "#", "'", "\"", "[", "]", "{", "}", "&a ", "*a", "- ", "|\n", ">-\n", "%", "@", "!x ",
        "~", "<<: ", "? ", "---\n", "...\n", "\u{0}", "\u{1b}", "\u{feff}", "鍵", "\r", "0400", "true", "value: x",
        "\\", ", ",
    ];
    for case in 0..3_000 {
        let mut text = FULL.to_owned();
        for _ in 0..=next(4) {
            let mut from = next(text.len());
            let mut to = (from + next(12)).min(text.len());
            while !text.is_char_boundary(from) {
                from -= 1;
            }
            while !text.is_char_boundary(to) {
                to -= 1;
            }
            let to = to.max(from);
            match next(3) {
                0 => text.replace_range(from..to, ""),
                1 => text.insert_str(from, pieces[next(pieces.len())]),
                _ => {
                    let copy = text[from..to].to_owned();
                    let at = text.len() / 2;
                    let at = (at..).find(|at| text.is_char_boundary(*at)).unwrap();
                    text.insert_str(at, &copy);
                }
            }
            if text.is_empty() {
                text.push('a');
            }
        }
        let result = std::panic::catch_unwind(|| parse(&text).map(|_| ()).map_err(|errors| errors.to_string()));
        let shown = result.unwrap_or_else(|_| panic!("case {case} panicked:\n{text}"));
        if let Err(shown) = shown {
            assert!(!shown.contains(['\u{1b}', '\u{0}', '\r', '\t']), "case {case}: {shown:?}");
        }
    }
}
