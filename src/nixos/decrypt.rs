//! NX117, NX118: whether a system has a key that opens the files which sops-nix or agenix decrypts.

use deaddrop_core::tree::walk;

use super::Finding;
use super::closure::decrypt::{Decrypter, Identity, IdentityKind, Recipient, Recipients, Tool, cut};

/// What is known of a private key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownKey {
    /// Its recipients, `age1…`: one of an SSH key of type ed25519, one for each identity of a file of age.
    pub recipients: Vec<String>,
    /// The tag of an SSH key ([`super::closure::decrypt::ssh_tag`]).
    pub tag: Option<String>,
    /// The public part of an SSH key, as in a `.pub` file, if it is short enough to be told.
    pub public: Option<String>,
}

/// True if a key at the place of this identity opens a file; `None` if that cannot be known.
#[must_use]
pub fn opens(identity: &Identity, key: &KnownKey, file: &Recipients) -> Option<bool> {
    // A file that says nothing, as one that was not read.
    let keys = file.keys.as_ref().filter(|keys| !file.others && (file.pgp || !keys.is_empty()))?;
    let is_own = |recipient: &Recipient| match recipient {
        Recipient::Age(recipient) => key.recipients.contains(recipient),
        Recipient::Ssh(tag) => key.tag.as_ref() == Some(tag),
        Recipient::Hidden => false,
    };
    match identity.kind {
        IdentityKind::SshAsGpg if file.pgp => None,
        IdentityKind::SshAsGpg => Some(false),
        // A key of age may be the one that a header hides; one of SSH is not.
        IdentityKind::Any if key.tag.is_none() && keys.contains(&Recipient::Hidden) => None,
        IdentityKind::SshAsAge | IdentityKind::AgeKeyFile | IdentityKind::Any => Some(keys.iter().any(is_own)),
    }
}

/// The identities of which one is needed: those of the kinds that its files are encrypted for.
#[must_use]
pub fn needed(decrypter: &Decrypter) -> Vec<&Identity> {
    let may_be = |pick: fn(&Recipients) -> bool| decrypter.files.values().any(|file| file.keys.is_none() || pick(file));
    let (age, pgp) = (may_be(|file| file.keys.as_ref().is_some_and(|keys| !keys.is_empty())), may_be(|file| file.pgp));
    let is_needed = |identity: &&Identity| match identity.kind {
        IdentityKind::SshAsGpg => pgp,
        IdentityKind::SshAsAge | IdentityKind::AgeKeyFile => age,
        IdentityKind::Any => true,
    };
    let found: Vec<&Identity> = decrypter.identities.iter().filter(is_needed).collect();
    if found.is_empty() { decrypter.identities.iter().collect() } else { found }
}

/// NX117: nothing provides a key.
#[must_use]
pub fn no_key(decrypter: &Decrypter, missing: &[&Identity]) -> Finding {
    let (tool, count) = (decrypter.tool.name(), count(decrypter.secrets.len(), "secret"));
    let reason = if missing.is_empty() {
        format!("{tool} has {count}, and its configuration names no key")
    } else {
        let which = if missing.len() == 1 { "it" } else { "any of them" };
        let paths = paths(missing);
        format!("{tool} decrypts {count} with {paths}, and nothing provides {which}: nothing is decrypted")
    };
    let instead = match (best_of(missing), decrypter.tool) {
        (Some(identity), _) => {
            let make = kind_to_make(identity).map_or(String::new(), |kind| format!(" or `generate: {kind}`"));
            format!("give it: a secret with `path: {}`, and `from` a vault{make}", shown(&identity.path))
        }
        (None, Tool::SopsNix) => "set sops.age.sshKeyPaths or sops.age.keyFile".to_owned(),
        (None, Tool::Agenix) => "set age.identityPaths".to_owned(),
    };
    Finding { code: "NX117", refuse: false, reason, instead }
}

/// The key that a decrypter is best given, and the kind that can be made for it; none if it names no key, or makes it.
#[must_use]
pub fn best(decrypter: &Decrypter) -> Option<(&Identity, Option<&'static str>)> {
    let best = required(decrypter).or_else(|| best_of(&needed(decrypter)))?;
    (decrypter.made_key.as_ref() != Some(&best.path)).then(|| (best, kind_to_make(best)))
}

/// The one without which sops-nix ends, whatever else is there.
#[must_use]
pub fn required(decrypter: &Decrypter) -> Option<&Identity> {
    decrypter.identities.iter().find(|identity| identity.kind == IdentityKind::AgeKeyFile)
}

/// The first one that can be made, else the first.
fn best_of<'i>(identities: &[&'i Identity]) -> Option<&'i Identity> {
    identities.iter().copied().find(|identity| kind_to_make(identity).is_some()).or(identities.first().copied())
}

/// The kind of key that can be made for an identity; `None` for an RSA key, as far as its name says.
fn kind_to_make(identity: &Identity) -> Option<&'static str> {
    match identity.kind {
        IdentityKind::SshAsGpg => None,
        IdentityKind::SshAsAge => Some("ssh-host-ed25519"),
        IdentityKind::AgeKeyFile => Some("age"),
        IdentityKind::Any if identity.path.contains("rsa") => None,
        IdentityKind::Any if identity.path.contains("ssh") => Some("ssh-host-ed25519"),
        IdentityKind::Any => Some("age"),
    }
}

/// NX118: the key at the place of `identity` is no recipient of `closed`, which no other key opens either.
#[must_use]
pub fn not_a_recipient(decrypter: &Decrypter, identity: &Identity, key: &KnownKey, closed: &[&str]) -> Finding {
    let (tool, path) = (decrypter.tool.name(), shown(&identity.path));
    let all = decrypter.files.len();
    let what = match (closed.len(), all) {
        (1, 1) => "does not open the file".to_owned(),
        (closed, _) if closed == all => format!("opens none of the {all} files"),
        (closed, _) => format!("does not open {closed} of the {all} files"),
    };
    let names = file_names(closed);
    let recipient = recipient(decrypter.tool, key).unwrap_or_else(|| "it".to_owned());
    Finding {
        code: "NX118",
        refuse: false,
        reason: format!("the key of {path} {what} that {tool} decrypts: {recipient} is no recipient of {names}"),
        instead: advice(decrypter.tool, key, &identity.path, closed),
    }
}

/// NX120: after the change of the key at `path` of a running node no identity opens `closed`. `key` is the new one, if it
/// is one.
#[must_use]
pub fn locked_out(decrypter: &Decrypter, path: &str, key: Option<&KnownKey>, closed: &[&str]) -> Finding {
    let (tool, names) = (decrypter.tool.name(), file_names(closed));
    let instead = match key {
        Some(key) => format!("first {}, and switch the node to that system", advice(decrypter.tool, key, path, closed)),
        None => format!("{} is not a key that {tool} decrypts with: give it one", shown(path)),
    };
    Finding {
        code: "NX120",
        refuse: true,
        reason: format!(
            "with this change of {} no key of the node opens {names}, which {tool} decrypts: the node locks itself out at \
             its next activation",
            shown(path)
        ),
        instead,
    }
}

/// What makes a key a recipient: "add age1… to .sops.yaml, then `sops updatekeys node1.yaml`".
#[must_use]
pub fn advice(tool: Tool, key: &KnownKey, path: &str, files: &[&str]) -> String {
    let recipient = recipient(tool, key);
    match tool {
        Tool::SopsNix => {
            let recipient = recipient
                .unwrap_or_else(|| "the recipient of an ed25519 key (sops-nix takes no other SSH key)".to_owned());
            let commands: Vec<String> =
                files.iter().take(NAMED).map(|file| format!("`sops updatekeys {}`", file_name(file))).collect();
            let more = if files.len() > NAMED { ", and so for the others" } else { "" };
            format!("add {recipient} to .sops.yaml, then {}{more}", commands.join(", "))
        }
        Tool::Agenix => {
            let recipient = recipient.unwrap_or_else(|| format!("what `ssh-keygen -y -f {}` prints", shown(path)));
            format!("add {recipient} to secrets.nix, then `agenix -r`")
        }
    }
}

/// How the tool's configuration names a key: sops by its recipient, agenix by what is in its `.pub` file, since age
/// opens what is encrypted to an SSH key's own recipient with that SSH key only as sops-nix uses it.
fn recipient(tool: Tool, key: &KnownKey) -> Option<String> {
    match tool {
        Tool::SopsNix => key.recipients.first().cloned(),
        Tool::Agenix => key.public.clone().or_else(|| key.recipients.first().filter(|_| key.tag.is_none()).cloned()),
    }
}

/// How many files a message names.
const NAMED: usize = 3;

fn file_names(files: &[&str]) -> String {
    let names: Vec<String> = files.iter().take(NAMED).map(|file| file_name(file)).collect();
    format!("{}{}", names.join(", "), and_more(files.len()))
}

/// What follows the names that a message has room for.
fn and_more(count: usize) -> String {
    match count.saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// The name of a file of the store as its repository has it: below the store path of a whole tree, else without the
/// hash.
fn file_name(path: &str) -> String {
    let below = path.strip_prefix("/nix/store/").unwrap_or(path);
    let name = match below.split_once('/') {
        Some((_, inside)) if path.starts_with("/nix/store/") => inside,
        _ => {
            below.split_once('-').filter(|(hash, _)| hash.len() == super::closure::HASH).map_or(below, |(_, name)| name)
        }
    };
    shown(name)
}

/// "/etc/ssh/a", "one of /etc/ssh/a, /etc/ssh/b".
#[must_use]
pub fn paths(identities: &[&Identity]) -> String {
    match identities {
        [identity] => shown(&identity.path),
        _ => {
            let paths: Vec<String> = identities.iter().take(NAMED).map(|identity| shown(&identity.path)).collect();
            format!("one of {}{}", paths.join(", "), and_more(identities.len()))
        }
    }
}

/// "1 secret", "31 secrets".
#[must_use]
pub fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn shown(path: &str) -> String {
    cut(&walk::shown(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(kind: IdentityKind) -> Identity {
        Identity { path: "/k".into(), kind }
    }

    #[test]
    fn a_key_opens_what_names_it_and_of_some_files_it_cannot_be_known() {
        use IdentityKind::{AgeKeyFile, Any, SshAsAge, SshAsGpg};
        let ssh = KnownKey { recipients: vec!["age1a".into()], tag: Some("ssh-ed25519 A".into()), public: None };
        let age = KnownKey { recipients: vec!["age1a".into(), "age1b".into()], ..KnownKey::default() };
        let file = |keys: &[Recipient]| Recipients { keys: Some(keys.to_vec()), ..Recipients::default() };
        let of = |recipient: &str| file(&[Recipient::Age(recipient.into())]);
        let tagged = |tag: &str| file(&[Recipient::Hidden, Recipient::Ssh(tag.into())]);
        let pgp = Recipients { pgp: true, ..of("age1x") };
        for (name, kind, key, file, want) in [
            ("a recipient", SshAsAge, &ssh, of("age1a"), Some(true)),
            ("another", SshAsAge, &ssh, of("age1b"), Some(false)),
            ("the second identity", AgeKeyFile, &age, of("age1b"), Some(true)),
            ("another tool's", SshAsGpg, &ssh, of("age1a"), Some(false)),
            ("maybe by GnuPG", SshAsGpg, &ssh, pgp.clone(), None),
            ("not by age", SshAsAge, &ssh, pgp, Some(false)),
            ("KMS", SshAsAge, &ssh, Recipients { others: true, ..of("age1b") }, None),
            ("nothing told", SshAsAge, &ssh, file(&[]), None),
            ("not read", SshAsAge, &ssh, Recipients::default(), None),
            ("a tag", Any, &ssh, tagged("ssh-ed25519 A"), Some(true)),
            ("another tag", Any, &ssh, tagged("ssh-rsa A"), Some(false)),
            ("maybe a key of age", Any, &age, tagged("ssh-rsa A"), None),
            ("only SSH keys", Any, &age, file(&[Recipient::Ssh("ssh-rsa A".into())]), Some(false)),
        ] {
            assert_eq!(opens(&identity(kind), key, &file), want, "{name}");
        }
    }

    #[test]
    fn files_are_named_as_their_repository_has_them() {
        let hash = "a".repeat(32);
        for (path, want) in [
            (format!("/nix/store/{hash}-node1.yaml"), "node1.yaml"),
            (format!("/nix/store/{hash}-source/secrets/a.yaml"), "secrets/a.yaml"),
            ("/etc/nixos/a.yaml".to_owned(), "/etc/nixos/a.yaml"),
            ("/nix/store/short".to_owned(), "short"),
        ] {
            assert_eq!(file_name(&path), want);
        }
    }
}
