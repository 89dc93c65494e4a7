//! What each argument takes, and the candidates for it.

use std::ffi::OsStr;
use std::sync::{Arc, OnceLock};

use clap::Command;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use super::files::{expanded, is_block_device, is_image, is_manifest, paths};
use super::line::Line;
use crate::cli::args::USUAL_MANIFEST;
use crate::cli::{flash, init};
use crate::manifest::{Named, Names};

/// What an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    HostOrTag,
    Tag,
    Secret,
    Source,
    UsualSecret,
    Image,
    NodeOrImage,
    Device,
    Manifest,
    Directory,
    File,
}

/// What an argument of a command takes; `None` for values that clap knows, and for what nobody knows.
fn kind(command: &str, argument: &str) -> Option<Kind> {
    Some(match (command, argument) {
        // `NAME=USER@ADDRESS`: the host is a new one.
        ("init", "host") => return None,
        (_, "host") => Kind::Host,
        ("rotate", "hosts") => Kind::HostOrTag,
        (_, "serial") => Kind::Tag,
        (_, "only") => Kind::Secret,
        ("list", "name") => Kind::Source,
        ("init", "secrets") => Kind::UsualSecret,
        ("plan" | "verify" | "lint", "target") => Kind::NodeOrImage,
        (_, "target" | "image" | "closure") | ("inject", "output") => Kind::Image,
        ("flash", "device") => Kind::Device,
        (_, "manifest") | ("init", "output") => Kind::Manifest,
        (_, "undo" | "directory") => Kind::Directory,
        (_, "ssh_config" | "public_out") => Kind::File,
        _ => return None,
    })
}

/// Gives each argument its candidates, from the manifest that the line names.
pub fn attach(command: Command, line: &Line) -> Command {
    let known = Known { manifest: manifest(&line.words).to_owned(), names: OnceLock::new() };
    let only_inject = line.words.iter().any(|word| word == "--only-inject");
    attach_known(command, &Arc::new(known), only_inject)
}

/// With `only_inject`, the first argument of `flash` is the device.
fn attach_known(command: Command, known: &Arc<Known>, only_inject: bool) -> Command {
    let name = command.get_name().to_owned();
    let command = command.mut_args(|arg| {
        let kind = match kind(&name, arg.get_id().as_str()) {
            Some(Kind::Image) if name == "flash" && only_inject => Kind::Device,
            Some(kind) => kind,
            None => return arg,
        };
        let known = Arc::clone(known);
        arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
            typed.to_str().map(|typed| known.candidates(kind, typed)).unwrap_or_default()
        }))
    });
    command.mut_subcommands(|command| attach_known(command, known, only_inject))
}

/// The manifest that the command line names, else the usual one.
fn manifest(words: &[String]) -> &str {
    let mut words = words.iter().take(words.len().saturating_sub(1)).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        let attached = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some("manifest"), _) => Some(""),
            (Some(long), _) => long.strip_prefix("manifest="),
            // Flags may stand before it: `-vm FILE`, `-vmFILE`, `-vm=FILE`.
            (None, Some(short)) => short.trim_start_matches(['v', 'q', 'h']).strip_prefix('m'),
            (None, None) => None,
        };
        match attached {
            Some("") => return words.next().map_or("", String::as_str),
            Some(file) if word.starts_with("--") => return file,
            Some(file) => return file.strip_prefix('=').unwrap_or(file),
            None => {}
        }
    }
    USUAL_MANIFEST
}

/// Where words come from.
#[derive(Debug)]
struct Known {
    /// As it is typed.
    manifest: String,
    /// Read at the first use.
    names: OnceLock<Names>,
}

impl Known {
    fn candidates(&self, kind: Kind, typed: &str) -> Vec<CompletionCandidate> {
        match kind {
            Kind::Host => named(&self.names().hosts, "", typed),
            Kind::Tag => named(&self.names().tags, "", typed),
            Kind::Secret => named(&self.names().secrets, "", typed),
            Kind::Source => named(&self.names().sources, "", typed),
            Kind::UsualSecret => {
                init::usual_secrets().filter(|name| name.starts_with(typed)).map(CompletionCandidate::new).collect()
            }
            Kind::HostOrTag => both(named(&self.names().hosts, "", typed), named(&self.names().tags, "tag:", typed)),
            Kind::NodeOrImage => both(paths(typed, is_image), named(&self.names().hosts, "@", typed)),
            Kind::Image => paths(typed, is_image),
            Kind::Device => devices(typed),
            Kind::Manifest => paths(typed, is_manifest),
            Kind::Directory => paths(typed, |_| false),
            Kind::File => paths(typed, |_| true),
        }
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| expanded(&self.manifest).and_then(|path| Names::of(&path)).unwrap_or_default())
    }
}

fn both(mut one: Vec<CompletionCandidate>, other: Vec<CompletionCandidate>) -> Vec<CompletionCandidate> {
    one.extend(other);
    one
}

/// Names that begin as what is typed, after a prefix.
fn named(names: &[Named], prefix: &str, typed: &str) -> Vec<CompletionCandidate> {
    let words = names.iter().map(|(name, about)| (format!("{prefix}{name}"), about));
    words
        // A name that begins so is another thing at the start of a word.
        .filter(|(word, _)| word.starts_with(typed) && !word.starts_with(['-', '~']))
        .map(|(word, about)| described(word, about))
        .collect()
}

fn described(word: String, about: &str) -> CompletionCandidate {
    CompletionCandidate::new(word).help((!about.is_empty()).then(|| about.to_owned().into()))
}

/// The devices that `flash` lists; where none of them is meant, block devices by their paths.
fn devices(typed: &str) -> Vec<CompletionCandidate> {
    let listed = flash::devices().into_iter().filter_map(|(path, number)| Some((path.to_str()?.to_owned(), number)));
    let meant = listed.filter(|(path, _)| path.starts_with(typed));
    let candidates: Vec<_> = meant.map(|(path, number)| described(path, &flash::facts(&number))).collect();
    if candidates.is_empty() { paths(typed, is_block_device) } else { candidates }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Arguments of free text, and of paths in a target.
    const FREE: [&str; 17] = [
        "alphabet",
        "batch",
        "canary",
        "comment",
        "length",
        "max_failures",
        "parallel",
        "program",
        "root_partition",
        "shard",
        "ssh_option",
        "subvolume",
        "system",
        "timeout",
        "user",
        "vault",
        "host",
    ];

    fn collect(command: &Command, unknown: &mut BTreeSet<String>) {
        for arg in command.get_arguments() {
            let (name, id) = (command.get_name(), arg.get_id().as_str());
            let takes_value = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
            if takes_value && kind(name, id).is_none() {
                unknown.insert(id.to_owned());
            }
        }
        command.get_subcommands().for_each(|command| collect(command, unknown));
    }

    #[test]
    fn every_argument_has_candidates_or_is_of_free_text() {
        let mut unknown = BTreeSet::new();
        collect(&crate::cli::command(), &mut unknown);
        assert_eq!(unknown, FREE.iter().map(|name| (*name).to_owned()).collect());
    }

    #[test]
    fn the_manifest_is_the_one_that_the_command_line_names() {
        for (line, want) in [
            ("rotate x", "secrets.yaml"),
            ("rotate -m a.yaml x", "a.yaml"),
            ("-q rotate -vma.yaml x", "a.yaml"),
            ("rotate -vm=a.yaml x", "a.yaml"),
            ("rotate --manifest a.yaml x", "a.yaml"),
            ("rotate --manifest=a=b.yaml x", "a=b.yaml"),
            ("rotate -m - x", "-"),
            ("rotate --max-failures -omx x", "secrets.yaml"),
            ("tree --for disko-install -- -m a.yaml x", "secrets.yaml"),
            // What is just being typed names none yet.
            ("rotate -m a.yaml", ""),
            ("rotate -ma", "secrets.yaml"),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(manifest(&words), want, "{line}");
        }
    }
}
