//! Codes (NX101, DD201) as links to their places in the manual: OSC 8, "Hyperlinks in terminal emulators"
//! (gist.github.com/egmontkob/eb114294efbcd5adb1944c9f3cb5feda).
//!
//! The last step before a text is written, so that no width counts them.

use std::fmt::Write;

use anstream::AutoStream;
use anstream::stream::RawStream;

/// Where the manual is: `homepage` of Cargo.toml. Empty as long as it has none.
const HOMEPAGE: &str = env!("CARGO_PKG_HOMEPAGE");

/// Length of a code, in bytes.
const LENGTH: usize = 5;

/// The text with links, if there is a manual to link to, and the stream is a terminal that has colours and links.
#[must_use]
pub fn linked(text: String, stream: &impl RawStream) -> String {
    let has_colours = || stream.is_terminal() && AutoStream::choice(stream) != anstream::ColorChoice::Never;
    let is_set = |name: &str| std::env::var(name).ok();
    match Some(HOMEPAGE).filter(|homepage| !homepage.is_empty() && has_colours() && terminal_has_links(is_set)) {
        Some(homepage) => with_links(&text, homepage),
        None => text,
    }
}

/// True if the environment tells of a terminal that is known for links: the variables and values are those that the
/// crate supports-hyperlinks knows, and the terminals that tell themselves by `TERM` alone. `FORCE_HYPERLINK` overrides
/// all of them: 0 for none.
fn terminal_has_links(variable: impl Fn(&str) -> Option<String>) -> bool {
    const PROGRAMS: [&str; 7] = ["Hyper", "iTerm.app", "terminology", "WezTerm", "vscode", "ghostty", "zed"];
    const TERMINALS: [&str; 6] = ["alacritty", "contour", "foot", "wezterm", "xterm-ghostty", "xterm-kitty"];
    if let Some(forced) = variable("FORCE_HYPERLINK") {
        return forced.trim() != "0";
    }
    let vte = variable("VTE_VERSION").and_then(|version| version.parse().ok()).unwrap_or(0_u32);
    let term = variable("TERM").unwrap_or_default();
    // `foot-direct`, `alacritty-direct`.
    let term = term.strip_suffix("-direct").unwrap_or(&term);
    ["DOMTERM", "WT_SESSION", "KONSOLE_VERSION"].iter().any(|name| variable(name).is_some())
        // The first with links was 0.50.
        || vte >= 5000
        || variable("TERM_PROGRAM").is_some_and(|program| PROGRAMS.contains(&program.as_str()))
        || TERMINALS.contains(&term)
}

/// The text, which may have colours, with each code as a link below the homepage.
fn with_links(text: &str, homepage: &str) -> String {
    let homepage = homepage.trim_end_matches('/');
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut is_in_word) = (text, false);
    while let Some(next) = rest.chars().next() {
        let code = code(rest).filter(|_| !is_in_word);
        let length = match (code, next) {
            (Some(code), _) => code.len(),
            // A colour, to the letter at its end.
            (None, '\u{1b}') => rest.find('m').map_or(rest.len(), |end| end.saturating_add(1)),
            (None, _) => next.len_utf8(),
        };
        let (part, after) = rest.split_at(length);
        match code {
            // Writing to a String cannot fail.
            Some(code) => {
                let _ = write!(out, "\u{1b}]8;;{homepage}/codes.html#{code}\u{1b}\\{code}\u{1b}]8;;\u{1b}\\");
            }
            None => out.push_str(part),
        }
        is_in_word = next.is_ascii_alphanumeric();
        rest = after;
    }
    out
}

/// The code that the text begins with.
fn code(text: &str) -> Option<&str> {
    let (code, rest) = text.split_at_checked(LENGTH)?;
    let number = code.strip_prefix("NX").or_else(|| code.strip_prefix("DD"))?;
    let ends = !rest.starts_with(|next: char| next.is_ascii_alphanumeric());
    (ends && number.bytes().all(|digit| digit.is_ascii_digit())).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::super::wrap;
    use super::*;

    const LINK: &str = "\u{1b}]8;;https://deaddrop.example/codes.html#NX101\u{1b}\\NX101\u{1b}]8;;\u{1b}\\";

    #[test]
    fn each_code_becomes_a_link_below_the_homepage_and_nothing_else_changes() {
        for homepage in ["https://deaddrop.example", "https://deaddrop.example/"] {
            assert_eq!(with_links("NX101", homepage), LINK);
            assert_eq!(with_links("ä [NX101] é", homepage), format!("ä [{LINK}] é"));
            assert_eq!(
                with_links("\u{1b}[1mNX101\u{1b}[0m: NX101", homepage),
                format!("\u{1b}[1m{LINK}\u{1b}[0m: {LINK}")
            );
        }
        for text in ["", "NX10", "NX1010", "ANX101", "NX101x", "1NX101", "nx101", "NX1ä1", "DD", "XX101"] {
            assert_eq!(with_links(text, "https://deaddrop.example"), text);
        }
        assert!(with_links("DD201", "https://deaddrop.example").contains("/codes.html#DD201"));
    }

    #[test]
    fn what_removes_colours_removes_links() {
        let text = wrap::fit("warning NX101: one two three four five DD201", 20);
        let linked = with_links(&text, "https://deaddrop.example");
        assert_eq!(anstream::adapter::strip_str(&linked).to_string(), text);
        assert!(linked.len() > text.len());
    }

    #[test]
    fn a_terminal_has_links_only_if_it_says_so() {
        for (variables, want) in [
            (&[][..], false),
            (&[("TERM", "xterm-256color")], false),
            (&[("TERM", "dumb")], false),
            (&[("TERM", "linux")], false),
            (&[("TERM", "xterm-kitty")], true),
            (&[("TERM", "foot-direct")], true),
            (&[("VTE_VERSION", "4999")], false),
            (&[("VTE_VERSION", "7006")], true),
            (&[("VTE_VERSION", "x")], false),
            (&[("TERM_PROGRAM", "Apple_Terminal")], false),
            (&[("TERM_PROGRAM", "WezTerm")], true),
            (&[("KONSOLE_VERSION", "220401")], true),
            // Inside of tmux the terminal around it counts: tmux passes links on, or leaves them out.
            (&[("TERM", "tmux-256color"), ("TERM_PROGRAM", "tmux")], false),
            (&[("TERM", "tmux-256color"), ("VTE_VERSION", "7006")], true),
            (&[("FORCE_HYPERLINK", "1")], true),
            (&[("FORCE_HYPERLINK", "0"), ("TERM", "xterm-kitty")], false),
        ] {
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(terminal_has_links(variable), want, "{variables:?}");
        }
    }
}
