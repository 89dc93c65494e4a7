//! systemd's unit files: systemd.syntax(7), systemd.unit(5).

use deaddrop_core::tree::Tree;

use super::view::{Maskable, View};

/// Maximum size of a unit file or a drop-in, in bytes.
const UNIT_LIMIT: u64 = 256 << 10;
/// Maximum number of drop-ins of a unit.
const MOST_DROP_INS: usize = 100;

/// The settings of a unit: those of its file, then those of its drop-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    settings: Vec<Setting>,
    /// Size of its texts, in bytes.
    size: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    section: String,
    key: String,
    value: String,
}

/// What a directory of units holds under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// No such unit.
    Missing,
    /// A unit that never starts: a link to /dev/null, or an empty file.
    Masked,
    /// A unit.
    Unit(Unit),
}

/// Reads the unit `name` in `directory`, such as `/nix/store/…/etc/systemd/system`, and its drop-ins
/// (`NAME.d/*.conf`).
///
/// # Errors
/// The reason, with the path, if a part of it cannot be read.
pub fn read<T: Tree>(view: &View<'_, T>, directory: &str, name: &str) -> Result<Entry, String> {
    let path = format!("{directory}/{name}");
    let text = match view.maskable(&path, UNIT_LIMIT)? {
        Maskable::Missing => return Ok(Entry::Missing),
        Maskable::Masked => return Ok(Entry::Masked),
        Maskable::Text(text) if text.is_empty() => return Ok(Entry::Masked),
        Maskable::Text(text) => text,
    };
    let mut unit = Unit::default();
    unit.add(&text);
    let drop_ins = format!("{path}.d");
    let mut names = view.names(&drop_ins, MOST_DROP_INS)?.unwrap_or_default();
    names.retain(|name| name.ends_with(".conf"));
    names.sort_unstable();
    for name in names {
        if let Maskable::Text(text) = view.maskable(&format!("{drop_ins}/{name}"), UNIT_LIMIT)? {
            unit.add(&text);
        }
    }
    Ok(Entry::Unit(unit))
}

impl Unit {
    /// Adds the settings of a unit file's or drop-in's text.
    pub fn add(&mut self, text: &str) {
        self.size = self.size.saturating_add(text.len());
        let mut section = String::new();
        for line in logical_lines(text) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                let (key, value) = (key.trim_end().to_owned(), value.trim_start().to_owned());
                self.settings.push(Setting { section: section.clone(), key, value });
            }
        }
    }

    /// Size of its file and drop-ins, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The values of a setting that is a list. An empty value removes those before it.
    #[must_use]
    pub fn list(&self, section: &str, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for setting in self.settings.iter().filter(|setting| setting.section == section && setting.key == key) {
            match setting.value.is_empty() {
                true => values.clear(),
                false => values.push(setting.value.as_str()),
            }
        }
        values
    }

    /// The value of a setting that is no list: the last one; `None` if there is none, or if it is empty.
    #[must_use]
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        let mut values = self.settings.iter().filter(|setting| setting.section == section && setting.key == key);
        values.next_back().map(|setting| setting.value.as_str()).filter(|value| !value.is_empty())
    }

    /// The value of a variable that `Environment=` sets, without quotes.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        let words = self.list("Service", "Environment").into_iter().flat_map(words);
        words.filter_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned())).next_back()
    }

    /// The words of each command of an `Exec…=` setting, the program first, without its prefixes (`-`, `+`, …).
    #[must_use]
    pub fn commands(&self, key: &str) -> Vec<Vec<String>> {
        let commands = self.list("Service", key).into_iter();
        commands.map(|line| words(line.trim_start_matches(['-', '@', ':', '+', '!', '|']))).collect()
    }
}

/// The lines of a unit file: continued ones are joined with a space, comments and empty lines are omitted. A comment
/// does not end a continued line.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(start) = line.strip_suffix('\\') {
            begun.push_str(start);
            begun.push(' ');
            continue;
        }
        begun.push_str(line);
        if !begun.is_empty() {
            lines.push(std::mem::take(&mut begun).trim().to_owned());
        }
    }
    if !begun.is_empty() {
        lines.push(begun.trim().to_owned());
    }
    lines
}

/// Splits a value at white space; quotes and a backslash before a character keep it (systemd.syntax(7), "Quoting").
#[must_use]
pub fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (_, '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(texts: &[&str]) -> Unit {
        let mut unit = Unit::default();
        texts.iter().for_each(|text| unit.add(text));
        unit
    }

    #[test]
    fn lines_that_continue_are_one_and_comments_are_none() {
        let unit = unit(&["[Service]\n# a comment\nExecStart=/bin/k3s server \\\n  --token-file \\\n; not here\n  \
                           /etc/secrets/k3s\n\n[Install]\nWantedBy = multi-user.target\nno setting\nlast=\\"]);
        assert_eq!(unit.commands("ExecStart"), [["/bin/k3s", "server", "--token-file", "/etc/secrets/k3s"]]);
        assert_eq!(unit.value("Install", "WantedBy"), Some("multi-user.target"));
        assert_eq!(unit.value("Install", "last"), None);
        assert_eq!(unit.value("Unit", "WantedBy"), None);
    }

    #[test]
    fn an_empty_value_of_a_drop_in_empties_the_list() {
        let file = "[Service]\nLoadCredential=a:/a\nLoadCredential=b:/b\nType=oneshot";
        let drop_in = "[Service]\nLoadCredential=\nLoadCredential=c:/c\nType=simple";
        let unit = unit(&[file, drop_in]);
        assert_eq!(unit.list("Service", "LoadCredential"), ["c:/c"]);
        assert_eq!(unit.value("Service", "Type"), Some("simple"));
    }

    #[test]
    fn words_keep_what_is_quoted() {
        assert_eq!(words(r#" a "b c" 'd e'f\ g "" "#), ["a", "b c", "d ef g", ""]);
        let unit = unit(&["[Service]\nEnvironment=\"A=1 2\" B=3\nEnvironment=A=4\nExecStart=-+/bin/x '%h'\n"]);
        assert_eq!(unit.variable("A"), Some("4".to_owned()));
        assert_eq!(unit.variable("B"), Some("3".to_owned()));
        assert_eq!(unit.variable("C"), None);
        assert_eq!(unit.commands("ExecStart"), [["/bin/x", "%h"]]);
    }
}
