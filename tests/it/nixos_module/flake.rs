//! The flake itself, and every file of Nix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{nix, nixpkgs_lib, repository};
use crate::kit::{Scratch, tool, write_program};

/// Our flake and the examples in a directory of their own, and `nix`, which finds stand-ins in place of their inputs.
pub(super) struct Flakes {
    pub scratch: Scratch,
}

impl Flakes {
    pub fn new() -> Self {
        let flakes = Self { scratch: Scratch::new() };
        let at = |name: &str| flakes.scratch.join(name);
        for directory in ["deaddrop/docs", "nixpkgs", "bin", "state"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for name in ["flake.nix", "nix", "examples", "Cargo.toml", "docs/manifest.schema.json"] {
            copy(&repository().join(name), &at("deaddrop").join(name));
        }
        copy(&repository().join("tests/nix/sops-nix"), &at("sops-nix"));
        for name in ["flake.nix", "nixos.nix"] {
            copy(&repository().join("tests/nix").join(name), &at("nixpkgs").join(name));
        }
        let lib = nixpkgs_lib();
        match lib.is_dir() {
            true => copy(&lib, &at("nixpkgs/lib")),
            false => {
                fs::create_dir(at("nixpkgs/lib")).unwrap();
                copy(&lib, &at("nixpkgs/lib/default.nix"));
            }
        }
        let top = flakes.scratch.path().display();
        let inputs = ["nixpkgs", "deaddrop", "sops-nix"];
        let inputs: String = inputs.map(|name| format!(" --override-input {name} path:{top}/{name}")).concat();
        let program = format!(
            "#!/bin/sh\nexec {} --extra-experimental-features 'nix-command flakes' --store {top}/root \"$@\" \
             --no-write-lock-file --offline{inputs}\n",
            crate::kit::program("nix").display()
        );
        write_program(&at("bin/nix"), &program);
        flakes
    }

    /// `nix` in the directory of an example, or at the top (`.`) of our flake.
    pub fn nix(&self, directory: &str) -> Command {
        let mut command = nix(&self.scratch.join("bin/nix").display().to_string(), &self.scratch);
        command.current_dir(self.scratch.join("deaddrop").join(directory));
        command
    }

    /// `nix eval --json` of an output.
    #[track_caller]
    pub fn eval(&self, directory: &str, output: &str) -> Value {
        let said = tool(self.nix(directory).args(["eval", "--json", output]));
        serde_json::from_slice(&said.stdout).expect("JSON of nix")
    }
}

/// A store's directories cannot be changed, not even by who removes them, unless it is root.
impl Drop for Flakes {
    fn drop(&mut self) {
        // What stays is found by scripts/test.
        let _ = Command::new("chmod").args(["-R", "u+w"]).arg(self.scratch.join("root")).output();
    }
}

/// Copies a file, or a directory with all in it, so that it can be changed.
fn copy(from: &Path, to: &Path) {
    tool(Command::new("cp").args(["-r", "--no-preserve=mode", "--"]).arg(from).arg(to));
}

/// All files of Nix below a directory.
fn nix_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(nix_files(&path)),
            false if path.extension().is_some_and(|suffix| suffix == "nix") => found.push(path),
            false => {}
        }
    }
    found
}

#[test]
fn every_file_of_nix_parses_and_has_no_long_line() {
    let scratch = Scratch::new();
    let mut files = vec![repository().join("flake.nix")];
    ["nix", "examples", "tests/nix"].iter().for_each(|top| files.extend(nix_files(&repository().join(top))));
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        tool(nix("nix-instantiate", &scratch).args(["--store", "dummy://", "--parse"]).arg(&file));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().all(|line| line.len() <= 120), "{}", file.display());
    }
}

#[test]
fn the_flake_has_a_package_an_overlay_a_shell_checks_an_app_the_module_and_the_function() {
    let flakes = Flakes::new();
    let eval = |output: &str, f: &str| -> Value {
        let said = tool(flakes.nix(".").args(["eval", "--json", output, "--apply", f]));
        serde_json::from_slice(&said.stdout).expect("JSON of nix")
    };
    let names = |output: &str| eval(output, "builtins.attrNames");
    for output in [".#packages", ".#apps", ".#devShells", ".#checks"] {
        assert_eq!(names(output), json!(["aarch64-linux", "x86_64-linux"]), "{output}");
    }
    assert_eq!(eval(".#overlays.default", "overlay: builtins.attrNames (overlay { } { })"), json!(["deaddrop"]));
    assert_eq!(names(".#checks.x86_64-linux"), json!(["example", "package"]));
    let check = flakes.eval(".", ".#checks.x86_64-linux.example");
    assert!(check.as_str().is_some_and(|script| script.contains("services.k3s.tokenFile")), "{check}");
    assert_eq!(eval(".#nixosModules.default", "builtins.isPath"), json!(true));
    assert_eq!(eval(".#lib.manifest", "builtins.isFunction"), json!(true));

    let package = eval(
        ".#packages.x86_64-linux.default",
        "package: { inherit (package) pname version buildType; inherit (package.meta) mainProgram; }",
    );
    let want = json!({
        "pname": "deaddrop", "version": env!("CARGO_PKG_VERSION"), "buildType": "dist", "mainProgram": "deaddrop",
    });
    assert_eq!(package, want);
}

#[test]
fn the_profile_and_the_files_of_the_package_are_there() {
    let package = fs::read_to_string(repository().join("nix/package.nix")).unwrap();
    let cargo = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    assert!(cargo.contains("[profile.dist]") && package.contains("buildType = \"dist\""));
    let files: Vec<&str> = package.lines().map(str::trim).filter_map(|line| line.strip_prefix("../")).collect();
    assert!(files.contains(&"Cargo.lock") && files.contains(&"src"), "{files:?}");
    for file in files {
        assert!(repository().join(file).exists(), "{file}");
    }
    // Without hashes of their own, dependencies come from the registry alone.
    assert!(!fs::read_to_string(repository().join("Cargo.lock")).unwrap().contains("git+"));
}
