//! `deaddrop tree`: the files of a host alone, for nixos-anywhere and disko.

mod closure;
mod directory;
mod program;
mod refused;
mod stopped;
mod words;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::kit::canary::Canary;
use crate::kit::run::{Deaddrop, NOBODY};
use crate::kit::{Scratch, is_root};

/// A scratch directory, a directory in memory for trees, and a value.
struct Case {
    scratch: Scratch,
    /// On a tmpfs; XDG_RUNTIME_DIR of the runs.
    memory: tempfile::TempDir,
    value: Canary,
}

impl Case {
    /// With this manifest, below `version: 1`.
    fn new(manifest: &str) -> Self {
        let memory = tempfile::Builder::new().prefix("deaddrop-test.").tempdir_in("/dev/shm").unwrap();
        let case = Self { scratch: Scratch::new(), memory, value: Canary::new("the value") };
        case.scratch.write("secrets.yaml", format!("version: 1\n{manifest}"));
        case
    }

    /// One secret of the host node1 with these keys.
    fn one(keys: &str) -> Self {
        Self::new(&format!("secrets:\n  a: {{ from: env:A, {keys} }}\nhosts: {{ node1: {{}} }}\n"))
    }

    /// `tree` for node1, with further words.
    fn tree(&self, words: &[&str]) -> Deaddrop<'_> {
        let run = Deaddrop::new(&self.scratch).args(["tree", "--host", "node1"]).args(words).plant(&self.value);
        run.env("A", self.value.text()).env("XDG_RUNTIME_DIR", self.memory.path())
    }

    /// The same as nobody, who may write to the scratch directory.
    fn tree_of_nobody(&self, words: &[&str]) -> Deaddrop<'_> {
        if is_root() {
            self.scratch.give_to(NOBODY);
            std::os::unix::fs::chown(self.memory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.tree(words).unprivileged()
    }

    fn path(&self, name: &str) -> String {
        self.scratch.join(name).display().to_string()
    }

    /// The trees that are in memory now.
    fn trees(&self) -> Vec<PathBuf> {
        fs::read_dir(self.memory.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Writes a program for `sh` into the scratch directory; gives its path.
    fn program(&self, name: &str, text: &str) -> String {
        let path = self.scratch.join(name);
        crate::kit::write_program(&path, &format!("#!/bin/sh\n{text}"));
        path.display().to_string()
    }
}

/// The paths in a directory, each with its mode and owner, and its content for a file; sorted.
fn listing(top: &Path) -> Vec<String> {
    fn add(top: &Path, path: &Path, lines: &mut Vec<String>) {
        use std::os::unix::fs::MetadataExt;
        let data = path.symlink_metadata().unwrap();
        let shown = path.strip_prefix(top).unwrap().display();
        let content = if data.is_file() { crate::kit::sha256_of(path) } else { String::new() };
        let mode = data.permissions().mode() & 0o7777;
        lines.push(format!("/{shown} {mode:04o} {}:{} {content}", data.uid(), data.gid()).trim_end().to_owned());
        if data.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                add(top, &entry.unwrap().path(), lines);
            }
        }
    }
    let mut lines = Vec::new();
    add(top, top, &mut lines);
    lines.sort();
    lines
}
