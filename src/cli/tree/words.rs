//! The words that hand a tree to the tool which installs a system, and what that tool would make of it.
//!
//! nix-community/nixos-anywhere, src/nixos-anywhere.sh; nix-community/disko, lib/make-disk-image.nix and disko-install.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deaddrop_core::shown;
use deaddrop_core::warning::Warning;

use crate::run::message::Message;
use crate::run::plan::{Action, Plan};

/// A tool that takes a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tool {
    /// nixos-anywhere: --extra-files DIR --chown PATH UID:GID …
    NixosAnywhere,
    /// The script of disko's images: --post-format-files SRC DST …
    DiskoImage,
    /// disko-install: --extra-files SRC DST …
    DiskoInstall,
}

/// Columns that `pr -2t` leaves for a path; its page has 72, of which one is between the two halves.
const LONGEST_OF_PR: usize = 35;
/// Lines of a page of `pr`: further pairs come out in another order.
const MOST_OF_PR: usize = 66;
/// Maximum length of a name, in bytes.
const LONGEST_NAME: usize = 255;
/// Characters in a line of base64(1).
const LINE_OF_BASE64: usize = 76;
/// The mode of the directories that disko makes.
const MODE_OF_DISKO: u32 = 0o755;

/// A file or directory of the tree.
struct Entry<'p> {
    path: &'p str,
    uid: u32,
    gid: u32,
    /// `None` for a directory.
    secret: Option<&'p str>,
}

impl Entry<'_> {
    fn is_roots(&self) -> bool {
        (self.uid, self.gid) == (0, 0)
    }

    fn owner(&self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }

    /// Its path, after the name of its secret.
    fn shown(&self) -> String {
        let path = shown::text(self.path);
        self.secret.map_or_else(|| path.clone(), |secret| format!("{secret}: {path}"))
    }

    fn is_below(&self, directory: &str) -> bool {
        self.path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// The directories of the tree, then its files.
fn entries(plan: &Plan) -> (Vec<Entry<'_>>, Vec<Entry<'_>>) {
    let directories = plan.directories.iter().map(|directory| {
        let owner = &directory.owner;
        Entry { path: &directory.path, uid: owner.uid, gid: owner.gid, secret: None }
    });
    let files = plan.changes.iter().filter(|change| change.action == Action::Create).map(|change| Entry {
        path: &change.physical,
        uid: change.uid,
        gid: change.gid,
        secret: Some(&change.secret),
    });
    (directories.collect(), files.collect())
}

/// What a tool would spoil and why, and a hint.
type Spoiled = (String, &'static str);

/// What the tool would spoil. `name` is what messages call the tree.
#[must_use]
pub fn spoiled(tool: Tool, plan: &Plan, name: &str) -> Vec<Message> {
    let (directories, files) = entries(plan);
    let on_several_lines = files.iter().filter(|file| file.path.contains(char::is_control)).map(|file| {
        let what = format!("{} holds a control character, and the words for the tool are one line", file.shown());
        (what, "declare another path")
    });
    let mut spoiled: Vec<Spoiled> = on_several_lines.collect();
    match tool {
        Tool::NixosAnywhere => spoiled.extend(spoiled_by_pr(&directories, &files)),
        Tool::DiskoImage => spoiled.extend(files.iter().filter_map(spoiled_by_base64)),
        Tool::DiskoInstall => {}
    }
    spoiled.into_iter().map(|(what, hint)| Message::new(format!("{name}: {what}")).hint(hint)).collect()
}

/// `--chown` of nixos-anywhere: the pairs go through `pr -2t` and `read file ownership`, and then each is a `chown -R`,
/// in the order of a hash table.
fn spoiled_by_pr(directories: &[Entry<'_>], files: &[Entry<'_>]) -> Vec<Spoiled> {
    let all = || directories.iter().chain(files);
    let given_away: Vec<&Entry<'_>> = all().filter(|entry| !entry.is_roots()).collect();
    let mut spoiled = Vec::new();
    for entry in &given_away {
        let (path, owner) = (entry.path, entry.owner());
        let why = if path.len() > LONGEST_OF_PR {
            format!("its --chown cuts a path after {LONGEST_OF_PR} bytes, and this one has {}", path.len())
        } else if path.contains(char::is_whitespace) {
            "its --chown splits a path at a space".to_owned()
        } else if path.contains('\\') {
            "its --chown drops the backslash of a path".to_owned()
        } else {
            continue;
        };
        let what = format!("{} is to belong to {owner}, and nixos-anywhere cannot give it away: {why}", entry.shown());
        spoiled.push((what, "declare another path, or leave it root's (LoadCredential reads it so)"));
    }
    if given_away.len() > MOST_OF_PR {
        let what = format!(
            "{} files and directories are to belong to others than root, and nixos-anywhere mixes up the owners of \
             more than {MOST_OF_PR}",
            given_away.len()
        );
        spoiled.push((what, "leave some root's (LoadCredential reads them so)"));
    }
    for directory in directories.iter().filter(|directory| !directory.is_roots()) {
        let other = |entry: &&Entry<'_>| entry.is_below(directory.path) && entry.owner() != directory.owner();
        spoiled.extend(all().find(other).map(|entry| {
            let what = format!(
                "{} is to belong to {}, and what is below it to another, {} ({}): nixos-anywhere changes the owner of \
                 a directory with all that is in it",
                directory.shown(),
                directory.owner(),
                shown::text(entry.path),
                entry.owner()
            );
            (what, "give them one owner, or leave the directory root's")
        }));
    }
    spoiled
}

/// disko's script names a copy of the file after its path, in base64.
fn spoiled_by_base64(file: &Entry<'_>) -> Option<Spoiled> {
    let name = STANDARD.encode(format!("{}\n", file.path));
    let length = name.len().saturating_add(name.len().saturating_sub(1) / LINE_OF_BASE64);
    let why = if length > LONGEST_NAME {
        "too long for a name"
    } else if name.contains('/') {
        "no name: there is a `/` in it"
    } else {
        return None;
    };
    let what = format!("{}: disko's script keeps a file under its path in base64, which is {why}", file.shown());
    Some((what, "declare another path"))
}

/// DD211: what the tool does not keep.
#[must_use]
pub fn lost(tool: Tool, plan: &Plan) -> Vec<Warning> {
    let (tool, keeps_owners) = match tool {
        Tool::NixosAnywhere => return Vec::new(),
        Tool::DiskoImage => ("disko's script", false),
        Tool::DiskoInstall => ("disko-install", true),
    };
    let (_, files) = entries(plan);
    let mut warnings: Vec<Warning> = files
        .iter()
        .filter(|file| !keeps_owners && !file.is_roots())
        .map(|file| Warning {
            code: "DD211",
            secret: file.secret.map(str::to_owned),
            message: format!("{tool} makes {} root's, and it is to belong to {}", shown::text(file.path), file.owner()),
            hint: "`inject` into the image that it makes; or a rule of systemd.tmpfiles (`z`), or LoadCredential"
                .into(),
        })
        .collect();
    let is_changed = |mode, uid, gid| mode != MODE_OF_DISKO || (uid, gid) != (0, 0);
    let directories = plan.directories.iter().filter(|new| is_changed(new.mode, new.owner.uid, new.owner.gid));
    let listed: Vec<String> = directories
        .map(|new| format!("{} ({:04o} {}:{})", shown::text(&new.path), new.mode, new.owner.uid, new.owner.gid))
        .collect();
    if !listed.is_empty() {
        warnings.push(Warning {
            code: "DD211",
            secret: None,
            message: format!("{tool} makes directories 0755 and root's, and these are to be: {}", listed.join(", ")),
            hint: "the files keep their own modes; a rule of systemd.tmpfiles (`d`) sets a directory's".into(),
        });
    }
    warnings
}

/// The words for the tool. `directory` is the tree's path.
#[must_use]
pub fn words(tool: Tool, directory: &str, plan: &Plan) -> Vec<String> {
    let (directories, files) = entries(plan);
    let each = |option: &str| {
        let triple = |file: &Entry<'_>| [option.to_owned(), format!("{directory}{}", file.path), file.path.to_owned()];
        files.iter().flat_map(triple).collect()
    };
    match tool {
        Tool::DiskoImage => each("--post-format-files"),
        Tool::DiskoInstall => each("--extra-files"),
        Tool::NixosAnywhere => {
            let given_away = directories.iter().chain(&files).filter(|entry| !entry.is_roots());
            let chowns = given_away.flat_map(|entry| ["--chown".to_owned(), entry.path.to_owned(), entry.owner()]);
            ["--extra-files".to_owned(), directory.to_owned()].into_iter().chain(chowns).collect()
        }
    }
}

/// Words as a POSIX shell reads them, on one line.
#[must_use]
pub fn quoted(words: &[String]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    let quote = |word: &String| match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}
