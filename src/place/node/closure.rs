//! The NixOS of a running node, read in the session of its survey, and what it says of surveyed paths.
//!
//! ```text
//! names                          -> NAME                   each name in the directory
//! DIRECTORY                         /
//! …                                 …
//! .                                 .
//! mounts                         -> nixos                  it is one; then what is mounted:
//!                                   TYPE PLACE             as in /proc/self/mounts
//!                                   .
//! ```

use std::collections::{BTreeMap, BTreeSet};

use deaddrop_core::error::{Hint, StorageError};
use deaddrop_core::path::TargetPath;
use deaddrop_core::secret::Secret;
use deaddrop_core::tree::walk::{self, Walk, WalkError};
use deaddrop_core::tree::{FileKind, Stat, Tree};

use super::error::NodeError;
use super::tree::{LONGEST_PATH, NodeTree};
use super::{MOST_ROUNDS, NodePlace};
use crate::nixos;
use crate::nixos::closure::{self, Closure, Found, Parts, system};
use crate::nixos::location::{Places, Seen};
use crate::place::survey::{PasswordRule, rule, users};
use crate::place::{Facts, Need, NodeFacts, Standing, Survey, Wanted};

/// The questions of this file.
const CLOSURE: &str = include_str!("closure.sh");
/// Maximum size of the answer about the names in a directory, in bytes, on average.
const ABOUT_NAMES: usize = 64 << 10;
/// Maximum size of the answer about mounts, in bytes.
const ABOUT_MOUNTS: usize = 1 << 20;
/// Maximum size of a key that a system decrypts with, in bytes.
const KEY_LIMIT: u64 = 64 << 10;

/// What is mounted on a node: type and place.
#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<(String, String)>);

impl Mounts {
    /// True for a path that is not kept when the node boots: on a tmpfs, or on the root itself.
    fn loses(&self, path: &str) -> bool {
        // What is written to an overlay over /etc is on the root.
        let is_own = |(kind, place): &&(String, String)| !(kind == "overlay" && place == "/etc");
        let above = |(_, place): &&(String, String)| place == "/" || nixos::paths::is_at_or_below(path, place);
        // Of two at one place the later one shows.
        let mount = self.0.iter().filter(is_own).filter(above).max_by_key(|(_, place)| place.len());
        mount.is_none_or(|(kind, place)| place == "/" || matches!(kind.as_str(), "tmpfs" | "ramfs"))
    }
}

impl NodePlace<'_> {
    /// The paths where files are written: on a NixOS, what would not be kept is below `persist_root`.
    pub(super) fn located(&mut self, wanted: &[Wanted]) -> Result<Vec<Wanted>, NodeError> {
        let mut located = wanted.to_vec();
        let Some(root) = self.persist_root.clone() else { return Ok(located) };
        if self.mounts.is_none() {
            self.mounts = Some(self.ask_mounts()?);
        }
        let Some(mounts) = self.mounts.as_ref().and_then(Option::as_ref) else { return Ok(located) };
        for want in &mut located {
            let path = want.path.as_str();
            if !nixos::paths::is_at_or_below(path, &root) && mounts.loses(path) {
                let path = format!("{root}{path}");
                want.path = TargetPath::parse(&path)
                    .map_err(|why| NodeError::refused(path, format!("choose another path: {why}")))?;
            }
        }
        Ok(located)
    }

    /// What is mounted; `None` without NixOS.
    fn ask_mounts(&mut self) -> Result<Option<Mounts>, NodeError> {
        const GARBLED: NodeError = NodeError::Garbled("the answer about mounts");
        self.load_closure("mounts");
        self.greet()?;
        self.session.limits().expect(ABOUT_MOUNTS, self.login.silence);
        let mut mounts = None;
        loop {
            let line = self.session.line()?;
            let line = std::str::from_utf8(&line).map_err(|_| GARBLED)?;
            match (line, &mut mounts) {
                (".", _) => return Ok(mounts),
                ("nixos", None) => mounts = Some(Mounts::default()),
                (line, Some(Mounts(all))) => {
                    let (kind, place) = line.split_once(' ').ok_or(GARBLED)?;
                    all.push((kind.to_owned(), unescaped(place)));
                }
                _ => return Err(GARBLED),
            }
        }
    }

    /// Sends a question of this file; the script before it, once.
    fn load_closure(&mut self, question: &str) {
        let script = if self.reads_system { "" } else { CLOSURE };
        self.send_program(&format!("{script}{question}\n"));
        self.reads_system = true;
    }

    /// The system that runs.
    fn system(&mut self, parts: Parts) -> Result<Found, NodeError> {
        let own = self.system_tree.take().unwrap_or_else(NodeTree::of_system);
        let files = std::mem::replace(&mut self.tree, own);
        let found = self.system_of_tree(parts);
        self.system_tree = Some(std::mem::replace(&mut self.tree, files));
        found
    }

    fn system_of_tree(&mut self, parts: Parts) -> Result<Found, NodeError> {
        for path in ["/nix", "/nix/store", "/nix/var/nix/profiles", system::CURRENT, system::PROFILE] {
            self.tree.ask(path, None);
        }
        self.until_known(|tree| closure::running(tree, parts))
    }

    /// Runs a reader of the tree again and again, each time with the answers to what it asked for, until it asks for
    /// nothing.
    fn until_known<F>(&mut self, read: impl Fn(&NodeTree) -> Result<F, StorageError>) -> Result<F, NodeError> {
        for _ in 0..MOST_ROUNDS {
            let asked = self.tree.take_asked();
            if !asked.is_empty() {
                // If files changed meanwhile, the reader asks for them again.
                self.ask(&asked)?;
            }
            self.ask_writers()?;
            self.ask_names()?;
            self.tree.begin_again();
            let found = read(&self.tree).map_err(|error| refused(&error))?;
            if !self.tree.has_questions() {
                return Ok(found);
            }
        }
        Err(NodeError::refused("the files of its system lead on and on", "is its store damaged?"))
    }

    fn ask_names(&mut self) -> Result<(), NodeError> {
        const GARBLED: NodeError = NodeError::Garbled("the names in a directory");
        let asked = self.tree.asked_names();
        if asked.is_empty() {
            return Ok(());
        }
        self.load_closure("names");
        let lines: String = asked.iter().map(|path| format!("{path}\n")).collect();
        self.session.queue(format!("{lines}.\n").as_bytes());
        let most = asked.len().saturating_mul(ABOUT_NAMES).saturating_add(ABOUT_MOUNTS);
        self.session.limits().expect(most, self.login.silence);
        for path in asked {
            let mut names = Vec::new();
            loop {
                let line = self.session.line()?;
                match line.as_slice() {
                    b"/" => break,
                    name if name.is_empty() || name.contains(&b'/') || name.len() > LONGEST_PATH => {
                        return Err(GARBLED);
                    }
                    name => names.push(name.to_vec()),
                }
            }
            self.tree.learn_names(path, names).map_err(|error| refused(&error))?;
        }
        if self.session.line()?.as_slice() == b"." { Ok(()) } else { Err(GARBLED) }
    }

    /// Completes a survey by what the node's NixOS says of the paths that would change; without NixOS it stays as it is.
    ///
    /// # Errors
    /// If the session ends, or the node's answers are over a limit.
    pub fn examine(&mut self, wanted: &[Wanted], mut survey: Survey, need: &Need) -> Result<Survey, NodeError> {
        let parts = Parts { wants: need.wants, ..Parts::default() };
        let mut system = match self.system(parts)? {
            Found::None => return Ok(survey),
            Found::Unreadable(why) => {
                survey.findings.push(unreadable(&why));
                return Ok(survey);
            }
            Found::System(system) => system,
        };
        let located = self.located(wanted)?;
        let changing: Vec<usize> = (0..wanted.len()).filter(|at| need.changing.get(*at) == Some(&true)).collect();
        let is_identity = |at: &usize| system.is_identity(located[*at].path.as_str());
        if need.all || changing.iter().any(is_identity) {
            if let Found::System(whole) = self.system(Parts { recipients: true, ..parts })? {
                system = whole;
            }
            survey.keys = self.keys(&system)?;
        }
        let has_password = |at: &usize| wanted[*at].is_password || is_password(&system, &wanted[*at]);
        if changing.iter().any(has_password) || (need.all && system.made_passwords().next().is_some()) {
            survey.users = self.users_with_shadow()?;
        }
        let facts = NodeFacts { missing_password_files: self.missing_password_files(&system)? };
        if need.all {
            let paths: BTreeSet<&str> = system.wants.list.iter().map(|want| want.path.as_str()).collect();
            let standing = |found: bool| if found { Standing::There } else { Standing::Missing };
            let known = self.look(paths)?.into_iter().map(|(path, found)| (path, standing(found))).collect();
            survey.facts = Some(Facts { standing: known, ..Facts::default() });
        }
        let persist_root = self.persist_root.clone();
        let places = Places::of_all(&system, persist_root.as_deref());
        let readers = places.readers();
        for (at, surveyed) in survey.places.iter_mut().enumerate() {
            let Ok(surveyed) = surveyed else { continue };
            if !changing.contains(&at) {
                continue;
            }
            let (declared, written) = (wanted[at].path.as_str(), located[at].path.as_str());
            let by_activation = wanted[at].is_password || system.is_read_by_activation(written);
            surveyed.findings.extend(places.judge_running(declared, written, by_activation));
            let in_tree = if let Seen::At(at) = places.seen(written) { at } else { surveyed.physical.clone() };
            surveyed.wants = readers.of(declared, &in_tree);
            surveyed.is_examined = true;
        }
        if !system.unread.is_empty() {
            survey.findings.push(unreadable(&system.unread.join("; ")));
        }
        survey.passwords = if changing.is_empty() { PasswordRule::Unknown } else { rule(&system.users) };
        survey.persist_root = persist_root;
        Ok(Survey { system: Some(system), node: Some(facts), ..survey })
    }

    /// What the system decrypts with, as far as it stands: as in an image ([`crate::place::Survey::keys`]).
    fn keys(&mut self, system: &Closure) -> Result<BTreeMap<String, Secret>, NodeError> {
        let identities = system.decrypters.iter().flat_map(|decrypter| &decrypter.identities);
        let paths: BTreeSet<&str> =
            identities.map(|identity| identity.path.as_str()).filter(|path| TargetPath::parse(path).is_ok()).collect();
        self.until_known(|tree| {
            let mut keys = BTreeMap::new();
            for path in &paths {
                if let Some((node, stat)) = file_at(tree, path)?.filter(|(_, stat)| stat.size > 0) {
                    let content = if stat.size <= KEY_LIMIT { tree.read(&node, KEY_LIMIT)? } else { None };
                    keys.insert((*path).to_owned(), content.unwrap_or_else(|| Secret::new(Vec::new())));
                }
            }
            Ok(keys)
        })
    }

    fn users_with_shadow(&mut self) -> Result<crate::place::users::Users, NodeError> {
        self.until_known(|tree| {
            let shadow = crate::place::survey::shadow_file(tree, "/etc/shadow")?;
            users(tree, shadow.as_ref())
        })
    }

    /// The declared files of password hashes that do not stand: only the perl script needs all of them.
    fn missing_password_files(&mut self, system: &Closure) -> Result<BTreeSet<String>, NodeError> {
        if system.users_script.is_none() {
            return Ok(BTreeSet::new());
        }
        let files = system.accounts.users.iter().filter_map(|user| user.hashed_password_file.as_deref());
        let files = files.filter(|path| TargetPath::parse(path).is_ok()).collect();
        Ok(self.look(files)?.into_iter().filter(|(_, stands)| !stands).map(|(path, _)| path).collect())
    }

    /// Whether something stands at each path, through links.
    fn look(&mut self, paths: BTreeSet<&str>) -> Result<Vec<(String, bool)>, NodeError> {
        self.until_known(|tree| {
            let stands = |path: &&str| Ok(((*path).to_owned(), stands(tree, path)?));
            paths.iter().map(stands).collect()
        })
    }
}

/// True for the file of a user's password.
fn is_password(system: &Closure, want: &Wanted) -> bool {
    system.accounts.users_of(want.path.as_str()).next().is_some()
}

fn stands(tree: &NodeTree, path: &str) -> Result<bool, StorageError> {
    match walk::resolve(tree, path) {
        Ok(walked) => Ok(walked.found.is_some()),
        Err(WalkError::Image(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn file_at(tree: &NodeTree, path: &str) -> Result<Option<(String, Stat)>, StorageError> {
    match walk::resolve(tree, path) {
        Ok(Walk { found: Some((node, stat)), .. }) if stat.kind == FileKind::File => Ok(Some((node, stat))),
        Err(WalkError::Image(error)) => Err(error),
        _ => Ok(None),
    }
}

fn refused(error: &StorageError) -> NodeError {
    NodeError::refused(error.to_string(), error.hint().and_then(Hint::text).unwrap_or_default())
}

/// NX119 of a running node.
fn unreadable(why: &str) -> nixos::Finding {
    let instead = "is its store whole? `nix-store --verify` there says so".to_owned();
    nixos::Finding { instead, ..nixos::unreadable(why) }
}

/// A path of /proc/self/mounts: space, tab, line end and backslash are `\ooo` (proc(5)).
fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let character = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match character {
            Some(character) => {
                text.push(char::from(character));
                text.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_lost_on_the_root_and_on_a_tmpfs() {
        let mounts =
            [("ext4", "/"), ("tmpfs", "/run"), ("ext4", "/persist"), ("ext4", "/etc/secrets"), ("overlay", "/etc")];
        let mounts = Mounts(mounts.map(|(kind, place)| (kind.to_owned(), place.to_owned())).to_vec());
        for (path, lost) in [
            ("/var/lib/a", true),
            ("/run/a", true),
            ("/etc/a", true),
            ("/etc/secrets/a", false),
            ("/persist/a", false),
            ("/persistent/a", true),
        ] {
            assert_eq!(mounts.loses(path), lost, "{path}");
        }
    }

    #[test]
    fn a_place_with_a_space_is_read_as_it_is() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescaped("/a\\x"), "/a\\x");
    }
}
