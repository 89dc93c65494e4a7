//! Every mistake, with its place and message.

use super::*;

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
                "9:6+4 a secret is a mapping (path, from, template, template_file, encoding, expect, format, \
                generate, absent, hash, owner, group, mode, directory_mode, directory_owner, newline, hosts, \
             used_by, kind, keep_old, restart, reload, try_restart, run_after, health, settle, output, apply_password, allow_empty, \
             allow_world_readable, allow), and this is text",
            ],
        ),
        (
            "  a: []",
            vec![
                "9:6+1 a secret is a mapping (path, from, template, template_file, encoding, expect, format, \
                generate, absent, hash, owner, group, mode, directory_mode, directory_owner, newline, hosts, \
             used_by, kind, keep_old, restart, reload, try_restart, run_after, health, settle, output, apply_password, allow_empty, \
             allow_world_readable, allow), and this is a list",
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
            vec!["9:39+3 `newline` is `true`, `false` or `ensure`, and this is `yes`"],
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
            "  a: { path: /d/a, from: ci:A, directory_mode: '0700' }\n  \
             b: { path: /d/b, from: ci:A, directory_mode: '0711' }",
            vec!["10:48+6 `/d` cannot be 0711 here and 0700 for `a` (line 9)"],
        ),
        (
            "  a: { path: /d/a, from: ci:A, directory_mode: '0700' }\n  \
             b: { path: /d/b, from: ci:A, directory_mode: '700' }",
            vec![],
        ),
        (
            "  a: { path: /d/a, from: ci:A, directory_owner: 'x:1' }\n  \
             b: { path: /d/b, from: ci:A, directory_owner: x }",
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
            vec!["9:39+5 NX001 cannot be allowed", "9:49+5 the reason is empty"],
        ),
        (
            "  a: { path: /a, from: ci:A, allow: { NX107: x, DD30: x, DD301: '  ' } }",
            vec!["9:39+5 NX107 cannot be allowed", "9:49+4 unknown code `DD30`", "9:58+5 the reason is empty"],
        ),
        ("  a: { path: /tmp/a, from: ci:A, allow: { NX003: 'a test' } }", vec![]),
        (
            "  a: { path: /tmp/a, from: ci:A, allow: { NX005: 'another' } }",
            vec!["9:14+6 NX003: /tmp/a is emptied at boot"],
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
                "1:1+1 a manifest is a mapping (version, sources, defaults, secrets, hosts, serial, allow), and this is a \
                list",
            ],
        ),
        (
            "text\n",
            vec![
                "1:1+4 a manifest is a mapping (version, sources, defaults, secrets, hosts, serial, allow), and this is text",
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
            "version: 1\ndefaults: {mode: '0444'}\nsecrets:\n  a: {path: /a, from: 'env:A', allow_world_readable: \
            true}\n",
            vec![],
        ),
        ("version: 1\nsecrets:\n  a: {path: /a, from: 'env:A', hosts: [x]}\n", vec!["3:40+1 unknown host `x`"]),
        // A mistake is reported once: a reference to a wrong entry is not an error.
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
