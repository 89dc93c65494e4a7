//! deaddrop in CI: the action, and the jobs and workflows of contrib/ci. A test that needs a program which is no Debian
//! package is ignored here: the stage `ci` of scripts/test brings the program, and runs it.

mod action;
mod gitlab;
mod vendors;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::kit::{sha256_of, tool};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of this repository.
fn file(name: &str) -> PathBuf {
    repository().join(name)
}

/// A YAML file of this repository, as JSON.
fn yaml(name: &str) -> Value {
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = tool(Command::new("python3").args(["-c", program]).arg(file(name)));
    serde_json::from_slice(&output.stdout).expect("JSON of python3")
}

/// The text of a value that must be one.
#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A program as a release gives it: its URL and its SHA-256.
fn released(program: &Path) -> [String; 2] {
    [format!("file://{}", program.display()), sha256_of(program)]
}
