//! What is wrong with a template is told by `check`, before any value is read: in the manifest, or in the template's
//! own file, with line and column.

use std::fs;

use super::Place;
use crate::kit::canary::Canary;

#[test]
fn an_error_in_an_inline_template_has_its_place_in_the_manifest() {
    for (lines, part, want) in [
        ("  a: { path: /a, template: \"é {{ secret('vualt:x') }}\\n\" }\n", "vualt", "unknown source `vualt`"),
        ("  a: { path: /a, template: '{{ secret(''vualt:x'') }}' }\n", "vualt", "unknown source `vualt`"),
        ("  a:\n    path: /a\n    template: |\n      PSK=x\n      A={{ nome }}\n", "nome", "undefined name `nome`"),
        ("  a:\n    path: /a\n    template: \"\\t{{ }}\"\n", "}}", "the template cannot be read: "),
        ("  a: { path: /a, template: \"\\t{{ host | b64encod }}\" }\n", "b64encod", "unknown filter `b64encod`"),
        ("  a: { path: /a, template: \"{{ secret('vault:x#') }}\" }\n", "#'", "there is no field after the `#`"),
        ("  a: { path: /a, template: \"{{ secret('env:A#b') }}\" }\n", "b')", "what `env` holds has no fields"),
        ("  a: { path: /a, template: \"{% for i in host %}{% endfor %}\" }\n", "host", "a loop goes over a list"),
        (
            "  a:\n    path: /a\n    template: >\n      first\n      {{ nome }}\n",
            "first",
            "line 1 of the template: undefined name `nome`",
        ),
    ] {
        let manifest = format!("sources:\n  vault: {{ type: bitwarden, path: x.json }}\nsecrets:\n{lines}");
        let place = Place::new(&manifest);
        let whole = format!("version: 1\n{manifest}");
        let mut found = (1..).zip(whole.lines()).filter(|(number, line)| *number > 4 && line.contains(part));
        let (line, text) = found.next().unwrap();
        let column = text[..text.find(part).unwrap()].chars().count() + 1;
        place.run(&["check"]).run().expect_refusal(lines, 2, &[&format!("secrets.yaml:{line}:{column}: {want}")]);
    }
}

#[test]
fn an_error_in_a_templates_file_has_its_place_there_and_shows_only_the_tag() {
    let word = Canary::new("a value in a template");
    let place = Place::new(
        "sources:\n  vault: { type: bitwarden, path: x.json }\nsecrets:\n  \
         a: { path: /a, template_file: templates/wifi.env }\n",
    );
    fs::create_dir(place.scratch.join("templates")).unwrap();
    let text = format!(
        "first={}\né={} {{{{ secret('vualt:Wifi') }}}} {}\nlast={{{{ host | jsn }}}}\n",
        word.text(),
        word.text(),
        word.text()
    );
    place.scratch.write("templates/wifi.env", text);
    let run = place.run(&["check"]).plant(&word).run();
    run.expect_refusal(
        "both",
        2,
        &[
            "error: templates/wifi.env:2:55: unknown source `vualt`",
            "    2 | …{{ secret('vualt:Wifi') }}…",
            "did you mean `vault`?",
            "error: templates/wifi.env:3:16: unknown filter `jsn`",
            "did you mean `json`?",
            "2 errors in secrets.yaml",
        ],
    );
    // From elsewhere, the file is named as it is found from there.
    let name = place.scratch.path().file_name().unwrap().to_str().unwrap().to_owned();
    let manifest = format!("../{name}/secrets.yaml");
    let run = place.run(&["check", "-m", &manifest]).run();
    run.expect_refusal("elsewhere", 2, &[&format!("error: ../{name}/templates/wifi.env:2:55: ")]);
}

#[test]
fn a_templates_file_that_cannot_be_read_is_refused_by_its_kind() {
    let place = Place::new("secrets:\n  a: { path: /a, template_file: t }\n");
    let path = place.scratch.join("t");
    let refused = |want: &str| {
        drop(place.run(&["check"]).limited().run().expect_refusal(want, 2, &["secrets.yaml:3:33: ", want]))
    };
    refused("there is no such file");
    fs::create_dir(&path).unwrap();
    refused("the template is a directory, and a template is a regular file");
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("the template is a FIFO");
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"caf\xe9").unwrap();
    refused("the template is not UTF-8");
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    for (keys, want) in [
        ("from: env:A, template: x", "`from` and `template` do not go together"),
        ("template: x, template_file: y", "`template` and `template_file` do not go together"),
        ("absent: true, template: x", "`template` and `absent: true` do not go together"),
        ("absent: true, expect: pem", "`expect` and `absent: true` do not go together"),
        ("template: x, hash: yescrypt", "`hash` and `template` do not go together"),
        ("template: x, newline: true", "`newline` and `template` do not go together"),
        ("template: x, encoding: hex", "`encoding` and `template` do not go together"),
        ("from: env:A, format: json, hash: yescrypt", "`format: json` and `hash` do not go together"),
        ("from: env:A, format: jsn", "unknown format `jsn`"),
        ("from: env:A, encoding: base32", "unknown encoding `base32`"),
        ("from: env:A, expect: wireguard", "unknown expect `wireguard`"),
        ("from: env:A, expect: { kind: wireguard }", "unknown kind `wireguard`"),
        ("from: env:A, expect: {}", "`expect` is empty"),
        ("from: env:A, expect: { min_length: 0 }", "`min_length` is a number from 1 to 16777216"),
        ("from: env:A, expect: { min_length: \"8\" }", "`min_length` is a number, and this is text"),
        ("from: env:A, expect: { regex: '[a' }", "this `regex` cannot be read: unclosed character class"),
    ] {
        let place = Place::new(&format!("secrets:\n  a: {{ path: /a, {keys} }}\n"));
        place.run(&["check"]).run().expect_refusal(keys, 2, &["secrets.yaml:3:", want]);
    }
}
