//! Absolute paths in texts.

/// Places that no secret is injected into: the store, what is made at boot, logs, programs.
const NEVER: [&str; 16] = [
    "/nix",
    "/run",
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/var/tmp",
    "/var/run",
    "/var/lock",
    "/var/log",
    "/var/cache",
    "/bin",
    "/sbin",
    "/usr",
    "/lib",
    "/lib64",
];

/// Names that no secret has.
const NOT_SECRET: [&str; 9] = [".sock", ".socket", ".pid", ".log", ".lock", ".db", ".sqlite", ".sqlite3", ".so"];

/// True for the path of a file that somebody may have put there: absolute, with a name in a directory, and not in a
/// place that is empty at boot or belongs to the system.
#[must_use]
pub fn may_be_secret(path: &str) -> bool {
    let is_plain = path.starts_with('/')
        && path.len() < 4096
        && !path.ends_with('/')
        && path.chars().all(|c| !c.is_control() && !"$*?{}[]`\"'<>|;()%@\\\u{fffd}".contains(c))
        && path.split('/').skip(1).all(|name| !matches!(name, "" | "." | ".."));
    let is_below =
        |place: &&str| path.strip_prefix(*place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    is_plain
        && path.matches('/').count() > 1
        && !NEVER.iter().any(is_below)
        && !NOT_SECRET.iter().any(|end| path.ends_with(end))
}

/// True for a character that a path in a text goes on with.
pub(super) fn is_of_path(c: char) -> bool {
    c.is_alphanumeric() || "/._-+@%~:".contains(c)
}

/// All paths of a text that [`may_be_secret`] accepts.
pub(super) fn all(text: &str) -> impl Iterator<Item = String> {
    tokens(text).filter(|path| may_be_secret(path)).map(str::to_owned)
}

/// All paths of the store in a text.
pub(super) fn of_store(text: &str) -> impl Iterator<Item = &str> {
    tokens(text).filter(|path| path.starts_with("/nix/store/"))
}

/// Whatever looks like an absolute path. A colon or a full stop at its end belongs to the text.
fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    let mut before = ' ';
    std::iter::from_fn(move || {
        loop {
            let at = rest.find('/')?;
            let last = rest.get(..at)?.chars().next_back().unwrap_or(before);
            let token = rest.get(at..)?;
            let end = token.find(|c| !is_of_path(c)).unwrap_or(token.len());
            let (token, after) = token.split_at(end);
            rest = after;
            before = token.chars().next_back().unwrap_or(' ');
            // `a/b`, `https://x` and `x:/y` (a list of paths is one, too) are no absolute paths; `file:/x` is.
            let begins = !is_of_path(last) || last == ':' || last == '@';
            let token = token.trim_end_matches(['.', ':']);
            if begins && !token.starts_with("//") {
                return Some(token);
            }
        }
    })
    .flat_map(|token| token.split(':').filter(|part| part.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_may_be_where_somebody_can_put_it() {
        for (path, want) in [
            ("/etc/secrets/a", true),
            ("/var/lib/secrets/a", true),
            ("/persist/a", true),
            ("/home/a/.ssh/id", true),
            ("/etc", false),
            ("/a", false),
            ("/nix/store/x/a", false),
            ("/run/agenix/a", false),
            ("/runner/a", true),
            ("/etc/a/", false),
            ("/etc/../a", false),
            ("/etc//a", false),
            ("/etc/$NAME", false),
            ("/var/lib/x/x.sock", false),
            ("etc/a", false),
        ] {
            assert_eq!(may_be_secret(path), want, "{path}");
        }
    }

    #[test]
    fn paths_are_found_in_any_text() {
        let text =
            "a=/etc/a/b; \"/etc/c\" file:/etc/d/e https://x/y a/b /etc/l1/x:/etc/l2/y. $__file{/etc/f/g} @/etc/h/i";
        let found: Vec<String> = all(text).collect();
        assert_eq!(found, ["/etc/a/b", "/etc/c", "/etc/d/e", "/etc/l1/x", "/etc/l2/y", "/etc/f/g", "/etc/h/i"]);
        let store: Vec<&str> = of_store("x /nix/store/a-b/bin/c --x=/nix/store/d /etc/e").collect();
        assert_eq!(store, ["/nix/store/a-b/bin/c", "/nix/store/d"]);
    }
}
