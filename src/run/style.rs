//! Colours. Never the only carrier of meaning; removed without a terminal, or if NO_COLOR is set.

use anstyle::{AnsiColor, Style};

/// `error:` and refusals.
pub const ERROR: Style = AnsiColor::Red.on_default().bold();
/// `!` and warnings.
pub const WARNING: Style = AnsiColor::Yellow.on_default();
/// `+`: created.
pub const CREATE: Style = AnsiColor::Green.on_default();
/// `~`: changed.
pub const CHANGE: Style = AnsiColor::Yellow.on_default();
/// `-`: removed.
pub const REMOVE: Style = AnsiColor::Red.on_default();
/// `hint:`.
pub const HINT: Style = AnsiColor::Cyan.on_default();
/// Unchanged.
pub const QUIET: Style = Style::new().dimmed();

/// `text` in `style`.
#[must_use]
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
