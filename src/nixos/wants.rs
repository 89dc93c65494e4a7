//! What a system reads, held against what it is given: NX105, NX106, NX109, NX111, NX112, NX114.

use std::collections::{BTreeMap, BTreeSet};

use deaddrop_core::near;

use super::Finding;
use super::closure::wants::{Kind, Want};
use super::closure::{Accounts, Closure};

/// Places that a program reads without being told: OpenSSH's keys, nix's netrc, NetworkManager's and iwd's networks,
/// k3s's and rke2's files, credentials of systemd.
const UNTOLD: [&str; 9] = [
    "/etc/ssh/ssh_host_",
    "/root/.",
    "/etc/nix/netrc",
    "/etc/NetworkManager/system-connections/",
    "/var/lib/iwd/",
    "/var/lib/bluetooth/",
    "/var/lib/rancher/",
    "/etc/rancher/",
    "/etc/credstore",
];

/// Maximum number of paths or systems in one text.
const MOST_SHOWN: usize = 3;

fn warn(code: &'static str, reason: String, instead: String) -> Finding {
    Finding { code, refuse: false, reason, instead }
}

/// NX105: the file at `path` is copied into the initrd.
#[must_use]
pub fn in_initrd(path: &str) -> Finding {
    warn(
        "NX105",
        format!("{path} is copied into the initrd when the boot loader is installed: what is written now is not in it"),
        "on the node, once: nixos-rebuild boot, and reboot it".to_owned(),
    )
}

/// NX106: a user reads the file at `path`, on which nobody but root has a right.
#[must_use]
pub fn unreadable_by_user(path: &str, want: &Want, accounts: &Accounts) -> Option<Finding> {
    let user = want.user.as_deref()?;
    let own_group = accounts.users.iter().find(|account| account.name == user).map(|account| account.group.as_str());
    let group = want.groups.first().map(String::as_str).or(own_group).filter(|group| !group.is_empty());
    let group = group.unwrap_or(user);
    Some(warn(
        "NX106",
        format!("{} reads {path} as the user {user}, and nobody but root may read it", want.by),
        format!("set `mode: \"0440\"` and `group: {group}`, or `owner: {user}`"),
    ))
}

/// NX109: secrets that the store holds in clear, each with the file that holds it.
#[must_use]
pub fn in_clear(closure: &Closure) -> Vec<(String, Finding)> {
    let of_text = closure.wants.clear.iter().map(|clear| {
        let reason = format!("{} is in the store in clear, where every user can read it", clear.what);
        (clear.file.clone(), warn("NX109", reason, format!("use {}, and change the secret", clear.instead)))
    });
    let of_users = closure.accounts.users.iter().filter_map(|user| {
        let is_hash = |hash: &Option<deaddrop_core::secret::Secret>| {
            hash.as_ref().is_some_and(|hash| hash.expose().first().is_some_and(|first| matches!(first, b'$' | b'_')))
        };
        let what = if user.has_clear_password {
            "the password"
        } else if is_hash(&user.hashed_password) || is_hash(&user.initial_hashed_password) {
            "the password's hash"
        } else {
            return None;
        };
        let reason = format!("{what} of {} is in the store in clear, where every user can read it", user.name);
        let instead = format!("use users.users.{}.hashedPasswordFile, and change the password", user.name);
        Some((closure.toplevel.clone(), warn("NX109", reason, instead)))
    });
    of_text.chain(of_users).collect()
}

/// NX111: nothing gives a path that the system reads. `by` are all that read it, `kind` is how the first does.
#[must_use]
pub fn missing(path: &str, by: &[String], kind: Kind) -> Finding {
    let by: Vec<&str> = by.iter().map(String::as_str).take(MOST_SHOWN).collect();
    let effect = match kind {
        Kind::ClusterToken => "k3s waits for ever, without an error",
        Kind::Password => "nobody can log in with that password",
        Kind::Initrd => "the boot loader cannot be installed",
        Kind::NixConf => "nix does not start",
        Kind::MountOption => "the mount fails",
        Kind::EnvironmentFile | Kind::Credential => "the unit does not start",
        _ => "the unit fails, or works without it",
    };
    let reads = if by.len() == 1 { "reads" } else { "read" };
    warn(
        "NX111",
        format!("{} {reads} {path}, and nothing gives it: {effect}", by.join(" and ")),
        format!("add a secret with `path: {path}`"),
    )
}

/// NX112: nothing in the system names the path of a secret. `missing` are paths that nothing gives.
#[must_use]
pub fn unused<'a>(path: &str, missing: impl Iterator<Item = &'a str>) -> Finding {
    let near = near::near(path, missing);
    let question = near::did_you_mean(&near).map_or(String::new(), |question| format!("; {question}"));
    warn(
        "NX112",
        format!("nothing in the system names {path}{question}"),
        "is it a typing mistake? if something reads it, say what: `used_by: OPTION`".to_owned(),
    )
}

/// True if the system names the path, or a program is known to look there by itself.
#[must_use]
pub fn is_named(closure: &Closure, path: &str) -> bool {
    let is_in_home = path.strip_prefix("/home/").is_some_and(|rest| rest.contains("/.ssh/"));
    let wants = &closure.wants;
    is_in_home
        || UNTOLD.iter().any(|place| path.starts_with(place))
        || wants.named.contains(path)
        || wants.list.iter().any(|want| want.path == path)
        || wants.patterns.iter().any(|pattern| fits(pattern, path))
}

/// True for a pattern with `*` at its end or before a suffix, such as `/etc/secrets/*.env`.
fn fits(pattern: &str, path: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else { return false };
    let rest = path.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    rest.is_some_and(|rest| !rest.contains('/'))
}

/// NX114: other systems of the image want other files, or have them elsewhere. `more`: the number of those that were
/// not compared.
#[must_use]
pub fn other_systems(closure: &Closure, others: &[Closure], more: usize) -> Option<Finding> {
    let paths = |closure: &Closure| -> BTreeSet<String> {
        closure.wants.list.iter().filter(|want| !want.optional).map(|want| want.path.clone()).collect()
    };
    let ours = paths(closure);
    let mut differences = BTreeMap::new();
    for other in others {
        let theirs = paths(other);
        let elsewhere = other.etc != closure.etc || other.mounts != closure.mounts;
        let different: Vec<&str> = ours.symmetric_difference(&theirs).map(String::as_str).collect();
        let what = match (different.first(), elsewhere) {
            (Some(path), _) if different.len() > 1 => format!("{path} and {} more", different.len().saturating_sub(1)),
            (Some(path), _) => (*path).to_owned(),
            (None, true) => "where its files lie".to_owned(),
            (None, false) => continue,
        };
        let generation = other.generation.map_or(String::new(), |number| format!(", generation {number}"));
        differences.insert(other.toplevel.clone(), format!("{}{generation} ({what})", other.name));
    }
    if differences.is_empty() && more == 0 {
        return None;
    }
    let mut shown: Vec<String> = differences.values().take(MOST_SHOWN).cloned().collect();
    let left = differences.len().saturating_sub(MOST_SHOWN).saturating_add(more);
    if left > 0 {
        shown.push(format!("{left} more"));
    }
    Some(warn(
        "NX114",
        format!(
            "the image has systems that differ from {} in the files they read, and only that one was checked: {}",
            closure.name,
            shown.join(", ")
        ),
        "check another one with `--system PATH`, or give all of them the same files".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_the_files_of_its_directory() {
        for (pattern, path, want) in [
            ("/etc/secrets/*.env", "/etc/secrets/a.env", true),
            ("/etc/secrets/*.env", "/etc/secrets/a/b.env", false),
            ("/etc/secrets/*.env", "/etc/secrets/a", false),
            ("/etc/secrets/a", "/etc/secrets/a", false),
        ] {
            assert_eq!(fits(pattern, path), want, "{pattern} {path}");
        }
    }
}
