//! What the README promises runs as it stands, and what it names is there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Scratch;
use common::run::Deaddrop;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}

/// The lines of the README's code blocks that begin with this, without their indentation.
fn commands(start: &str) -> Vec<String> {
    let readme = readme();
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
    lines.filter(|line| line.starts_with(start)).map(str::to_owned).collect()
}

#[test]
fn the_first_inject_line_runs_as_it_stands_and_the_verify_line_after_it() {
    let scratch = Scratch::new();
    let readme = readme();
    let first = readme.lines().find(|line| line.contains(" inject ")).expect("an inject line");
    let cargo = commands("cargo run --release -- ");
    assert_eq!(first.trim(), cargo[0], "the first line with `inject` is the one to try");
    assert!(!cargo[0].ends_with('\\'), "whole, on one line");
    // Only what these lines name is there, and what the manifest names.
    for file in ["tests/images/raw-efi.img.zst", "secrets.example.yaml", "tests/exports/homelab.json"] {
        let to = scratch.join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(repository().join(file), to).unwrap();
    }
    for line in &cargo {
        let args = line.strip_prefix("cargo run --release -- ").unwrap().split(' ');
        Deaddrop::new(&scratch).args(args).run().expect_code(0);
    }
    assert!(cargo.iter().any(|line| line.contains(" verify ")), "{cargo:?}");
    assert!(scratch.join("node1.img").exists());
}

#[test]
fn the_test_command_and_every_file_that_is_named_are_there() {
    assert_eq!(commands("scripts/"), ["scripts/test"]);
    let readme = readme();
    // Markdown links that lead into the repository.
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let links: Vec<&str> = links.filter(|link| !link.contains("://")).collect();
    assert!(links.contains(&"docs/manifest.schema.json"), "{links:?}");
    let missing: Vec<&&str> =
        links.iter().filter(|link| !repository().join(link.split('#').next().unwrap()).exists()).collect();
    assert!(missing.is_empty(), "the README names what is not there: {missing:?}");
}

#[test]
fn links_between_the_manuals_pages_lead_somewhere() {
    let docs = repository().join("docs");
    let mut missing: Vec<(PathBuf, String)> = Vec::new();
    for page in fs::read_dir(&docs).unwrap().flatten().map(|entry| entry.path()) {
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            if !link.contains("://") && !file.is_empty() && !docs.join(file).exists() {
                missing.push((page.clone(), link.to_owned()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_manifest_of_the_readme_is_one_that_holds() {
    let scratch = Scratch::new();
    let readme = readme();
    let block = readme.split("cat > secrets.yaml <<'YAML'\n").nth(1).expect("the README writes a manifest");
    let lines: Vec<&str> = block.lines().take_while(|line| line.trim() != "YAML").collect();
    let text: String = lines.iter().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    scratch.write("secrets.yaml", text);
    Deaddrop::new(&scratch).args(["check"]).run().expect_code(0);
}
