//! Text for and from a node: base64, and quoting for its shell.

use std::fmt::Write as _;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::error::NodeError;

/// Random bytes in hexadecimal: a name that cannot be guessed.
pub(super) fn random<const BYTES: usize>() -> Result<String, NodeError> {
    let mut random = [0_u8; BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| NodeError::Start { program: "randomness", source: io::Error::other(error.to_string()) })?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        // OK: writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Base64, in memory that is wiped.
pub(super) fn base64(bytes: &[u8]) -> Zeroizing<String> {
    // Allocated in advance: growing would leave copies behind.
    let length = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    let mut text = Zeroizing::new(String::with_capacity(length));
    STANDARD.encode_string(bytes, &mut text);
    text
}

/// Decodes base64 without line ends; `None` if it is invalid.
pub(super) fn from_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(base64::decoded_len_estimate(text.len())));
    STANDARD.decode_vec(text, &mut bytes).ok()?;
    Some(bytes)
}

/// A program and its arguments for a POSIX shell: each in single quotes, in which only a single quote is special.
pub(super) fn quoted(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    words.join(" ")
}

/// The script without its comments and indentation: fewer bytes to send, which a shell reads one by one.
pub(super) fn without_comments(script: &str) -> String {
    let mut short = String::with_capacity(script.len());
    for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        short.push_str(line);
        short.push('\n');
    }
    short
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
    fn comments_and_indentation_are_not_sent() {
        assert_eq!(without_comments("# x\n\n  a # b\n    # c\nd\n"), "a # b\nd\n");
    }
}
