//! Shell scripts of the store: which files they read, and which they make.
//!
//! No shell is run, and none is imitated: a line is cut into words at white space, quotes and operators, and what
//! stands before a path says what is done with it.

use super::Kind;
use super::path::{self, may_be_secret};

/// A path that a script reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) kind: Kind,
    /// The script tests first whether it is there.
    pub(super) optional: bool,
}

/// What a script does with files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) wants: Vec<Found>,
    /// Paths that it makes.
    pub(super) made: Vec<String>,
    /// Files of the store and of /etc that it names and that are no programs.
    pub(super) files: Vec<String>,
}

/// Reads a script.
pub(super) fn read(text: &str) -> Script {
    let mut script = Script::default();
    let mut tested = Vec::new();
    for command in commands(text) {
        judge(&command, &mut script, &mut tested);
    }
    let is_file = |path: &&str| !["/bin/", "/sbin/", "/lib/", "/libexec/"].iter().any(|part| path.contains(part));
    let in_etc = path::all(text).filter(|path| path.starts_with("/etc/"));
    script.files = path::of_store(text).filter(is_file).map(str::to_owned).chain(in_etc).collect();
    script.wants.retain(|want| !script.made.contains(&want.path));
    for want in &mut script.wants {
        want.optional |= tested.contains(&want.path);
    }
    script
}

/// The paths that a script makes.
pub(super) fn made(text: &str) -> Vec<String> {
    let mut script = Script::default();
    for command in commands(text) {
        judge(&command, &mut script, &mut Vec::new());
    }
    script.made
}

/// The sources that the script of the initrd's secrets copies: `cp -a SOURCE "$tmp/.initrd-secrets//DESTINATION"`.
pub(super) fn copied(text: &str) -> Vec<String> {
    let source = |words: Vec<String>| {
        let at = words.iter().position(|word| base(word) == "cp")?;
        let mut operands = words.iter().skip(at.saturating_add(1)).filter(|word| !word.starts_with('-'));
        let source = operands.next()?;
        operands.any(|to| to.contains(".initrd-secrets")).then(|| source.clone())
    };
    commands(text).filter_map(source).filter(|path| path.starts_with('/') && !path.starts_with("/nix/")).collect()
}

/// The words of each command: lines that continue are joined, comments are left out, and a command ends at `;`, `&`,
/// `|` and at the end of a line. Parentheses, `<`, `>` and `=` are words of their own.
fn commands(text: &str) -> impl Iterator<Item = Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let lines: Vec<String> = joined.lines().map(str::to_owned).collect();
    lines.into_iter().filter(|line| !line.trim_start().starts_with('#')).flat_map(|line| words(&line))
}

fn words(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word = String::new();
    let end = |word: &mut String, commands: &mut Vec<Vec<String>>| {
        if !word.is_empty()
            && let Some(command) = commands.last_mut()
        {
            command.push(std::mem::take(word));
        }
    };
    let mut single = false;
    for c in line.chars() {
        match c {
            '\'' => single = !single,
            '"' => {}
            c if c.is_whitespace() => end(&mut word, &mut commands),
            ';' | '|' | '&' if !single => {
                end(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            '(' | ')' | '<' | '>' | '=' | '`' if !single => {
                end(&mut word, &mut commands);
                word.push(c);
                end(&mut word, &mut commands);
            }
            c => word.push(c),
        }
    }
    end(&mut word, &mut commands);
    commands.retain(|command| !command.is_empty());
    commands
}

/// The name of a program.
fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Programs that make what they are given.
const MAKERS: [&str; 4] = ["mkdir", "touch", "tee", "mkfifo"];
/// Options whose value is a file that is made.
const MADE_AFTER: [&str; 6] = ["-o", "-out", "--out", "--output", "-keyout", "--output-file"];
/// Tests of `[`.
const TESTS: [&str; 7] = ["-e", "-f", "-s", "-r", "-h", "-L", "-n"];

fn judge(command: &[String], script: &mut Script, tested: &mut Vec<String>) {
    // The program of the innermost `$(…)` that a word is in begins after its parenthesis.
    let mut program_at = 0;
    let makes_keys = command.iter().any(|word| base(word) == "ssh-keygen");
    for (at, word) in command.iter().enumerate() {
        if matches!(word.as_str(), "(" | "`") {
            program_at = at.saturating_add(1);
        }
        let plain = word.strip_prefix("file:").or_else(|| word.strip_prefix('@')).unwrap_or(word);
        if !may_be_secret(plain) {
            continue;
        }
        let back = |count: usize| at.checked_sub(count).and_then(|at| command.get(at)).map_or("", String::as_str);
        let program = base(command.get(program_at).map_or("", String::as_str));
        let is_test = command.iter().any(|word| matches!(word.as_str(), "[" | "[[" | "test"));
        let path = plain.to_owned();
        if back(1) == ">" || MAKERS.contains(&program) {
            script.made.push(path);
        } else if is_test && TESTS.contains(&back(1)) {
            tested.push(path);
        } else if MADE_AFTER.contains(&back(1)) || (back(1) == "-f" && makes_keys) {
            script.made.push(path);
        } else if let Some(kind) = reads(command, at, program, word, back(1), back(2)) {
            script.wants.push(Found { path, kind, optional: false });
        }
    }
}

/// How a command reads the path at `at`; `None` if nothing says that it does.
fn reads(command: &[String], at: usize, program: &str, word: &str, before: &str, second: &str) -> Option<Kind> {
    let is_last = command.get(at.saturating_add(1)..).is_none_or(|rest| rest.iter().all(|word| word.as_str() == ")"));
    let is_assigned = before == "=" && super::unit::is_file_variable(second);
    let is_option = |word: &str| super::unit::takes_secret(word.trim_end_matches('='));
    let reads = match program {
        "cat" | "source" | "." => true,
        "install" | "cp" => !is_last && !command.iter().any(|word| matches!(word.as_str(), "-d" | "--directory")),
        "replace-secret" => !is_last,
        _ => {
            before == "<"
                || word.starts_with("file:")
                || matches!(before, "private-key" | "preshared-key" | "source" | "." | "cat")
                || matches!(second, "--rawfile" | "--slurpfile")
                || is_option(before)
                || (before == "=" && is_option(second))
                || base(before) == "cat"
        }
    };
    match (is_assigned, reads) {
        (true, _) => Some(Kind::Variable),
        (false, true) => Some(Kind::Script),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Vec<(String, bool)> {
        read(text).wants.into_iter().map(|want| (want.path, want.optional)).collect()
    }

    #[test]
    fn what_a_script_reads_is_known_by_what_stands_before_it() {
        for text in [
            "export TOKEN=\"$(cat /etc/secrets/a)\"",
            "export TOKEN=\"$(/nix/store/x-coreutils/bin/cat '/etc/secrets/a')\"",
            "X=$(</etc/secrets/a)",
            "X=$(<'/etc/secrets/a')",
            "source /etc/secrets/a",
            "  . '/etc/secrets/a'",
            "wg set wg0 private-key \"/etc/secrets/a\"",
            "wg set wg0 peer x= preshared-key '/etc/secrets/a' allowed-ips 10.0.0.0/8",
            "tailscale up --auth-key 'file:/etc/secrets/a' --ssh",
            "install --mode 0400 -o x '/etc/secrets/a' \"$STATE/token\"",
            "/nix/store/y/bin/replace-secret '#x#' '/etc/secrets/a' /var/lib/app/config.json",
            "exec app --token-file /etc/secrets/a",
            "exec app \\\n  --password-file=/etc/secrets/a",
            "export DB_PASSWORD_FILE='/etc/secrets/a'",
            "jq --rawfile x /etc/secrets/a . < /nix/store/z.json",
            "tr -d '\\n' < /etc/secrets/a > $x",
        ] {
            assert_eq!(wanted(text), [("/etc/secrets/a".to_owned(), false)], "{text}");
        }
    }

    #[test]
    fn what_a_script_makes_or_only_names_is_not_wanted() {
        for text in [
            "# cat /etc/secrets/a",
            "mkdir -p /etc/secrets/a",
            "ssh-keygen -t ed25519 -f /etc/ssh/ssh_host_ed25519_key -N ''",
            "wg genkey > /etc/secrets/a; cat /etc/secrets/a",
            "chown root:root /etc/secrets/a",
            "install -d -m 0700 /etc/secrets/a",
            "install -m 0600 $x /etc/secrets/a",
            "exec app --data-dir /var/lib/app/data",
            "echo /etc/secrets/a",
        ] {
            assert_eq!(wanted(text), [], "{text}");
        }
        assert_eq!(wanted("if [ -f /etc/secrets/a ]; then\n. /etc/secrets/a\nfi"), [("/etc/secrets/a".into(), true)]);
        let script = read("x -c /nix/store/h-app.json /nix/store/h-y/bin/z");
        assert_eq!(script.files, ["/nix/store/h-app.json"]);
        assert_eq!(made("ssh-keygen -f '/etc/ssh/k'\n"), ["/etc/ssh/k"]);
    }

    #[test]
    fn secrets_of_the_initrd_are_copied_by_their_paths_on_the_host() {
        let text = "#!/bin/sh\n# copy\n  mkdir -p \"$tmp/.initrd-secrets/etc\"\n  \
                    cp -a /etc/secrets/initrd/key \"$tmp/.initrd-secrets//etc/ssh/key\"\n  \
                    cp -a '/nix/store/x' $tmp/.initrd-secrets/y\n  cp -a /etc/other/file /elsewhere/x\n";
        assert_eq!(copied(text), ["/etc/secrets/initrd/key"]);
    }
}
