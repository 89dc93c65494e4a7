//! A value on the way to a node, in one of two encodings that `apply.sh` decodes.

use deaddrop_core::secret::Secret;
use zeroize::Zeroizing;

use crate::place::node::text;

/// Length of a full line of a value with its end, in bytes: one block of `dd` on the node.
const VALUE_LINE: usize = 4096;
/// Maximum size of a value for printf, in bytes: the shell reads a line byte by byte, and an escape takes four.
const LONGEST_FOR_PRINTF: usize = 256;

/// True for a short text, which the shell's own printf can write. (Not every printf can write a NUL byte.)
fn is_for_printf(content: &Secret) -> bool {
    content.len() <= LONGEST_FOR_PRINTF && !content.expose().contains(&0)
}

/// A value in the encoding of the script's `value`: a line for printf, with every byte other than letters and digits as
/// `\ooo`; or lines of base64, the last one shorter than [`VALUE_LINE`].
pub(super) fn value(content: &Secret) -> Zeroizing<Vec<u8>> {
    if is_for_printf(content) {
        return printf_line(content.expose());
    }
    let encoded = text::base64(content.expose());
    let encoded = encoded.as_bytes();
    let mut lines =
        Zeroizing::new(Vec::with_capacity(encoded.len().saturating_add(full_lines(content)).saturating_add(1)));
    let mut rest = encoded;
    while let Some((line, after)) = rest.split_at_checked(VALUE_LINE - 1) {
        lines.extend_from_slice(line);
        lines.push(b'\n');
        rest = after;
    }
    lines.extend_from_slice(rest);
    lines.push(b'\n');
    lines
}

/// A line with which the shell's printf writes these bytes.
pub(in crate::place::node) fn printf_line(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut line = Zeroizing::new(Vec::with_capacity(bytes.len().saturating_mul(4).saturating_add(1)));
    for byte in bytes {
        if byte.is_ascii_alphanumeric() {
            line.push(*byte);
        } else {
            line.push(b'\\');
            line.extend([byte >> 6, byte >> 3 & 7, byte & 7].map(|digit| b'0' + digit));
        }
    }
    line.push(b'\n');
    line
}

/// The LINES field of an item: how the script's `value` reads it.
pub(super) fn lines_of(content: &Secret) -> String {
    if is_for_printf(content) { "p".to_owned() } else { full_lines(content).to_string() }
}

fn full_lines(content: &Secret) -> usize {
    // OK to fall back: only a length near that of all memory has none.
    base64::encoded_len(content.len(), true).unwrap_or(0) / (VALUE_LINE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_lines_of_one_block_and_a_shorter_one() {
        for length in [1, 3071, 3072, 3073, 6142, 10_000] {
            let secret = Secret::new(vec![0; length]);
            let lines = value(&secret);
            let lines: Vec<&[u8]> = lines.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').collect();
            assert_eq!(lines.len(), full_lines(&secret) + 1, "{length}");
            let (last, full) = lines.split_last().unwrap();
            assert!(full.iter().all(|line| line.len() == VALUE_LINE - 1) && last.len() < VALUE_LINE - 1, "{length}");
            assert_eq!(text::from_base64(&lines.concat()).unwrap().as_slice(), secret.expose(), "{length}");
        }
    }

    #[test]
    fn a_short_text_is_one_line_that_the_printf_of_every_shell_makes_it_from() {
        let every: Vec<u8> = (1..=255).collect();
        for bytes in [b"".as_slice(), b"-n %s 100%\\n\n", b"\x011\x0777", &every] {
            let line = value(&Secret::new(bytes.to_vec()));
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            for shell in [&["sh"][..], &["bash", "--posix"], &["busybox", "sh"]] {
                let mut child = std::process::Command::new(shell[0])
                    .args(&shell[1..])
                    .args(["-c", "IFS= read -r line && printf \"$line\""])
                    .env("LC_ALL", "C")
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                std::io::Write::write_all(&mut child.stdin.take().unwrap(), &line).unwrap();
                assert_eq!(child.wait_with_output().unwrap().stdout, bytes, "{shell:?}");
            }
        }
        assert!(is_for_printf(&Secret::new(vec![1; LONGEST_FOR_PRINTF])));
        assert!(!is_for_printf(&Secret::new(vec![1; LONGEST_FOR_PRINTF + 1])));
        assert!(!is_for_printf(&Secret::new(b"a\0b".to_vec())));
    }
}
