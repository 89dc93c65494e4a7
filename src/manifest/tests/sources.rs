//! The keys of every kind of source.

use super::*;

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
        "type: keepass, path: x.kdbx, key_file: k, kdf_limit: none",
        "type: bitwarden, path: x, password: ask, kdf_limit: none",
        "type: csv, path: x.age, password: ask, columns: {item: name}, kdf_limit: none",
        "type: passage, identity: keys, kdf_limit: none",
        "type: age, path: x.age, format: json, password: ask, kdf_limit: none",
        "type: proton-pass, path: x.zip, password: ask",
        "type: lastpass, path: x.csv",
        "type: csv, path: x.csv, columns: {item: name, password: password, PIN: pin}",
        "type: csv, path: x.csv, columns: {item: 1, password: 4}",
        "type: csv, path: x.csv, columns: {item: \"1\", password: \"4\"}",
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
        ("type: dotenv, path: x, kdf_limit: none", "a dotenv file is not encrypted: it takes no `kdf_limit`"),
        ("type: bitwarden, path: x, password: ask, kdf_limit: some", "unknown kdf_limit `some`"),
        ("type: pass, kdf_limit: none", "unknown key `kdf_limit`"),
        ("type: csv, path: x", "a csv source needs `columns`"),
        ("type: csv, path: x, columns: {item: 1, password: p}", "`columns` are all names, or all numbers"),
        ("type: csv, path: x, columns: {item: name, password: 4}", "`columns` are all names, or all numbers"),
        ("type: csv, path: x, columns: {item: 0, password: 4}", "no column has this number"),
        ("type: csv, path: x, columns: {item: 1, password: 1001}", "no column has this number"),
        ("type: csv, path: x, columns: {item: true}", "an entry is text or a number, and this is true or false"),
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
