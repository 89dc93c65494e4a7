//! The NixOS module, the manifest that it gives, the flake and its examples, evaluated by nix (Debian's nix-bin).
//!
//! tests/nix stands for nixpkgs: its lib, the few options of NixOS that the module reads, and its flake.
//! `DEADDROP_NIXPKGS_LIB=DIR` takes nixpkgs' own `lib` in place of ours.

mod examples;
mod flake;
mod manifest;
mod options;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::kit::Scratch;

/// The repository.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory or file that is the lib of nixpkgs.
fn nixpkgs_lib() -> PathBuf {
    let ours = || repository().join("tests/nix/lib.nix");
    let path = std::env::var_os("DEADDROP_NIXPKGS_LIB").map_or_else(ours, PathBuf::from);
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program of nix that reads no file of this machine's own nix, and writes below the scratch directory only.
fn nix(program: &str, scratch: &Scratch) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", scratch.path()).env("NIX_CONF_DIR", scratch.path()).env("NIX_STATE_DIR", scratch.join("state"));
    command
}

/// What an expression is, or what nix says of it. It can use `lib`, `manifest { HOST = NODE; … }`, `node MODULE`
/// (a NixOS with the module, and MODULE), and `errors NODE` and `warnings NODE`: lists of texts.
fn evaluate(expression: &str) -> Result<Value, String> {
    let scratch = Scratch::new();
    let at = |path: &str| repository().join(path).display().to_string();
    let whole = [
        format!("let lib = import {}; manifest = import {};", nixpkgs_lib().display(), at("nix/manifest.nix")),
        format!(
            "node = m: lib.evalModules {{ modules = [ {} {} m ]; }};",
            at("tests/nix/nixos.nix"),
            at("nix/module.nix")
        ),
        "failed = node: builtins.filter (one: !one.assertion) node.config.assertions;".to_owned(),
        "errors = node: map (one: one.message) (failed node);".to_owned(),
        format!("warnings = node: node.config.warnings; in {expression}"),
    ];
    let mut command = nix("nix-instantiate", &scratch);
    command.args(["--store", "dummy://", "--eval", "--strict", "--json", "-E", &whole.join("\n")]);
    let output = command.output().expect("running nix-instantiate");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("JSON of nix")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The same for what has to be.
#[track_caller]
fn value_of(expression: &str) -> Value {
    evaluate(expression).unwrap_or_else(|said| panic!("{expression}:\n{said}"))
}

/// The same for a list of texts.
#[track_caller]
fn texts_of(expression: &str) -> Vec<String> {
    serde_json::from_value(value_of(expression)).expect("a list of texts")
}

/// Panics unless nix refuses an expression with this text.
#[track_caller]
fn refused(expression: &str, text: &str) {
    match evaluate(expression) {
        Ok(value) => panic!("{expression} is {value}, not refused with {text}"),
        Err(said) => assert!(said.contains(text), "{expression}: no `{text}` in\n{said}"),
    }
}
