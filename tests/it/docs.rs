//! What the README promises runs as it stands, and what it and the pages of docs name is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::kit::Scratch;
use crate::kit::run::Deaddrop;

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
    let copy = "cp tests/images/raw-efi.img.zst base.img.zst && ";
    let cargo = [first.trim().strip_prefix(copy).expect("no committed image is named").to_owned()];
    assert!(!cargo[0].ends_with('\\'), "whole, on one line");
    let cargo = cargo.into_iter().chain(commands("cargo run --release -- ")).collect::<Vec<_>>();
    // Only what these lines name is there, and what the manifest names.
    for file in ["tests/images/raw-efi.img.zst", "secrets.example.yaml", "tests/exports/homelab.json"] {
        let to = scratch.join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(repository().join(file), to).unwrap();
    }
    fs::copy(scratch.join("tests/images/raw-efi.img.zst"), scratch.join("base.img.zst")).unwrap();
    for line in &cargo {
        let args = line.strip_prefix("cargo run --release -- ").unwrap().split(' ');
        let run = Deaddrop::new(&scratch).args(args).run().expect_code(0);
        let said = format!("{}{}", run.stdout(), run.stderr());
        assert!(!said.contains("  ! "), "a warning:\n{said}");
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

/// The anchors of a page: of its headings, as GitHub makes them (letters, digits, `-` and `_`, with `-` for each space),
/// and those that it sets itself.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let is_kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    let of_headings =
        headings.map(|heading| heading.to_lowercase().chars().filter(is_kept).collect::<String>().replace(' ', "-"));
    let own = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    of_headings.chain(own).collect()
}

#[test]
fn links_between_the_manuals_pages_lead_to_a_page_and_to_a_heading_of_it() {
    let docs = repository().join("docs");
    let mut missing: Vec<(PathBuf, String)> = Vec::new();
    for page in fs::read_dir(&docs).unwrap().flatten().map(|entry| entry.path()) {
        if page.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { docs.join(file) };
            let is_there = target.exists()
                && anchor
                    .is_none_or(|anchor| fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !is_there {
                missing.push((page.clone(), link.to_owned()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_page_of_the_manual_is_in_its_contents_once() {
    let docs = repository().join("docs");
    let contents = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    for page in fs::read_dir(&docs).unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if page.ends_with(".md") && page != "SUMMARY.md" {
            assert_eq!(contents.matches(&format!("]({page})")).count(), 1, "docs/SUMMARY.md: {page}");
        }
    }
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

#[test]
fn the_first_example_of_each_page_about_the_manifest_is_a_manifest_that_holds() {
    for page in ["manifest.md", "sources.md", "templates.md", "generate.md", "rotation.md"] {
        let text = fs::read_to_string(repository().join("docs").join(page)).unwrap();
        let example = text.lines().skip_while(|line| !line.trim_start().starts_with("version: 1"));
        let is_code = |line: &&str| !line.starts_with("```") && !line.is_empty();
        let example: String = example.take_while(is_code).map(|line| format!("{line}\n")).collect();
        assert!(text.find("version: 1") < text.find("\n## "), "{page} has its example in its first part");
        let scratch = Scratch::new();
        scratch.write("secrets.yaml", example);
        Deaddrop::new(&scratch).args(["check"]).run().expect_code(0);
    }
}

/// Below which code and tests are.
const ROOTS: [&str; 3] = ["src/", "crates/", "tests/"];

/// What a page says of code and tests, in backticks or as a link: a file or a directory by its whole path from the
/// repository's top, or `FILE::FUNCTION`.
fn names_of_code(text: &str) -> Vec<&str> {
    let code = text.split('`').skip(1).step_by(2).filter(|code| !code.contains(char::is_whitespace));
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let all = code.chain(links.map(|link| link.trim_start_matches("../")));
    all.filter(|name| ROOTS.iter().any(|root| name.starts_with(root)) || name.ends_with(".rs")).collect()
}

/// Those of them that are not there, as a page says them.
fn missing(text: &str) -> Vec<&str> {
    let is_there = |name: &&str| {
        let (path, function) = name.split_once("::").map_or((*name, None), |(path, function)| (path, Some(function)));
        let file = repository().join(path);
        let has = |function: &str| {
            let name = function.rsplit("::").next().unwrap_or(function);
            fs::read_to_string(&file)
                .is_ok_and(|code| ['(', '<'].iter().any(|after| code.contains(&format!("fn {name}{after}"))))
        };
        ROOTS.iter().any(|root| path.starts_with(root)) && file.exists() && function.is_none_or(has)
    };
    names_of_code(text).into_iter().filter(|name| !is_there(name)).collect()
}

/// Panics unless the code and the tests that a page names are there.
#[track_caller]
fn assert_names_what_is_there(page: &str) {
    let text = fs::read_to_string(repository().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    assert!(names_of_code(&text).len() > 20, "{page} names hardly anything");
    assert!(missing(&text).is_empty(), "{page} names what is not there: {:?}", missing(&text));
}

#[test]
fn the_code_and_the_tests_that_the_page_on_safety_names_are_there() {
    assert_names_what_is_there("docs/safety.md");
}

#[test]
fn the_files_and_functions_that_architecture_names_are_there() {
    assert_names_what_is_there("ARCHITECTURE.md");
}

/// The codes (`NX001`, `DD301`, …) in a text, without repetitions.
fn codes_in(text: &str) -> BTreeSet<&str> {
    let starts = ["NX", "DD"].iter().flat_map(|letters| text.match_indices(letters)).map(|(at, _)| at);
    let is_code = |at: &usize| {
        let alone = !text[..*at].ends_with(|before: char| before.is_ascii_alphanumeric());
        let mut after = text[at + 2..].chars();
        let digits = after.by_ref().take(3).filter(char::is_ascii_digit).count() == 3;
        alone && digits && !after.next().is_some_and(|next| next.is_ascii_alphanumeric())
    };
    starts.filter(is_code).map(|at| &text[at..at + 5]).collect()
}

/// All source files below a directory that are part of the program: tests are not.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()) {
        let is_test = path.file_stem().is_some_and(|name| name == "tests");
        match path.extension().and_then(|extension| extension.to_str()) {
            None if path.is_dir() && !is_test => sources(&path, found),
            Some("rs" | "sh") if !is_test => found.push(path),
            _ => {}
        }
    }
}

/// The code that a row of a table begins with, which is an anchor of that name: a link to a code leads to its row.
#[track_caller]
fn code_of_row(row: &str) -> Option<&str> {
    let cell = row.strip_prefix("| ")?.split(" |").next()?;
    let code = codes_in(cell).pop_first()?;
    assert_eq!(cell, format!("<a id=\"{code}\"></a>{code}"), "docs/codes.md");
    Some(code)
}

#[test]
fn every_code_of_the_program_has_one_row_in_the_page_of_codes_and_every_row_a_code() {
    let page = fs::read_to_string(repository().join("docs/codes.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter_map(code_of_row).collect();
    let mut files = Vec::new();
    ["src", "crates"].iter().for_each(|root| sources(&repository().join(root), &mut files));
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let program = texts.iter().map(|text| text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
    let codes: BTreeSet<&str> = program.flat_map(codes_in).collect();
    assert!(codes.len() > 20, "{codes:?}");

    let in_rows: BTreeSet<&str> = rows.iter().copied().collect();
    let twice = rows.len() - in_rows.len();
    let without_row: Vec<_> = codes.difference(&in_rows).collect();
    let without_code: Vec<_> = in_rows.difference(&codes).collect();
    assert!(
        twice == 0 && without_row.is_empty() && without_code.is_empty(),
        "docs/codes.md: {twice} rows twice, no row for {without_row:?}, rows that no code has: {without_code:?}"
    );
}

#[test]
fn codes_are_found_as_words_only() {
    let text = "NX001 `DD301`, NX0012 ADD301 DD30 xNX002 (DD601) NX001";
    assert_eq!(codes_in(text).into_iter().collect::<Vec<_>>(), ["DD301", "DD601", "NX001"]);
}

#[test]
fn a_name_that_leads_nowhere_is_noticed() {
    let there = "`src/lib.rs`, `tests/it/`, [here](../tests/it/docs.rs#top), `tests/it/docs.rs::missing`, `cargo test`";
    assert_eq!((names_of_code(there).len(), missing(there)), (4, vec![]));
    let not_there = "`src/no.rs`, `tests/no/`, [here](../crates/no.rs), `tests/it/docs.rs::no`, `docs.rs`";
    assert_eq!(missing(not_there), ["src/no.rs", "tests/no/", "tests/it/docs.rs::no", "docs.rs", "crates/no.rs"]);
}
