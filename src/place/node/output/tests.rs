//! Each rule separately: which lines are shown.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;

const LEFT_OUT: &str = "(a line that holds a value is not shown)";

/// These values, without a template.
fn values(all: &[&[u8]]) -> HiddenValues {
    let held = |value: &&[u8]| RunValue { whose: "it".into(), whole: Secret::new(value.to_vec()), composed: None };
    HiddenValues { values: all.iter().map(held).collect(), ..HiddenValues::default() }
}

/// A template's current file, and the existing one.
fn composed(now: &str, parts: &[&str], standing: &str) -> HiddenValues {
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    let composed = Composed { whole: secret(now), parts: parts.iter().map(|part| secret(part)).collect() };
    let held = |whole: &str| RunValue { whose: "it".into(), whole: secret(whole), composed: Some(composed.clone()) };
    HiddenValues { values: vec![held(now), held(standing)], ..HiddenValues::default() }
}

#[track_caller]
fn left_out(values: &HiddenValues, line: impl AsRef<[u8]>) {
    let line = line.as_ref();
    assert_eq!(values.lines(line, ""), [LEFT_OUT], "{:?}", String::from_utf8_lossy(line));
}

#[track_caller]
fn shown_as_it_is(values: &HiddenValues, line: &str) {
    assert_eq!(values.lines(line.as_bytes(), ""), [line]);
}

#[test]
fn the_last_lines_are_shown_without_what_drives_a_terminal() {
    let said = values(&[b"hunter2"]).lines(b"1\n2\n\n  \n3\x1b[2J\r\n4\n5\nhunter2 it is\n", "");
    assert_eq!(said, ["2", "3\u{fffd}[2J", "4", "5", LEFT_OUT]);
    assert_eq!(values(&[b"hunter2"]).lines(b" \n\n", ""), [""; 0]);
    let long = "ä".repeat(400);
    assert_eq!(values(&[b"hunter2"]).lines(long.as_bytes(), ""), ["ä".repeat(300)]);
}

#[test]
fn a_whole_value_is_found_anywhere_also_by_the_line() {
    let some = values(&[b"hunter2", b"first line\nsecond line\r\nab\n", b"\ttabbed 1\n", b"OldValue-1234567"]);
    for line in [
        "it is hunter2.",
        "xhunter2x",
        "x second line y",
        "the first line",
        "\ttabbed 1",
        "is tabbed 1 good?",
        "expected OldValue-1234567",
    ] {
        left_out(&some, line);
    }
    for line in ["it is hunter 2", "a second one", "ab", "tab 1", "expected another"] {
        shown_as_it_is(&some, line);
    }
}

#[test]
fn a_line_that_is_cut_through_a_value_is_left_out() {
    let some = values(&[b"correct-horse-battery"]);
    for line in ["it is corr", "tery is it", "horse", "  attery  ", "password=correct-ho"] {
        left_out(&some, line);
    }
    for line in ["it is cor", "ery is it", "the horse", "corr is it", "it is tery"] {
        shown_as_it_is(&some, line);
    }
}

#[test]
fn the_value_is_found_before_the_line_is_cut() {
    let some = values(&[b"correct-horse-battery"]);
    for before in [270, 285, 299, 400, 5000] {
        left_out(&some, format!("{} correct-horse-battery", "x".repeat(before)));
    }
    let long = values(&[b"correct-horse-battery"]).lines(&vec![b'x'; LONGEST + 1], "");
    assert_eq!(long, ["(a line of over 16 KiB is not shown)"]);
}

#[test]
fn twelve_bytes_in_a_row_of_a_secret_part_are_not_shown_and_own_text_is() {
    let some = values(&[b"abcdefghijklmnopqrstuvwxyz"]);
    left_out(&some, "the ijklmnopqrst there");
    shown_as_it_is(&some, "the ijklmnopqrs there");

    let now = "[Interface]\nPrivateKey = new-secret-1\nAddress = 10.0.0.1\n";
    let some = composed(now, &["new-secret-1"], "[Interface]\nPrivateKey = old-pw\nAddress = 10.0.0.1\n");
    for line in
        ["bad key new-secret-1!", "bad key old-pw!", "PrivateKey = old-pw", "line 2: `PrivateKey = new-secret-1`"]
    {
        left_out(&some, line);
    }
    for line in ["the [Interface] section", "line 3: `Address = 10.0.0.1` twice", "bad PrivateKey = in line 2"] {
        shown_as_it_is(&some, line);
    }
    // Rendered from an older template: the current template's own text is not secret.
    let some = composed(now, &["new-secret-1"], "[Peer]\nKey = older-secret\nAddress = 10.0.0.1\n");
    left_out(&some, "bad key older-secret!");
    left_out(&some, "12 bytes: older-secret");
    shown_as_it_is(&some, "line 3: `Address = 10.0.0.1` twice");
}

#[test]
fn a_public_key_is_no_secret_by_its_pieces() {
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ host@node1";
    let some = composed(line, &[], line);
    shown_as_it_is(&some, "no ssh-ed25519 AAAAC3Nza key");
    left_out(&some, format!("no {line}"));
}

#[test]
fn base64_and_hex_hide_nothing() {
    let value = b"correct-horse-battery";
    let some = values(&[value, b"pass"]);
    for skip in 0..3 {
        for text in [&b"correct-horse-battery"[..], b"horse-battery"] {
            let bytes = [&b"xyz"[..skip], text, b"!?"].concat();
            for encoded in [STANDARD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                left_out(&some, format!("got '{encoded}' instead"));
                left_out(&some, format!("token{encoded}"));
            }
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            for encoded in [format!("a{hex}"), hex.to_uppercase(), format!("0x{hex}")] {
                left_out(&some, format!("got {encoded} instead"));
            }
        }
    }
    // Truncated at the ends of the line, or the whole line.
    let encoded = STANDARD.encode(value);
    for line in [format!("got {}", &encoded[..6]), format!("{} got", &encoded[21..]), encoded[9..18].to_owned()] {
        left_out(&some, line);
    }
    left_out(&some, "cGFzcw==");
    left_out(&some, "70617373 it is");
    shown_as_it_is(&some, "got Y29ycm is it");
    shown_as_it_is(&some, "commit 3f786850e387550fdab836ed7e6dc881de23001b of base64/AAAAB3NzaC1yc2EAAAADAQABAAABgQ");
}

#[test]
fn a_value_that_is_no_text_is_found_as_it_is_and_as_it_is_shown() {
    let some = values(&[b"\x00\xff\x01\xfe\x02\x03abcdefgh\x07\x80xyz"]);
    left_out(&some, b"it is \x00\xff\x01\xfe\x02\x03abcdefgh\x07\x80xyz.");
    left_out(&some, "it is \u{fffd}\u{fffd}\u{fffd}abcdefgh\u{fffd}\u{fffd}xyz.");
    shown_as_it_is(&some, "it is abcdefgh");
}

#[test]
fn a_value_of_under_four_bytes_lets_nothing_be_shown() {
    for short in [&b"abc"[..], b"x", b" abc\n", b"\tab\r\n"] {
        let lines = values(&[b"hunter2", short]).lines(b"one\ntwo", ": run it by hand on the node");
        assert_eq!(lines, ["(what it said is not shown, for it is under 4 bytes: run it by hand on the node)"]);
    }
    shown_as_it_is(&values(&[b"", b"\n", b"four"]), "one");
    let some = composed("pin = 123\n", &["123"], "pin = 123\n");
    assert_eq!(some.lines(b"one", ""), ["(what it said is not shown, for it is under 4 bytes)"]);
    // Also an existing one.
    let some = composed("pin = 12345\n", &["12345"], "pin = 123\n");
    assert_eq!(some.lines(b"one", ""), ["(what it said is not shown, for it is under 4 bytes)"]);
    assert_eq!(values(&[b"abc"]).lines(b"\n", ""), [""; 0], "nothing was said");
}

#[test]
fn a_word_of_the_nodes_is_ours_or_is_looked_at_like_a_line() {
    let mut some = values(&[b"/etc/secrets/one"]);
    assert_eq!(some.word("/etc/secrets/one"), LEFT_OUT);
    some.ours.insert("/etc/secrets/one".into());
    assert_eq!(some.word("/etc/secrets/one"), "/etc/secrets/one");
    assert_eq!(some.word("auto-\u{1b}restart"), "auto-\u{fffd}restart");
}

/// The longest values with the longest lines, and repetitive ones, are searched quickly.
#[test]
fn long_values_and_lines_take_no_time() {
    let noise: Vec<u8> = (0..4_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let some = values(&[&noise, &vec![b'a'; 1 << 20], &b"abc\nabcde\n".repeat(1 << 16)]);
    let lines =
        [vec![b'a'; LONGEST], b"aaaab".repeat(3000), b"Zm9v".repeat(4000), b"log".repeat(5000), b"done".to_vec()];
    let start = std::time::Instant::now();
    let shown = some.lines(&lines.join(&b'\n'), "");
    assert_eq!((shown[0].as_str(), shown[4].as_str()), (LEFT_OUT, "done"));
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}
