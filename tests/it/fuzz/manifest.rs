//! Manifests: sound ones with changes, and texts made of what YAML and the schema are made of.

use std::fmt::Write as _;
use std::path::Path;

use deaddrop::manifest::Manifest;
use deaddrop_core::path::TargetPath;

use super::engine::Target;
use super::input::Input;
use super::rng::Rng;
use super::text::edits;

pub struct Manifests {
    bases: Vec<String>,
}

impl Manifests {
    pub fn new() -> Self {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("secrets.example.yaml");
        let example = std::fs::read_to_string(example).expect("the example is there");
        let bases = vec![example, FLOW.to_owned(), HOSTS.to_owned()];
        for base in &bases {
            if let Err(errors) = Manifest::parse(base, Path::new("m.yaml")) {
                panic!("a base is no sound manifest: {errors}");
            }
        }
        Self { bases }
    }
}

impl Target for Manifests {
    fn generate(&mut self, rng: &mut Rng) -> Input {
        match rng.below(10) {
            0 | 1 => {
                let mut text = String::new();
                for _ in 0..rng.between(1, 12) {
                    node(rng, &mut text, 0, 0);
                }
                Input::made(text.into_bytes())
            }
            // Deep or long: what a parser that recurses, or compares all with all, trips over.
            2 if rng.one_in(8) => {
                let what = rng.pick(&[
                    "[", "{", "- ", "{a: ", "? ", "!!a ", "&a [", "[*a,", "a:\n ", "\"", "- - ", "|\n", "---\n",
                    "a: b\n",
                ]);
                let count = [10, 100, 1000, 10_000, 100_000][rng.below(5)];
                let before = rng.pick(&["", "version: 1\nsecrets: ", "secrets:\n  a:\n    from: ", "version: "]);
                Input::made(format!("{before}{}", what.repeat(count)).into_bytes())
            }
            2 => Input::made(laughs(rng).into_bytes()),
            _ => {
                let base = rng.below(self.bases.len());
                let edits = edits(rng, self.bases[base].as_bytes(), WORDS);
                Input { base, edits, ..Input::default() }
            }
        }
    }

    fn run(&mut self, input: &Input) -> String {
        let bytes = self.bytes(input);
        let text = String::from_utf8_lossy(&bytes);
        match Manifest::parse(&text, Path::new("dir/m.yaml")) {
            Ok(manifest) => {
                for secret in &manifest.secrets {
                    let path = secret.path.as_str();
                    assert_eq!(TargetPath::parse(path).as_ref().map(TargetPath::as_str), Ok(path));
                    assert!(path.starts_with('/') && path.split('/').all(|part| part != ".." && part != "."), "{path}");
                    assert_eq!(secret.mode & !0o664, 0, "{path}: mode {:o}", secret.mode);
                }
                let mut paths: Vec<&str> = manifest.secrets.iter().map(|secret| secret.path.as_str()).collect();
                let count = paths.len();
                paths.sort_unstable();
                paths.dedup();
                let _ = manifest.select(None, &[]).map_err(|error| error.hint());
                for host in manifest.hosts.keys().take(4) {
                    manifest.select(Some(host), &[]).unwrap_or_else(|error| panic!("host {host}: {error}"));
                }
                assert!(paths.len() == count || !manifest.hosts.is_empty(), "a path comes twice");
                "taken".into()
            }
            Err(errors) => {
                assert!(errors.count() > 0);
                let shown = errors.to_string();
                let harmless = |c: char| c == '\n' || !c.is_control();
                assert!(shown.chars().all(harmless), "a control character reaches a terminal");
                assert!(shown.len() < 1 << 20, "{} bytes of errors", shown.len());
                // A lone carriage return ends a line as well, in YAML.
                let lines = text.split(['\n', '\r']).count();
                for problem in errors.problems() {
                    if let Some(at) = problem.location {
                        assert!(at.line >= 1 && at.column >= 1 && at.line <= lines + 1, "{at:?} of {lines} lines");
                    }
                }
                "refused".into()
            }
        }
    }

    fn bytes(&self, input: &Input) -> Vec<u8> {
        input.bytes(self.bases[input.base].as_bytes())
    }
}

/// A random piece of YAML.
fn node(rng: &mut Rng, text: &mut String, indent: usize, depth: usize) {
    let pad = " ".repeat(indent);
    let word = rng.pick(WORDS);
    match rng.below(if depth > 5 { 3 } else { 7 }) {
        0 => _ = writeln!(text, "{pad}{word}: {}", rng.pick(WORDS)),
        1 => _ = writeln!(text, "{pad}- {word}"),
        2 => _ = writeln!(text, "{pad}{word}"),
        3 => {
            _ = writeln!(
                text,
                "{pad}{word}: {{ {}: {}, {}: {} }}",
                rng.pick(WORDS),
                rng.pick(WORDS),
                rng.pick(WORDS),
                rng.pick(WORDS)
            )
        }
        _ => {
            let _ = writeln!(text, "{pad}{word}:");
            let further = indent + rng.between(0, 3);
            for _ in 0..rng.between(1, 4) {
                node(rng, text, further, depth + 1);
            }
        }
    }
}

/// Aliases of aliases.
fn laughs(rng: &mut Rng) -> String {
    let mut text = String::from("version: 1\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..rng.between(2, 30) {
        let again = format!("*a{}", level - 1);
        let _ = writeln!(text, "a{level}: &a{level} [{}]", vec![again; rng.between(1, 9)].join(", "));
    }
    text
}

const FLOW: &str = r#"{version: 1, sources: {v: {type: bitwarden, path: x.json}, d: {type: dotenv, path: .env}},
 defaults: {owner: root, mode: "0400"},
 secrets: {a: {path: /etc/secrets/a, from: {source: v, item: "x", field: y}, hash: yescrypt},
   b: {path: /var/lib/b, from: "d:K", owner: 1000, group: 100, mode: "0440", newline: true},
   c: {path: /etc/c, from: env:X, allow_empty: true, mode: "0444", allow_world_readable: true}}}
"#;

const HOSTS: &str = r#"version: 1
sources:
  ci: { type: env, prefix: HOMELAB_ }
  files:
    type: file
    path: keys
secrets:
  one:
    path: /etc/secrets/one
    from: ci:ONE
    hosts: [node1, "tag:server"]
  two:
    path: /etc/secrets/two
    from: files:two.key
    directory_mode: "0711"
    used_by: [users.users.admin.hashedPasswordFile, services.x.y]
    hash: sha512crypt
  three: &three
    path: "/etc/secrets/three"
    from: >-
      env:THREE
hosts:
  node1: { ssh: root@192.168.1.11, tags: [server] }
  node2:
    ssh: root@node2.example
    tags:
      - server
      - edge
"#;

const WORDS: &[&str] = &[
    "version",
    "sources",
    "defaults",
    "secrets",
    "hosts",
    "path",
    "from",
    "hash",
    "owner",
    "group",
    "mode",
    "newline",
    "type",
    "bitwarden",
    "dotenv",
    "env",
    "file",
    "prefix",
    "used_by",
    "tags",
    "ssh",
    "source",
    "item",
    "field",
    "absent",
    "generate",
    "kind",
    "token",
    "ssh-ed25519",
    "alphabet",
    "template",
    "directory_mode",
    "allow_empty",
    "allow_world_readable",
    "yescrypt",
    "tag:server",
    "node1",
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "\n    ",
    "\t",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "!!binary ",
    "!x ",
    "? ",
    "<<: *a",
    "| \n",
    "> \n",
    "|+9\n",
    "#",
    " #",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    "'",
    "\"",
    "\\",
    "\\x00",
    "\"\\u0000\"",
    "\"\\uD800\"",
    "~",
    "null",
    "true",
    "yes",
    "0",
    "1",
    "-1",
    "0400",
    "\"0400\"",
    "\"0777\"",
    "0o400",
    "1e9",
    "18446744073709551616",
    ".inf",
    "/etc/secrets/a",
    "/etc/../x",
    "/",
    "//",
    "/etc/secrets/a/b",
    "../x",
    "~/x",
    "vault:x#y",
    "v:",
    ":x",
    "a:b:c#d#e",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{feff}",
    "\u{2028}",
    "\u{202e}",
    "é",
    "日本",
    "\u{1f511}",
    "\r",
    "\r\n",
    "\u{1b}[31m",
    "@",
    "`",
    "%",
    "=",
    "!",
    "&",
    "*",
    "?",
    "-",
    "users.users.\"a.b\".hashedPasswordFile",
    "2001-01-01",
    "0x1F",
    "1_000",
    "a b",
    "",
];
