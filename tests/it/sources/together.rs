//! One manifest with six kinds of source, into an image: every value arrives, and nothing of them anywhere else. While
//! the last source is read, the process's memory holds what was asked for, and of the rest of the vaults nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::path;
use crate::kit::canary::Canary;
use crate::kit::run::Deaddrop;
use crate::kit::{Scratch, images, mount, write_program};

/// Counts in the memory of its parent, which is the program, how often each of `needles` stands there, and prints one
/// value.
const PROBE: &str = r#"#!/usr/bin/env python3
import json, os
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
needles = {name: bytes.fromhex(text) for name, text in json.load(open(here + "/needles")).items()}
pid = os.getppid()
found = dict.fromkeys(needles, 0)
with open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in open(f"/proc/{pid}/maps"):
        area, rights = line.split()[:2]
        if not rights.startswith("rw"):
            continue
        start, end = (int(part, 16) for part in area.split("-"))
        try:
            memory.seek(start)
            content = memory.read(end - start)
        except (OSError, ValueError):
            continue
        for name, needle in needles.items():
            found[name] += content.count(needle)
json.dump(found, open(here + "/found", "w"))
print(open(here + "/printed").read(), end="")
"#;

#[test]
fn six_kinds_of_source_fill_an_image_and_leave_nothing_else() {
    let scratch = Scratch::new();
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exports");
    for name in ["bitwarden-pbkdf2.json", "keepass/version3.kdbx", "onepassword.1pux"] {
        fs::copy(exports.join(name), scratch.join(Path::new(name).file_name().unwrap())).unwrap();
    }
    let fresh: BTreeMap<&str, Canary> =
        ["env", "dotenv", "exec"].into_iter().map(|name| (name, Canary::new(name))).collect();
    let wanted = [
        ("bitwarden", Canary::of("bitwarden", b"$HOME ${X} $(id) $$ %d {{x}}")),
        ("keepass", Canary::of("keepass", b"planted-top")),
        ("onepassword", Canary::of("onepassword", b"planted-router")),
    ];
    // Of the same vaults, and never asked for.
    let unwanted: &[(&str, &[u8])] = &[
        ("bitwarden, another item", b"\"double\" 'single' \\back\\slash `tick` ,;"),
        ("keepass, another item", b"planted-router-home"),
        ("keepass, another field", b"planted notes\nsecond line"),
        ("onepassword, another item", b"planted-backup"),
        ("onepassword, another field", b"planted note\nsecond"),
    ];
    fs::create_dir(scratch.join("bin")).unwrap();
    write_program(&scratch.join("bin/probe"), PROBE);
    scratch.write("printed", format!("{{\"value\":\"{}\"}}", fresh["exec"].text()));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let needles: BTreeMap<&str, String> = unwanted
        .iter()
        .map(|(name, bytes)| (*name, hex(bytes)))
        .chain(wanted.iter().map(|(name, canary)| (*name, hex(canary.bytes()))))
        .collect();
    scratch.write("needles", serde_json::to_string(&needles).unwrap());
    scratch.write(
        "secrets.yaml",
        "version: 1
sources:
  bw: { type: bitwarden, path: bitwarden-pbkdf2.json, password: { env: BW_PASSWORD } }
  kp: { type: keepass, path: version3.kdbx, password: { env: KP_PASSWORD } }
  op: { type: onepassword, path: onepassword.1pux }
  dot: { type: dotenv, path: '-' }
  tool: { type: exec, argv: [probe] }
secrets:
  bitwarden: { path: /etc/secrets/bitwarden, from: bw:odd values/dollar }
  keepass: { path: /etc/secrets/keepass, from: kp:Top }
  onepassword: { path: /etc/secrets/onepassword, from: op:Private/Router }
  env: { path: /etc/secrets/env, from: env:PLAIN }
  dotenv: { path: /etc/secrets/dotenv, from: dot:A }
  exec: { path: /etc/secrets/exec, from: tool:/value }
",
    );
    let image = images::RAW_EFI.committed(&scratch);
    let name = image.path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut run = Deaddrop::new(&scratch)
        .args(["inject", name.as_str(), "-m", "secrets.yaml", "-o", "out.img", "-vv"])
        .env("PATH", path(&scratch))
        .env("BW_PASSWORD", "correct \"horse\" $battery ünïcödé")
        .env("KP_PASSWORD", "correct horse ünïcödé")
        .env("PLAIN", fresh["env"].text())
        .stdin(format!("A={}\n", fresh["dotenv"].text()))
        .traced("%file");
    for canary in fresh.values().chain(wanted.iter().map(|(_, canary)| canary)) {
        run = run.plant(canary);
    }
    run.run().expect_code(0);

    let found: BTreeMap<String, usize> = serde_json::from_slice(&fs::read(scratch.join("found")).unwrap()).unwrap();
    for (name, _) in &wanted {
        assert!(found[*name] > 0, "{name}: the probe sees nothing");
    }
    for (name, _) in unwanted {
        assert_eq!(found[*name], 0, "{name} is in memory, and nobody asked for it");
    }
    let out = images::Image::new(scratch.join("out.img"), image.root_offset);
    mount::assert_fsck_clean(&out);
    let mount = mount::Mount::read_only(&out);
    let all =
        wanted.iter().map(|(name, canary)| (*name, canary)).chain(fresh.iter().map(|(name, canary)| (*name, canary)));
    for (name, canary) in all {
        assert!(fs::read(mount.at("/etc/secrets").join(name)).unwrap() == canary.bytes(), "{name}");
    }
}
