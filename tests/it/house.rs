//! Who may use whom: the rooms of the program, and the crates. ARCHITECTURE.md says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of src/, and the rooms that each may use.
const ROOMS: [(&str, &[&str]); 9] = [
    ("derive", &[]),
    ("nixos", &[]),
    ("selinux", &[]),
    ("manifest", &["derive", "nixos"]),
    ("place", &["derive", "nixos", "selinux"]),
    ("run", &["derive", "nixos", "selinux", "manifest", "place"]),
    ("rotate", &["derive", "nixos", "selinux", "manifest", "place", "run"]),
    ("report", &["derive", "nixos", "selinux", "manifest", "place", "run", "rotate"]),
    ("cli", &["derive", "nixos", "selinux", "manifest", "place", "run", "rotate", "report"]),
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(rust_files(&path)),
            false if path.extension().is_some_and(|suffix| suffix == "rs") => files.push(path),
            false => {}
        }
    }
    files
}

/// The rooms that a file of `depth` modules below the crate names, in `use` lines and in paths; without comments.
fn named_rooms(text: &str, depth: usize) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let up = "super::".repeat(depth);
    let mut rooms = BTreeSet::new();
    for start in ["crate::", up.as_str()] {
        for rest in code.split(start).skip(1) {
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap(),
                None => rest,
            };
            let word = |text: &str| -> String {
                text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
            };
            match rest.starts_with('{') {
                true => rooms.extend(list.split(',').map(word)),
                false => rooms.extend([word(rest)]),
            }
        }
    }
    rooms
}

#[test]
fn the_rooms_of_the_program_use_each_other_one_way_only() {
    let source = repository().join("src");
    let rooms: BTreeSet<String> = fs::read_dir(&source)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(rooms, ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect(), "a room has no rule");
    let mut wrong = Vec::new();
    for (room, allowed) in ROOMS {
        let files = rust_files(&source.join(room));
        assert!(!files.is_empty());
        for file in files {
            let below = file.strip_prefix(&source).unwrap();
            let is_mod = below.file_name().unwrap() == "mod.rs";
            let depth = below.components().count() - usize::from(is_mod);
            let text = fs::read_to_string(&file).unwrap();
            for named in named_rooms(&text, depth) {
                if rooms.contains(&named) && named != room && !allowed.contains(&named.as_str()) {
                    wrong.push(format!("{} uses {named}", below.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that run back: {wrong:#?}");
}

#[test]
fn an_arrow_is_found_however_it_is_written() {
    for text in [
        "use crate::report::Ui;",
        "use crate::{derive, report};",
        "fn f() { crate::report::say() }",
        "use super::super::report::Ui;",
    ] {
        assert!(named_rooms(text, 2).contains("report"), "{text}");
    }
    for text in ["// use crate::report::Ui;", "use super::report::Ui;", "use deaddrop_core::report;"] {
        assert!(!named_rooms(text, 2).contains("report"), "{text}");
    }
}

#[test]
fn the_libraries_know_neither_each_other_nor_the_program() {
    for (library, unknown) in [
        ("core", ["deaddrop-image", "deaddrop-vault", "clap"]),
        ("image", ["deaddrop-vault", "deaddrop =", "clap"]),
        ("vault", ["deaddrop-image", "deaddrop =", "clap"]),
    ] {
        let path = repository().join("crates").join(library);
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        for name in unknown {
            assert!(!manifest.contains(name), "{library} knows {name}");
        }
        // Nor does a file reach over the border by its path.
        for file in rust_files(&path.join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("/src/") || !text.contains("#[path"), "{}", file.display());
        }
    }
}
