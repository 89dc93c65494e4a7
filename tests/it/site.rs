//! What `scripts/site` checks without a browser: pictures are current, and a link that leads nowhere is noticed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::kit::Scratch;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script of the repository in a directory; whether it succeeded, and what it said.
fn python(directory: &Path, script: &str, args: &[&str]) -> (bool, String) {
    let mut command = Command::new("python3");
    let output = command.arg("-B").arg(repository().join(script)).args(args).current_dir(directory).output();
    let output = output.expect("running python3");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

#[test]
fn every_picture_is_what_its_text_makes() {
    for script in ["scripts/site.d/draw.py", "scripts/bench.d/bars.py"] {
        assert_eq!(python(repository(), script, &["--check"]), (true, String::new()), "{script}");
    }
}

#[test]
fn the_recorded_terminal_shows_what_the_commands_print() {
    let deaddrop = env!("CARGO_BIN_EXE_deaddrop");
    let result = python(repository(), "scripts/site.d/record.py", &[deaddrop, "--check"]);
    assert_eq!(result, (true, String::new()));
}

#[test]
fn a_picture_that_is_not_its_text_is_noticed_and_drawn_again() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.join("docs/pictures")).unwrap();
    let outline = |text: &str| fs::write(scratch.join("docs/pictures/a.txt"), text).unwrap();
    let draw = |args: &[&str]| python(scratch.path(), "scripts/site.d/draw.py", args);

    outline("# Title\nbox: a <note>\n  * inner | other\nv\nend\n");
    let (is_current, said) = draw(&["--check"]);
    assert!(!is_current && said.contains("docs/pictures/a.svg"), "{said}");
    assert!(draw(&[]).0 && draw(&["--check"]).0);
    let svg = fs::read_to_string(scratch.join("docs/pictures/a.svg")).unwrap();
    assert!(svg.contains("a &lt;note&gt;") && svg.matches("<rect").count() == 5, "{svg}");

    for wrong in ["box\n", "# Title\n   box\n", "# Title\nbox\n    too deep\n", "# Title\na | b\n  c\n"] {
        outline(wrong);
        let (is_drawn, said) = draw(&[]);
        assert!(!is_drawn && said.contains("docs/pictures/a.txt: "), "{wrong:?}: {said}");
    }
}

#[test]
fn a_link_of_the_site_that_leads_nowhere_is_noticed() {
    let repository_link = "https://github.com/deaddrop/deaddrop";
    let good = ["b.html", "b.html#here", "#top", "https://example.org/x"].map(str::to_owned);
    let good = good.into_iter().chain([format!("{repository_link}/blob/main/README.md"), repository_link.to_owned()]);
    let bad = ["c.html", "b.html#there", "#bottom", "b.svg"].map(str::to_owned);
    let bad = bad.into_iter().chain([format!("{repository_link}/blob/main/no.md")]);
    for (links, is_good) in [(good.collect::<Vec<_>>(), true), (bad.collect(), false)] {
        let scratch = Scratch::new();
        let anchors: String = links.iter().map(|link| format!("<a href=\"{link}\">x</a>")).collect();
        scratch.write("a.html", format!("<h1 id=top>a</h1>{anchors}"));
        scratch.write("b.html", "<a id=\"here\"></a>");
        let site = scratch.path().to_str().unwrap();
        let (is_whole, said) = python(repository(), "scripts/site.d/check_links.py", &[site]);
        assert_eq!(is_whole, is_good, "{said}");
        let named = links.iter().filter(|link| said.lines().any(|line| line == format!("a.html: {link}"))).count();
        assert_eq!(named, if is_good { 0 } else { links.len() }, "{said}");
    }
}
