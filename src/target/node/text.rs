//! Texts between us and a node: base64, quoting for its shell, and what it said made fit for a person.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::image::text;
use crate::secret::Secret;

/// How many lines of what a program said are shown: the last ones.
const SHOWN_LINES: usize = 5;
/// How long a shown line may be, in characters.
const SHOWN_LENGTH: usize = 300;
/// A shorter value is found in any text, and would hide all of them.
const SHORTEST_SEARCHED: usize = 4;
/// How much of a value is searched for, in bytes.
const SEARCHED: usize = 9;

/// In base64, in memory that is wiped.
pub(super) fn base64(bytes: &[u8]) -> Zeroizing<String> {
    // Its room is made first: growing would leave copies behind.
    let length = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(length));
    STANDARD.encode_string(bytes, &mut text);
    text
}

/// Out of base64 without line ends; `None` when it is none.
pub(super) fn from_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(text.len())));
    STANDARD.decode_vec(text, &mut bytes).ok()?;
    Some(bytes)
}

/// A program and its arguments for a POSIX shell: each in single quotes, in which nothing has a meaning but a single quote.
pub(super) fn quoted(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    words.join(" ")
}

/// The last lines of what a program said, fit for a terminal; empty ones left out.
pub(super) fn lines(said: &str) -> Vec<String> {
    let lines: Vec<String> = said
        .split(['\n', '\r'])
        .filter_map(|line| text::shown_text(&line.chars().take(SHOWN_LENGTH).collect::<String>()))
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].to_vec()
}

/// The script less its comments and indentation: fewer bytes to send, which a shell reads one by one.
pub(super) fn without_comments(script: &str) -> String {
    let mut short = String::with_capacity(script.len());
    for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        short.push_str(line);
        short.push('\n');
    }
    short
}

/// The lines that hold none of these values, neither as it is nor in base64; for what a node says, which may repeat what it got.
pub(super) fn without_values(lines: Vec<String>, values: &[Secret]) -> Vec<String> {
    lines
        .into_iter()
        .map(
            |line| {
                if holds_a_value(&line, values) { "(a line that holds a value is not shown)".to_owned() } else { line }
            },
        )
        .collect()
}

fn holds_a_value(line: &str, values: &[Secret]) -> bool {
    values.iter().any(|value| {
        // A value of several lines is looked for line by line, as it would be shown.
        value.expose().split(|byte| matches!(byte, b'\n' | b'\r')).any(|part| {
            if part.len() < SHORTEST_SEARCHED {
                return false;
            }
            // Its beginning is enough: a line that is cut may hold no more of it.
            let start = &part[..part.len().min(SEARCHED)];
            let encoded = base64(start);
            // In base64 the last group depends on what follows.
            let encoded = &encoded.as_bytes()[..start.len() / 3 * 4];
            let found = |needle: &[u8]| {
                needle.len() >= SHORTEST_SEARCHED && line.as_bytes().windows(needle.len()).any(|at| at == needle)
            };
            found(start) || found(encoded)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_argument_comes_through_a_shell_as_it_is() {
        let argv: Vec<String> = ["printf", "%s|", "a b", "$(x)`y`\\", "it's '' \"", "", "*", "\n", "-n", "é\u{1}!"]
            .map(str::to_owned)
            .into();
        let output = std::process::Command::new("sh").arg("-c").arg(quoted(&argv)).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            argv[2..].iter().map(|word| format!("{word}|")).collect::<String>()
        );
    }

    #[test]
    fn what_a_program_said_is_shown_without_controls_and_values() {
        let said = lines("1\n2\n\n  \n3\u{1b}[2J\r\n4\n5\nhunter2 it is\n");
        assert_eq!(said, ["2", "3\u{fffd}[2J", "4", "5", "hunter2 it is"]);
        let value = Secret::new(b"hunter2".to_vec());
        let shown = without_values(said, &[value]);
        assert_eq!(shown[4], "(a line that holds a value is not shown)");
        assert_eq!(shown[2], "4");
    }

    #[test]
    fn a_value_in_base64_is_found_and_so_is_each_line_of_one() {
        let value = Secret::new(b"first line\nsecond line".to_vec());
        for line in ["x second line y", "Zmlyc3QgbGluZQ=="] {
            assert!(holds_a_value(line, std::slice::from_ref(&value)), "{line}");
        }
        assert!(!holds_a_value("line", &[value]));
    }

    #[test]
    fn comments_and_indentation_are_not_sent() {
        assert_eq!(without_comments("# x\n\n  a # b\n    # c\nd\n"), "a # b\nd\n");
    }
}
