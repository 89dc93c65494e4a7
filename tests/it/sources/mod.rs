//! Sources as a whole: what programs and vaults give arrives byte for byte, and nothing of it anywhere else.

mod passwords;
mod programs;
mod together;
mod warnings;

use std::fs;
use std::path::Path;

use crate::kit::{Scratch, write_program};

/// A directory that holds a root, as a target.
fn root(scratch: &Scratch) {
    fs::create_dir_all(scratch.join("root/etc")).unwrap();
}

/// What stands at `/etc/NAME` of the target.
fn injected(scratch: &Scratch, name: &str) -> Vec<u8> {
    fs::read(scratch.join("root/etc").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Writes a shell script that stands for a program; it is found by `path(scratch)`. `$HERE` in it is the scratch
/// directory.
fn program(scratch: &Scratch, name: &str, body: &str) {
    let bin = scratch.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let here = scratch.path().display();
    // Each call is noted: its arguments, and how the moment looked.
    let text = format!("#!/bin/sh\nHERE={here}\nprintf '%s\\n' \"{name} $*\" >>{here}/calls\n{body}\n");
    write_program(&bin.join(name), &text);
}

/// `PATH` with the scripts first.
fn path(scratch: &Scratch) -> String {
    format!("{}:{}", scratch.join("bin").display(), std::env::var("PATH").unwrap())
}

/// The calls that the scripts noted, sorted.
fn calls(scratch: &Scratch) -> Vec<String> {
    let mut calls: Vec<String> =
        fs::read_to_string(scratch.join("calls")).unwrap_or_default().lines().map(str::to_owned).collect();
    calls.sort();
    calls
}

/// A manifest with the sources and, for each `(file, reference)`, a secret at `/etc/FILE`.
fn manifest(scratch: &Scratch, sources: &str, secrets: &[(&str, &str)]) -> std::path::PathBuf {
    let secrets: String =
        secrets.iter().map(|(name, from)| format!("  {name}: {{ path: /etc/{name}, from: {from} }}\n")).collect();
    scratch.write(Path::new("secrets.yaml"), format!("version: 1\nsources:\n{sources}secrets:\n{secrets}"))
}
