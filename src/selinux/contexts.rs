//! `file_contexts`: patterns of paths with the labels of matching files. selabel_file(5).
//!
//! The files come from an image: their size, the number of compiled patterns, the size of each, and the work of
//! matching are limited. If a limit is reached, or a pattern is not supported, the result is `None`.

use std::collections::HashMap;

use deaddrop_core::tree::{FileKind, Label};
use regex::bytes::{Regex, RegexBuilder};

/// Maximum number of lines of all files together, comments included. Fedora's have 7,000.
const MOST_LINES: usize = 20_000;
/// Maximum length of a pattern, in bytes.
const LONGEST_PATTERN: usize = 512;
/// Memory limit of a compiled pattern, in bytes, and the cost of matching it against one byte of a path: the work grows
/// with the size. Patterns of real policies fit into the first limit, unless they list many alternatives.
const COMPILED_SIZES: [(usize, usize); 2] = [(4 << 10, 1), (16 << 10, 8)];
/// Maximum number of compiled patterns.
const MOST_COMPILED: usize = 1_000;
/// Maximum cost of matching, in bytes of paths.
const MOST_MATCHED: usize = 2 << 20;

/// The texts of a policy's label files.
#[derive(Debug, Default)]
pub struct Files {
    /// `file_contexts`, `.homedirs` and `.local`, in this order: of two matching patterns, the later one wins.
    pub contexts: [String; 3],
    /// `.subs` and `.subs_dist`: paths that are labelled like other paths.
    pub aliases: [String; 2],
}

/// The labels of a policy, by path.
pub struct Contexts {
    /// Paths without any pattern characters. They win over all patterns, and the last rule of a path wins.
    exact: HashMap<String, Vec<Rule>>,
    patterns: Vec<Pattern>,
    /// Indices in `patterns` by the first directory of their fixed part; patterns without a complete one are under the
    /// empty name.
    by_directory: HashMap<String, Vec<usize>>,
    aliases: [Vec<(String, String)>; 2],
    budget: Budget,
}

/// The rule of one line.
#[derive(Debug, Clone)]
struct Rule {
    /// Only for this kind of file.
    kind: Option<FileKind>,
    /// `None` for `<<none>>`: no label is set.
    label: Option<Label>,
}

impl Rule {
    fn is_for(&self, kind: FileKind) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
    }
}

struct Pattern {
    text: String,
    /// The fixed beginning of every matching path.
    prefix: String,
    rule: Rule,
    /// The outer `None`: not compiled yet; the inner one: cannot be compiled.
    regex: Option<Option<Compiled>>,
}

struct Compiled {
    regex: Regex,
    /// The cost of matching one byte of a path.
    weight: usize,
}

/// The result of matching one pattern against one path.
enum Said {
    Match,
    NoMatch,
    /// The pattern is not supported, or too expensive.
    Unknown,
}

impl Contexts {
    /// Reads the files. `None` when they have too many lines.
    #[must_use]
    pub fn parse(files: &Files) -> Option<Self> {
        let lines = || files.contexts.iter().chain(&files.aliases).flat_map(|text| text.lines());
        if lines().take(MOST_LINES + 1).count() > MOST_LINES {
            return None;
        }
        let mut contexts = Self {
            exact: HashMap::new(),
            patterns: Vec::new(),
            by_directory: HashMap::new(),
            aliases: [aliases(&files.aliases[0]), aliases(&files.aliases[1])],
            budget: Budget::default(),
        };
        for (pattern, rule) in files.contexts.iter().flat_map(|text| text.lines()).filter_map(parse_line) {
            contexts.add(pattern, rule);
        }
        Some(contexts)
    }

    fn add(&mut self, text: &str, rule: Rule) {
        let Fixed { prefix, is_all } = fixed_part(text);
        if is_all {
            self.exact.entry(prefix).or_default().push(rule);
            return;
        }
        let place = self.patterns.len();
        self.by_directory.entry(first_directory(&prefix).to_owned()).or_default().push(place);
        self.patterns.push(Pattern { text: text.to_owned(), prefix, rule, regex: None });
    }

    /// The label of a file of this kind at an absolute path without links. `None` if the policy sets none, or cannot be
    /// parsed there.
    pub fn label(&mut self, path: &str, kind: FileKind) -> Option<Label> {
        let [subs, subs_dist] = &self.aliases;
        // The administrator's aliases first, then the policy's own on the result.
        let path = replace(subs, path).unwrap_or_else(|| path.to_owned());
        let path = replace(subs_dist, &path).unwrap_or(path);
        if let Some(rule) = self.exact.get(&path).and_then(|rules| rules.iter().rev().find(|rule| rule.is_for(kind))) {
            return rule.label.clone();
        }
        let of = |directory: &str| self.by_directory.get(directory).map_or(&[][..], Vec::as_slice);
        let directory = first_directory(&path);
        let (anywhere, here) = (of(""), if directory.is_empty() { &[] } else { of(directory) });
        for place in last_first(anywhere, here) {
            let pattern = self.patterns.get_mut(place)?;
            if !pattern.rule.is_for(kind) || !path.starts_with(&pattern.prefix) {
                continue;
            }
            match self.budget.ask(pattern, &path) {
                Said::Match => return pattern.rule.label.clone(),
                Said::NoMatch => {}
                Said::Unknown => return None,
            }
        }
        None
    }
}

/// The work done so far.
#[derive(Default)]
struct Budget {
    /// Number of compiled patterns.
    compiled: usize,
    /// Bytes of paths that patterns were matched against, each weighted by its pattern's cost.
    matched: usize,
}

impl Budget {
    fn ask(&mut self, pattern: &mut Pattern, path: &str) -> Said {
        if pattern.regex.is_none() {
            self.compiled = self.compiled.saturating_add(1);
            if self.compiled > MOST_COMPILED {
                return Said::Unknown;
            }
            pattern.regex = Some(compile(&pattern.text));
        }
        let Some(Some(compiled)) = &pattern.regex else { return Said::Unknown };
        self.matched = self.matched.saturating_add(path.len().saturating_mul(compiled.weight));
        if self.matched > MOST_MATCHED {
            return Said::Unknown;
        }
        if compiled.regex.is_match(path.as_bytes()) { Said::Match } else { Said::NoMatch }
    }
}

/// Merges two ascending lists of numbers, from the largest down.
fn last_first<'a>(one: &'a [usize], other: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    let mut one = one.iter().rev().copied().peekable();
    let mut other = other.iter().rev().copied().peekable();
    std::iter::from_fn(move || if one.peek() >= other.peek() { one.next() } else { other.next() })
}

/// As libselinux does: anchored at both ends, without a group around it; `.` matches any byte.
fn compile(text: &str) -> Option<Compiled> {
    if text.len() > LONGEST_PATTERN {
        return None;
    }
    let mut builder = RegexBuilder::new(&format!("^{text}$"));
    builder.unicode(false).dot_matches_new_line(true).nest_limit(20);
    COMPILED_SIZES.iter().find_map(|(size, weight)| {
        let regex = builder.size_limit(*size).build().ok()?;
        Some(Compiled { regex, weight: *weight })
    })
}

/// One line: a pattern, an optional kind of file, and a label. `None` for comments and malformed lines.
fn parse_line(line: &str) -> Option<(&str, Rule)> {
    let mut fields = line.split_ascii_whitespace();
    let pattern = fields.next().filter(|pattern| !pattern.starts_with('#'))?;
    let second = fields.next()?;
    let (kind, context) = match (kind_of(second), fields.next()) {
        (Some(kind), Some(context)) => (Some(kind), context),
        (None, None) => (None, second),
        _ => return None,
    };
    if fields.next().is_some() || !context.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let label = match context {
        "<<none>>" => None,
        // As libselinux stores it: with its NUL.
        context => Some(Label::new([context.as_bytes(), b"\0"].concat())?),
    };
    Some((pattern, Rule { kind, label }))
}

fn kind_of(field: &str) -> Option<FileKind> {
    Some(match field {
        "--" => FileKind::File,
        "-d" => FileKind::Directory,
        "-l" => FileKind::Symlink,
        "-b" => FileKind::BlockDevice,
        "-c" => FileKind::CharacterDevice,
        "-p" => FileKind::Fifo,
        "-s" => FileKind::Socket,
        _ => return None,
    })
}

/// Aliases and the paths that they replace, in reverse order: the last line of an alias wins.
fn aliases(text: &str) -> Vec<(String, String)> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let alias = fields.next().filter(|alias| !alias.starts_with('#'))?;
        Some((alias.to_owned(), fields.next()?.to_owned()))
    };
    let mut aliases: Vec<(String, String)> = text.lines().filter_map(parse).collect();
    aliases.reverse();
    aliases
}

/// The path with its leading alias replaced.
fn replace(aliases: &[(String, String)], path: &str) -> Option<String> {
    aliases.iter().find_map(|(alias, place)| {
        let rest = path.strip_prefix(alias.as_str())?;
        match rest.strip_prefix('/') {
            Some(below) if place == "/" => Some(format!("/{below}")),
            Some(_) => Some(format!("{place}{rest}")),
            None => rest.is_empty().then(|| place.clone()),
        }
    })
}

/// The fixed beginning of a pattern.
struct Fixed {
    prefix: String,
    /// The pattern is a plain path.
    is_all: bool,
}

/// Reads a pattern up to the first special character.
fn fixed_part(text: &str) -> Fixed {
    let mut prefix = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let literal = match character {
            '.' | '^' | '$' | '?' | '*' | '+' | '|' | '[' | '(' | '{' => None,
            // An escaped letter or digit may be a class or a reference.
            '\\' => characters.next().filter(|next| !next.is_ascii_alphanumeric()),
            other => Some(other),
        };
        let Some(literal) = literal else { return Fixed { prefix: unless_alternatives(text, prefix), is_all: false } };
        // The character is optional or repeated.
        if matches!(characters.peek(), Some('?' | '*' | '+' | '{')) {
            return Fixed { prefix: unless_alternatives(text, prefix), is_all: false };
        }
        prefix.push(literal);
    }
    Fixed { prefix, is_all: true }
}

/// `prefix`, unless the pattern has alternatives outside any group: then only one alternative begins with it.
fn unless_alternatives(text: &str, prefix: String) -> String {
    let (mut depth, mut outside) = (0_i32, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            '|' if depth <= 0 => outside = true,
            _ => {}
        }
    }
    // Unbalanced groups were not parsed correctly (a parenthesis in a class).
    if outside || depth != 0 { String::new() } else { prefix }
}

/// `/etc` of `/etc/x`; empty without a complete first name.
fn first_directory(path: &str) -> &str {
    match path.strip_prefix('/').and_then(|rest| rest.find('/')) {
        // OK to slice: a slash was found there, one byte after the stripped one.
        Some(end) => &path[..=end],
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(main: &str, local: &str, subs: &str, dist: &str) -> Contexts {
        Contexts::parse(&Files {
            contexts: [main.to_owned(), String::new(), local.to_owned()],
            aliases: [subs.to_owned(), dist.to_owned()],
        })
        .unwrap()
    }

    const MAIN: &str = "# of a policy
/.*                     system_u:object_r:default_t:s0
/etc(/.*)?              system_u:object_r:etc_t:s0
/etc/secrets(/.*)?  --  system_u:object_r:secret_t:s0
/etc/secrets        -d  system_u:object_r:secret_dir_t:s0
/etc/x\\.key         --  system_u:object_r:key_t:s0
/etc/x.*            --  system_u:object_r:xx_t:s0
/run(/.*)?              system_u:object_r:run_t:s0
/none(/.*)?             <<none>>
/srv/([^/]+/)?keys?/[0-9]{2}    --  system_u:object_r:keys_t:s0
/opt/a|/opt/b           system_u:object_r:ab_t:s0
a line that is none
";

    #[test]
    fn exact_paths_count_before_patterns_and_later_patterns_before_earlier_ones() {
        let local = "/etc/[^/]*\\.key -- system_u:object_r:local_t:s0\n/mnt/a system_u:object_r:a_t:s0\n";
        let dist = "/var/run /run\n/a /etc\n/a/b /run\n/slash /\n";
        let mut contexts = contexts(MAIN, local, "/q /a\n", dist);
        for (path, kind, want) in [
            ("/etc/x.key", FileKind::File, "key_t"),
            ("/etc/x.key", FileKind::Directory, "etc_t"),
            ("/etc/xa", FileKind::File, "xx_t"),
            ("/etc/y.key", FileKind::File, "local_t"),
            ("/etc/secrets/z", FileKind::File, "secret_t"),
            ("/etc/secrets/z", FileKind::Directory, "etc_t"),
            ("/etc/secrets", FileKind::Directory, "secret_dir_t"),
            ("/etc", FileKind::Directory, "etc_t"),
            ("/etcetera", FileKind::File, "default_t"),
            ("/srv/key/12", FileKind::File, "keys_t"),
            ("/srv/a/keys/12", FileKind::File, "keys_t"),
            ("/srv/a/b/keys/12", FileKind::File, "default_t"),
            ("/srv/keys/123", FileKind::File, "default_t"),
            ("/opt/a/further", FileKind::File, "ab_t"),
            ("/else/opt/b", FileKind::File, "ab_t"),
            ("/opt/c", FileKind::File, "default_t"),
            ("/var/run/q", FileKind::File, "run_t"),
            ("/var/runs/q", FileKind::File, "default_t"),
            ("/a/secrets/z", FileKind::File, "secret_t"),
            ("/a/b/c", FileKind::File, "run_t"),
            ("/q/b/c", FileKind::File, "run_t"),
            ("/q", FileKind::Directory, "etc_t"),
            ("/slash/run/x", FileKind::File, "run_t"),
            ("/mnt/a", FileKind::File, "a_t"),
            ("/none/x", FileKind::File, ""),
        ] {
            let label = contexts.label(path, kind).map_or(String::new(), |label| label.to_string());
            let want = if want.is_empty() { String::new() } else { format!("system_u:object_r:{want}:s0") };
            assert_eq!(label, want, "{path} {kind:?}");
        }
        let label = contexts.label("/mnt/a", FileKind::File).unwrap();
        assert_eq!(label.value(), b"system_u:object_r:a_t:s0\0", "with its NUL");
    }

    #[test]
    fn the_fixed_part_of_a_pattern_ends_before_what_may_be_missing() {
        for (text, prefix, is_all) in [
            ("/etc/x", "/etc/x", true),
            ("/etc/x\\.y\\+", "/etc/x.y+", true),
            ("/etc/xy?", "/etc/x", false),
            ("/etc/x\\.*", "/etc/x", false),
            ("/etc/x{2}", "/etc/", false),
            ("/etc/\\d", "/etc/", false),
            ("/etc(/.*)?", "/etc", false),
            ("/a|/b", "", false),
            ("/a(b|c)", "/a", false),
            ("/a[(]b", "", false),
            ("/a\\(b.", "/a(b", false),
            ("\\", "", false),
        ] {
            let fixed = fixed_part(text);
            assert_eq!((fixed.prefix.as_str(), fixed.is_all), (prefix, is_all), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_understood_gives_no_answer_where_it_could_match_and_only_there() {
        let base = "/etc(/.*)? system_u:object_r:etc_t:s0\n";
        let long = format!("/etc/{}.*", "x".repeat(LONGEST_PATTERN));
        for pattern in ["/etc/(?=x).*", "/etc/(a)\\1", "/etc/((a{99}){99}){99}", "/etc/[", long.as_str()] {
            let mut contexts = contexts(&format!("{base}{pattern} system_u:object_r:new_t:s0\n"), "", "", "");
            let path = if pattern == long { format!("/etc/{}", "x".repeat(600)) } else { "/etc/x".to_owned() };
            assert_eq!(contexts.label(&path, FileKind::File), None, "{pattern}");
            assert!(contexts.label("/etc", FileKind::Directory).is_some(), "{pattern}");
        }
        let mut contexts = contexts("/.* no-context-but-a-word\n/etc(/.*)? \u{e9}\n", "", "", "");
        assert_eq!(contexts.label("/etc/x", FileKind::File).unwrap().to_string(), "no-context-but-a-word");
    }

    #[test]
    fn what_policies_have_is_cheap() {
        for pattern in [
            "/usr/lib(64)?/security/pam_krb5(/.*)?",
            "/var/lib/pgsql/(.*/)?data(/.*)?",
            "/usr/share/(local/)?doc/[^/]*-[0-9]+\\.[0-9]+(/.*)?",
            "/home/[^/]+/\\.(ssh|config/(a|b|c)|cache)(/.*)?",
            "/dev/(u?hid|tty)[0-9A-Fa-f]{1,4}",
            "/etc/[Pp]ostfix\\-?[[:digit:]]*/.*\\.(cf|db)~?",
        ] {
            assert_eq!(compile(pattern).unwrap().weight, 1, "{pattern}");
        }
    }

    #[test]
    fn lines_patterns_and_work_are_bounded() {
        let line = |number: usize| format!("/etc/{number}.* system_u:object_r:etc_t:s0\n");
        let all: String = (0..MOST_LINES).map(line).collect();
        assert!(
            Contexts::parse(&Files { contexts: [all.clone(), String::new(), String::new()], ..Files::default() })
                .is_some()
        );
        let aliases = ["/a /b\n".to_owned(), String::new()];
        assert!(Contexts::parse(&Files { contexts: [all, String::new(), String::new()], aliases }).is_none());

        // Every pattern could match, and none does.
        let none: String = (0..MOST_LINES).map(|_| "/etc/(.*a){1,20}b -- a:b:c\n").collect();
        let started = std::time::Instant::now();
        let mut contexts = contexts(&none, "", "", "");
        let path = format!("/etc/{}", "a".repeat(250));
        for _ in 0..10_000 {
            assert_eq!(contexts.label(&path, FileKind::File), None);
        }
        assert!(contexts.budget.compiled > MOST_COMPILED, "{}", contexts.budget.compiled);
        let compiled = contexts.patterns.iter().filter(|pattern| pattern.regex.is_some()).count();
        assert_eq!(compiled, MOST_COMPILED);
        assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
    }
}
