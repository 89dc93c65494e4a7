//! NX110: values that systemd reads from an `EnvironmentFile` in another way than they are written (systemd.exec(5)).

use super::Finding;

/// NX110 for the file at `path`, whose text is read by systemd. `parts` are the values in it, if it is a template: a
/// quote that begins a value is then a part of the value, and not of the file's syntax.
#[must_use]
pub fn judge(path: &str, text: &[u8], parts: &[&[u8]]) -> Option<Finding> {
    let line = changed_line(std::str::from_utf8(text).ok()?, parts)?;
    Some(Finding {
        code: "NX110",
        refuse: false,
        reason: format!(
            "systemd reads line {line} of {path} in another way than it is written: without quotes a backslash escapes, \
             outer spaces are dropped, and a quote at the beginning opens a quoted value"
        ),
        instead: "quote the value: NAME={{ secret('…') | systemd_quote }}, or check the file with `format: dotenv`"
            .to_owned(),
    })
}

/// The number of the first line whose value is not what is written, from 1.
fn changed_line(text: &str, parts: &[&[u8]]) -> Option<usize> {
    // The quote of a value that spans lines.
    let mut open = None;
    for (at, line) in text.lines().enumerate() {
        if let Some(quote) = open {
            open = if line.contains(quote) { None } else { Some(quote) };
            continue;
        }
        let Some((_, value)) = line.split_once('=').filter(|_| !line.trim_start().starts_with(['#', ';'])) else {
            continue;
        };
        let begins_with_quote = |text: &str| text.trim_start().starts_with(['"', '\'']);
        let of_a_part = |part: &&[u8]| {
            std::str::from_utf8(part).is_ok_and(|text| {
                begins_with_quote(text) && value.starts_with(first_line(text)) && !quotes_another(text, parts)
            })
        };
        if begins_with_quote(value) && !parts.iter().any(of_a_part) {
            let value = value.trim();
            let quote = value.chars().next()?;
            if value.len() == 1 || !value.ends_with(quote) {
                open = Some(quote);
            }
            continue;
        }
        if begins_with_quote(value) || value.contains('\\') || value.trim() != value {
            return Some(at.saturating_add(1));
        }
    }
    // The quote is never closed.
    open.map(|_| text.lines().count())
}

/// True for the quoted form of another part: a filter of the template has made it.
fn quotes_another(text: &str, parts: &[&[u8]]) -> bool {
    let inside = |quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    let plain = match (inside('\''), inside('"')) {
        (Some(text), _) => text.to_owned(),
        (_, Some(text)) => {
            let mut characters = text.chars();
            let mut plain = String::new();
            while let Some(character) = characters.next() {
                plain.extend(if character == '\\' { characters.next() } else { Some(character) });
            }
            plain
        }
        _ => return false,
    };
    parts.contains(&plain.as_bytes())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_changes_is_told_with_its_line() {
        for (text, parts, want) in [
            ("A=plain $x # y\nB='a b'\nC=\"d\\\"e\"\n", &[][..], None),
            ("# A=\\\n; B=\\\nno line\n", &[], None),
            ("A=1\nB=back\\slash\n", &[], Some(2)),
            ("A= outer\n", &[], Some(1)),
            ("A=outer \n", &[], Some(1)),
            ("A=\"x\"\n", &["\"x\""], Some(1)),
            ("A='x'\n", &["x"], None),
            ("A='x'\n", &["x", "'x'"], None),
            ("A=\"x\\\"y\"\n", &["x\"y", "\"x\\\"y\""], None),
            ("A='first\nsecond\\'\nB=x\n", &[], None),
            ("A=\"open\nB=x\n", &[], Some(2)),
            ("A=in\"side'\n", &[], None),
            ("A=$y$j9T$x./\n", &[], None),
        ] {
            let parts: Vec<&[u8]> = parts.iter().map(|part: &&str| part.as_bytes()).collect();
            assert_eq!(changed_line(text, &parts), want, "{text}");
        }
    }
}
