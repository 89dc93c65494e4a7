//! Each filter against the programs that read what it writes: every value comes back byte for byte.

use std::fs;
use std::path::Path;

use super::Place;
use super::readers::{Reader, python};
use crate::kit::{Scratch, skipped_without_root};

/// Random numbers that are the same in every run (xorshift64*, Marsaglia and Vigna).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % limit
    }
}

/// Values that are hard to quote: by hand, and random ones of such characters.
fn values() -> Vec<String> {
    let by_hand = [
        "plain",
        " spaces ",
        "it's",
        "say \"hi\"",
        "'",
        "\"",
        "''",
        "\"\"",
        "\\",
        "\\\\",
        "\\\"",
        "\\'",
        "a\\",
        "a\\\\",
        "a'\\",
        "$HOME",
        "$",
        "$$",
        "${",
        "a$(id)b",
        "`id`",
        "!x",
        "#x",
        "x # y",
        "a=b",
        "=",
        ";x",
        "&|<>()[]{}*?~",
        "~",
        "-n",
        "%s",
        "\n",
        "a\nb",
        "a\n",
        "\na",
        "a\n\nb\n",
        "a\\\nb",
        "a\tb",
        "\r",
        "a\r\nb",
        "\u{1b}[0m",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "é",
        "пароль",
        "密码",
        "🔑",
        "e\u{301}",
        "\u{a0}",
        "\u{200b}",
        "'$`\"\\\n",
        "\"$x\" '$y' \\$z `w`",
        "null",
        "true",
        "1.0",
        ": ",
        "- a",
        "{a: b}",
        "[a]",
        "&a",
        "*a",
        "|",
        ">",
        "%a",
        "@a",
        "? a",
        "a: b # c",
        "\\n",
        "\\u0041",
        "\\x41",
    ];
    let pieces: Vec<char> = "'\"\\$`\n\r\t #=;{}()!~*&|<>abé🔑\u{7f}\u{2028}:-".chars().collect();
    let mut random = Random(0x5eed_0fde_add0_0d01);
    let random = (0..300).map(|_| {
        let length = 1 + random.below(12);
        (0..length).map(|_| pieces[random.below(pieces.len())]).collect::<String>()
    });
    by_hand.into_iter().map(str::to_owned).chain(random.collect::<Vec<_>>()).collect()
}

/// Makes a file of each value with this template (`@` stands for the reference), and gives the directory that they are
/// in.
fn made(template: &str, values: &[String]) -> Place {
    let mut manifest = String::from("secrets:\n");
    for index in 0..values.len() {
        let template = template.replace('@', &format!("secret('file:values/{index}')"));
        let template = serde_json::to_string(&template).unwrap();
        manifest += &format!("  s{index}: {{ path: /etc/made/{index}, template: {template} }}\n");
    }
    let place = Place::new(&manifest);
    for (index, value) in values.iter().enumerate() {
        place.value(&index.to_string(), value);
    }
    place.run(&["inject", "root", "-q"]).run().expect_code(0);
    place
}

/// Panics unless each reader gets every value back.
#[track_caller]
fn come_back(template: &str, values: &[String], readers: &[Reader]) {
    let place = made(template, values);
    for reader in readers {
        let got = reader.values(&place.at("etc/made"), &place.scratch.join("out"), values.len());
        for (value, got) in values.iter().zip(got) {
            assert!(
                got == value.as_bytes(),
                "{}: {value:?} came back as {:?}",
                reader.name(),
                String::from_utf8_lossy(&got)
            );
        }
    }
}

const SHELLS: [Reader; 2] = [Reader::Shell(&["dash"]), Reader::Shell(&["busybox", "sh"])];

#[test]
fn a_value_that_is_quoted_for_a_shell_comes_back_from_dash_and_busybox() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    come_back("V={{ @ | shell_quote }}\n", &values(), &SHELLS);
}

#[test]
fn a_value_that_is_quoted_for_systemd_comes_back_from_systemd_and_from_shells() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    come_back("V={{ @ | systemd_quote }}\n", &values(), &[Reader::Systemd]);
    come_back("V={{ @ | systemd_quote }}\n", &values(), &SHELLS);
}

#[test]
fn a_value_that_is_quoted_for_a_dotenv_file_comes_back_from_python_dotenv() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let expanded = |value: &String| value.split_once("${").is_some_and(|(_, rest)| rest.contains('}'));
    let values: Vec<String> = values().into_iter().filter(|value| !expanded(value)).collect();
    // Another line after it: a quote that is not closed would swallow it.
    come_back("V={{ @ | dotenv_quote }}\n# it's \"a\" comment\n", &values, &[Reader::Dotenv]);
    // What needs no escape is read alike by all.
    let simple: Vec<String> = values.into_iter().filter(|value| !value.contains(['\'', '\\', '\r'])).collect();
    assert!(simple.len() > 50);
    come_back("V={{ @ | dotenv_quote }}\n", &simple, &SHELLS);
    come_back("V={{ @ | dotenv_quote }}\n", &simple, &[Reader::Systemd]);
}

#[test]
fn a_value_that_is_quoted_as_json_comes_back_from_readers_of_json_and_yaml() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let values = values();
    for template in ["{ \"V\": {{ @ | json }} }\n", "a:\n- V: {{ @ | json }}\n"] {
        let place = made(template, &values);
        read_back(&place, &values, template);
    }
}

#[test]
fn several_lines_come_back_from_a_block_of_yaml_that_is_indented() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let values: Vec<String> =
        ["a\nb\n", "-----BEGIN X-----\nAAAA\n\nBBBB\n-----END X-----\n", "a\n  b\nc\n"].map(str::to_owned).to_vec();
    let template = "a:\n- V: |\n    {{ @ | indent(4) }}";
    read_back(&made(template, &values), &values, template);
}

/// Reads all files as YAML, and as JSON if they begin with `{`.
#[track_caller]
fn read_back(place: &Place, values: &[String], template: &str) {
    let out = place.scratch.join("out");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    let count = values.len().to_string();
    python(
        r#"
import json, sys, yaml
source, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for index in range(count):
    text = open(f"{source}/{index}", newline="").read()
    value = yaml.safe_load(text)
    value = value["a"][0] if "a" in value else value
    if text.startswith("{") and json.loads(text) != value:
        sys.exit(f"JSON and YAML differ in file {index}")
    open(f"{out}/{index}", "wb").write(value["V"].encode())
"#,
        &[&place.at("etc/made"), &out, Path::new(&count)],
    );
    for (index, value) in values.iter().enumerate() {
        let got = fs::read(out.join(index.to_string())).unwrap();
        assert!(got == value.as_bytes(), "{template}: {value:?} came back as {:?}", String::from_utf8_lossy(&got));
    }
}

#[test]
fn bytes_that_are_no_text_come_back_from_base64() {
    if skipped_without_root("a directory whose files become root's") {
        return;
    }
    let place =
        Place::new("secrets:\n  a: { path: /etc/a, template: \"{{ secret('file:values/a') | b64encode }}\" }\n");
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    place.value("a", &bytes);
    place.run(&["inject", "root"]).run().expect_code(0);
    let scratch = Scratch::new();
    let decoded = scratch.join("decoded");
    python(
        "import base64, sys; open(sys.argv[2], 'wb').write(base64.b64decode(open(sys.argv[1], 'rb').read(), \
         validate=True))",
        &[&place.at("etc/a"), &decoded],
    );
    assert!(fs::read(decoded).unwrap() == bytes);
}
